"""What is planned for a host, what is said of what it lacks, and the verb."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mmuwitness.trace.record import tracefs as record_tracefs
from mmuwitness.trace.record.host import Host
from mmuwitness.trace.record.how import how_text
from mmuwitness.trace.record.plan import BY_HAND, EVENTS, OF_CHOSEN, Plan, make_plan
from mmuwitness.trace.record.tracefs import RecordError
from mmuwitness.trace.tracepoints import TRACEPOINT
from tests.trace.fake_host import fake_host, fake_tracefs, tracefs_of


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return fake_host(fake_tracefs(tmp_path / "tracefs"), tmp_path / "proc")


def lacking(path: Path, *, events: bool = True, lacks: str = "") -> Plan:
    tracefs = fake_tracefs(path / "tracefs")
    host = fake_host(tracefs, path / "proc")
    if lacks == "kprobes":
        (tracefs.root / "kprobe_events").unlink()
    if lacks == "arguments":
        (tracefs.root / "README").write_text("p[:[<group>/][<event>]] <place> [<args>]")
    if lacks == "types":
        (path / "proc/vmlinux").unlink()
    if lacks == "symbols":
        (path / "proc/kallsyms").unlink()
    if not events:
        for each in (tracefs.root / "events").iterdir():
            if each.is_dir() and each.name != "migrate":
                subprocess.run(["rm", "-r", str(each)], check=True)
    return make_plan(host, "1", "full", None)


@pytest.mark.parametrize(
    ("lacks", "why"),
    [
        ("kprobes", "this kernel has no kprobe events (CONFIG_KPROBE_EVENTS)"),
        ("arguments", "this kernel cannot fetch arguments by number"),
        ("types", "this kernel does not tell its types"),
        ("symbols", "kallsyms: No such file or directory: no function is known to probe"),
    ],
)
def test_what_the_kernel_lacks_is_said_and_the_rest_recorded(
    tmp_path: Path, lacks: str, why: str
) -> None:
    plan = lacking(tmp_path, lacks=lacks)
    assert plan.probes == ()
    assert "kvm/kvm_unmap_hva_range" in plan.events
    assert any(why in note for note in plan.notes)


def test_without_kvm_it_says_what_will_not_be_known(tmp_path: Path) -> None:
    plan = lacking(tmp_path, events=False)
    assert all(path.startswith("migrate/") for path in plan.events)
    assert (
        "this kernel has no event kvm/kvm_unmap_hva_range: who invalidates guest memory will not "
        "be known"
    ) in plan.notes
    assert any("modprobe kvm" in note for note in plan.notes)


def test_the_audit_can_read_every_event_that_is_recorded() -> None:
    names = {row.path.partition("/")[2] for row in EVENTS + OF_CHOSEN}
    assert {name for name in names if not name.startswith("sys_")} <= set(TRACEPOINT)


def test_how_prints_the_same_steps(host: Host, tmp_path: Path) -> None:
    plan = make_plan(host, BY_HAND, "full", 100)
    lines = how_text(host, plan, tmp_path / "a.txt").splitlines()
    for step in [*plan.steps(), plan.last_step]:
        assert step.shell() in lines
    assert f"cd {tracefs_of(host).root}" in lines
    command = re.search(r"trace-cmd record \\\n(?:.*\\\n)*.*", "\n".join(lines))
    assert command
    assert "-e kvm:kvm_unmap_hva_range -R stacktrace" in command[0]
    assert "-P 105" in command[0]
    assert "-e mmuwitness_by_hand" in command[0]
    assert tracefs_of(host).names("instances") == []


def test_the_printed_shell_lines_work(host: Host, tmp_path: Path) -> None:
    """Run by a shell on plain files: all are there, and each says in the end what was written."""
    tracefs = tracefs_of(host)
    plan = make_plan(host, BY_HAND, "stock", None)
    tracefs.make(plan.instance)
    text = how_text(host, plan, tmp_path / "a.txt")
    shell = text[text.index("cd ") : text.index("\n\n# Or with")]
    wanted = [line for line in shell.splitlines() if " >> " in line or line.startswith("cd")]
    assert len(wanted) > len(plan.events)
    subprocess.run(["sh", "-e", "-c", "\n".join(wanted)], check=True)
    for path in plan.events:
        assert (tracefs.root / plan.instance / f"events/{path}/enable").read_text() == "01\n"


def test_without_root_the_events_are_known_from_types(tmp_path: Path) -> None:
    host = fake_host(None, tmp_path)
    plan = make_plan(host, BY_HAND, "full", None)
    assert plan.clock == "mono"
    assert [line.event for line in plan.probes][:2] == ["hva_to_pfn", "hva_to_pfn_ret"]
    assert plan.events == ()  # the types of this kernel have no tracepoints


def test_tracefs_is_found_where_it_is_mounted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts, where = tmp_path / "mounts", tmp_path / "a place"
    monkeypatch.setattr(record_tracefs, "MOUNTS", mounts)
    mounts.write_text("proc /proc proc rw 0 0\n")
    assert record_tracefs.readable_tracefs() is None
    escaped = str(where).replace(" ", "\\040")
    mounts.write_text(f"proc /proc proc rw 0 0\nnone {escaped} tracefs rw 0 0\n")
    with pytest.raises(RecordError, match=r"a place: (recording needs root|tracefs cannot be)"):
        record_tracefs.mounted_tracefs().__enter__()
    where.mkdir()
    (where / "README").write_text("")
    with record_tracefs.mounted_tracefs() as (tracefs, notes):
        assert (tracefs.root, notes) == (where, [])


def command_line(*arguments: str) -> Any:
    import typer

    from mmuwitness.cli.record import record as verb

    app = typer.Typer()
    app.command()(verb)
    return CliRunner().invoke(app, list(arguments))


@pytest.fixture
def on_this_host(host: Host, monkeypatch: pytest.MonkeyPatch) -> Host:
    """The verb finds the fake host."""
    from contextlib import nullcontext

    from mmuwitness.trace.record import host as record_host

    found: Callable[[Any], Host] = lambda tracefs: host  # noqa: E731
    monkeypatch.setattr(record_host, "this_host", found)
    monkeypatch.setattr(record_tracefs, "readable_tracefs", lambda: host.tracefs)
    monkeypatch.setattr(
        record_tracefs, "mounted_tracefs", lambda: nullcontext((host.tracefs, ["mounted"]))
    )
    return host


def test_the_verb_says_what_was_recorded(on_this_host: Host, tmp_path: Path) -> None:
    done = command_line("--out", str(tmp_path / "a.txt"), "--", "sh", "-c", "exit 3")
    assert done.exit_code == 3  # events were lost
    assert "5 events and 1 stacks" in done.output
    assert "2  kvm_exit" in done.output
    assert "lost: 6 events" in done.output
    assert "the command failed: exit 3" in done.output
    assert f"next: mmuwitness audit {tmp_path}/a.txt" in done.output
    tracefs_of(on_this_host).stats = ("", "")
    assert command_line("--out", str(tmp_path / "b.txt"), "--", "false").exit_code == 1
    assert command_line("--out", str(tmp_path / "c.txt"), "--", "true").exit_code == 0


def test_the_verb_cleans_and_explains(on_this_host: Host) -> None:
    assert "nothing was left" in command_line("--clean").output
    assert "mkdir instances/mmuwitness-by_hand" in command_line("--how").output
    wrong = command_line("--probes", "ful", "--how")
    assert "did you mean full?" in str(wrong.exception)

"""`perf script`, as perf 6.1 prints it: call chains, probes, periods, headers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.trace.printed import only, read, rows, written

CHAIN = """\
# ========
# hostname : vm
# os release : 6.18.44
# ========
#
vmm 12275 [000] 12365.212616:         sched:sched_switch: prev_comm=vmm prev_pid=12275 prev_prio=120
\tffffffff821f7f58 __schedule+0x618 ([kernel.kallsyms])
\tffffffff821f88c3 schedule.isra.0+0x23 ([kernel.kallsyms])
\tffffffffc04f88c3 [unknown] ([kvm])
\t           ee137 sched_setaffinity@@GLIBC_2.3.4+0x7 (/usr/lib/x86_64-linux-gnu/libc.so.6)
\t          146f7c [unknown] (/usr/bin/vmm)

migration/0    18 [001] 12365.214612:         kvm:kvm_set_spte_hva: mmu notifier set pte hva: 0x1000
\tffff800008a1f7f4 notify+0x4 ([kernel.kallsyms])

vmm 12275 [001] 12365.214721: exceptions:page_fault_user: address=0x7f48 ip=0x5640 error_code=0x7
"""
PROBED = "vmm  7 [001] 5.000001: probe:{}: {}\n"


def test_call_chains_are_stacks_of_the_kernel(tmp_path: Path) -> None:
    trace = written(tmp_path / "perf.txt", CHAIN)
    switch, hook, fault = rows(trace)
    assert switch["stack"] == ["__schedule", "schedule", "0xffffffffc04f88c3"]
    assert hook["stack"] == ["notify"]
    assert fault["stack"] is None
    assert [row["event"] for row in (switch, hook, fault)] == [
        "sched_switch",
        "kvm_set_spte_hva",
        "page_fault_user",
    ]
    assert switch["fields"] == {"prev_comm": "vmm", "prev_pid": 12275, "prev_prio": 120}
    assert hook["fields"] == {"hva": 0x1000}
    assert fault["fields"] == {"address": 0x7F48, "ip": 0x5640, "error_code": 7}
    assert (hook["task"], hook["pid"], hook["cpu"]) == ("migration/0", 18, 1)
    assert [row["place"] for row in (switch, hook, fault)] == [6, 13, 16]
    assert (trace.format, trace.release, trace.notes) == ("perf script", "6.18.44", [])
    assert trace.complete


@pytest.mark.parametrize(
    ("event", "payload", "fields"),
    [
        ("wp_page", "(ffffffff812bc680) mm=0x10", {"function": "wp_page", "mm": 16}),
        (
            "wp_page__return",
            "(ffffffff812bc680 <- ffffffff812c210b) ret=0x8",
            {"function": "wp_page", "caller": "0xffffffff812c210b", "ret": 8},
        ),
        ("wp_page_1", "(ffffffff812bc680)", {"function": "wp_page"}),  # a second probe on it
    ],
)
def test_probes_are_named_after_their_functions(
    tmp_path: Path, event: str, payload: str, fields: dict[str, int | str]
) -> None:
    row = only(tmp_path / "perf.txt", PROBED.format(event, payload))
    assert (row["event"], row["fields"]) == (event, fields)


def test_a_period_is_no_name(tmp_path: Path) -> None:
    line = "vmm 7 [001] 5.000001:          1 kvm:kvm_entry:      vcpu 0, rip 0x10\n"
    assert only(tmp_path / "perf.txt", line)["fields"] == {"vcpu_id": 0, "rip": 16}


def test_system_calls_are_called_as_elsewhere(tmp_path: Path) -> None:
    text = "vmm 7/8 [001] 5.0: syscalls:sys_enter_munmap: addr: 0x7ff0, len: 0x000b4000\n"
    text += "vmm 7/8 [001] 5.1: syscalls:sys_exit_munmap: 0xfffffffffffffff2\n"
    enter, leave = read(tmp_path / "perf.txt", text)
    assert (enter["event"], enter["fields"]) == (
        "sys_enter_munmap",
        {"addr": 0x7FF0, "len": 0xB4000},
    )
    assert (leave["event"], leave["fields"], leave["pid"]) == ("sys_exit_munmap", {"ret": -14}, 8)

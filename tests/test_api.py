"""The API: the verbs from Python, what their results say, and that importing it costs nothing."""

from __future__ import annotations

import inspect
import json
import linecache
import os
import re
import subprocess
import sys
import types
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import mmuwitness
from mmuwitness import CheckResult, VerdictResult, check, check_variant, verdict
from mmuwitness.cli import model
from mmuwitness.explore.schedule_id import format_schedule
from mmuwitness.model.claims import CLAIMS, everywhere
from mmuwitness.model.mm.mm_types import Pte
from mmuwitness.model.primitives import spin_lock, write_lock
from mmuwitness.model.scenarios import find_scenario
from mmuwitness.model.scenarios.scenario import Actor, Scenario, mm_actor
from tests.test_cli import run, settled

DOCUMENT = Path(__file__).parents[1] / "docs" / "api.md"
VIOLATED = ("cow_smp", "v2.6.32", "x86-shadow")
"""Has one violated claim, no_lost_write, on known grounds (tests/explore/pinned.toml)."""


@pytest.fixture(scope="module")
def violated() -> CheckResult:
    scenario, era, arch = VIOLATED
    return check(scenario, era=era, arch=arch)


@pytest.fixture(scope="module")
def cut_short() -> CheckResult:
    return check("migrate", era="v6.9", memory_mib=1)


@pytest.fixture(scope="module")
def at_v6_1() -> VerdictResult:
    return verdict("change_pte", eras="v6.1", arches=["x86-tdp", "arm64", "s390"])


# Results of check


def test_what_holds() -> None:
    result = check("uprobe_one", era="v6.1", claims=["I1", "changes"])
    assert result.holds and result.complete and result.exit_code == 0
    assert result.verdicts == {"coherent": "holds", "changes": "never reached"}
    assert (result.violated, result.reached, result.deadlock) == ({}, {}, None)
    assert result.bounds == find_scenario("uprobe_one").bounds
    assert result.states == json.loads(result.to_json())["states"] > 1
    assert repr(result) == "<uprobe_one on x86-tdp, v6.1: every claim holds>"


def test_what_is_violated(violated: CheckResult) -> None:
    assert not violated.holds and violated.complete and violated.exit_code == 1
    assert list(violated.violated) == ["no_lost_write"]
    assert set(violated.reached) == {"zaps", "flushes"}
    assert list(violated.verdicts) == [n for n, c in CLAIMS.items() if c.where is everywhere]


def test_a_schedule_is_the_one_that_the_verb_prints(violated: CheckResult) -> None:
    schedule = violated.violated["no_lost_write"]
    drawn = violated.timeline("no_lost_write")
    assert drawn.splitlines()[-1] == f"Replay: mmuwitness replay {format_schedule(schedule)}"
    assert drawn == violated.timeline(CLAIMS["no_lost_write"].number)
    assert drawn == run(f"replay {format_schedule(schedule)}").out.rstrip("\n")


def test_what_is_not_complete_does_not_hold(cut_short: CheckResult) -> None:
    assert not cut_short.holds and not cut_short.complete and cut_short.exit_code == 3
    assert cut_short.violated == {} and "undecided" in cut_short.verdicts.values()
    assert "holds" not in cut_short.verdicts.values()


def test_a_deadlock_has_a_timeline() -> None:
    result = check(crossed_locks(), claims="coherent")
    assert result.deadlock is not None and not result.holds and result.violated == {}
    drawn = result.timeline("deadlock")
    waits = drawn.partition("Who waits for whom:")[2].splitlines()
    first, second = (f.__name__ for f in (take_ptl_first, take_ptl_last))
    assert [line.strip() for line in waits if "waits for" in line] == [
        f"{first} waits for kvm.mmu_lock, held by {second}",
        f"{second} waits for mm.ptl, held by {first}",
    ]
    assert {len(result.deadlock.steps)} == {len(re.findall(r"^ {0,3}\d+ ", drawn, re.MULTILINE))}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"scenario": "kms"}, "unknown scenario 'kms': did you mean ksm? there are ksm, "),
        ({"era": "v16.1"}, "unknown era 'v16.1': did you mean v6.1"),
        ({"arch": "arm46"}, "unknown arch 'arm46': did you mean arm64? there are x86-tdp, "),
        ({"claims": "coherence"}, "unknown claim 'coherence': did you mean coherent? "),
        ({"features": ["+kms"]}, "unknown feature 'kms': did you mean ksm?"),
        ({"features": "ksm"}, "'ksm' changes nothing: write +ksm or -ksm"),
        ({"steps": "some"}, "'some': there are merged, every"),
        ({"arch": "s390", "era": "v6.1"}, "s390 has no MMU notifier in v6.1's KVM"),
    ],
)
def test_a_name_that_nothing_has(arguments: dict[str, str], says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        check(**{"scenario": "ksm", **arguments})


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("coherent", r"no timeline of coherent \(holds\): there are no_lost_write, "),
        ("deadlock", r"no timeline of deadlock \(there is none\): there are no_lost_write, "),
        ("coherence", "unknown claim 'coherence': did you mean coherent"),
    ],
)
def test_what_cannot_be_drawn(violated: CheckResult, name: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        violated.timeline(name)


# A scenario of one's own


def clear_quietly(mm):
    """Clears a PTE; no subscriber hears of it."""
    with spin_lock(mm.ptl):
        mm.pte[0] = Pte()


def take_ptl_last(mm, kvm):
    with write_lock(kvm.mmu_lock):  # noqa: SIM117 -- the language has one lock in a `with`
        with spin_lock(mm.ptl):
            pass


def take_ptl_first(mm, kvm):
    with spin_lock(mm.ptl):  # noqa: SIM117
        with write_lock(kvm.mmu_lock):
            pass


def crossed_locks() -> Scenario:
    """Two tasks that take two locks in opposite orders."""
    tasks = (take_ptl_first, take_ptl_last)
    actors = lambda host: [Actor(f.__name__, f, (host.mm, host.kvm)) for f in tasks]  # noqa: E731
    return replace(find_scenario("uprobe_one"), name="crossed", actors=actors)


def quiet() -> Scenario:
    """Under the name of one that comes with the model: its timeline has to be its own."""
    return replace(find_scenario("uprobe_one"), actors=mm_actor("quiet", clear_quietly))


def test_a_scenario_of_ones_own_is_checked_and_drawn() -> None:
    result = check(quiet(), era="v6.1")
    assert result.verdicts["coherent"] == "violated"
    drawn = result.timeline("coherent")
    assert "clear_quietly()  test_api.py:" in drawn and "mm.pte[0]: " in drawn


def test_replay_is_not_promised_for_what_it_does_not_know() -> None:
    result = check(quiet(), era="v6.1")
    assert "mmuwitness replay" not in result.text() + result.timeline("coherent") + result.junit()


# One implementation


@pytest.mark.parametrize("form", ["", " --json"])
def test_the_verb_check_prints_what_the_result_says(violated: CheckResult, form: str) -> None:
    scenario, era, arch = VIOLATED
    done = run(f"check {scenario} --era {era} --arch {arch}{form}")
    said = violated.to_json() if form else violated.text()
    assert settled(done.out) == settled(said) + "\n"
    assert done.code == violated.exit_code


@pytest.mark.parametrize("form", ["", " -v", " --json"])
def test_the_verb_verdict_prints_what_the_result_says(at_v6_1: VerdictResult, form: str) -> None:
    arches = "--arch x86-tdp --arch arm64 --arch s390"
    done = run(f"verdict change_pte --era v6.1 {arches}{form}")
    said = at_v6_1.to_json() if form == " --json" else at_v6_1.text(witnesses=form == " -v")
    assert done.out == said + "\n" and done.code == at_v6_1.exit_code


def test_verb_and_function_have_the_same_defaults() -> None:
    verb = inspect.signature(model.check).parameters
    function = inspect.signature(check).parameters
    of_variant = inspect.signature(check_variant).parameters
    for option, argument in (("memory", "memory_mib"), *((n, n) for n in SHARED)):
        assert verb[option].default == function[argument].default
    of_both = [name for name in function if name != "scenario"]
    assert [of_variant[name] for name in of_both] == [function[name] for name in of_both]


SHARED = ("era", "arch", "steps", "threads", "liveness", "reduce")


# verdict


def test_verdict(at_v6_1: VerdictResult) -> None:
    assert at_v6_1.complete and at_v6_1.exit_code == 0
    assert at_v6_1.answer == "Yes: on arm64 (v6.1).  Does nothing on x86-tdp."
    assert at_v6_1.cell("arm64", "6.1").effects == ("installs_read_only",)
    assert at_v6_1.cell("x86-tdp", "v6.1").effects == ()
    assert at_v6_1.cell("s390", "v6.1").absent
    drawn = at_v6_1.timeline("arm64", "v6.1", "installs_read_only")
    assert "** change_pte" in drawn


def test_a_changed_kernel_is_found_by_its_release() -> None:
    changed = verdict(eras=["v6.1"], arches="x86-tdp", features=["-change_pte_bracketed"])
    assert changed.cell("x86-tdp", "v6.1").era == "v6.1 -change_pte_bracketed"
    assert "warns" in changed.cell("x86-tdp", "v6.1").effects


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"question": "change_spte"}, "unknown question 'change_spte': did you mean change_pte"),
        ({"arches": "arm"}, "unknown arch 'arm': did you mean arm64?"),
        ({"eras": ["v9"]}, "unknown era 'v9': did you mean v6.9"),
        ({"features": "-ksm"}, "features change a kernel: say which with eras"),
    ],
)
def test_verdict_of_a_name_that_nothing_has(arguments: Any, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        verdict(**arguments)


@pytest.mark.parametrize(
    ("place", "says"),
    [
        (("mips", "v6.1", "zaps"), "unknown arch 'mips': there are x86-tdp, arm64, s390"),
        (("arm64", "v6.2", "zaps"), "unknown era 'v6.2': did you mean v6.1? there are v6.1"),
        (("arm64", "v6.1", "zaps"), "no effect 'zaps' on arm64, v6.1: there are installs_read_"),
        (("s390", "v6.1", "zaps"), "no effect 'zaps' on s390, v6.1: it has none"),
    ],
)
def test_a_place_that_was_not_asked_for(
    at_v6_1: VerdictResult, place: tuple[str, str, str], says: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        at_v6_1.timeline(*place)


# HTML, for notebooks


class Balanced(HTMLParser):
    """Every element is closed where it should be; what a reader sees."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: dict[str, list[str]] = {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.open.append(tag)
        self.seen.setdefault(tag, []).append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.seen[self.open[-1]][-1] += data


def test_a_result_shows_itself_in_a_notebook(violated: CheckResult) -> None:
    seen = Balanced(violated._repr_html_()).seen
    cells = [seen["td"][at : at + 4] for at in range(0, len(seen["td"]), 4)]
    assert {name: said for _, name, said, _ in cells} == violated.verdicts
    assert seen["pre"] == [violated.timeline("no_lost_write")]  # `->` has been escaped and back
    assert "no_lost_write" in seen["b"][0] and violated.bounds in seen["p"][-1]


def test_a_notebook_shows_names_as_they_are() -> None:
    result = check(replace(quiet(), name="<quiet> & co"), era="v6.1", claims="coherent")
    assert Balanced(result._repr_html_()).seen["b"] == [repr(result)[1:-1]]
    assert ET.fromstring(result.junit())[0].attrib["name"] == "<quiet> & co on x86-tdp, v6.1"


def test_a_verdict_shows_itself_in_a_notebook(at_v6_1: VerdictResult) -> None:
    seen = Balanced(at_v6_1._repr_html_()).seen
    assert seen["b"] == [at_v6_1.answer] and seen["td"][::4] == ["x86-tdp", "arm64", "s390"]
    assert seen["p"][-1].startswith("Complete: ")


# JUnit


def junit_cases(text: str) -> dict[str, ET.Element]:
    """The test cases by name; the file has the form that readers of JUnit files know."""
    root = ET.fromstring(text)
    (suite,) = root
    cases = list(suite.iter("testcase"))
    assert (root.tag, suite.tag) == ("testsuites", "testsuite")
    assert [each.tag for each in suite] == ["properties", *("testcase" for _ in cases)]
    for attribute, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        assert int(suite.attrib[attribute]) == len(list(suite.iter(tag)))
    assert int(suite.attrib["tests"]) == len(cases) and float(suite.attrib["time"]) >= 0
    for case in cases:
        assert {"name", "classname", "time"} == set(case.attrib)
        assert [e.tag for e in case] in ([], ["system-out"], ["failure"], ["error"])
        assert all({"message", "type"} == set(e.attrib) for e in case if e.tag != "system-out")
    return {case.attrib["name"]: case for case in cases}


def with_a(tag: str, cases: dict[str, ET.Element]) -> set[str]:
    return {name for name, case in cases.items() if case.find(tag) is not None}


def test_failures_are_the_violated_claims(violated: CheckResult) -> None:
    cases = junit_cases(violated.junit())
    asked = {name for name, claim in CLAIMS.items() if claim.where is everywhere}
    assert set(cases) == {*asked, "no deadlock"}
    assert with_a("failure", cases) == {"no_lost_write"} and with_a("error", cases) == set()
    failure = cases["no_lost_write"].find("failure")
    assert failure.attrib["message"] == CLAIMS["no_lost_write"].text
    assert failure.text == violated.timeline("no_lost_write")
    assert cases["zaps"].findtext("system-out") == "reached"


def test_what_is_undecided_is_an_error(cut_short: CheckResult) -> None:
    cases = junit_cases(cut_short.junit())
    undecided = {name for name, said in cut_short.verdicts.items() if said == "undecided"}
    assert with_a("error", cases) == {*undecided, "no deadlock"}
    assert with_a("failure", cases) == set()
    assert "the memory limit was reached" in (cases["coherent"].findtext("error") or "")


def test_a_deadlock_is_a_failure() -> None:
    result = check(crossed_locks(), claims="coherent")
    cases = junit_cases(result.junit())
    assert with_a("failure", cases) == {"no deadlock"}
    assert cases["no deadlock"].findtext("failure") == result.timeline("deadlock")


@pytest.mark.parametrize(
    "command",
    [
        "check uprobe_one --claim I1",
        "check cow_smp --era v2.6.32 --arch x86-shadow",
        "check cow_smp --era v2.6.32 --arch x86-shadow --json",
        "check migrate --era v6.9 --memory 1",
    ],
)
def test_junit_changes_neither_what_is_printed_nor_the_exit_code(
    command: str, tmp_path: Path
) -> None:
    plain, path = run(command), tmp_path / "found.xml"
    done = run(f"{command} --junit {path}")
    assert (done.code, settled(done.out)) == (plain.code, settled(plain.out))
    cases = junit_cases(path.read_text(encoding="utf-8"))
    assert done.code == (1 if with_a("failure", cases) else 3 if with_a("error", cases) else 0)


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("nowhere/found.xml", "--junit nowhere/found.xml: no directory nowhere: make it, or"),
        ("/dev/full", "--junit /dev/full: cannot be written: No space left on device"),
        (".", "is a directory"),
    ],
)
def test_junit_that_cannot_be_written(path: str, says: str) -> None:
    done = run(f"check uprobe_one --junit {path}")
    assert (done.code, done.out) == (2, "") and says in done.message


# The package


def test_importing_the_package_loads_nothing_else() -> None:
    code = "import mmuwitness, sys; dir(mmuwitness); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ}
    )
    loaded = set(done.stdout.split())
    assert not loaded & {"numba", "numpy", "llvmlite", "typer"}
    assert {name for name in loaded if name.startswith("mmuwitness")} == {"mmuwitness"}


def test_the_package_has_what_it_says() -> None:
    assert all(hasattr(mmuwitness, name) for name in mmuwitness.__all__)
    assert set(mmuwitness.__all__) <= set(dir(mmuwitness))
    assert mmuwitness.Scenario is Scenario
    with pytest.raises(AttributeError, match="module 'mmuwitness' has no attribute 'chekc'"):
        _ = mmuwitness.chekc


# The document


def documented() -> list[tuple[str, str]]:
    """Each ```python block of docs/api.md, with what it says that the block prints."""
    text = DOCUMENT.read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```\n\nprints\n\n```\n(.*?)```\n", text, re.DOTALL)


def test_the_document_prints_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = documented()
    assert len(blocks) == DOCUMENT.read_text(encoding="utf-8").count("```python") > 0
    cells = types.ModuleType("cells")
    for number, (code, expected) in enumerate(blocks):
        name = f"<cell {number}>"  # as a notebook does it: the source of a cell can be looked up
        linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)
        exec(compile(code, name, "exec"), vars(cells))
        printed = capsys.readouterr().out
        pattern = re.escape(expected).replace(re.escape("[...]\n"), "(?:.*\n)*")
        assert re.fullmatch(pattern.replace(re.escape("[...]"), ".*"), printed), printed

"""The name of a schedule is short, and says all that is needed to run it again."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmuwitness.explore.explorer import Schedule, explore
from mmuwitness.explore.programs import Folding
from mmuwitness.explore.schedule_id import BadSchedule, format_schedule, parse_schedule
from mmuwitness.model.era import RELEASES, Era, UnknownName
from mmuwitness.model.features import FEATURES
from mmuwitness.model.host import ARCHES
from mmuwitness.model.kvm.kvm_main import FLUSHES, INSTALLS_READ_ONLY
from mmuwitness.model.scenarios import SCENARIOS, find_scenario
from mmuwitness.report.witness import steps_of

changes = st.lists(
    st.tuples(st.sampled_from("+-"), st.sampled_from([row.name for row in FEATURES])).map("".join),
    max_size=3,
)
eras = st.tuples(st.sampled_from(RELEASES), changes).map(lambda e: str(Era(e[0], tuple(e[1]))))
foldings = st.builds(Folding, st.booleans(), st.booleans(), liveness=st.booleans())
schedules = st.builds(
    Schedule,
    st.sampled_from(list(SCENARIOS)),
    eras,
    st.sampled_from(list(ARCHES)),
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 25)), max_size=30).map(tuple),
    foldings,
)


@given(schedules)
def test_a_schedule_survives_its_name(schedule: Schedule) -> None:
    name = format_schedule(schedule)
    assert parse_schedule(name) == schedule
    assert re.fullmatch(r"[\w./,:+~-]+", name), "it can be pasted into a shell as it is"


@given(schedules)
def test_a_name_is_written_in_one_way(schedule: Schedule) -> None:
    assert format_schedule(parse_schedule(format_schedule(schedule))) == format_schedule(schedule)


@given(st.text(max_size=40) | st.from_regex(r"[a-z_]+/v[0-9.]+/[a-z0-9:]*/[0-9a-zx.]*"))
def test_anything_else_is_no_schedule_or_a_readable_one(text: str) -> None:
    try:
        schedule = parse_schedule(text)
    except BadSchedule as error:
        assert str(error)
    else:
        assert parse_schedule(format_schedule(schedule)) == schedule


def test_names() -> None:
    steps = ((1, 0), (0, 1), (1, 0), (1, 0), (1, 0), (2, 25))
    schedule = Schedule("ksm", "v6.1", "arm64", steps)
    assert format_schedule(schedule) == "ksm/v6.1/arm64/1.0b.1x3.2z"
    changed = Schedule("ksm", "v6.1 -ksm +uprobes", "arm64", ((0, 2),), Folding(claims=False))
    assert format_schedule(changed) == "ksm/v6.1,-ksm,+uprobes/arm64:marks/0c"
    every = Schedule("ksm", "v2.6.32", "x86-shadow", (), Folding(every=True))
    assert format_schedule(every) == "ksm/v2.6.32/x86-shadow:every/"
    assert parse_schedule(" ksm/v6.1/arm64/1.0b.1x3.2z\n") == schedule


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is not SCENARIO/KERNEL/ARCH/STEPS"),
        ("ksm/v6.1/arm64", "is not SCENARIO/KERNEL/ARCH/STEPS"),
        ("ksm/v6.1/arm64/1.0/2", "is not SCENARIO/KERNEL/ARCH/STEPS"),
        ("ksm/v6.1/arm64/1.0b.x3", "'x3' is no step"),
        ("ksm/v6.1/arm64/1.0a", "'0a' is no step"),  # no letter is choice 0
        ("ksm/v6.1/arm64/1.B", "'B' is no step"),
        ("ksm/v6.1/arm64/1 0", "'1 0' is no step"),
        ("ksm/v6.1/arm64/-1", "'-1' is no step"),
        ("ksm/v6.1/arm64:claims/1", "'claims' is no way to fold: marks, every, any, liveness"),
        ("ksm/v6.1/arm64:every:every/1", "'every' is no way to fold"),
        ("ksm/v6.1/arm64:liveness/1~", "a loop without steps"),
        ("ksm/v6.1/arm64:liveness/1~2~3", "'2~3' is no step"),
    ],
)
def test_what_is_wrong_is_said(text: str, says: str) -> None:
    with pytest.raises(BadSchedule) as caught:
        parse_schedule(text)
    assert says in str(caught.value)


# A name, and the program that it belongs to


@pytest.mark.parametrize("folding", [Folding(), Folding(claims=False), Folding(every=True)])
def test_a_discovery_is_found_again_by_its_name(folding: Folding) -> None:
    found = explore(find_scenario("unmerge"), Era("v6.1"), "arm64", folding=folding)
    name = format_schedule(found.schedule_to_mark(INSTALLS_READ_ONLY))
    _, steps = steps_of(parse_schedule(name))
    assert INSTALLS_READ_ONLY in steps[-1].marks
    assert all(INSTALLS_READ_ONLY not in step.marks for step in steps[:-1])


def test_steps_of_one_folding_are_none_of_another() -> None:
    found = explore(find_scenario("unmerge"), Era("v6.1"), "arm64", folding=Folding(claims=False))
    name = format_schedule(found.schedule_to_mark(INSTALLS_READ_ONLY))
    assert ":marks/" in name
    with_claims = parse_schedule(name.replace(":marks", ""))
    try:
        _, steps = steps_of(with_claims)
    except BadSchedule as error:
        assert "not a schedule of this model: step" in str(error)
    else:  # the steps can be taken, and lead elsewhere
        assert INSTALLS_READ_ONLY not in steps[-1].marks


def test_a_schedule_of_another_kernel_is_refused_or_goes_elsewhere() -> None:
    found = explore(find_scenario("unmerge"), Era("v3.6"), "x86-shadow")
    name = format_schedule(found.schedule_to_mark(FLUSHES))
    for other in (name.replace("v3.6", "v6.1"), name.replace("x86-shadow", "powerpc-hpt")):
        try:
            _, steps = steps_of(parse_schedule(other))
        except BadSchedule as error:
            assert "not a schedule of this model: step" in str(error)
        else:
            assert FLUSHES not in steps[-1].marks


@pytest.mark.parametrize("steps", ["2", "0z", "1x3.0.7", "0.0.0c.9", "0.0x"])
def test_steps_that_nobody_can_take(steps: str) -> None:
    with pytest.raises(BadSchedule, match=r"step \d+: process \d+ cannot run"):
        steps_of(parse_schedule(f"uprobe_one/v6.1/x86-tdp/{steps}"))


@pytest.mark.parametrize(
    "name",
    [
        "uprobe_one/v6.1/x86/0",
        "uprobe_one/v16/x86-tdp/0",
        "uprobe/v6.1,-x/x86-tdp/0",
        "u/v6.1/mips/",
    ],
)
def test_a_name_of_something_unknown(name: str) -> None:
    with pytest.raises(UnknownName, match="there are"):
        steps_of(parse_schedule(name))

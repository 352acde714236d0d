"""Random small programs: both executors agree, and merging steps changes no verdict.

A failure prints the program.  A longer campaign is the same with seeds of one's own:
`Writer(Random(seed)).program(fuel)`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmuwitness.process.errors import ProcessError
from mmuwitness.process.program import Program, fold
from tests.explore.test_agreement import assert_executors_agree
from tests.process.worlds import Explored, SmallHost, TooLarge, explored, load, verdicts
from tests.properties.agreement import assert_verdicts_agree
from tests.properties.programs import GHOST_CLAIM, Text, Writer

STATES_MAX = 300

KNOWN_NOW = ("this is always", "is outside")
"""What folding may say of a random program: a test or a value turned out to be a constant."""

programs = st.builds(
    lambda rng, fuel: Writer(rng).program(fuel),
    st.one_of(st.randoms(use_true_random=False), st.integers(0, 2**40).map(Random)),
    st.sampled_from([10, 16, 24, 32]),
)


def hosts_of(text: Text, directory: Path) -> Callable[[], SmallHost]:
    """What makes hosts of a program."""
    module = load(directory, text.source)
    return lambda: SmallHost(module, text.claims)


def folded(text: Text, directory: Path) -> tuple[Callable[[], SmallHost], Program, Program] | None:
    """Hosts, the program, and the program of which each shared access is a step."""
    try:
        make = hosts_of(text, directory)
        return make, fold(make()), fold(make(), every=True)
    except ProcessError as error:
        if not any(said in error.message for said in KNOWN_NOW):
            raise
        return None


def small(program: Program, states_max: int) -> Explored | None:
    try:
        return explored(program, states_max)
    except TooLarge:
        return None


def assert_agree(graph: Explored, make: Callable[[], SmallHost]) -> None:
    if not graph.errors:
        found = assert_executors_agree(graph.program, make, STATES_MAX)
        assert found.states == set(graph.found)
    assert_verdicts_agree(graph, make)


@pytest.mark.slow
@settings(max_examples=100)
@given(text=programs)
def test_executors_agree(text: Text, tmp_path_factory: pytest.TempPathFactory) -> None:
    """States, edges, marks, errors, claims and deadlocks of replay and of the lowered program."""
    made = folded(text, tmp_path_factory.mktemp("program"))
    for program in made[1:] if made else ():
        graph = small(program, STATES_MAX)
        if graph is not None and made is not None:
            assert_agree(graph, made[0])


def without_ghosts(graph: Explored) -> tuple[object, ...]:
    """The verdicts but that of the claim about ghost state, which rides along with steps."""
    return tuple(v - {GHOST_CLAIM} if isinstance(v, set) else v for v in verdicts(graph))


@pytest.mark.slow
@settings(max_examples=200)
@given(text=programs)
def test_merging_steps_changes_no_verdict(
    text: Text, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Ends, marks, broken claims, deadlocks: as with each access a step."""
    made = folded(text, tmp_path_factory.mktemp("program"))
    if made is None:
        return
    merged, every = small(made[1], 4000), small(made[2], 20_000)
    if merged is not None and every is not None:
        assert without_ghosts(merged) == without_ghosts(every)


@pytest.mark.slow
def test_the_programs_are_worth_it(tmp_path: Path) -> None:
    """Most can be folded and are small; deadlocks, errors and broken claims are among them."""
    seen = {"small": 0, "deadlock": 0, "violated": 0, "wrong": 0, "marks": 0, "wide": 0}
    for seed in range(100):
        made = folded(Writer(Random(seed)).program(24), tmp_path)
        graph = small(made[1], STATES_MAX) if made else None
        if graph is None:
            continue
        seen["small"] += len(graph.found) > 5
        seen["deadlock"] += graph.deadlock
        seen["violated"] += bool(graph.violated)
        seen["wrong"] += bool(graph.errors)
        seen["marks"] += bool(graph.marks)
        seen["wide"] += graph.program.layout.words > 2
    assert seen["small"] > 60 and min(seen.values()) > 0, seen

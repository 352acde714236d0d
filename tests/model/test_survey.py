"""The survey of mutants: what it says of a few is so, and what survives has its reason."""

from __future__ import annotations

import pytest

from mmuwitness.process.mutate import Mutation
from tests.model.survey import NOT_SAID, judged, list_of_changes, read_reasons

SAMPLE = 97
"""Every so many-th change is put to the test again."""


def survivors() -> set[tuple[str, str]]:
    return {(name, text) for name, rows in read_reasons().items() for text in rows}


def test_every_survivor_is_a_change_of_the_model() -> None:
    """A survivor that is no more has to go from the file: `make survey`."""
    known = {(each.function.__qualname__, each.text) for each in list_of_changes()}
    assert survivors() <= known


def test_every_survivor_has_its_reason() -> None:
    unsaid = [
        (name, text)
        for name, rows in read_reasons().items()
        for text, why in rows.items()
        if why == NOT_SAID
    ]
    assert unsaid == []


@pytest.mark.slow
@pytest.mark.parametrize("change", list_of_changes()[::SAMPLE], ids=lambda each: each.name)
def test_the_survey_says_what_is_so(change: Mutation) -> None:
    found = judged(change)
    survives = bool(found.judgements) and not found.caught and not found.alike
    assert survives == ((change.function.__qualname__, change.text) in survivors())

"""The loops that are called by address take as many arguments as their callers give."""

import inspect

from mmuwitness.trace.dat import core as dat_core
from mmuwitness.trace.dat.columns import COLUMNS, ENTRIES, LAYOUT


def test_arguments_of_the_loops() -> None:
    for name, count in ENTRIES.items():
        assert len(inspect.signature(getattr(dat_core, name).py_func).parameters) == count, name


def test_columns_and_layout_are_numbered_in_order() -> None:
    for names in (COLUMNS, LAYOUT):
        numbers = [getattr(dat_core, name.upper()) for name in names]
        assert numbers == list(range(len(names)))

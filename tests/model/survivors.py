"""Why nobody notices the changes that `make survey` makes and nobody notices: survivors.toml."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

TABLE = Path(__file__).with_name("survivors.toml")


@dataclass(frozen=True)
class Group:
    """Changes that survive for one reason.  kind: the class it belongs to."""

    kind: str
    because: str
    changes: tuple[str, ...]


@cache
def groups() -> tuple[Group, ...]:
    tables = tomllib.loads(TABLE.read_text())
    return tuple(
        Group(kind, each["because"], tuple(each["changes"]))
        for kind, table in tables.items()
        for each in table
    )


@cache
def reasons() -> dict[str, str]:
    """The class of each change, by its name."""
    return {change: group.kind for group in groups() for change in group.changes}

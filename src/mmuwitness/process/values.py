"""What an expression of process code evaluates to while it is folded.

`Const` is known now (an object of the host, a feature, a number); `Dyn` is known only in a run,
and lives in a register; the others name places in the shared state or in the process itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mmuwitness.model.state import Field, Kind, Local
from mmuwitness.process.ir import Context, Operand, Reg


@dataclass(frozen=True)
class Const:
    value: Any


@dataclass(frozen=True, eq=False)
class Dyn:
    reg: Reg
    kind: Kind


@dataclass(frozen=True)
class Place:
    """A field of one struct instance that is not a scalar: an array, a lock, a sequence.

    `of` is the instance's index, or a register with a handle to it: it is followed when the
    place is accessed, in the step of the access.
    """

    field: Field
    of: Operand


@dataclass(frozen=True, eq=False)
class Record:
    """A `Local` record: its fields are registers of the frame that made it.  A field given a
    constant (`given`) and never assigned stands for that constant."""

    cls: type[Local]
    context: Context
    name: str
    constants: dict[str, Any]
    given: dict[str, Any]


@dataclass(frozen=True)
class Bound:
    """A method that the language knows, with what it is called on: bump, snapshot, replace."""

    name: str
    target: Any


@dataclass(frozen=True)
class Many:
    """A tuple of values."""

    items: tuple[Any, ...]


Folded = Const | Dyn | Place | Record | Bound | Many

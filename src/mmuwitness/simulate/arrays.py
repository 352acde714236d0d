"""The state of many pages: every field of every struct is one numpy array.

What `model.host` wires is wired here, too: the same classes, the same constants.  An element is the
coded value of its field less the lowest one, in as few bytes as hold it.  An array is made when
something first asks for it, and zeroed pages of it are nobody's until they are written to.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from mmuwitness.model.state import Field, Lock, OfValue, World
from mmuwitness.model.state import Sequence as SequenceKind

Array = np.ndarray[Any, Any]

FEW = 64
"""Instances of a struct are Python objects up to so many; more are made when they are asked for."""


class Elements:
    """An array field of an instance, as set-up code sees it."""

    def __init__(self, world: ArrayWorld, field: Field, first: int) -> None:
        self.world, self.field, self.first = world, field, first
        self.length = field.length(world.sizes)

    def __getitem__(self, index: int) -> Any:
        return self.world.get(self.field, self.first + self.checked(index))

    def __setitem__(self, index: int, value: Any) -> None:
        self.world.put(self.field, self.first + self.checked(index), value)

    def fill(self, value: Any) -> None:
        code = self.field.kind.encode(value, self.world.sizes) - self.field.kind.lo
        self.world.array(self.field)[self.first : self.first + self.length] = code

    def __len__(self) -> int:
        return self.length

    @property
    def items(self) -> list[Any]:
        return [self[index] for index in range(self.length)]

    def checked(self, index: int) -> int:
        if not 0 <= index < self.length:
            raise IndexError(f"{self.field.key}[{index}]: no such element")
        return index


class Cells:
    """The fields of one instance, by name: what `Struct` keeps in a dict elsewhere."""

    def __init__(self, world: ArrayWorld, cls: type[Any], index: int) -> None:
        self.world, self.cls, self.index = world, cls, index

    def __getitem__(self, name: str) -> Any:
        field = self.cls.fields[name]
        if field.array is not None:
            first = self.index * field.length(self.world.sizes)
            return Elements(self.world, field, first)
        return self.world.get(field, self.index)

    def __setitem__(self, name: str, value: Any) -> None:
        self.world.put(self.cls.fields[name], self.index, value)


class Instances(Sequence[Any]):
    """The instances of a struct: Python objects where they are few, else made when asked for."""

    def __init__(self, world: ArrayWorld, cls: type[Any], count: int, constants: Any) -> None:
        self.world, self.cls, self.size, self.constants = world, cls, count, constants
        self.made = [self.make(index) for index in range(count)] if count <= FEW else []

    def make(self, index: int) -> Any:
        made: Any = object.__new__(self.cls)
        made.world, made.index = self.world, index
        made.cells = Cells(self.world, self.cls, index)
        for name, value in self.constants.items():
            setattr(made, name, value)
        return made

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(self.size))]
        if not -self.size <= index < self.size:
            raise IndexError(index)
        return self.made[index] if self.made else self.make(index % self.size)

    def __len__(self) -> int:
        return self.size


class ArrayWorld(World):
    """A world of arrays; it may have structs of another one among its own (`share`)."""

    def __init__(self, **sizes: int) -> None:
        super().__init__(**sizes)
        self.ghosts = False
        self.arrays: dict[str, Array] = {}
        self.lenders: dict[str, ArrayWorld] = {}

    def add(self, cls: type[Any], count: int = 1, **constants: Any) -> Any:
        if cls.__name__ in self.lenders:
            return self.instances(cls.__name__)
        self.sizes[cls.__name__] = count
        made: Any = Instances(self, cls, count, constants)
        self._instances[cls.__name__] = made
        return made.made or made

    def share(self, lender: ArrayWorld, struct: str) -> Any:
        """The instances of a struct of another world: one guest's pages are the host's."""
        self.sizes[struct] = lender.sizes[struct]
        self._instances[struct] = lender.instances(struct)
        self.lenders[struct] = lender
        return self._instances[struct]

    def constants(self, struct: str, name: str) -> list[Any]:
        made = self._instances[struct]
        return (
            super().constants(struct, name) if len(made) <= FEW else [getattr(made[0], name, None)]
        )

    def fields(self) -> Iterator[tuple[Field, list[Any]]]:
        for made in self._instances.values():
            for field in made.cls.fields.values():  # type: ignore[attr-defined]
                yield field, made

    def array(self, field: Field) -> Array:
        """The elements of a field: of the first instance, then of the next."""
        if field.struct in self.lenders:
            return self.lenders[field.struct].array(field)
        if field.key not in self.arrays:
            count = len(self.instances(field.struct)) * field.length(self.sizes)
            made = np.zeros(count + SPARE, f"u{self.item_bytes(field)}")[:count]
            first = 0
            if not isinstance(field.kind, Lock | SequenceKind):
                first = field.kind.encode(field.kind.default(), self.sizes) - field.kind.lo
            if first:
                made[:] = first
            self.arrays[field.key] = made
        return self.arrays[field.key]

    def item_bytes(self, field: Field) -> int:
        """1, 2, 4 or 8; of PTEs and SPTEs 4 or 8, as the engine reads them."""
        if isinstance(field.kind, SequenceKind):
            return 8
        if isinstance(field.kind, OfValue):
            return 4 if field.kind.width(self.sizes) <= 32 else 8
        bits = LOCK_BITS if isinstance(field.kind, Lock) else field.kind.width(self.sizes)
        return next(size for size in (1, 2, 4, 8) if bits <= 8 * size)

    def get(self, field: Field, element: int) -> Any:
        code = int(self.array(field)[element])
        return field.kind.decode(code + field.kind.lo, self)

    def put(self, field: Field, element: int, value: Any) -> None:
        if self.keeps(field):
            self.array(field)[element] = field.kind.encode(value, self.sizes) - field.kind.lo


SPARE = 4
"""Elements more than there are: the engine may read a word where the last one is."""

LOCK_BITS = 16
"""A lock is one number: 0 free, 1 to WRITER - 1 that many readers, WRITER + n the task n."""

WRITER = 1 << 15

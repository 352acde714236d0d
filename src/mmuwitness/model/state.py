"""How shared state is declared: structs, value structs, arrays, locks and sequences.

A `Struct` class names the shared fields of one kernel object; a `World` holds the fixed set of
instances of every struct.  A `Value` is a frozen struct that fits in one machine word (a PTE, an
SPTE): it is read and written whole, as the hardware does.  Every scalar has a declared range;
storing a value outside of it is an error that names the field, never a corrupted neighbour.

Sizes ("pages", "addresses", ...) may be given by name; the world supplies the numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar


class RangeError(Exception):
    """A value was stored outside the declared range of a field."""


class Kind:
    """The type of one scalar: its values are `lo .. hi` once coded as an integer."""

    lo: int = 0

    def hi(self, sizes: dict[str, int]) -> int:
        raise NotImplementedError(type(self).__name__)

    def encode(self, value: Any, sizes: dict[str, int]) -> int:
        """The integer in `lo .. hi` that stands for `value`; RangeError outside of it."""
        code = int(value)
        if not self.lo <= code <= self.hi(sizes):
            raise RangeError(f"{value} is outside {self.lo}..{self.hi(sizes)}")
        return code

    def decode(self, code: int, world: World) -> Any:
        return code

    def default(self) -> Any:
        return 0

    def width(self, sizes: dict[str, int]) -> int:
        """Bits that hold `hi - lo`."""
        return (self.hi(sizes) - self.lo).bit_length()


def check(kind: Kind, value: Any, sizes: dict[str, int], what: str) -> None:
    """RangeError that begins with `what` if the value is outside the kind's range."""
    try:
        kind.encode(value, sizes)
    except RangeError as error:
        raise RangeError(f"{what}: {error}") from None


class Bool(Kind):
    """True or False.  `size` names a size of the world, 0 or 1: where it is 0 there is no such bit,
    and what would be read of it is False."""

    def __init__(self, size: str = "") -> None:
        self.size = size

    def hi(self, sizes: dict[str, int]) -> int:
        return sizes[self.size] if self.size else 1

    def decode(self, code: int, world: World) -> bool:
        return bool(code)

    def default(self) -> bool:
        return False


class Bounded(Kind):
    """An integer in lo..hi, both included; `hi` may name a size of the world."""

    def __init__(self, lo: int, hi: int | str) -> None:
        if isinstance(hi, int) and hi < lo:
            raise ValueError(f"Bounded({lo}, {hi}) has no values")
        self.lo, self._hi = lo, hi

    def hi(self, sizes: dict[str, int]) -> int:
        return sizes[self._hi] if isinstance(self._hi, str) else self._hi

    def default(self) -> int:
        """0, or the end of the range that is nearest to it."""
        return max(self.lo, min(self._hi, 0) if isinstance(self._hi, int) else 0)


class Ref(Kind):
    """A handle: an instance of the named struct, or None.  Coded 0 for None, else index + 1."""

    def __init__(self, struct: str) -> None:
        self.struct = struct

    def hi(self, sizes: dict[str, int]) -> int:
        return sizes[self.struct]

    def encode(self, value: Any, sizes: dict[str, int]) -> int:
        if value is None:
            return 0
        if type(value).__name__ != self.struct:
            raise RangeError(f"{value} is not a {self.struct}")
        return int(value.index) + 1

    def decode(self, code: int, world: World) -> Any:
        return world.instances(self.struct)[code - 1] if code else None

    def default(self) -> None:
        return None


class Snapshot(Kind):
    """What `Sequence.snapshot()` returns; coded 1 while equal to the sequence, else 0."""

    def hi(self, sizes: dict[str, int]) -> int:
        return 1


class SnapshotValue:
    """A remembered value of a sequence; it knows only whether it is still the current one."""

    __slots__ = ("sequence", "taken")

    def __init__(self, sequence: SequenceState) -> None:
        self.sequence, self.taken = sequence, sequence.value

    @property
    def fresh(self) -> bool:
        return self.taken == self.sequence.value


class SequenceState:
    """A sequence in replay: an integer.  Explore keeps only fresh/stale per live snapshot."""

    __slots__ = ("value",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self) -> None:
        self.value = 0

    def bump(self) -> None:
        self.value += 1

    def snapshot(self) -> SnapshotValue:
        return SnapshotValue(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SnapshotValue) and other.sequence is self and other.fresh


class LockState:
    """A lock in replay: the process that holds it for write, and those that hold it for read."""

    __slots__ = ("holder", "name", "owner", "readers", "spins")

    def __init__(self, name: str, holder: Any, spins: bool) -> None:
        self.name, self.holder = name, holder  # the struct instance that the lock belongs to
        self.spins = spins
        self.owner: int | None = None
        self.readers: set[int] = set()


class Lock:
    """A mutual exclusion lock field: spinlock, mutex, page lock, bit lock.

    spins: who waits for it spins, and who holds it must not sleep."""

    shared = False

    def __init__(self, spins: bool = False) -> None:
        self.spins = spins


class RwLock(Lock):
    """A lock that may be held by one writer or by several readers."""

    shared = True


class Sequence:
    """A sequence counter field: `bump`, `snapshot`, `==`, `!=` and nothing else."""


class Value:
    """Base of frozen value structs; fields are class attributes that are Kinds."""

    kinds: ClassVar[dict[str, Kind]] = {}

    def __init_subclass__(cls) -> None:
        cls.kinds = {k: v for k, v in vars(cls).items() if isinstance(v, Kind)}
        for name in cls.kinds:
            delattr(cls, name)

    def __init__(self, **fields: Any) -> None:
        for name, kind in self.kinds.items():
            object.__setattr__(self, name, fields.pop(name, kind.default()))
        if fields:
            raise TypeError(f"{type(self).__name__} has no field {', '.join(fields)}")

    def replace(self, **fields: Any) -> Any:
        """A copy with some fields changed."""
        return type(self)(**{n: fields.pop(n, getattr(self, n)) for n in self.kinds}, **fields)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen: use .replace({name}=...)")

    def _key(self) -> tuple[Any, ...]:
        return tuple(getattr(self, n) for n in self.kinds)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        return "{" + " ".join(f"{n}={getattr(self, n)}" for n in self.kinds) + "}"


class OfValue(Kind):
    """The kind of a field that holds a Value, all its parts packed into one integer."""

    def __init__(self, cls: type[Value]) -> None:
        self.cls = cls

    def hi(self, sizes: dict[str, int]) -> int:
        return (1 << sum(k.width(sizes) for k in self.cls.kinds.values())) - 1

    def parts(self, sizes: dict[str, int]) -> Iterator[tuple[str, Kind, int, int]]:
        """(name, kind, shift, width) of every part."""
        shift = 0
        for name, kind in self.cls.kinds.items():
            yield name, kind, shift, kind.width(sizes)
            shift += kind.width(sizes)

    def encode(self, value: Any, sizes: dict[str, int]) -> int:
        code = 0
        for name, kind, shift, _ in self.parts(sizes):
            code |= (kind.encode(getattr(value, name), sizes) - kind.lo) << shift
        return code

    def decode(self, code: int, world: World) -> Any:
        fields = {}
        for name, kind, shift, width in self.parts(world.sizes):
            fields[name] = kind.decode((code >> shift & ((1 << width) - 1)) + kind.lo, world)
        return self.cls(**fields)

    def default(self) -> Any:
        return self.cls()


class Field:
    """One declared field of a struct: its kind, array size, guard and whether it is ghost state.

    guarded_by: name of the lock field, of this or another struct ("MM.ptl"), that a writer
    must hold.  ghost: read by claims and by other ghost updates only; an update belongs to the
    step it stands in.
    """

    def __init__(
        self, kind: Any, array: int | str | None = None, guarded_by: str = "", ghost: bool = False
    ) -> None:
        if isinstance(kind, type) and issubclass(kind, Value):
            kind = OfValue(kind)
        if array is not None and isinstance(kind, Lock | Sequence):
            raise ValueError("a lock or a sequence is one field: give each object its own")
        self.kind, self.array, self.guarded_by, self.ghost = kind, array, guarded_by, ghost
        self.struct = self.name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.struct, self.name = owner.__name__, name

    @property
    def key(self) -> str:
        return f"{self.struct}.{self.name}"

    def length(self, sizes: dict[str, int]) -> int:
        if self.array is None:
            return 1
        return sizes[self.array] if isinstance(self.array, str) else self.array

    def check(self, value: Any, sizes: dict[str, int]) -> None:
        check(self.kind, value, sizes, self.key)

    def __get__(self, obj: Any, owner: type | None = None) -> Any:
        return self if obj is None else obj.cells[self.name]

    def __set__(self, obj: Any, value: Any) -> None:
        if obj.world.keeps(self):
            self.check(value, obj.world.sizes)
            obj.cells[self.name] = value


class Cells:
    """An array field of an instance in replay: a fixed list whose stores are checked."""

    __slots__ = ("field", "holder", "items")

    def __init__(self, field: Field, holder: Any) -> None:
        self.field, self.holder = field, holder
        self.items = [field.kind.default() for _ in range(field.length(holder.world.sizes))]

    def __getitem__(self, index: int) -> Any:
        if not 0 <= index < len(self.items):
            raise RangeError(f"{self.field.key}[{index}]: no such element")
        return self.items[index]

    def __setitem__(self, index: int, value: Any) -> None:
        if not 0 <= index < len(self.items):
            raise RangeError(f"{self.field.key}[{index}]: no such element")
        if self.holder.world.keeps(self.field):
            self.field.check(value, self.holder.world.sizes)
            self.items[index] = value

    def fill(self, value: Any) -> None:
        for index in range(len(self.items)):
            self[index] = value

    def __len__(self) -> int:
        return len(self.items)


class Struct:
    """Base of shared objects.  Class attributes that are `Field`s are state; plain attributes
    given when the host is wired are constants."""

    fields: ClassVar[dict[str, Field]] = {}

    def __init_subclass__(cls) -> None:
        cls.fields = {k: v for k, v in vars(cls).items() if isinstance(v, Field)}

    def __init__(self, world: World, index: int, **constants: Any) -> None:
        self.world, self.index = world, index
        self.cells: dict[str, Any] = {}
        for name, field in self.fields.items():
            self.cells[name] = self.fresh_cell(field)
        for name, value in constants.items():
            setattr(self, name, value)

    def fresh_cell(self, field: Field) -> Any:
        """The initial value of a field in replay."""
        if isinstance(field.kind, Lock):
            return LockState(field.key, self, field.kind.spins)
        if isinstance(field.kind, Sequence):
            return SequenceState()
        return field.kind.default() if field.array is None else Cells(field, self)

    def __repr__(self) -> str:
        single = len(self.world.instances(type(self).__name__)) == 1
        return type(self).__name__.lower() + ("" if single else str(self.index))


class Local:
    """Base of records that live in one process and are passed down by reference (`fault`)."""

    kinds: ClassVar[dict[str, Kind]] = {}

    def __init_subclass__(cls) -> None:
        cls.kinds = {k: v for k, v in vars(cls).items() if isinstance(v, Kind)}

    def __init__(self, **fields: Any) -> None:
        for name, kind in self.kinds.items():
            setattr(self, name, fields.pop(name, kind.default()))
        for name, value in fields.items():
            setattr(self, name, value)


def saved(cells: dict[str, Any]) -> dict[str, Any]:
    return {n: list(c.items) if isinstance(c, Cells) else c for n, c in cells.items()}


class World:
    """Every struct instance of one host, and the sizes that bound them."""

    def __init__(self, **sizes: int) -> None:
        self.sizes: dict[str, int] = dict(sizes)
        self.ghosts = True
        self._instances: dict[str, list[Any]] = {}

    def add(self, cls: type[Any], count: int = 1, **constants: Any) -> list[Any]:
        """Create `count` instances; the size named after the struct becomes their number."""
        self.sizes[cls.__name__] = count
        made: list[Any] = []
        self._instances[cls.__name__] = made
        for index in range(count):
            made.append(cls(self, index, **constants))
        return made

    def keeps(self, field: Field) -> bool:
        """False for ghost state where no claim looks at it: stores to it are left out."""
        return self.ghosts or not field.ghost

    def checkpoint(self) -> list[dict[str, Any]]:
        """The state of every instance, to be given to `restore`.  No lock may be held."""
        return [saved(made.cells) for each in self._instances.values() for made in each]

    def restore(self, states: list[dict[str, Any]]) -> None:
        made = (made for each in self._instances.values() for made in each)
        for instance, cells in zip(made, states, strict=True):
            for name, field in instance.fields.items():
                if isinstance(field.kind, Lock | Sequence):
                    instance.cells[name] = instance.fresh_cell(field)
                elif field.array is None:
                    instance.cells[name] = cells[name]
                else:
                    instance.cells[name].items = list(cells[name])

    def instances(self, struct: str) -> list[Any]:
        return self._instances[struct]

    def constants(self, struct: str, name: str) -> list[Any]:
        """An attribute of every instance that has it."""
        return [getattr(each, name, None) for each in self.instances(struct)]

    def structs(self) -> Iterator[tuple[str, list[Any]]]:
        """Every struct by name with its instances, in declaration order."""
        yield from self._instances.items()

    def fields(self) -> Iterator[tuple[Field, list[Any]]]:
        """Every field of every struct with the instances that have it, in declaration order."""
        for made in self._instances.values():
            for field in type(made[0]).fields.values():
                yield field, made


Predicate = Callable[..., Any]

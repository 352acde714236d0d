"""Packed states: everything has a place of its own, and comes back as it was put."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmuwitness.model.state import (
    Bool,
    Bounded,
    Field,
    Kind,
    Lock,
    OfValue,
    RangeError,
    Ref,
    RwLock,
    Struct,
    Value,
    World,
)
from mmuwitness.process.layout import WORD, Cursor, Layout, Slot, initial_words, make_layout
from tests.process.worlds import explored, fold_code

numbers = st.integers(-(2**20), 2**20)
bounded = st.tuples(numbers, numbers).map(sorted).filter(lambda ends: ends[0] < ends[1] >= 0)
scalars = st.one_of(
    st.builds(Bool),
    st.builds(lambda ends: Bounded(*ends), bounded),
    st.builds(lambda: Ref("Item")),
)


@st.composite
def values(draw: st.DrawFn) -> Kind:
    """A value struct of one to three parts, none of which makes it wider than a word."""
    parts = draw(st.lists(scalars, min_size=1, max_size=3))
    made: dict[str, object] = {f"part{number}": kind for number, kind in enumerate(parts)}
    return OfValue(type("Leaf", (Value,), made))


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Two structs with fields of every kind: scalars, arrays, locks."""
    world = World()
    for name, count in (("Item", draw(st.integers(1, 3))), ("Box", 1)):
        fields: dict[str, object] = {}
        for number in range(draw(st.integers(1, 5))):
            kind = draw(st.one_of(scalars, values()))
            array = draw(st.one_of(st.none(), st.integers(1, 12)))
            fields[f"field{number}"] = Field(kind, array=array)
        fields["lk"], fields["rw"] = Field(Lock()), Field(RwLock())
        world.add(type(name, (Struct,), fields), count)
    return world


def layout_of(world: World) -> Layout:
    """A layout of everything; some process reads under every lock rw."""
    keys = {declared.key for declared, _ in world.fields()}
    return make_layout(world, [], keys, {key for key in keys if key.endswith(".rw")})


def slots_of(layout: Layout) -> list[Slot]:
    tables = (layout.elements, layout.readers)
    return [slot for table in tables for slots in table.values() for slot in slots]


def assert_disjoint(slots: list[Slot]) -> None:
    used = sorted((slot.word * WORD + slot.shift, slot.width) for slot in slots if slot.width)
    for (bit, width), (following, _) in pairwise(used):
        assert bit + width <= following, "two elements overlap"
    for slot in slots:
        assert slot.shift + slot.width <= WORD, "an element straddles two words"


@given(worlds())
def test_every_element_has_a_place_of_its_own(world: World) -> None:
    layout = layout_of(world)
    assert_disjoint(slots_of(layout))
    assert all(slot.word < layout.words for slot in slots_of(layout) if slot.width)
    for declared, instances in world.fields():
        slots = layout.elements[declared.key]
        assert len(slots) == len(instances) * declared.length(world.sizes)
        if sum(slot.width for slot in slots) <= WORD:
            assert len({slot.word for slot in slots}) == 1, "an index is a shift"
            assert [s.shift - slots[0].shift for s in slots] == [
                slots[0].width * n for n in range(len(slots))
            ]


def value_of(draw: st.DrawFn, kind: Kind, world: World) -> object:
    """A value of a kind: rather one at an end of its range."""
    if isinstance(kind, OfValue):
        parts = {name: value_of(draw, part, world) for name, part in kind.cls.kinds.items()}
        return kind.cls(**parts)
    if isinstance(kind, Ref):
        return draw(st.sampled_from([None, *world.instances(kind.struct)]))
    ends = [kind.lo, kind.hi(world.sizes)]
    code = draw(st.one_of(st.sampled_from(ends), st.integers(*ends)))
    return kind.decode(code, world)


@given(worlds(), st.data())
def test_what_is_packed_is_unpacked(world: World, data: st.DataObject) -> None:
    layout = layout_of(world)
    words = [0] * layout.words
    expected: list[tuple[Slot, int]] = []
    for declared, _ in world.fields():
        for slot in layout.elements[declared.key]:
            if isinstance(declared.kind, Lock):
                code = data.draw(st.integers(0, slot.mask))
            else:
                value = value_of(data.draw, declared.kind, world)
                code = declared.kind.encode(value, world.sizes)
                assert declared.kind.decode(code, world) == value
            slot.put(words, data.draw(st.integers(slot.lo, slot.lo + slot.mask)))
            slot.put(words, code)
            expected.append((slot, code))
    assert [slot.get(tuple(words)) for slot, _ in expected] == [code for _, code in expected]
    assert all(0 <= word < 1 << WORD for word in words)


@given(worlds(), st.data())
def test_the_initial_state_is_that_of_the_objects(world: World, data: st.DataObject) -> None:
    for declared, instances in world.fields():
        if isinstance(declared.kind, Lock):
            continue
        for instance in instances:
            if declared.array is None:
                setattr(instance, declared.name, value_of(data.draw, declared.kind, world))
            else:
                for index in range(declared.length(world.sizes)):
                    value = value_of(data.draw, declared.kind, world)
                    instance.cells[declared.name][index] = value
    layout = layout_of(world)
    words = initial_words(layout, [])
    for declared, instances in world.fields():
        if isinstance(declared.kind, Lock):
            continue
        found = [declared.kind.decode(s.get(words), world) for s in layout.elements[declared.key]]
        cells = [instance.cells[declared.name] for instance in instances]
        flat = cells if declared.array is None else [item for cell in cells for item in cell.items]
        assert found == flat


@given(bounded, st.integers(0, 60))
def test_put_refuses_what_does_not_fit(ends: tuple[int, int], shift: int) -> None:
    low, high = ends
    width = (high - low).bit_length()
    slot = Cursor(shift).take(width, low)
    words = [(1 << WORD) - 1] * 3
    for code in (low, high, low + slot.mask):
        slot.put(words, code)
        assert slot.get(words) == code
    before = list(words)
    for code in (low - 1, low + slot.mask + 1):
        with pytest.raises(AssertionError):
            slot.put(words, code)
    assert words == before


@given(bounded, numbers)
def test_a_kind_refuses_what_is_out_of_its_range(ends: tuple[int, int], number: int) -> None:
    kind = Bounded(*ends)
    if ends[0] <= number <= ends[1]:
        assert kind.encode(number, {}) == number
    else:
        with pytest.raises(RangeError, match=rf"{number} is outside {ends[0]}\.\.{ends[1]}"):
            kind.encode(number, {})


LARGE = """
def at(host, i):
    return 39 - host.box.one + i

def p0(host):
    host.box.arr[at(host, 0)] = 2
    host.box.arr[at(host, 1)] = 1
    host.box.arr[0] = host.box.arr[at(host, 0)]
    host.items[1].arr[at(host, 1)] = 2
    host.items[0].arr[host.box.n] = 1
    host.box.leaf = Leaf(odd=True, n=2, item=host.items[1])
    x = host.box.leaf
    host.box.n = 3
    host.box.neg = -2
    host.box.leaf = x.replace(n=-1)
    host.box.flag = x.odd and host.box.leaf.n == -1 and host.box.leaf.item is host.items[1]

def p1(host):
    host.box.one = 3
    host.box.neg = 1
    host.box.n = 0
"""


def test_states_of_several_words(tmp_path) -> None:
    """Arrays that cover words are reached by an index that is known only in a run."""
    program = fold_code(tmp_path, LARGE, length=40)
    assert program.layout.words >= 5
    elements = program.layout.elements
    assert len({slot.word for slot in elements["Item.arr"]}) == 3
    graph = explored(program)
    assert not graph.errors
    ends = graph.final("Box.arr")
    assert (2, *[0] * 37, 2, 1) in ends, "Box.one was 1 all the time"
    assert all(sorted(end)[:36] == [0] * 36 and sum(end) in (2, 3, 4, 5) for end in ends)
    assert all(end[40 + 39] == 2 or end[40 + 37] == 2 for end in graph.final("Item.arr"))
    assert graph.final("Box.flag") == {(1,)}


LOCALS = """
def p0(host):
    a = host.box.n
    b = host.box.leaf
    c = host.box.item
    seen = host.box.seq.snapshot()
    host.box.flag = True
    if host.box.flag:
        d = a + host.box.neg
        host.box.flag = host.box.seq == seen
        host.box.leaf = b.replace(n=max(min(d, 2), -1))
    host.box.item = c

def p1(host):
    p0(host)
    host.box.n = 2
    host.box.neg = -2
    host.box.seq.bump()
"""


def test_frames_share_their_room_over_time_only(tmp_path) -> None:
    program = fold_code(tmp_path, LOCALS, every=True)
    layout = program.layout
    shared = slots_of(layout)
    for frame, steps in zip(layout.frames, program.steps, strict=True):
        own = [frame.pc, *frame.snapshots.values()]
        others = [
            slot
            for other in layout.frames
            if other is not frame
            for slot in (other.pc, *other.snapshots.values(), *longest(other.live))
        ]
        for pc, live in enumerate(frame.live):
            assert_disjoint([*shared, *own, *live.values()])
            kept = {reg for reg in steps.boundaries[pc].live if reg not in frame.snapshots}
            assert set(live) == kept, "what is live is kept, and nothing else"
        assert_disjoint([*shared, *own, *others])
        inside = [sum(s.mask << s.shift for s in own if s.word == w) for w in range(layout.words)]
        assert all(mask & bits == bits for mask, bits in zip(frame.masks, inside, strict=False))
    assert max(len(frame.live) for frame in layout.frames) > 10


def longest(live):
    return max((slots.values() for slots in live), key=len)


def test_a_value_wider_than_a_word_is_refused() -> None:
    half = Bounded(0, (1 << 40) - 1)
    wide = type("Wide", (Value,), {"a": half, "b": half})
    world = World()
    world.add(type("Box", (Struct,), {"wide": Field(wide), "next": Field(Bool())}))
    with pytest.raises(Exception, match=r"Box\.wide"):
        layout_of(world)


def test_an_element_of_no_bits_after_a_full_word() -> None:
    world = World()
    fields = {"full": Field(Bounded(0, (1 << 32) - 1), array=2), "none": Field(Bounded(0, 0))}
    world.add(type("Box", (Struct,), fields))
    layout = layout_of(world)
    assert all(slot.word < layout.words for slot in slots_of(layout))
    assert initial_words(layout, []) == [0]


def test_the_default_is_in_the_range() -> None:
    kind = Bounded(-3, -1)
    assert -3 <= kind.default() <= -1

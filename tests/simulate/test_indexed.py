"""What is looked up by an index is what the model finds by going through all: on small hosts."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mmuwitness.model.era import Era
from mmuwitness.model.host import Host, find_arch
from mmuwitness.model.kvm.kvm_host import KvmPageFault, Spte
from mmuwitness.model.kvm.vcpu import guest_access
from mmuwitness.model.mm import ksm as model_ksm
from mmuwitness.model.mm.ksm import set_page_stable_node
from mmuwitness.model.mm.mm_types import Pte, alloc_page, copy_page, get_page, put_page
from mmuwitness.model.mm.rmap import lru_cache_add, page_add_new_anon_rmap, page_remove_rmap
from mmuwitness.model.state import Bool, Bounded, Field, Ref, Struct
from mmuwitness.simulate.arrays import ArrayWorld
from mmuwitness.simulate.kernel import ksm as many_ksm
from mmuwitness.simulate.machine import Guest, Machine
from mmuwitness.simulate.program import Call, ManyProgram
from tests.simulate.agreement import ArrayHost
from tests.simulate.driver import Frame

PAGES, SLOTS, GFNS = 4, 3, 8
MAPCOUNT_MAX, CLASSES = 3, 2


class Hands(Struct):
    """References that somebody holds, and what a function returned."""

    page = Field(Ref("Page"), array=SLOTS)
    result = Field(Bounded(0, 7))


def allocate(mm, hands, slot, other):
    if hands.page[slot] is None:
        hands.page[slot] = alloc_page(mm)


def copy(mm, hands, slot, other):
    if hands.page[slot] is None and hands.page[other] is not None:
        hands.page[slot] = copy_page(hands.page[other], mm)


def share(mm, hands, slot, other):
    page = hands.page[other]
    if hands.page[slot] is None and page is not None:
        get_page(page)
        hands.page[slot] = page


def drop(mm, hands, slot, other):
    """A PTE holds a reference, too."""
    page = hands.page[slot]
    if page is not None and page.mapcount < page.refcount:
        hands.page[slot] = None
        put_page(page)


def write(mm, hands, slot, other):
    page = hands.page[slot]
    if page is not None:
        page.content = other & 1


def map_page(mm, hands, slot, other):
    page = hands.page[slot]
    if page is not None and page.mapcount < MAPCOUNT_MAX:
        page_add_new_anon_rmap(page, 0)
        lru_cache_add(page)


def unmap_page(mm, hands, slot, other):
    page = hands.page[slot]
    if page is not None and page.mapcount > 0:
        page_remove_rmap(page, 0)


def stabilise(mm, hands, slot, other):
    page = hands.page[slot]
    if page is not None:
        set_page_stable_node(page, 0)


REFERENCES = (allocate, copy, share, drop, write, map_page, unmap_page, stabilise)


def access(vcpu, hands, gfn, write):
    hands.result = guest_access(vcpu, gfn, write)


def free_table(kvm, table):
    kvm.arch.free_empty_table(kvm, table)


def prefetch(vcpu, gfn):
    fault = KvmPageFault(vcpu=vcpu, gfn=gfn, write=False, permission=False)
    vcpu.kvm.arch.direct_pte_prefetch(vcpu.kvm, fault)


def search(mm, hands):
    hands.page[1] = model_ksm.stable_tree_search(mm, hands.page[0])


def many_search(mm, hands):
    hands.page[1] = many_ksm.stable_tree_search(mm, hands.page[0])


class Side:
    """One of the two: a host, its program, and its state at first."""

    def __init__(self, host: Host, functions: Iterable[Any]) -> None:
        self.host = host
        self.hands = host.world.add(Hands)[0]
        self.calls = [self.call(each) for each in functions]
        program = ManyProgram(host, self.calls)
        world = host.world
        assert isinstance(world, ArrayWorld)
        self.frames = [Frame(program, n, world, 0) for n in range(len(self.calls))]
        shared = [host.machine.world] if isinstance(host, Guest) else []
        self.worlds = [world, *shared]
        self.first = [{k: a.copy() for k, a in each.arrays.items()} for each in self.worlds]

    def call(self, function: Any) -> Call:
        """Objects by the names of its arguments; what is left are numbers."""
        names = function.__code__.co_varnames[: function.__code__.co_argcount]
        host = self.host
        known = {"mm": host.mm, "hands": self.hands, "kvm": host.kvm, "vcpu": host.vcpus[0]}
        kinds = {
            "slot": Bounded(0, SLOTS - 1),
            "other": Bounded(0, SLOTS - 1),
            "gfn": Bounded(0, GFNS - 1),
            "table": Bounded(0, GFNS - 1),
            "write": Bool(),
        }
        objects = tuple(known[name] for name in names if name in known)
        return Call(
            function.__name__, function, objects, {n: kinds[n] for n in names if n in kinds}
        )

    def reset(self) -> None:
        for world, first in zip(self.worlds, self.first, strict=True):
            for key, array in world.arrays.items():
                array[:] = first.get(key, 0)

    def run(self, function: str, *arguments: int) -> None:
        at = next(
            n for n, call in enumerate(self.calls) if call.name in (function, f"many_{function}")
        )
        self.frames[at].run(*arguments)


def of_pages(side: Side, name: str) -> list[int]:
    return [int(getattr(page, name)) for page in side.host.pages]


@cache
def sides(arch: str, era: str, functions: tuple[Any, ...], **sizes: Any) -> tuple[Side, Side]:
    """The model's, and that with an index."""
    size = {"addresses": GFNS, "slot_pages": GFNS} | sizes
    pages = size.pop("pages", PAGES)
    known = Era(era), find_arch(arch)
    small = ArrayHost(*known, pages=pages, **size)
    machine = Machine(pages, classes=CLASSES, max_page_sharing=256, smart_scan=False)
    many = Guest(machine, 0, *known, {}, **size)
    ours = tuple(many_search if each is search else each for each in functions)
    return Side(small, functions), Side(many, ours)


def both(*arguments: Any, **sizes: Any) -> tuple[Side, Side]:
    made = sides(*arguments, **sizes)
    for side in made:
        side.reset()
    return made


slots = st.integers(0, SLOTS - 1)
calls = st.tuples(st.sampled_from([each.__name__ for each in REFERENCES]), slots, slots)


@given(st.lists(calls, min_size=20, max_size=60))
def test_pages_are_handed_out_and_come_back(steps: list[tuple[str, int, int]]) -> None:
    """In any order: the same references, of pages that nobody else has; the numbers may differ."""
    model, many = both("x86-tdp", "v6.1", REFERENCES, pages=2)
    zone = many.host.mm.zone
    for name, slot, other in steps:
        for side in (model, many):
            side.run(name, slot, other)
        held = [[side.hands.page[n] for n in range(SLOTS)] for side in (model, many)]
        for mine, theirs in zip(*held, strict=True):
            assert (mine is None) == (theirs is None)
            if mine is not None:
                for part in ("refcount", "mapcount", "content", "ksm", "lru"):
                    assert getattr(mine, part) == getattr(theirs, part), (part, steps)
        shared = [[[a is b for a in each] for b in each] for each in held]
        assert shared[0] == shared[1]
        for side in (model, many):
            for page in side.host.pages:
                clean = not (page.content or page.ksm or page.lru or page.mapcount)
                assert page.refcount or clean, "a free page says nothing"
        free = [zone.free[n] for n in range(zone.nr_free)]
        assert sorted(page.index for page in free) == [
            page.index for page in many.host.pages if page.refcount == 0
        ]
        assert zone.nr_free == of_pages(model, "refcount").count(0)


sptes = st.lists(
    st.tuples(st.booleans(), st.booleans(), st.integers(0, PAGES - 1), st.booleans()),
    min_size=GFNS,
    max_size=GFNS,
)


def put_sptes(side: Side, made: list[tuple[bool, bool, int, bool]]) -> None:
    """Present or not, writable or not, the page; and whether a TLB has it, too."""
    kvm, vcpu = side.host.kvm, side.host.vcpus[0]
    for gfn, (present, write, page, cached) in enumerate(made):
        if present:
            kvm.spte[gfn] = Spte(present=True, write=write, page=side.host.pages[page])
        if cached:
            vcpu.tlb[gfn] = kvm.spte[gfn]
    for table in range(len(kvm.cells["table"])):
        kvm.table[table] = True


def sptes_of(side: Side) -> list[tuple[bool, bool, int | None]]:
    made = [side.host.kvm.spte[gfn] for gfn in range(GFNS)]
    return [(each.present, each.write, each.page and each.page.index) for each in made]


@given(sptes, st.integers(0, GFNS - 1), st.booleans())
def test_an_access_exits_for_the_same_reason(made: Any, gfn: int, write: bool) -> None:
    results = []
    for side in both("x86-tdp", "v6.1", (access,)):
        put_sptes(side, made)
        side.run("access", gfn, int(write))
        results.append((side.hands.result, sptes_of(side)))
    assert results[0] == results[1]


@given(sptes, st.integers(0, GFNS - 1), st.booleans(), st.booleans())
def test_an_access_makes_a_page_young(made: Any, gfn: int, write: bool, tracking: bool) -> None:
    """An aged page is in no TLB."""
    found = []
    for side in both("x86-tdp", "v6.1", (access,), ages_pages=True, access_tracking=tracking):
        put_sptes(side, [(*rest, False) for *rest, _ in made])
        kvm = side.host.kvm
        for number, (*_, aged) in enumerate(made):
            kvm.spte[number] = kvm.spte[number].replace(aged=aged)
        side.run("access", gfn, int(write))
        aged_now = [kvm.spte[each].aged for each in range(GFNS)]
        found.append((side.hands.result, sptes_of(side), aged_now))
    assert found[0] == found[1]


@given(sptes, st.integers(0, 1))
def test_a_table_without_a_leaf_is_freed(made: Any, table: int) -> None:
    found = []
    for side in both("arm64", "v6.1", (free_table,), gfns_per_table=4):
        put_sptes(side, made)
        side.run("free_table", table)
        found.append([side.host.kvm.table[each] for each in (0, 1)])
    assert found[0] == found[1]


@given(sptes, sptes, st.integers(0, GFNS - 1))
def test_the_same_neighbours_are_prefetched(made: Any, ptes: Any, gfn: int) -> None:
    found = []
    for side in both("x86-shadow", "v6.1", (prefetch,), gfns_per_table=GFNS):
        put_sptes(side, made)
        for page in side.host.pages:
            page.refcount = 1
        for addr, (present, write, page, _) in enumerate(ptes):
            mapped = side.host.pages[page] if present else None
            side.host.mm.pte[addr] = Pte(present=present, write=write, page=mapped)
        side.run("prefetch", gfn)
        found.append((sptes_of(side), of_pages(side, "refcount")))
    assert found[0] == found[1]


@given(
    st.lists(
        st.tuples(st.integers(0, CLASSES - 1), st.booleans()),
        min_size=PAGES - 1,
        max_size=PAGES - 1,
    ),
    st.integers(0, CLASSES - 1),
)
def test_the_same_ksm_page_is_found(others: list[tuple[int, bool]], content: int) -> None:
    """One KSM page of each content at most: there are more only once it is shared too often."""
    found = []
    for model, side in enumerate(both("x86-tdp", "v6.1", (search,))):
        stable: dict[int, Any] = {}
        for page, (held, merged) in zip(side.host.pages, [(content, False), *others], strict=True):
            page.content, page.refcount, page.mapcount = held, 1, 1
            if merged and held not in stable:
                page.ksm, stable[held] = True, page
        if model == 1:
            for held, page in stable.items():
                side.host.mm.ksm.stable[held] = page
        side.hands.page[0] = side.host.pages[0]
        side.run("search")
        kpage = side.hands.page[1]
        found.append((kpage and kpage.index, of_pages(side, "refcount")))
    assert found[0] == found[1]


def test_a_ksm_page_of_what_nobody_else_has_is_freed() -> None:
    """The guest may write between ksmd's look at a page and its write protection."""
    _, many = both("x86-tdp", "v6.1", REFERENCES)
    many.run("allocate", 0)
    page = many.hands.page[0]
    page.content, page.ksm = 1 << 31, True
    many.run("drop", 0)
    assert page.refcount == 0

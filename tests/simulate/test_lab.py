"""What real kernels did, recorded step by step under emulation, is what is counted here.

Each number was read from a trace of such a run: Debian's 6.1.192 and 6.12.117 on x86 (SVM with and
without NPT) and on arm64 (nVHE and VHE).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from tests.simulate.lab import CHANGE_PTE, COPIES, START, STORED, TABLE, UNIQUE, Lab

MERGED = range(32)
LATER = range(32, 36)
ALONE = range(36, 64)
X86 = [(era, arch) for era in ("v6.1.192", "v6.12") for arch in ("x86-tdp", "x86-shadow")]


def during(lab: Lab, work: Callable[[], object]) -> Counter[str]:
    """What is counted while something is done."""
    before = lab.counts()
    work()
    return lab.counts() - before


def prefetched(arch: str) -> int:
    """Pages that one fault maps, where they are writable: the shadow MMU looks at neighbours."""
    return 8 if arch == "x86-shadow" else 1


def merged_x86(era: str, arch: str) -> tuple[Lab, Counter[str]]:
    """The guest has touched 32 pages of one content, and ksmd has merged them."""
    contents = [1 if page in MERGED else UNIQUE + page for page in range(64)]
    lab = Lab(era, arch, contents)
    assert lab.faults(MERGED) == 32 // prefetched(arch)
    return lab, during(lab, lambda: lab.scan(range(64)))


@pytest.mark.parametrize(("era", "arch"), X86)
class TestX86:
    def test_merging_32_pages_opens_63_windows(self, era: str, arch: str) -> None:
        """Two for each page, but for the first, which becomes the KSM page in its place.  There is
        an SPTE to be zapped in the first of the two only."""
        _, counted = merged_x86(era, arch)
        assert counted[START] == 63
        assert counted["window empty"] == 31
        assert counted["spte zapped"] == 32
        assert counted[CHANGE_PTE] == (63 if era.startswith("v6.1.") else 0)

    def test_change_pte_finds_nothing(self, era: str, arch: str) -> None:
        _, counted = merged_x86(era, arch)
        assert not [name for name in counted if name.startswith("mark change_pte")]

    def test_a_page_that_joins_later_has_two(self, era: str, arch: str) -> None:
        """Four pages that the guest has not touched get the content, by the VMM."""
        lab, _ = merged_x86(era, arch)
        for addr in LATER:
            lab.guest.mm.pte[addr].page.content = 1
        counted = during(lab, lambda: lab.scan(range(64)))
        assert counted[START] == 8
        assert counted["window empty"] == 8
        assert counted[CHANGE_PTE] == (8 if era.startswith("v6.1.") else 0)

    def test_each_merged_page_that_is_read_exits_once(self, era: str, arch: str) -> None:
        """With the shadow MMU, too: it looks for writable neighbours only."""
        lab, _ = merged_x86(era, arch)
        assert lab.faults(MERGED) == 32
        assert lab.faults(MERGED) == 0

    @pytest.mark.parametrize("mapped", [False, True])
    def test_a_write_to_a_merged_page_exits_twice(self, era: str, arch: str, mapped: bool) -> None:
        """The first breaks COW, in a window of its own, and is retried for that."""
        lab, _ = merged_x86(era, arch)
        if mapped:
            lab.faults([3, 4])
        counted = during(lab, lambda: lab.faults([3, 4], write=True))
        assert counted["kvm.vcpu.handle_exit"] == 4
        assert counted[START] == counted[COPIES] == 2
        assert counted[CHANGE_PTE] == (2 if era.startswith("v6.1.") else 0)

    def test_who_reads_what_the_host_wrote_exits_once(self, era: str, arch: str) -> None:
        lab, _ = merged_x86(era, arch)
        lab.faults(MERGED)
        counted = during(lab, lambda: lab.host_writes(range(8)))
        assert counted[START] == counted[COPIES] == 8
        assert lab.faults(MERGED) == 8 // prefetched(arch)

    def test_who_reads_what_was_dropped_exits_once(self, era: str, arch: str) -> None:
        lab, _ = merged_x86(era, arch)
        lab.faults(range(40, 44), write=True)
        counted = during(lab, lambda: lab.run("dontneed", range(40, 44)))
        assert counted[START] == 4 and not counted[CHANGE_PTE]
        assert lab.faults(range(40, 44)) == 4

    def test_unmerging_copies_each_page_once(self, era: str, arch: str) -> None:
        lab, _ = merged_x86(era, arch)
        counted = during(lab, lambda: lab.run("unmergeable", MERGED))
        assert counted[START] == counted[COPIES] == 32
        assert counted[CHANGE_PTE] == (32 if era.startswith("v6.1.") else 0)
        assert lab.machine.ksm_pages() == (0, 0)


def test_what_sysfs_says_of_ksm() -> None:
    """Documentation/admin-guide/mm/ksm.rst: shared pages, sites that share them, pages that are
    looked at again and again, and pages that change too fast for a tree."""
    lab = Lab("v6.12", "x86-tdp", [1 if page in MERGED else UNIQUE + page for page in range(64)])

    def sysfs() -> tuple[int, ...]:
        return tuple(lab.machine.ksm_counters().values())

    # shared, sharing, unshared, volatile, scanned, full scans
    assert sysfs() == (0, 0, 0, 0, 0, 0)
    lab.scan(range(64), passes=1)
    assert sysfs() == (0, 0, 0, 64, 64, 1)
    lab.scan(range(64), passes=1)
    assert sysfs() == (1, 31, 32, 0, 128, 2)
    for addr in LATER:
        lab.guest.mm.pte[addr].page.content = 1
    lab.scan(range(64), passes=1)
    assert sysfs() == (1, 35, 28, 0, 192, 3)
    lab.faults([0, 1], write=True)
    lab.host_writes([40])
    assert sysfs() == (1, 33, 28, 2, 192, 3)
    lab.scan(range(64), passes=1)
    assert sysfs() == (1, 33, 27, 3, 256, 4)


FIRST, NEIGHBOURS = range(8), range(8, 16)
LONELY = (TABLE, 2 * TABLE)
MANY = range(3 * TABLE, 3 * TABLE + 400)


def arm64(era: str) -> Lab:
    """Three sorts of pages that are to be merged, each of a content of its own: 8 pages with
    neighbours in their block of 2 MiB; two, each alone in its block; 400 in one block."""
    kinds = dict.fromkeys(FIRST, 1) | dict.fromkeys(LONELY, 2) | dict.fromkeys(MANY, 3)
    lab = Lab(era, "arm64", [kinds.get(page, UNIQUE + page) for page in range(4 * TABLE)])
    touched = [*FIRST, *NEIGHBOURS, *LONELY, *MANY]
    assert lab.faults(touched, write=True) == len(touched)
    for page, kind in kinds.items():
        lab.guest.mm.pte[page].page.content = kind
    return lab


def arm64_steps(lab: Lab) -> dict[str, tuple[int, int, int]]:
    """By step: calls of change_pte, leaves that they stored, faults of the guest after it."""
    found = {}

    def step(name: str, work: Callable[[], object], then: Callable[[], int]) -> None:
        counted = during(lab, work)
        found[name] = counted[CHANGE_PTE], counted[STORED], then()

    step("merge 8", lambda: lab.scan(FIRST), lambda: lab.faults(FIRST))
    written: list[int] = []
    step(
        "write",
        lambda: written.append(lab.faults([0], write=True)),
        lambda: written[0] + lab.faults([0]),
    )
    step("host write", lambda: lab.host_writes([1]), lambda: lab.faults([1]))
    step("dropped", lambda: lab.run("dontneed", [2]), lambda: lab.faults([2]))
    step("merge lonely", lambda: lab.scan(LONELY), lambda: lab.faults(LONELY))
    step("merge 400", lambda: lab.scan(MANY), lambda: lab.faults(MANY))
    again: list[int] = []
    step(
        "write 400",
        lambda: again.append(lab.faults(MANY, write=True)),
        lambda: again[0] + lab.faults(MANY),
    )
    return found


def test_arm64_installs_what_change_pte_brings() -> None:
    """6.1: no fault after a merge, where the block's table is kept by neighbours.  The 400 pages
    need two KSM pages, since one may be mapped 256 times: 400 + 398 calls."""
    found = arm64_steps(arm64("v6.1.192"))
    assert found == {
        "merge 8": (15, 15, 0),
        "write": (1, 1, 2),
        "host write": (1, 1, 0),
        "dropped": (0, 0, 1),
        "merge lonely": (3, 0, 2),
        "merge 400": (798, 798, 0),
        "write 400": (400, 400, 800),
    }


def test_arm64_without_change_pte() -> None:
    """6.12: a fault for each page that is read."""
    found = arm64_steps(arm64("v6.12"))
    assert {name: faults for name, (_, _, faults) in found.items()} == {
        "merge 8": 8,
        "write": 2,
        "host write": 1,
        "dropped": 1,
        "merge lonely": 2,
        "merge 400": 400,
        "write 400": 800,
    }
    assert not any(calls or stored for calls, stored, _ in found.values())

"""One guest on one machine, of which each operation is done alone: what the recorded scenarios did.

Faults are exits until an access is let, as the guest repeats it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import cache

import numpy as np

from mmuwitness.model.era import Era
from mmuwitness.model.host import find_arch
from mmuwitness.model.kvm.vcpu import handle_exit
from mmuwitness.model.mm.ksm import break_ksm
from mmuwitness.model.mm.memory import handle_mm_fault, zap_page_range_single
from mmuwitness.model.mm.mm_types import Page, copy_page
from mmuwitness.model.primitives import read_lock, write_lock
from mmuwitness.model.state import Bool, Bounded
from mmuwitness.process.language import qualified_name
from mmuwitness.simulate.kernel.indexed import guest_touch
from mmuwitness.simulate.kernel.ksm import ksm_break_cow, ksm_merge_tree_page, ksm_scan_item
from mmuwitness.simulate.machine import Guest, Machine
from mmuwitness.simulate.program import Call, ManyProgram
from tests.simulate.driver import Frame

UNIQUE, WRITTEN = 1 << 31, 3 << 30
TABLE = 512
ACCESSES_MAX = 5

CHANGE_PTE = "kvm.kvm_main.kvm_mmu_notifier_change_pte"
START = "kvm.kvm_main.kvm_mmu_notifier_invalidate_range_start"
STORED = "mark change_pte installs a read-only SPTE"
COPIES = qualified_name(copy_page)
EXITS = qualified_name(handle_exit)


def host_write(mm, addr):
    """The VMM stores to its memory."""
    with read_lock(mm.mmap_lock):
        handle_mm_fault(mm, addr, True)


def madvise_unmergeable(mm, addr):
    with write_lock(mm.mmap_lock):
        break_ksm(mm, addr)


SPARE = 1000
CLASSES = 16


def make_guest(era: str, arch: str, pages: int) -> Guest:
    machine = Machine(pages + SPARE, classes=CLASSES, max_page_sharing=256, smart_scan=False)
    sizes = {"addresses": pages, "slot_pages": pages, "gfns_per_table": TABLE}
    return Guest(machine, 0, Era(era), find_arch(arch), {}, **sizes)


@cache
def program_of(era: str, arch: str, pages: int) -> ManyProgram:
    """What all guests of a kernel run; the first three are known to ksmd by number."""
    guest = make_guest(era, arch, pages)
    mm, address = guest.mm, {"addr": Bounded(0, pages - 1)}
    access = {"gfn": Bounded(0, pages - 1), "write": Bool()}
    calls = [
        Call("ksmd", ksm_scan_item, (mm,), address),
        Call("ksmd, second page", ksm_merge_tree_page, (mm,), address),
        Call("ksmd, undo", ksm_break_cow, (mm,), address),
        Call("touch", guest_touch, (guest.vcpus[0],), access),
        Call("host write", host_write, (mm,), address),
        Call("dontneed", zap_page_range_single, (mm,), address),
        Call("unmergeable", madvise_unmergeable, (mm,), address),
    ]
    return ManyProgram(guest, calls)


class Lab:
    """contents: of the guest's pages; those below UNIQUE may be found in several."""

    def __init__(self, era: str, arch: str, contents: Iterable[int]) -> None:
        held = np.array(list(contents), np.int64)
        self.guest = make_guest(era, arch, len(held))
        self.machine = self.guest.machine
        self.guest.populate(held)
        self.program = program_of(era, arch, len(held))
        self.program.counts[:] = 0
        self.contents_made = 0
        made = enumerate(self.program.operations)
        self.operations = {each.name: self.frame(number) for number, each in made}

    def frame(self, number: int) -> Frame:
        return Frame(self.program, number, self.guest.world, task=0)

    def run(self, name: str, pages: Iterable[int]) -> None:
        """An operation on each of some pages."""
        for page in pages:
            self.operations[name].run(page)

    def faults(self, pages: Iterable[int], write: bool = False) -> int:
        """The guest reads pages, or writes them, one after the other: how often it exits."""
        before = self.counts()[EXITS]
        for gfn in pages:
            for _ in range(ACCESSES_MAX):
                if self.lets(gfn, write):
                    break
                self.operations["touch"].run(gfn, write)
            assert self.lets(gfn, write)
            if write:
                self.wrote(self.guest.kvm.spte[gfn].page)
        return self.counts()[EXITS] - before

    def wrote(self, page: Page) -> None:
        """It holds what no page has held before."""
        self.contents_made += 1
        page.content = WRITTEN + self.contents_made

    def lets(self, gfn: int, write: bool) -> bool:
        spte = self.guest.kvm.spte[gfn]
        return bool(spte.present and (spte.write or not write))

    def host_writes(self, pages: Iterable[int]) -> None:
        for addr in pages:
            self.run("host write", [addr])
            self.wrote(self.guest.mm.pte[addr].page)

    def scan(self, pages: Iterable[int], passes: int = 2) -> None:
        """ksmd goes over what is mergeable; in the first pass it learns checksums."""
        ksm, mergeable = self.machine.ksm, list(pages)
        for _ in range(passes):
            for addr in mergeable:
                self.run("ksmd", [addr])
                while ksm.next_operation:
                    number, ksm.next_operation = ksm.next_operation, 0
                    self.frame(number).run(ksm.next_argument)
            ksm.seqnr += 1

    def counts(self) -> Counter[str]:
        return Counter(self.program.counters())

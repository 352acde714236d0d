"""Mutants: functions of the model with one thing wrong, and what exploring the model with them
finds.

A mutant is written in the process language, like what it replaces, and is known by name; it may
replace several functions.  None of them is a proposal.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FunctionType
from typing import Any

from mmuwitness.explore.search import search
from mmuwitness.model.claims import CLAIMS, Claim
from mmuwitness.model.era import Era
from mmuwitness.model.host import Host, find_arch
from mmuwitness.model.kvm.kvm_host import GONE, INVALID, VALID, Spte
from mmuwitness.model.kvm.kvm_main import observe_change_pte
from mmuwitness.model.kvm.memslots import gfn_to_hva, kvm_swap_active_memslots, memslot_state
from mmuwitness.model.lib.srcutree import synchronize_srcu
from mmuwitness.model.mm.gup import get_user_pages_unlocked
from mmuwitness.model.mm.memory import zap_pte_range
from mmuwitness.model.mm.migrate import remove_migration_ptes
from mmuwitness.model.mm.mm_types import Pte, copy_page, get_page, put_page
from mmuwitness.model.mm.mmu_notifier import (
    mmu_notifier_invalidate_range_end,
    mmu_notifier_invalidate_range_start,
    ptep_clear_flush,
    set_pte_at_notify,
)
from mmuwitness.model.mm.rmap import (
    lru_cache_add,
    page_add_anon_rmap,
    page_add_new_anon_rmap,
    page_remove_rmap,
    page_vma_mapped_walk,
    putback_lru_page,
    rmap_walk,
)
from mmuwitness.model.primitives import feature, read_lock, spin_lock, unlock, write_lock
from mmuwitness.model.scenarios import find_scenario
from mmuwitness.model.scenarios.scenario import Scenario
from mmuwitness.process.language import qualified_name
from mmuwitness.process.native import NativeProgram, compile_ir
from mmuwitness.process.program import Program, fold

MUTANTS: dict[str, dict[str, FunctionType]] = {}


def model_function(name: str) -> FunctionType:
    """What stands under a qualified name in the model."""
    parts = name.split(".")
    module = importlib.import_module(".".join(["mmuwitness.model", *parts[:2]]))
    found: Any = module
    for part in parts[2:]:
        found = getattr(found, part)
    assert qualified_name(found) == name, f"{name} is defined elsewhere"
    assert isinstance(found, FunctionType)
    return found


def mutant(name: str, *replaces: str) -> Callable[[Any], Any]:
    """`name` is the model with this function in the place of those."""

    def register(function: Any) -> Any:
        for each in replaces:
            model_function(each)
            MUTANTS.setdefault(name, {})[each] = function
        return function

    return register


@dataclass(frozen=True)
class Outcome:
    """What exploring found, by the names of claims."""

    states: int
    complete: bool
    deadlock: bool
    violated: frozenset[str]
    reached: frozenset[str]


def kernel(name: str) -> Era:
    """`v6.1 -prefetch_guard` and the like."""
    release, *changes = name.split()
    return Era(release, tuple(changes))


def mutated_host(scenario: Scenario, era: str, arch: str, *names: str) -> Host:
    host = scenario.host(kernel(era), find_arch(arch))
    for name in names:
        host.overrides |= MUTANTS[name]
    return host


def explore_program(program: Program) -> Outcome:
    native = NativeProgram(compile_ir(program.lowered.text))
    result = search(native.address, program.initial, program.lowered.successors_max)
    assert result.error is None, program.lowered.errors[result.error.site - 1]
    marks = {program.lowered.marks[bit] for bit in result.covered}
    violated = {program.claims[bit] for bit in result.violated}
    marked = {kind: {c.name for c in CLAIMS.values() if c.kind == kind and c.mark in marks}
              for kind in ("never", "sometimes")}  # fmt: skip
    return Outcome(
        result.states,
        result.complete,
        result.deadlock is not None,
        frozenset(violated | marked["never"]),
        frozenset(marked["sometimes"]),
    )


OUTCOMES: dict[tuple[str, ...], Outcome] = {}


def outcome_of(scenario: Scenario, era: str, arch: str, *names: str) -> Outcome:
    """Every interleaving of a scenario on a kernel, with the mutants of these names in it."""
    key = (scenario.name, era, arch, *names)
    if key not in OUTCOMES:
        program = fold(mutated_host(scenario, era, arch, *names))
        for name in names:
            called = program.functions.intersection(MUTANTS[name])
            assert called, f"{name}: nobody calls {', '.join(MUTANTS[name])}"
        OUTCOMES[key] = explore_program(program)
    return OUTCOMES[key]


def outcome(scenario: str, era: str, arch: str, *names: str) -> Outcome:
    return outcome_of(find_scenario(scenario), era, arch, *names)


def outcome_for(
    claims: Sequence[Claim], scenario: str, era: str, arch: str, *names: str
) -> Outcome:
    """The same with these claims in the place of the model's own."""
    host = mutated_host(find_scenario(scenario), era, arch, *names)
    host.claims = claims
    return explore_program(fold(host))


# The retry protocol


@mutant("faults never retry", "kvm.kvm_main.mmu_invalidate_retry")
def retry_never(kvm, mmu_seq):
    return False


@mutant("faults never retry", "kvm.kvm_main.mmu_invalidate_retry_gfn")
def retry_never_gfn(kvm, mmu_seq, gfn):
    return False


@mutant("faults look at the count alone", "kvm.kvm_main.mmu_invalidate_retry")
def retry_if_in_progress(kvm, mmu_seq):
    return kvm.mmu_invalidate_in_progress != 0


@mutant("faults look at the count alone", "kvm.kvm_main.mmu_invalidate_retry_gfn")
def retry_if_in_progress_gfn(kvm, mmu_seq, gfn):
    return kvm.mmu_invalidate_in_progress != 0


@mutant("faults look at the sequence alone", "kvm.kvm_main.mmu_invalidate_retry")
def retry_if_sequence_moved(kvm, mmu_seq):
    return kvm.mmu_invalidate_seq != mmu_seq


@mutant("faults look at the sequence alone", "kvm.kvm_main.mmu_invalidate_retry_gfn")
def retry_if_sequence_moved_gfn(kvm, mmu_seq, gfn):
    return kvm.mmu_invalidate_seq != mmu_seq


@mutant("faults map all writable", "kvm.kvm_main.hva_to_pfn")
def map_all_writable(kvm, fault, writable):
    addr = gfn_to_hva(kvm, fault.gfn)
    fault.page = get_user_pages_unlocked(kvm.mm, addr, fault.write)
    fault.map_writable = True


# start() and end()


@mutant("start() does not flush", "kvm.kvm_main.kvm_flush_remote_tlbs")
def flush_nothing(kvm):
    return


@mutant(
    "start() does not zap",
    "arch.arch.Arch.kvm_unmap_gfn_range",
    "arch.x86.X86Shadow.kvm_unmap_gfn_range",
    "arch.x86.X86Tdp.kvm_unmap_gfn_range",
    "arch.arm64.Arm64.kvm_unmap_gfn_range",
)
def zap_nothing(self, kvm, range):
    return False


@mutant("start() does not count", "kvm.kvm_main.kvm_mmu_invalidate_begin")
def begin_nothing(kvm, range):
    return


@mutant("end() keeps the count up", "kvm.kvm_main.kvm_mmu_invalidate_end")
def end_never_idle(kvm, range):
    kvm.mmu_invalidate_seq.bump()
    kvm.unbumped -= 1
    if kvm.mmu_invalidate_in_progress > 1:
        kvm.mmu_invalidate_in_progress -= 1


@mutant("end() does not bump", "kvm.kvm_main.kvm_mmu_invalidate_end")
def end_without_bump(kvm, range):
    kvm.mmu_invalidate_in_progress -= 1


@mutant("end() lowers the count first", "kvm.kvm_main.kvm_mmu_invalidate_end")
def end_count_first(kvm, range):
    kvm.mmu_invalidate_in_progress -= 1
    kvm.mmu_invalidate_seq.bump()
    kvm.unbumped -= 1


@mutant(
    "end() bumps in a critical section of its own",
    "kvm.kvm_main.kvm_mmu_notifier_invalidate_range_end",
)
def end_in_two_sections(kvm, start, end):
    with write_lock(kvm.mmu_lock):
        kvm.mmu_invalidate_in_progress -= 1
    with write_lock(kvm.mmu_lock):
        kvm.mmu_invalidate_seq.bump()
        kvm.unbumped -= 1
    with spin_lock(kvm.mn_invalidate_lock):
        kvm.mn_active_invalidate_count -= 1


@mutant("end() counts where start() did not", "kvm.kvm_main.kvm_mmu_notifier_invalidate_range_end")
def end_everywhere(kvm, start, end):
    """H6: whether a memslot is hit is not the same at start() and at end()."""
    with write_lock(kvm.mmu_lock):
        kvm.mmu_invalidate_seq.bump()
        if kvm.mmu_invalidate_in_progress >= 0:
            kvm.unbumped -= 1
            kvm.mmu_invalidate_in_progress -= 1
    with spin_lock(kvm.mn_invalidate_lock):
        kvm.mn_active_invalidate_count -= 1


@mutant("the range is that of the last window", "kvm.kvm_main.kvm_mmu_invalidate_range_add")
def forget_other_windows(kvm, start, end):
    kvm.mmu_invalidate_range_start = start
    kvm.mmu_invalidate_range_end = end


@mutant("a zap leaves TLBs alone", "arch.arch.Arch.flush_gfn")
def invalidate_nothing(self, kvm, gfn):
    return


# Memslots


@mutant("a memslot update does not wait for windows", "kvm.memslots.kvm_swap_active_memslots")
def swap_inside_windows(kvm, slots):
    """H6: what start() counted, end() does not find, or the other way round."""
    kvm.active_memslots = slots
    synchronize_srcu(kvm)


@mutant("a memslot update does not wait for readers", "lib.srcutree.synchronize_srcu")
def synchronize_nothing(kvm):
    return


@mutant("a deleted memslot is not flushed", "kvm.memslots.kvm_invalidate_memslot")
def invalidate_and_keep_mapped(kvm):
    kvm_swap_active_memslots(kvm, INVALID)


@mutant(
    "a deleted memslot is zapped and TLBs are left alone",
    "arch.x86.X86.kvm_arch_flush_shadow_memslot",
)
def zap_all_and_flush_nothing(self, kvm, slot):
    with write_lock(kvm.mmu_lock):
        for gfn in kvm.gfns:
            kvm.spte[gfn] = Spte()


@mutant("windows pass over a memslot that is being deleted", "kvm.memslots.hits_memslot")
def hits_valid_memslot(kvm, slots, range):
    hit = False
    for slot in kvm.memslots:
        if range.start < slot.userspace_addr + slot.npages and slot.userspace_addr < range.end:
            hit = hit or memslot_state(slots, slot) == VALID
    return hit


@mutant("a memslot is deleted in one step", "kvm.memslots.kvm_delete_memslot")
def delete_then_flush(kvm):
    """Windows do not hit what is still mapped."""
    kvm_swap_active_memslots(kvm, GONE)
    kvm.arch.kvm_arch_flush_shadow_memslot(kvm, kvm.memslots[0])


# The primary MMU


@mutant("the page is freed before start()", "mm.memory.zap_page_range_single")
def zap_and_free_first(mm, addr):
    with read_lock(mm.mmap_lock):
        page = zap_pte_range(mm, addr)
        if page is not None:
            put_page(page)
        mmu_notifier_invalidate_range_start(mm, addr, addr + 1)
        mmu_notifier_invalidate_range_end(mm, addr, addr + 1)


@mutant("the page is freed inside the window", "mm.memory.zap_page_range_single")
def zap_and_free_inside(mm, addr):
    with read_lock(mm.mmap_lock):
        mmu_notifier_invalidate_range_start(mm, addr, addr + 1)
        page = zap_pte_range(mm, addr)
        if page is not None:
            put_page(page)
        mmu_notifier_invalidate_range_end(mm, addr, addr + 1)


@mutant("COW puts the old page before it tells KVM", "mm.memory.wp_page_copy")
def copy_and_put_early(mm, addr, orig_pte, unshare):
    old = orig_pte.page
    new = copy_page(old, mm)
    if new is None:
        put_page(old)
        return
    copied = False
    if feature.change_pte_bracketed:
        mmu_notifier_invalidate_range_start(mm, addr, addr + 1)
    with spin_lock(mm.ptl):
        if mm.pte[addr] == orig_pte:
            ptep_clear_flush(mm, addr)
            page_add_new_anon_rmap(new, addr)
            lru_cache_add(new)
            page_remove_rmap(old, addr)
            put_page(old)
            put_page(old)
            set_pte_at_notify(mm, addr, Pte(present=True, write=True, dirty=True, page=new))
            copied = True
    if feature.change_pte_bracketed:
        mmu_notifier_invalidate_range_end(mm, addr, addr + 1)
    if not copied:
        put_page(new)
        put_page(old)


@mutant("rmap walks open no window", "mm.rmap.try_to_unmap_one")
def unmap_without_window(mm, addr, page, sync, entry):
    unmapped = False
    if page_vma_mapped_walk(mm, addr, page, sync):
        with spin_lock(mm.ptl):
            pte = mm.pte[addr]
            if pte.present and pte.page is page:
                ptep_clear_flush(mm, addr)
                mm.swap[addr] = page.content
                mm.pte[addr] = entry
                page_remove_rmap(page, addr)
                unmapped = True
        if unmapped:
            put_page(page)


@mutant("migration copies a page before it is unmapped", "mm.migrate.unmap_and_move")
def copy_and_unmap(mm, page, sync):
    new = copy_page(page, mm)
    rmap_walk(mm, page, sync, Pte(migration=True, page=page))
    if new is not None and page.mapcount == 0 and page.refcount == 1:
        remove_migration_ptes(mm, page, new)
        lru_cache_add(new)
        unlock(page.lock)
        put_page(page)
        put_page(new)
    else:
        if new is not None:
            put_page(new)
        remove_migration_ptes(mm, page, page)
        unlock(page.lock)
        putback_lru_page(page)


@mutant("KSM write-protects without a window", "mm.ksm.write_protect_page")
def protect_without_window(mm, addr, page):
    done = False
    orig_pte = Pte()
    with spin_lock(mm.ptl):
        pte = mm.pte[addr]
        if pte.present and pte.page is page and page.mapcount + 1 == page.refcount:
            orig_pte = pte.replace(write=False, dirty=False)
            mm.pte[addr] = orig_pte
            done = True
    return done, orig_pte


@mutant("KSM write-protects without a flush", "mm.ksm.write_protect_page")
def protect_without_flush(mm, addr, page):
    done = False
    orig_pte = Pte()
    mmu_notifier_invalidate_range_start(mm, addr, addr + 1)
    with spin_lock(mm.ptl):
        pte = mm.pte[addr]
        if pte.present and pte.page is page and page.mapcount + 1 == page.refcount:
            orig_pte = pte.replace(write=False, dirty=False)
            set_pte_at_notify(mm, addr, orig_pte)
            done = True
    mmu_notifier_invalidate_range_end(mm, addr, addr + 1)
    return done, orig_pte


@mutant("KSM does not compare the PTE again", "mm.ksm.replace_page")
def replace_what_is_mapped(mm, addr, page, kpage, orig_pte):
    replaced = False
    mmu_notifier_invalidate_range_start(mm, addr, addr + 1)
    with spin_lock(mm.ptl):
        pte = mm.pte[addr]
        if pte.present:
            get_page(kpage)
            page_add_anon_rmap(kpage)
            ptep_clear_flush(mm, addr)
            set_pte_at_notify(mm, addr, Pte(present=True, page=kpage))
            page_remove_rmap(pte.page, addr)
            put_page(pte.page)
            replaced = True
    mmu_notifier_invalidate_range_end(mm, addr, addr + 1)
    return replaced


# change_pte


@mutant("change_pte keeps an SPTE writable", "arch.x86.X86.kvm_set_spte_gfn")
def change_and_keep_writable(self, kvm, range):
    old = kvm.spte[range.start]
    if not old.present:
        return False
    kvm.spte[range.start] = old.replace(page=range.arg_pte.page)
    return True


@mutant("change_pte installs where nothing was", "arch.x86.X86.kvm_set_spte_gfn")
def prefetch_into_absent(self, kvm, range):
    """R2: the proposal to let x86 use change_pte for prefetching, without a guard."""
    kvm.spte[range.start] = Spte(present=True, page=range.arg_pte.page)
    return True


@mutant(
    "change_pte looks for a leaf first",
    "arch.arm64.Arm64.kvm_set_spte_gfn",
    "arch.riscv.Riscv.kvm_set_spte_gfn",
)
def change_present_leaves(self, kvm, range):
    if not kvm.spte[range.start].present:
        return False
    kvm.spte[range.start] = Spte(present=True, page=range.arg_pte.page)
    return True


@mutant("change_pte installs read-only", "arch.mips.Mips.kvm_set_spte_gfn")
def install_read_only(self, kvm, range):
    if kvm.table[self.table_of(kvm, range.start)]:
        kvm.spte[range.start] = Spte(present=True, page=range.arg_pte.page)
    return False


@mutant("change_pte wants its window to be the only one", "kvm.kvm_main.kvm_change_spte_gfn")
def change_alone(kvm, range):
    """What closes R1: under mmu_lock, nothing is done while another window is open."""
    if feature.change_pte_skips_invalid_slot and range.invalid:
        return False
    if kvm.mmu_invalidate_in_progress != 1:
        return False
    old = kvm.spte[range.start]
    flush = kvm.arch.kvm_set_spte_gfn(kvm, range)
    observe_change_pte(kvm, old, kvm.spte[range.start], flush)
    return flush


# Memslots again, caches, private memory: they register themselves

importlib.import_module("tests.model.mutants_kvm")

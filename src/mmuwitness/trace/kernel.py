"""What differs between kernels and MMUs, recognised from what the trace holds, never by version.

arch   x86 or arm64, by tracepoints and probed functions that only one has
mmu    tdp (TDP MMU), rmap (the older one, on nested paging), shadow, stage2
RET_PF codes: the fault handler's return where an SPTE was installed is RET_PF_FIXED (3, 4, 5 as
       kernels grew older codes), and the others follow from it
a zapped SPTE is 0 or, newer, 0x8000000000000000: so the present bit is asked for, not 0
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from mmuwitness.model.era import Era, UnknownName
from mmuwitness.trace.facts import FactReader
from mmuwitness.trace.tracepoints import Kind

X86_PRESENT, X86_LARGE, X86_WRITABLE = 1 << 11, 1 << 7, 1 << 1  # SPTE_MMU_PRESENT_MASK ...
ARM64_VALID, ARM64_WRITABLE = 1 << 0, 1 << 7  # KVM_PTE_VALID, KVM_PTE_LEAF_ATTR_LO_S2_S2AP_W
PFN_MASK = (1 << 52) - (1 << 12)
X86_EVENTS = {"kvm_page_fault", "kvm_mmu_set_spte", "kvm_mmu_spte_requested", "fast_page_fault"}
X86_EVENTS |= {"kvm_tdp_mmu_spte_changed"}
X86_FUNCTIONS = {"kvm_tdp_mmu_map", "kvm_tdp_mmu_unmap_gfn_range", "direct_page_fault"}
X86_FUNCTIONS |= {"kvm_tdp_page_fault", "paging64_page_fault"}
SHADOW = {"paging64_page_fault", "paging32_page_fault", "nonpaging_page_fault"}
SHADOW |= {"kvm_mmu_pagetable_walk", "kvm_mmu_paging_element"}
TDP = {"kvm_tdp_mmu_spte_changed", "kvm_tdp_mmu_map", "kvm_tdp_mmu_unmap_gfn_range"}
ARM64 = {"kvm_guest_fault", "kvm_handle_guest_abort", "kvm_pgtable_stage2_map"}
ARM64 |= {"kvm_pgtable_stage2_unmap", "stage2_map_walk_leaf", "user_mem_abort"}


@dataclass
class Dialect:
    """How to read SPTEs and return codes of this trace. None: it does not tell."""

    arch: str | None = None
    mmu: str | None = None
    fixed: int | None = None  # RET_PF_FIXED
    _fixed_seen: Counter[int] = field(default_factory=Counter)

    def learn(self, reader: FactReader) -> None:
        """Recognise arch and MMU from the events and functions read so far."""
        seen = reader.events.keys() | reader.functions.keys() | reader.returns.keys()
        if ARM64 & seen:
            self.arch, self.mmu = "arm64", "stage2"
        elif (X86_EVENTS | X86_FUNCTIONS | SHADOW) & seen:
            self.arch = "x86"
            if SHADOW & seen:
                self.mmu = "shadow"
            elif TDP & seen:
                self.mmu = "tdp"
            # The TDP MMU's zaps are in a probed function of its own, the older one's are not.
            elif reader.counts[Kind.UNMAP_GFN] and reader.counts[Kind.FAULT_RET]:
                self.mmu = "rmap"

    def installed(self, ret: int) -> None:
        """A fault that installed an SPTE returned this."""
        if self.arch == "x86" and 3 <= ret <= 5:
            self._fixed_seen[ret] += 1
            self.fixed = self._fixed_seen.most_common(1)[0][0]

    @property
    def retry(self) -> int:
        """RET_PF_RETRY."""
        return 0 if self.fixed == 3 else 1

    @property
    def spurious(self) -> int | None:
        """RET_PF_SPURIOUS, the code after FIXED."""
        return None if self.fixed is None else self.fixed + 1

    def present(self, pte: int) -> bool:
        """Whether this SPTE maps something."""
        return bool(pte & (ARM64_VALID if self.arch == "arm64" else X86_PRESENT))

    def leaf(self, pte: int, level: int) -> bool:
        """Whether it maps a page or block, not a table (x86, level from 1)."""
        return bool(pte & X86_PRESENT) and (level == 1 or bool(pte & X86_LARGE))

    def writable(self, pte: int) -> bool:
        """Whether the guest may write through it."""
        return bool(pte & (ARM64_WRITABLE if self.arch == "arm64" else X86_WRITABLE))

    @staticmethod
    def pfn(pte: int) -> int:
        """The page frame that it maps."""
        return (pte & PFN_MASK) >> 12


def era_of_release(release: str | None) -> Era | None:
    """The kernel of a release such as 6.1.0-56-amd64, by its series; None: it names none."""
    try:
        return Era(".".join((release or "").lstrip("v").split(".")[:2]))
    except UnknownName:
        return None

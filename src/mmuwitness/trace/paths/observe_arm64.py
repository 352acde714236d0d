"""What a mark shows on arm64: the calls of arch/arm64/kvm/hyp/pgtable.c that stand for stage 2.

`user_mem_abort()` is inlined: of a fault its tracepoint is seen, what it calls, and the return of
`kvm_handle_guest_abort()`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmuwitness.trace.paths.graph import Mark, part_of
from mmuwitness.trace.paths.observe import (
    ABORT,
    GUEST_FAULT,
    RET,
    UNMAP,
    Check,
    Label,
    Observed,
    Observer,
)

MAP = "kvm_pgtable_stage2_map"
RELAX = "kvm_pgtable_stage2_relax_perms"
ENOMEM = -12


class Stage2Observer(Observer):
    """The outcome of a path is what `.change_pte()` came to: "stored", or "absent"."""

    def trace_kvm_page_fault(
        self, mark: Mark, words: Any, frames: Any, outcome: str
    ) -> Iterator[Observed]:
        checks = (Check("ipa", ("ipa",), *words["0"]), Check("syndrome", ("hsr",), 0, None))
        yield (Label("trace", GUEST_FAULT, checks, frames),), outcome

    def trace_kvm_mmio(
        self, mark: Mark, words: Any, frames: Any, outcome: str
    ) -> Iterator[Observed]:
        """io_mem_abort(): to the VMM.  Where no memslot is nothing was ever mapped, so it cannot be
        a permission fault."""
        checks = (Check("returns", RET, 0, None), Check("permission", RET, 0, None))
        yield (Label("leave", ABORT, checks, frames),), outcome

    def enter_page_fault(self, mark: Mark, words: Any, frames: Any, _: str) -> Iterator[Observed]:
        yield (), ""

    def leave_page_fault(self, mark: Mark, words: Any, frames: Any, _: str) -> Iterator[Observed]:
        yield (Label("leave", ABORT, (Check("returns", RET, 1, None),), frames),), ""

    def leave_hva_to_pfn(
        self, mark: Mark, words: Any, frames: Any, outcome: str
    ) -> Iterator[Observed]:
        yield self.call(mark, words), outcome

    def enter_map(self, mark: Mark, words: Any, frames: Any, outcome: str) -> Iterator[Observed]:
        yield (), outcome

    def enter_install(
        self, mark: Mark, words: Any, frames: Any, outcome: str
    ) -> Iterator[Observed]:
        """A permission fault relaxes permissions, any other maps: the syndrome says which."""
        ipa = Check("ipa", ("ipa",), *words["fault.gfn"])
        prot = Check("prot", ("prot",), *words["fault.map_writable"])
        phys = Check("phys", ("phys",), *words["fault.page"])
        around = (*frames, ABORT)
        done = Check("returns", RET, 0, None)
        permission = words["fault.permission"][0]
        for name, known, checks in ((RELAX, 1, (ipa, prot)), (MAP, 0, (ipa, prot, phys))):
            if permission == 1 - known:
                continue
            told = (*checks, Check("permission", ("ipa",), known, None))
            yield (
                (Label("enter", name, told, around), Label("leave", name, (done,), around)),
                outcome,
            )

    def enter_kvm_unmap_gfn_range(
        self, mark: Mark, words: Any, frames: Any, outcome: str
    ) -> Iterator[Observed]:
        """The range goes in parts, where it is large."""
        (start, kind), (end, _) = words["range.start"], words["range.end"]
        pages = end - start if isinstance(start, int) and isinstance(end, int) else end
        checks = (Check("ipa", ("ipa",), start, kind), Check("pages", ("size",), pages, None))
        yield (
            (
                *self.call(mark, words),
                Label("enter", UNMAP, checks, frames),
                Label("leave", UNMAP, (Check("returns", RET, 0, None),), frames),
            ),
            outcome,
        )

    def enter_kvm_set_spte_gfn(
        self, mark: Mark, words: Any, frames: Any, _: str
    ) -> Iterator[Observed]:
        """Read-only, and without memory for a table page."""
        pte, kind = words["range.arg_pte"]
        page = part_of(pte, kind, "page", self.sizes)
        checks = (
            Check("ipa", ("ipa",), *words["range.start"]),
            Check("phys", ("phys",), page, None),
            Check("prot", ("prot",), 0, None),
            Check("zero", ("mc",), 0, None),
        )
        yield (*self.call(mark, words), Label("enter", MAP, checks, frames)), "absent"

    def leave_kvm_set_spte_gfn(
        self, mark: Mark, words: Any, frames: Any, outcome: str
    ) -> Iterator[Observed]:
        """-ENOMEM if the table page was missing; else a leaf was stored."""
        returned = Check("returns", RET, 0 if outcome == "stored" else ENOMEM, None)
        yield (Label("leave", MAP, (returned,), frames), *self.call(mark, words)), ""

    def store_KVM_spte(
        self, mark: Mark, words: Any, frames: Any, outcome: str
    ) -> Iterator[Observed]:
        yield (), "stored" if mark.frames[-1] == "kvm_set_spte_gfn" else outcome

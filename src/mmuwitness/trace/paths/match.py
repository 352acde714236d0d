"""Does an event fit a label: same function or tracepoint, called from there, with equal arguments.

The model has a few pages with numbers; the trace has addresses, gfns and pfns. Which stands for
which is found out on the way (`Names`), is the same along one activity of one task, and is
forgotten when the next begins.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from mmuwitness.model.state import Kind
from mmuwitness.trace.paths.graph import Word, part_of
from mmuwitness.trace.paths.observe import CALLERS, CALLS, FUNCTIONS, TOLD_BY_CALLER, Check, Label

PAGE_SHIFT = 12
PFN_MASK = (1 << 40) - 1
PTE_WRITE, PTE_DIRTY = 1 << 1, 1 << 6
ARM64_PTE_WRITE, ARM64_PTE_DIRTY, ARM64_PFN_MASK = 1 << 51, 1 << 55, (1 << 36) - 1
PROT_W = 1 << 1
FSC_TYPE, FSC_PERMISSION = 0x3C, 0x0C
SPTE_WRITABLE, SPTE_ACCESS = 1 << 1, 0b111
"""No bit of ACCESS is set in an SPTE that maps nothing: 0, bit 63, MMIO, a removed one."""
PFN_ERROR, PFN_NO_SLOT = 0x7FF << 52, 0xFFF << 52
"""KVM_PFN_ERR_*: what hva_to_pfn() returns for an address without a page."""

ADDRESS_MAX = (1 << 64) - 1
"""Where the window of exit_mmap() ends."""

Names = frozenset[tuple[Any, int]]
"""What the model's values are called in the trace."""


class Seen(NamedTuple):
    """An event of a trace that the model may have."""

    row: int
    place: int
    time_ns: int
    pid: int
    task: str
    what: str  # "enter", "leave", "trace", or "user": the task was in the guest or in user mode
    name: str  # of the kernel's function, or of the tracepoint
    fields: dict[str, Any]
    caller: str  # where a return goes, "" if it is not known
    stack: tuple[str, ...]  # innermost first; () if none was recorded

    def __str__(self) -> str:
        text = {"enter": "{}()", "leave": "return from {}()", "trace": "{}", "user": "{}"}
        shown = [f"{k}={v:#x}" if isinstance(v, int) else f"{k}={v}" for k, v in self.shown()]
        return " ".join([text[self.what].format(self.name), *shown])

    def shown(self) -> list[tuple[str, Any]]:
        """The arguments that say most, for a person."""
        wanted = ("start", "end", "addr", "gfn", "pfn", "pte", "new_spte", "spte", "ret")
        pairs = [(k, v) for k, v in self.fields.items() if k in wanted and v is not None]
        return [*pairs, ("caller", self.caller)] if self.caller else pairs


@dataclass(frozen=True)
class Matcher:
    """sizes: of the model's world; slot_pages: of its memslot.

    nested: the hardware walks the guest's page tables, so that a fault tells a physical address.
    arm64: how PTEs are laid out; else as on x86.
    outcomes: what a fault came to -> the codes that this kernel returns for it.
    visible: functions seen in stacks. foreign: functions of the kernel that the model does not
    have, as far as we know them."""

    sizes: dict[str, int]
    slot_pages: int
    nested: bool
    outcomes: Mapping[str, Collection[int]]
    visible: frozenset[str]
    foreign: frozenset[str]
    arm64: bool = False

    def match(self, label: Label, seen: Seen, names: Names) -> Names | None:
        """The names after an event of the label's function or tracepoint; None: it does not fit."""
        if (seen.caller or seen.stack) and not self.called_from(label, seen):
            return None
        if not label.checks:
            return names
        known = dict(names)
        for check in label.checks:
            value = next((seen.fields[n] for n in check.names if n in seen.fields), None)
            if isinstance(value, int) and not self.holds(check, value, known):
                return None
        return names if len(known) == len(names) else frozenset(known.items())

    def called_from(self, label: Label, seen: Seen) -> bool:
        owners = TOLD_BY_CALLER.intersection(label.frames)
        if owners and seen.stack and owners.isdisjoint(seen.stack):
            return False
        told = bool(owners and seen.caller and label.name.startswith("__mmu_notifier_"))
        if told or seen.caller in FUNCTIONS or seen.caller in self.foreign:
            return seen.caller in label.frames and seen.caller not in self.foreign
        if not seen.stack:
            return True
        around = {*label.frames, *(c for f in label.frames for c in CALLERS.get(f, ()))}
        if any((f in self.foreign or f in FUNCTIONS) and f not in around for f in seen.stack):
            return False
        return all(f in seen.stack for f in self.visible & OWN_FRAMES.intersection(label.frames))

    def holds(self, check: Check, value: int, known: dict[Any, int]) -> bool:
        if isinstance(check.word, str):
            return signed(value) in self.outcomes[check.word] or (
                check.word in ("error", "failed") and signed(value) < 0
            )
        role: Any = getattr(self, f"role_{check.role}")
        return bool(role(check.word, check.kind, value, known))

    # -- roles: what a number of the trace has to do with one of the model ------------------------

    def role_hva(self, word: Word, _: Kind | None, value: int, known: dict[Any, int]) -> bool:
        return self.page_number("hva", word, value >> PAGE_SHIFT, known)

    def role_hva_end(self, word: Word, kind: Kind | None, value: int, known: Any) -> bool:
        last = word - 1 if isinstance(word, int) else word
        return self.page_number("hva", last, (value - 1) >> PAGE_SHIFT, known)

    def role_faulting(self, word: Word, _: Kind | None, value: int, known: dict[Any, int]) -> bool:
        """The guest's physical address; with shadow paging its virtual one."""
        if self.nested:
            return self.page_number("gfn", word, value >> PAGE_SHIFT, known)
        return self.same("gva", word, value >> PAGE_SHIFT, known)

    def role_gfn(self, word: Word, _: Kind | None, value: int, known: dict[Any, int]) -> bool:
        return self.page_number("gfn", word, value, known)

    def role_gfn_end(self, word: Word, _: Kind | None, value: int, known: dict[Any, int]) -> bool:
        return self.page_number(
            "gfn", word - 1 if isinstance(word, int) else word, value - 1, known
        )

    def page_number(self, space: str, word: Word, value: int, known: dict[Any, int]) -> bool:
        """One page is one number, in the order in which they are met; a memslot is linear."""
        if not isinstance(word, int):
            return True
        if (space, word) in known:
            return known[space, word] == value
        if any(key[0] == space and have == value for key, have in known.items()):
            return False
        if 0 < word < self.slot_pages and ("hva", 0) not in known and ("gfn", 0) not in known:
            return False
        known[space, word] = value
        if word < self.slot_pages and ("hva", word) in known and ("gfn", word) in known:
            offset = known["hva", word] - known["gfn", word]
            return known.setdefault(("offset", 0), offset) == offset
        return True

    def role_run_hva(self, word: Word, _: Kind | None, value: int, known: dict[Any, int]) -> bool:
        return self.same("first hva", word, value >> PAGE_SHIFT, known)

    def role_run_hva_end(self, word: Word, _: Kind | None, value: int, known: Any) -> bool:
        return self.same("last hva", word, (value - 1) >> PAGE_SHIFT, known)

    def role_address_max(self, _: Word, __: Kind | None, value: int, known: Any) -> bool:
        return value == ADDRESS_MAX

    def role_run_gfn(self, word: Word, _: Kind | None, value: int, known: dict[Any, int]) -> bool:
        return self.same("first gfn", word, value, known)

    def role_run_gfn_end(self, word: Word, _: Kind | None, value: int, known: Any) -> bool:
        """Of a memslot there are at most as many as the window has pages."""
        first = known.get(("first gfn", word), value - 1)
        fits = first < value and value - 1 - first <= window_size(word, known)
        return fits and self.same("last gfn", word, value - 1, known)

    def role_run_leaf(self, word: Word, _: Kind | None, value: int, known: dict[Any, int]) -> bool:
        """Leaves go in their order, each once, all inside what the handler was called for."""
        first = known.setdefault(("first leaf", word), value)
        before = known.get(("leaf", word), first - 1)
        known["leaf", word] = value
        begin, last = known.get(("first gfn", word)), known.get(("last gfn", word))
        inside = (begin is None or begin <= value) and (last is None or value <= last)
        return before < value and inside and value - first <= window_size(word, known)

    def role_pfn(self, word: Word, _: Kind | None, value: int, known: dict[Any, int]) -> bool:
        missing = value & PFN_ERROR != 0
        if word == 0 or missing:
            return word == 0 and missing
        return self.same("pfn", word, value, known)

    def role_pointer(self, word: Word, _: Kind | None, value: int, known: dict[Any, int]) -> bool:
        if word == 0 or value == 0:
            return word == value
        return self.same("pointer", word, value, known)

    def same(self, space: str, word: Word, value: int, known: dict[Any, int]) -> bool:
        return known.setdefault((space, word), value) == value

    def role_pte(self, word: Word, kind: Kind | None, value: int, known: dict[Any, int]) -> bool:
        """The same value all along, with what the model says of its parts."""
        write, dirty, mask = PTE_WRITE, PTE_DIRTY, PFN_MASK
        if self.arm64:
            write, dirty, mask = ARM64_PTE_WRITE, ARM64_PTE_DIRTY, ARM64_PFN_MASK
        for name, bit in (("write", write), ("dirty", dirty)):
            part = part_of(word, kind, name, self.sizes)
            if isinstance(part, int) and bool(part) is not bool(value & bit):
                return False
        page = part_of(word, kind, "page", self.sizes)
        pfn = value >> PAGE_SHIFT & mask
        return self.same("pfn", page, pfn, known) and self.same("pte", word, value, known)

    def role_spte(self, word: Word, kind: Kind | None, value: int, known: dict[Any, int]) -> bool:
        present = value & SPTE_ACCESS != 0
        modelled = part_of(word, kind, "present", self.sizes)
        if isinstance(modelled, int) and bool(modelled) is not present:
            return False
        if not present:
            return True
        if value & SPTE_WRITABLE and part_of(word, kind, "write", self.sizes) == 0:
            return False
        return self.role_spte_page(part_of(word, kind, "page", self.sizes), kind, value, known)

    def role_spte_page(self, word: Word, _: Kind | None, value: int, known: Any) -> bool:
        return self.same("pfn", word, value >> PAGE_SHIFT & PFN_MASK, known)

    def role_flag(self, word: Word, _: Kind | None, value: int, known: Any) -> bool:
        return not isinstance(word, int) or value & 0xFF == word

    # -- arm64: stage 2 ---------------------------------------------------------------------------

    def role_ipa(self, word: Word, _: Kind | None, value: int, known: dict[Any, int]) -> bool:
        return self.page_number("gfn", word, value >> PAGE_SHIFT, known)

    def role_run_ipa(self, word: Word, kind: Kind | None, value: int, known: Any) -> bool:
        return self.role_run_leaf(word, kind, value >> PAGE_SHIFT, known)

    def role_pages(self, word: Word, _: Kind | None, value: int, known: dict[Any, int]) -> bool:
        return not isinstance(word, int) or value >> PAGE_SHIFT == word

    def role_run_pages(self, word: Word, _: Kind | None, value: int, known: Any) -> bool:
        """What goes with the part that begins at the last IPA."""
        begin, part = known["leaf", word], value >> PAGE_SHIFT
        known["leaf", word] = begin + part - 1
        return part > 0 and begin + part - 1 - known["first leaf", word] <= window_size(word, known)

    def role_phys(self, word: Word, _: Kind | None, value: int, known: dict[Any, int]) -> bool:
        return self.same("pfn", word, value >> PAGE_SHIFT, known)

    def role_prot(self, word: Word, _: Kind | None, value: int, known: dict[Any, int]) -> bool:
        return not isinstance(word, int) or bool(value & PROT_W) is bool(word)

    def role_syndrome(self, _: Word, __: Kind | None, value: int, known: dict[Any, int]) -> bool:
        """ESR_ELx of the fault: was a leaf there that does not permit it?"""
        known["permission", 0] = int(value & FSC_TYPE == FSC_PERMISSION)
        return True

    def role_permission(self, word: Word, _: Kind | None, value: int, known: Any) -> bool:
        return bool(known.get(("permission", 0), word) == word)

    def role_returns(self, word: Word, _: Kind | None, value: int, known: Any) -> bool:
        return signed(value) == word

    def role_number(self, word: Word, _: Kind | None, value: int, known: Any) -> bool:
        return value == word

    def role_errno(self, word: Word, _: Kind | None, value: int, known: Any) -> bool:
        return not isinstance(word, int) or bool(word) is (value == 0)

    def role_zero(self, word: Word, _: Kind | None, value: int, known: Any) -> bool:
        return value == 0


OWN_FRAMES = frozenset(
    name for row in CALLS.values() if not row.tail_called for name in row.kernel
) - {"kvm_tdp_mmu_unmap_gfn_range", "kvm_tdp_mmu_set_spte_gfn"}
"""Functions that a stack shows whenever they are active (unless they are inlined everywhere)."""


def window_size(window: Word, known: Mapping[Any, int]) -> int:
    """How far the last page of a window is behind its first, as far as that is known."""
    first, last = known.get(("first hva", window)), known.get(("last hva", window))
    return PFN_MASK if first is None or last is None else last - first


def signed(value: int) -> int:
    """A return value as the kernel means it, whatever width it was recorded with."""
    if value >= 1 << 63:
        return value - (1 << 64)
    return value - (1 << 32) if 1 << 31 <= value < 1 << 32 else value

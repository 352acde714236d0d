"""Writes BTF, by the description of the format and not by what reads it."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

from mmuwitness.trace.record.btf import Btf

INT, PTR, ARRAY, STRUCT, UNION = 1, 2, 3, 4, 5
TYPEDEF, CONST, FUNC, FUNC_PROTO = 8, 10, 12, 13


class BtfBuilder:
    """Types are numbered as they are added; 0 is void. A split one goes on from its base."""

    def __init__(self, order: str = "<", base: BtfBuilder | None = None) -> None:
        self.order = order
        self.next: int = base.next if base else 1
        self.strings_first: int = base.strings_first + len(base.strings) if base else 0
        self.types = b""
        self.strings: bytes = b"" if base else b"\0"

    def _name(self, text: str) -> int:
        if not text:
            return 0
        at = self.strings_first + len(self.strings)
        self.strings += text.encode() + b"\0"
        return at

    def _add(self, name: str, kind: int, vlen: int, third: int, rest: bytes = b"") -> int:
        info = kind << 24 | vlen
        self.types += struct.pack(self.order + "III", self._name(name), info, third) + rest
        self.next += 1
        return self.next - 1

    def integer(self, name: str, size: int, *, signed: bool = False) -> int:
        encoding = int(signed) << 24 | 8 * size
        return self._add(name, INT, 0, size, struct.pack(self.order + "I", encoding))

    def pointer(self, to: int) -> int:
        return self._add("", PTR, 0, to)

    def array(self, of: int, index: int, number: int) -> int:
        return self._add("", ARRAY, 0, 0, struct.pack(self.order + "III", of, index, number))

    def typedef(self, name: str, of: int) -> int:
        return self._add(name, TYPEDEF, 0, of)

    def const(self, of: int) -> int:
        return self._add("", CONST, 0, of)

    def struct(
        self, name: str, size: int, members: Sequence[tuple[str, int, int]], kind: int = STRUCT
    ) -> int:
        """Members by name, type and offset in bytes."""
        rest = b"".join(
            struct.pack(self.order + "III", self._name(each), of, 8 * offset)
            for each, of, offset in members
        )
        return self._add(name, kind, len(members), size, rest)

    def function(self, name: str, returns: int, parameters: Iterable[tuple[str, int]]) -> int:
        pairs = [(self._name(each), of) for each, of in parameters]
        rest = b"".join(struct.pack(self.order + "II", *pair) for pair in pairs)
        prototype = self._add("", FUNC_PROTO, len(pairs), returns, rest)
        return self._add(name, FUNC, 1, prototype)

    def data(self) -> bytes:
        length, strings = len(self.types), len(self.strings)
        header = struct.pack(self.order + "HBBIIIII", 0xEB9F, 1, 0, 24, 0, length, length, strings)
        return header + self.types + self.strings


class Kernel:
    """The types that probes need, laid out as in a Debian kernel: 6.1.192 or 6.12.117 on x86-64.

    The offsets were read from those kernels by other means (perf probe, bpftool).
    """

    def __init__(self, release: str) -> None:
        old = release == "6.1"
        vmlinux = BtfBuilder()
        u8, u32 = vmlinux.integer("bool", 1), vmlinux.integer("unsigned int", 4)
        self.long = vmlinux.integer("long unsigned int", 8)
        self.s64 = vmlinux.integer("long int", 8, signed=True)
        s32, s16 = vmlinux.integer("int", 4, signed=True), vmlinux.integer("short", 2, signed=True)
        mm = vmlinux.pointer(vmlinux.struct("mm_struct", 1024, []))
        vma = vmlinux.pointer(vmlinux.struct("vm_area_struct", 152, [("vm_mm", mm, 16)]))
        first = [("vma", vma, 0)] if old else []
        names = [("mm", mm), ("start", self.long), ("end", self.long), ("flags", u32)]
        offsets = [8, 16, 24, 32, 36] if old else [0, 8, 16, 24, 28]
        members = [(*pair, at) for pair, at in zip([*names, ("event", u32)], offsets, strict=True)]
        range_type = vmlinux.struct("mmu_notifier_range", 56 if old else 48, first + members)
        of_range = vmlinux.pointer(vmlinux.const(range_type))
        only_end = [("only_end", u8)] if old else []
        vmlinux.function("__mmu_notifier_invalidate_range_start", s32, [("range", of_range)])
        vmlinux.function("__mmu_notifier_invalidate_range_end", 0, [("range", of_range), *only_end])
        inner = vmlinux.struct("", 40, [("vma", vma, 0), ("address", self.long, 24)])
        fault_members = [("", vmlinux.const(inner), 0), ("flags", vmlinux.typedef("f", u32), 40)]
        vmf = vmlinux.pointer(vmlinux.struct("vm_fault", 120, fault_members))
        vmlinux.function("do_wp_page", vmlinux.typedef("vm_fault_t", u32), [("vmf", vmf)])
        kvm = BtfBuilder(base=vmlinux)
        notifier = kvm.struct("mmu_notifier", 56, [])
        at = 35080 if old else 2352
        self.kvm = kvm.struct(
            "kvm",
            at + 2000,
            [
                ("mn_active_invalidate_count", self.long, 0),
                ("mmu_notifier", notifier, at),
                ("mmu_invalidate_seq", self.long, at + 56),
                ("mmu_invalidate_in_progress", self.s64, at + 64),
                ("mmu_invalidate_range_start", self.long, at + 72),
                ("mmu_invalidate_range_end", self.long, at + 80),
            ],
        )
        mn = kvm.pointer(notifier)
        kvm.function(
            "kvm_mmu_notifier_invalidate_range_start", s32, [("mn", mn), ("range", of_range)]
        )
        slot = kvm.pointer(kvm.struct("kvm_memory_slot", 264, [("id", s16, 260)]))
        pte = kvm.struct("pte_t", 8, [("pte", self.long, 0)])
        kvm.struct("union", 8, [("pte", pte, 0), ("attributes", self.long, 0)], kind=UNION)
        union = kvm.next - 1
        gfns = [("slot", slot, 0), ("start", self.long, 8), ("end", self.long, 16)]
        gfns += [("pte", pte, 24), ("may_block", u8, 32)] if old else [("arg", union, 24)]
        of_gfns = kvm.pointer(kvm.struct("kvm_gfn_range", 40, gfns))
        of_kvm = kvm.pointer(self.kvm)
        kvm.function("kvm_unmap_gfn_range", u8, [("kvm", of_kvm), ("range", of_gfns)])
        kvm.function("kvm_set_spte_gfn", u8, [("kvm", of_kvm), ("range", of_gfns)])
        kvm.function("hva_to_pfn", self.long, [("addr", self.long), ("atomic", u8)])
        self.btf = Btf(kvm.data(), "kvm", Btf(vmlinux.data(), "vmlinux"))

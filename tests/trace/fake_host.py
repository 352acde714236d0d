"""A host whose tracefs is a fake one, with a few processes and the types of a 6.1."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmuwitness.trace.record.host import Host
from mmuwitness.trace.record.tracefs import Tracefs
from tests.trace.btf_builder import Kernel
from tests.trace.fake_tracefs import FakeTracefs

HAS = (
    "kvm/kvm_unmap_hva_range",
    "kvm/kvm_set_spte_hva",
    "kvm/kvm_exit",
    "kvmmmu/kvm_tdp_mmu_spte_changed",
    "migrate/mm_migrate_pages",
    "exceptions/page_fault_user",
    "syscalls/sys_enter_madvise",
)
FUNCTIONS = ("kvm_unmap_gfn_range", "do_wp_page", "hva_to_pfn")
CPU0 = """\
             vmm-7       [000] .....     1.000001: kvm_exit: vcpu 0 reason npf
            ksmd-9       [000] .....     1.000005: kvm_unmap_hva_range: mmu notifier unmap range
            ksmd-9       [000] .....     1.000006: <stack trace>
 => kvm_mmu_notifier_invalidate_range_start
 => try_to_merge_one_page
             vmm-7       [000] .....     1.000009: sys_madvise -> 0x0
"""
CPU1 = """\
             vmm-8       [001] .....     1.000002: kvm_exit: vcpu 1 reason npf
CPU:1 [LOST 3 EVENTS]
             vmm-8       [001] .....     1.000007: sys_madvise(start: 1, len_in: 2)
"""
STATS = "entries: 0\noverrun: {}\ncommit overrun: 0\ndropped events: {}\nread events: {}\n"


def fake_tracefs(path: Path, **options: Any) -> FakeTracefs:
    path.mkdir(exist_ok=True)
    return FakeTracefs(
        path,
        HAS,
        FUNCTIONS,
        pipes=(CPU0, CPU1),
        stats=(STATS.format(0, 1, 4), STATS.format(5, 0, 2)),
        **options,
    )


def fake_host(tracefs: Tracefs | None, path: Path) -> Host:
    """A process 100 with three threads, ksmd, and the types of a 6.1."""
    for comm in ("100/task/100", "100/task/101", "100/task/105", "33"):
        (path / comm).mkdir(parents=True, exist_ok=True)
        (path / comm / "comm").write_text("ksmd\n" if comm == "33" else "vmm\n")
    (path / "100/comm").write_text("vmm\n")
    symbols = "".join(f"0 t {name}\n" for name in (*FUNCTIONS, "twice", "twice"))
    (path / "kallsyms").write_text(symbols)
    kvm = Kernel("6.1").btf
    assert kvm.base
    (path / "vmlinux").write_bytes(kvm.base.data)
    (path / "kvm").write_bytes(kvm.data)
    return Host("6.1.0", "x86_64", 2, 1 << 20, tracefs, btf_directory=path, proc=path)


def tracefs_of(host: Host) -> FakeTracefs:
    assert isinstance(host.tracefs, FakeTracefs)
    return host.tracefs

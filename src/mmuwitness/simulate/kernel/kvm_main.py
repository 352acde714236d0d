"""virt/kvm/kvm_main.c: the lookup with one more try, of which checks see nothing, and prices do."""

from __future__ import annotations

from typing import Any

from mmuwitness.model.mm.gup import get_user_page_fast_only, get_user_pages_unlocked
from mmuwitness.model.mm.mm_types import put_page


def hva_to_pfn(kvm, fault, writable):
    """hva_to_pfn_slow() maps a read fault as writable if it can: else who reads a page that was
    dropped, and then writes to it, would exit twice.  Checks have nothing to find in it."""
    addr = fault.hva
    if fault.write or writable:
        fault.page = get_user_page_fast_only(kvm.mm, addr, True)
        fault.map_writable = fault.page is not None
    if fault.page is None:
        fault.page = get_user_pages_unlocked(kvm.mm, addr, fault.write)
        fault.map_writable = fault.write
        if writable and not fault.write and fault.page is not None:
            wpage = get_user_page_fast_only(kvm.mm, addr, True)
            if wpage is not None:
                put_page(fault.page)
                fault.page = wpage
                fault.map_writable = True


LEFT_OUT: dict[str, Any] = {"kvm.kvm_main.hva_to_pfn": hva_to_pfn}
"""In the place of the model's, for all workloads."""

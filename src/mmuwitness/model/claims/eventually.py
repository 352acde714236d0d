"""What has to happen in the end: claims of the kind `eventually`, one function each.

Each says that nothing is pending; the claim is that no fair run stays in states in which something
is (see explore/lasso.py for what is fair).  A run in which windows open and close for ever may
starve a fault by right; so what faults may wait for is said in each claim.
"""

from __future__ import annotations

from typing import Any

from mmuwitness.model.claims.claim import eventually
from mmuwitness.model.claims.conditional import has_caches
from mmuwitness.model.kvm.memslots import gfn_to_hva
from mmuwitness.model.state import Bounded


def updates_memslots(host: Any) -> bool:
    return bool(host.kvm.updates_memslots)


def everybody_ends(host: Any) -> bool:
    return bool(host.mm.ends)


@eventually("I10")
def fault_maps(host: Any) -> Any:
    """Once nobody invalidates any more, a guest that faults gets its page in the end."""
    faulting = False
    for vcpu in host.vcpus:
        faulting = faulting or vcpu.faulting
    return host.mm.invalidating != 0 or not faulting


@eventually("")
def other_windows_pass(host: Any) -> Any:
    """Windows over other pages, one that stays open or many one after another, keep no guest from
    getting its page in the end."""
    for vcpu in host.vcpus:
        if vcpu.faulting and host.mm.open_windows[gfn_to_hva(vcpu.kvm, vcpu.fault_gfn)] == 0:
            return False
    return True


@eventually("")
def windows_close(host: Any) -> Any:
    """KVM does not count a window as open for ever."""
    for kvm in host.kvms:
        if kvm.mmu_invalidate_in_progress != 0 or kvm.mn_active_invalidate_count != 0:
            return False
    return True


@eventually("", where=updates_memslots)
def memslot_update_ends(host: Any) -> Any:
    """A memslot update that has begun ends."""
    return not host.kvm.updating


@eventually("", where=has_caches)
def cache_refreshes(host: Any) -> Any:
    """A write through a gfn_to_pfn_cache is made in the end: its refresh ends."""
    return not host.kvm.refreshing


@eventually("", where=everybody_ends)
def references_are_dropped(host: Any) -> Any:
    """Who refers to a page for a time drops it: in the end a page has as many references as there
    are PTEs that map it, and is counted as mapped that often."""
    for page in host.pages:
        mapped: Bounded(0, 2) = 0  # type: ignore[valid-type]
        for addr in host.mm.addresses:
            pte = host.mm.pte[addr]
            if pte.present and pte.page is page:
                mapped += 1
        if page.refcount != mapped or page.mapcount != mapped:
            return False
    return True


@eventually("", where=everybody_ends)
def mapped_page_on_lru(host: Any) -> Any:
    """A page that a PTE maps is on the LRU in the end, and a walk of its reverse mapping comes to
    that PTE."""
    for addr in host.mm.addresses:
        pte = host.mm.pte[addr]
        if pte.present and not (pte.page.lru and pte.page.rmap[addr]):
            return False
    return True

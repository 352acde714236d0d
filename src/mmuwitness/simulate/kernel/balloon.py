"""drivers/virtio/virtio_balloon.c: pages that the guest does without; the VMM gives them back."""

from __future__ import annotations

from mmuwitness.model.mm.memory import zap_page_range


def balloon_page(mm, addr, pages):
    """MADV_DONTNEED of what the guest reported: a page, or a free block of several."""
    zap_page_range(mm, addr, min(addr + pages, mm.nr_addresses))

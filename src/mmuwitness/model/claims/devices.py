"""What is claimed of devices that mirror an mm through an interval subscription."""

from __future__ import annotations

from typing import Any

from mmuwitness.model.claims.claim import always


def has_devices(host: Any) -> bool:
    return bool(host.devices)


@always("D1", "ptl", "mutex", where=has_devices)
def device_coherent(host: Any) -> Any:
    """Where no window is open, a present entry of a device's page table maps the page that the PTE
    maps, and is writable only if the PTE is."""
    mm = host.mm
    for device in host.devices:
        for addr in mm.addresses:
            entry = device.pt[addr]
            if mm.open_windows[addr] == 0 and entry.present:
                pte = mm.pte[addr]
                if not pte.present or pte.page is not entry.page or (entry.write and not pte.write):
                    return False
    return True


@always("D2", "mutex", where=has_devices)
def device_absent_in_window(host: Any) -> Any:
    """While a window is open the entries of a device's page table under it are absent."""
    for device in host.devices:
        for addr in host.mm.addresses:
            if host.mm.open_windows[addr] != 0 and device.pt[addr].present:
                return False
    return True


@always("D4", where=has_devices)
def freed_page_not_in_device(host: Any) -> Any:
    """A page that is free is in no device's page table."""
    for device in host.devices:
        for addr in host.mm.addresses:
            entry = device.pt[addr]
            if entry.present and entry.page.refcount == 0:
                return False
    return True


@always("D5", where=has_devices)
def shared_page_read_only_in_device(host: Any) -> Any:
    """No entry of a device's page table is writable that maps a KSM page, or a page mapped
    twice."""
    for device in host.devices:
        for addr in host.mm.addresses:
            entry = device.pt[addr]
            if entry.present and entry.write and (entry.page.ksm or entry.page.mapcount > 1):
                return False
    return True


@always("D8", "subscriptions", where=has_devices)
def interval_windows_balanced(host: Any) -> Any:
    """When nobody is between start() and end(), active_invalidate_ranges is 0 and the sequence of
    interval subscriptions is even."""
    for device in host.devices:
        subscriptions = device.notifier.subscriptions
        active = subscriptions.active_invalidate_ranges != 0 or subscriptions.invalidating
        if host.mm.invalidating == 0 and active:
            return False
    return True

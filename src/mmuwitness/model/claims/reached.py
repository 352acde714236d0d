"""Marks that are asked for: whether they are ever reached, or that they never are."""

from __future__ import annotations

from mmuwitness.model.claims.claim import reach
from mmuwitness.model.claims.conditional import frees_tables, has_caches, unregisters
from mmuwitness.model.claims.devices import has_devices
from mmuwitness.model.kvm import kvm_main, pfncache
from mmuwitness.model.mm import mmu_interval_notifier, mmu_notifier
from mmuwitness.model.primitives import SLEEPS

reach("sometimes", "changes", kvm_main.CHANGES, "change_pte changes a present SPTE.")
reach("sometimes", "installs_read_only", kvm_main.INSTALLS_READ_ONLY,
      "change_pte installs a read-only SPTE where none was.")  # fmt: skip
reach("sometimes", "installs_writable", kvm_main.INSTALLS_WRITABLE,
      "change_pte installs a writable SPTE where none was.")  # fmt: skip
reach("sometimes", "zaps", kvm_main.ZAPS, "change_pte zaps a present SPTE.")
reach("sometimes", "flushes", kvm_main.FLUSHES, "change_pte makes KVM flush remote TLBs.")
reach("sometimes", "in_invalid_slot", kvm_main.IN_INVALID_SLOT,
      "change_pte gets to a memslot that is being deleted.")  # fmt: skip
reach("never", "follows_nothing", pfncache.FOLLOWS_NOTHING,
      "KVM never follows a gfn_to_pfn_cache that is valid and maps nothing.",
      where=has_caches)  # fmt: skip
reach("never", "warns", kvm_main.NOT_BRACKETED,
      "The WARN_ON of change_pte is never reached: every call is inside a window.")  # fmt: skip
reach("never", "sleeps_in_atomic", SLEEPS,
      "Nothing sleeps while ptl or another lock that spins is held, or where a window must not"
      " block.", "I12")  # fmt: skip
reach("never", "used_after_remove", mmu_interval_notifier.AFTER_REMOVE,
      "Nobody uses an interval subscription, or calls its driver, once"
      " mmu_interval_notifier_remove() has returned.", "D11", where=has_devices)  # fmt: skip
reach("never", "used_after_unregister", mmu_notifier.AFTER_UNREGISTER,
      "No subscriber is called, or still being called, once mmu_notifier_unregister() has returned:"
      " what it belongs to may be free.", where=unregisters)  # fmt: skip
reach("never", "unlinked_twice", mmu_notifier.UNLINKED_TWICE,
      "Nobody takes a subscriber off the list that somebody else has taken off it.",
      where=unregisters)  # fmt: skip
reach("never", "walks_freed", kvm_main.WALKS_FREED,
      "No walk of the secondary MMU goes through tables that are freed.",
      where=frees_tables)  # fmt: skip

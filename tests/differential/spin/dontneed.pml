/* The scenario `dontneed` on a v5.10 kernel with the x86 TDP MMU: the VMM drops guest pages with
 * MADV_DONTNEED, any number of times, while vCPUs read gfns and write some, fault, and install
 * what they looked up unless an invalidation came between.
 *
 * -DNVCPU, -DNGFN, -DNPAGES and -DWRITTEN give its other sizes (dontneed_one, dontneed_smp).
 * -DNEVER_RETRIES breaks it: mmu_invalidate_retry() always says that the lookup is not stale.
 *
 * vcpu()                                      location
 *   vcpu_run(), guest_access()                guest
 *   page_fault(): snapshot of the sequence    snapshot_seq
 *   get_user_page_fast_only()                 gup_fast
 *   follow_page(), before and after a fault   follow_page, follow_again
 *   handle_mm_fault()                         handle_mm_fault, wp_fault
 *   do_anonymous_page(), install_page()       anonymous_page, install_page, lost_race, on_lru,
 *                                             set_pte
 *   direct_page_fault(), put_page()           page_fault, put_pfn
 * madvise()
 *   madvise_dontneed()                        madvise_next
 *   invalidate_range_start() of KVM           range_start, zap_spte, flush
 *   zap_pte_range()                           zap_pte, remove_rmap
 *   invalidate_range_end() of KVM             range_end
 *   tlb_finish_mmu(): the page is freed       finish
 *
 * mmap_lock is taken for read only, so it makes nobody wait and is left out.  Every PTE is
 * writable or none: copy-on-write is out of reach, which wp_fault asserts.
 */

/* At each address a page of its own: writable, dirty, on the LRU. */
#define PTE0 7  /* entry(0, PRESENT | WRITE | DIRTY) */
#define PTE1 15 /* entry(1, PRESENT | WRITE | DIRTY) */
#if NGFN == 1
#define REFCOUNTS 1
#define MAPCOUNTS 1
#define RMAP 1
#define LRU 1
#else
#define REFCOUNTS 9
#define MAPCOUNTS 5
#define RMAP 33
#define LRU 3
#endif
#define KSM 0
#include "host.pml"

#define me _pid

/* guest_access() by vcpu_run(): a step that exits remembers what the guest wanted. */
#define ACCESS(g, w) \
	:: d_step { no_exit(me, g, w) -> guest_access(me, g, w) }; goto guest \
	:: d_step { !no_exit(me, g, w) -> gfn = g; write = w }; goto snapshot_seq

active [NVCPU] proctype vcpu() {
	unsigned gfn : 1;
	unsigned write : 1;
	unsigned map_writable : 1;
	unsigned page : 2;
	unsigned orig_pte : 5;

guest:
	if
	ACCESS(0, 0)
#if NGFN == 2
	ACCESS(1, 0)
#endif
#if WRITTEN >= 1
	ACCESS(0, 1)
#endif
#if WRITTEN == 2
	ACCESS(1, 1)
#endif
	fi;

snapshot_seq:
	snapshot(me);

gup_fast:
	if
	:: d_step { allows(pte[gfn], 1) ->
		page = page_of(pte[gfn]);
		get_page(page);
		map_writable = 1;
		write = 0 };
		goto page_fault
	:: !allows(pte[gfn], 1) -> goto follow_page
	fi;

follow_page:
	if
	:: d_step { !ptl && allows(pte[gfn], write) ->
		page = page_of(pte[gfn]);
		get_page(page);
		map_writable = write;
		write = 0 };
		goto page_fault
	:: !ptl && !allows(pte[gfn], write) -> goto handle_mm_fault
	fi;

handle_mm_fault:
	if
	:: pte[gfn] == 0 -> goto anonymous_page
	:: d_step { pte[gfn] != 0 && write -> orig_pte = pte[gfn] }; goto wp_fault
	:: pte[gfn] != 0 && !write -> goto follow_again
	fi;

wp_fault:
	if
	:: d_step { !ptl ->
		assert(pte[gfn] != orig_pte || (orig_pte & WRITE));
		orig_pte = 0 }
	fi;
	goto follow_again;

anonymous_page:
	if
	:: d_step { some_page_is_free ->
		alloc_page(page);
		if
		:: written_to(gfn) == UNKNOWN -> set_written(gfn, 0)
		:: else
		fi };
		goto install_page
	:: !some_page_is_free -> goto follow_again
	fi;

install_page:
	if
	:: d_step { !ptl && pte[gfn] == 0 -> ptl = 1; page_add_new_anon_rmap(page, gfn) };
		goto on_lru
	:: !ptl && pte[gfn] != 0 -> goto lost_race
	fi;

lost_race:
	if
	:: d_step { put_page(page); page = 0 }
	fi;
	goto follow_again;

on_lru:
#if NVCPU == 1
	/* Nobody else reads the PTE without ptl, so this is one step. */
	if
	:: d_step {
		lru_cache_add(page);
		pte[gfn] = entry(page, PRESENT | WRITE | DIRTY);
		page = 0;
		ptl = 0 }
	fi;
#else
	if
	:: d_step { lru_cache_add(page) }
	fi;

set_pte:
	d_step {
		pte[gfn] = entry(page, PRESENT | WRITE | DIRTY);
		page = 0;
		ptl = 0 };
#endif

follow_again:
	if
	:: d_step { !ptl && allows(pte[gfn], write) ->
		page = page_of(pte[gfn]);
		get_page(page);
		map_writable = write;
		write = 0 };
		goto page_fault
	:: d_step { !ptl && !allows(pte[gfn], write) -> gfn = 0; write = 0; forget(me) };
		goto guest
	fi;

page_fault:
	if
	:: d_step { !mmu_lock ->
		direct_page_fault(me, gfn, page, map_writable);
		gfn = 0;
		map_writable = 0;
		forget(me) }
	fi;

put_pfn:
	d_step { put_page(page); page = 0 };
	goto guest
}

/* Where there is one address there is no choice: the next call begins in the step that ends the
 * one before. */
#if NGFN == 2
#define MADVISE_AGAIN madvise_next
#define call_again skip
#else
#define MADVISE_AGAIN range_start
#define call_again invalidating++
#endif

active proctype madvise() {
	unsigned addr : 1;
	unsigned page : 3; /* one more than the page; 0: none */

madvise_next:
	if
	:: d_step { addr = 0; invalidating++ }
#if NGFN == 2
	:: d_step { addr = 1; invalidating++ }
#endif
	fi;

range_start:
	if
	:: d_step { !mmu_lock && (spte[addr] & PRESENT) && addr == 0 ->
		mmu_lock = 1;
		kvm_mmu_invalidate_begin();
		spte[0] = 0 };
		goto flush
	:: d_step { !mmu_lock && (spte[addr] & PRESENT) && addr == 1 ->
		mmu_lock = 1;
		kvm_mmu_invalidate_begin() }
	:: d_step { !mmu_lock && !(spte[addr] & PRESENT) ->
		kvm_mmu_invalidate_begin();
		window_opens(addr) };
		goto zap_pte
	fi;

zap_spte:
	spte[addr] = 0;

flush:
	if
	:: d_step { flush_remote_tlbs; mmu_lock = 0; window_opens(addr) }
	fi;

zap_pte:
	if
	:: d_step { !ptl && (pte[addr] & PRESENT) ->
		ptl = 1;
		page = page_of(pte[addr]) + 1;
		pte[addr] = 0;
		set_written(addr, UNKNOWN) }
	:: d_step { !ptl && !(pte[addr] & PRESENT) -> window_closes(addr); addr = 0 };
		goto range_end
	fi;

remove_rmap:
	d_step {
		page_remove_rmap(page - 1, addr);
		ptl = 0;
		window_closes(addr);
		addr = 0 };

range_end:
	if
	:: d_step { !mmu_lock && page != 0 ->
		kvm_mmu_invalidate_end();
		invalidating-- }
	:: d_step { !mmu_lock && page == 0 ->
		kvm_mmu_invalidate_end();
		invalidating--;
		call_again };
		goto MADVISE_AGAIN
	fi;

finish:
	d_step { put_page(page - 1); page = 0; call_again };
	goto MADVISE_AGAIN
}

CLAIMS

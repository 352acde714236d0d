/* The scenario `ksm_alone` on a v5.10 kernel: ksmd merges the page at address 0 with a KSM page,
 * or makes it one, any number of times, while a vCPU reads and writes it and so breaks
 * copy-on-write.  Both change the PTE with set_pte_at_notify(), which calls KVM's .change_pte()
 * before it installs the PTE.
 *
 * With the x86 TDP MMU, or -DARM64: stage 2 of arm64.  There .change_pte() installs a read-only
 * leaf wherever the last-level table page exists, and that page exists as long as a leaf is in it.
 * -DNEIGHBOUR is the scenario `ksm`: another leaf is, for good.
 *
 * vcpu()                                      location
 *   vcpu_run(), guest_access()                guest
 *   page_fault(): snapshot of the sequence    snapshot_seq
 *   get_user_page_fast_only(), for write      gup_fast
 *   follow_page(), before and after a fault   follow_page, follow_again
 *   handle_mm_fault()                         handle_mm_fault, wp_fault
 *   do_anonymous_page(): loses its race       anonymous_page, install_page, lost_race
 *   do_wp_page()                              try_page_lock, test_ksm, test_refcount,
 *                                             page_unlock, hold_old
 *   wp_page_copy()                            copy, no_memory, cow_*
 *   direct_page_fault(), user_mem_abort()     page_fault, map
 *   put_page()                                put_pfn
 * ksmd()
 *   ksm_do_scan()                             first, scan, test_page, drop_page
 *   stable_tree_search()                      search
 *   try_to_merge_one_page()                   lock_page, compare, compare_with, become_ksm,
 *                                             unlock_page
 *   write_protect_page()                      wp_*
 *   replace_page()                            rp_*
 *   stable_tree_append(), put_page()          append_lock, append, append_unlock, put_kpage
 *
 * Address 1 is mapped by a KSM page for good, and nobody looks there: only page 1's counts tell.
 * mmap_lock is taken for read only, so it is left out.  What the assertions say, mmuwitness says
 * too, because it does not reach what they exclude: under ptl the PTE is present, change_pte()
 * never finds a present SPTE, and a fault finds none that maps another page.
 */

#define NGFN 1
#define NPAGES 3
#define PTE0 7 /* entry(0, PRESENT | WRITE | DIRTY) */
#define REFCOUNTS 9
#define MAPCOUNTS 5
#define RMAP 33
#define LRU 3
#define KSM 2 /* page 1 */
#include "host.pml"

#define me _pid

unsigned page_locks : 4; /* a bit for each page */
#define page_locked(page) (page_locks & (1 << (page)))
#define take_page_lock(page) page_locks = page_locks | (1 << (page))
#define drop_page_lock(page) page_locks = page_locks & ~(1 << (page))

#ifdef NEIGHBOUR
bit table = 1; /* arm64: the last-level table page exists */
#else
bit table;
#endif

/* Both windows of ksmd and the one of copy-on-write are over address 0.  With the SPTE zapped,
 * mmu_lock is held on to the flush. */
#define RANGE_START_ZAPS \
	!mmu_lock && (spte[0] & PRESENT) -> \
		mmu_lock = 1; \
		kvm_mmu_invalidate_begin(); \
		spte[0] = 0
#define RANGE_START_FINDS_NONE \
	!mmu_lock && !(spte[0] & PRESENT) -> \
		kvm_mmu_invalidate_begin(); \
		window_opens(0)
#ifdef NEIGHBOUR
#define free_empty_table skip
#else
#define free_empty_table table = 0
#endif
#define FLUSH \
	flush_remote_tlbs; \
	free_empty_table; \
	mmu_lock = 0; \
	window_opens(0)
#define RANGE_END \
	kvm_mmu_invalidate_end(); \
	invalidating--

/* change_pte() that leaves the SPTE alone; on arm64, that holds mmu_lock and then installs one. */
#ifdef ARM64
#define installs table
#else
#define installs false
#endif
#define CHANGE_PTE_DOES_NOTHING \
	!mmu_lock && !installs -> \
		bump_seq; \
		assert(!(spte[0] & PRESENT))
#define CHANGE_PTE_BEGINS \
	!mmu_lock && installs -> \
		bump_seq; \
		assert(!(spte[0] & PRESENT)); \
		mmu_lock = 1
#define CHANGE_PTE_INSTALLS(page) \
	spte[0] = entry(page, PRESENT); \
	if \
	:: in_progress != 1 -> crowded = 1 \
	:: else \
	fi; \
	mmu_lock = 0

#ifdef ARM64
#define permission_fault (spte[0] & PRESENT)
#else
#define permission_fault 0 /* nobody will read it */
#endif
#define ACCESS(w) \
	:: d_step { no_exit(me, 0, w) -> guest_access(me, 0, w) }; goto guest \
	:: d_step { !no_exit(me, 0, w) -> write = w; permission = permission_fault }; \
		goto snapshot_seq

active proctype vcpu() {
	unsigned write : 1;
	unsigned permission : 1;
	unsigned map_writable : 1;
	unsigned page : 2;
	unsigned orig_pte : 5;
	unsigned new : 2;
	bit reuse;
	bit copied;

guest:
	if
	ACCESS(0)
	ACCESS(1)
	fi;

snapshot_seq:
	snapshot(me);

gup_fast:
	if
	:: d_step { allows(pte[0], 1) ->
		page = page_of(pte[0]);
		get_page(page);
		map_writable = 1;
		write = 0 };
		goto page_fault
	:: !allows(pte[0], 1) -> goto follow_page
	fi;

follow_page:
	if
	:: d_step { !ptl && allows(pte[0], write) ->
		page = page_of(pte[0]);
		get_page(page);
		map_writable = write;
		write = 0 };
		goto page_fault
	:: !ptl && !allows(pte[0], write) -> goto handle_mm_fault
	fi;

handle_mm_fault: /* without ptl: the PTE is none while ksmd replaces it */
	if
	:: pte[0] == 0 -> goto anonymous_page
	:: d_step { pte[0] != 0 -> assert(write); orig_pte = pte[0] }; goto wp_fault
	fi;

anonymous_page:
	if
	:: d_step { some_page_is_free -> alloc_page(page) }
	:: !some_page_is_free -> goto follow_again
	fi;

install_page:
	d_step { !ptl -> assert(pte[0] != 0) };

lost_race:
	d_step { put_page(page); page = 0 };
	goto follow_again;

wp_fault:
	if
	:: d_step { !ptl && pte[0] == orig_pte && !(orig_pte & WRITE) -> ptl = 1 }
	:: d_step { !ptl && (pte[0] != orig_pte || (orig_pte & WRITE)) -> orig_pte = 0 };
		goto follow_again
	fi;

try_page_lock:
	if
	:: d_step { !page_locked(page_of(orig_pte)) -> take_page_lock(page_of(orig_pte)) }
	:: page_locked(page_of(orig_pte)) -> goto hold_old
	fi;

test_ksm:
	if
	:: is_ksm(page_of(orig_pte)) -> goto page_unlock
	:: !is_ksm(page_of(orig_pte))
	fi;

test_refcount:
	reuse = (refcount(page_of(orig_pte)) == 1);

page_unlock:
	if
	:: d_step { reuse ->
		drop_page_lock(page_of(orig_pte));
		pte[0] = orig_pte | WRITE | DIRTY;
		ptl = 0;
		reuse = 0;
		orig_pte = 0 };
		goto follow_again
	:: d_step { !reuse -> drop_page_lock(page_of(orig_pte)) }
	fi;

hold_old:
	if
	:: d_step { get_page(page_of(orig_pte)); ptl = 0 }
	fi;

copy: /* page is the old one from here on */
	if
	:: d_step { some_page_is_free ->
		alloc_page(new);
		page = page_of(orig_pte);
		content = content | (content_of(page) << new);
		invalidating++ }
	:: d_step { !some_page_is_free -> page = page_of(orig_pte); orig_pte = 0 }; goto no_memory
	fi;

cow_start:
	if
	:: d_step { RANGE_START_ZAPS }
	:: d_step { RANGE_START_FINDS_NONE }; goto cow_ptl
	fi;

cow_flush:
	d_step { FLUSH };

cow_ptl:
	if
	:: d_step { !ptl && pte[0] == orig_pte ->
		ptl = 1;
		pte[0] = 0;
		page_add_new_anon_rmap(new, 0);
		orig_pte = 0 }
	:: d_step { !ptl && pte[0] != orig_pte -> window_closes(0); orig_pte = 0 }; goto cow_end
	fi;

cow_lru:
	d_step { lru_cache_add(new) };

cow_set_pte: /* change_pte(), then set_pte_at() */
	if
	:: d_step { CHANGE_PTE_BEGINS }
	:: d_step { CHANGE_PTE_DOES_NOTHING; pte[0] = entry(new, PRESENT | WRITE | DIRTY) };
		goto cow_remove_rmap
	fi;

cow_set_both:
	d_step { CHANGE_PTE_INSTALLS(new); pte[0] = entry(new, PRESENT | WRITE | DIRTY) };

cow_remove_rmap:
	if
	:: d_step { page_remove_rmap(page, 0) }
	fi;

cow_put_mapped:
	d_step { put_page(page); copied = 1; ptl = 0; window_closes(0) };

cow_end:
	if
	:: d_step { !mmu_lock && copied -> RANGE_END; copied = 0; new = 0 }; goto cow_put_old
	:: d_step { !mmu_lock && !copied -> RANGE_END }
	fi;

cow_put_new:
	d_step { put_page(new); new = 0 };

cow_put_old:
	if
	:: d_step { put_page(page); page = 0 }
	fi;
	goto follow_again;

no_memory:
	if
	:: d_step { put_page(page); page = 0 }
	fi;

follow_again:
	if
	:: d_step { !ptl && allows(pte[0], write) ->
		page = page_of(pte[0]);
		get_page(page);
		map_writable = write;
		write = 0 };
		goto page_fault
	:: d_step { !ptl && !allows(pte[0], write) ->
		write = 0;
		permission = 0;
		forget(me) };
		goto guest
	fi;

page_fault:
#ifndef ARM64
	if
	:: d_step { !mmu_lock ->
		direct_page_fault(me, 0, page, map_writable);
		map_writable = 0;
		forget(me) }
	fi;
#else
	if
	:: d_step { !mmu_lock && !must_retry(me) && !permission ->
		assert(!(spte[0] & PRESENT) || page_of(spte[0]) == page);
		mmu_lock = 1;
		table = 1;
		forget(me) }
	:: d_step { !mmu_lock && (must_retry(me) || permission) ->
		if
		:: !must_retry(me) && map_writable && (spte[0] & PRESENT) -> spte[0] = spte[0] | WRITE
		:: else
		fi;
		permission = 0;
		map_writable = 0;
		forget(me) };
		goto put_pfn
	fi;

map:
	d_step { spte[0] = entry(page, PRESENT | (map_writable -> WRITE : 0));
		map_writable = 0;
		mmu_lock = 0 };
#endif

put_pfn:
	if
	:: d_step { put_page(page); page = 0 }
	fi;
	goto guest
}

#define same(k) (is_ksm(k) && k != page && content_of(k) == content_of(page))

active proctype ksmd() {
	unsigned page : 2;
	unsigned kpage : 3; /* one more than the page; 0: none, the page itself becomes a KSM page */
	unsigned orig_pte : 5;
	unsigned mine : 1; /* content of page, as read by memcmp */
	bit done; /* the page is write-protected; then, that it is merged */

first:
	skip;

scan:
	if
	:: d_step { !ptl -> assert(allows(pte[0], 0)); page = page_of(pte[0]); get_page(page) }
	fi;

test_page:
	if
	:: is_ksm(page) -> goto drop_page
	:: !is_ksm(page)
	fi;

search: /* pages in their order */
	d_step {
		kpage = (same(0) -> 1 : (same(1) -> 2 : (same(2) -> 3 : 0)));
		if
		:: kpage != 0 -> get_page(kpage - 1)
		:: else
		fi };

lock_page:
	if
	:: d_step { !page_locked(page) -> take_page_lock(page); invalidating++ }
	:: page_locked(page) && kpage != 0 -> goto put_kpage
	:: page_locked(page) && kpage == 0 -> goto drop_page
	fi;

wp_start:
	if
	:: d_step { RANGE_START_ZAPS }
	:: d_step { RANGE_START_FINDS_NONE }; goto wp_ptl
	fi;

wp_flush:
	d_step { FLUSH };

wp_ptl:
	if
	:: d_step { !ptl && page_of(pte[0]) == page && (pte[0] & (WRITE | DIRTY)) ->
		ptl = 1;
		orig_pte = pte[0];
		pte[0] = 0 }
	:: d_step { !ptl && page_of(pte[0]) == page && !(pte[0] & (WRITE | DIRTY)) ->
		orig_pte = pte[0];
		done = 1;
		window_closes(0) };
		goto wp_end
	:: d_step { !ptl && page_of(pte[0]) != page -> window_closes(0) }; goto wp_end
	fi;

wp_test_refcount: /* somebody else's reference may be used to write */
	if
	:: mapcount(page) + 1 != refcount(page) -> goto wp_restore
	:: d_step { mapcount(page) + 1 == refcount(page) -> orig_pte = entry(page, PRESENT) }
	fi;

wp_change_pte:
	if
	:: d_step { CHANGE_PTE_BEGINS }
	:: d_step { CHANGE_PTE_DOES_NOTHING }; goto wp_set_pte
	fi;

wp_set_spte:
	d_step { CHANGE_PTE_INSTALLS(page) };

wp_set_pte:
	if
	:: d_step { pte[0] = orig_pte; done = 1; ptl = 0; window_closes(0) }
	fi;
	goto wp_end;

wp_restore:
	if
	:: d_step { pte[0] = orig_pte; orig_pte = 0; ptl = 0; window_closes(0) }
	fi;

wp_end:
	if
	:: d_step { !mmu_lock && done && kpage != 0 -> RANGE_END; done = 0 }; goto compare
	:: d_step { !mmu_lock && done && kpage == 0 -> RANGE_END; done = 0; orig_pte = 0 };
		goto become_ksm
	:: d_step { !mmu_lock && !done -> RANGE_END }; goto unlock_page
	fi;

become_ksm:
	if
	:: d_step { ksm = ksm | (1 << page); rmap = rmap & ~rmap_bit(page, 0); done = 1 }
	fi;
	goto unlock_page;

compare: /* memcmp() reads one page, then the other */
	mine = content_of(page);

compare_with:
	if
	:: d_step { content_of(kpage - 1) == mine -> mine = 0; invalidating++ }
	:: d_step { content_of(kpage - 1) != mine -> mine = 0; orig_pte = 0 }; goto unlock_page
	fi;

rp_start:
	if
	:: d_step { RANGE_START_ZAPS }
	:: d_step { RANGE_START_FINDS_NONE }; goto rp_ptl
	fi;

rp_flush:
	d_step { FLUSH };

rp_ptl:
	if
	:: d_step { !ptl && pte[0] == orig_pte -> ptl = 1; get_page(kpage - 1); orig_pte = 0 }
	:: d_step { !ptl && pte[0] != orig_pte -> window_closes(0); orig_pte = 0 }; goto rp_end
	fi;

rp_add_rmap: /* the reverse mapping itself comes later: append */
	mapcounts = mapcounts + (1 << 2 * (kpage - 1));

rp_clear_pte:
	pte[0] = 0;

rp_change_pte:
	if
	:: d_step { CHANGE_PTE_BEGINS }
	:: d_step { CHANGE_PTE_DOES_NOTHING }; goto rp_set_pte
	fi;

rp_set_spte:
	d_step { CHANGE_PTE_INSTALLS(kpage - 1) };

rp_set_pte:
	pte[0] = entry(kpage - 1, PRESENT);

rp_remove_rmap:
	d_step { page_remove_rmap(page, 0) };

rp_put_page:
	d_step { put_page(page); done = 1; ptl = 0; window_closes(0) };

rp_end:
	if
	:: d_step { !mmu_lock -> RANGE_END }
	fi;

unlock_page:
	if
	:: d_step { done -> drop_page_lock(page); done = 0 }; goto append_lock
	:: d_step { !done && kpage != 0 -> drop_page_lock(page) }; goto put_kpage
	:: d_step { !done && kpage == 0 -> drop_page_lock(page) }; goto drop_page
	fi;

#define merged (kpage != 0 -> kpage - 1 : page)

append_lock:
	if
	:: d_step { !page_locked(merged) -> take_page_lock(merged) }
	fi;

append:
	rmap = rmap | rmap_bit(merged, 0);

append_unlock:
	if
	:: d_step { kpage != 0 -> drop_page_lock(merged) }; goto put_kpage
	:: d_step { kpage == 0 -> drop_page_lock(merged) }; goto drop_page
	fi;

put_kpage:
	if
	:: d_step { put_page(kpage - 1); kpage = 0 }
	fi;

drop_page:
	if
	:: d_step { put_page(page); page = 0 }
	fi;
	goto scan
}

CLAIMS

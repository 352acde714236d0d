/* The scenario `uprobe` on a v5.10 kernel with the x86 TDP MMU: a page of guest memory is replaced
 * by a copy that holds a breakpoint, any number of times, while a vCPU reads its gfns.  The PTE is
 * changed with set_pte_at_notify(), which calls KVM's .change_pte() before it installs the PTE.
 * -DNGFN=1 -DNPAGES=2 is uprobe_one.
 *
 * vcpu()                                      location
 *   vcpu_run(), guest_access()                guest
 *   page_fault(): snapshot of the sequence    snapshot_seq
 *   get_user_page_fast_only(), for write      gup_fast
 *   get_user_pages_unlocked(), follow_page()  mmap_read_lock, follow_page
 *   direct_page_fault(), put_page()           page_fault, put_pfn
 * perf()
 *   uprobe_register(), uprobe_write_opcode()  next, mmap_write_lock
 *   follow_page(), copy_page()                follow, copy, no_memory
 *   __replace_page()                          add_rmap, on_lru, clear_pte, set_pte, remove_rmap,
 *                                             put_old
 *   invalidate_range_start() and _end()       range_start, zap_spte, flush, range_end
 *   change_pte()                              change_pte
 *
 * What the assertions say, mmuwitness says too, because it does not reach what they exclude: the
 * PTE is present whenever somebody holds mmap_lock for read, nobody but perf takes the page lock
 * (so it is left out), and change_pte() never finds a present SPTE.
 */

/* At each address a page of its own, not writable. */
#define PTE0 1 /* entry(0, PRESENT) */
#define PTE1 9 /* entry(1, PRESENT) */
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
#ifndef NPAGES
#define NPAGES 3
#endif
#include "host.pml"

#define me _pid

bit mmap_reader;
bit mmap_writer;

#define ACCESS(g) \
	:: d_step { no_exit(me, g, 0) -> guest_access(me, g, 0) }; goto guest \
	:: d_step { !no_exit(me, g, 0) -> gfn = g }; goto snapshot_seq

active proctype vcpu() {
	unsigned gfn : 1;
	unsigned page : 2;

guest:
	if
	ACCESS(0)
#if NGFN == 2
	ACCESS(1)
#endif
	fi;

snapshot_seq:
	snapshot(me);

gup_fast: /* finds a PTE that is not writable, or none */
	assert(!allows(pte[gfn], 1));

mmap_read_lock:
	d_step { !mmap_writer -> mmap_reader = 1 };

follow_page:
	d_step { !ptl ->
		assert(allows(pte[gfn], 0));
		page = page_of(pte[gfn]);
		get_page(page);
		mmap_reader = 0 };

page_fault:
	d_step { !mmu_lock ->
		direct_page_fault(me, gfn, page, 0);
		gfn = 0;
		forget(me) };

put_pfn:
	d_step { put_page(page); page = 0 };
	goto guest
}

active proctype perf() {
	unsigned addr : 1;
	unsigned old : 2;
	unsigned new : 2;

next:
#if NGFN == 2
	if
	:: addr = 0
	:: addr = 1
	fi;
#endif

mmap_write_lock:
	if
	:: d_step { !mmap_writer && !mmap_reader -> mmap_writer = 1 }
	fi;

follow:
	d_step { !ptl ->
		assert(allows(pte[addr], 0));
		old = page_of(pte[addr]);
		get_page(old) };

copy:
	if
	:: d_step { some_page_is_free ->
		alloc_page(new);
		content = content | (content_of(old) << new);
		invalidating++ }
	:: d_step { !some_page_is_free -> addr = 0 }; goto no_memory
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
		goto add_rmap
	fi;

zap_spte:
	spte[addr] = 0;

flush:
	if
	:: d_step { flush_remote_tlbs; mmu_lock = 0; window_opens(addr) }
	fi;

add_rmap:
	if
	:: d_step { !ptl ->
		ptl = 1;
		assert(allows(pte[addr], 0) && page_of(pte[addr]) == old);
		page_add_new_anon_rmap(new, addr) }
	fi;

on_lru:
	d_step { lru_cache_add(new) };

clear_pte:
	pte[addr] = 0;

change_pte:
	d_step { !mmu_lock ->
		bump_seq;
		assert(!(spte[addr] & PRESENT)) };

set_pte:
	pte[addr] = entry(new, PRESENT);

remove_rmap:
	d_step { page_remove_rmap(old, addr) };

put_old:
	d_step { put_page(old); ptl = 0; window_closes(addr); addr = 0 };

range_end:
	d_step { !mmu_lock ->
		kvm_mmu_invalidate_end();
		invalidating--;
		new = 0 };

no_memory: /* and the end of a replacement: the reference of follow_page() */
	if
	:: d_step { put_page(old); old = 0; mmap_writer = 0 }
	fi;
#if NGFN == 2
	goto next
#else
	goto mmap_write_lock
#endif
}

CLAIMS

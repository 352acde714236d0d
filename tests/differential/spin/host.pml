/* The state of a host, and what happens to it inside one step: the part that the scenarios of this
 * directory share.  Written by hand from the kernel's rules as src/mmuwitness/model states them,
 * to be explored by SPIN: nothing here is generated, and nothing of mmuwitness reads it.
 *
 * An includer may define NVCPU (vCPUs), NGFN (gfns: 1 or 2; address and gfn are the same number),
 * NPAGES (up to 4) and WRITTEN (guests write the first so many gfns); it must define what holds in
 * the beginning: PTE0 and PTE1, REFCOUNTS, MAPCOUNTS, RMAP, LRU, KSM.  -DNOCLAIMS leaves the
 * claims out.
 *
 * Rules that make SPIN's states those of mmuwitness, one for one:
 *   - a step is one d_step (or one expression); its first statement says when it is enabled,
 *     locks included, and a label stands where a process can be found between two steps;
 *   - a local that nobody will read is 0;
 *   - mmu_invalidate_seq is one bit for each vCPU: its snapshot is fresh.  A bump clears all.
 * Small fields of several objects share a number, because SPIN does not pack arrays.
 */

#ifndef NVCPU
#define NVCPU 1
#endif
#ifndef NGFN
#define NGFN 2
#endif
#ifndef NPAGES
#define NPAGES 4
#endif
#ifndef WRITTEN
#define WRITTEN 1
#endif

/* A PTE, an SPTE or an entry of a TLB: three flags, and the page above them.  0 is none. */
#define PRESENT 1
#define WRITE 2
#define DIRTY 4
#define entry(page, flags) ((page) << 3 | (flags))
#define page_of(e) ((e) >> 3)
#define allows(e, write) (((e) & PRESENT) && (!(write) || ((e) & WRITE)))

/* struct page: a bit, 3 bits or 2 bits for each page; rmap has a bit for each address and page. */
unsigned content : 4 = 0;
unsigned refcounts : 12 = REFCOUNTS;
unsigned mapcounts : 8 = MAPCOUNTS;
unsigned rmap : 8 = RMAP;
unsigned lru : 4 = LRU;
unsigned ksm : 4 = KSM;
#define refcount(page) ((refcounts >> 3 * (page)) & 7)
#define mapcount(page) ((mapcounts >> 2 * (page)) & 3)
#define content_of(page) ((content >> (page)) & 1)
#define is_ksm(page) ((ksm >> (page)) & 1)
#define rmap_bit(page, addr) (1 << ((page) + 4 * (addr)))
#define free(page) (NPAGES > (page) && refcount(page) == 0)
#define some_page_is_free (free(0) || free(1) || free(2) || free(3))

/* struct mm_struct.  Ghosts: windows (2 bits for each address), invalidating, written (2 bits for
 * each address: what was last stored there, or UNKNOWN), stale_load. */
bit ptl;
#if NGFN == 2
byte pte[2] = { PTE0, PTE1 };
#else
byte pte[1] = { PTE0 };
#endif
unsigned windows : 4;
unsigned invalidating : 3;
unsigned written : 4;
bit stale_load;
#define UNKNOWN 2
#define open_windows(addr) ((windows >> 2 * (addr)) & 3)
#define written_to(addr) ((written >> 2 * (addr)) & 3)
#define set_written(addr, what) written = (written & ~(3 << 2 * (addr))) | ((what) << 2 * (addr))

/* struct kvm and its vCPUs.  Ghosts: unbumped, crowded. */
bit mmu_lock;
unsigned in_progress : 3;
unsigned fresh : 3;
byte spte[NGFN];
byte tlb[NVCPU * NGFN];
unsigned unbumped : 3;
bit crowded;
#ifdef NEVER_RETRIES
#define snapshot(vcpu) skip /* nobody will read it */
#else
#define snapshot(vcpu) fresh = fresh | (1 << (vcpu))
#endif
#define forget(vcpu) fresh = fresh & ~(1 << (vcpu))
#define bump_seq fresh = 0

/* ---- mm ---- */

inline get_page(page) {
	refcounts = refcounts + (1 << 3 * (page))
}

/* The last reference frees the page; what it says about its contents goes with it. */
inline put_page(page) {
	refcounts = refcounts - (1 << 3 * (page));
	if
	:: refcount(page) == 0 ->
		content = content & ~(1 << (page));
		lru = lru & ~(1 << (page));
		ksm = ksm & ~(1 << (page))
	:: else
	fi
}

/* The lowest free page, with one reference; there is one. */
inline alloc_page(page) {
	page = (free(0) -> 0 : (free(1) -> 1 : (free(2) -> 2 : 3)));
	refcounts = refcounts + (1 << 3 * (page))
}

inline lru_cache_add(page) {
	lru = lru | (1 << (page))
}

inline page_add_new_anon_rmap(page, addr) {
	mapcounts = mapcounts + (1 << 2 * (page));
	rmap = rmap | rmap_bit(page, addr)
}

inline page_remove_rmap(page, addr) {
	mapcounts = mapcounts - (1 << 2 * (page));
	rmap = rmap & ~rmap_bit(page, addr)
}

/* ---- KVM ---- */

inline kvm_mmu_invalidate_begin() {
	in_progress++;
	unbumped++
}

inline kvm_mmu_invalidate_end() {
	bump_seq;
	unbumped--;
	in_progress--
}

#if NGFN == 2
#define flush_vcpu(vcpu) tlb[2 * vcpu] = 0; tlb[2 * vcpu + 1] = 0
#else
#define flush_vcpu(vcpu) tlb[vcpu] = 0
#endif
#if NVCPU == 3
#define flush_remote_tlbs flush_vcpu(0); flush_vcpu(1); flush_vcpu(2)
#elif NVCPU == 2
#define flush_remote_tlbs flush_vcpu(0); flush_vcpu(1)
#else
#define flush_remote_tlbs flush_vcpu(0)
#endif

/* After the last callback of invalidate_range_start(), and before the first of _end(). */
#define window_opens(addr) windows = windows + (1 << 2 * (addr))
#define window_closes(addr) windows = windows - (1 << 2 * (addr))

/* mmu_invalidate_retry(): mmu_lock is held. */
#ifdef NEVER_RETRIES
#define must_retry(vcpu) false
#else
#define must_retry(vcpu) (in_progress != 0 || !(fresh & (1 << (vcpu))))
#endif

/* direct_page_fault(), under mmu_lock: retry, or install if no vCPU was faster. */
inline direct_page_fault(vcpu, gfn, page, writable) {
	if
	:: !must_retry(vcpu) && (!(spte[gfn] & PRESENT) ||
			(page_of(spte[gfn]) == (page) && !(spte[gfn] & WRITE))) ->
		spte[gfn] = entry(page, PRESENT | ((writable) -> WRITE : 0))
	:: else
	fi
}

/* guest_access(): one instruction of the guest that does not exit.  A TLB hit loads or stores; a
 * miss fills the TLB. */
#define TLB(vcpu, gfn) tlb[(vcpu) * NGFN + (gfn)]
#define no_exit(vcpu, gfn, write) (allows(TLB(vcpu, gfn), write) || allows(spte[gfn], write))

inline guest_access(vcpu, gfn, write) {
	if
	:: !allows(TLB(vcpu, gfn), write) -> TLB(vcpu, gfn) = spte[gfn]
	:: else ->
		if
		:: write ->
			content = content ^ (1 << page_of(TLB(vcpu, gfn)));
			set_written(gfn, content_of(page_of(TLB(vcpu, gfn))))
		:: else ->
			if
			:: written_to(gfn) != UNKNOWN &&
			   written_to(gfn) != content_of(page_of(TLB(vcpu, gfn))) -> stale_load = 1
			:: else
			fi
		fi
	fi
}

/* ---- claims: the safety predicates of src/mmuwitness/model/claims.py ---- */

#define maps(pte, e) ((pte & PRESENT) && page_of(pte) == page_of(e) && (!(e & WRITE) || (pte & WRITE)))
#define open(g) (open_windows(g) != 0)

#define coherent_at(g) (open(g) || !(spte[g] & PRESENT) || maps(pte[g], spte[g]))
#define absent_in_window_at(g) (!open(g) || !(spte[g] & PRESENT) || \
	((pte[g] & PRESENT) && page_of(pte[g]) == page_of(spte[g])))
#define no_lost_write_at(g) (!(pte[g] & PRESENT) || written_to(g) == UNKNOWN || \
	written_to(g) == content_of(page_of(pte[g])))

#define no_stale_entry(e, g) (!(e & PRESENT) || maps(pte[g], e))
#define maps_no_free_page(e, g) (!(e & PRESENT) || refcount(page_of(e)) != 0)
#define shared_read_only(e, g) (!(e & PRESENT) || !(e & WRITE) || \
	(!is_ksm(page_of(e)) && mapcount(page_of(e)) <= 1))

#if NGFN == 2
#define all_gfns(p) (p(0) && p(1))
#define all_entries(p, array, first) (p(array[first], 0) && p(array[first + 1], 1))
#else
#define all_gfns(p) (p(0))
#define all_entries(p, array, first) (p(array[first], 0))
#endif
#if NVCPU == 3
#define all_tlbs(p) (all_entries(p, tlb, 0) && all_entries(p, tlb, NGFN) && \
	all_entries(p, tlb, 2 * NGFN))
#elif NVCPU == 2
#define all_tlbs(p) (all_entries(p, tlb, 0) && all_entries(p, tlb, NGFN))
#else
#define all_tlbs(p) (all_entries(p, tlb, 0))
#endif

#define COHERENT (ptl || mmu_lock || all_gfns(coherent_at))
#define ABSENT_IN_WINDOW (ptl || mmu_lock || all_gfns(absent_in_window_at))
#define NO_STALE_TLB_ENTRY (ptl || mmu_lock || all_tlbs(no_stale_entry))
#define FREED_PAGE_UNMAPPED \
	(all_entries(maps_no_free_page, spte, 0) && all_tlbs(maps_no_free_page))
#define SHARED_PAGE_READ_ONLY \
	(all_entries(shared_read_only, spte, 0) && all_tlbs(shared_read_only))
#define NO_LOST_WRITE (ptl || (!stale_load && all_gfns(no_lost_write_at)))
#define WINDOWS_BALANCED (mmu_lock || invalidating != 0 || in_progress == 0)
#define SEQ_BEFORE_COUNT (mmu_lock || in_progress >= unbumped)
#define CHANGE_PTE_ALONE (!crowded)

/* A claim that does not hold is a step from the state to itself: SPIN then counts one transition
 * and one error more, and no state.  The number in the assertion is the claim's, I1 to I13. */
#ifndef NOCLAIMS
#define CLAIM(holds, number) :: d_step { !(holds) -> assert(violated == number) }
byte violated; /* always 0 */
#define CLAIMS \
	active proctype claims() { \
		do \
		CLAIM(COHERENT, 1) \
		CLAIM(ABSENT_IN_WINDOW, 2) \
		CLAIM(NO_STALE_TLB_ENTRY, 3) \
		CLAIM(FREED_PAGE_UNMAPPED, 4) \
		CLAIM(SHARED_PAGE_READ_ONLY, 5) \
		CLAIM(NO_LOST_WRITE, 6) \
		CLAIM(WINDOWS_BALANCED, 8) \
		CLAIM(SEQ_BEFORE_COUNT, 9) \
		CLAIM(CHANGE_PTE_ALONE, 13) \
		od \
	}
#else
#define CLAIMS
#endif

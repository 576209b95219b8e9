// SPDX-License-Identifier: GPL-2.0-only
/*
 * Huge pages for guest_memfd.
 *
 * Memory is allocated in chunks that are physically contiguous and aligned, and
 * goes into the page cache as single pages.  There are no large folios, i.e.
 * nothing to split or merge, and everything that concerns a single page
 * (conversions, holes, memory errors, references) works as if there were no
 * chunks.
 */
#include <linux/hash.h>
#include <linux/kvm_host.h>
#include <linux/mempolicy.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/pagemap.h>
#include <linux/seq_file.h>

#include "guest_memfd.h"
#include "guest_memfd_hugepages.h"
#include "kvm_mm.h"

/*
 * Mark the first page of a chunk as long as none of its pages has been punched.
 * cachestat() counts the page as dirty, but nothing else uses the tag.
 */
#define KVM_GMEM_TAG_CHUNK	PAGECACHE_TAG_DIRTY

static bool kvm_gmem_hugepages;
module_param_named(gmem_hugepages, kvm_gmem_hugepages, bool, 0644);

/*
 * Serialize allocating a chunk and making it private, as vCPUs that fault on it
 * hold the invalidate lock only for read.  Take a chunk lock inside the
 * invalidate lock.  Don't wait for a folio lock while holding a chunk lock.
 */
#define KVM_GMEM_CHUNK_LOCK_BITS	6
static struct mutex kvm_gmem_chunk_locks[BIT(KVM_GMEM_CHUNK_LOCK_BITS)];

void kvm_gmem_hugepages_init(void)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(kvm_gmem_chunk_locks); i++)
		mutex_init(&kvm_gmem_chunk_locks[i]);
}

static struct mutex *kvm_gmem_chunk_lock(struct inode *inode, pgoff_t index)
{
	unsigned long val = (unsigned long)inode + (index >> KVM_GMEM_CHUNK_ORDER);

	return &kvm_gmem_chunk_locks[hash_long(val, KVM_GMEM_CHUNK_LOCK_BITS)];
}

/*
 * A fault on one page can make the whole chunk private, but the folio lock only
 * excludes faults on the same page.
 */
void kvm_gmem_lock_chunk(struct inode *inode, pgoff_t index)
{
	if (GMEM_I(inode)->hugepages && GMEM_I(inode)->needs_reclaim)
		mutex_lock(kvm_gmem_chunk_lock(inode, index));
}

void kvm_gmem_unlock_chunk(struct inode *inode, pgoff_t index)
{
	if (GMEM_I(inode)->hugepages && GMEM_I(inode)->needs_reclaim)
		mutex_unlock(kvm_gmem_chunk_lock(inode, index));
}

/* With per-VM tracking, conversions punch holes, which break up chunks. */
bool kvm_gmem_use_hugepages(void)
{
	return kvm_gmem_in_place_conversion && READ_ONCE(kvm_gmem_hugepages);
}

static struct page *kvm_gmem_alloc_chunk_pages(struct inode *inode, pgoff_t index,
					       gfp_t gfp)
{
	struct mempolicy *policy;
	struct page *page;

	policy = mpol_shared_policy_lookup(&GMEM_I(inode)->policy, index);
	if (policy)
		page = mpol_alloc_pages(gfp, KVM_GMEM_CHUNK_ORDER, policy,
					NO_INTERLEAVE_INDEX, numa_node_id());
	else
		page = alloc_pages(gfp, KVM_GMEM_CHUNK_ORDER);
	mpol_cond_put(policy);

	if (page)
		split_page(page, KVM_GMEM_CHUNK_ORDER);
	return page;
}

static void kvm_gmem_add_chunk(struct address_space *mapping, pgoff_t first,
			       struct page *pages, gfp_t gfp)
{
	unsigned long i;

	for (i = 0; i < KVM_GMEM_CHUNK_PAGES; i++)
		__folio_mark_uptodate(page_folio(pages + i));

	if (filemap_add_pages(mapping, pages, KVM_GMEM_CHUNK_PAGES, first, gfp))
		return;

	xa_lock_irq(&mapping->i_pages);
	__xa_set_mark(&mapping->i_pages, first, KVM_GMEM_TAG_CHUNK);
	xa_unlock_irq(&mapping->i_pages);
	atomic_long_inc(&GMEM_I(mapping->host)->nr_chunks);

	for (i = 0; i < KVM_GMEM_CHUNK_PAGES; i++)
		folio_unlock(page_folio(pages + i));
}

static void kvm_gmem_fill_chunk(struct inode *inode, pgoff_t first, pgoff_t index)
{
	struct address_space *mapping = inode->i_mapping;
	unsigned long present = first;
	struct page *pages;
	gfp_t gfp;

	guard(mutex)(kvm_gmem_chunk_lock(inode, first));

	if (xa_find(&mapping->i_pages, &present, first + KVM_GMEM_CHUNK_MASK,
		    XA_PRESENT))
		return;

	/* Don't try hard and don't OOM-kill, as single pages will do. */
	gfp = mapping_gfp_mask(mapping) | __GFP_NORETRY | __GFP_NOWARN;

	pages = kvm_gmem_alloc_chunk_pages(inode, index, gfp);
	if (pages)
		kvm_gmem_add_chunk(mapping, first, pages, gfp);
}

/*
 * Allocate the chunk around @index if none of it is present.  Return the page
 * at @index, locked, or -ENOENT if it is not present afterwards.
 */
struct folio *kvm_gmem_alloc_chunk(struct inode *inode, pgoff_t index)
{
	pgoff_t first = round_down(index, KVM_GMEM_CHUNK_PAGES);

	lockdep_assert_held(&inode->i_mapping->invalidate_lock);

	if (first + KVM_GMEM_CHUNK_PAGES > i_size_read(inode) >> PAGE_SHIFT)
		return ERR_PTR(-ENOENT);

	kvm_gmem_fill_chunk(inode, first, index);
	return filemap_lock_folio(inode->i_mapping, index);
}

/*
 * Check the pages themselves, as the mark is only a hint.  Pages can be added
 * concurrently, but not removed while the invalidate lock is held.
 */
static bool kvm_gmem_chunk_is_contiguous(struct address_space *mapping,
					 pgoff_t first, struct page *pages)
{
	XA_STATE(xas, &mapping->i_pages, first);
	unsigned long i;

	guard(rcu)();

	if (xas_load(&xas) != pages)
		return false;

	for (i = 1; i < KVM_GMEM_CHUNK_PAGES; i++) {
		if (xas_next(&xas) != pages + i)
			return false;
	}
	return true;
}

static bool kvm_gmem_chunk_is_poisoned(struct address_space *mapping, pgoff_t first)
{
	XA_STATE(xas, &mapping->i_pages, first);
	struct folio *folio;

	guard(rcu)();

	xas_for_each_marked(&xas, folio, first + KVM_GMEM_CHUNK_MASK,
			    KVM_GMEM_TAG_POISONED) {
		if (!xas_retry(&xas, folio) && PageHWPoison(&folio->page))
			return true;
	}
	return false;
}

/*
 * Return the order at which a guest can map the page at @index, which depends
 * on all pages of its chunk.  The result is valid as long as
 * mmu_invalidate_seq, sampled with the invalidate lock held, does not change.
 * To that end, a change to any page is announced for its whole chunk, see
 * kvm_gmem_announce_chunks().
 */
int kvm_gmem_max_order(struct inode *inode, const struct kvm_memory_slot *slot,
		       pgoff_t index, kvm_pfn_t pfn)
{
	pgoff_t first = round_down(index, KVM_GMEM_CHUNK_PAGES);
	pgoff_t last = first + KVM_GMEM_CHUNK_MASK;
	struct kvm_gmem_attrs *attrs = &GMEM_I(inode)->attrs;

	if (!GMEM_I(inode)->hugepages)
		return 0;

	lockdep_assert_held(&inode->i_mapping->invalidate_lock);

	if ((pfn ^ index) & KVM_GMEM_CHUNK_MASK)
		return 0;

	if ((slot->base_gfn ^ slot->gmem.pgoff) & KVM_GMEM_CHUNK_MASK ||
	    first < slot->gmem.pgoff || last >= slot->gmem.pgoff + slot->npages)
		return 0;

	/* Only pages that were allocated as a chunk are worth checking. */
	if (!xa_get_mark(&inode->i_mapping->i_pages, first, KVM_GMEM_TAG_CHUNK))
		return 0;

	if (!kvm_gmem_attrs_range_is(attrs, first, last,
				     kvm_gmem_attrs_is_private(attrs, index)) ||
	    kvm_gmem_chunk_is_poisoned(inode->i_mapping, first) ||
	    !kvm_gmem_chunk_is_contiguous(inode->i_mapping, first,
					  pfn_to_page(pfn - (index - first))))
		return 0;

	return KVM_GMEM_CHUNK_ORDER;
}

/*
 * Make faults on all pages of a chunk retry if @range contains one of them, as
 * such a fault may be about to map the whole chunk.  A huge page needs the
 * whole chunk in one memslot, so other memslots don't matter.
 */
void kvm_gmem_announce_chunks(struct kvm *kvm, const struct kvm_gfn_range *range)
{
	struct inode *inode = range->slot->gmem.inode;

	lockdep_assert_held_write(&kvm->mmu_lock);

	/* No inode: the file is being closed, and @range is the whole slot. */
	if (!inode || !GMEM_I(inode)->hugepages)
		return;

	kvm_mmu_invalidate_range_add(kvm, round_down(range->start, KVM_GMEM_CHUNK_PAGES),
				     round_up(range->end, KVM_GMEM_CHUNK_PAGES));
}

#ifdef CONFIG_KVM_PROVE_MMU
/*
 * Check the result of kvm_gmem_max_order() again with mmu_lock held, right before
 * a huge page is mapped.  Any change must have been announced.
 */
bool kvm_gmem_chunk_is_whole(struct kvm *kvm, const struct kvm_memory_slot *slot,
			     gfn_t gfn, kvm_pfn_t pfn, bool is_private)
{
	pgoff_t index = gfn - slot->base_gfn + slot->gmem.pgoff;
	pgoff_t first = round_down(index, KVM_GMEM_CHUNK_PAGES);
	struct inode *inode;

	lockdep_assert_held(&kvm->mmu_lock);

	guard(rcu)();

	/* No inode: the file is being closed, and mappings will be zapped. */
	inode = READ_ONCE(slot->gmem.inode);
	if (!inode)
		return true;

	return kvm_gmem_attrs_range_is(&GMEM_I(inode)->attrs, first,
				       first + KVM_GMEM_CHUNK_MASK, is_private) &&
	       kvm_gmem_chunk_is_contiguous(inode->i_mapping, first,
					    pfn_to_page(pfn - (index - first)));
}

/*
 * Check that no fault can still map a page of the range, or a chunk that
 * contains such a page.
 */
void kvm_gmem_prove_announced(struct inode *inode, pgoff_t start, pgoff_t end)
{
	struct kvm_memory_slot *slot;
	struct gmem_file *f;
	unsigned long index;

	if (!GMEM_I(inode)->hugepages)
		return;

	kvm_gmem_for_each_file(f, inode) {
		struct kvm *kvm = f->kvm;

		xa_for_each_range(&f->bindings, index, slot, start, end - 1) {
			gfn_t base = slot->base_gfn - slot->gmem.pgoff;
			gfn_t first = base + max(slot->gmem.pgoff, start);
			gfn_t last = base + min(slot->gmem.pgoff + slot->npages, end) - 1;

			KVM_MMU_LOCK(kvm);
			WARN_ON_ONCE(!mmu_invalidate_retry_gfn(kvm, kvm->mmu_invalidate_seq,
							       first & ~KVM_GMEM_CHUNK_MASK));
			WARN_ON_ONCE(!mmu_invalidate_retry_gfn(kvm, kvm->mmu_invalidate_seq,
							       last | KVM_GMEM_CHUNK_MASK));
			KVM_MMU_UNLOCK(kvm);
		}
	}
}
#endif

static void kvm_gmem_split_chunk(struct inode *inode, pgoff_t index)
{
	struct kvm_memory_slot *slot;
	struct gmem_file *f;

	kvm_gmem_for_each_file(f, inode) {
		slot = xa_load(&f->bindings, index);
		if (slot)
			kvm_arch_gmem_split_mapping(f->kvm, slot, slot->base_gfn +
						    index - slot->gmem.pgoff);
	}
}

/*
 * Split huge mappings that are about to be zapped in part, so that the rest
 * stays mapped.  It does no harm if splitting fails, or if a fault undoes it:
 * zapping removes huge pages as a whole, and the guest faults the rest back in.
 */
void kvm_gmem_split_edges(struct inode *inode, pgoff_t start, pgoff_t end)
{
	lockdep_assert_held_write(&inode->i_mapping->invalidate_lock);

	if (!GMEM_I(inode)->hugepages)
		return;

	if (start & KVM_GMEM_CHUNK_MASK)
		kvm_gmem_split_chunk(inode, start);
	if (end & KVM_GMEM_CHUNK_MASK &&
	    (!(start & KVM_GMEM_CHUNK_MASK) || (start ^ end) >> KVM_GMEM_CHUNK_ORDER))
		kvm_gmem_split_chunk(inode, end - 1);
}

#ifdef CONFIG_HAVE_KVM_ARCH_GMEM_RECLAIM
/*
 * Release the whole chunk that begins with @folio in one go, if all of it
 * becomes shared.  Return the number of pages released, 0 if the caller has to
 * release them one by one, or a negative errno.
 */
int kvm_gmem_reclaim_chunk(struct inode *inode, struct folio *folio, pgoff_t last)
{
	pgoff_t first = folio->index, last_of_chunk = first + KVM_GMEM_CHUNK_MASK;
	int r;

	lockdep_assert_held_write(&inode->i_mapping->invalidate_lock);

	if (!GMEM_I(inode)->hugepages || last_of_chunk > last ||
	    (first | folio_pfn(folio)) & KVM_GMEM_CHUNK_MASK ||
	    !kvm_gmem_attrs_range_is(&GMEM_I(inode)->attrs, first, last_of_chunk, true) ||
	    !kvm_gmem_chunk_is_contiguous(inode->i_mapping, first, &folio->page))
		return 0;

	/* Exclude memory_failure() without taking 512 folio locks. */
	guard(rwsem_write)(&GMEM_I(inode)->bindings_lock);

	if (kvm_gmem_chunk_is_poisoned(inode->i_mapping, first))
		return 0;

	r = kvm_arch_gmem_reclaim(folio_pfn(folio), KVM_GMEM_CHUNK_PAGES);
	return r ?: KVM_GMEM_CHUNK_PAGES;
}
#endif

/* Clear the marks of chunks from which pages are about to be removed. */
void kvm_gmem_punch_chunks(struct inode *inode, pgoff_t start, pgoff_t end)
{
	struct xarray *pages = &inode->i_mapping->i_pages;
	unsigned long index = round_down(start, KVM_GMEM_CHUNK_PAGES);
	struct folio *folio;

	lockdep_assert_held_write(&inode->i_mapping->invalidate_lock);

	for (folio = xa_find(pages, &index, end - 1, KVM_GMEM_TAG_CHUNK); folio;
	     folio = xa_find_after(pages, &index, end - 1, KVM_GMEM_TAG_CHUNK)) {
		xa_lock_irq(pages);
		__xa_clear_mark(pages, index, KVM_GMEM_TAG_CHUNK);
		xa_unlock_irq(pages);
		atomic_long_dec(&GMEM_I(inode)->nr_chunks);
	}
}

void kvm_gmem_show_hugepages(struct seq_file *m, struct inode *inode)
{
	struct gmem_inode *gi = GMEM_I(inode);

	seq_printf(m, "gmem-page-size:\t%lu\n",
		   gi->hugepages ? PMD_SIZE : PAGE_SIZE);
	seq_printf(m, "gmem-chunks:\t%ld\n", atomic_long_read(&gi->nr_chunks));
}

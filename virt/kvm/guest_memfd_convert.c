// SPDX-License-Identifier: GPL-2.0-only
/*
 * In-place conversion of guest_memfd memory between shared and private.
 *
 * A conversion holds the file's invalidate lock for write from start to end,
 * which stops all faults on the file, by guests and by host userspace alike.
 * Nothing is changed for good until the conversion is certain to succeed:
 *
 * 1. Get memory for the store of the new attributes.
 * 2. To private: see that nobody on the host uses any of the pages, first with
 *    the host's mappings in place, as a page that is in use for long had better
 *    be found before they are torn down, then without them.
 * 3. Zap the kind of guest mappings that goes away.  Guests can't fault them
 *    back in until the conversion is done.
 * 4. To shared: have the architecture release the pages to the host.
 * 5. Store the new attributes and let everybody fault again.
 *
 * A fault that looked at the old attributes took mmu_invalidate_seq before it
 * did, and is thrown away because of step 3.
 */
#include <linux/delay.h>
#include <linux/jiffies.h>
#include <linux/kvm_host.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/sched/signal.h>
#include <linux/swap.h>
#include <linux/uaccess.h>

#include "guest_memfd.h"

/*
 * How long a conversion waits, in all, for references that go away by
 * themselves.  What is left once nobody can map or pin a page any more is gone
 * as soon as its holder gets to run: GUP-fast and page walkers by pfn hold
 * theirs for microseconds, copies to and from another process for one copy,
 * direct I/O for one request to a disk.  This is well beyond all of them, and
 * it is how long vCPUs that fault on the file can stall if a page is pinned
 * for good.
 */
#define KVM_GMEM_BUSY_WAIT	(HZ / 5)

/*
 * VMMs are known to resubmit a request that failed at once, and for ever.  If
 * the page that made it fail still has the very same number of references,
 * stall the guest and drain LRU caches again only once in a while to learn the
 * same thing: for as long as KVM_GMEM_BUSY_MEMORY a short check will do.
 */
#define KVM_GMEM_BUSY_RECHECK	DIV_ROUND_UP(HZ, 500)
#define KVM_GMEM_BUSY_MEMORY	HZ

/*
 * Pages can get into an LRU cache again while others are being waited for, as
 * unmapping them from an mlock()ed range puts them there.  Draining disturbs
 * all CPUs, thus not at every look.
 */
#define KVM_GMEM_DRAIN_INTERVAL	(HZ / 10)

/**
 * struct kvm_gmem_conversion - A conversion at work
 * @inode: the guest_memfd's inode
 * @start: first page of the range
 * @last: last page of the range, inclusive
 * @attrs: attributes to give to each page
 * @nr_busy: pages with references of unknown users, as counted by
 *	     kvm_gmem_note_folio()
 * @unmapped: the host's mappings are gone and must be
 * @drained: how far LRU caches have been drained
 * @drain_again: when to drain again, in jiffies, if @waiting
 * @waiting: waiting for references to go away has begun
 * @deadline: when the wait ends, in jiffies, if @waiting
 * @certain: the conversion will succeed, there is no way back
 * @error_index: the page that stood in the way
 */
struct kvm_gmem_conversion {
	struct inode *inode;
	pgoff_t start;
	pgoff_t last;
	u64 attrs;
	unsigned long nr_busy;
	bool unmapped;
	enum lru_cache_drained drained;
	unsigned long drain_again;
	bool waiting;
	unsigned long deadline;
	bool certain;
	pgoff_t error_index;
};

/*
 * Requests that are over in a moment, as the size of a guest's own page state
 * changes, are better completed than interrupted.
 */
#define KVM_GMEM_LONG_REQUEST	64

static int kvm_gmem_take_a_break(struct kvm_gmem_conversion *c,
				 unsigned int *nr_steps)
{
	cond_resched();

	if (++*nr_steps <= KVM_GMEM_LONG_REQUEST || c->certain)
		return 0;

	return signal_pending(current) ? -EINTR : 0;
}

typedef int (*kvm_gmem_folio_fn)(struct kvm_gmem_conversion *c,
				 struct folio *folio);

/*
 * Calls @fn for each page in the range that is present and would change state,
 * upwards, with a reference held.  The cost follows these pages, not the size
 * of the range.
 */
static int kvm_gmem_walk_folios(struct kvm_gmem_conversion *c,
				kvm_gmem_folio_fn fn)
{
	struct address_space *mapping = c->inode->i_mapping;
	struct kvm_gmem_attrs_range range;
	struct folio_batch fbatch;
	unsigned int nr_steps = 0;
	pgoff_t index;
	int i, r = 0;

	lockdep_assert_held_write(&mapping->invalidate_lock);

	folio_batch_init(&fbatch);

	kvm_gmem_for_each_attrs_range(&range, &GMEM_I(c->inode)->attrs,
				      c->start, c->last) {
		if (range.attrs == c->attrs)
			continue;

		index = range.start;
		while (filemap_get_folios(mapping, &index, range.last, &fbatch)) {
			for (i = 0; i < folio_batch_count(&fbatch) && !r; i++)
				r = fn(c, fbatch.folios[i]);

			folio_batch_release(&fbatch);
			if (r)
				return r;

			r = kvm_gmem_take_a_break(c, &nr_steps);
			if (r)
				return r;
		}

		/* Ranges without pages take time as well if there are many. */
		r = kvm_gmem_take_a_break(c, &nr_steps);
		if (r)
			return r;
	}
	return 0;
}

/*
 * Whether somebody has a reference beyond the page cache, the caller, and the
 * host's page tables.  The answer can be wrong either way while mappings come
 * and go, and is right for a page that can't be mapped.
 */
static bool kvm_gmem_folio_is_busy(struct kvm_gmem_conversion *c,
				   struct folio *folio)
{
	if (c->unmapped && folio_mapped(folio))
		return true;

	return folio_ref_count(folio) > folio_expected_ref_count(folio) + 1;
}

static int kvm_gmem_refuse_folio(struct kvm_gmem_conversion *c,
				 struct folio *folio, int err)
{
	c->error_index = folio->index;
	return err;
}

/*
 * Poison has precedence over pages in use, wherever in the range either is, so
 * look for it in all pages before waiting for any.
 */
static int kvm_gmem_note_folio(struct kvm_gmem_conversion *c, struct folio *folio)
{
	if (folio_test_hwpoison(folio))
		return kvm_gmem_refuse_folio(c, folio, -EHWPOISON);

	c->nr_busy += kvm_gmem_folio_is_busy(c, folio);
	return 0;
}

/* How many references there are that kvm_gmem_folio_is_busy() complains of. */
static int kvm_gmem_folio_extra_refs(struct folio *folio)
{
	return folio_ref_count(folio) - folio_expected_ref_count(folio) - 1;
}

static bool kvm_gmem_folio_was_busy(struct kvm_gmem_conversion *c,
				    struct folio *folio)
{
	struct kvm_gmem_busy *busy = &GMEM_I(c->inode)->busy;

	return busy->nr_refs && busy->index == folio->index &&
	       busy->nr_refs == kvm_gmem_folio_extra_refs(folio) &&
	       time_before(jiffies, busy->expires);
}

/* Keeps the page from being mapped or pinned, and waits for its users to go. */
static int kvm_gmem_wait_for_users(struct kvm_gmem_conversion *c,
				   struct folio *folio, unsigned long deadline)
{
	struct address_space *mapping = c->inode->i_mapping;
	struct gmem_inode *gi = GMEM_I(c->inode);
	unsigned long delay_us = 20;

	for (;;) {
		/*
		 * A host fault drops the invalidate lock before it maps the
		 * page, but holds on to the folio lock until it has.  Once that
		 * lock has been had, faults are past or have yet to begin.
		 */
		if (folio_lock_killable(folio))
			return -EINTR;
		if (folio_mapped(folio))
			unmap_mapping_pages(mapping, folio->index, 1, false);
		folio_unlock(folio);

		if (folio_test_hwpoison(folio))
			return kvm_gmem_refuse_folio(c, folio, -EHWPOISON);

		if (!kvm_gmem_folio_is_busy(c, folio))
			return 0;

		if (time_after(jiffies, deadline))
			break;

		if (signal_pending(current))
			return -EINTR;

		if (c->waiting && time_after(jiffies, c->drain_again)) {
			c->drain_again = jiffies + KVM_GMEM_DRAIN_INTERVAL;
			c->drained = LRU_CACHE_NOT_DRAINED;
			lru_cache_drain_for_folio(folio, 1, &c->drained);
			continue;
		}

		usleep_range(delay_us, 2 * delay_us);
		delay_us = min(2 * delay_us, USEC_PER_MSEC);
	}

	if (c->waiting) {
		gi->busy.index = folio->index;
		gi->busy.nr_refs = kvm_gmem_folio_extra_refs(folio);
		gi->busy.expires = jiffies + KVM_GMEM_BUSY_MEMORY;
	}
	return kvm_gmem_refuse_folio(c, folio, -EAGAIN);
}

/* Sees to it that nobody but the guest uses the page. */
static int kvm_gmem_settle_folio(struct kvm_gmem_conversion *c,
				 struct folio *folio)
{
	if (folio_test_hwpoison(folio))
		return kvm_gmem_refuse_folio(c, folio, -EHWPOISON);

	if (!kvm_gmem_folio_is_busy(c, folio))
		return 0;

	if (kvm_gmem_folio_was_busy(c, folio))
		return kvm_gmem_wait_for_users(c, folio,
					       jiffies + KVM_GMEM_BUSY_RECHECK);

	/*
	 * A page that was just allocated sits in some CPU's LRU cache, which
	 * holds a reference, nearly every time.
	 */
	lru_cache_drain_for_folio(folio, 1, &c->drained);
	if (!kvm_gmem_folio_is_busy(c, folio))
		return 0;

	if (!c->waiting) {
		c->waiting = true;
		c->deadline = jiffies + KVM_GMEM_BUSY_WAIT;
		c->drain_again = jiffies + KVM_GMEM_DRAIN_INTERVAL;
	}
	return kvm_gmem_wait_for_users(c, folio, c->deadline);
}

static int kvm_gmem_evict_host_users(struct kvm_gmem_conversion *c)
{
	struct address_space *mapping = c->inode->i_mapping;
	struct kvm_gmem_attrs_range range;
	int r;

	r = kvm_gmem_walk_folios(c, kvm_gmem_note_folio);
	if (r)
		return r;

	if (c->nr_busy) {
		r = kvm_gmem_walk_folios(c, kvm_gmem_settle_folio);
		if (r)
			return r;
	}

	kvm_gmem_for_each_attrs_range(&range, &GMEM_I(c->inode)->attrs,
				      c->start, c->last) {
		if (range.attrs != c->attrs)
			unmap_mapping_pages(mapping, range.start,
					    range.last - range.start + 1, false);
		cond_resched();
	}

	/* Unmapping can have put pages into this CPU's LRU cache. */
	c->drained = LRU_CACHE_NOT_DRAINED;
	c->unmapped = true;
	return kvm_gmem_walk_folios(c, kvm_gmem_settle_folio);
}

#ifdef CONFIG_HAVE_KVM_ARCH_GMEM_RECLAIM
static int kvm_gmem_reclaim_folio(struct kvm_gmem_conversion *c,
				  struct folio *folio)
{
	kvm_arch_gmem_reclaim(folio_pfn(folio), folio_nr_pages(folio));
	return 0;
}
#endif

static int kvm_gmem_convert(struct kvm_gmem_conversion *c)
{
	struct address_space *mapping = c->inode->i_mapping;
	struct gmem_inode *gi = GMEM_I(c->inode);
	struct kvm_gmem_attrs_update update;
	enum kvm_gfn_range_filter filter;
	int r;

	lockdep_assert_held_write(&mapping->invalidate_lock);

	if (kvm_gmem_attrs_range_has(&gi->attrs, c->start, c->last, c->attrs))
		return 0;

	c->error_index = c->start;
	r = kvm_gmem_attrs_prepare(&gi->attrs, &update, c->start, c->last,
				   c->attrs, GFP_KERNEL_ACCOUNT);
	if (r)
		return r;

	if (c->attrs & KVM_MEMORY_ATTRIBUTE_PRIVATE) {
		r = kvm_gmem_evict_host_users(c);
		if (r) {
			kvm_gmem_attrs_abort(&update);
			return r;
		}
		filter = KVM_FILTER_SHARED;
	} else {
		filter = KVM_FILTER_PRIVATE;
	}

	c->certain = true;
	kvm_gmem_invalidate_start(c->inode, c->start, c->last + 1, filter);

#ifdef CONFIG_HAVE_KVM_ARCH_GMEM_RECLAIM
	/* What the guest can't reach any more, the host may have back. */
	if (!(c->attrs & KVM_MEMORY_ATTRIBUTE_PRIVATE))
		kvm_gmem_walk_folios(c, kvm_gmem_reclaim_folio);
#endif

	kvm_gmem_attrs_commit(&update);
	kvm_gmem_invalidate_end(c->inode, c->start, c->last + 1);
	return 0;
}

static int kvm_gmem_set_attributes(struct file *file,
				   struct kvm_memory_attributes2 __user *uattrs)
{
	struct inode *inode = file_inode(file);
	struct gmem_file *f = file->private_data;
	struct kvm_memory_attributes2 attrs;
	struct kvm_gmem_conversion c = {};
	u64 error_offset;
	int r;

	if (copy_from_user(&attrs, uattrs, sizeof(attrs)))
		return -EFAULT;

	if (attrs.flags ||
	    memchr_inv(attrs.reserved, 0, sizeof(attrs.reserved)))
		return -EINVAL;
	if (!kvm_arch_has_private_mem(f->kvm) ||
	    attrs.attributes & ~kvm_gmem_supported_attributes(f->kvm))
		return -EINVAL;
	if (attrs.size == 0 || attrs.offset + attrs.size < attrs.offset)
		return -EINVAL;
	if (!PAGE_ALIGNED(attrs.offset) || !PAGE_ALIGNED(attrs.size))
		return -EINVAL;
	if (attrs.offset + attrs.size > i_size_read(inode))
		return -EINVAL;

	c.inode = inode;
	c.start = attrs.offset >> PAGE_SHIFT;
	c.last = c.start + (attrs.size >> PAGE_SHIFT) - 1;
	c.attrs = attrs.attributes;
	c.drained = LRU_CACHE_NOT_DRAINED;

	if (down_write_killable(&inode->i_mapping->invalidate_lock))
		return -EINTR;
	r = kvm_gmem_convert(&c);
	filemap_invalidate_unlock(inode->i_mapping);

	/* The struct may live in memory of this file, thus without the lock. */
	if (r == -EAGAIN || r == -EHWPOISON || r == -ENOMEM) {
		error_offset = (u64)c.error_index << PAGE_SHIFT;
		if (put_user(error_offset, &uattrs->error_offset))
			return -EFAULT;
	}
	return r;
}

/**
 * kvm_gmem_ioctl() - ioctls of a guest_memfd file
 * @file: the guest_memfd
 * @ioctl: KVM_SET_MEMORY_ATTRIBUTES2, the only one
 * @arg: pointer to a struct kvm_memory_attributes2 in userspace
 *
 * See Documentation/virt/kvm/api.rst.
 *
 * Return: 0 or a negative errno, -ENOTTY for any other ioctl and if in-place
 *	   conversion is off.
 */
long kvm_gmem_ioctl(struct file *file, unsigned int ioctl, unsigned long arg)
{
	if (ioctl != KVM_SET_MEMORY_ATTRIBUTES2 || !kvm_gmem_in_place_conversion)
		return -ENOTTY;

	return kvm_gmem_set_attributes(file, (void __user *)arg);
}

// SPDX-License-Identifier: GPL-2.0-only
/*
 * In-place conversion of guest_memfd memory between shared and private.
 *
 * A conversion holds the file's invalidate lock for write from start to end,
 * which stops all faults on the file, by guests and by host userspace alike.
 * If a page is in use, it lets go of the lock for a while and starts over.
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
#include <linux/ktime.h>
#include <linux/kvm_host.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/sched/signal.h>
#include <linux/swap.h>
#include <linux/uaccess.h>

#include <trace/events/kvm.h>

#include "guest_memfd.h"

/*
 * How long a conversion waits, in all, for references that go away by
 * themselves: GUP-fast and page walkers by pfn hold theirs for microseconds,
 * copies to and from another process for one copy, direct I/O for one request
 * to a disk, and each of them for longer if it is preempted.  This is well
 * beyond all of them, and soon enough to hear of a page that is pinned for
 * good.
 */
#define KVM_GMEM_BUSY_WAIT_NS	(750 * NSEC_PER_MSEC)

/*
 * How much of that, at a time, with the invalidate lock held.  With the lock
 * no new references can come, i.e. most are gone as soon as those who hold
 * them get to run.  But some may be held by whoever waits for that very lock,
 * as GUP keeps the pages that it already has while it faults in the next one,
 * and vCPUs that fault on the file stall.  So start with little if somebody else
 * waits for the lock, and be more patient with each attempt, for the sake of
 * those who have been preempted.
 */
#define KVM_GMEM_LOCKED_WAIT_MIN_NS	(1 * NSEC_PER_MSEC)
#define KVM_GMEM_LOCKED_WAIT_MAX_NS	(32 * NSEC_PER_MSEC)

/*
 * The least that each page gets, for one page that takes long must not make the
 * next one in the range look busy.
 */
#define KVM_GMEM_PAGE_WAIT_NS	(100 * NSEC_PER_USEC)

/*
 * Pages can get into LRU caches again while others are being waited for, but
 * draining disturbs all CPUs.  Don't do it with every attempt, nor with every
 * call of those who resubmit a request that failed at once, and for ever.
 */
#define KVM_GMEM_DRAIN_INTERVAL	(HZ / 5)

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
 * @deadline: when to give up waiting for users, in ns, 0 if nobody waited yet
 * @locked_wait_ns: how long this attempt waits if others wait for the lock
 * @locked_since: when waiting in this attempt, with the lock held, began, in ns,
 *		  0 if it has not
 * @certain: the conversion will succeed, there is no way back
 * @error_index: the page that stood in the way
 * @nr_changed: pages that changed state, present or not
 * @nr_present: pages seen that were present and to change state
 * @nr_drains: how often all CPUs were made to drain their LRU caches
 * @waited_ns: time spent waiting for references to go away
 */
struct kvm_gmem_conversion {
	struct inode *inode;
	pgoff_t start;
	pgoff_t last;
	u64 attrs;
	unsigned long nr_busy;
	bool unmapped;
	enum lru_cache_drained drained;
	u64 deadline;
	u64 locked_wait_ns;
	u64 locked_since;
	bool certain;
	pgoff_t error_index;
	pgoff_t nr_changed;
	unsigned long nr_present;
	unsigned int nr_drains;
	u64 waited_ns;
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
 * host's page tables.  While mappings come and go, the answer can be wrong
 * either way.  It is for good once there are to be none: a fault in flight
 * turns its reference into that of a page table entry, i.e. the one number
 * that is looked at then has either in it.
 */
static bool kvm_gmem_folio_is_busy(struct kvm_gmem_conversion *c,
				   struct folio *folio)
{
	if (c->unmapped)
		return folio_ref_count(folio) > folio_nr_pages(folio) + 1;

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
	c->nr_present++;

	if (folio_test_hwpoison(folio))
		return kvm_gmem_refuse_folio(c, folio, -EHWPOISON);

	c->nr_busy += kvm_gmem_folio_is_busy(c, folio);
	return 0;
}

static void kvm_gmem_drain_for_folio(struct kvm_gmem_conversion *c,
				     struct folio *folio)
{
	struct gmem_inode *gi = GMEM_I(c->inode);

	if (time_before(jiffies, gi->next_drain))
		return;

	if (c->drained == LRU_CACHE_DRAINED_ALL)
		c->drained = LRU_CACHE_NOT_DRAINED;

	lru_cache_drain_for_folio(folio, 1, &c->drained);
	if (c->drained == LRU_CACHE_DRAINED_ALL) {
		gi->next_drain = jiffies + KVM_GMEM_DRAIN_INTERVAL;
		c->nr_drains++;
	}
}

/* Keeps the page from being mapped, and thereby pinned, until further notice. */
static int kvm_gmem_unmap_folio(struct kvm_gmem_conversion *c,
				struct folio *folio)
{
	/*
	 * A host fault drops the invalidate lock before it maps the page, but
	 * holds on to the folio lock until it has.  Once that lock has been
	 * had, faults are past or have yet to begin.
	 */
	if (folio_lock_killable(folio))
		return -EINTR;

	if (folio_mapped(folio))
		unmap_mapping_pages(c->inode->i_mapping, folio->index, 1, false);

	folio_unlock(folio);
	return 0;
}

/* Whether waiting with the invalidate lock held has ceased to make sense. */
static bool kvm_gmem_waited_enough(struct kvm_gmem_conversion *c, u64 now)
{
	u64 waited = now - c->locked_since;

	if (waited < c->locked_wait_ns)
		return false;

	return waited > KVM_GMEM_LOCKED_WAIT_MAX_NS ||
	       rwsem_is_contended(&c->inode->i_mapping->invalidate_lock);
}

static int kvm_gmem_wait_for_users(struct kvm_gmem_conversion *c,
				   struct folio *folio)
{
	u64 now, start = ktime_get_ns();
	unsigned long delay_us = 10;
	bool busy;

	if (!c->locked_since)
		c->locked_since = start;

	do {
		usleep_range(delay_us, 2 * delay_us);
		delay_us = min(2 * delay_us, 500);
		now = ktime_get_ns();
		busy = kvm_gmem_folio_is_busy(c, folio);
	} while (busy && (now - start < KVM_GMEM_PAGE_WAIT_NS ||
			  !kvm_gmem_waited_enough(c, now)));

	c->waited_ns += now - start;
	return busy ? -EAGAIN : 0;
}

/* Sees to it that nobody but the guest uses the page. */
static int kvm_gmem_settle_folio(struct kvm_gmem_conversion *c,
				 struct folio *folio)
{
	int r;

	if (folio_test_hwpoison(folio))
		return kvm_gmem_refuse_folio(c, folio, -EHWPOISON);

	if (!kvm_gmem_folio_is_busy(c, folio))
		return 0;

	r = kvm_gmem_unmap_folio(c, folio);
	if (r || !kvm_gmem_folio_is_busy(c, folio))
		return r;

	/*
	 * A page that was just allocated sits in some CPU's LRU cache, which
	 * holds a reference, nearly every time.  So does one that was just
	 * unmapped from an mlock()ed range.
	 */
	kvm_gmem_drain_for_folio(c, folio);
	if (!kvm_gmem_folio_is_busy(c, folio))
		return 0;

	r = kvm_gmem_wait_for_users(c, folio);
	if (folio_test_hwpoison(folio))
		r = -EHWPOISON;
	return r ? kvm_gmem_refuse_folio(c, folio, r) : 0;
}

static int kvm_gmem_evict_host_users(struct kvm_gmem_conversion *c)
{
	struct address_space *mapping = c->inode->i_mapping;
	struct kvm_gmem_attrs_range range;
	unsigned int nr_steps = 0;
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

		r = kvm_gmem_take_a_break(c, &nr_steps);
		if (r)
			return r;
	}

	/* Unmapping puts pages of an mlock()ed range into an LRU cache. */
	if (!c->deadline)
		GMEM_I(c->inode)->next_drain = jiffies;
	c->unmapped = true;
	return kvm_gmem_walk_folios(c, kvm_gmem_settle_folio);
}

static int kvm_gmem_count_changes(struct kvm_gmem_conversion *c)
{
	struct kvm_gmem_attrs_range range;
	unsigned int nr_steps = 0;
	int r;

	kvm_gmem_for_each_attrs_range(&range, &GMEM_I(c->inode)->attrs,
				      c->start, c->last) {
		if (range.attrs != c->attrs)
			c->nr_changed += range.last - range.start + 1;

		r = kvm_gmem_take_a_break(c, &nr_steps);
		if (r)
			return r;
	}
	return 0;
}

/* What the guest can't reach any more, the host may have back. */
static int kvm_gmem_reclaim_folio(struct kvm_gmem_conversion *c,
				  struct folio *folio)
{
	c->nr_present++;
#ifdef CONFIG_HAVE_KVM_ARCH_GMEM_RECLAIM
	kvm_arch_gmem_reclaim(folio_pfn(folio), folio_nr_pages(folio));
#endif
	return 0;
}

static int kvm_gmem_try_convert(struct kvm_gmem_conversion *c)
{
	struct address_space *mapping = c->inode->i_mapping;
	struct gmem_inode *gi = GMEM_I(c->inode);
	struct kvm_gmem_attrs_update update;
	enum kvm_gfn_range_filter filter;
	int r;

	lockdep_assert_held_write(&mapping->invalidate_lock);

	c->nr_busy = 0;
	c->nr_changed = 0;
	c->nr_present = 0;
	c->unmapped = false;
	c->locked_since = 0;

	if (kvm_gmem_attrs_range_has(&gi->attrs, c->start, c->last, c->attrs))
		return 0;

	c->error_index = c->start;
	r = kvm_gmem_attrs_prepare(&gi->attrs, &update, c->start, c->last,
				   c->attrs, GFP_KERNEL_ACCOUNT);
	if (r)
		return r;

	r = kvm_gmem_count_changes(c);
	if (!r && c->attrs & KVM_MEMORY_ATTRIBUTE_PRIVATE)
		r = kvm_gmem_evict_host_users(c);
	if (r) {
		kvm_gmem_attrs_abort(&update);
		return r;
	}

	c->certain = true;
	filter = c->attrs & KVM_MEMORY_ATTRIBUTE_PRIVATE ? KVM_FILTER_SHARED :
							   KVM_FILTER_PRIVATE;
	kvm_gmem_invalidate_start(c->inode, c->start, c->last + 1, filter);

	if (!(c->attrs & KVM_MEMORY_ATTRIBUTE_PRIVATE) &&
	    (IS_ENABLED(CONFIG_HAVE_KVM_ARCH_GMEM_RECLAIM) ||
	     trace_kvm_gmem_convert_enabled()))
		kvm_gmem_walk_folios(c, kvm_gmem_reclaim_folio);

	kvm_gmem_attrs_commit(&update);

	/*
	 * Faults take mmu_invalidate_seq, then look at attributes.  Pairs with
	 * the smp_rmb() between the two, e.g. in kvm_mmu_faultin_pfn().
	 */
	smp_wmb();
	kvm_gmem_invalidate_end(c->inode, c->start, c->last + 1);
	return 0;
}

/* Counts what was asked of a VM's view of the file in that VM's statistics. */
static void kvm_gmem_account(struct kvm *kvm, struct kvm_gmem_conversion *c,
			     int r)
{
	struct kvm_vm_stat_generic *stat = &kvm->stat.generic;

	if (r == -EAGAIN) {
		stat->gmem_busy++;
	} else if (r == -EHWPOISON) {
		stat->gmem_poisoned++;
	} else if (r || !c->nr_changed) {
		return;
	} else if (c->attrs & KVM_MEMORY_ATTRIBUTE_PRIVATE) {
		stat->gmem_to_private++;
		stat->gmem_pages_to_private += c->nr_changed;
	} else {
		stat->gmem_to_shared++;
		stat->gmem_pages_to_shared += c->nr_changed;
	}
}

static int kvm_gmem_convert(struct kvm_gmem_conversion *c, struct kvm *kvm)
{
	struct rw_semaphore *lock = &c->inode->i_mapping->invalidate_lock;
	unsigned long delay_us = 100;
	u64 start;
	int r;

	/* True only if one range covers it all, i.e. this is a single lookup. */
	if (kvm_gmem_attrs_range_has(&GMEM_I(c->inode)->attrs, c->start,
				     c->last, c->attrs))
		return 0;

	for (;;) {
		if (down_write_killable(lock))
			return -EINTR;

		r = kvm_gmem_try_convert(c);
		if (r != -EAGAIN)
			break;

		if (!c->deadline)
			c->deadline = ktime_get_ns() + KVM_GMEM_BUSY_WAIT_NS;
		if (ktime_get_ns() > c->deadline)
			break;
		c->locked_wait_ns = min(2 * c->locked_wait_ns,
					KVM_GMEM_LOCKED_WAIT_MAX_NS);

		up_write(lock);

		if (signal_pending(current))
			return -EINTR;

		start = ktime_get_ns();
		usleep_range(delay_us, 2 * delay_us);
		delay_us = min(2 * delay_us, 8 * USEC_PER_MSEC);
		c->waited_ns += ktime_get_ns() - start;
	}

	/* Only those who fail have to wait for their next drain. */
	if (!r)
		GMEM_I(c->inode)->next_drain = jiffies;

	kvm_gmem_account(kvm, c, r);
	up_write(lock);
	return r;
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
	c.locked_wait_ns = KVM_GMEM_LOCKED_WAIT_MIN_NS;

	r = kvm_gmem_convert(&c, f->kvm);

	trace_kvm_gmem_convert(inode->i_ino, c.start, c.last - c.start + 1,
			       c.attrs, c.nr_present, c.nr_drains, c.waited_ns, r);

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

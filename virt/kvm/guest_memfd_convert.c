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
 * 2. To private: see that nobody on the host uses any of the pages.
 * 3. Zap the kind of guest mappings that goes away.  Guests can't fault them
 *    back in until the conversion is done.
 * 4. To shared: have the architecture release the pages to the host.
 * 5. Store the new attributes and let everybody fault again.
 *
 * A fault that looked at the old attributes took mmu_invalidate_seq before it
 * did, and is thrown away because of step 3.
 */
#include <linux/ktime.h>
#include <linux/kvm_host.h>
#include <linux/mm.h>
#include <linux/sched/signal.h>
#include <linux/string.h>
#include <linux/uaccess.h>

#include <trace/events/kvm.h>

#include "guest_memfd.h"
#include "guest_memfd_convert.h"

/*
 * How long a conversion waits, in all, for references that go away by
 * themselves: GUP-fast and page walkers by pfn hold theirs for microseconds,
 * copies to and from another process for one copy, direct I/O for one request
 * to a disk, and each of them for longer if it is preempted.  This is well
 * beyond all of them, and soon enough to hear of a page that is pinned for
 * good.  If it's not always the same page that is in the way then none need be,
 * but there are many users, and it is a matter of luck to find a moment without
 * any.  A page that is pinned for good and is hidden among these is reported
 * later, then.
 */
#define KVM_GMEM_BUSY_WAIT_NS		(750 * NSEC_PER_MSEC)
#define KVM_GMEM_RESTLESS_WAIT_NS	(2 * NSEC_PER_SEC)
#define KVM_GMEM_RESTLESS_MOVES		3

/*
 * Looking at the pages of a large range takes long as well.  Waiting for users
 * needs that many attempts to become as patient as it gets.
 */
#define KVM_GMEM_MIN_ATTEMPTS	6

static int kvm_gmem_count_changes(struct kvm_gmem_conversion *c)
{
	struct kvm_gmem_attrs_range range;
	unsigned int nr_steps = 0;
	int r;

	kvm_gmem_for_each_attrs_range(&range, &GMEM_I(c->inode)->attrs,
				      c->start, c->last) {
		if (range.attrs != c->attrs) {
			if (!c->nr_changed)
				c->first_changed = range.start;
			c->last_changed = range.last;
			c->nr_changed += range.last - range.start + 1;
		}

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
	/* As where pages are freed, i.e. not while memory_failure() has it. */
	folio_lock(folio);
	kvm_arch_gmem_reclaim(folio_pfn(folio), folio_nr_pages(folio));
	folio_unlock(folio);
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

	c->nr_changed = 0;
	c->nr_present = 0;

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
	/*
	 * What is between the first and the last change and stays as it is goes
	 * too, as TLBs are flushed with each call.
	 */
	kvm_gmem_invalidate_start(c->inode, c->first_changed,
				  c->last_changed + 1, filter);

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
	kvm_gmem_invalidate_end(c->inode, c->first_changed, c->last_changed + 1);
	return 0;
}

/* Counts what was asked of a VM's view of the file in that VM's statistics. */
static void kvm_gmem_account(struct kvm_gmem_conversion *c, int r)
{
	struct kvm_vm_stat_generic *stat = &c->kvm->stat.generic;

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

/* Whether a page in use is to be reported, rather than to be tried again. */
static bool kvm_gmem_tried_enough(struct kvm_gmem_conversion *c)
{
	u64 now = ktime_get_ns(), limit;

	if (!c->nr_attempts++)
		c->busy_since = now;
	else if (c->error_index != c->busy_index)
		c->nr_moves++;

	c->busy_index = c->error_index;
	c->restless = c->nr_moves >= KVM_GMEM_RESTLESS_MOVES;

	limit = c->restless ? KVM_GMEM_RESTLESS_WAIT_NS : KVM_GMEM_BUSY_WAIT_NS;
	return c->nr_attempts >= KVM_GMEM_MIN_ATTEMPTS &&
	       now - c->busy_since > limit;
}

static int kvm_gmem_convert(struct kvm_gmem_conversion *c)
{
	struct rw_semaphore *lock = &c->inode->i_mapping->invalidate_lock;
	int r;

	/* True only if one range covers it all, i.e. this is a single lookup. */
	if (kvm_gmem_attrs_range_has(&GMEM_I(c->inode)->attrs, c->start,
				     c->last, c->attrs))
		return 0;

	for (;;) {
		if (down_write_killable(lock))
			return -EINTR;

		r = kvm_gmem_try_convert(c);
		if (r != -EAGAIN || kvm_gmem_tried_enough(c))
			break;

		up_write(lock);

		if (signal_pending(current))
			return -EINTR;

		kvm_gmem_wait_unlocked(c);
	}

	kvm_gmem_account(c, r);
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

	c.kvm = f->kvm;
	c.inode = inode;
	c.start = attrs.offset >> PAGE_SHIFT;
	c.last = c.start + (attrs.size >> PAGE_SHIFT) - 1;
	c.attrs = attrs.attributes;

	r = kvm_gmem_convert(&c);

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

// SPDX-License-Identifier: GPL-2.0-only
/*
 * In-place conversion of guest_memfd memory between shared and private.
 *
 * A conversion holds the file's invalidate lock for write, which blocks faults
 * on the file by guests and by host userspace.  If a page is in use, drop the
 * lock for a while and start over.  Do everything that can fail without harm
 * before changing anything.  After that, only zapping and releasing pages can
 * fail, and a failure kills the VM.  The steps are:
 *
 * 1. Allocate memory for the store of the attributes.
 * 2. To private: drop all host references to the pages.
 * 3. Zap guest mappings of the old attribute.  Guests can't fault them back in
 *    until the conversion is done.
 * 4. To shared: release the pages to the host, by calling into the
 *    architecture.
 * 5. Store the new attributes and drop the lock.
 */
#include <linux/kvm_host.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/string.h>
#include <linux/uaccess.h>

#include <trace/events/kvm.h>

#include "guest_memfd.h"
#include "guest_memfd_convert.h"
#include "guest_memfd_hugepages.h"
#include "kvm_mm.h"

/* Check this many pages between two calls to cond_resched(). */
#define KVM_GMEM_CONVERT_BATCH	1024

struct folio *kvm_gmem_next_change(struct kvm_gmem_change_iter *iter)
{
	struct kvm_gmem_conversion *c = iter->c;
	struct kvm_gmem_attrs *attrs = &GMEM_I(c->inode)->attrs;
	pgoff_t last = iter->last;
	struct folio *folio;

	lockdep_assert_held_write(&c->inode->i_mapping->invalidate_lock);

	for (;;) {
		if (!(++iter->nr_seen % KVM_GMEM_CONVERT_BATCH)) {
			cond_resched();
			/* Bail if killed, as nothing has been zapped yet. */
			if (c->to_private && fatal_signal_pending(current))
				return NULL;
		}

		rcu_read_lock();
		folio = xas_next_entry(&iter->xas, last);
		rcu_read_unlock();

		if (!folio)
			return NULL;

		if (!kvm_gmem_attrs_span_is(attrs, &iter->span, folio->index,
					    c->to_private))
			return folio;

		/* Skip the rest of a uniform span. */
		if (!iter->span.leaf) {
			if (iter->span.end > last)
				return NULL;
			xas_set(&iter->xas, iter->span.end);
		}
	}
}

#ifdef CONFIG_HAVE_KVM_ARCH_GMEM_RECLAIM
static int kvm_gmem_reclaim_pages(struct kvm_gmem_conversion *c)
{
	struct folio *folio;
	pgoff_t released = 0;
	int r;

	if (!GMEM_I(c->inode)->needs_reclaim)
		return 0;

	kvm_gmem_for_each_change(folio, c, c->first_change, c->last_change) {
		/* Skip the rest of a chunk that was released as a whole. */
		if (folio->index < released)
			continue;

		r = kvm_gmem_reclaim_chunk(c->inode, folio, c->last_change);
		if (r < 0)
			return r;
		if (r) {
			released = folio->index + r;
			continue;
		}

		/* Exclude memory_failure(), as truncation does. */
		folio_lock(folio);
		r = kvm_arch_gmem_reclaim(folio_pfn(folio), folio_nr_pages(folio));
		folio_unlock(folio);
		if (r)
			return r;
	}
	return 0;
}
#else
static int kvm_gmem_reclaim_pages(struct kvm_gmem_conversion *c)
{
	return 0;
}
#endif

/*
 * Return pages to the host.  Guest mappings are already gone.
 *
 * If a page can't be released, the host must not touch it: leave the whole range
 * private.  Pages that were released before it have lost their contents, so mark
 * the VM as bugged.  Zapping can fail as well, e.g. if TDX can't remove a page
 * from the S-EPT, and reports that only by marking the VM as bugged.
 */
static int kvm_gmem_make_shared(struct kvm_gmem_conversion *c)
{
	struct gmem_file *f;

	kvm_gmem_for_each_file(f, c->inode) {
		if (f->kvm->vm_bugged)
			return -EIO;
	}

	if (!kvm_gmem_reclaim_pages(c))
		return 0;

	kvm_gmem_for_each_file(f, c->inode)
		kvm_vm_bugged(f->kvm);

	return -EIO;
}

static int kvm_gmem_try_convert(struct kvm_gmem_conversion *c)
{
	struct kvm_gmem_attrs *attrs = &GMEM_I(c->inode)->attrs;
	int r;

	lockdep_assert_held_write(&c->inode->i_mapping->invalidate_lock);

	c->first_change = c->start;
	c->last_change = c->last;
	if (!kvm_gmem_attrs_trim(attrs, &c->first_change, &c->last_change,
				 c->to_private))
		return 0;

	c->error_index = c->start;
	r = kvm_gmem_attrs_prepare(attrs, &c->update, c->first_change,
				   c->last_change);
	if (r)
		return r;

	if (c->to_private) {
		r = kvm_gmem_drop_host_refs(c);
		if (r)
			goto out;
	}

	kvm_gmem_split_edges(c->inode, c->first_change, c->last_change + 1);

	/*
	 * Zap the whole range in one go, including pages that already match.
	 * The filter spares those only if the MMU has separate roots for
	 * private memory, as for TDX.  Otherwise the guest faults them in
	 * again.
	 */
	kvm_gmem_invalidate_start(c->inode, c->first_change, c->last_change + 1,
				  c->to_private ? KVM_FILTER_SHARED : KVM_FILTER_PRIVATE);

	r = c->to_private ? 0 : kvm_gmem_make_shared(c);
	if (!r)
		c->nr_changed = kvm_gmem_attrs_commit(&c->update, c->to_private);

	/*
	 * Readers without the invalidate lock sample mmu_invalidate_seq before
	 * the attributes.  Pairs with the smp_rmb() in between.
	 */
	smp_wmb();
	kvm_gmem_invalidate_end(c->inode, c->first_change, c->last_change + 1);
out:
	if (r)
		kvm_gmem_attrs_abort(&c->update);
	return r;
}

#ifdef CONFIG_KVM_GENERIC_MEMORY_ATTRIBUTES
/* Account the request to the VM whose file it came through. */
static void kvm_gmem_account(struct kvm_gmem_conversion *c, int r)
{
	struct kvm_vm_stat_generic *stat = &c->kvm->stat.generic;

	if (r == -EAGAIN) {
		atomic64_inc(&stat->gmem_busy);
	} else if (r == -EHWPOISON) {
		atomic64_inc(&stat->gmem_poisoned);
	} else if (r || !c->nr_changed) {
		/* Nothing to account. */
	} else if (c->to_private) {
		atomic64_inc(&stat->gmem_to_private);
		atomic64_add(c->nr_changed, &stat->gmem_pages_to_private);
	} else {
		atomic64_inc(&stat->gmem_to_shared);
		atomic64_add(c->nr_changed, &stat->gmem_pages_to_shared);
	}
}
#else
static void kvm_gmem_account(struct kvm_gmem_conversion *c, int r) { }
#endif

static int kvm_gmem_convert(struct kvm_gmem_conversion *c)
{
	struct rw_semaphore *lock = &c->inode->i_mapping->invalidate_lock;
	int r;

	for (;;) {
		if (down_write_killable(lock))
			return -EINTR;

		r = kvm_gmem_try_convert(c);
		if (r != -EAGAIN || kvm_gmem_wait_expired(&c->wait))
			break;

		up_write(lock);
		kvm_gmem_attrs_finish(&c->update);
		kvm_gmem_wait_unlocked(c);
	}

	up_write(lock);
	kvm_gmem_account(c, r);

	kvm_gmem_attrs_finish(&c->update);
	if (!r)
		kvm_gmem_host_refs_dropped(c);
	return r;
}

/* noinline: keep the large struct off the stack if nothing changes. */
static noinline int kvm_gmem_convert_range(struct gmem_file *f, struct inode *inode,
					   pgoff_t start, pgoff_t last,
					   bool to_private, u64 *error_offset)
{
	struct kvm_gmem_conversion c = {
		.kvm = f->kvm,
		.inode = inode,
		.start = start,
		.last = last,
		.to_private = to_private,
		.error_index = start,
	};
	int r;

	r = kvm_gmem_convert(&c);

	trace_kvm_gmem_convert(inode->i_ino, start, last - start + 1, to_private,
			       c.nr_changed, c.nr_drains, c.waited_ns, r,
			       r ? c.error_index : start);

	*error_offset = (u64)c.error_index << PAGE_SHIFT;
	return r;
}

static int kvm_gmem_set_attributes(struct file *file,
				   struct kvm_memory_attributes2 __user *uattrs)
{
	struct inode *inode = file_inode(file);
	struct gmem_file *f = file->private_data;
	struct kvm_memory_attributes2 attrs;
	pgoff_t start, last;
	u64 error_offset;
	bool to_private;
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

	start = attrs.offset >> PAGE_SHIFT;
	last = start + (attrs.size >> PAGE_SHIFT) - 1;
	to_private = attrs.attributes & KVM_MEMORY_ATTRIBUTE_PRIVATE;

	/* Don't take the lock, which blocks faults, if attributes match. */
	if (kvm_gmem_attrs_range_is(&GMEM_I(inode)->attrs, start, last, to_private)) {
		trace_kvm_gmem_convert(inode->i_ino, start, last - start + 1,
				       to_private, 0, 0, 0, 0, start);
		return 0;
	}

	r = kvm_gmem_convert_range(f, inode, start, last, to_private, &error_offset);

	/*
	 * Write to userspace without the lock, as the struct may be in memory
	 * of this very file.
	 */
	if ((r == -EAGAIN || r == -EHWPOISON || r == -ENOMEM) &&
	    put_user(error_offset, &uattrs->error_offset))
		return -EFAULT;

	return r;
}

long kvm_gmem_ioctl(struct file *file, unsigned int ioctl, unsigned long arg)
{
	struct gmem_file *f = file->private_data;

	if (ioctl != KVM_SET_MEMORY_ATTRIBUTES2 || !kvm_gmem_in_place_conversion)
		return -ENOTTY;

	if (f->kvm->vm_dead)
		return -EIO;

	return kvm_gmem_set_attributes(file, (void __user *)arg);
}

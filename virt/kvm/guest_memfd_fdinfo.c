// SPDX-License-Identifier: GPL-2.0-only
/*
 * What /proc/<pid>/fdinfo/<fd> says about a guest_memfd.
 *
 * Nothing here takes the invalidate lock or page references: looking at a
 * file must neither stop its guest nor make its pages look busy.  In return
 * the numbers are those of no particular moment while the file is in use.
 */
#include <linux/kvm_host.h>
#include <linux/pagemap.h>
#include <linux/rcupdate_wait.h>
#include <linux/sched/signal.h>
#include <linux/seq_file.h>
#include <linux/xarray.h>

#include "guest_memfd.h"

/* How many pages to look at before giving others a chance to run. */
#define KVM_GMEM_FDINFO_BATCH	1024

static unsigned long kvm_gmem_count_poisoned(struct address_space *mapping)
{
	XA_STATE(xas, &mapping->i_pages, 0);
	unsigned long nr_seen = 0, nr = 0;
	struct folio *folio;

	rcu_read_lock();
	xas_for_each(&xas, folio, ULONG_MAX) {
		if (xas_retry(&xas, folio) || xa_is_value(folio))
			continue;

		/* This may be no folio any more, but still is a page. */
		nr += PageHWPoison(&folio->page);

		if (++nr_seen % KVM_GMEM_FDINFO_BATCH)
			continue;

		if (fatal_signal_pending(current))
			break;

		xas_pause(&xas);
		cond_resched_rcu();
	}
	rcu_read_unlock();

	return nr;
}

/**
 * kvm_gmem_show_fdinfo() - Describe a guest_memfd
 * @m: where to print to
 * @file: the guest_memfd
 *
 * Context: Any that may sleep.
 */
void kvm_gmem_show_fdinfo(struct seq_file *m, struct file *file)
{
	struct inode *inode = file_inode(file);
	struct gmem_inode *gi = GMEM_I(inode);
	u64 size = i_size_read(inode);
	struct kvm_gmem_attrs_range range;
	u64 private_size = 0;
	unsigned long nr_ranges = 0;

	kvm_gmem_for_each_attrs_range(&range, &gi->attrs, 0,
				      (size >> PAGE_SHIFT) - 1) {
		nr_ranges++;
		if (range.attrs & KVM_MEMORY_ATTRIBUTE_PRIVATE)
			private_size += (u64)(range.last - range.start + 1) << PAGE_SHIFT;

		/* Who is being killed won't read it, and must not have to wait. */
		if (fatal_signal_pending(current))
			return;
		cond_resched();
	}

	seq_printf(m, "gmem-size:\t%llu\n", size);
	seq_printf(m, "gmem-flags:\t0x%llx\n", gi->flags);
	seq_printf(m, "gmem-shared:\t%llu\n", size - private_size);
	seq_printf(m, "gmem-private:\t%llu\n", private_size);
	seq_printf(m, "gmem-ranges:\t%lu\n", nr_ranges);
	seq_printf(m, "gmem-pages-allocated:\t%lu\n",
		   READ_ONCE(inode->i_mapping->nrpages));
	seq_printf(m, "gmem-pages-poisoned:\t%lu\n",
		   kvm_gmem_count_poisoned(inode->i_mapping));
}

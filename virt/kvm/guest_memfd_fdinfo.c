// SPDX-License-Identifier: GPL-2.0-only
/*
 * /proc/<pid>/fdinfo/<fd> of a guest_memfd.
 *
 * Monitoring agents read this, so the cost must not depend on the size or the
 * fragmentation of the file.  Take neither the invalidate lock, which would
 * stall guests, nor references to pages, which would make them look in use.
 * The numbers may be inconsistent with each other while the file changes.
 */
#include <linux/kvm_host.h>
#include <linux/pagemap.h>
#include <linux/seq_file.h>

#include "guest_memfd.h"
#include "guest_memfd_hugepages.h"

static unsigned long kvm_gmem_count_poisoned(struct address_space *mapping)
{
	unsigned long index, nr = 0;
	struct folio *folio;

	xa_for_each_marked(&mapping->i_pages, index, folio, KVM_GMEM_TAG_POISONED)
		nr += kvm_gmem_is_poisoned(mapping->host, index);

	return nr;
}

void kvm_gmem_show_fdinfo(struct seq_file *m, struct file *file)
{
	struct inode *inode = file_inode(file);
	struct gmem_inode *gi = GMEM_I(inode);
	u64 nr_private = READ_ONCE(gi->attrs.nr_private);
	u64 size = i_size_read(inode);

	seq_printf(m, "gmem-size:\t%llu\n", size);
	seq_printf(m, "gmem-flags:\t0x%llx\n", gi->flags);
	seq_printf(m, "gmem-shared:\t%llu\n", size - (nr_private << PAGE_SHIFT));
	seq_printf(m, "gmem-private:\t%llu\n", nr_private << PAGE_SHIFT);
	seq_printf(m, "gmem-ranges:\t%lu\n", READ_ONCE(gi->attrs.nr_ranges));
	seq_printf(m, "gmem-pages-allocated:\t%lu\n",
		   READ_ONCE(inode->i_mapping->nrpages));
	seq_printf(m, "gmem-pages-poisoned:\t%lu\n",
		   kvm_gmem_count_poisoned(inode->i_mapping));
	kvm_gmem_show_hugepages(m, inode);
}

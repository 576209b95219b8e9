// SPDX-License-Identifier: GPL-2.0-only
/*
 * gmem_map in the VM's debugfs directory shows which ranges of the VM's
 * guest_memfds are private or shared, and how much of each range is allocated.
 *
 * Hold no lock or reference between two lines, as the reader may take its time.
 * Resume by the file's ID and the offset, so that files can be closed and
 * created in the meantime.  Each line is accurate when it is generated, but
 * memory can change before the next one.
 *
 * debugfs waits for readers before it removes a file, and destroying a VM
 * removes gmem_map before anything that its readers use.  Thus the VM exists
 * while its map is being read, but a map that is merely open does not keep the
 * VM alive.
 */
#include <linux/debugfs.h>
#include <linux/kvm_host.h>
#include <linux/minmax.h>
#include <linux/pagemap.h>
#include <linux/sched.h>
#include <linux/seq_file.h>

#include "guest_memfd.h"

/*
 * Count the pages of only one block for each line, as conversions have to wait
 * in the meantime.  Blocks without pages take no time, so a line can cover many
 * of them.
 */
#define KVM_GMEM_MAP_BLOCK	512

struct kvm_gmem_map_iter {
	struct kvm *kvm;

	/* File and page where the line starts.  Skip the file if it is gone. */
	unsigned long id;
	pgoff_t index;

	/* The line. */
	u64 ino;
	pgoff_t last;
	pgoff_t last_of_file;
	bool private;
	unsigned long nr_allocated;
	unsigned long nr_poisoned;
};

static struct inode *kvm_gmem_map_get_inode(struct kvm_gmem_map_iter *iter)
{
	struct xarray *files = &iter->kvm->gmem_files;
	struct inode *inode = NULL;
	unsigned long id = iter->id;
	struct gmem_file *f;

	/* Files are removed with the lock held, and pin inodes until then. */
	xa_lock(files);
	f = xa_find(files, &id, ULONG_MAX, XA_PRESENT);
	if (f) {
		inode = f->inode;
		ihold(inode);
	}
	xa_unlock(files);

	if (id != iter->id) {
		iter->id = id;
		iter->index = 0;
	}
	return inode;
}

/* Don't take references to pages, which would make them look in use. */
static void kvm_gmem_map_count(struct kvm_gmem_map_iter *iter,
			       struct address_space *mapping)
{
	XA_STATE(xas, &mapping->i_pages, iter->index);
	struct folio *folio;

	lockdep_assert_held(&mapping->invalidate_lock);
	guard(rcu)();

	xas_for_each(&xas, folio, iter->last) {
		if (xas_retry(&xas, folio))
			continue;
		iter->nr_allocated++;
		iter->nr_poisoned += PageHWPoison(&folio->page);
	}
}

static void kvm_gmem_map_fill(struct kvm_gmem_map_iter *iter, struct inode *inode)
{
	struct address_space *mapping = inode->i_mapping;
	struct kvm_gmem_attrs *attrs = &GMEM_I(inode)->attrs;
	unsigned long present = iter->index;
	pgoff_t block, next = iter->index;
	bool has_pages = false;

	lockdep_assert_held(&mapping->invalidate_lock);

	iter->ino = inode->i_ino;
	iter->last_of_file = attrs->last;
	iter->last = attrs->last;
	iter->nr_allocated = 0;
	iter->nr_poisoned = 0;

	/* End with this block if it has pages, or before the next that does. */
	if (xa_find(&mapping->i_pages, &present, iter->last, XA_PRESENT)) {
		block = round_down(present, KVM_GMEM_MAP_BLOCK);
		has_pages = block <= iter->index;
		if (has_pages)
			block += KVM_GMEM_MAP_BLOCK;
		iter->last = min(iter->last, block - 1);
	}

	iter->private = kvm_gmem_attrs_is_private(attrs, iter->index);
	if (kvm_gmem_attrs_first(attrs, &next, iter->last, iter->private))
		iter->last = next - 1;

	if (has_pages)
		kvm_gmem_map_count(iter, mapping);
}

static void *kvm_gmem_map_line(struct kvm_gmem_map_iter *iter)
{
	struct inode *inode = kvm_gmem_map_get_inode(iter);
	int r;

	if (!inode)
		return NULL;

	r = down_read_killable(&inode->i_mapping->invalidate_lock);
	if (!r) {
		kvm_gmem_map_fill(iter, inode);
		up_read(&inode->i_mapping->invalidate_lock);
	}

	iput(inode);
	return r ? ERR_PTR(r) : iter;
}

/* Resume where the last read stopped, or start with the first line. */
static void *kvm_gmem_map_start(struct seq_file *m, loff_t *pos)
{
	struct kvm_gmem_map_iter *iter = m->private;

	if (!*pos) {
		iter->id = 0;
		iter->index = 0;
	}
	return kvm_gmem_map_line(iter);
}

static void *kvm_gmem_map_next(struct seq_file *m, void *v, loff_t *pos)
{
	struct kvm_gmem_map_iter *iter = m->private;

	++*pos;
	if (iter->last == iter->last_of_file) {
		iter->id++;
		iter->index = 0;
	} else {
		iter->index = iter->last + 1;
	}

	cond_resched();
	return kvm_gmem_map_line(iter);
}

static void kvm_gmem_map_stop(struct seq_file *m, void *v)
{
}

static int kvm_gmem_map_show(struct seq_file *m, void *v)
{
	struct kvm_gmem_map_iter *iter = v;

	seq_printf(m, "ino %llu start %#lx nr_pages %#lx %s allocated %lu poisoned %lu\n",
		   iter->ino, iter->index, iter->last - iter->index + 1,
		   iter->private ? "private" : "shared",
		   iter->nr_allocated, iter->nr_poisoned);
	return 0;
}

static const struct seq_operations kvm_gmem_map_ops = {
	.start	= kvm_gmem_map_start,
	.next	= kvm_gmem_map_next,
	.stop	= kvm_gmem_map_stop,
	.show	= kvm_gmem_map_show,
};

static int kvm_gmem_map_open(struct inode *inode, struct file *file)
{
	struct kvm_gmem_map_iter *iter;

	iter = __seq_open_private(file, &kvm_gmem_map_ops, sizeof(*iter));
	if (!iter)
		return -ENOMEM;

	iter->kvm = inode->i_private;
	return 0;
}

static const struct file_operations kvm_gmem_map_fops = {
	.owner		= THIS_MODULE,
	.open		= kvm_gmem_map_open,
	.read		= seq_read,
	.llseek		= seq_lseek,
	.release	= seq_release_private,
};

void kvm_gmem_create_debugfs(struct kvm *kvm)
{
	debugfs_create_file("gmem_map", 0400, kvm->debugfs_dentry, kvm,
			    &kvm_gmem_map_fops);
}

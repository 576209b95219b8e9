/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef __KVM_GUEST_MEMFD_CONVERT_H__
#define __KVM_GUEST_MEMFD_CONVERT_H__

#include <linux/fs.h>
#include <linux/types.h>
#include <linux/xarray.h>

#include "guest_memfd_attrs.h"
#include "guest_memfd_wait.h"

struct folio;
struct kvm;

/* All indices are in pages, and @last and @last_change are inclusive. */
struct kvm_gmem_conversion {
	/* The request. */
	struct kvm *kvm;
	struct inode *inode;
	pgoff_t start;
	pgoff_t last;
	bool to_private;

	/* First and last page to change, stable under the invalidate lock. */
	pgoff_t first_change;
	pgoff_t last_change;
	struct kvm_gmem_attrs_update update;

	/* Pages in use. */
	struct kvm_gmem_wait wait;
	unsigned int nr_drains;
	u64 drains_spent_until;
	bool drained;
	int extra_refs;
	u64 waited_ns;

	/* The result. */
	pgoff_t nr_changed;
	pgoff_t error_index;
};

/*
 * Iterate over allocated pages that a conversion changes, in ascending order.
 * Don't take references, as memory_failure() fails on a page with a reference
 * that it can't explain.  The invalidate lock, held for write, and
 * kvm_gmem_release_folio() keep pages in the file, and thus the nodes of the
 * page cache's tree, so the caller may sleep.
 */
struct kvm_gmem_change_iter {
	struct kvm_gmem_conversion *c;
	pgoff_t last;
	struct xa_state xas;
	struct kvm_gmem_attrs_span span;
	unsigned int nr_seen;
};

static inline struct kvm_gmem_change_iter
kvm_gmem_change_iter(struct kvm_gmem_conversion *c, pgoff_t first, pgoff_t last)
{
	return (struct kvm_gmem_change_iter) {
		.c = c,
		.last = last,
		.xas = __XA_STATE(&c->inode->i_mapping->i_pages, first, 0, 0),
	};
}

struct folio *kvm_gmem_next_change(struct kvm_gmem_change_iter *iter);

#define kvm_gmem_for_each_change(folio, c, first, last)				\
	for (struct kvm_gmem_change_iter __iter =				\
	     kvm_gmem_change_iter(c, first, last);				\
	     ((folio) = kvm_gmem_next_change(&__iter));)

int kvm_gmem_drop_host_refs(struct kvm_gmem_conversion *c);
void kvm_gmem_host_refs_dropped(struct kvm_gmem_conversion *c);
void kvm_gmem_wait_unlocked(struct kvm_gmem_conversion *c);

#endif /* __KVM_GUEST_MEMFD_CONVERT_H__ */

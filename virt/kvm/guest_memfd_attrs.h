/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef __KVM_GUEST_MEMFD_ATTRS_H__
#define __KVM_GUEST_MEMFD_ATTRS_H__

#include <linux/maple_tree.h>
#include <linux/rwsem.h>
#include <linux/types.h>

/**
 * struct kvm_gmem_attrs - The memory attributes of each page of a guest_memfd
 * @mt: Maps ranges of indices to attributes, NULL being attributes 0.
 *
 * All indices are in pages, and all ranges include their last index.
 *
 * Ranges of the same attributes that touch are merged by every store, i.e. the
 * size of the tree follows the number of boundaries between different
 * attributes, not the number of stores.
 *
 * Readers need no lock.  What they read can be stale by the time they have it,
 * unless they hold the lock that was given to kvm_gmem_attrs_init().
 */
struct kvm_gmem_attrs {
	struct maple_tree mt;
};

/**
 * struct kvm_gmem_attrs_range - A range of pages of the same attributes
 * @start: First index of the range, in pages.
 * @last: Last index of the range, in pages, inclusive.
 * @attrs: KVM_MEMORY_ATTRIBUTE_* of every page in the range.
 */
struct kvm_gmem_attrs_range {
	pgoff_t start;
	pgoff_t last;
	u64 attrs;
};

/**
 * struct kvm_gmem_attrs_update - A store that is ready to be committed
 * @mas: Where to store, with all the memory that it takes.
 * @entry: What to store.
 */
struct kvm_gmem_attrs_update {
	struct ma_state mas;
	void *entry;
};

void kvm_gmem_attrs_init(struct kvm_gmem_attrs *attrs, struct rw_semaphore *lock);
void kvm_gmem_attrs_destroy(struct kvm_gmem_attrs *attrs);

u64 kvm_gmem_attrs_get(struct kvm_gmem_attrs *attrs, pgoff_t index);
bool kvm_gmem_attrs_range_has(struct kvm_gmem_attrs *attrs, pgoff_t start,
			      pgoff_t last, u64 value);
bool kvm_gmem_attrs_next(struct kvm_gmem_attrs *attrs, pgoff_t start,
			 pgoff_t last, struct kvm_gmem_attrs_range *range);

int kvm_gmem_attrs_prepare(struct kvm_gmem_attrs *attrs,
			   struct kvm_gmem_attrs_update *update, pgoff_t start,
			   pgoff_t last, u64 value, gfp_t gfp);
void kvm_gmem_attrs_commit(struct kvm_gmem_attrs_update *update);
void kvm_gmem_attrs_abort(struct kvm_gmem_attrs_update *update);

/* Where a walk has come to: from @next to @end is still to be seen. */
struct kvm_gmem_attrs_walk {
	struct kvm_gmem_attrs *attrs;
	pgoff_t next;
	pgoff_t end;
	bool done;
};

static inline bool kvm_gmem_attrs_walk(struct kvm_gmem_attrs_walk *walk,
				       struct kvm_gmem_attrs_range *range)
{
	if (walk->done ||
	    !kvm_gmem_attrs_next(walk->attrs, walk->next, walk->end, range))
		return false;

	/* The index behind the last one of all is 0. */
	walk->done = range->last == walk->end;
	walk->next = range->last + 1;
	return true;
}

/**
 * kvm_gmem_for_each_attrs_range() - Walk the ranges within a range, upwards
 * @r: &struct kvm_gmem_attrs_range, cut to the bounds of the walk.
 * @a: &struct kvm_gmem_attrs.
 * @first: First index of the walk, in pages.
 * @last: Last index of the walk, in pages, inclusive.
 *
 * Neighbours in the walk differ in their attributes if the store's lock is
 * held throughout.  Otherwise the walk sees each index once, each in a state
 * that it had at some time during the walk.
 */
#define kvm_gmem_for_each_attrs_range(r, a, first, last)		\
	for (struct kvm_gmem_attrs_walk __walk = {			\
			.attrs = (a), .next = (first), .end = (last)	\
	     }; kvm_gmem_attrs_walk(&__walk, r);)

#endif /* __KVM_GUEST_MEMFD_ATTRS_H__ */

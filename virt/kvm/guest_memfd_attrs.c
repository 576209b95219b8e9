// SPDX-License-Identifier: GPL-2.0-only
/*
 * Memory attributes of a guest_memfd, per range of pages.
 *
 * A store of new attributes is split in two so that it can go at the end of a
 * conversion, where failing is no option any more: kvm_gmem_attrs_prepare()
 * allocates all that the store can take, kvm_gmem_attrs_commit() stores and
 * cannot fail.  The lock has to be held for write from before the one until
 * after the other, as what is allocated depends on what is in the tree.
 *
 * vCPU faults look attributes up without that lock, some with mmu_lock held,
 * hence the tree is in RCU mode.
 */
#include <linux/cleanup.h>
#include <linux/lockdep.h>
#include <linux/minmax.h>
#include <linux/rcupdate.h>
#include <linux/xarray.h>

#include "guest_memfd_attrs.h"

#define kvm_gmem_attrs_assert_held_write(attrs) \
	lockdep_assert(mt_write_lock_is_held(&(attrs)->mt))

/**
 * kvm_gmem_attrs_init() - Initialize a store, all attributes being 0
 * @attrs: the store
 * @lock: what callers hold for write when they change the store
 *
 * @lock need not be initialized yet.
 */
void kvm_gmem_attrs_init(struct kvm_gmem_attrs *attrs, struct rw_semaphore *lock)
{
	/*
	 * Nobody looks for gaps.  But in RCU mode, freeing the other type of
	 * nodes is not safe: mt_clear_meta() takes the last slot of a full node
	 * for metadata once mte_dead_leaves() has stripped it of its type, and
	 * clears two bytes of a pointer that is yet to be followed.
	 */
	mt_init_flags(&attrs->mt, MT_FLAGS_LOCK_EXTERN | MT_FLAGS_USE_RCU |
				  MT_FLAGS_ALLOC_RANGE);
	mt_set_external_lock(&attrs->mt, lock);
}

/**
 * kvm_gmem_attrs_destroy() - Free all memory of a store
 * @attrs: the store, initialized, possibly never written to
 *
 * All attributes are 0 afterwards.
 *
 * Context: The store's lock must be held for write.
 */
void kvm_gmem_attrs_destroy(struct kvm_gmem_attrs *attrs)
{
	kvm_gmem_attrs_assert_held_write(attrs);

	__mt_destroy(&attrs->mt);
}

/**
 * kvm_gmem_attrs_get() - Look up the attributes of a page
 * @attrs: the store
 * @index: index of the page
 *
 * Context: Any; stable only as long as the store's lock is held.
 * Return: KVM_MEMORY_ATTRIBUTE_* of the page, 0 if none was ever set.
 */
u64 kvm_gmem_attrs_get(struct kvm_gmem_attrs *attrs, pgoff_t index)
{
	return xa_to_value(mtree_load(&attrs->mt, index));
}

static void kvm_gmem_attrs_find(struct kvm_gmem_attrs *attrs, pgoff_t index,
				struct kvm_gmem_attrs_range *range)
{
	MA_STATE(mas, &attrs->mt, index, index);

	guard(rcu)();

	range->attrs = xa_to_value(mas_walk(&mas));
	range->start = mas.index;
	range->last = mas.last;
}

/**
 * kvm_gmem_attrs_next() - Find the first range of equal attributes in a range
 * @attrs: the store
 * @start: first index to look at
 * @last: last index to look at, inclusive
 * @range: where to put the range found, which starts at @start and ends no
 *	   later than @last
 *
 * Context: Any; stable only as long as the store's lock is held.
 * Return: true if there is a range, i.e. unless @start is beyond @last.
 */
bool kvm_gmem_attrs_next(struct kvm_gmem_attrs *attrs, pgoff_t start,
			 pgoff_t last, struct kvm_gmem_attrs_range *range)
{
	if (start > last)
		return false;

	kvm_gmem_attrs_find(attrs, start, range);

	range->start = start;
	range->last = min(range->last, last);
	return true;
}

/**
 * kvm_gmem_attrs_range_has() - Test whether a whole range has given attributes
 * @attrs: the store
 * @start: first index to look at
 * @last: last index to look at, inclusive
 * @value: attributes to compare with, all bits
 *
 * Context: Any; stable only as long as the store's lock is held.
 * Return: true if every page from @start to @last has exactly @value.
 */
bool kvm_gmem_attrs_range_has(struct kvm_gmem_attrs *attrs, pgoff_t start,
			      pgoff_t last, u64 value)
{
	struct kvm_gmem_attrs_range range;

	return kvm_gmem_attrs_next(attrs, start, last, &range) &&
	       range.attrs == value && range.last == last;
}

/**
 * kvm_gmem_attrs_prepare() - Get ready to store attributes of a range
 * @attrs: the store
 * @update: what to commit, or abort, if and only if this succeeds
 * @start: first index of the range
 * @last: last index of the range, inclusive
 * @value: KVM_MEMORY_ATTRIBUTE_* for every page of the range
 * @gfp: how to allocate
 *
 * Context: The store's lock must be held for write, and must stay so until
 *	    @update has been committed or aborted.  May sleep if @gfp does.
 * Return: 0 or -ENOMEM; in neither case has anything in the store changed.
 */
int kvm_gmem_attrs_prepare(struct kvm_gmem_attrs *attrs,
			   struct kvm_gmem_attrs_update *update, pgoff_t start,
			   pgoff_t last, u64 value, gfp_t gfp)
{
	struct kvm_gmem_attrs_range range;

	kvm_gmem_attrs_assert_held_write(attrs);

	/* Absorb equal neighbours, the tree itself merges nothing but NULL. */
	if (start > 0) {
		kvm_gmem_attrs_find(attrs, start - 1, &range);
		if (range.attrs == value)
			start = range.start;
	}
	if (last < ULONG_MAX) {
		kvm_gmem_attrs_find(attrs, last + 1, &range);
		if (range.attrs == value)
			last = range.last;
	}

	update->entry = value ? xa_mk_value(value) : NULL;
	mas_init(&update->mas, &attrs->mt, start);
	mas_set_range(&update->mas, start, last);

	return mas_preallocate(&update->mas, update->entry, gfp);
}

/**
 * kvm_gmem_attrs_commit() - Store the attributes that have been prepared
 * @update: as filled in by kvm_gmem_attrs_prepare()
 *
 * Context: The store's lock must be held for write.  Does not sleep.
 */
void kvm_gmem_attrs_commit(struct kvm_gmem_attrs_update *update)
{
	lockdep_assert(mt_write_lock_is_held(update->mas.tree));

	mas_store_prealloc(&update->mas, update->entry);
}

/**
 * kvm_gmem_attrs_abort() - Give up a store that has been prepared
 * @update: as filled in by kvm_gmem_attrs_prepare()
 *
 * Context: The store's lock must be held for write.  Does not sleep.
 */
void kvm_gmem_attrs_abort(struct kvm_gmem_attrs_update *update)
{
	lockdep_assert(mt_write_lock_is_held(update->mas.tree));

	mas_destroy(&update->mas);
}

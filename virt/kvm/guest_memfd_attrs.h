/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef __KVM_GUEST_MEMFD_ATTRS_H__
#define __KVM_GUEST_MEMFD_ATTRS_H__

#include <linux/bitops.h>
#include <linux/lockdep.h>
#include <linux/rwsem.h>
#include <linux/types.h>

/* The number of slots of a node, and of the index bits that select one. */
#define KVM_GMEM_ATTRS_SLOT_BITS	6
#define KVM_GMEM_ATTRS_NR_SLOTS		BIT(KVM_GMEM_ATTRS_SLOT_BITS)

/* Nodes of level 0 have one bit per page instead of children. */
#define KVM_GMEM_ATTRS_LEAF_BITS	12
#define KVM_GMEM_ATTRS_LEAF_PAGES	BIT(KVM_GMEM_ATTRS_LEAF_BITS)

/*
 * Each slot of an inner node either has a child or is uniform: the slot's bit
 * in @private is then the attribute of all its pages.  Ignore the bit if there
 * is a child.
 *
 * @nr_private and @nr_edges count private pages below the node, and pages that
 * differ from the next page.  A node without edges is uniform.  It is kept
 * until the next update elsewhere in the file, so that converting pages back
 * and forth doesn't allocate and free it each time.
 */
struct kvm_gmem_attrs_node {
	union {
		struct rcu_head rcu;
		struct kvm_gmem_attrs_node *next_detached;
	};
	unsigned long nr_private;
	unsigned long nr_edges;
	unsigned int level;
	unsigned long private;
	union {
		struct kvm_gmem_attrs_node __rcu *child[KVM_GMEM_ATTRS_NR_SLOTS];
		unsigned long pages[BITS_TO_LONGS(KVM_GMEM_ATTRS_LEAF_PAGES)];
	};
};

/*
 * The private vs. shared state of all pages of a guest_memfd: a radix tree of
 * fixed height, whose leaves are bitmaps.  All indices are in pages, and all
 * ranges include @last.
 *
 * Hold @lock for write to update.  Reading is safe under RCU, but the result is
 * stable only while @lock is held.
 *
 * Pages beyond the end of the file have the attribute of the last page.
 */
struct kvm_gmem_attrs {
	struct rw_semaphore *lock;
	pgoff_t last;
	/* Pages at which the last update may have left uniform nodes. */
	pgoff_t lazy[2];
	/* Totals of the file, for readers without the lock. */
	pgoff_t nr_private;
	pgoff_t nr_ranges;
	struct kvm_gmem_attrs_node root;
};

/*
 * An update in progress.  @detached lists the nodes that are no longer in the
 * tree, for kvm_gmem_attrs_finish() to free.
 */
struct kvm_gmem_attrs_update {
	struct kvm_gmem_attrs *attrs;
	pgoff_t start;
	pgoff_t last;
	struct kvm_gmem_attrs_node *detached;
};

/*
 * Pages from @start up to, but not including, @end: those of a leaf or, if
 * @leaf is NULL, a range whose pages all have the attribute @private.  A zeroed
 * span is empty.
 */
struct kvm_gmem_attrs_span {
	const struct kvm_gmem_attrs_node *leaf;
	pgoff_t start;
	pgoff_t end;
	bool private;
};

int kvm_gmem_attrs_cache_init(void);
void kvm_gmem_attrs_cache_exit(void);

void kvm_gmem_attrs_init(struct kvm_gmem_attrs *attrs, struct rw_semaphore *lock,
			 pgoff_t last, bool private);
void kvm_gmem_attrs_destroy(struct kvm_gmem_attrs *attrs);

bool kvm_gmem_attrs_is_private(struct kvm_gmem_attrs *attrs, pgoff_t index);
bool kvm_gmem_attrs_range_is(struct kvm_gmem_attrs *attrs, pgoff_t start,
			     pgoff_t last, bool private);
bool kvm_gmem_attrs_first(struct kvm_gmem_attrs *attrs, pgoff_t *start,
			  pgoff_t last, bool private);
bool kvm_gmem_attrs_trim(struct kvm_gmem_attrs *attrs, pgoff_t *start,
			 pgoff_t *last, bool private);
bool kvm_gmem_attrs_find(struct kvm_gmem_attrs *attrs, pgoff_t index,
			 struct kvm_gmem_attrs_span *span);

/*
 * Test the attribute of a page while walking in ascending order, with the lock
 * held.  @span caches the last lookup; start with an empty one.
 */
static inline bool kvm_gmem_attrs_span_is(struct kvm_gmem_attrs *attrs,
					  struct kvm_gmem_attrs_span *span,
					  pgoff_t index, bool private)
{
	lockdep_assert_held(attrs->lock);

	if (index >= span->end)
		kvm_gmem_attrs_find(attrs, index, span);

	if (span->leaf)
		return test_bit(index - span->start, span->leaf->pages) == private;

	return span->private == private;
}

int kvm_gmem_attrs_prepare(struct kvm_gmem_attrs *attrs,
			   struct kvm_gmem_attrs_update *update,
			   pgoff_t start, pgoff_t last);
pgoff_t kvm_gmem_attrs_commit(struct kvm_gmem_attrs_update *update, bool private);
void kvm_gmem_attrs_abort(struct kvm_gmem_attrs_update *update);
void kvm_gmem_attrs_finish(struct kvm_gmem_attrs_update *update);

#if IS_ENABLED(CONFIG_KUNIT)
struct kvm_gmem_attrs_node *kvm_gmem_attrs_alloc_node(void);
#endif

#endif /* __KVM_GUEST_MEMFD_ATTRS_H__ */

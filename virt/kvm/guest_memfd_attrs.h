/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef __KVM_GUEST_MEMFD_ATTRS_H__
#define __KVM_GUEST_MEMFD_ATTRS_H__

#include <linux/bitops.h>
#include <linux/rwsem.h>
#include <linux/types.h>

/* Slots of a node, and how many bits of a page's index choose one of them. */
#define KVM_GMEM_ATTRS_SLOT_BITS	6
#define KVM_GMEM_ATTRS_NR_SLOTS		BIT(KVM_GMEM_ATTRS_SLOT_BITS)

/* A node of level 0 has a bit per page in place of children. */
#define KVM_GMEM_ATTRS_LEAF_BITS	12
#define KVM_GMEM_ATTRS_LEAF_PAGES	BIT(KVM_GMEM_ATTRS_LEAF_BITS)

/*
 * A slot of an inner node either has a child, or all of its pages are alike and
 * the slot's bit in @private says what they are.  The bit means nothing while
 * there is a child.
 *
 * @nr_private and @nr_edges count the private pages below the node, and the
 * places where a page differs from the next one.  A node without edges is
 * uniform and goes away with the next update elsewhere in the file: pages that
 * go back and forth shall not allocate and free it each time.
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
 * Which pages of a guest_memfd are private: a radix tree of fixed height with
 * bitmaps for leaves.  All indices are in pages, all ranges include their last
 * index.
 *
 * Updates need @lock held for write.  Readers need no lock, but what they read
 * can be stale by the time they have it, unless they do hold @lock.
 *
 * Pages beyond the last one of the file are always what that one is.
 */
struct kvm_gmem_attrs {
	struct rw_semaphore *lock;
	pgoff_t last;
	/* Where the last update left nodes that may be uniform. */
	pgoff_t lazy[2];
	/* Of the file, kept for those who only want to have a look. */
	pgoff_t nr_private;
	pgoff_t nr_ranges;
	struct kvm_gmem_attrs_node root;
};

/*
 * An update that is prepared but not committed yet.  @detached is what the
 * commit has taken out of the tree and kvm_gmem_attrs_finish() has yet to free.
 */
struct kvm_gmem_attrs_update {
	struct kvm_gmem_attrs *attrs;
	pgoff_t start;
	pgoff_t last;
	struct kvm_gmem_attrs_node *detached;
};

/*
 * The pages of a leaf, or, without a leaf, pages up to @end that are alike.  All
 * zeroes for none.
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
bool kvm_gmem_attrs_trim(struct kvm_gmem_attrs *attrs, pgoff_t *start,
			 pgoff_t *last, bool private);
bool kvm_gmem_attrs_find(struct kvm_gmem_attrs *attrs, pgoff_t index,
			 struct kvm_gmem_attrs_span *span);

/*
 * Test what a page is, for pages that are looked at in ascending order, with the
 * lock held: @span, all zeroes before the first one, saves most of the look-ups.
 */
static inline bool kvm_gmem_attrs_span_is(struct kvm_gmem_attrs *attrs,
					  struct kvm_gmem_attrs_span *span,
					  pgoff_t index, bool private)
{
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

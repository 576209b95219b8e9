// SPDX-License-Identifier: GPL-2.0-only
/*
 * Track which pages of a guest_memfd are private.
 *
 * Updates have two steps, because a conversion must not run out of memory after
 * it has zapped guest mappings.  kvm_gmem_attrs_prepare() adds the nodes that
 * the edges of the range need, without changing any page.
 * kvm_gmem_attrs_commit() flips bits and detaches nodes, and cannot fail.  Its
 * cost depends on the height of the tree, not on the size or contents of the
 * range, as it detaches whole subtrees.  kvm_gmem_attrs_finish() frees them,
 * after the lock has been dropped.
 */
#include <kunit/static_stub.h>
#include <kunit/visibility.h>
#include <linux/bitmap.h>
#include <linux/bitops.h>
#include <linux/export.h>
#include <linux/lockdep.h>
#include <linux/minmax.h>
#include <linux/pagemap.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <linux/slab.h>

#include "guest_memfd_attrs.h"

#define KVM_GMEM_ATTRS_NR_WORDS	BITS_TO_LONGS(KVM_GMEM_ATTRS_LEAF_PAGES)

static struct kmem_cache *kvm_gmem_attrs_cachep;

/* The number of index bits below one slot of a node. */
static unsigned int kvm_gmem_attrs_slot_shift(unsigned int level)
{
	return level ? KVM_GMEM_ATTRS_LEAF_BITS +
		       (level - 1) * KVM_GMEM_ATTRS_SLOT_BITS : 0;
}

static unsigned int kvm_gmem_attrs_node_shift(unsigned int level)
{
	return KVM_GMEM_ATTRS_LEAF_BITS + level * KVM_GMEM_ATTRS_SLOT_BITS;
}

static unsigned int kvm_gmem_attrs_slot(pgoff_t index, unsigned int level)
{
	return (index >> kvm_gmem_attrs_slot_shift(level)) &
	       (KVM_GMEM_ATTRS_NR_SLOTS - 1);
}

static void kvm_gmem_attrs_assert_held_write(struct kvm_gmem_attrs *attrs)
{
	lockdep_assert_held_write(attrs->lock);
}

static struct kvm_gmem_attrs_node *
kvm_gmem_attrs_child(struct kvm_gmem_attrs *attrs,
		     struct kvm_gmem_attrs_node *node, unsigned int slot)
{
	return rcu_dereference_protected(node->child[slot],
					 lockdep_is_held(attrs->lock));
}

static void kvm_gmem_attrs_fill(struct kvm_gmem_attrs_node *node,
				unsigned int level, bool private)
{
	node->level = level;
	node->nr_private = private ? BIT(kvm_gmem_attrs_node_shift(level)) : 0;
	node->nr_edges = 0;
	node->private = private ? ~0ul : 0;
	memset(node->pages, private && !level ? 0xff : 0, sizeof(node->pages));
}

int kvm_gmem_attrs_cache_init(void)
{
	/* Userspace controls the number of nodes, so charge them. */
	kvm_gmem_attrs_cachep = KMEM_CACHE(kvm_gmem_attrs_node, SLAB_ACCOUNT);
	return kvm_gmem_attrs_cachep ? 0 : -ENOMEM;
}

void kvm_gmem_attrs_cache_exit(void)
{
	kmem_cache_destroy(kvm_gmem_attrs_cachep);
}

void kvm_gmem_attrs_init(struct kvm_gmem_attrs *attrs, struct rw_semaphore *lock,
			 pgoff_t last, bool private)
{
	unsigned int level = 0;

	while (last >> kvm_gmem_attrs_node_shift(level))
		level++;

	attrs->lock = lock;
	attrs->last = last;
	attrs->nr_private = private ? last + 1 : 0;
	attrs->nr_ranges = 1;
	attrs->lazy[0] = 0;
	attrs->lazy[1] = 0;
	kvm_gmem_attrs_fill(&attrs->root, level, private);
}
EXPORT_SYMBOL_IF_KUNIT(kvm_gmem_attrs_init);

/*
 * Find the leaf or the uniform slot that contains a page, and return true if
 * the page is private.  If a slot has no child, its bit is at least as new as
 * the absence of the child, see kvm_gmem_attrs_set_slot().
 */
bool kvm_gmem_attrs_find(struct kvm_gmem_attrs *attrs, pgoff_t index,
			 struct kvm_gmem_attrs_span *span)
{
	struct kvm_gmem_attrs_node *node = &attrs->root, *child;
	unsigned int slot, shift;

	RCU_LOCKDEP_WARN(!rcu_read_lock_held() && !lockdep_is_held(attrs->lock),
			 "attributes are looked up without protection");

	for (; node->level; node = child) {
		slot = kvm_gmem_attrs_slot(index, node->level);
		/* Pairs with the release in kvm_gmem_attrs_set_slot(). */
		child = (void __force *)smp_load_acquire(&node->child[slot]);
		if (child)
			continue;

		shift = kvm_gmem_attrs_slot_shift(node->level);
		span->leaf = NULL;
		span->start = index >> shift << shift;
		span->end = span->start + BIT(shift);
		span->private = test_bit(slot, &node->private);
		return span->private;
	}

	span->leaf = node;
	span->start = index & ~(KVM_GMEM_ATTRS_LEAF_PAGES - 1);
	span->end = span->start + KVM_GMEM_ATTRS_LEAF_PAGES;
	return test_bit(index - span->start, node->pages);
}
EXPORT_SYMBOL_IF_KUNIT(kvm_gmem_attrs_find);

/* The result is stable only while the lock is held. */
bool kvm_gmem_attrs_is_private(struct kvm_gmem_attrs *attrs, pgoff_t index)
{
	struct kvm_gmem_attrs_span span;

	guard(rcu)();
	return kvm_gmem_attrs_find(attrs, index, &span);
}
EXPORT_SYMBOL_IF_KUNIT(kvm_gmem_attrs_is_private);

/* Find the first page that differs from @private, or return false. */
bool kvm_gmem_attrs_first(struct kvm_gmem_attrs *attrs, pgoff_t *start,
			  pgoff_t last, bool private)
{
	struct kvm_gmem_attrs_span span;
	unsigned long bit;
	pgoff_t index;

	for (index = *start; index <= last; index = span.end) {
		kvm_gmem_attrs_find(attrs, index, &span);
		if (span.leaf) {
			bit = index - span.start;
			if (private)
				bit = find_next_zero_bit(span.leaf->pages,
							 KVM_GMEM_ATTRS_LEAF_PAGES, bit);
			else
				bit = find_next_bit(span.leaf->pages,
						    KVM_GMEM_ATTRS_LEAF_PAGES, bit);
			index = span.start + bit;
			if (bit == KVM_GMEM_ATTRS_LEAF_PAGES)
				continue;
		} else if (span.private == private) {
			continue;
		}

		*start = index;
		return index <= last;
	}
	return false;
}

/* Find the last page up to @last that differs from @private; one must exist. */
static pgoff_t kvm_gmem_attrs_last(struct kvm_gmem_attrs *attrs, pgoff_t last,
				   bool private)
{
	struct kvm_gmem_attrs_span span;

	for (;; last = span.start - 1) {
		kvm_gmem_attrs_find(attrs, last, &span);
		if (!span.leaf && span.private != private)
			return last;

		for (; span.leaf; last--) {
			if (test_bit(last - span.start, span.leaf->pages) != private)
				return last;
			if (last == span.start)
				break;
		}
	}
}

/* The result is stable only while the lock is held. */
bool kvm_gmem_attrs_range_is(struct kvm_gmem_attrs *attrs, pgoff_t start,
			     pgoff_t last, bool private)
{
	/* Common: all pages match.  Reading a single counter needs no lock. */
	if (READ_ONCE(attrs->nr_private) == (private ? attrs->last + 1 : 0))
		return true;

	guard(rcu)();
	return !kvm_gmem_attrs_first(attrs, &start, last, private);
}
EXPORT_SYMBOL_IF_KUNIT(kvm_gmem_attrs_range_is);

/* Trim a range to the first and last page that differ, or return false. */
bool kvm_gmem_attrs_trim(struct kvm_gmem_attrs *attrs, pgoff_t *start,
			 pgoff_t *last, bool private)
{
	lockdep_assert_held(attrs->lock);

	if (!kvm_gmem_attrs_first(attrs, start, *last, private))
		return false;

	*last = kvm_gmem_attrs_last(attrs, *last, private);
	return true;
}
EXPORT_SYMBOL_IF_KUNIT(kvm_gmem_attrs_trim);

/* Make a slot uniform.  kvm_gmem_attrs_find() depends on the order of stores. */
static void kvm_gmem_attrs_set_slot(struct kvm_gmem_attrs_update *update,
				    struct kvm_gmem_attrs_node *node,
				    unsigned int slot, bool private)
{
	struct kvm_gmem_attrs_node *child;

	assign_bit(slot, &node->private, private);

	child = kvm_gmem_attrs_child(update->attrs, node, slot);
	if (!child)
		return;

	/* Pairs with the acquire in kvm_gmem_attrs_find(). */
	smp_store_release(&node->child[slot], NULL);
	child->next_detached = update->detached;
	update->detached = child;
}

/* Detach the topmost uniform node on the path to a page, if there is one. */
static void kvm_gmem_attrs_prune(struct kvm_gmem_attrs_update *update, pgoff_t index)
{
	struct kvm_gmem_attrs_node *node = &update->attrs->root, *child;
	unsigned int slot;

	for (; node->level; node = child) {
		slot = kvm_gmem_attrs_slot(index, node->level);
		child = kvm_gmem_attrs_child(update->attrs, node, slot);
		if (!child)
			return;

		if (!child->nr_edges) {
			kvm_gmem_attrs_set_slot(update, node, slot, child->nr_private);
			return;
		}
	}
}

/*
 * Detach uniform nodes left by the last update, unless the new update has an
 * edge in the same leaf.
 */
static void kvm_gmem_attrs_prune_lazy(struct kvm_gmem_attrs_update *update)
{
	pgoff_t *lazy = update->attrs->lazy;
	unsigned int i;

	for (i = 0; i < 2; i++) {
		if ((lazy[i] ^ update->start) >> KVM_GMEM_ATTRS_LEAF_BITS &&
		    (lazy[i] ^ (update->last + 1)) >> KVM_GMEM_ATTRS_LEAF_BITS)
			kvm_gmem_attrs_prune(update, lazy[i]);
	}
}

VISIBLE_IF_KUNIT struct kvm_gmem_attrs_node *kvm_gmem_attrs_alloc_node(void)
{
	KUNIT_STATIC_STUB_REDIRECT(kvm_gmem_attrs_alloc_node);

	/* Fail rather than OOM-kill if a memory cgroup is at its limit. */
	return kmem_cache_alloc(kvm_gmem_attrs_cachep, GFP_KERNEL | __GFP_RETRY_MAYFAIL);
}
EXPORT_SYMBOL_IF_KUNIT(kvm_gmem_attrs_alloc_node);

/* Add nodes until @index is the first page of a slot or has a leaf. */
static int kvm_gmem_attrs_split(struct kvm_gmem_attrs *attrs, pgoff_t index)
{
	struct kvm_gmem_attrs_node *node = &attrs->root, *child;
	unsigned int slot;

	for (; node->level; node = child) {
		if (!(index & (BIT(kvm_gmem_attrs_slot_shift(node->level)) - 1)))
			return 0;

		slot = kvm_gmem_attrs_slot(index, node->level);
		child = kvm_gmem_attrs_child(attrs, node, slot);
		if (child)
			continue;

		child = kvm_gmem_attrs_alloc_node();
		if (!child)
			return -ENOMEM;

		kvm_gmem_attrs_fill(child, node->level - 1,
				    test_bit(slot, &node->private));
		rcu_assign_pointer(node->child[slot], child);
	}
	return 0;
}

/* Allocate all nodes that the update needs.  No page changes. */
int kvm_gmem_attrs_prepare(struct kvm_gmem_attrs *attrs,
			   struct kvm_gmem_attrs_update *update,
			   pgoff_t start, pgoff_t last)
{
	int r;

	kvm_gmem_attrs_assert_held_write(attrs);

	update->attrs = attrs;
	update->start = start;
	update->last = last;
	update->detached = NULL;

	kvm_gmem_attrs_prune_lazy(update);

	r = kvm_gmem_attrs_split(attrs, start);
	if (!r && last < attrs->last)
		r = kvm_gmem_attrs_split(attrs, last + 1);
	if (r)
		kvm_gmem_attrs_abort(update);

	return r;
}
EXPORT_SYMBOL_IF_KUNIT(kvm_gmem_attrs_prepare);

void kvm_gmem_attrs_abort(struct kvm_gmem_attrs_update *update)
{
	kvm_gmem_attrs_assert_held_write(update->attrs);

	kvm_gmem_attrs_prune(update, update->start);
	if (update->last < update->attrs->last)
		kvm_gmem_attrs_prune(update, update->last + 1);
}
EXPORT_SYMBOL_IF_KUNIT(kvm_gmem_attrs_abort);

/* Count the pages from bit @lo to bit @hi that differ from the next page. */
static unsigned long kvm_gmem_attrs_leaf_edges(const unsigned long *pages,
					       unsigned int lo, unsigned int hi)
{
	unsigned long word, nr = 0;
	unsigned int i;

	hi = min(hi, KVM_GMEM_ATTRS_LEAF_PAGES - 2);
	for (i = BIT_WORD(lo); i <= BIT_WORD(hi); i++) {
		word = pages[i] >> 1;
		if (i + 1 < KVM_GMEM_ATTRS_NR_WORDS)
			word |= pages[i + 1] << (BITS_PER_LONG - 1);
		word ^= pages[i];

		if (i == BIT_WORD(lo))
			word &= BITMAP_FIRST_WORD_MASK(lo);
		if (i == BIT_WORD(hi))
			word &= BITMAP_LAST_WORD_MASK(hi + 1);
		nr += hweight_long(word);
	}
	return nr;
}

static void kvm_gmem_attrs_set_leaf(struct kvm_gmem_attrs_node *node,
				    unsigned int lo, unsigned int hi, bool private)
{
	unsigned int before = lo ? lo - 1 : 0, nr = hi - lo + 1;

	node->nr_edges -= kvm_gmem_attrs_leaf_edges(node->pages, before, hi);
	node->nr_private -= bitmap_weight_from(node->pages, lo, hi + 1);

	if (private)
		bitmap_set(node->pages, lo, nr);
	else
		bitmap_clear(node->pages, lo, nr);

	node->nr_edges += kvm_gmem_attrs_leaf_edges(node->pages, before, hi);
	node->nr_private += private ? nr : 0;
}

/* Return the attribute of the first or the last page of a slot. */
static bool kvm_gmem_attrs_slot_end(struct kvm_gmem_attrs *attrs,
				    struct kvm_gmem_attrs_node *node,
				    unsigned int slot, bool first)
{
	struct kvm_gmem_attrs_node *child;

	for (;; node = child) {
		child = kvm_gmem_attrs_child(attrs, node, slot);
		if (!child)
			return test_bit(slot, &node->private);
		if (!child->level)
			return test_bit(first ? 0 : KVM_GMEM_ATTRS_LEAF_PAGES - 1,
					child->pages);
		slot = first ? 0 : KVM_GMEM_ATTRS_NR_SLOTS - 1;
	}
}

/*
 * Add slots @lo to @hi, and the edges between them and their neighbours, to the
 * counts of a node.  Subtract them if @sign is -1.
 */
static void kvm_gmem_attrs_account(struct kvm_gmem_attrs *attrs,
				   struct kvm_gmem_attrs_node *node,
				   unsigned int lo, unsigned int hi, long sign)
{
	struct kvm_gmem_attrs_node *child;
	unsigned int slot;

	for (slot = lo; slot <= hi; slot++) {
		child = kvm_gmem_attrs_child(attrs, node, slot);
		if (child) {
			node->nr_private += sign * child->nr_private;
			node->nr_edges += sign * child->nr_edges;
		} else if (test_bit(slot, &node->private)) {
			node->nr_private += sign * BIT(kvm_gmem_attrs_slot_shift(node->level));
		}
	}

	for (slot = lo ? lo - 1 : 0; slot <= min(hi, KVM_GMEM_ATTRS_NR_SLOTS - 2); slot++)
		if (kvm_gmem_attrs_slot_end(attrs, node, slot, false) !=
		    kvm_gmem_attrs_slot_end(attrs, node, slot + 1, true))
			node->nr_edges += sign;
}

/* The recursion is bounded, as leaves are at most seven levels down. */
static void kvm_gmem_attrs_set(struct kvm_gmem_attrs_update *update,
			       struct kvm_gmem_attrs_node *node,
			       pgoff_t start, pgoff_t last, bool private)
{
	unsigned int slot, lo, hi, shift = kvm_gmem_attrs_slot_shift(node->level);
	struct kvm_gmem_attrs_node *child;
	pgoff_t slot_start, slot_last;

	if (!node->level) {
		kvm_gmem_attrs_set_leaf(node, start & (KVM_GMEM_ATTRS_LEAF_PAGES - 1),
					last & (KVM_GMEM_ATTRS_LEAF_PAGES - 1), private);
		return;
	}

	lo = kvm_gmem_attrs_slot(start, node->level);
	hi = kvm_gmem_attrs_slot(last, node->level);

	/* Edges between slots don't change if the pages next to them don't. */
	child = lo == hi ? kvm_gmem_attrs_child(update->attrs, node, lo) : NULL;
	if (child && (!lo || start & (BIT(shift) - 1)) &&
	    (hi == KVM_GMEM_ATTRS_NR_SLOTS - 1 || ~last & (BIT(shift) - 1))) {
		node->nr_private -= child->nr_private;
		node->nr_edges -= child->nr_edges;
		kvm_gmem_attrs_set(update, child, start, last, private);
		node->nr_private += child->nr_private;
		node->nr_edges += child->nr_edges;
		return;
	}

	if (node->nr_edges)
		kvm_gmem_attrs_account(update->attrs, node, lo, hi, -1);
	else if (node->nr_private)
		node->nr_private -= (hi - lo + 1) * BIT(shift);

	for (slot = lo; slot <= hi; slot++) {
		slot_start = slot == lo ? start : ((start >> shift) + slot - lo) << shift;
		slot_last = slot == hi ? last : slot_start | (BIT(shift) - 1);

		child = kvm_gmem_attrs_child(update->attrs, node, slot);
		if (child && (slot_last - slot_start != BIT(shift) - 1))
			kvm_gmem_attrs_set(update, child, slot_start, slot_last, private);
		else
			kvm_gmem_attrs_set_slot(update, node, slot, private);
	}

	/* Slots in between are uniform. */
	if (hi - lo < 2) {
		kvm_gmem_attrs_account(update->attrs, node, lo, hi, 1);
	} else {
		kvm_gmem_attrs_account(update->attrs, node, lo, lo, 1);
		kvm_gmem_attrs_account(update->attrs, node, hi, hi, 1);
		node->nr_private += private ? (hi - lo - 1) * BIT(shift) : 0;
	}
}

/* Return the number of pages that have changed. */
pgoff_t kvm_gmem_attrs_commit(struct kvm_gmem_attrs_update *update, bool private)
{
	struct kvm_gmem_attrs *attrs = update->attrs;
	struct kvm_gmem_attrs_node *root = &attrs->root;
	pgoff_t nr_private = attrs->nr_private, end;

	kvm_gmem_attrs_assert_held_write(attrs);

	attrs->lazy[0] = update->start;
	attrs->lazy[1] = min(update->last + 1, attrs->last);

	/* Pages beyond the end of the file have the last page's attribute. */
	end = BIT(kvm_gmem_attrs_node_shift(root->level)) - 1;
	if (update->last == attrs->last)
		update->last = end;

	kvm_gmem_attrs_set(update, root, update->start, update->last, private);

	WRITE_ONCE(attrs->nr_ranges, root->nr_edges + 1);
	WRITE_ONCE(attrs->nr_private, root->nr_private -
		   (kvm_gmem_attrs_is_private(attrs, attrs->last) ? end - attrs->last : 0));

	return private ? attrs->nr_private - nr_private :
			 nr_private - attrs->nr_private;
}
EXPORT_SYMBOL_IF_KUNIT(kvm_gmem_attrs_commit);

static void kvm_gmem_attrs_detach_children(struct kvm_gmem_attrs_update *update,
					   struct kvm_gmem_attrs_node *node)
{
	struct kvm_gmem_attrs_node *child;
	unsigned int slot;

	for (slot = 0; node->level && slot < KVM_GMEM_ATTRS_NR_SLOTS; slot++) {
		/* The node is detached, so its children can't change. */
		child = rcu_dereference_protected(node->child[slot], true);
		if (child) {
			child->next_detached = update->detached;
			update->detached = child;
		}
	}
}

/*
 * Free the nodes that an update, committed or aborted, has detached.  There can
 * be millions, so don't hold any lock.
 */
void kvm_gmem_attrs_finish(struct kvm_gmem_attrs_update *update)
{
	struct kvm_gmem_attrs_node *node;

	while ((node = update->detached)) {
		update->detached = node->next_detached;
		kvm_gmem_attrs_detach_children(update, node);
		kfree_rcu(node, rcu);
		cond_resched();
	}
}
EXPORT_SYMBOL_IF_KUNIT(kvm_gmem_attrs_finish);

void kvm_gmem_attrs_destroy(struct kvm_gmem_attrs *attrs)
{
	struct kvm_gmem_attrs_update update = { .attrs = attrs };

	kvm_gmem_attrs_detach_children(&update, &attrs->root);
	kvm_gmem_attrs_finish(&update);
}
EXPORT_SYMBOL_IF_KUNIT(kvm_gmem_attrs_destroy);

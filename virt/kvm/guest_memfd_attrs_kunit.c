// SPDX-License-Identifier: GPL-2.0-only
/*
 * KUnit tests for the store that tracks which pages of a guest_memfd are
 * private, with a plain array as the model.
 */
#include <kunit/static_stub.h>
#include <kunit/test.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/prandom.h>
#include <linux/seqlock.h>
#include <linux/slab.h>

#include "guest_memfd_attrs.h"

#define LEAF_PAGES	KVM_GMEM_ATTRS_LEAF_PAGES
/* A full node of the level above the leaves. */
#define NODE_PAGES	(LEAF_PAGES * KVM_GMEM_ATTRS_NR_SLOTS)
/* No file has more pages than this, as its size is a loff_t. */
#define HUGE_PAGES	BIT(63 - PAGE_SHIFT)
/*
 * An update has two edges, each of which needs at most one node on each of the
 * seven levels below the root.
 */
#define HUGE_NODES	14
#define MANY_LEAVES	100000

/* The model covers @nr pages from @base; all others have attribute @outside. */
struct attrs_test {
	struct kvm_gmem_attrs attrs;
	struct rw_semaphore lock;
	struct kmem_cache *cache;
	unsigned int nr_allocs;
	struct rnd_state rnd;

	pgoff_t base;
	unsigned int nr;
	bool outside;
	bool pages[10000];

	/* Results of the last update. */
	pgoff_t nr_changed;
	unsigned int nr_detached;

	/* For attrs_test_readers(): the attribute of page RACE_FLIPS. */
	seqcount_t seq;
	bool flips;
};

/* KVM creates its own cache only if there is hardware virtualization. */
static struct kvm_gmem_attrs_node *attrs_test_alloc_node(void)
{
	struct attrs_test *t = kunit_get_current_test()->priv;

	if (!t->nr_allocs)
		return NULL;

	t->nr_allocs--;
	return kmem_cache_alloc(t->cache, GFP_KERNEL);
}

static int attrs_test_init(struct kunit *test)
{
	struct attrs_test *t = kunit_kzalloc(test, sizeof(*t), GFP_KERNEL);

	test->priv = t;
	if (!t)
		return -ENOMEM;

	t->nr_allocs = UINT_MAX;
	init_rwsem(&t->lock);
	seqcount_init(&t->seq);
	prandom_seed_state(&t->rnd, 0x6d656d6664);
	kunit_activate_static_stub(test, kvm_gmem_attrs_alloc_node, attrs_test_alloc_node);

	/* Poison nodes that are freed, in case a reader still uses them. */
	t->cache = kmem_cache_create("kvm_gmem_attrs_test", sizeof(struct kvm_gmem_attrs_node),
				     0, SLAB_POISON, NULL);
	return t->cache ? 0 : -ENOMEM;
}

static void attrs_test_exit(struct kunit *test)
{
	struct attrs_test *t = test->priv;

	if (t) {
		kvm_gmem_attrs_destroy(&t->attrs);
		/* Warns about nodes that were not freed. */
		kmem_cache_destroy(t->cache);
	}
}

static void attrs_test_new_file(struct attrs_test *t, pgoff_t nr_pages,
				pgoff_t base, unsigned int nr, bool private)
{
	kvm_gmem_attrs_destroy(&t->attrs);
	kvm_gmem_attrs_init(&t->attrs, &t->lock, nr_pages - 1, private);
	t->base = base;
	t->nr = nr;
	t->outside = private;
	memset(t->pages, private, nr);
}

static unsigned int attrs_test_random(struct attrs_test *t, unsigned int ceil)
{
	return prandom_u32_state(&t->rnd) % ceil;
}

/* Assertions end a test immediately, so make none with the lock held. */
static int attrs_test_store(struct attrs_test *t, pgoff_t start, pgoff_t last, bool private)
{
	struct kvm_gmem_attrs_update update;
	struct kvm_gmem_attrs_node *node;
	int ret;

	down_write(&t->lock);
	ret = kvm_gmem_attrs_prepare(&t->attrs, &update, start, last);
	if (!ret)
		t->nr_changed = kvm_gmem_attrs_commit(&update, private);
	up_write(&t->lock);

	t->nr_detached = 0;
	for (node = update.detached; node; node = node->next_detached)
		t->nr_detached++;
	kvm_gmem_attrs_finish(&update);
	return ret;
}

/* Count the nodes below @node, and those that are uniform, i.e. not needed. */
static unsigned int attrs_test_count(struct kvm_gmem_attrs_node *node,
				     unsigned int *nr_uniform)
{
	struct kvm_gmem_attrs_node *child;
	unsigned int slot, nr = 0;

	for (slot = 0; node->level && slot < KVM_GMEM_ATTRS_NR_SLOTS; slot++) {
		child = rcu_dereference_protected(node->child[slot], true);
		if (child) {
			nr += 1 + attrs_test_count(child, nr_uniform);
			*nr_uniform += !child->nr_edges;
		}
	}
	return nr;
}

/* Check pages and counters, and return the number of nodes. */
static unsigned int attrs_test_check(struct kunit *test)
{
	struct attrs_test *t = test->priv;
	pgoff_t first = t->base ? t->base - 1 : 0, end = min(t->base + t->nr, t->attrs.last);
	pgoff_t index, nr_private = 0, nr_ranges = 1;
	unsigned int nr_nodes, nr_uniform = 0;
	bool private, before = false;

	for (index = first; index <= end; index++, before = private) {
		private = index - t->base < t->nr ? t->pages[index - t->base] : t->outside;
		nr_private += private;
		nr_ranges += index > first && private != before;
		if (kvm_gmem_attrs_is_private(&t->attrs, index) != private)
			KUNIT_FAIL_AND_ABORT(test, "page 0x%lx has the wrong attribute", index);
	}
	nr_private += t->outside ? t->attrs.last - (end - first) : 0;
	KUNIT_ASSERT_EQ(test, t->attrs.nr_private, nr_private);
	KUNIT_ASSERT_EQ(test, t->attrs.nr_ranges, nr_ranges);

	nr_nodes = attrs_test_count(&t->attrs.root, &nr_uniform);

	/* The edges of the last update may have left uniform nodes behind. */
	KUNIT_ASSERT_LE(test, nr_uniform, 2 * t->attrs.root.level);
	KUNIT_ASSERT_TRUE(test, nr_ranges > 1 || nr_nodes == nr_uniform);
	return nr_nodes;
}

/* Make pages @first to @last of the model private or shared. */
static void attrs_test_update(struct kunit *test, unsigned int first,
			      unsigned int last, bool private)
{
	struct attrs_test *t = test->priv;
	pgoff_t nr_changed = 0;
	unsigned int i;

	for (i = first; i <= last; i++) {
		nr_changed += t->pages[i] != private;
		t->pages[i] = private;
	}
	KUNIT_ASSERT_EQ(test, 0, attrs_test_store(t, t->base + first, t->base + last, private));
	KUNIT_ASSERT_EQ(test, t->nr_changed, nr_changed);
	attrs_test_check(test);
}

static void attrs_test_check_range(struct kunit *test, unsigned int first,
				   unsigned int last, bool private)
{
	struct attrs_test *t = test->priv;
	pgoff_t start = t->base + first, end = t->base + last;
	unsigned int lo = first, hi = last, i, next, nr_wrong = 0;
	struct kvm_gmem_attrs_span span = {};
	bool differs;

	while (lo <= last && t->pages[lo] == private)
		lo++;
	while (hi > lo && t->pages[hi] == private)
		hi--;

	scoped_guard(rwsem_read, &t->lock) {
		differs = kvm_gmem_attrs_trim(&t->attrs, &start, &end, private);

		for (i = first; i <= last; i = next) {
			nr_wrong += kvm_gmem_attrs_span_is(&t->attrs, &span, t->base + i,
							   private) != (t->pages[i] == private);
			next = span.leaf ? i + 1 : min(span.end - t->base, last + 1);
			nr_wrong += !!memchr_inv(&t->pages[i], t->pages[i], next - i);
		}
	}
	KUNIT_ASSERT_EQ(test, nr_wrong, 0);
	KUNIT_ASSERT_EQ(test, differs, lo <= last);
	if (differs) {
		KUNIT_ASSERT_EQ(test, start, t->base + lo);
		KUNIT_ASSERT_EQ(test, end, t->base + hi);
	}
	KUNIT_ASSERT_NE(test, differs, kvm_gmem_attrs_range_is(&t->attrs, t->base + first,
							       t->base + last, private));
}

/* Try all updates of a window around @index, for all possible contents. */
static void attrs_test_edge(struct kunit *test, pgoff_t nr_pages, pgoff_t index)
{
	pgoff_t base = index > 2 ? index - 2 : 0;
	unsigned int i, outside, contents, first, last, nr = min(nr_pages - base, 4);

	for (outside = 0; outside <= 1; outside++) {
		attrs_test_new_file(test->priv, nr_pages, base, nr, outside);
		for (first = 0; first < nr; first++)
			for (last = first; last < nr; last++)
				for (contents = 0; contents < BIT(nr + 1); contents++) {
					for (i = 0; i < nr; i++)
						attrs_test_update(test, i, i, contents & BIT(i));
					attrs_test_check_range(test, first, last, contents >> nr);
					attrs_test_update(test, first, last, contents >> nr);
				}
	}
}

static void attrs_test_edges(struct kunit *test)
{
	static const pgoff_t sizes[] = {
		1, LEAF_PAGES, LEAF_PAGES + 1, NODE_PAGES, NODE_PAGES + 1, HUGE_PAGES,
	};
	unsigned int i, shift;

	for (i = 0; i < ARRAY_SIZE(sizes); i++) {
		attrs_test_edge(test, sizes[i], 0);
		attrs_test_edge(test, sizes[i], sizes[i]);
		for (shift = KVM_GMEM_ATTRS_LEAF_BITS; sizes[i] >> shift;
		     shift += KVM_GMEM_ATTRS_SLOT_BITS) {
			attrs_test_edge(test, sizes[i], BIT(shift));
			attrs_test_edge(test, sizes[i], round_down(sizes[i] - 1, BIT(shift)));
		}
	}
}

static const struct attrs_test_random_param {
	const char *desc;
	pgoff_t nr_pages;
	pgoff_t base;
	unsigned int nr;
} attrs_test_random_params[] = {
	{ "leaf",		LEAF_PAGES, 0, LEAF_PAGES },
	{ "leaf_and_a_page",	LEAF_PAGES + 1, 0, LEAF_PAGES + 1 },
	{ "node",		NODE_PAGES, NODE_PAGES - 9000, 9000 },
	{ "huge_middle",	HUGE_PAGES, HUGE_PAGES / 2 - 5000, 10000 },
	{ "huge_end",		HUGE_PAGES, HUGE_PAGES - 10000, 10000 },
};

KUNIT_ARRAY_PARAM_DESC(attrs_test_random, attrs_test_random_params, desc);

static void attrs_test_random_range(struct attrs_test *t, unsigned int *first,
				    unsigned int *last)
{
	unsigned int len = 1 + attrs_test_random(t, 1 + attrs_test_random(t, t->nr));

	*first = attrs_test_random(t, t->nr);
	*last = min(*first + len, t->nr) - 1;

	/* Cover whole leaves, too, which an update detaches. */
	if (!attrs_test_random(t, 4)) {
		*first -= min((t->base + *first) % LEAF_PAGES, *first);
		*last = min(((t->base + *last) | (LEAF_PAGES - 1)) - t->base, t->nr - 1);
	}
}

static void attrs_test_random_updates(struct kunit *test)
{
	const struct attrs_test_random_param *p = test->param_value;
	struct attrs_test *t = test->priv;
	unsigned int i, first, last;

	attrs_test_new_file(t, p->nr_pages, p->base, p->nr, true);
	for (i = 0; i < 150; i++) {
		attrs_test_random_range(t, &first, &last);
		attrs_test_check_range(test, first, last, i % 2);
		attrs_test_update(test, first, last, attrs_test_random(t, 2));
	}
	attrs_test_update(test, 0, t->nr - 1, true);
}

/* Prepare an update with only @nr_allocs nodes available, and abort it. */
static int attrs_test_prepare(struct kunit *test, unsigned int first,
			      unsigned int last, unsigned int nr_allocs)
{
	unsigned int nr_nodes = attrs_test_check(test);
	struct attrs_test *t = test->priv;
	struct kvm_gmem_attrs_update update;
	int ret;

	down_write(&t->lock);
	t->nr_allocs = nr_allocs;
	ret = kvm_gmem_attrs_prepare(&t->attrs, &update, t->base + first, t->base + last);
	t->nr_allocs = UINT_MAX;
	if (!ret)
		kvm_gmem_attrs_abort(&update);
	up_write(&t->lock);
	kvm_gmem_attrs_finish(&update);

	/* Nodes that the last update left may be gone. */
	KUNIT_ASSERT_GE(test, nr_nodes, attrs_test_check(test));
	return ret;
}

static void attrs_test_abort_and_enomem(struct kunit *test)
{
	unsigned int i, outside, nr_allocs, first, last;
	struct attrs_test *t = test->priv;
	int ret;

	/* Updating whole slots, or a root that is a leaf, needs no nodes. */
	attrs_test_new_file(t, LEAF_PAGES, 0, 8, false);
	KUNIT_ASSERT_EQ(test, 0, attrs_test_prepare(test, 1, 1, 0));
	attrs_test_new_file(t, LEAF_PAGES + 1, LEAF_PAGES, 1, false);
	KUNIT_ASSERT_EQ(test, 0, attrs_test_prepare(test, 0, 0, 0));

	for (outside = 0; outside <= 1; outside++) {
		attrs_test_new_file(t, HUGE_PAGES, HUGE_PAGES / 2 - 1000, 2000, outside);

		KUNIT_ASSERT_EQ(test, -ENOMEM, attrs_test_prepare(test, 1, 1998, HUGE_NODES - 1));
		KUNIT_ASSERT_EQ(test, 0, attrs_test_prepare(test, 1, 1998, HUGE_NODES));

		for (i = 0; i < 25; i++) {
			attrs_test_random_range(t, &first, &last);
			for (nr_allocs = 0, ret = -ENOMEM; ret; nr_allocs++) {
				KUNIT_ASSERT_EQ(test, ret, -ENOMEM);
				ret = attrs_test_prepare(test, first, last, nr_allocs);
			}
			attrs_test_update(test, first, last, attrs_test_random(t, 2));
		}
	}
}

static void attrs_test_many_leaves(struct kunit *test)
{
	const pgoff_t last = MANY_LEAVES * LEAF_PAGES - 1;
	struct attrs_test *t = test->priv;
	unsigned int round;
	pgoff_t index;

	/* Free the nodes along with the file, and then in one update. */
	for (round = 0; round < 2; round++) {
		attrs_test_new_file(t, last + 1, 0, 0, false);
		for (index = 0; index < last; index += LEAF_PAGES)
			KUNIT_ASSERT_EQ(test, 0, attrs_test_store(t, index, index, true));
		KUNIT_ASSERT_EQ(test, t->attrs.nr_ranges, 2 * MANY_LEAVES);
	}

	KUNIT_ASSERT_EQ(test, 0, attrs_test_store(t, 0, last, false));
	KUNIT_EXPECT_EQ(test, t->nr_changed, MANY_LEAVES);
	/* The work under the lock must not depend on the number of nodes. */
	KUNIT_EXPECT_LE(test, t->nr_detached, KVM_GMEM_ATTRS_NR_SLOTS);
	attrs_test_check(test);
}

#define RACE_CONST	(HUGE_PAGES / 2 + 5000)
#define RACE_FLIPS	(HUGE_PAGES / 2 + 10000)

static int attrs_test_reader(void *data)
{
	struct attrs_test *t = data;
	int nr_wrong = 0;
	unsigned int seq;

	do {
		nr_wrong += !kvm_gmem_attrs_is_private(&t->attrs, RACE_CONST);
		nr_wrong += kvm_gmem_attrs_range_is(&t->attrs, 0, HUGE_PAGES - 1, false);
		if (raw_seqcount_try_begin(&t->seq, seq))
			nr_wrong += kvm_gmem_attrs_is_private(&t->attrs, RACE_FLIPS) != t->flips &&
				    !read_seqcount_retry(&t->seq, seq);
		cond_resched();
	} while (!kthread_should_stop());

	return nr_wrong;
}

/* The page RACE_FLIPS changes only within write sections of @seq. */
static void attrs_test_readers(struct kunit *test)
{
	static const struct { pgoff_t start, last; } ranges[] = {
		{ 0, RACE_CONST - 1 },
		{ RACE_CONST + 1, RACE_FLIPS - 1 },
		{ RACE_FLIPS + 1, HUGE_PAGES - 1 },
	};
	struct attrs_test *t = test->priv;
	struct task_struct *readers[2];
	int i, r, ret;

	attrs_test_new_file(t, HUGE_PAGES, 0, 0, false);
	ret = attrs_test_store(t, RACE_CONST, RACE_CONST, true);
	for (i = 0; i < ARRAY_SIZE(readers); i++)
		readers[i] = kthread_run(attrs_test_reader, t, "kvm-gmem-attrs/%d", i);

	/* Make no assertion until the readers have stopped. */
	for (i = 0; !ret && i < 5000; i++) {
		r = attrs_test_random(t, ARRAY_SIZE(ranges));
		ret = attrs_test_store(t, ranges[r].start, ranges[r].last, attrs_test_random(t, 2));
		if (!ret && attrs_test_random(t, 2)) {
			raw_write_seqcount_begin(&t->seq);
			t->flips = !t->flips;
			ret = attrs_test_store(t, RACE_FLIPS, RACE_FLIPS, t->flips);
			raw_write_seqcount_end(&t->seq);
		}
		cond_resched();
	}
	KUNIT_EXPECT_EQ(test, ret, 0);
	/* A reader that could not be started or never got to run is an error, too. */
	for (i = 0; i < ARRAY_SIZE(readers); i++)
		KUNIT_EXPECT_EQ(test, 0, IS_ERR(readers[i]) ? PTR_ERR(readers[i]) :
							      kthread_stop(readers[i]));
}

static struct kunit_case attrs_test_cases[] = {
	KUNIT_CASE_SLOW(attrs_test_edges),
	KUNIT_CASE_PARAM_ATTR(attrs_test_random_updates, attrs_test_random_gen_params,
			      { .speed = KUNIT_SPEED_SLOW }),
	KUNIT_CASE_SLOW(attrs_test_abort_and_enomem),
	KUNIT_CASE_SLOW(attrs_test_many_leaves),
	KUNIT_CASE_SLOW(attrs_test_readers),
	{}
};

static struct kunit_suite attrs_test_suite = {
	.name = "kvm-gmem-attrs",
	.init = attrs_test_init,
	.exit = attrs_test_exit,
	.test_cases = attrs_test_cases,
};

kunit_test_suite(attrs_test_suite);

MODULE_DESCRIPTION("KUnit tests for guest_memfd");
MODULE_LICENSE("GPL");
MODULE_IMPORT_NS("EXPORTED_FOR_KUNIT_TESTING");

// SPDX-License-Identifier: GPL-2.0-only
/*
 * KUnit tests for the memory attributes of a guest_memfd, with a plain array
 * of attributes per page as the model.
 */
#include <kunit/test.h>
#include <linux/bits.h>
#include <linux/gfp.h>
#include <linux/kthread.h>
#include <linux/kvm.h>
#include <linux/module.h>
#include <linux/prandom.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>

/*
 * Nothing of the store is exported, so a module brings a copy of its own.  If
 * the tests are built in then KVM is built in as well and there is only one.
 */
#ifdef MODULE
#include "guest_memfd_attrs.c"
#else
#include "guest_memfd_attrs.h"
#endif

#define PRIVATE		KVM_MEMORY_ATTRIBUTE_PRIVATE
/* Some other bit, the store doesn't care what attributes mean. */
#define OTHER		BIT_ULL(0)

/* Twice what fits into a file, going by the largest loff_t. */
#define HUGE_NR_PAGES	BIT(52)

#define MAX_NR_PAGES	2048

/* More updates than slab has sheaves of free nodes in stock. */
#define MAX_UPDATES	64

/*
 * The model in @pages is a window of @nr pages from @base.  Tests that compare
 * with it set no attributes outside of it.
 */
struct kvm_gmem_attrs_test {
	struct kvm_gmem_attrs attrs;
	struct rw_semaphore lock;
	struct rnd_state rnd;
	pgoff_t base;
	unsigned int nr;
	u64 pages[MAX_NR_PAGES];
	struct kvm_gmem_attrs_update updates[MAX_UPDATES];
};

static const u64 kvm_gmem_attrs_test_values[] = { 0, PRIVATE, OTHER, PRIVATE | OTHER };

static int kvm_gmem_attrs_test_init(struct kunit *test)
{
	struct kvm_gmem_attrs_test *t;

	t = kunit_kzalloc(test, sizeof(*t), GFP_KERNEL);
	if (!t)
		return -ENOMEM;

	/* In the order of an inode's creation, which initializes locks last. */
	kvm_gmem_attrs_init(&t->attrs, &t->lock);
	init_rwsem(&t->lock);

	prandom_seed_state(&t->rnd, 0x6d656d6664);
	test->priv = t;
	return 0;
}

static void kvm_gmem_attrs_test_destroy(struct kvm_gmem_attrs_test *t)
{
	down_write(&t->lock);
	kvm_gmem_attrs_destroy(&t->attrs);
	up_write(&t->lock);
	memset(t->pages, 0, sizeof(t->pages));
}

static void kvm_gmem_attrs_test_exit(struct kunit *test)
{
	if (test->priv)
		kvm_gmem_attrs_test_destroy(test->priv);
}

static unsigned int kvm_gmem_attrs_test_random(struct kvm_gmem_attrs_test *t,
					       unsigned int ceil)
{
	return prandom_u32_state(&t->rnd) % ceil;
}

/* Assertions end a test at once, hence all of them stand outside of the lock. */
static void kvm_gmem_attrs_test_store_at(struct kunit *test, pgoff_t start,
					 pgoff_t last, u64 value)
{
	struct kvm_gmem_attrs_test *t = test->priv;
	struct kvm_gmem_attrs_update update;
	int ret;

	down_write(&t->lock);
	ret = kvm_gmem_attrs_prepare(&t->attrs, &update, start, last, value,
				     GFP_KERNEL);
	if (!ret)
		kvm_gmem_attrs_commit(&update);
	up_write(&t->lock);

	KUNIT_ASSERT_EQ(test, ret, 0);
}

static void kvm_gmem_attrs_test_store(struct kunit *test, unsigned int start,
				      unsigned int last, u64 value)
{
	struct kvm_gmem_attrs_test *t = test->priv;

	kvm_gmem_attrs_test_store_at(test, t->base + start, t->base + last, value);
	memset64(&t->pages[start], value, last - start + 1);
}

/* Count what the tree consists of, whatever the store makes of it. */
static void kvm_gmem_attrs_test_check_size(struct kunit *test,
					   unsigned long nr_expected)
{
	unsigned long index = 0, nr_ranges = 0, nr_leaves = 0;
	struct kvm_gmem_attrs_test *t = test->priv;
	struct maple_enode *leaf = NULL;

	down_read(&t->lock);
	do {
		MA_STATE(mas, &t->attrs.mt, index, index);

		mas_walk(&mas);
		nr_ranges++;
		nr_leaves += mas.node != leaf;
		leaf = mas.node;
		index = mas.last + 1;
	} while (index);
	up_read(&t->lock);

	KUNIT_ASSERT_EQ(test, nr_ranges, nr_expected);
	/* The tree lets no node but the root get emptier than this. */
	KUNIT_ASSERT_LE(test, nr_leaves, 1 + nr_ranges / 4);
}

static void kvm_gmem_attrs_test_check_pages(struct kunit *test)
{
	struct kvm_gmem_attrs_test *t = test->priv;
	pgoff_t end = t->base + t->nr;
	unsigned long nr_ranges = 1;
	unsigned int i;

	for (i = 0; i < t->nr; i++) {
		KUNIT_ASSERT_EQ_MSG(test, t->pages[i],
				    kvm_gmem_attrs_get(&t->attrs, t->base + i),
				    "page %u of the window", i);
		nr_ranges += i && t->pages[i] != t->pages[i - 1];
	}

	/* The window can stand at either end of what can be indexed. */
	if (t->base) {
		KUNIT_ASSERT_EQ(test, kvm_gmem_attrs_get(&t->attrs, t->base - 1), 0);
		nr_ranges += !!t->pages[0];
	}
	if (end) {
		KUNIT_ASSERT_EQ(test, kvm_gmem_attrs_get(&t->attrs, end), 0);
		nr_ranges += !!t->pages[t->nr - 1];
	}

	kvm_gmem_attrs_test_check_size(test, nr_ranges);
}

/* The last page of the run of equal pages that starts at @i, but at most @last. */
static unsigned int kvm_gmem_attrs_test_run(struct kvm_gmem_attrs_test *t,
					    unsigned int i, unsigned int last)
{
	while (i < last && t->pages[i + 1] == t->pages[i])
		i++;
	return i;
}

static void kvm_gmem_attrs_test_check_range(struct kunit *test,
					    unsigned int first, unsigned int last)
{
	struct kvm_gmem_attrs_test *t = test->priv;
	unsigned int next = first, run = kvm_gmem_attrs_test_run(t, first, last);
	pgoff_t start = t->base + first, end = t->base + last;
	struct kvm_gmem_attrs_range range;
	int i;

	for (i = 0; i < ARRAY_SIZE(kvm_gmem_attrs_test_values); i++) {
		u64 value = kvm_gmem_attrs_test_values[i];
		bool has = t->pages[first] == value;

		KUNIT_ASSERT_EQ(test, has, kvm_gmem_attrs_range_has(&t->attrs, start,
								    t->base + run, value));
		KUNIT_ASSERT_EQ(test, has && run == last,
				kvm_gmem_attrs_range_has(&t->attrs, start, end, value));
	}

	kvm_gmem_for_each_attrs_range(&range, &t->attrs, start, end) {
		KUNIT_ASSERT_LE(test, next, last);
		run = kvm_gmem_attrs_test_run(t, next, last);
		KUNIT_ASSERT_EQ(test, range.start, t->base + next);
		KUNIT_ASSERT_EQ(test, range.last, t->base + run);
		KUNIT_ASSERT_EQ(test, range.attrs, t->pages[next]);
		next = run + 1;
	}
	KUNIT_ASSERT_EQ(test, next, last + 1);
}

/* Windows of 8 pages: '.' is 0, 'P' is PRIVATE, 'o' is OTHER. */
static const struct kvm_gmem_attrs_test_store_param {
	const char *desc;
	const char *before;
	unsigned int start;
	unsigned int last;
	u64 value;
} kvm_gmem_attrs_test_store_params[] = {
	{ "split in the middle",	"PPPPPPPP", 4, 4, 0 },
	{ "split at the start",		"PPPPPPPP", 0, 0, OTHER },
	{ "split at the last",		"PPPPPPPP", 7, 7, OTHER },
	{ "split and clear the start",	"PPPPPPPP", 0, 0, 0 },
	{ "split and clear the last",	"PPPPPPPP", 7, 7, 0 },
	{ "first index",		"........", 0, 0, PRIVATE },
	{ "last index",			"........", 7, 7, PRIVATE },
	{ "merge left",			".PP.....", 3, 4, PRIVATE },
	{ "merge right",		"...PP...", 1, 2, PRIVATE },
	{ "merge both",			".PP..PP.", 3, 4, PRIVATE },
	{ "merge nothing",		".PP..PP.", 3, 4, OTHER },
	{ "merge zeros left",		"..PPoo..", 2, 3, 0 },
	{ "merge zeros right",		"..PPoo..", 4, 5, 0 },
	{ "merge zeros both",		"..PPPP..", 2, 5, 0 },
	{ "overwrite exactly",		".PPPPPP.", 1, 6, OTHER },
	{ "overwrite with the same",	".PPPPPP.", 3, 4, PRIVATE },
	{ "overwrite a superset",	"..Po.oP.", 1, 7, OTHER },
	{ "overwrite parts of two",	".PPPooo.", 2, 5, PRIVATE | OTHER },
	{ "overwrite and merge both",	"PPo.o.PP", 2, 5, PRIVATE },
	{ "overwrite all",		"PoPoPoPo", 0, 7, OTHER },
	{ "clear all",			"PoPoPoPo", 0, 7, 0 },
};

KUNIT_ARRAY_PARAM_DESC(kvm_gmem_attrs_test_store,
		       kvm_gmem_attrs_test_store_params, desc);

static void kvm_gmem_attrs_test_one_store(struct kunit *test)
{
	static const pgoff_t bases[] = { 0, 1, HUGE_NR_PAGES - 8, ULONG_MAX - 7 };
	const struct kvm_gmem_attrs_test_store_param *p = test->param_value;
	struct kvm_gmem_attrs_test *t = test->priv;
	int i, page;

	t->nr = 8;
	for (i = 0; i < ARRAY_SIZE(bases); i++) {
		t->base = bases[i];
		for (page = 0; page < t->nr; page++) {
			if (p->before[page] != '.')
				kvm_gmem_attrs_test_store(test, page, page, p->before[page] == 'P' ?
							  PRIVATE : OTHER);
		}
		kvm_gmem_attrs_test_check_pages(test);

		kvm_gmem_attrs_test_store(test, p->start, p->last, p->value);
		kvm_gmem_attrs_test_check_pages(test);
		kvm_gmem_attrs_test_check_range(test, 0, 7);
		kvm_gmem_attrs_test_destroy(t);
	}
}

static void kvm_gmem_attrs_test_whole_file(struct kunit *test)
{
	const pgoff_t half = HUGE_NR_PAGES / 2, last = HUGE_NR_PAGES - 1;
	struct kvm_gmem_attrs_test *t = test->priv;
	struct kvm_gmem_attrs_range range;

	kvm_gmem_attrs_test_store_at(test, 0, last, PRIVATE);
	KUNIT_EXPECT_TRUE(test, kvm_gmem_attrs_range_has(&t->attrs, 0, last, PRIVATE));
	kvm_gmem_attrs_test_check_size(test, 2);

	kvm_gmem_attrs_test_store_at(test, half, half, 0);
	KUNIT_EXPECT_TRUE(test, kvm_gmem_attrs_next(&t->attrs, half + 1, ULONG_MAX, &range));
	KUNIT_EXPECT_EQ(test, range.last, last);
	kvm_gmem_attrs_test_check_size(test, 4);

	kvm_gmem_attrs_test_store_at(test, 0, ULONG_MAX, OTHER);
	KUNIT_EXPECT_TRUE(test, kvm_gmem_attrs_range_has(&t->attrs, 0, ULONG_MAX, OTHER));
	kvm_gmem_attrs_test_check_size(test, 1);

	kvm_gmem_attrs_test_store_at(test, 0, ULONG_MAX, 0);
	KUNIT_EXPECT_TRUE(test, kvm_gmem_attrs_range_has(&t->attrs, 0, ULONG_MAX, 0));
	kvm_gmem_attrs_test_check_size(test, 1);

	/* There is nothing in an empty range, not even attributes 0. */
	KUNIT_EXPECT_FALSE(test, kvm_gmem_attrs_range_has(&t->attrs, 1, 0, 0));
	KUNIT_EXPECT_FALSE(test, kvm_gmem_attrs_next(&t->attrs, 1, 0, &range));
}

static const struct kvm_gmem_attrs_test_random_param {
	const char *desc;
	pgoff_t base;
	unsigned int nr;
	unsigned int max_len;
	unsigned int nr_values;
	unsigned int nr_stores;
	unsigned int check_every;
} kvm_gmem_attrs_test_random_params[] = {
	/* A guest that flips the same pages for ever must not grow the tree. */
	{ "few pages back and forth",	0, 8, 4, 2, 10000, 1 },
	{ "small file",			0, 64, 16, 2, 4000, 1 },
	{ "small file, more values",	0, 64, 16, 4, 4000, 1 },
	{ "end of the largest file",	HUGE_NR_PAGES - 64, 64, 16, 4, 2000, 1 },
	{ "end of all indices",		ULONG_MAX - 63, 64, 16, 4, 2000, 1 },
	/* Trees of some levels, i.e. stores that split, span and free nodes. */
	{ "many single pages",		0, MAX_NR_PAGES, 1, 2, 8000, 200 },
	{ "many small ranges",		1, MAX_NR_PAGES, 8, 4, 8000, 200 },
	{ "small and large ranges",	1, MAX_NR_PAGES, 500, 4, 2000, 20 },
};

KUNIT_ARRAY_PARAM_DESC(kvm_gmem_attrs_test_random,
		       kvm_gmem_attrs_test_random_params, desc);

static void kvm_gmem_attrs_test_random_stores(struct kunit *test)
{
	const struct kvm_gmem_attrs_test_random_param *p = test->param_value;
	struct kvm_gmem_attrs_test *t = test->priv;
	unsigned int i, start, last;

	t->base = p->base;
	t->nr = p->nr;
	for (i = 1; i <= p->nr_stores; i++) {
		u64 value = kvm_gmem_attrs_test_values[kvm_gmem_attrs_test_random(t, p->nr_values)];

		/* Short ranges are likelier, they are what fills the tree. */
		start = kvm_gmem_attrs_test_random(t, t->nr);
		last = kvm_gmem_attrs_test_random(t, p->max_len);
		last = start + kvm_gmem_attrs_test_random(t, last + 1);
		last = min(last, t->nr - 1);

		kvm_gmem_attrs_test_store(test, start, last, value);
		if (!(i % p->check_every)) {
			kvm_gmem_attrs_test_check_pages(test);
			kvm_gmem_attrs_test_check_range(test, 0, t->nr - 1);
		}

		start = kvm_gmem_attrs_test_random(t, t->nr);
		last = start + kvm_gmem_attrs_test_random(t, min(t->nr - start, 64));
		kvm_gmem_attrs_test_check_range(test, start, last);
	}
}

/*
 * Destroy trees of all sizes that two levels of nodes can have.  Memory is given
 * back later, so wait for that: what goes wrong shows in the slab allocator.
 */
static void kvm_gmem_attrs_test_destroy_sizes(struct kunit *test)
{
	unsigned int max = MAPLE_RANGE64_SLOTS * MAPLE_RANGE64_SLOTS, nr, page;

	for (nr = 2; nr <= max; nr += 2) {
		for (page = 0; page < nr; page += 2)
			kvm_gmem_attrs_test_store_at(test, page, page, PRIVATE);

		kvm_gmem_attrs_test_destroy(test->priv);
		rcu_barrier();
	}
}

static void kvm_gmem_attrs_test_fail_nth(unsigned int nth)
{
#ifdef CONFIG_FAILSLAB
	current->fail_nth = nth;
#endif
}

/*
 * Prepare the same store up to @nr times without committing any, stop at the
 * first error.  If @nth isn't 0, the @nth allocation of each of them fails.
 * Give all up, and return the error and in @mas the memory of the last one.
 */
static int kvm_gmem_attrs_test_prepare(struct kunit *test, unsigned int start,
				       unsigned int last, u64 value, int nr,
				       unsigned int nth, struct ma_state *mas)
{
	/* Allocations that may reclaim are exempt from fault injection. */
	gfp_t gfp = nth ? GFP_NOWAIT : GFP_KERNEL;
	struct kvm_gmem_attrs_test *t = test->priv;
	int i, ret;

	down_write(&t->lock);
	for (i = 0; i < nr; i++) {
		kvm_gmem_attrs_test_fail_nth(nth);
		ret = kvm_gmem_attrs_prepare(&t->attrs, &t->updates[i], start,
					     last, value, gfp);
		kvm_gmem_attrs_test_fail_nth(0);
		*mas = t->updates[i].mas;
		if (ret)
			break;
	}
	while (i--) {
		kvm_gmem_attrs_abort(&t->updates[i]);
		KUNIT_EXPECT_NULL(test, t->updates[i].mas.alloc);
		KUNIT_EXPECT_NULL(test, t->updates[i].mas.sheaf);
	}
	up_write(&t->lock);

	return ret;
}

static void kvm_gmem_attrs_test_give_up(struct kunit *test, bool inject)
{
	unsigned int i, nth, start, last, nr_nodes = 0, nr_sheaves = 0;
	struct kvm_gmem_attrs_test *t = test->priv;
	struct ma_state mas, failed;

	/* With alternating pages, most stores take memory, and some take much. */
	t->nr = 400;
	for (i = 0; i < t->nr; i += 2)
		kvm_gmem_attrs_test_store(test, i, i, PRIVATE);

	for (i = 0; i < 300; i++) {
		u64 value = kvm_gmem_attrs_test_values[i % 4];
		int ret;

		start = kvm_gmem_attrs_test_random(t, t->nr);
		last = min(start + i % 20, t->nr - 1);
		ret = kvm_gmem_attrs_test_prepare(test, start, last, value, 2, 0, &mas);
		KUNIT_ASSERT_EQ(test, ret, 0);
		kvm_gmem_attrs_test_check_pages(test);
		nr_nodes += !!mas.alloc;
		nr_sheaves += !!mas.sheaf;

		/*
		 * Slab asks fault injection for each single node, but not for
		 * a sheaf of nodes as long as it has one in stock, which is why
		 * so many are taken.  Only the first allocation is essential,
		 * others merely replenish the stock.
		 */
		for (nth = 1; inject && nth <= 3; nth++) {
			ret = kvm_gmem_attrs_test_prepare(test, start, last, value,
							  MAX_UPDATES, nth, &failed);
			if (ret || (nth == 1 && (mas.alloc || mas.sheaf))) {
				KUNIT_ASSERT_EQ(test, ret, -ENOMEM);
				KUNIT_EXPECT_NULL(test, failed.alloc);
				KUNIT_EXPECT_NULL(test, failed.sheaf);
			}
			kvm_gmem_attrs_test_check_pages(test);
		}

		kvm_gmem_attrs_test_store(test, start, last, value);
	}
	kvm_gmem_attrs_test_check_pages(test);

	/* What this is about is how each kind of memory is handled. */
	KUNIT_EXPECT_GT(test, nr_nodes, 0);
	KUNIT_EXPECT_GT(test, nr_sheaves, 0);
}

static void kvm_gmem_attrs_test_abort(struct kunit *test)
{
	kvm_gmem_attrs_test_give_up(test, false);
}

static void kvm_gmem_attrs_test_enomem(struct kunit *test)
{
	if (!IS_ENABLED(CONFIG_FAILSLAB))
		kunit_skip(test, "needs CONFIG_FAILSLAB to make allocations fail");

	kvm_gmem_attrs_test_give_up(test, true);
}

#define RACE_NR_PAGES	256

/*
 * Even pages keep what they have.  Odd ones flip between that of their left
 * neighbour and 0, i.e. ranges are merged and split all the time.
 */
static u64 kvm_gmem_attrs_test_race_value(pgoff_t index)
{
	return index & 2 ? OTHER : PRIVATE;
}

static bool kvm_gmem_attrs_test_race_ok(pgoff_t index, u64 value)
{
	return value == kvm_gmem_attrs_test_race_value(index) ||
	       (!value && (index & 1));
}

static int kvm_gmem_attrs_test_reader(void *data)
{
	struct kvm_gmem_attrs *attrs = data;
	struct kvm_gmem_attrs_range range;
	pgoff_t index;
	int wrong = 0;

	do {
		for (index = 0; index < RACE_NR_PAGES; index++)
			wrong |= !kvm_gmem_attrs_test_race_ok(index, kvm_gmem_attrs_get(attrs,
											index));
		index = 0;
		kvm_gmem_for_each_attrs_range(&range, attrs, 0, RACE_NR_PAGES - 1) {
			wrong |= range.start != index || range.last >= RACE_NR_PAGES;
			for (; index <= range.last && index < RACE_NR_PAGES; index++)
				wrong |= !kvm_gmem_attrs_test_race_ok(index, range.attrs);
		}
		wrong |= index != RACE_NR_PAGES;
		cond_resched();
	} while (!kthread_should_stop());

	return wrong;
}

static void kvm_gmem_attrs_test_race(struct kunit *test)
{
	struct kvm_gmem_attrs_test *t = test->priv;
	struct kvm_gmem_attrs_update update;
	struct task_struct *reader;
	int i, ret = 0;
	pgoff_t index;
	u64 value;

	for (index = 0; index < RACE_NR_PAGES; index++)
		kvm_gmem_attrs_test_store_at(test, index, index,
					     kvm_gmem_attrs_test_race_value(index));

	reader = kthread_run(kvm_gmem_attrs_test_reader, &t->attrs, "kvm-gmem-attrs");
	KUNIT_ASSERT_FALSE(test, IS_ERR(reader));

	/* No assertion may end the test while the reader runs. */
	for (i = 0; !ret && i < 20000; i++) {
		index = kvm_gmem_attrs_test_random(t, RACE_NR_PAGES) | 1;
		value = kvm_gmem_attrs_get(&t->attrs, index) ?
			0 : kvm_gmem_attrs_test_race_value(index);

		down_write(&t->lock);
		ret = kvm_gmem_attrs_prepare(&t->attrs, &update, index, index,
					     value, GFP_KERNEL);
		if (!ret)
			kvm_gmem_attrs_commit(&update);
		up_write(&t->lock);
		cond_resched();
	}
	KUNIT_EXPECT_EQ(test, ret, 0);

	/* This is an error as well if the reader never got to run. */
	KUNIT_EXPECT_EQ(test, kthread_stop(reader), 0);
}

static struct kunit_case kvm_gmem_attrs_test_cases[] = {
	KUNIT_CASE_PARAM(kvm_gmem_attrs_test_one_store, kvm_gmem_attrs_test_store_gen_params),
	KUNIT_CASE(kvm_gmem_attrs_test_whole_file),
	KUNIT_CASE_PARAM_ATTR(kvm_gmem_attrs_test_random_stores,
			      kvm_gmem_attrs_test_random_gen_params,
			      { .speed = KUNIT_SPEED_SLOW }),
	KUNIT_CASE(kvm_gmem_attrs_test_destroy_sizes),
	KUNIT_CASE(kvm_gmem_attrs_test_abort),
	KUNIT_CASE_SLOW(kvm_gmem_attrs_test_enomem),
	KUNIT_CASE_SLOW(kvm_gmem_attrs_test_race),
	{}
};

static struct kunit_suite kvm_gmem_attrs_test_suite = {
	.name = "kvm-gmem-attrs",
	.init = kvm_gmem_attrs_test_init,
	.exit = kvm_gmem_attrs_test_exit,
	.test_cases = kvm_gmem_attrs_test_cases,
};

kunit_test_suite(kvm_gmem_attrs_test_suite);

MODULE_DESCRIPTION("KUnit tests for the memory attributes of guest_memfd");
MODULE_LICENSE("GPL");

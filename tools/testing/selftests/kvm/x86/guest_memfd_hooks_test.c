// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test when guest_memfd calls the hooks for confidential VMs, and how it
 * handles failures, with the fake hooks of CONFIG_KVM_GMEM_TEST_HOOKS.  These
 * warn if they are called in the wrong order.
 */
#include <linux/kernel-page-flags.h>

#include "gmem_test.h"
#include "cgroup_util.h"

#define HOOKS		"/sys/kernel/debug/kvm_gmem_test_hooks"
#define NR_PAGES	16
#define CHUNK		GMEM_CHUNK_PAGES

enum { ASSIGNED, RELEASED, UNFLUSHED, LEAKED, ASSIGNED_CHUNKS, RELEASED_CHUNKS, NR_COUNTERS };

static const char * const counters[NR_COUNTERS] = {
	"assigned", "released", "unflushed", "leaked", "assigned_chunks", "released_chunks",
};

static int seen[NR_COUNTERS];

static int read_counter(int i)
{
	int value = cg_read_long(HOOKS, counters[i]);

	TEST_ASSERT(value >= 0, "Cannot read " HOOKS "/%s", counters[i]);
	return value;
}

/*
 * Return true if, since the last check, @nr_assigned pages were assigned, or
 * released if negative, @nr_chunks calls were for a whole chunk, and nothing
 * else happened.
 */
static bool counters_changed(int nr_assigned, int nr_chunks)
{
	const int wanted[NR_COUNTERS] = {
		[ASSIGNED] = nr_assigned,
		[RELEASED] = nr_assigned < 0 ? -nr_assigned : 0,
		[ASSIGNED_CHUNKS] = nr_assigned > 0 ? nr_chunks : 0,
		[RELEASED_CHUNKS] = nr_assigned < 0 ? nr_chunks : 0,
	};
	bool as_wanted = true;
	int i, change;

	for (i = 0; i < NR_COUNTERS; i++) {
		change = read_counter(i) - seen[i];
		seen[i] += change;
		if (change == wanted[i])
			continue;
		ksft_print_msg("%s: %+d, not %+d\n", counters[i], change, wanted[i]);
		as_wanted = false;
	}
	return as_wanted;
}

static void write_knob(const char *hook, const char *knob, int value)
{
	char dir[128];

	snprintf(dir, sizeof(dir), HOOKS "/%s", hook);
	TEST_ASSERT(!cg_write_numeric(dir, knob, value), "Cannot write %s/%s", dir, knob);
}

static int nr_in_use;	/* pages assigned to other VMs */

/* Make a hook fail once, after @nr_before pages (fail_zap: ranges). */
static void inject(const char *hook, int nr_before)
{
	write_knob(hook, "verbose", 0);
	write_knob(hook, "space", nr_before + 1);
	write_knob(hook, "times", 1);
	write_knob(hook, "probability", 100);
}

static void create_vm(bool huge)
{
	int i;

	/* The previous case may have died before its failure was due. */
	write_knob("fail_alloc", "probability", 0);
	write_knob("fail_make_private", "probability", 0);
	write_knob("fail_release", "probability", 0);
	write_knob("fail_zap", "probability", 0);

	for (i = 0; i < NR_COUNTERS; i++)
		seen[i] = read_counter(i);

	if (huge)
		gmem_vm_create_huge(g, 2 * CHUNK);
	else
		gmem_vm_create(g, NR_PAGES);
	gmem_read(g, 0);

	/* Nothing is private yet. */
	TEST_ASSERT(counters_changed(0, 0), "Hooks were called for shared memory");
	nr_in_use = seen[ASSIGNED] - seen[LEAKED];
}

/* A dead VM releases its memory like any other. */
static void free_vm(void)
{
	gmem_vm_free(g);
	TEST_ASSERT_EQ(read_counter(ASSIGNED) - read_counter(LEAKED), nr_in_use);
}

/* The memory of huge variants is in chunks, which hooks get as a whole if possible. */
#define HOOKS_FIXTURE(name)						\
	FIXTURE(name) { };						\
									\
	FIXTURE_SETUP(name) {						\
		create_vm(variant->huge);				\
	}								\
									\
	FIXTURE_TEARDOWN(name) {					\
		free_vm();						\
	}

static void host_touch(struct gmem_vm *g, int page, int nr)
{
	TEST_ASSERT(gmem_host_can_access(g, page, nr), "Pages are not shared");
}

static void remove_memslot(struct gmem_vm *g, int page, int nr)
{
	gmem_set_slot(g, GMEM_SLOT, 0, 0, 0);
}

FIXTURE_VARIANT(steps) {
	bool huge;
	struct step {
		void (*op)(struct gmem_vm *g, int page, int nr);
		int page;
		int nr;
		/* See counters_changed(). */
		int nr_assigned;
		int nr_chunks;
	} steps[16];
};

HOOKS_FIXTURE(steps)

/* Pages that the guest never touched need not be released. */
FIXTURE_VARIANT_ADD(steps, touched_pages) {
	.steps = {
		{ host_touch, 0, 8 },
		{ gmem_make_private, 0, NR_PAGES },
		{ gmem_fill, 1, 2, 2 },
		{ gmem_fill, 9, 1, 1 },
		{ gmem_check, 1, 2 },
		{ gmem_make_shared, 0, 2, -1 },
		/* Make requests that change nothing. */
		{ gmem_make_shared, 0, 2 },
		{ gmem_make_private, 2, 8 },
		{ gmem_make_shared, 0, NR_PAGES, -2 },
		{ host_touch, 0, NR_PAGES },
		{ gmem_fill, 0, NR_PAGES },
	},
};

FIXTURE_VARIANT_ADD(steps, freed_or_unbound_pages) {
	.steps = {
		{ gmem_make_private, 0, NR_PAGES },
		{ gmem_fill, 0, 4, 4 },
		{ gmem_punch_hole, 1, 2, -2 },
		{ gmem_fill, 1, 1, 1 },
		{ remove_memslot },
		{ gmem_make_shared, 0, NR_PAGES, -3 },
		{ host_touch, 0, NR_PAGES },
	},
};

/* One fault assigns all pages of a chunk. */
FIXTURE_VARIANT_ADD(steps, chunk) {
	.huge = true,
	.steps = {
		{ host_touch, 0, CHUNK },
		{ gmem_make_private, 0, CHUNK },
		{ gmem_fill, 100, 1, CHUNK, 1 },
		{ gmem_fill, 511, 1 },
		{ gmem_make_shared, 0, 2 * CHUNK, -CHUNK, 1 },
		{ host_touch, 0, 2 * CHUNK },
		{ gmem_make_private, 0, CHUNK },
		{ gmem_check, 511, 1, CHUNK, 1 },
	},
};

FIXTURE_VARIANT_ADD(steps, part_of_chunk) {
	.huge = true,
	.steps = {
		{ gmem_make_private, 0, CHUNK },
		{ gmem_fill, 0, 1, CHUNK, 1 },
		{ gmem_make_shared, 100, 1, -1 },
		{ gmem_make_shared, 200, 10, -10 },
		/* As long as other pages are shared, only touched pages get assigned. */
		{ gmem_make_private, 200, 10 },
		{ gmem_fill, 200, 2, 2 },
		/* Once the whole chunk is private, one fault assigns the rest of it. */
		{ gmem_make_private, 100, 1 },
		{ gmem_fill, 100, 1, 9, 1 },
		/* The second call converts the rest, which is less than a whole chunk. */
		{ gmem_make_shared, 1, 300, -300 },
		{ gmem_make_shared, 0, CHUNK, -(CHUNK - 300) },
		/* Without one of its pages, the chunk isn't whole, either. */
		{ gmem_make_private, 0, CHUNK },
		{ gmem_fill, 0, 1, CHUNK, 1 },
		{ gmem_punch_hole, 100, 1, -1 },
		{ gmem_make_shared, 0, CHUNK, -(CHUNK - 1) },
	},
};

/* Convert a range that ends within a chunk, and one that contains a chunk. */
FIXTURE_VARIANT_ADD(steps, edges_of_chunk) {
	.huge = true,
	.steps = {
		{ gmem_make_private, 0, 2 * CHUNK },
		{ gmem_fill, 0, 1, CHUNK, 1 },
		{ gmem_fill, CHUNK, 1, CHUNK, 1 },
		{ gmem_make_shared, 0, 100, -100 },
		{ gmem_make_shared, 500, CHUNK + 12, -(CHUNK + 12), 1 },
	},
};

TEST_F_TIMEOUT(steps, counters, 300)
{
	const struct step *s;

	for (s = variant->steps; s->op; s++) {
		s->op(g, s->page, s->nr);
		ASSERT_TRUE(counters_changed(s->nr_assigned, s->nr_chunks)) {
			TH_LOG("in step %ld", s - variant->steps);
		}
	}
}

/* Failures of hooks that kill the VM, see inject() for @nr_before. */
FIXTURE_VARIANT(failure) {
	const char *hook;
	int nr_before;
	bool pre_fault;
	bool huge;
};

HOOKS_FIXTURE(failure)

FIXTURE_VARIANT_ADD(failure, first_release) { "fail_release" };
FIXTURE_VARIANT_ADD(failure, later_release) { "fail_release", 2 };
FIXTURE_VARIANT_ADD(failure, last_release) { "fail_release", 7 };
FIXTURE_VARIANT_ADD(failure, zap) { "fail_zap" };
FIXTURE_VARIANT_ADD(failure, make_private) { "fail_make_private" };
FIXTURE_VARIANT_ADD(failure, make_private_in_pre_fault) { "fail_make_private", .pre_fault = true };
FIXTURE_VARIANT_ADD(failure, release_of_chunk) { "fail_release", 100, .huge = true };
FIXTURE_VARIANT_ADD(failure, make_chunk_private) { "fail_make_private", 100, .huge = true };

TEST_F_TIMEOUT(failure, dead_vm, 300)
{
	struct kvm_pre_fault_memory range = { .gpa = GMEM_GPA, .size = PAGE_SIZE };
	bool to_shared = strcmp(variant->hook, "fail_make_private");
	const int nr = variant->huge ? CHUNK : 8, nr_before = variant->nr_before;
	struct gmem_fdinfo before, after;

	gmem_allocate(g, 0, nr);
	gmem_make_private(g, 0, nr);
	if (to_shared) {
		gmem_fill(g, 0, 8);
		EXPECT_TRUE(counters_changed(nr, variant->huge));
	}
	before = gmem_read_fdinfo(getpid(), g->fd);

	inject(variant->hook, nr_before);
	if (to_shared) {
		ASSERT_EQ(EIO, gmem_convert(g, 0, g->nr_pages, SHARED));
		ASSERT_EQ(-1, g->error_page);
	} else if (variant->pre_fault) {
		ASSERT_EQ(-1, __vcpu_ioctl(g->vcpu, KVM_PRE_FAULT_MEMORY, &range));
		ASSERT_EQ(EIO, errno);
	} else {
		ASSERT_EQ(-1, gmem_start_read(g, 3));
		ASSERT_EQ(EIO, errno);
	}
	EXPECT_TRUE(counters_changed(to_shared ? -nr_before : nr_before, variant->huge));

	/* Even pages that have been released are still private. */
	after = gmem_read_fdinfo(getpid(), g->fd);
	EXPECT_EQ(0, memcmp(&before, &after, sizeof(before)));
	EXPECT_TRUE(gmem_host_can_access_all_but(g, 0, nr));

	/* The VM can only be destroyed.  EIO takes precedence over errors in requests. */
	EXPECT_EQ(EIO, gmem_convert(g, 0, 1, SHARED));
	EXPECT_EQ(-1, g->error_page);
	EXPECT_EQ(-1, ioctl(g->fd, KVM_SET_MEMORY_ATTRIBUTES2, NULL));
	EXPECT_EQ(EIO, errno);
	EXPECT_EQ(-1, ioctl(g->vm->fd, KVM_CHECK_EXTENSION, KVM_CAP_USER_MEMORY));
	EXPECT_EQ(EIO, errno);
	EXPECT_EQ(-1, gmem_start_read(g, 0));
	EXPECT_EQ(EIO, errno);
}

FIXTURE_VARIANT(hooks) {
	bool huge;
};

HOOKS_FIXTURE(hooks)

FIXTURE_VARIANT_ADD(hooks, pages) { .huge = false };
FIXTURE_VARIANT_ADD(hooks, chunks) { .huge = true };

/* Fault in pages from two vCPUs, at any point during a conversion. */
TEST_F_TIMEOUT(hooks, order_under_load, 300)
{
	const int nr_rounds = variant->huge ? 20 : 300, nr = variant->huge ? CHUNK : 4;
	int round, page, first, nr_before;
	struct gmem_hammer hammers[2];
	struct timespec start;

	gmem_hammer_start(g, hammers, 2, HAMMER_LOSSLESS);
	for (round = 0; round < nr_rounds; round++) {
		page = round % (NR_PAGES - 3);
		first = variant->huge ? 0 : page;
		nr_before = read_counter(ASSIGNED);
		gmem_make_private(g, first, nr);
		start = time_now();
		while (read_counter(ASSIGNED) == nr_before) {
			ASSERT_GT(60000, elapsed_ms(start));
			usleep(1000);
		}

		gmem_make_shared(g, page, 1);
		(*gmem_hva(g, page))++;
		gmem_make_private(g, page, 1);
		gmem_make_shared(g, first, nr);
	}
	gmem_hammer_stop(g, hammers, 2);
}

/* A transient failure neither kills the VM nor loses pages that were assigned. */
TEST_F_TIMEOUT(hooks, make_private_enomem, 300)
{
	const int nr = variant->huge ? CHUNK : 1, nr_before = variant->huge ? 100 : 0;
	u64 value;

	*gmem_hva(g, 0) = 0x1111;
	gmem_make_private(g, 0, g->nr_pages);
	inject("fail_alloc", nr_before);
	ASSERT_EQ(-1, __gmem_read(g, 0, &value));
	ASSERT_EQ(ENOMEM, errno);
	EXPECT_TRUE(counters_changed(nr_before, variant->huge));

	ASSERT_EQ(0x1111, gmem_read(g, 0));
	EXPECT_TRUE(counters_changed(nr - nr_before, variant->huge));
	gmem_make_shared(g, 0, g->nr_pages);
	EXPECT_TRUE(counters_changed(-nr, variant->huge));
	ASSERT_EQ(0x1111, *gmem_hva(g, 0));
}

/* The page is leaked, and must never be reused. */
TEST_F_TIMEOUT(hooks, failed_release_of_freed_page, 300)
{
	u64 pfn = gmem_host_pfn(g, 3);
	int i;

	gmem_make_private(g, 0, NR_PAGES);
	gmem_fill(g, 3, 1);
	EXPECT_TRUE(counters_changed(1, 0));

	inject("fail_release", 0);
	gmem_punch_hole(g, 3, 1);
	seen[LEAKED]++;
	EXPECT_TRUE(counters_changed(0, 0));
	ASSERT_EQ(BIT_ULL(KPF_LRU), hwpoison_page_flags(pfn) & BIT_ULL(KPF_LRU));

	/* The VM continues without the page. */
	ASSERT_EQ(0, gmem_read(g, 3));
	gmem_make_shared(g, 0, NR_PAGES);
	for (i = 0; i < NR_PAGES; i++)
		ASSERT_NE(pfn, gmem_host_pfn(g, i));
}

/* A chunk with a poisoned page is released page by page. */
TEST_F_TIMEOUT(hooks, poisoned_page, 300)
{
	const int nr = variant->huge ? CHUNK : 2;
	u64 pfn;

	SKIP_IF(hwpoison_unsupported());

	pfn = gmem_host_pfn(g, 1);
	gmem_make_private(g, 0, nr);
	gmem_fill(g, 0, 2);
	EXPECT_TRUE(counters_changed(nr, variant->huge));

	ASSERT_EQ(0, hwpoison_inject(pfn));
	gmem_check(g, 0, 1);
	ASSERT_TRUE(gmem_refuses(g, 1, true));
	gmem_make_shared(g, 0, nr);
	EXPECT_TRUE(counters_changed(-nr, 0));

	gmem_punch_hole(g, 0, nr);
	EXPECT_EQ(0, hwpoison_unpoison_all());
}

GMEM_TEST_MAIN(access_unsupported(HOOKS "/fail_release", R_OK,
				  "no " HOOKS " (CONFIG_KVM_GMEM_TEST_HOOKS)") ?:
	       gmem_vm_unsupported())

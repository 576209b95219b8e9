// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test when guest_memfd calls the hooks for confidential VMs, and how it
 * handles failures, with the fake hooks of CONFIG_KVM_GMEM_TEST_HOOKS.  These
 * warn if they are called in the wrong order.
 */
#include <linux/kernel-page-flags.h>

#include "gmem_test.h"

#define HOOKS		"/sys/kernel/debug/kvm_gmem_test_hooks/"
#define NR_PAGES	16

struct counters {
	int assigned;
	int released;
	int unflushed;
	int leaked;
	int assigned_chunks;
	int released_chunks;
};

static int read_counter(const char *name)
{
	char path[128];
	int value;
	FILE *f;

	snprintf(path, sizeof(path), HOOKS "%s", name);
	f = fopen(path, "r");
	TEST_ASSERT(f, "Cannot open %s", path);
	TEST_ASSERT(fscanf(f, "%d", &value) == 1, "Cannot read %s", path);
	fclose(f);
	return value;
}

static struct counters read_counters(void)
{
	return (struct counters) {
		.assigned = read_counter("assigned"),
		.released = read_counter("released"),
		.unflushed = read_counter("unflushed"),
		.leaked = read_counter("leaked"),
		.assigned_chunks = read_counter("assigned_chunks"),
		.released_chunks = read_counter("released_chunks"),
	};
}

static void write_knob(const char *hook, const char *knob, int value)
{
	char path[128];
	int r;

	snprintf(path, sizeof(path), HOOKS "%s/%s", hook, knob);
	r = write_file(path, "%d", value);
	TEST_ASSERT(!r, "Cannot write %s, error: %d", path, r);
}

/* Make a hook fail once, after @nr_before pages (fail_zap: ranges). */
static void inject(const char *hook, int nr_before)
{
	write_knob(hook, "verbose", 0);
	write_knob(hook, "interval", 1);
	write_knob(hook, "space", nr_before + 1);
	write_knob(hook, "times", 1);
	write_knob(hook, "probability", 100);
}

static void inject_nothing(void)
{
	write_knob("fail_alloc", "probability", 0);
	write_knob("fail_make_private", "probability", 0);
	write_knob("fail_release", "probability", 0);
	write_knob("fail_zap", "probability", 0);
}

static struct counters seen, seen_first;

static void create_vm(void (*create)(struct gmem_vm *g, int nr_pages), int nr_pages)
{
	seen_first = read_counters();
	create(g, nr_pages);
	gmem_read(g, 0);

	/* Nothing is private yet. */
	seen = read_counters();
	TEST_ASSERT_EQ(seen.assigned, seen_first.assigned);
}

/* A dead VM releases its memory like any other. */
static void free_vm(void)
{
	inject_nothing();
	gmem_vm_free(g);
	seen = read_counters();
	TEST_ASSERT_EQ(seen.assigned,
		       seen_first.assigned + seen.leaked - seen_first.leaked);
}

#define HOOKS_FIXTURE(name, create, nr_pages)					\
	FIXTURE(name) { };							\
										\
	FIXTURE_SETUP(name) {							\
		create_vm(create, nr_pages);					\
	}									\
										\
	FIXTURE_TEARDOWN(name) {						\
		free_vm();							\
	}

HOOKS_FIXTURE(hooks, gmem_vm_create, NR_PAGES)

/* Expect these changes since the last check. */
#define EXPECT_COUNTERS(nr_assigned, nr_released, nr_leaked)			\
do {										\
	struct counters __new = read_counters();				\
										\
	EXPECT_EQ(nr_assigned, __new.assigned - seen.assigned);		\
	EXPECT_EQ(nr_released, __new.released - seen.released);		\
	EXPECT_EQ(nr_leaked, __new.leaked - seen.leaked);		\
	EXPECT_EQ(0, __new.unflushed - seen.unflushed);				\
	seen = __new;								\
} while (0)

/* Pages that the guest never touched need not be released. */
TEST_F(hooks, release_of_touched_pages)
{
	static const int touched[] = { 1, 2, 5, 9 };
	int round, i;
	u64 value;

	for (round = 0; round < 3; round++) {
		for (i = 0; i < 8; i++)
			*gmem_hva(g, i) = 0x1000 * round + i;
		gmem_make_private(g, 0, NR_PAGES);
		EXPECT_COUNTERS(0, 0, 0);

		for (i = 0; i < ARRAY_SIZE(touched); i++) {
			value = touched[i] < 8 ? 0x1000 * round + touched[i] : 0;
			ASSERT_EQ(value, gmem_read(g, touched[i]));
			gmem_write(g, touched[i], value);
		}
		EXPECT_COUNTERS(4, 0, 0);

		gmem_make_shared(g, 0, 4);
		EXPECT_COUNTERS(-2, 2, 0);

		/* Repeat it, and convert pages that already match. */
		gmem_make_shared(g, 0, 4);
		gmem_make_private(g, 4, 8);
		EXPECT_COUNTERS(0, 0, 0);

		gmem_make_shared(g, 0, NR_PAGES);
		EXPECT_COUNTERS(-2, 2, 0);

		for (i = 0; i < 8; i++)
			ASSERT_EQ(0x1000 * round + i, *gmem_hva(g, i));
		for (i = 0; i < NR_PAGES; i++)
			gmem_read(g, i);
		EXPECT_COUNTERS(0, 0, 0);
	}
}

TEST_F(hooks, release_without_a_memslot)
{
	gmem_make_private(g, 0, NR_PAGES);
	gmem_write(g, 3, 0x1111);
	gmem_set_slot(g, GMEM_SLOT, 0, 0, 0);
	EXPECT_COUNTERS(1, 0, 0);

	gmem_make_shared(g, 0, NR_PAGES);
	EXPECT_COUNTERS(-1, 1, 0);
	ASSERT_EQ(0x1111, *gmem_hva(g, 3));
}

TEST_F(hooks, release_of_freed_pages)
{
	int i;

	gmem_make_private(g, 0, NR_PAGES);
	for (i = 0; i < 4; i++)
		gmem_write(g, i, 0x1111);
	EXPECT_COUNTERS(4, 0, 0);

	gmem_punch_hole(g, 1, 2);
	EXPECT_COUNTERS(-2, 2, 0);

	ASSERT_EQ(0, gmem_read(g, 1));
	EXPECT_COUNTERS(1, 0, 0);
}

/* Fault in pages from two vCPUs, at any point during a conversion. */
TEST_F_TIMEOUT(hooks, order_under_load, 300)
{
	struct gmem_hammer hammers[2];
	int round, page;

	gmem_hammer_start(g, hammers, 2, HAMMER_LOSSLESS);
	for (round = 0; round < 300; round++) {
		page = round % (NR_PAGES - 3);
		gmem_make_private(g, page, 4);
		usleep(500);
		gmem_make_shared(g, page, 4);
		(*gmem_hva(g, page))++;
	}
	gmem_hammer_stop(g, hammers, 2);
}

/* A dead VM can only be destroyed. */
static void expect_dead(struct __test_metadata *_metadata)
{
	EXPECT_EQ(EIO, gmem_convert(g, 0, 1, SHARED));
	EXPECT_EQ(-1, g->error_page);
	EXPECT_EQ(EIO, gmem_convert(g, NR_PAGES - 1, 1, PRIVATE));
	/* EIO takes precedence over errors in the request. */
	EXPECT_EQ(-1, ioctl(g->fd, KVM_SET_MEMORY_ATTRIBUTES2, NULL));
	EXPECT_EQ(EIO, errno);
	EXPECT_EQ(-1, ioctl(g->vm->fd, KVM_CHECK_EXTENSION, KVM_CAP_USER_MEMORY));
	EXPECT_EQ(EIO, errno);
	EXPECT_EQ(-1, gmem_start_read(g, 0));
	EXPECT_EQ(EIO, errno);
}

/* Failures of hooks, after @nr_before other calls, that kill the VM. */
HOOKS_FIXTURE(failure, gmem_vm_create, NR_PAGES)

FIXTURE_VARIANT(failure) {
	const char *hook;
	int nr_before;
	bool pre_fault;
};

FIXTURE_VARIANT_ADD(failure, first_release) { .hook = "fail_release" };
FIXTURE_VARIANT_ADD(failure, later_release) { .hook = "fail_release", .nr_before = 2 };
FIXTURE_VARIANT_ADD(failure, last_release) { .hook = "fail_release", .nr_before = 5 };
FIXTURE_VARIANT_ADD(failure, zap) { .hook = "fail_zap" };
FIXTURE_VARIANT_ADD(failure, make_private) { .hook = "fail_make_private" };
FIXTURE_VARIANT_ADD(failure, make_private_in_pre_fault) {
	.hook = "fail_make_private",
	.pre_fault = true,
};

TEST_F(failure, dead_vm)
{
	bool to_shared = strcmp(variant->hook, "fail_make_private");
	struct kvm_pre_fault_memory range = {
		.gpa = GMEM_GPA,
		.size = PAGE_SIZE,
	};
	struct gmem_fdinfo before, after;
	int i;

	for (i = 0; i < 8; i++)
		*gmem_hva(g, i) = 0x100 + i;
	gmem_make_private(g, 0, 8);
	for (i = 0; i < 6 && to_shared; i++)
		ASSERT_EQ(0x100 + i, gmem_read(g, i));
	EXPECT_COUNTERS(i, 0, 0);
	before = gmem_read_fdinfo(getpid(), g->fd);

	inject(variant->hook, variant->nr_before);
	if (to_shared) {
		ASSERT_EQ(EIO, gmem_convert(g, 0, NR_PAGES, SHARED));
		ASSERT_EQ(-1, g->error_page);
	} else if (variant->pre_fault) {
		ASSERT_EQ(-1, __vcpu_ioctl(g->vcpu, KVM_PRE_FAULT_MEMORY, &range));
		ASSERT_EQ(EIO, errno);
	} else {
		ASSERT_EQ(-1, gmem_start_read(g, 3));
		ASSERT_EQ(EIO, errno);
	}
	EXPECT_COUNTERS(-variant->nr_before, variant->nr_before, 0);

	after = gmem_read_fdinfo(getpid(), g->fd);
	EXPECT_EQ(0, memcmp(&before, &after, sizeof(before)));
	EXPECT_TRUE(gmem_host_can_access_all_but(g, 0, 8));
	expect_dead(_metadata);
}

/* A transient failure doesn't kill the VM. */
TEST_F(hooks, make_private_enomem)
{
	u64 value;

	*gmem_hva(g, 3) = 0x1111;
	gmem_make_private(g, 0, NR_PAGES);
	inject("fail_alloc", 0);
	ASSERT_EQ(-1, __gmem_read(g, 3, &value));
	ASSERT_EQ(ENOMEM, errno);
	EXPECT_COUNTERS(0, 0, 0);

	ASSERT_EQ(0x1111, gmem_read(g, 3));
	gmem_make_shared(g, 0, NR_PAGES);
	ASSERT_EQ(0x1111, *gmem_hva(g, 3));
}

/* The page is leaked, and must never be reused. */
TEST_F(hooks, failed_release_of_freed_page)
{
	u64 pfn = gmem_host_pfn(g, 3);
	int i;

	gmem_make_private(g, 0, NR_PAGES);
	gmem_write(g, 3, 0x1111);
	EXPECT_COUNTERS(1, 0, 0);

	inject("fail_release", 0);
	gmem_punch_hole(g, 3, 1);
	EXPECT_COUNTERS(0, 0, 1);
	ASSERT_EQ(BIT_ULL(KPF_LRU), hwpoison_page_flags(pfn) & BIT_ULL(KPF_LRU));

	/* The VM continues without the page. */
	ASSERT_EQ(0, gmem_read(g, 3));
	gmem_make_shared(g, 0, NR_PAGES);
	for (i = 0; i < NR_PAGES; i++)
		ASSERT_NE(pfn, gmem_host_pfn(g, i));
}

/* In seconds, for a busy machine. */
#define CHUNK_TIMEOUT	300

/* Memory in chunks, which are passed to the hooks as a whole if possible. */
HOOKS_FIXTURE(chunk, gmem_vm_create_huge, 2 * GMEM_CHUNK_PAGES)

#define EXPECT_CHUNKS(nr_assigned, nr_released, assigned_calls, released_calls)	\
do {										\
	struct counters __now = read_counters();				\
										\
	EXPECT_EQ(assigned_calls, __now.assigned_chunks - seen.assigned_chunks);	\
	EXPECT_EQ(released_calls, __now.released_chunks - seen.released_chunks);	\
	EXPECT_COUNTERS(nr_assigned, nr_released, 0);				\
} while (0)

TEST_F_TIMEOUT(chunk, whole, CHUNK_TIMEOUT)
{
	int round;

	for (round = 1; round <= 3; round++) {
		*gmem_hva(g, 100) = round;
		gmem_make_private(g, 0, GMEM_CHUNK_PAGES);
		EXPECT_CHUNKS(0, 0, 0, 0);

		/* One fault assigns all pages. */
		ASSERT_EQ(round, gmem_read(g, 100));
		EXPECT_CHUNKS(GMEM_CHUNK_PAGES, 0, 1, 0);
		gmem_write(g, 511, round);
		EXPECT_CHUNKS(0, 0, 0, 0);

		gmem_make_shared(g, 0, 2 * GMEM_CHUNK_PAGES);
		EXPECT_CHUNKS(-GMEM_CHUNK_PAGES, GMEM_CHUNK_PAGES, 0, 1);
		ASSERT_EQ(round, *gmem_hva(g, 511));
	}
}

TEST_F_TIMEOUT(chunk, part, CHUNK_TIMEOUT)
{
	gmem_make_private(g, 0, GMEM_CHUNK_PAGES);
	gmem_read(g, 0);
	EXPECT_CHUNKS(GMEM_CHUNK_PAGES, 0, 1, 0);

	gmem_make_shared(g, 100, 1);
	EXPECT_CHUNKS(-1, 1, 0, 0);
	gmem_make_shared(g, 200, 10);
	EXPECT_CHUNKS(-10, 10, 0, 0);

	/* As long as other pages are shared, only touched pages get assigned. */
	gmem_make_private(g, 200, 10);
	gmem_read(g, 200);
	gmem_read(g, 209);
	EXPECT_CHUNKS(2, 0, 0, 0);

	/* Once the whole chunk is private, one fault assigns the rest of it. */
	gmem_make_private(g, 100, 1);
	gmem_read(g, 100);
	EXPECT_CHUNKS(9, 0, 1, 0);

	/* The second call converts the rest, which is less than a whole chunk. */
	gmem_make_shared(g, 1, 300);
	EXPECT_CHUNKS(-300, 300, 0, 0);
	gmem_make_shared(g, 0, GMEM_CHUNK_PAGES);
	EXPECT_CHUNKS(-(GMEM_CHUNK_PAGES - 300), GMEM_CHUNK_PAGES - 300, 0, 0);
}

/* Convert a range that ends within a chunk, and one that contains a chunk. */
TEST_F_TIMEOUT(chunk, edges, CHUNK_TIMEOUT)
{
	gmem_make_private(g, 0, 2 * GMEM_CHUNK_PAGES);
	gmem_read(g, 0);
	gmem_read(g, GMEM_CHUNK_PAGES);
	EXPECT_CHUNKS(2 * GMEM_CHUNK_PAGES, 0, 2, 0);

	gmem_make_shared(g, 0, 100);
	EXPECT_CHUNKS(-100, 100, 0, 0);
	gmem_make_shared(g, 500, GMEM_CHUNK_PAGES + 12);
	EXPECT_CHUNKS(-(GMEM_CHUNK_PAGES + 12), GMEM_CHUNK_PAGES + 12, 0, 1);
}

TEST_F_TIMEOUT(chunk, hole, CHUNK_TIMEOUT)
{
	gmem_make_private(g, 0, GMEM_CHUNK_PAGES);
	gmem_read(g, 0);
	EXPECT_CHUNKS(GMEM_CHUNK_PAGES, 0, 1, 0);

	gmem_punch_hole(g, 100, 1);
	EXPECT_CHUNKS(-1, 1, 0, 0);
	gmem_make_shared(g, 0, GMEM_CHUNK_PAGES);
	EXPECT_CHUNKS(-511, 511, 0, 0);
}

/* Pages that are already assigned are neither lost nor assigned again. */
TEST_F_TIMEOUT(chunk, make_private_enomem, CHUNK_TIMEOUT)
{
	u64 value;

	gmem_hva(g, 0)[0] = 0x1111;
	gmem_make_private(g, 0, GMEM_CHUNK_PAGES);
	inject("fail_alloc", 100);
	ASSERT_EQ(-1, __gmem_read(g, 0, &value));
	ASSERT_EQ(ENOMEM, errno);
	EXPECT_CHUNKS(100, 0, 1, 0);

	ASSERT_EQ(0x1111, gmem_read(g, 0));
	EXPECT_CHUNKS(GMEM_CHUNK_PAGES - 100, 0, 1, 0);
	gmem_make_shared(g, 0, GMEM_CHUNK_PAGES);
	EXPECT_CHUNKS(-GMEM_CHUNK_PAGES, GMEM_CHUNK_PAGES, 0, 1);
	ASSERT_EQ(0x1111, *gmem_hva(g, 0));
}

TEST_F_TIMEOUT(chunk, make_private_fails, CHUNK_TIMEOUT)
{
	gmem_make_private(g, 0, GMEM_CHUNK_PAGES);
	inject("fail_make_private", 100);
	ASSERT_EQ(-1, gmem_start_read(g, 300));
	ASSERT_EQ(EIO, errno);
	EXPECT_CHUNKS(100, 0, 1, 0);
	expect_dead(_metadata);
}

TEST_F_TIMEOUT(chunk, release_fails, CHUNK_TIMEOUT)
{
	gmem_make_private(g, 0, GMEM_CHUNK_PAGES);
	gmem_read(g, 0);
	EXPECT_CHUNKS(GMEM_CHUNK_PAGES, 0, 1, 0);

	inject("fail_release", 100);
	ASSERT_EQ(EIO, gmem_convert(g, 0, 2 * GMEM_CHUNK_PAGES, SHARED));
	ASSERT_EQ(-1, g->error_page);
	EXPECT_CHUNKS(-100, 100, 0, 1);

	/* Even pages that have been released are still private. */
	EXPECT_TRUE(gmem_host_can_access_all_but(g, 0, GMEM_CHUNK_PAGES));
	expect_dead(_metadata);
}

TEST_F_TIMEOUT(chunk, poisoned, CHUNK_TIMEOUT)
{
	u64 pfn;

	SKIP_IF(hwpoison_unsupported());

	/* Poison a page of a chunk that is assigned as a whole. */
	pfn = gmem_host_pfn(g, 100);
	gmem_make_private(g, 0, GMEM_CHUNK_PAGES);
	gmem_read(g, 0);
	EXPECT_CHUNKS(GMEM_CHUNK_PAGES, 0, 1, 0);
	ASSERT_EQ(0, hwpoison_inject(pfn));
	gmem_read(g, 99);
	ASSERT_TRUE(gmem_refuses(g, 100, true));
	gmem_make_shared(g, 0, GMEM_CHUNK_PAGES);
	EXPECT_CHUNKS(-GMEM_CHUNK_PAGES, GMEM_CHUNK_PAGES, 0, 0);

	/* Poison a page of a chunk that the guest hasn't touched yet. */
	pfn = gmem_host_pfn(g, GMEM_CHUNK_PAGES + 100);
	gmem_make_private(g, GMEM_CHUNK_PAGES, GMEM_CHUNK_PAGES);
	ASSERT_EQ(0, hwpoison_inject(pfn));
	gmem_read(g, GMEM_CHUNK_PAGES + 101);
	ASSERT_TRUE(gmem_refuses(g, GMEM_CHUNK_PAGES + 100, true));
	EXPECT_CHUNKS(1, 0, 0, 0);

	gmem_punch_hole(g, 0, 2 * GMEM_CHUNK_PAGES);
	EXPECT_CHUNKS(-1, 1, 0, 0);
	EXPECT_EQ(0, hwpoison_unpoison_all());
}

/* Wait for a chunk to be assigned, which may take a while on a busy machine. */
static void wait_for_chunk(int nr_before)
{
	struct timespec start = time_now();

	while (read_counters().assigned_chunks == nr_before) {
		TEST_ASSERT(elapsed_ms(start) < 60 * 1000, "No chunk was assigned");
		usleep(500);
	}
}

/* Two vCPUs touch the pages of a chunk, independently of each other. */
TEST_F_TIMEOUT(chunk, order_under_load, CHUNK_TIMEOUT)
{
	struct gmem_hammer hammers[2];
	int round, nr_before;

	gmem_hammer_start(g, hammers, 2, HAMMER_LOSSLESS);
	for (round = 0; round < 20; round++) {
		nr_before = read_counters().assigned_chunks;
		gmem_make_private(g, 0, GMEM_CHUNK_PAGES);
		wait_for_chunk(nr_before);
		gmem_make_shared(g, round % 16, 1);
		(*gmem_hva(g, round % 16))++;
		gmem_make_private(g, round % 16, 1);
		gmem_make_shared(g, 0, GMEM_CHUNK_PAGES);
	}
	gmem_hammer_stop(g, hammers, 2);
	seen = read_counters();
	EXPECT_LT(seen_first.released_chunks, seen.released_chunks);
}

GMEM_TEST_MAIN(access_unsupported(HOOKS "fail_release", R_OK,
				  "no " HOOKS " (CONFIG_KVM_GMEM_TEST_HOOKS)") ?:
	       gmem_vm_unsupported())

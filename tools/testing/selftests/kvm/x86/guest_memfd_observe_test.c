// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test how a guest_memfd and its conversions can be observed: in
 * /proc/<pid>/fdinfo/<fd>, in the VM's binary statistics, and with the
 * tracepoint kvm:kvm_gmem_convert.
 */
#include <sys/stat.h>

#include "gmem_test.h"

#define NR_PAGES	16
#define EVENT		"kvm/kvm_gmem_convert"

enum gmem_stat {
	TO_PRIVATE,
	TO_SHARED,
	PAGES_TO_PRIVATE,
	PAGES_TO_SHARED,
	BUSY,
	POISONED,
	NR_STATS,
};

static const char * const stat_names[] = {
	[TO_PRIVATE] = "gmem_to_private",
	[TO_SHARED] = "gmem_to_shared",
	[PAGES_TO_PRIVATE] = "gmem_pages_to_private",
	[PAGES_TO_SHARED] = "gmem_pages_to_shared",
	[BUSY] = "gmem_busy",
	[POISONED] = "gmem_poisoned",
};

static struct trace trace;
static u64 stats[NR_STATS];	/* expected values */

FIXTURE(observe) { };

FIXTURE_SETUP(observe)
{
	trace_start(&trace, EVENT, "common_pid == %d", getpid());
	gmem_vm_create(g, NR_PAGES);
}

FIXTURE_TEARDOWN(observe)
{
	gmem_vm_free(g);
	trace_stop(&trace);
}

#define EXPECT_STATS(expected, vm)						\
do {										\
	u64 __value;								\
	int __i;								\
										\
	for (__i = 0; __i < NR_STATS; __i++) {					\
		kvm_get_stat(&(vm)->stats, stat_names[__i], &__value, 1);	\
		EXPECT_EQ((expected)[__i], __value) {				\
			TH_LOG("%s", stat_names[__i]);				\
		}								\
	}									\
} while (0)

#define EXPECT_FDINFO(_nr_private, nr_ranges, nr_allocated, nr_poisoned)	\
do {										\
	struct gmem_fdinfo __info = gmem_read_fdinfo(getpid(), g->fd);		\
	u64 __nr_private = (_nr_private);					\
										\
	EXPECT_EQ(DATA_SIZE, __info.size);					\
	EXPECT_EQ(GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED,		\
		  __info.flags);						\
	EXPECT_EQ(DATA_SIZE - __nr_private * PAGE_SIZE, __info.shared);		\
	EXPECT_EQ(__nr_private * PAGE_SIZE, __info.private);			\
	EXPECT_EQ(nr_ranges, __info.ranges);					\
	EXPECT_EQ(nr_allocated, __info.allocated);				\
	EXPECT_EQ(nr_poisoned, __info.poisoned);				\
} while (0)

/*
 * Convert, and check the event and the statistics: the conversion must end with
 * errno @error, and change @nr_changed pages.  Return the text of the event.
 */
static const char *observe(struct __test_metadata *_metadata, int fd, u64 page,
			   u64 nr, u64 attributes, int error, u64 nr_changed)
{
	u64 error_offset = 0, elapsed_ns, waited_ns;
	struct timespec start;
	static char text[512];
	struct stat st;
	int r;

	ASSERT_EQ(0, fstat(fd, &st));
	start = time_now();
	r = __gmem_set_attributes(fd, page * PAGE_SIZE, nr * PAGE_SIZE, attributes,
				  &error_offset);
	r = r ? errno : 0;
	elapsed_ns = timespec_to_ns(timespec_elapsed(start));
	ASSERT_EQ(error, r);

	ASSERT_EQ(1, trace_take(&trace, text, sizeof(text)));
	EXPECT_EQ(st.st_ino, trace_field(text, " ino "));
	EXPECT_EQ(page, trace_field(text, " start "));
	EXPECT_EQ(nr, trace_field(text, " nr_pages "));
	EXPECT_NE(NULL, strstr(text, attributes ? " to private " : " to shared "));
	EXPECT_EQ(nr_changed, trace_field(text, " changed "));
	EXPECT_EQ(-error, (int)trace_field(text, " ret "));
	EXPECT_EQ(error ? error_offset / PAGE_SIZE : page,
		  trace_field(text, " error_index "));
	waited_ns = trace_field(text, " waited ");
	EXPECT_GE(elapsed_ns, waited_ns);
	/* A request that fails due to a page in use spends most of its time waiting. */
	if (error == EAGAIN)
		EXPECT_LE(elapsed_ns / 2, waited_ns);

	stats[BUSY] += error == EAGAIN;
	stats[POISONED] += error == EHWPOISON;
	stats[attributes ? TO_PRIVATE : TO_SHARED] += !!nr_changed;
	stats[attributes ? PAGES_TO_PRIVATE : PAGES_TO_SHARED] += nr_changed;
	EXPECT_STATS(stats, g->vm);
	return text;
}

#define OBSERVE(page, nr, attributes, error, nr_changed)			\
	observe(_metadata, g->fd, page, nr, attributes, error, nr_changed)

/* Expect that no page was in use. */
#define EXPECT_SMOOTH(text)							\
do {										\
	const char *__text = (text);						\
										\
	EXPECT_EQ(0, trace_field(__text, " drains "));				\
	EXPECT_EQ(0, trace_field(__text, " waited "));				\
} while (0)

TEST_F_TIMEOUT(observe, conversions, 120)
{
	static const struct {
		int page, nr;
		u64 attributes;
		int nr_changed, nr_private, nr_ranges;
	} steps[] = {
		{ 4,  2, PRIVATE,  2,  2, 3 },
		{ 4,  2, PRIVATE,  0,  2, 3 },
		/* Adjacent ranges are merged, on either side and on both. */
		{ 6,  1, PRIVATE,  1,  3, 3 },
		{ 3,  1, PRIVATE,  1,  4, 3 },
		{ 8,  1, PRIVATE,  1,  5, 5 },
		{ 7,  1, PRIVATE,  1,  6, 3 },
		{ 5,  1, SHARED,   1,  5, 5 },
		{ 0,  5, PRIVATE,  3,  8, 4 },
		{ 5, 11, PRIVATE,  8, 16, 1 },
		{ 0, 16, PRIVATE,  0, 16, 1 },
		{ 6,  8, SHARED,   8,  8, 3 },
		{ 4,  4, SHARED,   2,  6, 3 },
		{ 0, 16, SHARED,   6,  0, 1 },
		{ 0, 16, SHARED,   0,  0, 1 },
		{ 15, 1, SHARED,   0,  0, 1 },
	};
	struct kvm_random_state rng = new_kvm_random_state(kvm_random_seed);
	int i, page, nr, nr_allocated = 0;
	char text[512];

	pin_self_to_cpu(nth_cpu(0));
	EXPECT_FDINFO(0, 1, 0, 0);
	for (i = 0; i < ARRAY_SIZE(steps); i++) {
		EXPECT_SMOOTH(OBSERVE(steps[i].page, steps[i].nr, steps[i].attributes,
				      0, steps[i].nr_changed));
		EXPECT_FDINFO(steps[i].nr_private, steps[i].nr_ranges, nr_allocated, 0);

		/* Pages allocated by the kernel are drained from this CPU's cache. */
		if (i == 5) {
			gmem_allocate(g, 2, 4);
			nr_allocated = 4;
		}
	}

	/* Invalid requests don't count as conversions. */
	ASSERT_EQ(EINVAL, gmem_convert(g, 0, 0, PRIVATE));
	ASSERT_EQ(EINVAL, gmem_convert(g, 0, NR_PAGES + 1, SHARED));
	ASSERT_EQ(EINVAL, gmem_convert(g, 0, 1, ~PRIVATE));
	ASSERT_EQ(-1, ioctl(g->fd, KVM_SET_MEMORY_ATTRIBUTES2, NULL));
	ASSERT_EQ(0, trace_take(&trace, text, sizeof(text)));
	EXPECT_STATS(stats, g->vm);

	/* Even endless conversions leave no more ranges than pages. */
	for (i = 0; i < 2000; i++) {
		page = kvm_random_range(&rng, NR_PAGES, &nr);
		ASSERT_EQ(0, gmem_convert(g, page, nr, kvm_random_bool(&rng) ? PRIVATE : SHARED));
		ASSERT_GE(NR_PAGES, gmem_read_fdinfo(getpid(), g->fd).ranges);
	}
	gmem_make_shared(g, 0, NR_PAGES);
	EXPECT_FDINFO(0, 1, nr_allocated, 0);
}

/* All files of a VM count, but not those of other VMs. */
TEST_F(observe, files_and_vms)
{
	struct kvm_vm *other = vm_create_barebones_type(KVM_X86_SW_PROTECTED_VM);
	const u64 none[NR_STATS] = {}, nr = (1ull << 46) / PAGE_SIZE;
	int fd = vm_create_guest_memfd(g->vm, 1ull << 46, 0);

	EXPECT_SMOOTH(observe(_metadata, fd, 0, nr, SHARED, 0, nr));
	EXPECT_SMOOTH(observe(_metadata, fd, nr - 1, 1, PRIVATE, 0, 1));
	EXPECT_SMOOTH(OBSERVE(0, NR_PAGES, PRIVATE, 0, NR_PAGES));
	EXPECT_STATS(none, other);
	kvm_vm_free(other);
	kvm_close(fd);
}

TEST_F(observe, allocated_pages)
{
	/* Let the kernel, the host and the guest allocate pages. */
	gmem_allocate(g, 0, 3);
	EXPECT_FDINFO(0, 1, 3, 0);
	*gmem_hva(g, 4) = 1;
	EXPECT_FDINFO(0, 1, 4, 0);
	gmem_make_private(g, 0, 8);
	EXPECT_FDINFO(8, 2, 4, 0);
	gmem_write(g, 5, 1);
	gmem_write(g, NR_PAGES - 1, 1);
	EXPECT_FDINFO(8, 2, 6, 0);

	/* An access that is not allowed doesn't allocate a page. */
	ASSERT_FALSE(gmem_host_can_access(g, 6, 1));
	EXPECT_FDINFO(8, 2, 6, 0);

	gmem_punch_hole(g, 2, 3);
	EXPECT_FDINFO(8, 2, 4, 0);
	gmem_punch_hole(g, 0, NR_PAGES);
	EXPECT_FDINFO(8, 2, 0, 0);
}

TEST_F(observe, pinned_page)
{
	pthread_t thread;
	const char *text;
	int pin, i;

	SKIP_IF(gmem_pin_unsupported());

	memset(g->mem, 0xaa, DATA_SIZE);
	OBSERVE(8, 2, PRIVATE, 0, 2);
	pin = gmem_pin(g, 5, 1);
	for (i = 0; i < 2; i++) {
		text = OBSERVE(2, 14, PRIVATE, EAGAIN, 0);
		/* The reference could have been held by an LRU cache. */
		EXPECT_LE(1, trace_field(text, " drains "));
		EXPECT_EQ(5, trace_field(text, " error_index "));
		EXPECT_FDINFO(2, 3, NR_PAGES, 0);
	}
	EXPECT_SMOOTH(OBSERVE(2, 6, SHARED, 0, 0));

	/* A request counts once, regardless of the number of attempts. */
	close_later(&thread, pin);
	text = OBSERVE(2, 14, PRIVATE, 0, 12);
	kvm_pthread_join(thread, NULL);
	EXPECT_LT(0, trace_field(text, " waited "));
	EXPECT_FDINFO(14, 2, NR_PAGES, 0);
}

TEST_F(observe, poisoned_page)
{
	int i;

	SKIP_IF(hwpoison_unsupported());

	memset(g->mem, 0xaa, 8 * PAGE_SIZE);
	ASSERT_EQ(0, gmem_poison(g, 5));
	EXPECT_FDINFO(0, 1, 8, 1);
	/* Poison is reported without waiting. */
	for (i = 0; i < 3; i++)
		EXPECT_SMOOTH(OBSERVE(2, 14, PRIVATE, EHWPOISON, 0));
	EXPECT_FDINFO(0, 1, 8, 1);

	OBSERVE(2, 3, PRIVATE, 0, 3);
	OBSERVE(0, NR_PAGES, SHARED, 0, 3);
	gmem_punch_hole(g, 5, 1);
	EXPECT_FDINFO(0, 1, 7, 0);
	OBSERVE(4, 8, PRIVATE, 0, 8);
	EXPECT_FDINFO(8, 3, 7, 0);
	ASSERT_EQ(0, hwpoison_unpoison_all());
}

struct lru_user {
	const char *what;
	bool new_page;		/* the page is allocated by the access */
	bool mlock;
	int cpu;
	int nr_drains;		/* at most */
};

static void *touch_page(void *arg)
{
	const struct lru_user *user = arg;

	pin_self_to_cpu(nth_cpu(user->cpu));
	WRITE_ONCE(*gmem_hva(g, 3), 1);
	if (user->mlock)
		mlock(gmem_hva(g, 3), PAGE_SIZE);
	return NULL;
}

/*
 * A conversion must not wait for a page because it is in an LRU cache.  New
 * pages don't stay there, and only pages in caches of other CPUs require
 * draining all caches.
 */
TEST_F_TIMEOUT(observe, lru_caches, 120)
{
	static const struct lru_user users[] = {
		{ "new page", true, false, 0, 0 },
		{ "new page on another CPU", true, false, 1, 0 },
		{ "locked page", false, true, 0, 0 },
		{ "locked page on another CPU", false, true, 1, 1 },
	};
	const char *text;
	pthread_t thread;
	int i, round;

	SKIP_IF(smp_unsupported());

	pin_self_to_cpu(nth_cpu(0));
	for (i = 0; i < ARRAY_SIZE(users); i++) {
		for (round = 0; round < 32; round++) {
			if (users[i].new_page)
				gmem_punch_hole(g, 3, 1);
			kvm_pthread_create(&thread, NULL, touch_page, (void *)&users[i]);
			kvm_pthread_join(thread, NULL);

			text = OBSERVE(3, 1, PRIVATE, 0, 1);
			EXPECT_EQ(0, trace_field(text, " waited ")) {
				TH_LOG("%s, round %d", users[i].what, round);
			}
			EXPECT_GE(users[i].nr_drains, trace_field(text, " drains ")) {
				TH_LOG("%s, round %d", users[i].what, round);
			}
			EXPECT_SMOOTH(OBSERVE(3, 1, SHARED, 0, 1));
			munlock(g->mem, DATA_SIZE);
		}
	}
}

/* Read fdinfo in a process that has closed the file. */
static bool check_fdinfo(pid_t pid)
{
	struct gmem_fdinfo info;

	kvm_close(g->fd);
	info = gmem_read_fdinfo(pid, g->fd);
	return info.size == DATA_SIZE && info.private == 3 * PAGE_SIZE;
}

TEST_F(observe, fdinfo_of_another_process)
{
	pid_t parent = getpid();

	gmem_make_private(g, 0, 3);
	ASSERT_IN_CHILD(check_fdinfo(parent));
}

/* If KVM has tracepoints but not this one, fail instead of skipping. */
static const char *unsupported(void)
{
	const char *reason = gmem_vm_unsupported() ?: trace_unsupported("kvm");

	TEST_ASSERT(reason || !trace_unsupported(EVENT), "No event " EVENT);
	return reason;
}

GMEM_TEST_MAIN(unsupported())

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

static struct trace trace;
static u64 nr_drains, waited_ns;	/* of the last request */

/* Expected values of the VM's statistics. */
static struct {
	u64 conversions[2];	/* to shared, to private */
	u64 pages[2];		/* converted: to shared, to private */
	u64 busy;
	u64 poisoned;
} stats;

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
 * errno @error, and change @nr_changed pages.  The event names the page that is
 * reported to userspace, or the first page of the range if none is.
 */
static void observe(struct __test_metadata *_metadata, int fd, u64 page, u64 nr,
		    u64 attributes, int error, u64 nr_changed)
{
	u64 error_offset = page * PAGE_SIZE, elapsed_ns;
	struct timespec start;
	char text[512];
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
	EXPECT_EQ(error_offset / PAGE_SIZE, trace_field(text, " error_index "));
	nr_drains = trace_field(text, " drains ");
	waited_ns = trace_field(text, " waited ");
	EXPECT_GE(elapsed_ns, waited_ns);
	/* A request that fails due to a page in use spends most of its time waiting. */
	if (error == EAGAIN)
		EXPECT_LE(elapsed_ns / 2, waited_ns);

	stats.conversions[!!attributes] += !!nr_changed;
	stats.pages[!!attributes] += nr_changed;
	stats.busy += error == EAGAIN;
	stats.poisoned += error == EHWPOISON;
	EXPECT_EQ(stats.conversions[0], vm_get_stat(g->vm, gmem_to_shared));
	EXPECT_EQ(stats.conversions[1], vm_get_stat(g->vm, gmem_to_private));
	EXPECT_EQ(stats.pages[0], vm_get_stat(g->vm, gmem_pages_to_shared));
	EXPECT_EQ(stats.pages[1], vm_get_stat(g->vm, gmem_pages_to_private));
	EXPECT_EQ(stats.busy, vm_get_stat(g->vm, gmem_busy));
	EXPECT_EQ(stats.poisoned, vm_get_stat(g->vm, gmem_poisoned));
}

#define OBSERVE(page, nr, attributes, error, nr_changed)			\
	observe(_metadata, g->fd, page, nr, attributes, error, nr_changed)

TEST_F(observe, conversions)
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
		{ 6,  8, SHARED,   8,  8, 3 },
		{ 0, 16, SHARED,   8,  0, 1 },
		{ 15, 1, SHARED,   0,  0, 1 },
	};
	char text[512];
	int i;

	/* Invalid requests don't count as conversions. */
	ASSERT_EQ(EINVAL, gmem_convert(g, 0, NR_PAGES + 1, PRIVATE));
	ASSERT_EQ(-1, ioctl(g->fd, KVM_SET_MEMORY_ATTRIBUTES2, NULL));
	ASSERT_EQ(0, trace_take(&trace, text, sizeof(text)));

	EXPECT_FDINFO(0, 1, 0, 0);
	for (i = 0; i < ARRAY_SIZE(steps); i++) {
		OBSERVE(steps[i].page, steps[i].nr, steps[i].attributes, 0,
			steps[i].nr_changed);
		EXPECT_FDINFO(steps[i].nr_private, steps[i].nr_ranges, 0, 0);
	}
}

/* All files of a VM count, but not those of other VMs. */
TEST_F(observe, files_and_vms)
{
	struct kvm_vm *other = vm_create_barebones_type(KVM_X86_SW_PROTECTED_VM);
	const u64 nr = (1ull << 46) / PAGE_SIZE;
	int fd = vm_create_guest_memfd(g->vm, nr * PAGE_SIZE, 0);

	observe(_metadata, fd, 0, nr, SHARED, 0, nr);
	observe(_metadata, fd, nr - 1, 1, PRIVATE, 0, 1);
	OBSERVE(0, NR_PAGES, PRIVATE, 0, NR_PAGES);
	EXPECT_EQ(0, vm_get_stat(other, gmem_to_shared));
	EXPECT_EQ(0, vm_get_stat(other, gmem_to_private));
	kvm_vm_free(other);
	kvm_close(fd);
}

TEST_F(observe, allocated_pages)
{
	pid_t parent = getpid();

	/* Let the kernel, the host and the guest allocate pages. */
	gmem_allocate(g, 0, 3);
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
	ASSERT_IN_CHILD(gmem_read_fdinfo(parent, g->fd).allocated == 4);
}

TEST_F(observe, pinned_page)
{
	pthread_t thread;
	int pin;

	SKIP_IF(gmem_pin_unsupported());

	memset(g->mem, 0xaa, DATA_SIZE);
	OBSERVE(8, 2, PRIVATE, 0, 2);
	pin = gmem_pin(g, 5, 1);
	OBSERVE(2, 14, PRIVATE, EAGAIN, 0);
	/* The reference could have been held by an LRU cache. */
	EXPECT_LE(1, nr_drains);
	EXPECT_FDINFO(2, 3, NR_PAGES, 0);
	OBSERVE(2, 6, SHARED, 0, 0);

	/* A request counts once, regardless of the number of attempts. */
	close_later(&thread, pin);
	OBSERVE(2, 14, PRIVATE, 0, 12);
	kvm_pthread_join(thread, NULL);
	EXPECT_LT(0, waited_ns);
}

TEST_F(observe, poisoned_page)
{
	SKIP_IF(hwpoison_unsupported());

	memset(g->mem, 0xaa, 8 * PAGE_SIZE);
	ASSERT_EQ(0, gmem_poison(g, 5));
	OBSERVE(2, 14, PRIVATE, EHWPOISON, 0);
	EXPECT_EQ(0, nr_drains);
	EXPECT_EQ(0, waited_ns);
	EXPECT_FDINFO(0, 1, 8, 1);

	OBSERVE(2, 3, PRIVATE, 0, 3);
	gmem_punch_hole(g, 5, 1);
	EXPECT_FDINFO(3, 3, 7, 0);
	OBSERVE(4, 8, PRIVATE, 0, 7);
	ASSERT_EQ(0, hwpoison_unpoison_all());
}

/*
 * A conversion must not wait for a page because it is in an LRU cache.  New
 * pages don't stay there.  Faults in locked memory put pages into the cache of
 * their CPU, as does the conversion that unmaps them.  Only pages in caches of
 * other CPUs require draining all caches.
 */
TEST_F_TIMEOUT(observe, lru_caches, 120)
{
	u64 nr_remote = 0;
	int i;

	SKIP_IF(smp_unsupported());

	for (i = 0; i < 4 * 32; i++) {
		const bool locked = i & 1, other_cpu = i & 2;

		pin_self_to_cpu(nth_cpu(other_cpu));
		/* Unlike a fault, mlock() drains the cache before it returns. */
		if (locked)
			TEST_ASSERT_EQ(mlock2(gmem_hva(g, 3), PAGE_SIZE, MLOCK_ONFAULT), 0);
		else
			gmem_punch_hole(g, 3, 1);
		WRITE_ONCE(*gmem_hva(g, 3), 1);

		pin_self_to_cpu(nth_cpu(0));
		OBSERVE(3, 1, PRIVATE, 0, 1);
		EXPECT_EQ(0, waited_ns);
		EXPECT_GE(locked && other_cpu, nr_drains) {
			TH_LOG("%s page of %s CPU", locked ? "locked" : "new",
			       other_cpu ? "another" : "this");
		}
		nr_remote += nr_drains;
		OBSERVE(3, 1, SHARED, 0, 1);
		munlock(g->mem, DATA_SIZE);
	}
	/* Verify that there were pages in the other CPU's cache. */
	EXPECT_LT(0, nr_remote);
}

GMEM_TEST_MAIN(gmem_vm_unsupported() ?: trace_unsupported("kvm"))

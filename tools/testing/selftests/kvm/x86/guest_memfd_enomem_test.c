// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test conversion of guest_memfd memory when memory is short: either the whole
 * range changes, or nothing does.  Memory for KVM's records of what is private
 * is charged to the cgroup of the converting task until it is freed, and the
 * limit of that cgroup is enforced.
 */
#include <limits.h>

#include <linux/sizes.h>

#include "gmem_test.h"
#include "cgroup_util.h"

/*
 * KVM needs memory if an aligned run of LEAF_PAGES is no longer uniform.  Test
 * pages on either side of the end of such a run.
 */
#define LEAF_PAGES	4096
#define NR_LOOKED_AT	256
#define FIRST_PAGE	(LEAF_PAGES - NR_LOOKED_AT / 2)

/*
 * Use /proc/thread-self/fail-nth to make the nth allocation of this thread
 * fail, for each n in turn.
 */
FIXTURE(alloc) {
	int fail_nth;
};

FIXTURE_SETUP(alloc)
{
	SKIP_IF(fail_nth_unsupported());

	self->fail_nth = fail_nth_open();
	gmem_vm_create(g, 3 * LEAF_PAGES);
}

FIXTURE_TEARDOWN(alloc)
{
	gmem_vm_free(g);
	close(self->fail_nth);
}

TEST_F_TIMEOUT(alloc, every_failure, 300)
{
	struct kvm_random_state rng = new_kvm_random_state(kvm_random_seed);
	const int end = FIRST_PAGE + NR_LOOKED_AT;
	int round, nth, page, nr, i, r, nr_failed = 0;
	bool to_private, failed;

	for (round = 0; round < 100; round++) {
		page = FIRST_PAGE + kvm_random_range(&rng, NR_LOOKED_AT, &nr);
		to_private = kvm_random_bool(&rng);

		ASSERT_CONVERTED(0, g->nr_pages, to_private ? SHARED : PRIVATE);
		/* Map the shared pages. */
		for (i = FIRST_PAGE; i < end; i++)
			gmem_host_can_access(g, i, 1);

		for (nth = 1;; nth++) {
			fail_nth_start(self->fail_nth, nth);
			r = gmem_convert(g, page, nr, to_private ? PRIVATE : SHARED);
			failed = fail_nth_came(self->fail_nth);
			if (!r)
				break;

			ASSERT_TRUE(failed);
			ASSERT_EQ(ENOMEM, r);
			ASSERT_EQ(page, g->error_page);
			/* Memory is allocated first, so nothing has been unmapped. */
			for (i = page; i < page + nr; i++)
				ASSERT_EQ(to_private, hwpoison_is_mapped(gmem_hva(g, i)));
			for (i = FIRST_PAGE; i < end; i++)
				ASSERT_EQ(to_private, gmem_host_can_access(g, i, 1));
			nr_failed++;
		}

		ASSERT_EQ(-1, g->error_page);
		for (i = FIRST_PAGE; i < end; i++)
			ASSERT_EQ(to_private != (i >= page && i < page + nr),
				  gmem_host_can_access(g, i, 1));
	}
	TH_LOG("%d failures in %d conversions", nr_failed, round);
	ASSERT_LT(0, nr_failed);
}

/* Only actual changes need memory, which is allocated before checking pages. */
TEST_F(alloc, enomem_precedence)
{
	const int pinned = FIRST_PAGE + 20, poisoned = FIRST_PAGE + 30;
	int pin = -1;

	fail_nth_start(self->fail_nth, 1);
	ASSERT_CONVERTED(FIRST_PAGE, 1, SHARED);
	ASSERT_FALSE(fail_nth_came(self->fail_nth));

	*gmem_hva(g, pinned) = 1;
	*gmem_hva(g, poisoned) = 1;
	if (!gmem_pin_unsupported())
		pin = gmem_pin(g, pinned, 1);
	if (!hwpoison_unsupported())
		ASSERT_EQ(0, gmem_poison(g, poisoned));

	fail_nth_start(self->fail_nth, 1);
	ASSERT_REFUSED(ENOMEM, FIRST_PAGE + 15, FIRST_PAGE + 15, 20);
	ASSERT_TRUE(fail_nth_came(self->fail_nth));

	/* Once there is memory, each of the two pages prevents the conversion. */
	if (pin >= 0) {
		ASSERT_REFUSED(EAGAIN, pinned, pinned - 5, 10);
		kvm_close(pin);
	}
	if (!hwpoison_unsupported()) {
		ASSERT_REFUSED(EHWPOISON, poisoned, poisoned - 5, 10);
		gmem_punch_hole(g, poisoned, 1);
		ASSERT_EQ(0, hwpoison_unpoison_all());
	}
}

static bool host_fault(u64 n)
{
	u64 *hva = gmem_hva(g, n % 4);

	madvise(hva, PAGE_SIZE, MADV_DONTNEED);
	(void)READ_ONCE(*hva);
	return true;
}

/*
 * Convert a range with a pinned page, failing each allocation in turn.  Return
 * how many of them the conversion cannot do without.
 */
static int fail_with_pin(struct __test_metadata *_metadata, int fail_nth, int pinned)
{
	int nth, nr_failed = 0;

	for (nth = 1; nth <= 20; nth++) {
		fail_nth_start(fail_nth, nth);
		if (gmem_convert(g, pinned - 5, 10, PRIVATE) == ENOMEM) {
			EXPECT_EQ(pinned - 5, g->error_page);
			nr_failed++;
		}
		if (!fail_nth_came(fail_nth))
			break;
	}
	return nr_failed;
}

/* Memory can also run out when a conversion tries again after a wait. */
TEST_F(alloc, enomem_during_wait)
{
	const int pinned = FIRST_PAGE + 20;
	struct worker faulter = { "fault", host_fault };
	int pin, nr_first, nr;

	SKIP_IF(gmem_pin_unsupported());

	*gmem_hva(g, pinned) = 1;
	pin = gmem_pin(g, pinned, 1);

	/* A conversion tries again only if others wait for the lock. */
	nr_first = fail_with_pin(_metadata, self->fail_nth, pinned);
	workers_start(&faulter, 1);
	nr = fail_with_pin(_metadata, self->fail_nth, pinned);
	workers_stop(&faulter, 1);
	kvm_close(pin);

	TH_LOG("%d allocations in the first attempt, %d in all", nr_first, nr);
	ASSERT_LT(0, nr_first);
	ASSERT_LT(nr_first, nr);
}

TEST_F(alloc, creation)
{
	int nth, fd;

	for (nth = 1;; nth++) {
		fail_nth_start(self->fail_nth, nth);
		fd = __vm_create_guest_memfd(g->vm, PAGE_SIZE * 16, 0);
		if (!fail_nth_came(self->fail_nth))
			break;
		if (fd >= 0)
			kvm_close(fd);
		else
			ASSERT_EQ(ENOMEM, errno);
	}
	ASSERT_LE(0, fd);
	ASSERT_LT(1, nth);
	kvm_close(fd);
}

#define NR_FRAGMENTS	20000
#define FILE_SIZE	((NR_FRAGMENTS + 1) * GMEM_FRAGMENT_SIZE)
/* CPUs charge some pages in advance, and slabs contain other objects, too. */
#define SLACK		((long)SZ_1M)
#define GONE_MS		10000
#define LIMIT		(8 * SLACK)

FIXTURE(memcg) {
	int fd;
	char *cgroup;
};

FIXTURE_SETUP(memcg)
{
	char root[PATH_MAX], name[64];

	if (cg_find_unified_root(root, sizeof(root), NULL) ||
	    cg_read_strstr(root, "cgroup.controllers", "memory") ||
	    cg_write(root, "cgroup.subtree_control", "+memory"))
		SKIP(exit(KSFT_SKIP), "no cgroup v2 with a memory controller");

	snprintf(name, sizeof(name), "gmem_memcg-%d", getpid());
	self->cgroup = cg_name(root, name);
	ASSERT_EQ(0, cg_create(self->cgroup));

	/* Use a huge file without pages, so nothing else is charged. */
	gmem_vm_create(g, 1);
	self->fd = gmem_create_shared(g, FILE_SIZE);
}

FIXTURE_TEARDOWN(memcg)
{
	if (self->fd >= 0)
		kvm_close(self->fd);
	gmem_vm_free(g);
	EXPECT_EQ(0, cg_destroy(self->cgroup));
	free(self->cgroup);
}

static long charged(const char *cgroup)
{
	return cg_read_long(cgroup, "memory.current");
}

/* The result of a task that does nothing in the cgroup but convert memory. */
struct result {
	int nr_converted;
	int err;
	u64 offset;
	u64 error_offset;
};

static struct result convert_in_cgroup(const char *cgroup, int fd, int nr)
{
	struct result result, *shared;
	int i, status;
	pid_t pid;

	shared = kvm_mmap(PAGE_SIZE, PROT_READ | PROT_WRITE,
			  MAP_SHARED | MAP_ANONYMOUS, -1);
	pid = fork();
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		TEST_ASSERT(!cg_enter_current(cgroup), "Cannot enter %s", cgroup);
		/* A fault at the limit would get the task OOM-killed. */
		TEST_ASSERT(!mlockall(MCL_CURRENT | MCL_FUTURE), "mlockall() failed");
		for (i = 1; i <= nr; i++) {
			shared->offset = i * GMEM_FRAGMENT_SIZE;
			if (__gmem_set_attributes(fd, shared->offset, PAGE_SIZE,
						  PRIVATE, &shared->error_offset)) {
				shared->err = errno;
				break;
			}
			shared->nr_converted++;
		}
		_exit(0);
	}
	TEST_ASSERT_EQ(waitpid(pid, &status, 0), pid);
	TEST_ASSERT(WIFEXITED(status),
		    "The task was killed after %d conversions, status 0x%x",
		    shared->nr_converted, status);
	result = *shared;
	kvm_munmap(shared, PAGE_SIZE);
	return result;
}

/* Memory is freed asynchronously, after an RCU grace period. */
static bool is_uncharged(const char *cgroup, long before)
{
	struct timespec start = time_now();

	while (charged(cgroup) > before + SLACK && elapsed_ms(start) < GONE_MS)
		usleep(50000);
	return charged(cgroup) <= before + SLACK;
}

TEST_F_TIMEOUT(memcg, charge, 300)
{
	long before, slab_before, kept, cost;
	int i;

	for (i = 0; i < 2; i++) {
		before = charged(self->cgroup);
		slab_before = read_meminfo("SUnreclaim:");
		ASSERT_EQ(0, convert_in_cgroup(self->cgroup, self->fd, NR_FRAGMENTS).err);
		ASSERT_EQ(2 * NR_FRAGMENTS + 1, gmem_read_fdinfo(getpid(), self->fd).ranges);

		/* Don't count memory that is only waiting to be freed. */
		sleep(2);
		kept = read_meminfo("SUnreclaim:") - slab_before;
		cost = charged(self->cgroup) - before;
		TH_LOG("%ld of %ld KiB are charged, which is %ld bytes a range",
		       cost / 1024, kept / 1024, cost / 2 / NR_FRAGMENTS);
		ASSERT_LT(2 * SLACK, kept);
		ASSERT_LE(kept - SLACK, cost);

		/* The charge is gone once the file is uniform, or closed. */
		if (!i) {
			gmem_set_shared(self->fd, 0, FILE_SIZE);
		} else {
			kvm_close(self->fd);
			self->fd = -1;
		}
		ASSERT_TRUE(is_uncharged(self->cgroup, before)) {
			TH_LOG("%ld KiB before, %ld KiB after", before / 1024,
			       charged(self->cgroup) / 1024);
		}
	}
}

TEST_F_TIMEOUT(memcg, limit, 300)
{
	struct gmem_fdinfo info;
	struct result result;

	/* Set a limit that suffices for the task, but not for all conversions. */
	ASSERT_EQ(0, cg_write_numeric(self->cgroup, "memory.max", LIMIT));
	result = convert_in_cgroup(self->cgroup, self->fd, NR_FRAGMENTS);
	TH_LOG("%d pages converted below a limit of %ld KiB, then errno %d",
	       result.nr_converted, LIMIT / 1024, result.err);
	ASSERT_EQ(ENOMEM, result.err);
	ASSERT_EQ(result.offset, result.error_offset);
	ASSERT_EQ(0, cg_read_key_long(self->cgroup, "memory.events", "oom_kill "));

	/* The conversion that failed has changed nothing. */
	info = gmem_read_fdinfo(getpid(), self->fd);
	ASSERT_EQ(result.nr_converted, info.private / PAGE_SIZE);
	ASSERT_EQ(2 * result.nr_converted + 1, info.ranges);

	/* The limit applies to the cgroup, not to the file. */
	gmem_set_private(self->fd, result.offset, PAGE_SIZE);
	gmem_set_shared(self->fd, result.offset, PAGE_SIZE);

	/* Without a limit, everything works. */
	ASSERT_EQ(0, cg_write(self->cgroup, "memory.max", "max"));
	ASSERT_EQ(0, convert_in_cgroup(self->cgroup, self->fd, NR_FRAGMENTS).err);
	gmem_set_shared(self->fd, 0, FILE_SIZE);
	ASSERT_EQ(1, gmem_read_fdinfo(getpid(), self->fd).ranges);
}

GMEM_TEST_MAIN(gmem_vm_unsupported())

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

/* Make the nth allocation of this thread fail, for each n in turn. */
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

/*
 * Return true if pages have an attribute, and their surroundings the other.  This
 * also maps the shared ones.
 */
static bool is_converted(int page, int nr, bool private)
{
	int i;

	for (i = FIRST_PAGE; i < FIRST_PAGE + NR_LOOKED_AT; i++)
		if (gmem_host_can_access(g, i, 1) == (private == (i >= page && i < page + nr)))
			return false;
	return true;
}

TEST_F_TIMEOUT(alloc, every_failure, 300)
{
	struct kvm_random_state rng = new_kvm_random_state(kvm_random_seed);
	int round, nth, page, nr, i, r, nr_failed = 0;
	bool to_private, failed;

	for (round = 0; round < 100; round++) {
		page = FIRST_PAGE + kvm_random_range(&rng, NR_LOOKED_AT, &nr);
		to_private = round & 1;
		ASSERT_CONVERTED(0, g->nr_pages, to_private ? SHARED : PRIVATE);
		ASSERT_TRUE(is_converted(page, 0, to_private));

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
			ASSERT_TRUE(is_converted(page, 0, to_private));
			nr_failed++;
		}
		ASSERT_EQ(-1, g->error_page);
		ASSERT_TRUE(is_converted(page, nr, to_private));
	}
	ASSERT_LT(0, nr_failed);
}

/*
 * Only actual changes need memory, which is allocated before pages are checked.
 * For pages in use, see enomem_during_wait.
 */
TEST_F(alloc, enomem_precedence)
{
	const int page = FIRST_PAGE + 5, poisoned = FIRST_PAGE + 10;

	fail_nth_start(self->fail_nth, 1);
	ASSERT_CONVERTED(page, 10, SHARED);
	ASSERT_FALSE(fail_nth_came(self->fail_nth));

	SKIP_IF(hwpoison_unsupported());

	ASSERT_EQ(0, gmem_poison(g, poisoned));
	fail_nth_start(self->fail_nth, 1);
	ASSERT_REFUSED(ENOMEM, page, page, 10);
	ASSERT_TRUE(fail_nth_came(self->fail_nth));

	/* Once there is memory, the poisoned page prevents the conversion. */
	ASSERT_REFUSED(EHWPOISON, poisoned, page, 10);
	gmem_punch_hole(g, poisoned, 1);
	ASSERT_EQ(0, hwpoison_unpoison_all());
}

/*
 * Convert a range with a pinned page, failing each allocation in turn.  Return
 * how many of them the conversion cannot do without.
 */
static int fail_with_pin(int fail_nth, int pinned)
{
	int nth, nr_failed = 0;

	for (nth = 1; nth <= 20; nth++) {
		fail_nth_start(fail_nth, nth);
		if (gmem_convert(g, pinned - 5, 10, PRIVATE) == ENOMEM) {
			TEST_ASSERT_EQ(g->error_page, pinned - 5);
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
	struct worker faulter = { "fault", fault_in_page };
	int pin, nr_first, nr;

	SKIP_IF(gmem_pin_unsupported());

	pin = gmem_pin(g, pinned, 1);
	/* A conversion tries again only if other tasks wait for the invalidate lock. */
	nr_first = fail_with_pin(self->fail_nth, pinned);
	workers_start(&faulter, 1);
	nr = fail_with_pin(self->fail_nth, pinned);
	workers_stop(&faulter, 1);
	kvm_close(pin);
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

FIXTURE(memcg) {
	int fd;
	char *cgroup;
};

FIXTURE_SETUP(memcg)
{
	char root[PATH_MAX];

	if (cg_find_unified_root(root, sizeof(root), NULL) ||
	    cg_read_strstr(root, "cgroup.controllers", "memory") ||
	    cg_write(root, "cgroup.subtree_control", "+memory"))
		SKIP(return, "no cgroup v2 with a memory controller (this needs root)");

	self->cgroup = cg_name_indexed(root, "gmem_memcg", getpid());
	ASSERT_EQ(0, cg_create(self->cgroup));

	/* Use a large file without pages, so that only KVM's records are charged. */
	gmem_vm_create(g, 1);
	self->fd = gmem_create_shared(g, FILE_SIZE);
}

FIXTURE_TEARDOWN(memcg)
{
	gmem_vm_free(g);
	EXPECT_EQ(0, cg_destroy(self->cgroup));
	free(self->cgroup);
}

static long charged(const char *cgroup)
{
	return cg_read_long(cgroup, "memory.current");
}

/*
 * Run in a task that does nothing in the cgroup but convert pages.  cg_run()
 * returns -1 if the task is OOM-killed.
 */
static int fragment(const char *cgroup, void *fd)
{
	u64 offset, error_offset = 0;
	int i;

	/* A fault at the limit would get the task OOM-killed. */
	TEST_ASSERT(!mlockall(MCL_CURRENT | MCL_FUTURE), "mlockall() failed");
	for (i = 1; i <= NR_FRAGMENTS; i++) {
		offset = i * GMEM_FRAGMENT_SIZE;
		if (__gmem_set_attributes(*(int *)fd, offset, PAGE_SIZE, PRIVATE,
					  &error_offset))
			_exit(error_offset == offset ? errno : EINVAL);
	}
	_exit(0);
}

TEST_F_TIMEOUT(memcg, charge, 300)
{
	long before, slab_before, kept, cost;
	int i, ms;

	for (i = 0; i < 2; i++) {
		before = charged(self->cgroup);
		slab_before = read_meminfo("SUnreclaim:");
		ASSERT_EQ(0, cg_run(self->cgroup, fragment, &self->fd));

		/* Don't count memory that is only waiting to be freed. */
		sleep(2);
		kept = read_meminfo("SUnreclaim:") - slab_before;
		cost = charged(self->cgroup) - before;
		ASSERT_LT(2 * SLACK, kept);
		ASSERT_LE(kept - SLACK, cost);

		/* The charge is gone once the file is uniform, or closed. */
		if (!i)
			gmem_set_shared(self->fd, 0, FILE_SIZE);
		else
			kvm_close(self->fd);

		/* Memory is freed asynchronously, after an RCU grace period. */
		for (ms = 0; charged(self->cgroup) > before + SLACK && ms < 10000; ms += 50)
			usleep(50000);
		ASSERT_GE(before + SLACK, charged(self->cgroup));
	}
}

TEST_F_TIMEOUT(memcg, limit, 300)
{
	int nr;

	/* Set a limit that suffices for the task, but not for all conversions. */
	ASSERT_EQ(0, cg_write_numeric(self->cgroup, "memory.max", 8 * SLACK));
	ASSERT_EQ(ENOMEM, cg_run(self->cgroup, fragment, &self->fd));
	nr = gmem_read_fdinfo(getpid(), self->fd).private / PAGE_SIZE;
	ASSERT_LT(0, nr);

	/* The limit applies to the cgroup, not to the file. */
	gmem_set_private(self->fd, (nr + 1) * GMEM_FRAGMENT_SIZE, PAGE_SIZE);

	/* Without a limit, everything works. */
	ASSERT_EQ(0, cg_write(self->cgroup, "memory.max", "max"));
	ASSERT_EQ(0, cg_run(self->cgroup, fragment, &self->fd));
}

GMEM_TEST_MAIN(gmem_vm_unsupported())

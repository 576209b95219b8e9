// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test how guest_memfd allocates memory for huge pages, and that nothing fails
 * if there is no memory for them.
 */
#include <limits.h>

#include "gmem_huge.h"
#include "cgroup_util.h"
#include "numaif.h"

#define FAULT_DIR	"/sys/kernel/debug/"

static int fail_large_allocations(bool fail)
{
	write_file(FAULT_DIR "fail_page_alloc/ignore-gfp-wait", "N");
	write_file(FAULT_DIR "fail_page_alloc/ignore-gfp-highmem", "N");
	write_file(FAULT_DIR "fail_page_alloc/verbose", "0");
	write_file(FAULT_DIR "fail_page_alloc/min-order", "9");
	write_file(FAULT_DIR "fail_page_alloc/times", "-1");
	return write_file(FAULT_DIR "fail_page_alloc/probability", fail ? "100" : "0");
}

/* Fail slab allocations of this thread after @space bytes, or none if negative. */
static int fail_slab_allocations(int space)
{
	static int fd = -1;
	char text[16];

	/* Open the file before allocations fail. */
	if (fd < 0)
		fd = open("/proc/thread-self/make-it-fail", O_WRONLY);
	if (fd < 0 || pwrite(fd, "0", 1, 0) != 1)
		return -1;

	snprintf(text, sizeof(text), "%d", max(space, 0));
	write_file(FAULT_DIR "failslab/verbose", "0");
	write_file(FAULT_DIR "failslab/ignore-gfp-wait", "N");
	write_file(FAULT_DIR "failslab/task-filter", "Y");
	write_file(FAULT_DIR "failslab/times", "-1");
	write_file(FAULT_DIR "failslab/probability", space < 0 ? "0" : "100");
	if (write_file(FAULT_DIR "failslab/space", text))
		return -1;
	if (space >= 0)
		TEST_ASSERT_EQ(pwrite(fd, "1", 1, 0), 1);
	return 0;
}

static int page_node(void *hva)
{
	int status = -1;

	(void)READ_ONCE(*(u64 *)hva);
	kvm_move_pages(0, 1, &hva, NULL, &status, 0);
	return status;
}

TEST_F(huge, populate_by_fallocate)
{
	kvm_fallocate(g->fd, FALLOC_FL_KEEP_SIZE, (u64)PAGE * PAGE_SIZE, PAGE_SIZE);
	ASSERT_EQ(GMEM_CHUNK_PAGES, gmem_read_fdinfo(getpid(), g->fd).allocated);
	ASSERT_EQ(0, gmem_read(g, GMEM_CHUNK_PAGES));
	ASSERT_EQ(1, nr_huge(self));
}

TEST_F(huge, parameter_is_sampled)
{
	bool on = gmem_set_hugepages(false);
	struct gmem_vm other;

	gmem_vm_create(&other, NR_PAGES);
	gmem_set_hugepages(true);
	gmem_write(&other, 0, 1);
	ASSERT_EQ(1, gmem_read_fdinfo(getpid(), other.fd).allocated);
	ASSERT_EQ(PAGE_SIZE, gmem_read_fdinfo(getpid(), other.fd).page_size);

	gmem_set_hugepages(false);
	gmem_write(g, 0, 1);
	ASSERT_EQ(GMEM_CHUNK_PAGES, gmem_read_fdinfo(getpid(), g->fd).allocated);
	gmem_set_hugepages(on);
	gmem_vm_free(&other);
}

/* The policy of the page that is accessed first applies to the whole chunk. */
TEST_F(huge, numa_bind)
{
	unsigned long mask, other;
	int node, page;

	if (!is_multi_numa_node_system())
		SKIP(return, "only one NUMA node");

	for (node = 1; node >= 0; node--) {
		mask = BIT(node);
		other = BIT(!node);
		page = node * GMEM_CHUNK_PAGES;
		kvm_mbind(gmem_hva(g, page), SZ_2M, MPOL_BIND, &other, 8, 0);
		page += 7;
		kvm_mbind(gmem_hva(g, page), PAGE_SIZE, MPOL_BIND, &mask, 8, 0);
		gmem_write(g, page, 1);
	}
	ASSERT_EQ(2, gmem_read_fdinfo(getpid(), g->fd).chunks);
	for (page = 0; page < 2 * GMEM_CHUNK_PAGES; page++)
		TEST_ASSERT_EQ(page_node(gmem_hva(g, page)), page / GMEM_CHUNK_PAGES);
}

/* Without contiguous memory, pages are allocated one by one. */
TEST_F(huge, no_contiguous_memory)
{
	if (fail_large_allocations(true))
		SKIP(return, "CONFIG_FAIL_PAGE_ALLOC or debugfs is missing");
	gmem_fill(g, 0, NR_PAGES / 2);
	fail_large_allocations(false);
	ASSERT_EQ(0, nr_huge(self));
	ASSERT_EQ(NR_PAGES / 2, gmem_read_fdinfo(getpid(), g->fd).allocated);

	gmem_fill(g, NR_PAGES / 2, NR_PAGES / 2);
	ASSERT_EQ(NR_CHUNKS / 2, nr_huge(self));
	gmem_check(g, 0, NR_PAGES);
}

/*
 * Fail all slab allocations for a chunk except the first n, for all n.
 * Afterwards, either the whole chunk, the requested page, or nothing must be
 * allocated.
 */
TEST_F_TIMEOUT(huge, allocation_fails, 300)
{
	int space, r, err, nr_single = 0, nr_failed = 0;
	u64 allocated;

	if (fail_slab_allocations(0))
		SKIP(return, "no failslab in debugfs (this needs root and CONFIG_FAILSLAB)");

	/* A node of the page cache's tree is larger than a step. */
	for (allocated = 0, space = 0; allocated < GMEM_CHUNK_PAGES; space += 500) {
		fail_slab_allocations(space);
		r = fallocate(g->fd, FALLOC_FL_KEEP_SIZE, (u64)PAGE * PAGE_SIZE,
			      PAGE_SIZE);
		err = errno;
		fail_slab_allocations(-1);

		allocated = gmem_read_fdinfo(getpid(), g->fd).allocated;
		if (r) {
			ASSERT_EQ(ENOMEM, err);
			ASSERT_EQ(0, allocated);
			nr_failed++;
		} else if (allocated == 1) {
			nr_single++;
		} else {
			ASSERT_EQ(GMEM_CHUNK_PAGES, allocated);
		}
		ASSERT_EQ(allocated == GMEM_CHUNK_PAGES,
			  gmem_read_fdinfo(getpid(), g->fd).chunks);

		/* Free what was allocated, to make room for the next chunk. */
		gmem_punch_hole(g, 0, NR_PAGES);
		ASSERT_EQ(0, gmem_read_fdinfo(getpid(), g->fd).allocated);
	}
	TH_LOG("%d failures, %d single pages", nr_failed, nr_single);
	ASSERT_LT(0, nr_failed + nr_single);
}

/* A limit below the size of a chunk must not get any task killed. */
TEST_F(huge, memcg_limit)
{
	char root[PATH_MAX], *cgroup;
	int r;

	if (cg_find_unified_root(root, sizeof(root), NULL) ||
	    cg_read_strstr(root, "cgroup.controllers", "memory") ||
	    cg_write(root, "cgroup.subtree_control", "+memory"))
		SKIP(return, "no cgroup v2 with a memory controller (this needs root)");

	cgroup = cg_name(root, "gmem_hugepage");
	ASSERT_EQ(0, cg_create(cgroup));
	ASSERT_EQ(0, cg_write(cgroup, "memory.max", "1M"));
	ASSERT_EQ(0, cg_enter_current(cgroup));
	r = fallocate(g->fd, FALLOC_FL_KEEP_SIZE, (u64)PAGE * PAGE_SIZE, PAGE_SIZE);
	ASSERT_EQ(0, cg_enter_current(root));

	EXPECT_EQ(0, r);
	EXPECT_EQ(1, gmem_read_fdinfo(getpid(), g->fd).allocated);
	EXPECT_EQ(0, cg_read_key_long(cgroup, "memory.events", "oom_kill "));
	/* CPUs charge some pages in advance. */
	EXPECT_GT(SZ_1M * 3 / 4, cg_read_long(cgroup, "memory.current"));
	gmem_punch_hole(g, 0, NR_PAGES);
	EXPECT_EQ(0, cg_destroy(cgroup));
	free(cgroup);
}

/*
 * A conversion fails if there is no memory to store the attributes, but not if
 * there is none to split a huge mapping.
 */
TEST_F(huge, split_fails)
{
	int fail_nth, nth, r, nr_unsplit = 0;
	bool failed = true;
	u64 faults;

	SKIP_IF(fail_nth_unsupported());

	fail_nth = fail_nth_open();
	for (nth = 1; failed; nth++) {
		gmem_make_private(g, 0, NR_PAGES);
		gmem_fill(g, 0, NR_PAGES);
		ASSERT_EQ(NR_CHUNKS, nr_huge(self));

		fail_nth_start(fail_nth, nth);
		r = gmem_convert(g, PAGE, 1, 0);
		failed = fail_nth_came(fail_nth);
		if (r) {
			ASSERT_EQ(ENOMEM, r);
			ASSERT_EQ(NR_CHUNKS, nr_huge(self));
			continue;
		}

		ASSERT_EQ(NR_CHUNKS - 1, nr_huge(self));
		faults = nr_faults(g);
		gmem_check(g, 0, NR_PAGES);
		if (nr_faults(g) - faults > 1)
			nr_unsplit++;
		ASSERT_EQ(gmem_pattern(PAGE), *gmem_hva(g, PAGE));
	}
	close(fail_nth);
	TH_LOG("%d allocations, %d without a split", nth - 2, nr_unsplit);
	ASSERT_LT(0, nr_unsplit);
}

GMEM_TEST_MAIN(gmem_vm_unsupported() ?: gmem_hugepages_unsupported())

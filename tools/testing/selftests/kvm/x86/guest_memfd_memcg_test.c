// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test that the memory which conversions of guest_memfd memory make the kernel
 * keep is charged to the memory cgroup of the task that converts, that its limit
 * holds, and that the charge goes away with what it was for.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <linux/sizes.h>

#include "gmem_util.h"
#include "gmem_vm.h"
#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"
#include "kselftest_harness.h"
#include "cgroup_util.h"

#define PRIVATE		KVM_MEMORY_ATTRIBUTE_PRIVATE
#define NR_PAGES	20000
#define FILE_SIZE	((NR_PAGES + 1) * GMEM_FRAGMENT_SIZE)
/* The charge of each CPU is ahead by some pages, and slabs hold more objects. */
#define SLACK		((long)SZ_1M)
#define GONE_MS		10000

FIXTURE(memcg) {
	struct gmem_vm g;
	int fd;
	char *cgroup;
};

FIXTURE_SETUP(memcg)
{
	const char *reason = gmem_vm_unsupported();
	char root[PATH_MAX], name[64];

	if (reason)
		SKIP(exit(KSFT_SKIP), "%s", reason);
	if (cg_find_unified_root(root, sizeof(root), NULL) ||
	    cg_read_strstr(root, "cgroup.controllers", "memory") ||
	    cg_write(root, "cgroup.subtree_control", "+memory"))
		SKIP(exit(KSFT_SKIP), "no cgroup v2 with a memory controller");

	snprintf(name, sizeof(name), "gmem_memcg-%d", getpid());
	self->cgroup = cg_name(root, name);
	ASSERT_EQ(0, cg_create(self->cgroup));

	/* A huge file without pages, i.e. nothing else is charged for. */
	gmem_vm_create(&self->g, 1);
	self->fd = vm_create_guest_memfd(self->g.vm, FILE_SIZE,
					 GUEST_MEMFD_FLAG_MMAP |
					 GUEST_MEMFD_FLAG_INIT_SHARED);
}

FIXTURE_TEARDOWN(memcg)
{
	if (self->fd >= 0)
		kvm_close(self->fd);
	gmem_vm_free(&self->g);
	EXPECT_EQ(0, cg_destroy(self->cgroup));
	free(self->cgroup);
}

static long charged(const char *cgroup)
{
	return cg_read_long(cgroup, "memory.current");
}

/* Memory in slabs that can't be reclaimed, of everybody. */
static long slab_memory(void)
{
	char line[128];
	long kib = -1;
	FILE *f;

	f = fopen("/proc/meminfo", "r");
	TEST_ASSERT(f, "Cannot open /proc/meminfo");
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "SUnreclaim: %ld kB", &kib) == 1)
			break;
	}
	fclose(f);
	return kib * 1024;
}

/*
 * A task in the cgroup, which does nothing else.  It exits with the errno of the
 * conversion that failed, and writes what was wrong with it to @result.
 */
struct result {
	int nr_converted;
	int err;
	u64 offset;
	u64 error_offset;
};

static void convert_in_cgroup(const char *cgroup, int fd, int nr,
			      struct result *result)
{
	struct result *shared = kvm_mmap(PAGE_SIZE, PROT_READ | PROT_WRITE,
					 MAP_SHARED | MAP_ANONYMOUS, -1);
	int i, status;
	pid_t pid;

	pid = fork();
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		TEST_ASSERT(!cg_enter_current(cgroup),
			    "Cannot enter %s", cgroup);
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
	TEST_ASSERT(waitpid(pid, &status, 0) == pid && WIFEXITED(status),
		    "The task was killed after %d conversions, status 0x%x",
		    shared->nr_converted, status);
	*result = *shared;
	kvm_munmap(shared, PAGE_SIZE);
}

static bool is_uncharged(const char *cgroup, long before)
{
	struct timespec start = time_now();

	/* Memory is freed after a grace period, and in the background. */
	while (charged(cgroup) > before + SLACK && elapsed_ms(start) < GONE_MS)
		usleep(50000);
	return charged(cgroup) <= before + SLACK;
}

TEST_F_TIMEOUT(memcg, charge, 300)
{
	long before, slab_before, kept, cost;
	struct result result;
	int i;

	for (i = 0; i < 2; i++) {
		before = charged(self->cgroup);
		slab_before = slab_memory();
		convert_in_cgroup(self->cgroup, self->fd, NR_PAGES, &result);
		ASSERT_EQ(0, result.err);
		ASSERT_EQ(2 * NR_PAGES + 1,
			  gmem_read_fdinfo(getpid(), self->fd).ranges);

		/* What is only waiting to be freed doesn't count. */
		sleep(2);
		kept = slab_memory() - slab_before;
		cost = charged(self->cgroup) - before;
		TH_LOG("%ld of %ld KiB are charged, which is %ld bytes a range",
		       cost / 1024, kept / 1024, cost / 2 / NR_PAGES);
		ASSERT_LT(2 * SLACK, kept);
		ASSERT_LE(kept - SLACK, cost);

		/* Gone when the file is uniform, and when there is no file. */
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
	u64 error_offset = -1;

	ASSERT_EQ(0, cg_write_numeric(self->cgroup, "memory.max", 2 * SLACK));
	convert_in_cgroup(self->cgroup, self->fd, NR_PAGES, &result);
	TH_LOG("%d pages converted below a limit of %ld KiB, then errno %d",
	       result.nr_converted, 2 * SLACK / 1024, result.err);
	ASSERT_EQ(ENOMEM, result.err);
	ASSERT_EQ(result.offset, result.error_offset);
	ASSERT_EQ(0, cg_read_key_long(self->cgroup, "memory.events", "oom_kill "));

	/* Nothing has changed. */
	info = gmem_read_fdinfo(getpid(), self->fd);
	ASSERT_EQ(result.nr_converted, info.private / PAGE_SIZE);
	ASSERT_EQ(2 * result.nr_converted + 1, info.ranges);

	/* The limit is that of the cgroup, not of the file. */
	gmem_set_private(self->fd, result.offset, PAGE_SIZE);
	gmem_set_shared(self->fd, result.offset, PAGE_SIZE);

	/* What needs no memory works at the limit, and so does all without one. */
	ASSERT_EQ(0, cg_write(self->cgroup, "memory.max", "max"));
	convert_in_cgroup(self->cgroup, self->fd, NR_PAGES, &result);
	ASSERT_EQ(0, result.err);
	ASSERT_EQ(0, __gmem_set_attributes(self->fd, 0, FILE_SIZE, 0, &error_offset));
	ASSERT_EQ(1, gmem_read_fdinfo(getpid(), self->fd).ranges);
}

TEST_HARNESS_MAIN

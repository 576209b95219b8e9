// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test that a conversion of guest_memfd memory changes all of the range or
 * nothing when memory is short.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <linux/falloc.h>

#include "gmem_vm.h"
#include "hwpoison.h"
#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"
#include "kselftest_harness.h"

#define PRIVATE		KVM_MEMORY_ATTRIBUTE_PRIVATE
#define FAULT_DIR	"/sys/kernel/debug/"

/*
 * Failing allocations, with /proc/thread-self/fail-nth: the nth allocation of
 * this thread from now on fails.
 *
 * KVM needs memory where pages that are alike in runs of LEAF_PAGES no longer
 * are.  Look at pages on either side of the end of such a run.
 */
#define LEAF_PAGES	4096
#define FIRST_PAGE	(LEAF_PAGES - ALLOC_PAGES / 2)
#define ALLOC_PAGES	256

FIXTURE(alloc) {
	struct gmem_vm g;
	int fail_nth;
};

static int open_fail_nth(struct __test_metadata *_metadata)
{
	int fd = open("/proc/thread-self/fail-nth", O_RDWR);

	if (fd < 0 || gmem_vm_write_file(FAULT_DIR "failslab/ignore-gfp-wait", "N"))
		SKIP(exit(KSFT_SKIP), "CONFIG_FAILSLAB or debugfs is not there");

	/* Where there is memory from the page allocator, too. */
	gmem_vm_write_file(FAULT_DIR "fail_page_alloc/ignore-gfp-wait", "N");
	gmem_vm_write_file(FAULT_DIR "fail_page_alloc/min-order", "0");
	gmem_vm_write_file(FAULT_DIR "fail_page_alloc/verbose", "0");
	gmem_vm_write_file(FAULT_DIR "failslab/verbose", "0");
	return fd;
}

FIXTURE_SETUP(alloc)
{
	const char *reason = gmem_vm_unsupported();

	if (reason)
		SKIP(exit(KSFT_SKIP), "%s", reason);

	self->fail_nth = open_fail_nth(_metadata);

	gmem_vm_create(&self->g, 3 * LEAF_PAGES);
}

FIXTURE_TEARDOWN(alloc)
{
	gmem_vm_free(&self->g);
	close(self->fail_nth);
}

static void fail_from_now_on(int fd, int nth)
{
	char text[16];
	int len = snprintf(text, sizeof(text), "%d", nth);

	TEST_ASSERT(pwrite(fd, text, len, 0) == len, "Cannot write fail-nth");
}

/* Whether that allocation has come. */
static bool has_failed(int fd)
{
	char text[16] = {};
	int saved = errno;

	TEST_ASSERT(pread(fd, text, sizeof(text) - 1, 0) > 0,
		    "Cannot read fail-nth");
	fail_from_now_on(fd, 0);
	errno = saved;
	return !atoi(text);
}

static void set_all(struct gmem_vm *g, u64 attributes)
{
	gmem_set_attributes(g->fd, 0, (u64)g->nr_pages * PAGE_SIZE, attributes);
}

TEST_F_TIMEOUT(alloc, every_failure_changes_nothing, 300)
{
	struct kvm_random_state rng = new_kvm_random_state(kvm_random_seed);
	const int end = FIRST_PAGE + ALLOC_PAGES;
	struct gmem_vm *g = &self->g;
	int round, nth, page, nr, i, r, error_page, nr_failed = 0;
	bool to_private, failed;

	for (round = 0; round < 100; round++) {
		page = FIRST_PAGE + kvm_random_u32(&rng) % (ALLOC_PAGES - 1);
		nr = 1 + kvm_random_u32(&rng) % (end - page);
		to_private = kvm_random_bool(&rng);

		set_all(g, to_private ? 0 : PRIVATE);
		/* Maps what is shared. */
		for (i = FIRST_PAGE; i < end; i++)
			gmem_vm_host_can_access(g, i);

		for (nth = 1;; nth++) {
			fail_from_now_on(self->fail_nth, nth);
			r = gmem_vm_convert(g, page, nr, to_private ? PRIVATE : 0,
					    &error_page);
			failed = has_failed(self->fail_nth);
			if (!r)
				break;

			ASSERT_TRUE(failed);
			ASSERT_EQ(ENOMEM, r);
			ASSERT_EQ(page, error_page);
			/* Not even unmapped: it is the first thing that can fail. */
			for (i = page; i < page + nr; i++)
				ASSERT_EQ(to_private,
					  !!hwpoison_mapped_pfn(gmem_vm_hva(g, i)));
			for (i = FIRST_PAGE; i < end; i++)
				ASSERT_EQ(to_private, gmem_vm_host_can_access(g, i));
			nr_failed++;
		}

		ASSERT_EQ(-1, error_page);
		for (i = FIRST_PAGE; i < end; i++)
			ASSERT_EQ(to_private != (i >= page && i < page + nr),
				  gmem_vm_host_can_access(g, i));
	}
	TH_LOG("%d failures in %d conversions", nr_failed, round);
	ASSERT_LT(0, nr_failed);
}

/* Only a change needs memory, and it is allocated before pages are looked at. */
TEST_F(alloc, enomem_precedence)
{
	const int pinned = FIRST_PAGE + 20, poisoned = FIRST_PAGE + 30;
	struct gmem_vm *g = &self->g;
	int error_page, pin = -1;
	u64 pfn = 0;

	fail_from_now_on(self->fail_nth, 1);
	ASSERT_EQ(0, gmem_vm_convert(g, FIRST_PAGE, 1, 0, &error_page));
	ASSERT_FALSE(has_failed(self->fail_nth));

	*gmem_vm_hva(g, pinned) = 1;
	*gmem_vm_hva(g, poisoned) = 1;
	if (gmem_vm_can_pin()) {
		pin = gmem_vm_pin(g, pinned, 1);
		ASSERT_LE(0, pin);
	}
	if (!hwpoison_unsupported()) {
		pfn = gmem_vm_host_pfn(g, poisoned);
		ASSERT_EQ(0, gmem_vm_poison(g, poisoned));
	}

	fail_from_now_on(self->fail_nth, 1);
	ASSERT_EQ(ENOMEM, gmem_vm_convert(g, FIRST_PAGE + 15, 20, PRIVATE, &error_page));
	ASSERT_TRUE(has_failed(self->fail_nth));
	ASSERT_EQ(FIRST_PAGE + 15, error_page);

	/* With memory, each of the two prevents the conversion. */
	if (pin >= 0) {
		ASSERT_EQ(EAGAIN, gmem_vm_convert(g, pinned - 5, 10, PRIVATE, &error_page));
		ASSERT_EQ(pinned, error_page);
		kvm_close(pin);
	}
	if (pfn) {
		ASSERT_EQ(EHWPOISON, gmem_vm_convert(g, poisoned - 5, 10, PRIVATE,
						     &error_page));
		ASSERT_EQ(poisoned, error_page);
		kvm_fallocate(g->fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE,
			      poisoned * PAGE_SIZE, PAGE_SIZE);
		hwpoison_unpoison(pfn);
	}
}

TEST_F(alloc, creation)
{
	struct gmem_vm *g = &self->g;
	int nth, fd;

	for (nth = 1;; nth++) {
		fail_from_now_on(self->fail_nth, nth);
		fd = __vm_create_guest_memfd(g->vm, PAGE_SIZE * 16, 0);
		if (!has_failed(self->fail_nth))
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

TEST_HARNESS_MAIN

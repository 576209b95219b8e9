// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test that nothing gets stuck if users of guest_memfd's locks run
 * concurrently, on the same few pages: faults by guests and by the host, memory
 * failures, allocation, hole punching, conversions, and memslots that come and
 * go.
 *
 * Lockdep doesn't track folio locks, so a cycle that involves one shows up as a
 * hang: here, or in the kernel's hung task detector.
 *
 * usage: guest_memfd_stress_test [harness options] [seconds]
 */
#include "gmem_test.h"

#define NR_PAGES	8
/* A limit for each of two workers: a page that can't be unpoisoned is lost. */
#define MAX_FAILURES	4096
/* Far longer than any single operation takes, even in emulation. */
#define HANG_SECONDS	10

static int nr_seconds = 20;

static u64 *random_hva(void)
{
	return gmem_hva(g, random() % NR_PAGES);
}

static int random_pages(int *nr)
{
	int page = random() % NR_PAGES;

	*nr = 1 + random() % (NR_PAGES - page);
	return page;
}

static bool do_convert(u64 n)
{
	u64 attributes = random() & 1 ? PRIVATE : SHARED;
	int nr, page = random_pages(&nr), r;
	struct gmem_vm file = *g;

	r = gmem_convert(&file, page, nr, attributes);
	TEST_ASSERT(!r || (attributes && (r == EAGAIN || r == EHWPOISON) &&
			   file.error_page >= page && file.error_page < page + nr),
		    "Conversion of %d pages from page %d on failed, errno: %d, page: %ld",
		    nr, page, r, (long)file.error_page);
	return !r;
}

/* Punch out only pages that no other worker relies on, see do_fail_pfn(). */
static bool do_punch_hole(u64 n)
{
	int page = random() % (NR_PAGES / 2);

	gmem_punch_hole(g, page, NR_PAGES / 2 - page);
	return true;
}

static bool do_allocate(u64 n)
{
	int nr, page = random_pages(&nr);

	return !fallocate(g->fd, FALLOC_FL_KEEP_SIZE, page * PAGE_SIZE, nr * PAGE_SIZE);
}

static bool do_populate(u64 n)
{
	int nr, page = random_pages(&nr);

	return !madvise(gmem_hva(g, page), nr * PAGE_SIZE,
			n & 1 ? MADV_POPULATE_WRITE : MADV_POPULATE_READ);
}

static bool do_touch(u64 n)
{
	u64 *hva = random_hva(), value;

	return try_read(hva, &value) && try_write(hva, value + 1);
}

/* Inject an error into a mapped page, as if this task consumed it. */
static bool do_fail_mapped(u64 n)
{
	u64 *hva = random_hva(), pfn;

	usleep(1000);
	pfn = hwpoison_mapped_pfn(hva);
	if (n >= MAX_FAILURES || !try_poison(hva))
		return false;

	if (pfn)
		hwpoison_remember(pfn);
	return true;
}

/*
 * Inject an error as if found by the memory scrubber, into a page that may well
 * be private.  Only its pfn is known, and the page must not have been reused
 * for another file by now, so only this worker punches holes in the second half
 * of the file.
 */
static bool do_fail_pfn(u64 n)
{
	int page = NR_PAGES / 2 + random() % (NR_PAGES / 2), r;
	u64 *hva = gmem_hva(g, page), pfn;

	usleep(1000);
	pfn = hwpoison_mapped_pfn(hva);
	if (!pfn || n >= MAX_FAILURES) {
		/* Replace the page, be it private, poisoned, or just unmapped. */
		gmem_punch_hole(g, page, 1);
		madvise(hva, PAGE_SIZE, MADV_POPULATE_WRITE);
		return false;
	}

	/* Leave time for a conversion to make it private. */
	if (random() & 1)
		usleep(1000);
	r = hwpoison_inject(pfn);

	/* Leave the page for other workers to hit, then replace it. */
	usleep(1000);
	gmem_punch_hole(g, page, 1);
	return !r;
}

/* Drop the markers for poisoned pages from the page tables of this process. */
static bool do_unmap(u64 n)
{
	int nr, page = random_pages(&nr);

	usleep(500);
	return !madvise(gmem_hva(g, page), nr * PAGE_SIZE, MADV_DONTNEED);
}

/* At times, bind only half of the memory, or none. */
static bool do_move_memslot(u64 n)
{
	int nr = random() & 1 ? NR_PAGES : NR_PAGES / 2;

	gmem_set_slot(g, GMEM_SLOT, 0, 0, 0);
	if (random() & 1)
		usleep(200);
	gmem_set_slot(g, GMEM_SLOT, 0, nr, NR_PAGES - nr);
	usleep(2000);
	return true;
}

GMEM_FIXTURE(stress, NR_PAGES)

TEST_F_TIMEOUT(stress, everything, 3600)
{
	struct worker workers[] = {
		{ "convert", do_convert },
		{ "touch", do_touch },
		{ "fail mapped", do_fail_mapped },
		{ "convert too", do_convert },
		{ "punch hole", do_punch_hole },
		{ "allocate", do_allocate },
		{ "populate", do_populate },
		{ "fail pfn", do_fail_pfn },
		{ "unmap", do_unmap },
		{ "move memslot", do_move_memslot },
	};
	struct gmem_hammer hammers[2];
	u64 tries, last[ARRAY_SIZE(workers)] = {};
	int i, s;

	srandom(kvm_random_seed);
	catch_sigbus();
	gmem_hammer_start(g, hammers, ARRAY_SIZE(hammers), HAMMER_RETRY);
	workers_start(workers, ARRAY_SIZE(workers));

	/* Make sure that every worker makes progress. */
	for (s = 0; s < nr_seconds; s += HANG_SECONDS) {
		sleep(HANG_SECONDS);
		for (i = 0; i < ARRAY_SIZE(workers); i++) {
			tries = READ_ONCE(workers[i].nr_done) +
				READ_ONCE(workers[i].nr_failed);
			ASSERT_LT(last[i], tries) {
				TH_LOG("'%s' is stuck", workers[i].name);
			}
			last[i] = tries;
		}
	}
	workers_stop(workers, ARRAY_SIZE(workers));
	gmem_hammer_stop(g, hammers, ARRAY_SIZE(hammers));
	for (i = 0; i < (hwpoison_unsupported() ? 2 : 3); i++)
		ASSERT_LT(0, workers[i].nr_done);

	/* Afterwards, the memory must work like any other. */
	gmem_punch_hole(g, 0, NR_PAGES);
	gmem_make_shared(g, 0, NR_PAGES);
	gmem_set_slot(g, GMEM_SLOT, 0, 0, 0);
	gmem_set_slot(g, GMEM_SLOT, 0, NR_PAGES, 0);
	*gmem_hva(g, 3) = 0x1111;
	gmem_make_private(g, 0, NR_PAGES);
	ASSERT_EQ(0x1111, gmem_read(g, 3));
}

/* Failure is fine if it is due to a race with a conversion. */
static bool do_pre_fault(u64 n)
{
	int nr, page = random_pages(&nr);
	struct kvm_pre_fault_memory range = {
		.gpa = GMEM_GPA + page * PAGE_SIZE,
		.size = nr * PAGE_SIZE,
	};

	return !__vcpu_ioctl(g->vcpu, KVM_PRE_FAULT_MEMORY, &range);
}

/* Take faults without a guest that would repeat them. */
TEST_F_TIMEOUT(stress, pre_fault, 3600)
{
	struct worker pre_faulter = { "pre-fault", do_pre_fault };
	struct timespec start = time_now();
	u64 done;
	int i;

	srandom(kvm_random_seed);
	workers_start(&pre_faulter, 1);
	while (elapsed_ms(start) < nr_seconds * 500) {
		for (i = 0; i < 10; i++)
			do_convert(i);

		/* Nothing blocks pre-faulting now, so it must make progress. */
		done = READ_ONCE(pre_faulter.nr_done);
		ASSERT_TRUE(wait_for_change(&pre_faulter.nr_done, done));
	}
	workers_stop(&pre_faulter, 1);
}

GMEM_TEST_MAIN_NUMBER(gmem_vm_unsupported(), nr_seconds)

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
#define NR_VCPUS	2
/* Each memory failure costs a page if it can't be unpoisoned. */
#define MAX_FAILURES	2048
/* Far longer than any single operation takes, even in emulation. */
#define HANG_SECONDS	10

static int nr_seconds = 20;
static int nr_failures;

static struct kvm_random_state *thread_rng(void)
{
	static __thread struct kvm_random_state rng;

	if (!rng.seed)
		rng = new_kvm_random_state(kvm_random_seed ^ (u32)(u64)&rng);
	return &rng;
}

static bool random_bool(void)
{
	return kvm_random_bool(thread_rng());
}

static int random_pages(int *nr)
{
	return kvm_random_range(thread_rng(), NR_PAGES, nr);
}

static bool do_convert(u64 n)
{
	u64 attributes = random_bool() ? PRIVATE : SHARED;
	int nr, page = random_pages(&nr), r;
	struct gmem_vm file = *g;

	r = gmem_convert(&file, page, nr, attributes);
	TEST_ASSERT(!r || (attributes && (r == EAGAIN || r == EHWPOISON)),
		    "Conversion failed, errno: %d", r);
	TEST_ASSERT(!r || (file.error_page >= page && file.error_page < page + nr),
		    "Page %ld is reported for pages %d to %d", (long)file.error_page, page,
		    page + nr - 1);
	return !r;
}

/* Punch only pages that no other worker relies on, see do_fail_pfn(). */
static bool do_punch_hole(u64 n)
{
	int nr, page = random_pages(&nr);

	if (page >= NR_PAGES / 2)
		return false;

	gmem_punch_hole(g, page, min(nr, NR_PAGES / 2 - page));
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
	u64 *hva = gmem_hva(g, kvm_random_u32(thread_rng()) % NR_PAGES), value;

	return try_read(hva, &value) && try_write(hva, value + 1);
}

static bool may_fail(void)
{
	usleep(1000);
	return READ_ONCE(nr_failures) < MAX_FAILURES;
}

static bool count_failure(bool failed)
{
	if (failed)
		__atomic_fetch_add(&nr_failures, 1, __ATOMIC_RELAXED);
	return failed;
}

/* Inject an error into a mapped page, as if this task consumed it. */
static bool do_fail_mapped(u64 n)
{
	u64 *hva = gmem_hva(g, kvm_random_u32(thread_rng()) % NR_PAGES);
	u64 pfn = hwpoison_mapped_pfn(hva);

	if (!may_fail() || !count_failure(try_poison(hva)))
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
	int r, page = NR_PAGES / 2 + kvm_random_u32(thread_rng()) % (NR_PAGES / 2);
	u64 pfn;

	if (!may_fail())
		return false;

	pfn = hwpoison_mapped_pfn(gmem_hva(g, page));
	if (!pfn) {
		/* Private, poisoned, or just unmapped: replace it anyway. */
		gmem_punch_hole(g, page, 1);
		madvise(gmem_hva(g, page), PAGE_SIZE, MADV_DONTNEED);
		madvise(gmem_hva(g, page), PAGE_SIZE, MADV_POPULATE_WRITE);
		return false;
	}

	/* Leave time for a conversion to make it private. */
	if (random_bool())
		usleep(1000);
	r = hwpoison_inject(pfn);

	/* Leave the page for other workers to hit, then replace it. */
	usleep(1000);
	gmem_punch_hole(g, page, 1);
	return count_failure(!r);
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
	int nr = random_bool() ? NR_PAGES : NR_PAGES / 2;

	gmem_set_slot(g, GMEM_SLOT, 0, 0, 0);
	if (random_bool())
		usleep(200);
	gmem_set_slot(g, GMEM_SLOT, 0, nr, NR_PAGES - nr);
	usleep(2000);
	return true;
}

FIXTURE(stress) { };

FIXTURE_SETUP(stress)
{
	catch_sigbus();
	gmem_vm_create(g, NR_PAGES);
}

FIXTURE_TEARDOWN(stress)
{
	gmem_vm_free(g);
	hwpoison_unpoison_all();
}

static u64 nr_tries(struct worker *w)
{
	return READ_ONCE(w->nr_done) + READ_ONCE(w->nr_failed);
}

/* Until the time is up, make sure that every worker makes progress. */
static void run_workers(struct __test_metadata *_metadata, struct worker *workers,
			int nr)
{
	u64 done, last[16] = {};
	int idle[16] = {}, i, s;

	workers_start(workers, nr);
	for (s = 0; s < nr_seconds; s++) {
		sleep(1);
		for (i = 0; i < nr; i++) {
			done = nr_tries(&workers[i]);
			idle[i] = done == last[i] ? idle[i] + 1 : 0;
			last[i] = done;
			ASSERT_GT(HANG_SECONDS, idle[i]) {
				TH_LOG("'%s' is stuck", workers[i].name);
			}
		}
	}
	workers_stop(workers, nr);
}

TEST_F_TIMEOUT(stress, everything, 3600)
{
	struct worker workers[] = {
		{ "convert", do_convert },
		{ "touch", do_touch },
		{ "convert too", do_convert },
		{ "punch hole", do_punch_hole },
		{ "allocate", do_allocate },
		{ "populate", do_populate },
		{ "fail mapped", do_fail_mapped },
		{ "fail pfn", do_fail_pfn },
		{ "unmap", do_unmap },
		{ "move memslot", do_move_memslot },
	};
	struct gmem_hammer hammers[NR_VCPUS];

	gmem_hammer_start(g, hammers, NR_VCPUS, HAMMER_RETRY);
	run_workers(_metadata, workers, ARRAY_SIZE(workers));
	gmem_hammer_stop(g, hammers, NR_VCPUS);
	TH_LOG("%lu and %lu guest accesses failed, %d memory failures",
	       hammers[0].nr_failures, hammers[1].nr_failures, nr_failures);
	ASSERT_LT(0, workers[0].nr_done);
	ASSERT_LT(0, workers[1].nr_done);

	/* Afterwards, the memory must work like any other. */
	gmem_punch_hole(g, 0, NR_PAGES);
	gmem_make_shared(g, 0, NR_PAGES);
	ASSERT_EQ(0, madvise(g->mem, DATA_SIZE, MADV_DONTNEED));
	gmem_set_slot(g, GMEM_SLOT, 0, 0, 0);
	gmem_set_slot(g, GMEM_SLOT, 0, NR_PAGES, 0);
	*gmem_hva(g, 3) = 0x1111;
	gmem_make_private(g, 0, NR_PAGES);
	ASSERT_EQ(0x1111, gmem_read(g, 3));
	ASSERT_EQ(0, gmem_read(g, 4));
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
	u64 last, round;
	int i;

	if (!vm_check_cap(g->vm, KVM_CAP_PRE_FAULT_MEMORY))
		SKIP(return, "no KVM_CAP_PRE_FAULT_MEMORY");

	workers_start(&pre_faulter, 1);
	for (round = 0; elapsed_ms(start) < nr_seconds * 500; round++) {
		for (i = 0; i < 10; i++)
			do_convert(i);

		/* Nothing blocks pre-faulting now, so it must make progress. */
		last = nr_tries(&pre_faulter);
		for (i = 0; i < 5000 && nr_tries(&pre_faulter) < last + 2; i++)
			usleep(1000);
		ASSERT_LE(last + 2, nr_tries(&pre_faulter)) {
			TH_LOG("stuck in round %lu", round);
		}
	}
	workers_stop(&pre_faulter, 1);
}

GMEM_TEST_MAIN_NUMBER(gmem_vm_unsupported(), nr_seconds)

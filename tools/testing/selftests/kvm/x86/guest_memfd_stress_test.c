// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test that nothing gets stuck when all that takes guest_memfd's locks comes
 * at once, on the same few pages: faults by guests and by the host, memory
 * failures, allocation, hole punching, conversions, and memslots that come and
 * go.
 *
 * Lockdep doesn't track folio locks, hence a cycle that one is part of shows
 * as a hang: here, or in the kernel's hung task detector.
 *
 * usage: guest_memfd_stress_test [harness options] [seconds]
 */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <linux/falloc.h>

#include "gmem_vm.h"
#include "hwpoison.h"
#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"
#include "kselftest_harness.h"

#define CORRUPT_FILE	"/sys/kernel/debug/hwpoison/corrupt-pfn"
#define NR_PAGES	8
#define DATA_SIZE	(NR_PAGES * PAGE_SIZE)
#define NR_VCPUS	2
/* Each memory failure costs a page for good if it can't be unpoisoned. */
#define MAX_FAILURES	4096
/* Well beyond what any single operation takes, in emulation. */
#define HANG_SECONDS	30

static int nr_seconds = 20;

struct worker {
	const char *name;
	bool (*work)(struct kvm_random_state *rng);
	pthread_t thread;
	u64 nr_done;
	u64 nr_refused;
};

static struct {
	struct gmem_vm *g;
	bool stop;
	u64 poisoned[MAX_FAILURES];
	int nr_poisoned;
} stress;

static u64 random_range(struct kvm_random_state *rng, u64 *size)
{
	int page = kvm_random_u32(rng) % NR_PAGES;

	*size = (1 + kvm_random_u32(rng) % (NR_PAGES - page)) * PAGE_SIZE;
	return page * PAGE_SIZE;
}

static bool do_convert(struct kvm_random_state *rng)
{
	u64 size, offset = random_range(rng, &size), error_offset = 0;
	u64 attributes = kvm_random_bool(rng) ? KVM_MEMORY_ATTRIBUTE_PRIVATE : 0;
	int r;

	r = __gmem_set_attributes(stress.g->fd, offset, size, attributes,
				  &error_offset);
	TEST_ASSERT(!r || (attributes && (errno == EAGAIN || errno == EHWPOISON)),
		    __KVM_SYSCALL_ERROR("KVM_SET_MEMORY_ATTRIBUTES2", r));
	TEST_ASSERT(!r || (error_offset >= offset && error_offset < offset + size),
		    "Page in the way at 0x%lx, not in [0x%lx, 0x%lx)",
		    error_offset, offset, offset + size);
	return !r;
}

static void punch_hole(u64 offset, u64 size)
{
	kvm_fallocate(stress.g->fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE,
		      offset, size);
}

/* Only where nobody relies on a page to stay, see do_fail_pfn(). */
static bool do_punch_hole(struct kvm_random_state *rng)
{
	u64 size, offset = random_range(rng, &size);

	if (offset >= DATA_SIZE / 2)
		return false;

	punch_hole(offset, min_t(u64, size, DATA_SIZE / 2 - offset));
	return true;
}

static bool do_allocate(struct kvm_random_state *rng)
{
	u64 size, offset = random_range(rng, &size);
	int r = fallocate(stress.g->fd, FALLOC_FL_KEEP_SIZE, offset, size);

	return !r;
}

static bool do_populate(struct kvm_random_state *rng)
{
	u64 size, offset = random_range(rng, &size);

	return !madvise(stress.g->mem + offset, size,
			kvm_random_bool(rng) ? MADV_POPULATE_WRITE :
					       MADV_POPULATE_READ);
}

static __thread sigjmp_buf sigbus_env;

static void thread_sigbus(int sig)
{
	siglongjmp(sigbus_env, 1);
}

static bool do_touch(struct kvm_random_state *rng)
{
	u64 *hva = gmem_vm_hva(stress.g, kvm_random_u32(rng) % NR_PAGES);

	if (sigsetjmp(sigbus_env, 1))
		return false;

	WRITE_ONCE(*hva, READ_ONCE(*hva) + 1);
	return true;
}

/* An error in a page that is mapped, and consumed by who has it mapped. */
static bool do_fail_mapped(struct kvm_random_state *rng)
{
	u64 *hva = gmem_vm_hva(stress.g, kvm_random_u32(rng) % NR_PAGES);

	usleep(1000);
	if (READ_ONCE(stress.nr_poisoned) >= MAX_FAILURES / 2)
		return false;
	if (sigsetjmp(sigbus_env, 1))
		return true;

	if (madvise(hva, PAGE_SIZE, MADV_HWPOISON))
		return false;
	__atomic_fetch_add(&stress.nr_poisoned, 1, __ATOMIC_RELAXED);
	return true;
}

/*
 * An error found by the memory scrubber, in a page that may well be private.
 * It is known by its frame number alone, which had better not be somebody
 * else's by now, hence nobody else punches holes there.
 */
static bool do_fail_pfn(struct kvm_random_state *rng)
{
	static __thread int pagemap = -1;
	int page = NR_PAGES / 2 + kvm_random_u32(rng) % (NR_PAGES / 2);
	u64 entry, hva = (u64)gmem_vm_hva(stress.g, page);
	char text[24];
	int i, r;

	usleep(1000);
	if (READ_ONCE(stress.nr_poisoned) >= MAX_FAILURES / 2)
		return false;

	if (pagemap < 0)
		pagemap = open_path_or_exit("/proc/self/pagemap", O_RDONLY);
	if (pread(pagemap, &entry, 8, hva / PAGE_SIZE * 8) != 8 ||
	    !(entry & BIT_ULL(63))) {
		/* Private, or poisoned: in the latter case have another. */
		punch_hole(page * PAGE_SIZE, PAGE_SIZE);
		madvise((void *)hva, PAGE_SIZE, MADV_DONTNEED);
		madvise((void *)hva, PAGE_SIZE, MADV_POPULATE_WRITE);
		return false;
	}

	/* Time for a conversion to make it private. */
	if (kvm_random_bool(rng))
		usleep(1000);

	entry &= GENMASK_ULL(54, 0);
	snprintf(text, sizeof(text), "0x%lx", entry);
	r = gmem_vm_write_file(CORRUPT_FILE, text);
	if (!r) {
		i = __atomic_fetch_add(&stress.nr_poisoned, 1, __ATOMIC_RELAXED);
		stress.poisoned[i] = entry;
	}

	/* Leave it for others to come across, then have a fresh one. */
	usleep(1000);
	punch_hole(page * PAGE_SIZE, PAGE_SIZE);
	return !r;
}

/* Forget the markers that stand in for poisoned pages in our page tables. */
static bool do_unmap(struct kvm_random_state *rng)
{
	u64 size, offset = random_range(rng, &size);

	usleep(500);
	return !madvise(stress.g->mem + offset, size, MADV_DONTNEED);
}

/* At times there is but half of it, or none. */
static bool do_move_memslot(struct kvm_random_state *rng)
{
	struct gmem_vm *g = stress.g;
	u64 size = kvm_random_bool(rng) ? DATA_SIZE : DATA_SIZE / 2;

	vm_set_user_memory_region2(g->vm, GMEM_VM_SLOT, KVM_MEM_GUEST_MEMFD,
				   GMEM_VM_GPA, 0, NULL, g->fd, 0);
	if (kvm_random_bool(rng))
		usleep(200);
	vm_set_user_memory_region2(g->vm, GMEM_VM_SLOT, KVM_MEM_GUEST_MEMFD,
				   GMEM_VM_GPA, size, g->mem, g->fd,
				   DATA_SIZE - size);
	usleep(2000);
	return true;
}

static void *worker(void *arg)
{
	struct worker *w = arg;
	struct kvm_random_state rng = new_kvm_random_state(kvm_random_seed ^
							   (u64)w);

	while (!READ_ONCE(stress.stop)) {
		if (w->work(&rng))
			WRITE_ONCE(w->nr_done, w->nr_done + 1);
		else
			WRITE_ONCE(w->nr_refused, w->nr_refused + 1);
	}
	return NULL;
}

FIXTURE(stress) {
	struct gmem_vm g;
	struct gmem_vm_hammer hammers[NR_VCPUS];
};

FIXTURE_SETUP(stress)
{
	struct sigaction sa = { .sa_handler = thread_sigbus };
	const char *reason = gmem_vm_unsupported();

	if (reason)
		SKIP(exit(KSFT_SKIP), "%s", reason);

	sigaction(SIGBUS, &sa, NULL);
	gmem_vm_create(&self->g, NR_PAGES);
	stress.g = &self->g;
}

FIXTURE_TEARDOWN(stress)
{
	int i;

	gmem_vm_free(&self->g);
	for (i = 0; i < stress.nr_poisoned; i++)
		if (stress.poisoned[i])
			hwpoison_unpoison(stress.poisoned[i]);
}

/* Until the time is up, see that every worker gets somewhere. */
static void run_workers(struct __test_metadata *_metadata,
			struct worker *workers, int nr)
{
	u64 done, last[16] = {};
	int idle[16] = {}, i, s;

	for (i = 0; i < nr; i++)
		kvm_pthread_create(&workers[i].thread, NULL, worker, &workers[i]);

	for (s = 0; s < nr_seconds; s++) {
		sleep(1);
		for (i = 0; i < nr; i++) {
			done = READ_ONCE(workers[i].nr_done) +
			       READ_ONCE(workers[i].nr_refused);
			idle[i] = done == last[i] ? idle[i] + 1 : 0;
			last[i] = done;
			ASSERT_GT(HANG_SECONDS, idle[i]) {
				TH_LOG("'%s' is stuck", workers[i].name);
			}
		}
	}

	WRITE_ONCE(stress.stop, true);
	for (i = 0; i < nr; i++) {
		kvm_pthread_join(workers[i].thread, NULL);
		TH_LOG("%12s: %lu times, refused %lu times", workers[i].name,
		       workers[i].nr_done, workers[i].nr_refused);
	}
}

TEST_F_TIMEOUT(stress, all_at_once, 3600)
{
	struct worker workers[] = {
		{ "convert", do_convert },
		{ "convert too", do_convert },
		{ "punch hole", do_punch_hole },
		{ "allocate", do_allocate },
		{ "populate", do_populate },
		{ "touch", do_touch },
		{ "fail mapped", do_fail_mapped },
		{ "fail pfn", do_fail_pfn },
		{ "unmap", do_unmap },
		{ "move memslot", do_move_memslot },
	};
	struct gmem_vm *g = &self->g;

	gmem_vm_hammer_start(g, self->hammers, NR_VCPUS, HAMMER_RETRY);
	run_workers(_metadata, workers, ARRAY_SIZE(workers));
	gmem_vm_hammer_stop(g, self->hammers, NR_VCPUS);
	TH_LOG("%lu and %lu guest accesses refused, %d memory failures",
	       self->hammers[0].nr_failures, self->hammers[1].nr_failures,
	       stress.nr_poisoned);

	ASSERT_LT(0, workers[0].nr_done);
	ASSERT_LT(0, workers[5].nr_done);

	/* And after all that, it's memory like any other. */
	punch_hole(0, DATA_SIZE);
	gmem_set_shared(g->fd, 0, DATA_SIZE);
	ASSERT_EQ(0, madvise(g->mem, DATA_SIZE, MADV_DONTNEED));
	vm_set_user_memory_region2(g->vm, GMEM_VM_SLOT, KVM_MEM_GUEST_MEMFD,
				   GMEM_VM_GPA, 0, NULL, g->fd, 0);
	vm_set_user_memory_region2(g->vm, GMEM_VM_SLOT, KVM_MEM_GUEST_MEMFD,
				   GMEM_VM_GPA, DATA_SIZE, g->mem, g->fd, 0);
	*gmem_vm_hva(g, 3) = 0x1111;
	gmem_set_private(g->fd, 0, DATA_SIZE);
	ASSERT_EQ(0x1111, gmem_vm_read(g, 3));
	ASSERT_EQ(0, gmem_vm_read(g, 4));
}

static void *pre_faulter(void *arg)
{
	struct kvm_random_state rng = new_kvm_random_state(kvm_random_seed);
	struct gmem_vm *g = stress.g;
	u64 *nr_done = arg;

	while (!READ_ONCE(stress.stop)) {
		u64 size, offset = random_range(&rng, &size);
		struct kvm_pre_fault_memory range = {
			.gpa = GMEM_VM_GPA + offset,
			.size = size,
		};

		/* To fail is fine if in a race with a conversion. */
		__vcpu_ioctl(g->vcpu, KVM_PRE_FAULT_MEMORY, &range);
		WRITE_ONCE(*nr_done, *nr_done + 1);
	}
	return NULL;
}

/* Faults without a guest that could take them again in its own time. */
TEST_F_TIMEOUT(stress, pre_fault_ends, 3600)
{
	struct kvm_random_state rng = new_kvm_random_state(~kvm_random_seed);
	struct gmem_vm *g = &self->g;
	u64 nr_done = 0, last, rounds;
	struct timespec start;
	pthread_t thread;
	int i;

	if (!vm_check_cap(g->vm, KVM_CAP_PRE_FAULT_MEMORY))
		SKIP(return, "no KVM_CAP_PRE_FAULT_MEMORY");

	kvm_pthread_create(&thread, NULL, pre_faulter, &nr_done);

	clock_gettime(CLOCK_MONOTONIC, &start);
	for (rounds = 0; timespec_elapsed(start).tv_sec < nr_seconds / 2; rounds++) {
		for (i = 0; i < 10; i++)
			do_convert(&rng);

		/* Nothing is in its way now, so it has to get on. */
		last = READ_ONCE(nr_done);
		for (i = 0; i < 5000 && READ_ONCE(nr_done) < last + 2; i++)
			usleep(1000);
		ASSERT_LE(last + 2, READ_ONCE(nr_done)) {
			TH_LOG("stuck in round %lu", rounds);
		}
	}
	TH_LOG("pre-faulted %lu times in %lu rounds", nr_done, rounds);

	WRITE_ONCE(stress.stop, true);
	kvm_pthread_join(thread, NULL);
}

int main(int argc, char **argv)
{
	if (argc > 1 && isdigit(argv[argc - 1][0]))
		nr_seconds = atoi_positive("Number of seconds", argv[--argc]);
	argv[argc] = NULL;

	return test_harness_run(argc, argv);
}

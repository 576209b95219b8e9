// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test what can be seen of a guest_memfd and its conversions from outside: in
 * /proc/<pid>/fdinfo/<fd> and in the VM's binary statistics.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <linux/falloc.h>

#include "gmem_util.h"
#include "gmem_vm.h"
#include "hwpoison.h"
#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"
#include "kselftest_harness.h"

#define PRIVATE		KVM_MEMORY_ATTRIBUTE_PRIVATE
#define NR_PAGES	16
#define DATA_SIZE	(NR_PAGES * PAGE_SIZE)

/* Of a file of NR_PAGES that has the flags of gmem_vm_create(). */
#define EXPECT_FDINFO(fd, nr_private, nr_ranges, nr_allocated, nr_poisoned)	\
do {										\
	struct gmem_fdinfo __info = gmem_read_fdinfo(getpid(), fd);			\
	u64 __private = (nr_private) * PAGE_SIZE;				\
										\
	EXPECT_EQ(DATA_SIZE, __info.size);					\
	EXPECT_EQ(GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED,		\
		  __info.flags);						\
	EXPECT_EQ(DATA_SIZE - __private, __info.shared);			\
	EXPECT_EQ(__private, __info.private);					\
	EXPECT_EQ(nr_ranges, __info.ranges);					\
	EXPECT_EQ(nr_allocated, __info.allocated);				\
	EXPECT_EQ(nr_poisoned, __info.poisoned);				\
} while (0)

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

#define EXPECT_STATS(expected, vm)						\
do {										\
	int __i;								\
	u64 __value;								\
										\
	for (__i = 0; __i < NR_STATS; __i++) {					\
		kvm_get_stat(&(vm)->stats, stat_names[__i], &__value, 1);	\
		EXPECT_EQ((expected)[__i], __value) {				\
			TH_LOG("%s", stat_names[__i]);				\
		}								\
	}									\
} while (0)

/* Returns the errno, 0 for success. */
static int convert(int fd, int page, int nr, u64 attributes)
{
	u64 error_offset = 0;

	return __gmem_set_attributes(fd, page * PAGE_SIZE, nr * PAGE_SIZE,
				     attributes, &error_offset) ? errno : 0;
}

static void punch_hole(int fd, int page, int nr)
{
	kvm_fallocate(fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE,
		      page * PAGE_SIZE, nr * PAGE_SIZE);
}

/* What holds of any file, whoever tracks what is private. */
TEST(every_file_and_vm)
{
	static const u64 sizes[] = { PAGE_SIZE, DATA_SIZE, 1ull << 46 };
	const unsigned long types[] = { KVM_X86_DEFAULT_VM, KVM_X86_SW_PROTECTED_VM };
	u64 flags, valid, expected[NR_STATS] = {};
	struct gmem_fdinfo info;
	struct kvm_vm *vm;
	int t, i, fd;

	for (t = 0; t < ARRAY_SIZE(types); t++) {
		if (!(kvm_check_cap(KVM_CAP_VM_TYPES) & BIT(types[t])))
			continue;

		vm = vm_create_barebones_type(types[t]);
		valid = vm_check_cap(vm, KVM_CAP_GUEST_MEMFD_FLAGS);
		for (i = 0; i < 4 * ARRAY_SIZE(sizes); i++) {
			u64 size = sizes[i / 4];

			flags = i % 4;
			if (flags & ~valid)
				continue;

			fd = vm_create_guest_memfd(vm, size, flags);
			kvm_fallocate(fd, FALLOC_FL_KEEP_SIZE, size - PAGE_SIZE,
				      PAGE_SIZE);
			info = gmem_read_fdinfo(getpid(), fd);
			EXPECT_EQ(size, info.size);
			EXPECT_EQ(flags, info.flags);
			EXPECT_EQ(flags & GUEST_MEMFD_FLAG_INIT_SHARED ? 0 : size,
				  info.private);
			EXPECT_EQ(size, info.private + info.shared);
			EXPECT_EQ(1, info.ranges);
			EXPECT_EQ(1, info.allocated);
			EXPECT_EQ(0, info.poisoned);
			kvm_close(fd);
		}
		EXPECT_STATS(expected, vm);
		kvm_vm_free(vm);
	}
}

FIXTURE(observe) {
	struct gmem_vm g;
};

FIXTURE_SETUP(observe)
{
	const char *reason = gmem_vm_unsupported();

	if (reason)
		SKIP(exit(KSFT_SKIP), "%s", reason);

	gmem_vm_create(&self->g, NR_PAGES);
}

FIXTURE_TEARDOWN(observe)
{
	gmem_vm_free(&self->g);
}

TEST_F(observe, fdinfo_follows_conversions)
{
	int fd = self->g.fd, round, i, page, nr;
	struct kvm_random_state rng = new_kvm_random_state(kvm_random_seed);

	EXPECT_FDINFO(fd, 0, 1, 0, 0);
	gmem_set_private(fd, 4 * PAGE_SIZE, 2 * PAGE_SIZE);
	EXPECT_FDINFO(fd, 2, 3, 0, 0);
	gmem_set_private(fd, 4 * PAGE_SIZE, 2 * PAGE_SIZE);
	EXPECT_FDINFO(fd, 2, 3, 0, 0);

	/* Neighbours are one range, on either side and on both. */
	gmem_set_private(fd, 6 * PAGE_SIZE, PAGE_SIZE);
	EXPECT_FDINFO(fd, 3, 3, 0, 0);
	gmem_set_private(fd, 3 * PAGE_SIZE, PAGE_SIZE);
	EXPECT_FDINFO(fd, 4, 3, 0, 0);
	gmem_set_private(fd, 8 * PAGE_SIZE, PAGE_SIZE);
	EXPECT_FDINFO(fd, 5, 5, 0, 0);
	gmem_set_private(fd, 7 * PAGE_SIZE, PAGE_SIZE);
	EXPECT_FDINFO(fd, 6, 3, 0, 0);
	gmem_set_shared(fd, 5 * PAGE_SIZE, PAGE_SIZE);
	EXPECT_FDINFO(fd, 5, 5, 0, 0);
	gmem_set_private(fd, 0, DATA_SIZE);
	EXPECT_FDINFO(fd, NR_PAGES, 1, 0, 0);
	for (i = 0; i < NR_PAGES; i += 2)
		gmem_set_shared(fd, i * PAGE_SIZE, PAGE_SIZE);
	EXPECT_FDINFO(fd, NR_PAGES / 2, NR_PAGES, 0, 0);

	/* A guest that goes on for ever leaves no more than there are pages. */
	for (round = 0; round < 2000; round++) {
		page = kvm_random_u32(&rng) % NR_PAGES;
		nr = 1 + kvm_random_u32(&rng) % (NR_PAGES - page);
		gmem_set_attributes(fd, page * PAGE_SIZE, nr * PAGE_SIZE,
				    kvm_random_bool(&rng) ? PRIVATE : 0);
		ASSERT_GE(NR_PAGES, gmem_read_fdinfo(getpid(), fd).ranges);
	}
	gmem_set_shared(fd, 0, DATA_SIZE);
	EXPECT_FDINFO(fd, 0, 1, 0, 0);
}

TEST_F(observe, fdinfo_counts_pages)
{
	struct gmem_vm *g = &self->g;

	/* Whoever allocates them: nobody, the host, the guest. */
	kvm_fallocate(g->fd, FALLOC_FL_KEEP_SIZE, 0, 3 * PAGE_SIZE);
	EXPECT_FDINFO(g->fd, 0, 1, 3, 0);
	*gmem_vm_hva(g, 4) = 1;
	EXPECT_FDINFO(g->fd, 0, 1, 4, 0);
	gmem_set_private(g->fd, 0, 8 * PAGE_SIZE);
	EXPECT_FDINFO(g->fd, 8, 2, 4, 0);
	gmem_vm_write(g, 5, 1);
	gmem_vm_write(g, NR_PAGES - 1, 1);
	EXPECT_FDINFO(g->fd, 8, 2, 6, 0);

	/* Who is not allowed to touch a page doesn't allocate it. */
	ASSERT_FALSE(gmem_vm_host_can_access(g, 6));
	EXPECT_FDINFO(g->fd, 8, 2, 6, 0);

	punch_hole(g->fd, 2, 3);
	EXPECT_FDINFO(g->fd, 8, 2, 4, 0);
	punch_hole(g->fd, 0, NR_PAGES);
	EXPECT_FDINFO(g->fd, 8, 2, 0, 0);
}

TEST_F(observe, pinned_page)
{
	u64 expected[NR_STATS] = {};
	struct gmem_vm *g = &self->g;
	pthread_t thread;
	int pin, i;

	if (!gmem_vm_can_pin())
		SKIP(return, "CONFIG_GUP_TEST is not enabled");

	memset(g->mem, 0xaa, DATA_SIZE);
	gmem_set_private(g->fd, 8 * PAGE_SIZE, 2 * PAGE_SIZE);
	expected[TO_PRIVATE]++;
	expected[PAGES_TO_PRIVATE] += 2;
	EXPECT_STATS(expected, g->vm);

	pin = gmem_vm_pin(g, 5, 1);
	ASSERT_LE(0, pin);
	for (i = 0; i < 2; i++) {
		ASSERT_EQ(EAGAIN, convert(g->fd, 0, NR_PAGES, PRIVATE));
		expected[BUSY]++;
		EXPECT_STATS(expected, g->vm);
		EXPECT_FDINFO(g->fd, 2, 3, NR_PAGES, 0);
	}

	/* A conversion that takes several attempts is a single one. */
	close_later(&thread, pin, 50);
	ASSERT_EQ(0, convert(g->fd, 0, NR_PAGES, PRIVATE));
	kvm_pthread_join(thread, NULL);
	expected[TO_PRIVATE]++;
	expected[PAGES_TO_PRIVATE] += NR_PAGES - 2;
	EXPECT_STATS(expected, g->vm);
	EXPECT_FDINFO(g->fd, NR_PAGES, 1, NR_PAGES, 0);
}

TEST_F(observe, poisoned_page)
{
	const char *reason = hwpoison_unsupported();
	u64 pfn, expected[NR_STATS] = {};
	struct gmem_vm *g = &self->g;
	int i;

	if (reason)
		SKIP(return, "%s", reason);

	memset(g->mem, 0xaa, 8 * PAGE_SIZE);
	pfn = gmem_vm_host_pfn(g, 5);
	ASSERT_EQ(0, gmem_vm_poison(g, 5));

	EXPECT_FDINFO(g->fd, 0, 1, 8, 1);
	for (i = 0; i < 3; i++) {
		ASSERT_EQ(EHWPOISON, convert(g->fd, 4, 8, PRIVATE));
		expected[POISONED]++;
		EXPECT_STATS(expected, g->vm);
		EXPECT_FDINFO(g->fd, 0, 1, 8, 1);
	}

	punch_hole(g->fd, 5, 1);
	EXPECT_FDINFO(g->fd, 0, 1, 7, 0);
	ASSERT_EQ(0, convert(g->fd, 4, 8, PRIVATE));
	expected[TO_PRIVATE]++;
	expected[PAGES_TO_PRIVATE] += 8;
	EXPECT_STATS(expected, g->vm);
	EXPECT_FDINFO(g->fd, 8, 3, 7, 0);
	hwpoison_unpoison(pfn);
}

/* Pages that changed state, not those in the range, nor those allocated. */
TEST_F(observe, stats_count_what_changed)
{
	u64 expected[NR_STATS] = {}, none[NR_STATS] = {};
	struct gmem_vm *g = &self->g;
	struct kvm_vm *other;
	int fd;

	other = vm_create_barebones_type(KVM_X86_SW_PROTECTED_VM);
	EXPECT_STATS(expected, g->vm);

	*gmem_vm_hva(g, 2) = 1;
	ASSERT_EQ(0, convert(g->fd, 2, 4, PRIVATE));
	expected[TO_PRIVATE]++;
	expected[PAGES_TO_PRIVATE] += 4;
	EXPECT_STATS(expected, g->vm);

	ASSERT_EQ(0, convert(g->fd, 0, 8, PRIVATE));
	expected[TO_PRIVATE]++;
	expected[PAGES_TO_PRIVATE] += 4;
	EXPECT_STATS(expected, g->vm);

	ASSERT_EQ(0, convert(g->fd, 6, 8, 0));
	expected[TO_SHARED]++;
	expected[PAGES_TO_SHARED] += 2;
	EXPECT_STATS(expected, g->vm);

	/* Nothing changed, and nothing that could have. */
	ASSERT_EQ(0, convert(g->fd, 6, 8, 0));
	ASSERT_EQ(0, convert(g->fd, 0, 6, PRIVATE));
	ASSERT_EQ(EINVAL, convert(g->fd, 0, 0, PRIVATE));
	ASSERT_EQ(EINVAL, convert(g->fd, 0, NR_PAGES + 1, 0));
	ASSERT_EQ(EINVAL, convert(g->fd, 0, 1, ~PRIVATE));
	EXPECT_STATS(expected, g->vm);

	/* All files of the VM, and no other VM. */
	fd = vm_create_guest_memfd(g->vm, 1ull << 46, 0);
	gmem_set_shared(fd, PAGE_SIZE, (1ull << 46) - PAGE_SIZE);
	expected[TO_SHARED]++;
	expected[PAGES_TO_SHARED] += (1ull << 46) / PAGE_SIZE - 1;
	EXPECT_STATS(expected, g->vm);
	kvm_close(fd);

	EXPECT_STATS(none, other);
	kvm_vm_free(other);
}

static bool stop_looking;

static void *look(void *arg)
{
	struct gmem_vm *g = arg;
	struct gmem_fdinfo info;
	u64 nr_looks = 0;

	for (; !READ_ONCE(stop_looking); nr_looks++) {
		info = gmem_read_fdinfo(getpid(), g->fd);
		TEST_ASSERT(info.private <= DATA_SIZE &&
			    info.private + info.shared == DATA_SIZE &&
			    info.ranges >= 1 && info.ranges <= NR_PAGES &&
			    info.allocated <= NR_PAGES && !info.poisoned,
			    "private %lu shared %lu ranges %lu allocated %lu poisoned %lu",
			    info.private, info.shared, info.ranges,
			    info.allocated, info.poisoned);
	}
	return (void *)nr_looks;
}

/* Somebody who looks disturbs nobody, and sees nothing that can't be. */
TEST_F(observe, fdinfo_in_a_race)
{
	struct gmem_vm *g = &self->g;
	struct timespec start;
	pthread_t thread;
	void *nr_looks;
	int round;

	kvm_pthread_create(&thread, NULL, look, g);
	clock_gettime(CLOCK_MONOTONIC, &start);
	for (round = 0; timespec_elapsed(start).tv_sec < 3; round++) {
		int page = round * 7 % (NR_PAGES - 2);

		WRITE_ONCE(*gmem_vm_hva(g, page), round);
		ASSERT_EQ(0, convert(g->fd, page, 3, PRIVATE));
		if (round & 1)
			ASSERT_EQ(0, convert(g->fd, page + 1, 1, 0));
		if (!(round % 8))
			punch_hole(g->fd, page, 2);
		ASSERT_EQ(0, convert(g->fd, 0, NR_PAGES, 0));
	}
	WRITE_ONCE(stop_looking, true);
	ASSERT_EQ(0, pthread_join(thread, &nr_looks));
	TH_LOG("looked %lu times in %d rounds", (u64)nr_looks, round);
	ASSERT_NE(NULL, nr_looks);
}

/* By somebody else, who has the file from nowhere else. */
TEST_F(observe, fdinfo_of_another_process)
{
	struct gmem_vm *g = &self->g;
	pid_t parent = getpid(), pid;
	struct gmem_fdinfo info;
	int status;

	gmem_set_private(g->fd, 0, 3 * PAGE_SIZE);
	pid = fork();
	if (!pid) {
		kvm_close(g->fd);
		info = gmem_read_fdinfo(parent, g->fd);
		_exit(info.size != DATA_SIZE || info.private != 3 * PAGE_SIZE);
	}
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	ASSERT_EQ(0, status);
}

TEST_HARNESS_MAIN

// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test conversion of guest_memfd memory where a page is poisoned: not to
 * private, but to shared, and both again once the page is gone.
 */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
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

#define PRIVATE		KVM_MEMORY_ATTRIBUTE_PRIVATE
#define CORRUPT_FILE	"/sys/kernel/debug/hwpoison/corrupt-pfn"
#define NR_PAGES	16
#define POISONED	5

/* Sees to it that all of it can be accessed, and is allocated. */
static bool all_shared(struct gmem_vm *g, int page, int nr)
{
	return !madvise(gmem_vm_hva(g, page), nr * PAGE_SIZE, MADV_POPULATE_WRITE);
}

FIXTURE(poison) {
	struct gmem_vm g;
	u64 pfn;
};

FIXTURE_SETUP(poison)
{
	const char *reason = gmem_vm_unsupported();
	struct gmem_vm *g = &self->g;

	if (reason)
		SKIP(exit(KSFT_SKIP), "%s", reason);

	gmem_vm_create(g, NR_PAGES);

	memset(g->mem, 0xaa, NR_PAGES * PAGE_SIZE);
	self->pfn = gmem_vm_host_pfn(g, POISONED);
}

FIXTURE_TEARDOWN(poison)
{
	gmem_vm_free(&self->g);
	/* Whether there was anything to undo is of no interest. */
	hwpoison_unpoison(self->pfn);
}

static void poison(struct __test_metadata *_metadata, struct gmem_vm *g)
{
	int r = gmem_vm_poison(g, POISONED);

	if (r == -EINVAL || r == -EPERM)
		SKIP(_exit(KSFT_SKIP), "no MADV_HWPOISON");

	/* How well the error was dealt with is not tested here. */
	if (r)
		TH_LOG("MADV_HWPOISON failed, errno %d", -r);
}

/* Everything shared but what no one can have, and not EFAULT but EHWPOISON. */
static bool rest_is_shared(struct gmem_vm *g)
{
	return all_shared(g, 0, POISONED) &&
	       all_shared(g, POISONED + 1, NR_PAGES - POISONED - 1);
}

TEST_F(poison, stops_conversion_to_private)
{
	struct gmem_vm *g = &self->g;
	int error_page, i;
	u64 value;

	poison(_metadata, g);
	for (i = 0; i < 100; i++) {
		ASSERT_EQ(EHWPOISON, gmem_vm_convert(g, 0, NR_PAGES, PRIVATE, &error_page));
		ASSERT_EQ(POISONED, error_page);
	}
	ASSERT_EQ(EHWPOISON, gmem_vm_convert(g, POISONED, 1, PRIVATE, &error_page));
	ASSERT_EQ(POISONED, error_page);
	ASSERT_TRUE(rest_is_shared(g));

	/* Its neighbours are none the worse for it. */
	ASSERT_EQ(0, gmem_vm_convert(g, 0, POISONED, PRIVATE, &error_page));
	ASSERT_EQ(0, gmem_vm_convert(g, POISONED + 1, 2, PRIVATE, &error_page));
	ASSERT_EQ(0xaaaaaaaaaaaaaaaaull, gmem_vm_read(g, POISONED + 1));
	ASSERT_EQ(EHWPOISON, gmem_vm_convert(g, 0, NR_PAGES, PRIVATE, &error_page));
	ASSERT_EQ(POISONED, error_page);
	for (i = 0; i < NR_PAGES; i++) {
		if (i != POISONED)
			ASSERT_EQ(i > POISONED + 2, gmem_vm_host_can_access(g, i));
	}

	/* To shared, and where nothing changes, it is of no concern. */
	ASSERT_EQ(0, gmem_vm_convert(g, POISONED, 1, 0, &error_page));
	ASSERT_EQ(0, gmem_vm_convert(g, 0, NR_PAGES, 0, &error_page));
	ASSERT_TRUE(rest_is_shared(g));

	ASSERT_EQ(-1, __gmem_vm_read(g, POISONED, &value));
	ASSERT_EQ(EHWPOISON, errno);
	ASSERT_EQ(KVM_EXIT_MEMORY_FAULT, g->vcpu->run->exit_reason);
	ASSERT_EQ(-1, madvise(gmem_vm_hva(g, POISONED), PAGE_SIZE,
			      MADV_POPULATE_READ));
	ASSERT_EQ(EHWPOISON, errno);
}

/* Nowhere to tell which page it is. */
TEST_F(poison, error_offset_cannot_be_written)
{
	struct kvm_memory_attributes2 *attrs;
	struct gmem_vm *g = &self->g;

	attrs = kvm_mmap(PAGE_SIZE, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1);
	attrs->size = NR_PAGES * PAGE_SIZE;
	attrs->attributes = PRIVATE;
	ASSERT_EQ(0, mprotect(attrs, PAGE_SIZE, PROT_READ));

	poison(_metadata, g);
	ASSERT_EQ(-1, ioctl(g->fd, KVM_SET_MEMORY_ATTRIBUTES2, attrs));
	ASSERT_EQ(EFAULT, errno);
	ASSERT_TRUE(rest_is_shared(g));
	kvm_munmap(attrs, PAGE_SIZE);
}

TEST_F(poison, precedes_busy_wherever_either_is)
{
	struct gmem_vm *g = &self->g;
	int before, after, error_page, i;
	struct timespec start;

	if (!gmem_vm_can_pin())
		SKIP(return, "CONFIG_GUP_TEST is not enabled");

	before = gmem_vm_pin(g, POISONED - 2, 1);
	after = gmem_vm_pin(g, POISONED + 2, 1);
	ASSERT_LE(0, before);
	ASSERT_LE(0, after);
	poison(_metadata, g);

	/* Known for certain, thus nothing to wait for. */
	clock_gettime(CLOCK_MONOTONIC, &start);
	for (i = 0; i < 20; i++) {
		ASSERT_EQ(EHWPOISON, gmem_vm_convert(g, 0, NR_PAGES, PRIVATE, &error_page));
		ASSERT_EQ(POISONED, error_page);
	}
	ASSERT_EQ(0, timespec_elapsed(start).tv_sec);
	ASSERT_TRUE(rest_is_shared(g));

	ASSERT_EQ(EAGAIN, gmem_vm_convert(g, 0, POISONED, PRIVATE, &error_page));
	ASSERT_EQ(POISONED - 2, error_page);
	ASSERT_EQ(EAGAIN, gmem_vm_convert(g, POISONED + 1, 4, PRIVATE, &error_page));
	ASSERT_EQ(POISONED + 2, error_page);
	kvm_close(before);
	kvm_close(after);
	ASSERT_EQ(EHWPOISON, gmem_vm_convert(g, 0, NR_PAGES, PRIVATE, &error_page));
	ASSERT_EQ(POISONED, error_page);
}

static void punch(struct gmem_vm *g, int page)
{
	kvm_fallocate(g->fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE,
		      page * PAGE_SIZE, PAGE_SIZE);
}

static void *convert_all(void *arg)
{
	struct gmem_vm *g = arg;
	int error_page, r;

	r = gmem_vm_convert(g, 0, NR_PAGES, PRIVATE, &error_page);
	return (void *)(long)(r == EHWPOISON ? error_page : -r);
}

/* While a page in use is waited for, be that the same one or another. */
TEST_F(poison, strikes_during_a_wait)
{
	const int pinned[] = { POISONED - 2, POISONED };
	struct gmem_vm *g = &self->g;
	pthread_t thread;
	void *result;
	int pin, i;

	if (!gmem_vm_can_pin())
		SKIP(return, "CONFIG_GUP_TEST is not enabled");

	for (i = 0; i < ARRAY_SIZE(pinned); i++) {
		pin = gmem_vm_pin(g, pinned[i], 1);
		ASSERT_LE(0, pin);
		kvm_pthread_create(&thread, NULL, convert_all, g);
		usleep(30000);
		poison(_metadata, g);
		kvm_pthread_join(thread, &result);
		ASSERT_EQ(POISONED, (long)result);
		kvm_close(pin);

		ASSERT_TRUE(rest_is_shared(g));
		punch(g, POISONED);
		hwpoison_unpoison(self->pfn);
		self->pfn = gmem_vm_host_pfn(g, POISONED);
	}
}

TEST_F(poison, a_punched_page_is_fresh)
{
	struct gmem_vm *g = &self->g;
	int error_page;
	u64 *hva;

	poison(_metadata, g);
	ASSERT_EQ(EHWPOISON, gmem_vm_convert(g, 0, NR_PAGES, PRIVATE, &error_page));

	punch(g, POISONED);
	ASSERT_EQ(0, gmem_vm_read(g, POISONED));
	ASSERT_EQ(0x1111, gmem_vm_write(g, POISONED, 0x1111));

	hva = __kvm_mmap(PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, g->fd,
			 POISONED * PAGE_SIZE);
	ASSERT_EQ(0x1111, *hva);
	ASSERT_EQ(0, gmem_vm_convert(g, 0, NR_PAGES, PRIVATE, &error_page));
	ASSERT_EQ(0x1111, gmem_vm_read(g, POISONED));
	ASSERT_EQ(-1, madvise(hva, PAGE_SIZE, MADV_POPULATE_READ));
	kvm_munmap(hva, PAGE_SIZE);

	/* Of the old page, nothing but the poison is left. */
	ASSERT_EQ(0, hwpoison_unpoison(self->pfn));
}

/* Where the page was mapped when the error struck, there is no way back else. */
TEST_F(poison, host_mapping_recovers_with_the_page)
{
	struct gmem_vm *g = &self->g;

	poison(_metadata, g);
	punch(g, POISONED);
	ASSERT_EQ(0, madvise(gmem_vm_hva(g, POISONED), PAGE_SIZE,
			     MADV_POPULATE_WRITE));
	ASSERT_EQ(0, *gmem_vm_hva(g, POISONED));
	ASSERT_NE(self->pfn, gmem_vm_host_pfn(g, POISONED));
}

/* A private page stays private, and can be had back as shared. */
TEST_F(poison, of_a_private_page)
{
	struct gmem_vm *g = &self->g;
	char text[24];
	int error_page;
	u64 value;

	ASSERT_EQ(0, gmem_vm_convert(g, POISONED, 1, PRIVATE, &error_page));
	ASSERT_EQ(0xaaaaaaaaaaaaaaaaull, gmem_vm_read(g, POISONED));

	snprintf(text, sizeof(text), "0x%lx", self->pfn);
	if (gmem_vm_write_file(CORRUPT_FILE, text) == -ENOENT)
		SKIP(return, "CONFIG_HWPOISON_INJECT is not enabled");

	ASSERT_EQ(-1, __gmem_vm_read(g, POISONED, &value));
	ASSERT_EQ(EHWPOISON, errno);

	/* It's not this page that would change state. */
	ASSERT_EQ(0, gmem_vm_convert(g, 0, NR_PAGES, PRIVATE, &error_page));
	ASSERT_EQ(0, gmem_vm_convert(g, 0, NR_PAGES, 0, &error_page));
	ASSERT_TRUE(rest_is_shared(g));
	/* Not mapped when it struck, hence it's the fault that has to tell. */
	ASSERT_EQ(-1, madvise(gmem_vm_hva(g, POISONED), PAGE_SIZE,
			      MADV_POPULATE_READ));
	ASSERT_EQ(EHWPOISON, errno);
	ASSERT_EQ(EHWPOISON, gmem_vm_convert(g, 0, NR_PAGES, PRIVATE, &error_page));
	ASSERT_EQ(POISONED, error_page);

	punch(g, POISONED);
	ASSERT_EQ(0, gmem_vm_convert(g, 0, NR_PAGES, PRIVATE, &error_page));
	ASSERT_EQ(0, gmem_vm_read(g, POISONED));
	ASSERT_EQ(0, gmem_vm_convert(g, POISONED, 1, 0, &error_page));
	ASSERT_EQ(0, *gmem_vm_hva(g, POISONED));
}

TEST_HARNESS_MAIN

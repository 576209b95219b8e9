// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test in-place conversion of guest_memfd memory between shared and private,
 * with KVM_SET_MEMORY_ATTRIBUTES2, on a live guest.
 */
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
#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"
#include "kselftest_harness.h"

#define NR_PAGES	16
#define DATA_SIZE	(NR_PAGES * PAGE_SIZE)

FIXTURE(conversion) {
	struct gmem_vm g;
};

FIXTURE_SETUP(conversion)
{
	const char *reason = gmem_vm_unsupported();

	if (reason)
		SKIP(exit(KSFT_SKIP), "%s", reason);

	gmem_vm_create(&self->g, NR_PAGES);
}

FIXTURE_TEARDOWN(conversion)
{
	gmem_vm_free(&self->g);
}

TEST_F(conversion, contents_survive_in_the_same_page)
{
	struct gmem_vm *g = &self->g;
	u64 pfn = gmem_vm_host_pfn(g, 3);

	ASSERT_NE(0, pfn);
	*gmem_vm_hva(g, 3) = 0x1111;
	ASSERT_EQ(0x1111, gmem_vm_read(g, 3));

	gmem_set_private(g->fd, 3 * PAGE_SIZE, PAGE_SIZE);
	ASSERT_EQ(0x1111, gmem_vm_read(g, 3));
	ASSERT_EQ(0x2222, gmem_vm_write(g, 3, 0x2222));

	gmem_set_shared(g->fd, 3 * PAGE_SIZE, PAGE_SIZE);
	ASSERT_EQ(0x2222, *gmem_vm_hva(g, 3));
	ASSERT_EQ(pfn, gmem_vm_host_pfn(g, 3));
	*gmem_vm_hva(g, 3) = 0x3333;
	ASSERT_EQ(0x3333, gmem_vm_read(g, 3));
}

TEST_F(conversion, host_access_follows_each_page)
{
	struct gmem_vm *g = &self->g;
	int i;

	memset(g->mem, 0xaa, DATA_SIZE);
	gmem_set_private(g->fd, 4 * PAGE_SIZE, 2 * PAGE_SIZE);

	for (i = 0; i < NR_PAGES; i++)
		ASSERT_EQ(i != 4 && i != 5, gmem_vm_host_can_access(g, i));

	TEST_EXPECT_SIGBUS((void)READ_ONCE(*gmem_vm_hva(g, 4)));
	TEST_EXPECT_SIGBUS(WRITE_ONCE(*gmem_vm_hva(g, 5), 0));

	gmem_set_shared(g->fd, 0, DATA_SIZE);
	for (i = 0; i < NR_PAGES; i++) {
		ASSERT_TRUE(gmem_vm_host_can_access(g, i));
		ASSERT_EQ(0xaaaaaaaaaaaaaaaaul, *gmem_vm_hva(g, i));
	}
}

TEST_F(conversion, untouched_memory_is_zero)
{
	struct gmem_vm *g = &self->g;

	gmem_set_private(g->fd, 0, 2 * PAGE_SIZE);
	ASSERT_EQ(0, gmem_vm_read(g, 0));
	ASSERT_EQ(0, gmem_vm_read(g, 2));

	gmem_set_shared(g->fd, 0, 2 * PAGE_SIZE);
	ASSERT_EQ(0, *gmem_vm_hva(g, 0));
	ASSERT_EQ(0, *gmem_vm_hva(g, 1));
}

TEST_F(conversion, punch_hole_keeps_the_attribute)
{
	struct gmem_vm *g = &self->g;

	gmem_set_private(g->fd, 0, PAGE_SIZE);
	gmem_vm_write(g, 0, 0x1111);
	*gmem_vm_hva(g, 1) = 0x2222;
	ASSERT_EQ(0x2222, gmem_vm_read(g, 1));

	kvm_fallocate(g->fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, 0,
		      DATA_SIZE);
	ASSERT_FALSE(gmem_vm_host_can_access(g, 0));
	ASSERT_EQ(0, gmem_vm_read(g, 0));
	ASSERT_EQ(0, *gmem_vm_hva(g, 1));
	ASSERT_EQ(0, gmem_vm_read(g, 1));

	kvm_fallocate(g->fd, FALLOC_FL_KEEP_SIZE, 0, DATA_SIZE);
	ASSERT_FALSE(gmem_vm_host_can_access(g, 0));
	ASSERT_TRUE(gmem_vm_host_can_access(g, 1));
	ASSERT_EQ(0, gmem_vm_read(g, 0));
	ASSERT_EQ(0, *gmem_vm_hva(g, 1));

	/* Nor does it matter who is to be the first to see the new page. */
	kvm_fallocate(g->fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, 0,
		      DATA_SIZE);
	gmem_set_shared(g->fd, 0, PAGE_SIZE);
	ASSERT_EQ(0, *gmem_vm_hva(g, 0));
}

/* A page in use is named, the rest of the range is left as it was. */
TEST_F(conversion, pinned_page_is_busy)
{
	struct gmem_vm *g = &self->g;
	u64 error_offset = 0;
	int pin, i;

	if (!gmem_vm_can_pin())
		SKIP(return, "CONFIG_GUP_TEST is not enabled");

	memset(g->mem, 0xaa, DATA_SIZE);
	pin = gmem_vm_pin(g, 5, 1);
	ASSERT_LE(0, pin);

	for (i = 0; i < 2; i++) {
		ASSERT_EQ(-1, __gmem_set_attributes(g->fd, 2 * PAGE_SIZE,
						    8 * PAGE_SIZE,
						    KVM_MEMORY_ATTRIBUTE_PRIVATE,
						    &error_offset));
		ASSERT_EQ(EAGAIN, errno);
		ASSERT_EQ(5 * PAGE_SIZE, error_offset);
	}

	for (i = 0; i < NR_PAGES; i++)
		ASSERT_TRUE(gmem_vm_host_can_access(g, i));
	ASSERT_EQ(0x1111, gmem_vm_write(g, 4, 0x1111));

	/* Not in the range, not in the way. */
	gmem_set_private(g->fd, 6 * PAGE_SIZE, PAGE_SIZE);
	gmem_set_private(g->fd, 4 * PAGE_SIZE, PAGE_SIZE);
	ASSERT_EQ(0x1111, gmem_vm_read(g, 4));

	kvm_close(pin);
	gmem_set_private(g->fd, 2 * PAGE_SIZE, 8 * PAGE_SIZE);

	for (i = 0; i < NR_PAGES; i++)
		ASSERT_EQ(i < 2 || i >= 10, gmem_vm_host_can_access(g, i));
}

TEST_F(conversion, private_page_cannot_be_pinned)
{
	struct gmem_vm *g = &self->g;
	int pin;

	if (!gmem_vm_can_pin())
		SKIP(return, "CONFIG_GUP_TEST is not enabled");

	*gmem_vm_hva(g, 0) = 0x1111;
	gmem_set_private(g->fd, 0, PAGE_SIZE);
	ASSERT_GT(0, gmem_vm_pin(g, 0, 1));

	gmem_set_shared(g->fd, 0, PAGE_SIZE);
	pin = gmem_vm_pin(g, 0, 1);
	ASSERT_LE(0, pin);
	kvm_close(pin);
}

/*
 * What the guest has mapped goes, either way, and however many pages, ranges of
 * pages and memslots that is: once for all of them.
 */
TEST_F(conversion, zaps_and_flushes_once)
{
	struct gmem_vm *g = &self->g;
	u64 attributes, flushes, faults;
	int i, page, nr_changed;

	vm_set_user_memory_region2(g->vm, GMEM_VM_SLOT, KVM_MEM_GUEST_MEMFD,
				   GMEM_VM_GPA, 0, NULL, g->fd, 0);
	for (i = 0; i < 2; i++)
		vm_set_user_memory_region2(g->vm, GMEM_VM_SLOT + i,
					   KVM_MEM_GUEST_MEMFD,
					   GMEM_VM_GPA + i * DATA_SIZE / 2,
					   DATA_SIZE / 2, g->mem, g->fd,
					   i * DATA_SIZE / 2);

	for (i = 0; i < 4; i++) {
		attributes = i & 1 ? 0 : KVM_MEMORY_ATTRIBUTE_PRIVATE;
		nr_changed = NR_PAGES;
		for (page = 1; page < NR_PAGES; page += 3) {
			gmem_set_attributes(g->fd, page * PAGE_SIZE, PAGE_SIZE,
					    attributes);
			nr_changed--;
		}
		for (page = 0; page < NR_PAGES; page++)
			gmem_vm_read(g, page);

		flushes = vm_get_stat(g->vm, remote_tlb_flush_requests);
		gmem_set_attributes(g->fd, 0, DATA_SIZE, attributes);
		ASSERT_EQ(flushes + 1, vm_get_stat(g->vm, remote_tlb_flush_requests));

		faults = vcpu_get_stat(g->vcpu, pf_taken);
		for (page = 0; page < NR_PAGES; page++)
			gmem_vm_read(g, page);
		ASSERT_LE(faults + nr_changed, vcpu_get_stat(g->vcpu, pf_taken));
	}
}

/* What the range has around the pages that change stays mapped in the guest. */
TEST_F(conversion, spares_what_does_not_change)
{
	struct gmem_vm *g = &self->g;
	const int first = 2, nr = 3;
	u64 attributes, faults;
	int i, page;

	for (i = 0; i < 2; i++) {
		attributes = i ? 0 : KVM_MEMORY_ATTRIBUTE_PRIVATE;
		gmem_set_attributes(g->fd, 0, DATA_SIZE, attributes);
		gmem_set_attributes(g->fd, first * PAGE_SIZE, nr * PAGE_SIZE,
				    attributes ^ KVM_MEMORY_ATTRIBUTE_PRIVATE);
		for (page = 0; page < NR_PAGES; page++)
			gmem_vm_read(g, page);

		faults = vcpu_get_stat(g->vcpu, pf_taken);
		gmem_set_attributes(g->fd, 0, DATA_SIZE, attributes);

		for (page = 0; page < NR_PAGES; page++) {
			if (page < first || page >= first + nr)
				gmem_vm_read(g, page);
		}
		ASSERT_EQ(faults, vcpu_get_stat(g->vcpu, pf_taken));

		for (page = first; page < first + nr; page++)
			gmem_vm_read(g, page);
		ASSERT_LE(faults + nr, vcpu_get_stat(g->vcpu, pf_taken));
	}
}

static struct {
	sigjmp_buf sigbus;
	u64 *hva;
	bool stop;
	u64 nr_written;
} writer;

static void writer_sigbus(int sig)
{
	siglongjmp(writer.sigbus, 1);
}

/* Goes on with a translation that it has, for as long as that works. */
static void *write_until_stopped(void *arg)
{
	sigsetjmp(writer.sigbus, 1);

	while (!READ_ONCE(writer.stop)) {
		WRITE_ONCE(*writer.hva, writer.nr_written);
		WRITE_ONCE(writer.nr_written, writer.nr_written + 1);
	}
	return NULL;
}

/* When the call returns, no CPU can write to the page any more. */
TEST_F(conversion, host_is_out_once_private)
{
	struct sigaction sa = { .sa_handler = writer_sigbus };
	struct gmem_vm *g = &self->g;
	pthread_t thread;
	u64 value, last;
	int round, i;

	sigaction(SIGBUS, &sa, NULL);
	writer.hva = gmem_vm_hva(g, 3);
	kvm_pthread_create(&thread, NULL, write_until_stopped, NULL);

	for (round = 0; round < 100; round++) {
		last = READ_ONCE(writer.nr_written);
		for (i = 0; i < 10000 && READ_ONCE(writer.nr_written) < last + 10; i++)
			usleep(100);
		ASSERT_LT(last, READ_ONCE(writer.nr_written));

		gmem_set_private(g->fd, 2 * PAGE_SIZE, 3 * PAGE_SIZE);
		value = gmem_vm_read(g, 3);
		usleep(1000);
		ASSERT_EQ(value, gmem_vm_read(g, 3));
		gmem_set_shared(g->fd, 3 * PAGE_SIZE, PAGE_SIZE);
	}
	WRITE_ONCE(writer.stop, true);
	kvm_pthread_join(thread, NULL);
}

/* What is mapped ahead of time is what the page is by then. */
TEST_F(conversion, pre_fault_follows_each_page)
{
	struct gmem_vm *g = &self->g;
	struct kvm_pre_fault_memory range;
	u64 faults;
	int i, page;

	if (!vm_check_cap(g->vm, KVM_CAP_PRE_FAULT_MEMORY))
		SKIP(return, "no KVM_CAP_PRE_FAULT_MEMORY");

	for (page = 0; page < NR_PAGES; page++)
		*gmem_vm_hva(g, page) = 0x100 + page;
	/* The guest's own page tables and code are not what is counted below. */
	gmem_vm_read(g, 0);

	for (i = 0; i < 3; i++) {
		gmem_set_private(g->fd, (4 + i) * PAGE_SIZE, 6 * PAGE_SIZE);
		range = (struct kvm_pre_fault_memory) {
			.gpa = GMEM_VM_GPA,
			.size = DATA_SIZE,
		};
		while (range.size)
			vcpu_ioctl(g->vcpu, KVM_PRE_FAULT_MEMORY, &range);

		faults = vcpu_get_stat(g->vcpu, pf_taken);
		for (page = 0; page < NR_PAGES; page++)
			ASSERT_EQ(0x100 + page, gmem_vm_read(g, page));
		ASSERT_EQ(faults, vcpu_get_stat(g->vcpu, pf_taken));
		gmem_set_shared(g->fd, 5 * PAGE_SIZE, 3 * PAGE_SIZE);
	}
}

/* Each page is fresh, i.e. an LRU cache holds a reference, when it flips. */
TEST_F(conversion, fresh_pages_are_not_busy)
{
	struct gmem_vm *g = &self->g;
	int round, i;

	for (round = 0; round < 64; round++) {
		kvm_fallocate(g->fd,
			      FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, 0,
			      DATA_SIZE);

		for (i = 0; i < NR_PAGES; i++) {
			*gmem_vm_hva(g, i) = round;
			gmem_set_private(g->fd, i * PAGE_SIZE, PAGE_SIZE);
			ASSERT_EQ(round, gmem_vm_read(g, i));
		}
		gmem_set_shared(g->fd, 0, DATA_SIZE);
	}
}

/* Sparse and bound nowhere: the size of the range must not matter. */
TEST_F(conversion, huge_unbound_file)
{
	struct gmem_vm *g = &self->g;
	const u64 size = 1ull << 46;
	struct timespec start;
	int fd, i;

	fd = vm_create_guest_memfd(g->vm, size, 0);

	clock_gettime(CLOCK_MONOTONIC, &start);
	for (i = 0; i < 100; i++) {
		gmem_set_shared(fd, 0, size);
		gmem_set_private(fd, PAGE_SIZE, size - PAGE_SIZE);
		gmem_set_private(fd, 0, size);
	}
	ASSERT_GT(10, timespec_elapsed(start).tv_sec);
	close(fd);
}

/* What the guest does to its own memory, through the VMM. */
TEST_F(conversion, slots_at_an_offset)
{
	struct gmem_vm *g = &self->g;

	/* Two slots on one file, in an order of their own. */
	vm_set_user_memory_region2(g->vm, GMEM_VM_SLOT, KVM_MEM_GUEST_MEMFD,
				   GMEM_VM_GPA, 0, NULL, g->fd, 0);
	vm_set_user_memory_region2(g->vm, GMEM_VM_SLOT, KVM_MEM_GUEST_MEMFD,
				   GMEM_VM_GPA, DATA_SIZE / 2, g->mem, g->fd,
				   DATA_SIZE / 2);
	vm_set_user_memory_region2(g->vm, GMEM_VM_SLOT + 1, KVM_MEM_GUEST_MEMFD,
				   GMEM_VM_GPA + DATA_SIZE / 2, DATA_SIZE / 2,
				   g->mem, g->fd, 0);

	*gmem_vm_hva(g, 0) = 0x1111;
	*gmem_vm_hva(g, 8) = 0x2222;
	ASSERT_EQ(0x2222, gmem_vm_read(g, 0));
	ASSERT_EQ(0x1111, gmem_vm_read(g, 8));

	gmem_set_private(g->fd, 7 * PAGE_SIZE, 2 * PAGE_SIZE);
	ASSERT_EQ(0x2222, gmem_vm_read(g, 0));
	ASSERT_EQ(0x3333, gmem_vm_write(g, 15, 0x3333));
	ASSERT_EQ(0x4444, gmem_vm_write(g, 14, 0x4444));

	ASSERT_FALSE(gmem_vm_host_can_access(g, 8));
	ASSERT_EQ(0x4444, *gmem_vm_hva(g, 6));
	gmem_set_shared(g->fd, 0, DATA_SIZE);
	ASSERT_EQ(0x3333, *gmem_vm_hva(g, 7));
}

TEST_HARNESS_MAIN

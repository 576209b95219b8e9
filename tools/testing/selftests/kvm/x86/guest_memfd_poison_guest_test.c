// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test that poisoned pages of a guest_memfd are kept from the guest, private and
 * shared ones alike, and that a VMM can replace them.
 */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include <linux/kernel-page-flags.h>

#include "gmem_vm.h"
#include "hwpoison.h"
#include "kvm_util.h"
#include "poison_vm.h"
#include "processor.h"
#include "test_util.h"
#include "kselftest_harness.h"

FIXTURE(poison) {
	struct poison_vm p;
};

FIXTURE_VARIANT(poison) {
	unsigned long type;
	bool private;
};

FIXTURE_VARIANT_ADD(poison, private_memory) {
	.type = KVM_X86_SW_PROTECTED_VM,
	.private = true,
};

FIXTURE_VARIANT_ADD(poison, shared_memory) {
	.type = KVM_X86_SW_PROTECTED_VM,
};

FIXTURE_VARIANT_ADD(poison, default_vm) {
	.type = VM_TYPE_DEFAULT,
};

FIXTURE_SETUP(poison)
{
	bool in_place = kvm_check_cap(KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES) &
			KVM_MEMORY_ATTRIBUTE_PRIVATE;
	u64 flags = GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED;
	struct poison_vm *p = &self->p;
	const char *reason = hwpoison_unsupported();

	if (!reason && !hwpoison_can_alloc_gmem_page())
		reason = "no tracepoint to tell the pfn of private memory";

	if (!reason && !(kvm_check_cap(KVM_CAP_VM_TYPES) & BIT(variant->type)))
		reason = "no software-protected VMs (they need nested paging)";

	if (!reason && variant->type == KVM_X86_SW_PROTECTED_VM &&
	    !variant->private && !in_place)
		reason = "shared memory is not guest_memfd's without in-place conversion";

	if (reason)
		SKIP(exit(KSFT_SKIP), "%s", reason);

	poison_vm_create(p, variant->type,
			 variant->private && !in_place ? 0 : flags);
	if (variant->private && in_place)
		gmem_set_private(p->g.fd, 0, POISON_VM_SIZE);
	else if (variant->private)
		vm_mem_set_private(p->g.vm, GMEM_VM_GPA, POISON_VM_SIZE);
}

FIXTURE_TEARDOWN(poison)
{
	poison_vm_free(&self->p);
}

TEST_F(poison, leaves_the_guest)
{
	struct poison_vm *p = &self->p;
	u64 pfn = poison_vm_alloc(p, 3);
	u64 value = 0;

	/* Before the error, nothing keeps the guest away. */
	ASSERT_EQ(0x2222, gmem_vm_write(&p->g, 2, 0x2222));
	ASSERT_EQ(0x3333, gmem_vm_write(&p->g, 3, 0x3333));
	ASSERT_EQ(0x4444, gmem_vm_write(&p->g, 4, 0x4444));
	ASSERT_EQ(0, __gmem_vm_read(&p->g, 3, &value));
	ASSERT_EQ(0x3333, value);

	EXPECT_EQ(0, poison_vm_strike(p, pfn));
	EXPECT_EQ(p->lost + PAGE_SIZE, hwpoison_lost_memory());
	ASSERT_TRUE(poison_vm_refuses(p, 3, variant->private));
	ASSERT_TRUE(poison_vm_refuses(p, 3, variant->private));

	ASSERT_EQ(0x2222, gmem_vm_read(&p->g, 2));
	ASSERT_EQ(0x4444, gmem_vm_read(&p->g, 4));
	ASSERT_EQ(0x5555, gmem_vm_write(&p->g, 5, 0x5555));
	ASSERT_EQ(0x2020, gmem_vm_write(&p->g, 2, 0x2020));
}

/* What keeps the guest away is the page, not what KVM remembers. */
TEST_F(poison, is_found_by_first_touch)
{
	struct poison_vm *p = &self->p;

	EXPECT_EQ(0, poison_vm_strike(p, poison_vm_alloc(p, 0)));
	ASSERT_TRUE(poison_vm_refuses(p, 0, variant->private));

	vm_set_user_memory_region2(p->g.vm, GMEM_VM_SLOT, KVM_MEM_GUEST_MEMFD,
				   GMEM_VM_GPA, 0, NULL, p->g.fd, 0);
	vm_set_user_memory_region2(p->g.vm, GMEM_VM_SLOT, KVM_MEM_GUEST_MEMFD,
				   GMEM_VM_GPA, POISON_VM_SIZE, p->g.mem, p->g.fd, 0);
	ASSERT_TRUE(poison_vm_refuses(p, 0, variant->private));
	ASSERT_EQ(0x1111, gmem_vm_write(&p->g, 1, 0x1111));
}

TEST_F(poison, punch_hole_is_the_way_back)
{
	struct poison_vm *p = &self->p;
	u64 pfn = poison_vm_alloc(p, 3);

	if (!variant->private)
		*gmem_vm_hva(&p->g, 3) = 0x1111;
	ASSERT_EQ(0x1111, gmem_vm_write(&p->g, 3, 0x1111));

	EXPECT_EQ(0, poison_vm_strike(p, pfn));
	ASSERT_TRUE(poison_vm_refuses(p, 3, variant->private));
	if (!variant->private)
		TEST_EXPECT_SIGBUS((void)READ_ONCE(*gmem_vm_hva(&p->g, 3)));

	/* Until now the file has kept the page, and everybody away from it. */
	poison_vm_punch_hole(p, 3, 1);
	ASSERT_EQ(0, gmem_vm_read(&p->g, 3));
	ASSERT_EQ(0x2222, gmem_vm_write(&p->g, 3, 0x2222));
	if (!variant->private) {
		ASSERT_EQ(0x2222, *gmem_vm_hva(&p->g, 3));
		ASSERT_NE(pfn, gmem_vm_host_pfn(&p->g, 3));
	}

	ASSERT_TRUE(hwpoison_page_flags(pfn) & BIT_ULL(KPF_HWPOISON));
	ASSERT_EQ(0, hwpoison_unpoison(pfn));
	ASSERT_FALSE(hwpoison_page_flags(pfn) & BIT_ULL(KPF_HWPOISON));
	ASSERT_EQ(p->lost, hwpoison_lost_memory());
	p->nr_pfns = 0;
}

/*
 * Freed pages go to a CPU's list first, from where they are taken back when
 * the next page of the same zone is unpoisoned: that is for most of them.
 */
TEST_F(poison, pages_return_to_the_allocator)
{
	struct poison_vm *p = &self->p;
	int i, nr_failed = 0, nr_free = 0;

	for (i = 0; i < POISON_VM_PAGES; i++) {
		nr_failed += !!poison_vm_strike(p, poison_vm_alloc(p, i));
		ASSERT_TRUE(poison_vm_refuses(p, i, variant->private));
	}
	EXPECT_EQ(0, nr_failed);
	ASSERT_EQ(p->lost + POISON_VM_SIZE, hwpoison_lost_memory());

	poison_vm_punch_hole(p, 0, POISON_VM_PAGES);
	ASSERT_EQ(0, poison_vm_unpoison(p));
	for (i = 0; i < POISON_VM_PAGES; i++)
		nr_free += !!(hwpoison_page_flags(p->pfns[i]) & BIT_ULL(KPF_BUDDY));
	ASSERT_LE(POISON_VM_PAGES / 2, nr_free);
}

static void *guest_reads_once(void *arg)
{
	struct racer *racer = arg;
	u64 value = 0;

	racer_ready(racer);
	racer->r = __gmem_vm_read(&racer->p->g, racer->page, &value);
	racer->err = errno;
	return NULL;
}

TEST_F_TIMEOUT(poison, strikes_a_fault_in_flight, 180)
{
	struct poison_vm *p = &self->p;
	struct racer racer = { .p = p };
	int i, nr_refused = 0;
	u64 pfn;

	for (i = 0; i < POISON_VM_RACES; i++) {
		racer.page = i % POISON_VM_PAGES;
		poison_vm_punch_hole(p, racer.page, 1);
		pfn = poison_vm_alloc(p, racer.page);

		racer_start(&racer, guest_reads_once);
		usleep(i * 15);
		ASSERT_TRUE(poison_vm_strike_in_race(p, pfn));
		racer_join(&racer);

		if (racer.r) {
			ASSERT_TRUE(poison_vm_is_exit(p, racer.page,
						      variant->private,
						      racer.r, racer.err));
			nr_refused++;
		}
		ASSERT_TRUE(poison_vm_refuses(p, racer.page, variant->private));
	}
	TH_LOG("%d of %d accesses came too late, %d pages were busy",
	       nr_refused, i, p->nr_busy);
	ASSERT_GT(POISON_VM_RACES / 12, p->nr_busy);
}

static void *guest_reads_on(void *arg)
{
	struct racer *racer = arg;
	u64 value = 0;

	racer_ready(racer);
	while (!racer->r) {
		racer->r = __gmem_vm_read(&racer->p->g, racer->page, &value);
		racer->err = errno;
		WRITE_ONCE(racer->nr_done, racer->nr_done + 1);
	}
	return NULL;
}

/*
 * Its mapping goes away in the middle of memory_failure(), which has to find no
 * more users than before when it looks for them a moment later.
 */
TEST_F_TIMEOUT(poison, strikes_a_page_that_is_being_read, 180)
{
	struct poison_vm *p = &self->p;
	struct racer racer = { .p = p };
	u64 pfn;
	int i;

	for (i = 0; i < POISON_VM_RACES; i++) {
		racer.page = i % POISON_VM_PAGES;
		poison_vm_punch_hole(p, racer.page, 1);
		pfn = poison_vm_alloc(p, racer.page);

		racer_start(&racer, guest_reads_on);
		while (READ_ONCE(racer.nr_done) < 3)
			usleep(100);
		ASSERT_TRUE(poison_vm_strike_in_race(p, pfn));
		racer_join(&racer);

		ASSERT_TRUE(poison_vm_is_exit(p, racer.page, variant->private,
					      racer.r, racer.err));
	}
	TH_LOG("%d of %d pages were busy", p->nr_busy, i);
	ASSERT_GT(POISON_VM_RACES / 8, p->nr_busy);
}

TEST_HARNESS_MAIN

// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test in-place conversion of memory with poisoned pages: errors that strike
 * before, after and during a conversion.
 */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "gmem_vm.h"
#include "hwpoison.h"
#include "kvm_util.h"
#include "poison_vm.h"
#include "processor.h"
#include "test_util.h"
#include "kselftest_harness.h"

FIXTURE(poison_conversion) {
	struct poison_vm p;
};

FIXTURE_SETUP(poison_conversion)
{
	const char *reason = gmem_vm_unsupported() ?: hwpoison_unsupported();

	if (reason)
		SKIP(exit(KSFT_SKIP), "%s", reason);

	poison_vm_create(&self->p, KVM_X86_SW_PROTECTED_VM,
			 GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED);
}

FIXTURE_TEARDOWN(poison_conversion)
{
	poison_vm_free(&self->p);
}

/* Returns the page that stood in the way, or -1 if it is not poison. */
static int make_private(struct poison_vm *p, int page, int nr_pages)
{
	u64 error_offset = -1;
	int r = __gmem_set_attributes(p->g.fd, page * PAGE_SIZE,
				      nr_pages * PAGE_SIZE,
				      KVM_MEMORY_ATTRIBUTE_PRIVATE, &error_offset);

	return r && errno == EHWPOISON ? error_offset / PAGE_SIZE : -1;
}

TEST_F(poison_conversion, poisoned_page_stays_shared)
{
	static const int bad_pages[] = { 4, 7, 11 };	/* of 4 to 11 */
	struct poison_vm *p = &self->p;
	int i, j, bad;

	for (i = 0; i < ARRAY_SIZE(bad_pages); i++) {
		bad = bad_pages[i];
		for (j = 0; j < POISON_VM_PAGES; j++)
			ASSERT_EQ(j + 1, gmem_vm_write(&p->g, j, j + 1));

		EXPECT_EQ(0, poison_vm_strike(p, gmem_vm_host_pfn(&p->g, bad)));
		for (j = 0; j < 3; j++)
			ASSERT_EQ(bad, make_private(p, 4, 8));

		for (j = 0; j < POISON_VM_PAGES; j++) {
			if (j == bad)
				continue;
			ASSERT_EQ(j + 1, *gmem_vm_hva(&p->g, j));
			ASSERT_EQ(j + 1, gmem_vm_read(&p->g, j));
		}
		TEST_EXPECT_SIGBUS((void)READ_ONCE(*gmem_vm_hva(&p->g, bad)));
		ASSERT_TRUE(poison_vm_refuses(p, bad, false));

		/* It is there that it stood in the way, and nowhere else. */
		if (bad > 4)
			gmem_set_private(p->g.fd, 4 * PAGE_SIZE, (bad - 4) * PAGE_SIZE);
		if (bad < 11)
			gmem_set_private(p->g.fd, (bad + 1) * PAGE_SIZE,
					 (11 - bad) * PAGE_SIZE);
		ASSERT_EQ(bad, make_private(p, 0, POISON_VM_PAGES));
		gmem_set_shared(p->g.fd, 0, POISON_VM_SIZE);

		poison_vm_punch_hole(p, bad, 1);
		gmem_set_private(p->g.fd, 4 * PAGE_SIZE, 8 * PAGE_SIZE);
		ASSERT_EQ(0, gmem_vm_read(&p->g, bad));
		gmem_set_shared(p->g.fd, 4 * PAGE_SIZE, 8 * PAGE_SIZE);
		ASSERT_EQ(0, *gmem_vm_hva(&p->g, bad));
	}
}

TEST_F(poison_conversion, first_of_two_is_named)
{
	struct poison_vm *p = &self->p;

	EXPECT_EQ(0, poison_vm_strike(p, gmem_vm_host_pfn(&p->g, 9)));
	EXPECT_EQ(0, poison_vm_strike(p, gmem_vm_host_pfn(&p->g, 5)));
	ASSERT_EQ(5, make_private(p, 0, POISON_VM_PAGES));
	ASSERT_EQ(9, make_private(p, 6, 10));

	/* A request that changes nothing has nothing to complain of. */
	gmem_set_shared(p->g.fd, 0, POISON_VM_SIZE);
}

TEST_F(poison_conversion, poisoned_page_becomes_shared)
{
	struct poison_vm *p = &self->p;
	u64 pfn = gmem_vm_host_pfn(&p->g, 3);

	*gmem_vm_hva(&p->g, 2) = 0x2222;
	*gmem_vm_hva(&p->g, 3) = 0x3333;
	gmem_set_private(p->g.fd, 2 * PAGE_SIZE, 2 * PAGE_SIZE);
	ASSERT_EQ(0x3333, gmem_vm_read(&p->g, 3));

	EXPECT_EQ(0, poison_vm_strike(p, pfn));
	ASSERT_TRUE(poison_vm_refuses(p, 3, true));
	gmem_set_private(p->g.fd, 2 * PAGE_SIZE, 2 * PAGE_SIZE);
	TEST_EXPECT_SIGBUS((void)READ_ONCE(*gmem_vm_hva(&p->g, 3)));

	gmem_set_shared(p->g.fd, 2 * PAGE_SIZE, 2 * PAGE_SIZE);
	TEST_EXPECT_SIGBUS((void)READ_ONCE(*gmem_vm_hva(&p->g, 3)));
	TEST_EXPECT_SIGBUS(WRITE_ONCE(*gmem_vm_hva(&p->g, 3), 1));
	ASSERT_TRUE(poison_vm_refuses(p, 3, false));
	ASSERT_EQ(0x2222, *gmem_vm_hva(&p->g, 2));
	ASSERT_EQ(3, make_private(p, 2, 2));

	poison_vm_punch_hole(p, 3, 1);
	ASSERT_EQ(0, *gmem_vm_hva(&p->g, 3));
	*gmem_vm_hva(&p->g, 3) = 0x4444;
	gmem_set_private(p->g.fd, 2 * PAGE_SIZE, 2 * PAGE_SIZE);
	ASSERT_EQ(0x4444, gmem_vm_read(&p->g, 3));
	ASSERT_EQ(0x2222, gmem_vm_read(&p->g, 2));
}

/* The exit tells the state of the page, which is not where its gfn is. */
TEST_F(poison_conversion, exit_tells_the_state_of_the_page)
{
	const int half = POISON_VM_PAGES / 2;
	struct poison_vm *p = &self->p;
	u64 pfn = gmem_vm_host_pfn(&p->g, half + 1);

	vm_set_user_memory_region2(p->g.vm, GMEM_VM_SLOT, KVM_MEM_GUEST_MEMFD,
				   GMEM_VM_GPA, 0, NULL, p->g.fd, 0);
	vm_set_user_memory_region2(p->g.vm, GMEM_VM_SLOT, KVM_MEM_GUEST_MEMFD,
				   GMEM_VM_GPA, half * PAGE_SIZE, p->g.mem,
				   p->g.fd, half * PAGE_SIZE);

	gmem_set_private(p->g.fd, (half + 1) * PAGE_SIZE, PAGE_SIZE);
	EXPECT_EQ(0, poison_vm_strike(p, pfn));
	ASSERT_TRUE(poison_vm_refuses(p, 1, true));

	gmem_set_shared(p->g.fd, (half + 1) * PAGE_SIZE, PAGE_SIZE);
	gmem_set_private(p->g.fd, PAGE_SIZE, PAGE_SIZE);
	ASSERT_TRUE(poison_vm_refuses(p, 1, false));

	vm_set_user_memory_region2(p->g.vm, GMEM_VM_SLOT, KVM_MEM_GUEST_MEMFD,
				   GMEM_VM_GPA, 0, NULL, p->g.fd, 0);
	vm_set_user_memory_region2(p->g.vm, GMEM_VM_SLOT, KVM_MEM_GUEST_MEMFD,
				   GMEM_VM_GPA, POISON_VM_SIZE, p->g.mem, p->g.fd, 0);
}

/* To private and back, until poison stands in the way. */
static void *convert_until_stopped(void *arg)
{
	struct racer *racer = arg;
	struct poison_vm *p = racer->p;
	u64 error_offset;

	racer_ready(racer);
	while (!READ_ONCE(racer->stop)) {
		error_offset = -1;
		racer->r = __gmem_set_attributes(p->g.fd, 0, POISON_VM_SIZE,
						 KVM_MEMORY_ATTRIBUTE_PRIVATE,
						 &error_offset);
		racer->err = errno;
		racer->page = error_offset / PAGE_SIZE;
		if (racer->r)
			break;

		gmem_set_shared(p->g.fd, 0, POISON_VM_SIZE);
		racer->nr_done++;
	}
	return NULL;
}

static void *guest_reads_until_stopped(void *arg)
{
	struct racer *racer = arg;
	u64 value = 0;

	racer_ready(racer);
	while (!READ_ONCE(racer->stop)) {
		racer->r = __gmem_vm_read(&racer->p->g, racer->nr_done % POISON_VM_PAGES,
					  &value);
		racer->err = errno;
		if (racer->r && racer->err != EHWPOISON)
			break;
		racer->nr_done++;
	}
	return NULL;
}

TEST_F_TIMEOUT(poison_conversion, strikes_during_conversions, 180)
{
	struct poison_vm *p = &self->p;
	struct racer converter = { .p = p }, guest = { .p = p };
	int i, j, bad, nr_conversions = 0;
	u64 pfn;

	for (i = 0; i < POISON_VM_RACES; i++) {
		bad = i % POISON_VM_PAGES;
		poison_vm_punch_hole(p, 0, POISON_VM_PAGES);
		for (j = 0; j < POISON_VM_PAGES; j++)
			*gmem_vm_hva(&p->g, j) = j;
		pfn = gmem_vm_host_pfn(&p->g, bad);

		racer_start(&converter, convert_until_stopped);
		racer_start(&guest, guest_reads_until_stopped);
		usleep(i * 100);
		ASSERT_TRUE(poison_vm_strike_in_race(p, pfn));
		usleep(1000);
		racer_join(&guest);
		racer_join(&converter);

		ASSERT_TRUE(!guest.r || guest.err == EHWPOISON) {
			TH_LOG("KVM_RUN failed, errno %d", guest.err);
		}
		ASSERT_TRUE(!converter.r || converter.err == EHWPOISON) {
			TH_LOG("Conversion failed, errno %d", converter.err);
		}
		if (converter.r)
			ASSERT_EQ(bad, converter.page);
		nr_conversions += converter.nr_done;

		/* Private when it struck: nothing wrong with sharing it. */
		gmem_set_shared(p->g.fd, 0, POISON_VM_SIZE);
		ASSERT_EQ(bad, make_private(p, 0, POISON_VM_PAGES));
		TEST_EXPECT_SIGBUS((void)READ_ONCE(*gmem_vm_hva(&p->g, bad)));
		for (j = 0; j < POISON_VM_PAGES; j++) {
			if (j != bad)
				ASSERT_EQ(j, *gmem_vm_hva(&p->g, j));
		}
	}
	TH_LOG("%d conversions, %d pages were busy", nr_conversions, p->nr_busy);
	ASSERT_GT(POISON_VM_RACES / 2, p->nr_busy);
}

TEST_HARNESS_MAIN

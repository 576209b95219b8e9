// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test that guests can't access poisoned pages of a guest_memfd, whether
 * private or shared, and that a VMM can replace them.  Test shared memory in
 * ordinary VMs; for software-protected VMs, see guest_memfd_poison_test.c.
 */
#include <linux/kernel-page-flags.h>

#include "gmem_test.h"

#define NR_PAGES	16
#define NR_RACES	40

FIXTURE(poison) {
	u64 lost;
};

FIXTURE_VARIANT(poison) {
	bool private;
};

FIXTURE_VARIANT_ADD(poison, shared) { .private = false };
FIXTURE_VARIANT_ADD(poison, private) { .private = true };

FIXTURE_SETUP(poison)
{
	unsigned long type = variant->private ? KVM_X86_SW_PROTECTED_VM : KVM_X86_DEFAULT_VM;

	if (!(kvm_check_cap(KVM_CAP_VM_TYPES) & BIT(type)))
		SKIP(return, "no software-protected VMs");

	self->lost = gmem_poison_begin();
	__gmem_vm_create(g, type, variant->private ? 0 : GUEST_MEMFD_FLAG_MMAP |
			 GUEST_MEMFD_FLAG_INIT_SHARED, NR_PAGES);
	/* Without in-place conversion, all memory starts out shared. */
	if (variant->private && gmem_vm_unsupported())
		vm_set_memory_attributes(g->vm, GMEM_GPA, DATA_SIZE, PRIVATE);
}

FIXTURE_TEARDOWN(poison)
{
	gmem_poison_end(self->lost);
	gmem_vm_free(g);
}

static u64 alloc_page(int page)
{
	return hwpoison_alloc_gmem_page(g->fd, page * PAGE_SIZE);
}

TEST_F(poison, mapped_page)
{
	u64 pfn = alloc_page(3);

	gmem_fill(g, 2, 3);
	ASSERT_EQ(0, hwpoison_inject(pfn));
	ASSERT_TRUE(gmem_refuses(g, 3, variant->private));

	/* The page itself blocks the guest, not any state in KVM. */
	gmem_set_slot(g, GMEM_SLOT, 0, 0, 0);
	gmem_set_slot(g, GMEM_SLOT, 0, NR_PAGES, 0);
	ASSERT_TRUE(gmem_refuses(g, 3, variant->private));

	gmem_check(g, 2, 1);
	gmem_check(g, 4, 1);
	gmem_fill(g, 5, 1);

	/* A new page takes its place. */
	gmem_punch_hole(g, 3, 1);
	gmem_fill(g, 3, 1);
}

/*
 * Unpoisoned pages go to a per-CPU list, which is drained when the next page of
 * the zone is unpoisoned.  So expect most pages, if not all, to be free.
 */
TEST_F_TIMEOUT(poison, unpoisoned_pages, 120)
{
	int i, nr_free = 0;
	u64 pfns[NR_PAGES];

	for (i = 0; i < NR_PAGES; i++) {
		pfns[i] = alloc_page(i);
		ASSERT_EQ(0, hwpoison_inject(pfns[i]));
		ASSERT_TRUE(gmem_refuses(g, i, variant->private));
	}

	gmem_punch_hole(g, 0, NR_PAGES);
	ASSERT_EQ(0, hwpoison_unpoison_all());
	for (i = 0; i < NR_PAGES; i++)
		nr_free += !!(hwpoison_page_flags(pfns[i]) & BIT_ULL(KPF_BUDDY));
	ASSERT_LE(NR_PAGES / 2, nr_free);
}

/* A guest that reads a page, once or until it fails. */
static struct {
	pthread_barrier_t barrier;
	int page;
	bool once;
	u64 nr_reads;
	int err;
} reader;

static void *read_page(void *arg)
{
	u64 value;

	pthread_barrier_wait(&reader.barrier);
	do {
		reader.err = __gmem_read(g, reader.page, &value) ? errno : 0;
		WRITE_ONCE(reader.nr_reads, reader.nr_reads + 1);
	} while (!reader.once && !reader.err);
	return NULL;
}

/* Return how often the page is reported as busy, see hwpoison_inject(). */
static int strike_while_read(struct __test_metadata *_metadata, bool private, bool once)
{
	int i, r, nr_busy = 0;
	pthread_t thread;
	u64 pfn;

	reader.once = once;
	pthread_barrier_init(&reader.barrier, NULL, 2);
	for (i = 0; i < NR_RACES; i++) {
		reader.page = i % NR_PAGES;
		reader.nr_reads = 0;
		gmem_punch_hole(g, reader.page, 1);
		pfn = alloc_page(reader.page);

		kvm_pthread_create(&thread, NULL, read_page, NULL);
		pthread_barrier_wait(&reader.barrier);
		if (once)
			usleep(i * 15);
		else
			ASSERT_TRUE(wait_for_change(&reader.nr_reads, 0));

		r = hwpoison_inject(pfn);
		ASSERT_TRUE(!r || r == -EBUSY);
		nr_busy += !!r;
		kvm_pthread_join(thread, NULL);
		if (reader.err)
			ASSERT_TRUE(gmem_is_refused(g, reader.page, private, reader.err));
		ASSERT_TRUE(gmem_refuses(g, reader.page, private));
	}
	return nr_busy;
}

TEST_F_TIMEOUT(poison, fault_in_flight, 180)
{
	ASSERT_GT(NR_RACES / 12, strike_while_read(_metadata, variant->private, true));
}

/*
 * The guest's mapping goes away in the middle of memory_failure(), which must
 * not find more users than before when it checks a moment later.
 */
TEST_F_TIMEOUT(poison, page_being_read, 180)
{
	ASSERT_GT(NR_RACES / 8, strike_while_read(_metadata, variant->private, false));
}

GMEM_TEST_MAIN(hwpoison_alloc_unsupported() ?: hwpoison_unsupported())

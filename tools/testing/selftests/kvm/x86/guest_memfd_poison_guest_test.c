// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test that guests can't access poisoned pages of a guest_memfd, whether
 * private or shared, and that a VMM can replace them.
 */
#include <linux/kernel-page-flags.h>

#include "gmem_test.h"

#define NR_PAGES	16
#define NR_RACES	40

struct memory {
	const char *name;
	unsigned long type;
	bool private;
};

static const struct memory memories[] = {
	{ "shared, of an ordinary VM", KVM_X86_DEFAULT_VM, false },
	{ "shared, of a software-protected VM", KVM_X86_SW_PROTECTED_VM, false },
	{ "private", KVM_X86_SW_PROTECTED_VM, true },
};

static u64 lost;

static bool in_place(void)
{
	return kvm_check_cap(KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES) & PRIVATE;
}

/*
 * If a VM has private memory, its shared memory is in the guest_memfd only with
 * in-place conversion.
 */
static bool is_supported(const struct memory *m)
{
	return (kvm_check_cap(KVM_CAP_VM_TYPES) & BIT(m->type)) &&
	       (m->type == KVM_X86_DEFAULT_VM || m->private || in_place());
}

static void create_vm(const struct memory *m)
{
	bool mmap = !m->private || in_place();

	lost = gmem_poison_begin();
	__gmem_vm_create(g, m->type, mmap ? GUEST_MEMFD_FLAG_MMAP |
					    GUEST_MEMFD_FLAG_INIT_SHARED : 0, NR_PAGES);
	if (m->private && in_place())
		gmem_make_private(g, 0, NR_PAGES);
	else if (m->private)
		vm_set_memory_attributes(g->vm, GMEM_GPA, DATA_SIZE, PRIVATE);
}

FIXTURE(poison) { };

FIXTURE_SETUP(poison) { }

FIXTURE_TEARDOWN(poison) { }

/* Run a test in VMs with each supported type of memory. */
#define TEST_MEMORIES(test)							\
static void test_##test(struct __test_metadata *_metadata, bool private);	\
TEST_F_TIMEOUT(poison, test, 180)						\
{										\
	const struct memory *m;							\
										\
	for (m = memories; m < memories + ARRAY_SIZE(memories); m++) {		\
		if (!is_supported(m))						\
			continue;						\
		TH_LOG("memory: %s", m->name);					\
		create_vm(m);							\
		test_##test(_metadata, m->private);				\
		gmem_poison_end(lost);						\
		gmem_vm_free(g);						\
	}									\
}										\
static void test_##test(struct __test_metadata *_metadata, bool private)

static u64 alloc_page(int page)
{
	return hwpoison_alloc_gmem_page(g->fd, page * PAGE_SIZE);
}

TEST_MEMORIES(mapped_page)
{
	u64 pfn = alloc_page(3);
	int i;

	for (i = 2; i < 5; i++)
		ASSERT_EQ(0x100 + i, gmem_write(g, i, 0x100 + i));

	ASSERT_EQ(0, hwpoison_inject(pfn));
	EXPECT_EQ(lost + PAGE_SIZE, hwpoison_lost_memory());
	ASSERT_TRUE(gmem_refuses(g, 3, private));
	ASSERT_TRUE(gmem_refuses(g, 3, private));

	ASSERT_EQ(0x102, gmem_read(g, 2));
	ASSERT_EQ(0x104, gmem_read(g, 4));
	ASSERT_EQ(0x5555, gmem_write(g, 5, 0x5555));
	ASSERT_EQ(0x2020, gmem_write(g, 2, 0x2020));
}

/* The page itself blocks the guest, not any state in KVM. */
TEST_MEMORIES(first_touch)
{
	ASSERT_EQ(0, hwpoison_inject(alloc_page(0)));
	ASSERT_TRUE(gmem_refuses(g, 0, private));

	gmem_set_slot(g, GMEM_SLOT, 0, 0, 0);
	gmem_set_slot(g, GMEM_SLOT, 0, NR_PAGES, 0);
	ASSERT_TRUE(gmem_refuses(g, 0, private));
	ASSERT_EQ(0x1111, gmem_write(g, 1, 0x1111));
}

/*
 * Freed pages go to a per-CPU list first, which is drained when the next page
 * of the same zone is unpoisoned.  Hence expect most of them to be free.
 */
TEST_MEMORIES(free_pages)
{
	int i, nr_free = 0;
	u64 pfns[NR_PAGES];

	for (i = 0; i < NR_PAGES; i++) {
		pfns[i] = alloc_page(i);
		ASSERT_EQ(0, hwpoison_inject(pfns[i]));
		ASSERT_TRUE(gmem_refuses(g, i, private));
		if (!private)
			TEST_EXPECT_SIGBUS((void)READ_ONCE(*gmem_hva(g, i)));
		ASSERT_TRUE(hwpoison_page_flags(pfns[i]) & BIT_ULL(KPF_HWPOISON));
	}
	ASSERT_EQ(lost + DATA_SIZE, hwpoison_lost_memory());

	gmem_punch_hole(g, 0, NR_PAGES);
	ASSERT_EQ(0, hwpoison_unpoison_all());
	for (i = 0; i < NR_PAGES; i++) {
		ASSERT_FALSE(hwpoison_page_flags(pfns[i]) & BIT_ULL(KPF_HWPOISON));
		nr_free += !!(hwpoison_page_flags(pfns[i]) & BIT_ULL(KPF_BUDDY));
	}
	ASSERT_LE(NR_PAGES / 2, nr_free);
}

/* A guest that reads a page, once or until it fails. */
static struct {
	pthread_barrier_t barrier;
	int page;
	bool once;
	int nr_reads;
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
	int i, r, nr_busy = 0, nr_refused = 0;
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
		while (!once && READ_ONCE(reader.nr_reads) < 3)
			usleep(100);

		r = hwpoison_inject(pfn);
		ASSERT_TRUE(!r || r == -EBUSY);
		nr_busy += !!r;
		kvm_pthread_join(thread, NULL);
		if (reader.err)
			ASSERT_TRUE(gmem_is_refused(g, reader.page, private, reader.err));
		nr_refused += !!reader.err;
		ASSERT_TRUE(gmem_refuses(g, reader.page, private));
	}
	TH_LOG("%d of %d reads were refused, %d pages were busy", nr_refused, i, nr_busy);
	return nr_busy;
}

TEST_MEMORIES(fault_in_flight)
{
	ASSERT_GT(NR_RACES / 12, strike_while_read(_metadata, private, true));
}

/*
 * The guest's mapping goes away in the middle of memory_failure(), which must
 * not find more users than before when it checks a moment later.
 */
TEST_MEMORIES(page_being_read)
{
	ASSERT_GT(NR_RACES / 8, strike_while_read(_metadata, private, false));
}

GMEM_TEST_MAIN(hwpoison_alloc_unsupported() ?: hwpoison_unsupported())

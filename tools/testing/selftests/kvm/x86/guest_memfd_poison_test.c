// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test conversion of guest_memfd memory with poisoned pages: errors that strike
 * before, after and during a conversion.
 */
#include "gmem_test.h"

#define NR_PAGES	16
#define BAD		5	/* the page that an error strikes */
#define NR_RACES	40

FIXTURE(poison) {
	u64 lost;
	u64 pfn;
};

FIXTURE_SETUP(poison)
{
	self->lost = gmem_poison_begin();
	gmem_vm_create(g, NR_PAGES);
	memset(g->mem, 0xaa, DATA_SIZE);
	self->pfn = gmem_host_pfn(g, BAD);
}

FIXTURE_TEARDOWN(poison)
{
	gmem_poison_end(self->lost);
	gmem_vm_free(g);
}

/* Expect all pages except the bad one to be shared, with unchanged contents. */
#define ASSERT_REST_SHARED()						\
do {									\
	int __i;							\
									\
	ASSERT_TRUE(gmem_host_can_access_all_but(g, BAD, 1));		\
	for (__i = 0; __i < NR_PAGES; __i++) {				\
		if (__i == BAD)						\
			continue;					\
		ASSERT_EQ(0xaaaaaaaaaaaaaaaaul, *gmem_hva(g, __i));	\
		ASSERT_EQ(0xaaaaaaaaaaaaaaaaul, gmem_read(g, __i));	\
	}								\
} while (0)

/* Expect host accesses to fail due to the error, not because the page is private. */
#define ASSERT_HOST_REFUSED()						\
do {									\
	u64 *__hva = gmem_hva(g, BAD);					\
									\
	ASSERT_EQ(-1, madvise(__hva, PAGE_SIZE, MADV_POPULATE_READ));	\
	ASSERT_EQ(EHWPOISON, errno);					\
	TEST_EXPECT_SIGBUS((void)READ_ONCE(*__hva));			\
	TEST_EXPECT_SIGBUS(WRITE_ONCE(*__hva, 1));			\
} while (0)

TEST_F(poison, shared_page)
{
	/* The page is between others, alone, the first, and the last. */
	static const struct {
		int page, nr;
	} ranges[] = { { 0, NR_PAGES }, { BAD, 1 }, { BAD, 4 }, { 2, 4 } };
	int i;

	ASSERT_EQ(0, gmem_poison(g, BAD));
	for (i = 0; i < 20; i++)
		ASSERT_REFUSED(EHWPOISON, BAD, ranges[i % 4].page, ranges[i % 4].nr);
	ASSERT_REST_SHARED();
	ASSERT_TRUE(gmem_refuses(g, BAD, false));
	ASSERT_HOST_REFUSED();

	/* Its neighbours can be converted. */
	ASSERT_CONVERTED(0, BAD, PRIVATE);
	ASSERT_CONVERTED(BAD + 1, 2, PRIVATE);
	ASSERT_REFUSED(EHWPOISON, BAD, 0, NR_PAGES);
	ASSERT_TRUE(gmem_host_can_access_all_but(g, 0, BAD + 3));

	/* Poison blocks neither conversions to shared nor those that change nothing. */
	ASSERT_CONVERTED(BAD, 1, SHARED);
	ASSERT_CONVERTED(0, NR_PAGES, SHARED);
	ASSERT_REST_SHARED();
}

TEST_F(poison, private_page)
{
	ASSERT_CONVERTED(BAD, 1, PRIVATE);
	ASSERT_EQ(0xaaaaaaaaaaaaaaaaul, gmem_read(g, BAD));

	ASSERT_EQ(0, hwpoison_inject(self->pfn));
	ASSERT_TRUE(gmem_refuses(g, BAD, true));
	TEST_EXPECT_SIGBUS((void)READ_ONCE(*gmem_hva(g, BAD)));

	/* The poisoned page is private already, so it does not change. */
	ASSERT_CONVERTED(0, NR_PAGES, PRIVATE);
	ASSERT_CONVERTED(0, NR_PAGES, SHARED);
	ASSERT_REST_SHARED();
	/* The page wasn't mapped when the error struck, so the fault reports it. */
	ASSERT_HOST_REFUSED();
	ASSERT_TRUE(gmem_refuses(g, BAD, false));
	ASSERT_REFUSED(EHWPOISON, BAD, 0, NR_PAGES);
}

TEST_F(poison, two_pages)
{
	ASSERT_EQ(0, gmem_poison(g, 9));
	ASSERT_EQ(0, gmem_poison(g, BAD));
	ASSERT_REFUSED(EHWPOISON, BAD, 0, NR_PAGES);
	ASSERT_REFUSED(EHWPOISON, 9, BAD + 1, 10);
}

TEST_F(poison, error_offset_not_writable)
{
	struct kvm_memory_attributes2 *attrs;

	attrs = kvm_mmap(PAGE_SIZE, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1);
	attrs->size = DATA_SIZE;
	attrs->attributes = PRIVATE;
	ASSERT_EQ(0, mprotect(attrs, PAGE_SIZE, PROT_READ));

	ASSERT_EQ(0, gmem_poison(g, BAD));
	ASSERT_EQ(-1, ioctl(g->fd, KVM_SET_MEMORY_ATTRIBUTES2, attrs));
	ASSERT_EQ(EFAULT, errno);
	ASSERT_REST_SHARED();
	kvm_munmap(attrs, PAGE_SIZE);
}

TEST_F(poison, ehwpoison_before_eagain)
{
	int before, after, i;

	SKIP_IF(gmem_pin_unsupported());

	before = gmem_pin(g, BAD - 2, 1);
	after = gmem_pin(g, BAD + 2, 1);
	ASSERT_EQ(0, gmem_poison(g, BAD));
	for (i = 0; i < 20; i++)
		ASSERT_REFUSED(EHWPOISON, BAD, 0, NR_PAGES);
	ASSERT_REST_SHARED();

	ASSERT_REFUSED(EAGAIN, BAD - 2, 0, BAD);
	ASSERT_REFUSED(EAGAIN, BAD + 2, BAD + 1, 4);
	kvm_close(before);
	kvm_close(after);
	ASSERT_REFUSED(EHWPOISON, BAD, 0, NR_PAGES);
}

static void *convert_all(void *arg)
{
	return (void *)(long)gmem_convert(g, 0, NR_PAGES, PRIVATE);
}

/*
 * The error strikes the page that the conversion waits for, or another one.  On
 * a busy machine, it may strike after the conversion has given up.
 */
TEST_F(poison, error_during_wait)
{
	static const int pinned[] = { BAD - 2, BAD };
	int pin, tries = 0, i;
	pthread_t thread;
	void *result;

	SKIP_IF(gmem_pin_unsupported());

	for (i = 0; i < ARRAY_SIZE(pinned); i += (long)result == EHWPOISON) {
		/* Look up the pfn now, as the conversion will unmap the page. */
		self->pfn = gmem_host_pfn(g, BAD);
		pin = gmem_pin(g, pinned[i], 1);
		kvm_pthread_create(&thread, NULL, convert_all, NULL);
		usleep(30000);
		/* Ignore the result: how pinned pages are handled isn't tested here. */
		hwpoison_inject(self->pfn);
		kvm_pthread_join(thread, &result);
		kvm_close(pin);

		if ((long)result == EAGAIN) {
			ASSERT_EQ(pinned[i], g->error_page);
			ASSERT_GT(20, tries++);
		} else {
			ASSERT_EQ(EHWPOISON, (long)result);
			ASSERT_EQ(BAD, g->error_page);
			ASSERT_REST_SHARED();
		}

		gmem_punch_hole(g, BAD, 1);
		*gmem_hva(g, BAD) = 1;
	}
}

/* Test pages that were mapped when the error struck, and pages that were not. */
TEST_F(poison, punched_hole)
{
	u64 *hva;

	ASSERT_EQ(0, gmem_poison(g, BAD));
	gmem_punch_hole(g, BAD, 1);
	ASSERT_TRUE(gmem_host_can_access(g, BAD, 1));
	ASSERT_EQ(0, *gmem_hva(g, BAD));
	ASSERT_NE(self->pfn, gmem_host_pfn(g, BAD));
	ASSERT_EQ(0x1111, gmem_write(g, BAD, 0x1111));

	hva = __kvm_mmap(PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, g->fd,
			 BAD * PAGE_SIZE);
	ASSERT_EQ(0x1111, *hva);
	ASSERT_CONVERTED(0, NR_PAGES, PRIVATE);
	ASSERT_EQ(0x1111, gmem_read(g, BAD));
	ASSERT_EQ(-1, madvise(hva, PAGE_SIZE, MADV_POPULATE_READ));
	kvm_munmap(hva, PAGE_SIZE);

	/* Do the same with a private page. */
	gmem_make_shared(g, 0, NR_PAGES);
	self->pfn = gmem_host_pfn(g, BAD);
	gmem_make_private(g, 0, NR_PAGES);
	ASSERT_EQ(0, hwpoison_inject(self->pfn));
	gmem_punch_hole(g, BAD, 1);
	ASSERT_EQ(0, gmem_read(g, BAD));
	ASSERT_CONVERTED(BAD, 1, SHARED);
	ASSERT_EQ(0, *gmem_hva(g, BAD));
}

/* The page's offset in the file differs from that in the memslot. */
TEST_F(poison, exit_with_slot_offset)
{
	const int half = NR_PAGES / 2;
	u64 pfn = gmem_host_pfn(g, half + 1);

	gmem_set_slot(g, GMEM_SLOT, 0, 0, 0);
	gmem_set_slot(g, GMEM_SLOT, 0, half, half);
	gmem_make_private(g, half + 1, 1);
	ASSERT_EQ(0, hwpoison_inject(pfn));
	ASSERT_TRUE(gmem_refuses(g, 1, true));

	gmem_make_shared(g, half + 1, 1);
	gmem_make_private(g, 1, 1);
	ASSERT_TRUE(gmem_refuses(g, 1, false));

	gmem_set_slot(g, GMEM_SLOT, 0, 0, 0);
	gmem_set_slot(g, GMEM_SLOT, 0, NR_PAGES, 0);
}

static int converter_err, guest_err;

static bool convert_both_ways(u64 n)
{
	int r = gmem_convert(g, 0, NR_PAGES, PRIVATE);

	if (r) {
		converter_err = r;
		return false;
	}
	gmem_make_shared(g, 0, NR_PAGES);
	return true;
}

static bool guest_reads(u64 n)
{
	u64 value;

	if (!__gmem_read(g, n % NR_PAGES, &value))
		return true;

	guest_err = errno;
	TEST_ASSERT(guest_err == EHWPOISON, "KVM_RUN failed, errno: %d", guest_err);
	return false;
}

TEST_F_TIMEOUT(poison, error_during_conversions, 180)
{
	int i, j, r, bad, nr_busy = 0;
	u64 pfn;

	for (i = 0; i < NR_RACES; i++) {
		struct worker workers[] = {
			{ "convert", convert_both_ways },
			{ "read", guest_reads },
		};

		bad = i % NR_PAGES;
		gmem_punch_hole(g, 0, NR_PAGES);
		for (j = 0; j < NR_PAGES; j++)
			*gmem_hva(g, j) = j;
		pfn = gmem_host_pfn(g, bad);
		converter_err = 0;

		workers_start(workers, ARRAY_SIZE(workers));
		usleep(i * 100);
		r = hwpoison_inject(pfn);
		ASSERT_TRUE(!r || r == -EBUSY);
		nr_busy += !!r;
		usleep(1000);
		workers_stop(workers, ARRAY_SIZE(workers));
		if (converter_err) {
			ASSERT_EQ(EHWPOISON, converter_err);
			ASSERT_EQ(bad, g->error_page);
		}

		/* Poison doesn't keep the page from becoming shared. */
		gmem_make_shared(g, 0, NR_PAGES);
		ASSERT_REFUSED(EHWPOISON, bad, 0, NR_PAGES);
		TEST_EXPECT_SIGBUS((void)READ_ONCE(*gmem_hva(g, bad)));
		for (j = 0; j < NR_PAGES; j++) {
			if (j != bad)
				ASSERT_EQ(j, *gmem_hva(g, j));
		}
	}
	TH_LOG("%d pages were busy", nr_busy);
	ASSERT_GT(NR_RACES / 2, nr_busy);
}

GMEM_TEST_MAIN(gmem_vm_unsupported() ?: hwpoison_unsupported())

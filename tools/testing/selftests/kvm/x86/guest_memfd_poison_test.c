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

static void fill_by_host(void)
{
	int i;

	for (i = 0; i < NR_PAGES; i++)
		*gmem_hva(g, i) = gmem_pattern(i);
}

FIXTURE_SETUP(poison)
{
	self->lost = gmem_poison_begin();
	gmem_vm_create(g, NR_PAGES);
	fill_by_host();
	self->pfn = gmem_host_pfn(g, BAD);
}

FIXTURE_TEARDOWN(poison)
{
	gmem_poison_end(self->lost);
	gmem_vm_free(g);
}

/* Return true if all pages but @bad are shared, with their old contents. */
static bool rest_is_shared(int bad)
{
	int i;

	for (i = 0; i < NR_PAGES; i++)
		if (i != bad && gmem_read(g, i) != gmem_pattern(i))
			return false;
	return gmem_host_can_access_all_but(g, bad, 1);
}

/* Expect host accesses to fail due to the error, not because the page is private. */
#define ASSERT_HOST_REFUSED(bad)					\
do {									\
	u64 *__hva = gmem_hva(g, bad);					\
									\
	ASSERT_EQ(-1, madvise(__hva, PAGE_SIZE, MADV_POPULATE_READ));	\
	ASSERT_EQ(EHWPOISON, errno);					\
	TEST_EXPECT_SIGBUS((void)READ_ONCE(*__hva));			\
} while (0)

TEST_F(poison, shared_page)
{
	/* This struct is read-only, so KVM can't write error_offset. */
	static const struct kvm_memory_attributes2 attrs = {
		.size = DATA_SIZE,
		.attributes = PRIVATE,
	};

	ASSERT_EQ(0, gmem_poison(g, BAD));
	ASSERT_REFUSED(EHWPOISON, BAD, 0, NR_PAGES);
	ASSERT_REFUSED(EHWPOISON, BAD, BAD, 1);
	ASSERT_EQ(-1, ioctl(g->fd, KVM_SET_MEMORY_ATTRIBUTES2, &attrs));
	ASSERT_EQ(EFAULT, errno);
	ASSERT_TRUE(rest_is_shared(BAD));
	ASSERT_TRUE(gmem_refuses(g, BAD, false));
	ASSERT_HOST_REFUSED(BAD);

	/* Its neighbours can be converted. */
	ASSERT_CONVERTED(0, BAD, PRIVATE);
	ASSERT_CONVERTED(BAD + 1, 2, PRIVATE);
	ASSERT_REFUSED(EHWPOISON, BAD, 0, NR_PAGES);
	ASSERT_TRUE(gmem_host_can_access_all_but(g, 0, BAD + 3));

	/* Poison blocks neither conversions to shared nor those that change nothing. */
	ASSERT_CONVERTED(BAD, 1, SHARED);
	ASSERT_CONVERTED(0, NR_PAGES, SHARED);
	ASSERT_TRUE(rest_is_shared(BAD));

	/* The first poisoned page in the range is reported. */
	ASSERT_EQ(0, gmem_poison(g, 2));
	ASSERT_REFUSED(EHWPOISON, 2, 0, NR_PAGES);
	ASSERT_REFUSED(EHWPOISON, BAD, 3, NR_PAGES - 3);
}

TEST_F(poison, private_page)
{
	ASSERT_CONVERTED(BAD, 1, PRIVATE);
	gmem_check(g, BAD, 1);

	ASSERT_EQ(0, hwpoison_inject(self->pfn));
	ASSERT_TRUE(gmem_refuses(g, BAD, true));
	TEST_EXPECT_SIGBUS((void)READ_ONCE(*gmem_hva(g, BAD)));

	/* The poisoned page is private already, so it does not change. */
	ASSERT_CONVERTED(0, NR_PAGES, PRIVATE);
	ASSERT_CONVERTED(0, NR_PAGES, SHARED);
	ASSERT_TRUE(rest_is_shared(BAD));
	/* The page wasn't mapped when the error struck, so the fault reports it. */
	ASSERT_HOST_REFUSED(BAD);
	ASSERT_TRUE(gmem_refuses(g, BAD, false));
	ASSERT_REFUSED(EHWPOISON, BAD, 0, NR_PAGES);
}

TEST_F(poison, ehwpoison_before_eagain)
{
	int pin;

	SKIP_IF(gmem_pin_unsupported());

	pin = gmem_pin(g, BAD - 2, 1);
	ASSERT_EQ(0, gmem_poison(g, BAD));
	ASSERT_REFUSED(EHWPOISON, BAD, 0, NR_PAGES);
	ASSERT_TRUE(rest_is_shared(BAD));
	ASSERT_REFUSED(EAGAIN, BAD - 2, 0, BAD);
	kvm_close(pin);
}

static void *inject_later(void *pfn)
{
	/* KVM waits 100 ms for a page.  Leave time to start the conversion. */
	usleep(30000);
	/* Ignore the result: how pinned pages are handled isn't tested here. */
	hwpoison_inject(*(u64 *)pfn);
	return NULL;
}

/*
 * The error strikes the page that the conversion waits for, or another one.  On
 * a busy machine, it may strike before the conversion begins, or after it has
 * given up.
 */
TEST_F(poison, error_during_wait)
{
	static const int pinned[] = { BAD - 2, BAD };
	int pin, r, tries = 0, i = 0;
	struct timespec start;
	pthread_t thread;
	u64 ms;

	SKIP_IF(gmem_pin_unsupported());

	while (i < ARRAY_SIZE(pinned)) {
		ASSERT_GT(20, tries++);
		/* Look up the pfn now, as the conversion will unmap the page. */
		self->pfn = gmem_host_pfn(g, BAD);
		pin = gmem_pin(g, pinned[i], 1);
		kvm_pthread_create(&thread, NULL, inject_later, &self->pfn);
		start = time_now();
		r = gmem_convert(g, 0, NR_PAGES, PRIVATE);
		ms = elapsed_ms(start);
		kvm_pthread_join(thread, NULL);
		kvm_close(pin);

		if (r == EAGAIN) {
			ASSERT_EQ(pinned[i], g->error_page);
		} else {
			ASSERT_EQ(EHWPOISON, r);
			ASSERT_EQ(BAD, g->error_page);
			ASSERT_TRUE(rest_is_shared(BAD));
			i += ms >= 10;
		}

		gmem_punch_hole(g, BAD, 1);
		*gmem_hva(g, BAD) = 1;
	}
}

/* Punching a hole also makes the host forget that its mapping is poisoned. */
TEST_F(poison, punched_hole)
{
	ASSERT_EQ(0, gmem_poison(g, BAD));
	gmem_punch_hole(g, BAD, 1);
	ASSERT_TRUE(gmem_host_can_access(g, BAD, 1));
	ASSERT_EQ(0, *gmem_hva(g, BAD));
	ASSERT_NE(self->pfn, gmem_host_pfn(g, BAD));
	ASSERT_EQ(0x1111, gmem_write(g, BAD, 0x1111));
	ASSERT_CONVERTED(0, NR_PAGES, PRIVATE);
	ASSERT_EQ(0x1111, gmem_read(g, BAD));
}

/* The page's offset in the file differs from that in the memslot. */
TEST_F(poison, exit_with_slot_offset)
{
	gmem_set_slot(g, GMEM_SLOT, 0, 0, 0);
	gmem_set_slot(g, GMEM_SLOT, 0, NR_PAGES - BAD + 1, BAD - 1);
	gmem_make_private(g, BAD, 1);
	ASSERT_EQ(0, hwpoison_inject(self->pfn));
	ASSERT_TRUE(gmem_refuses(g, 1, true));

	gmem_set_slot(g, GMEM_SLOT, 0, 0, 0);
	gmem_set_slot(g, GMEM_SLOT, 0, NR_PAGES, 0);
}

static int struck;	/* the page that an error strikes during conversions */

static bool convert_both_ways(u64 n)
{
	int r = gmem_convert(g, 0, NR_PAGES, PRIVATE);

	TEST_ASSERT(!r || (r == EHWPOISON && g->error_page == struck),
		    "The conversion failed, errno: %d, page: %ld", r, (long)g->error_page);
	if (!r)
		gmem_make_shared(g, 0, NR_PAGES);
	return !r;
}

static bool guest_reads(u64 n)
{
	u64 value;
	int r = __gmem_read(g, n % NR_PAGES, &value);

	TEST_ASSERT(!r || errno == EHWPOISON, KVM_IOCTL_ERROR(KVM_RUN, r));
	return !r;
}

TEST_F_TIMEOUT(poison, error_during_conversions, 180)
{
	int i, r, nr_busy = 0;
	u64 pfn;

	for (i = 0; i < NR_RACES; i++) {
		struct worker workers[] = {
			{ "convert", convert_both_ways },
			{ "read", guest_reads },
		};

		struck = i % NR_PAGES;
		gmem_punch_hole(g, 0, NR_PAGES);
		fill_by_host();
		pfn = gmem_host_pfn(g, struck);

		workers_start(workers, ARRAY_SIZE(workers));
		usleep(i * 100);
		r = hwpoison_inject(pfn);
		ASSERT_TRUE(!r || r == -EBUSY);
		nr_busy += !!r;
		usleep(1000);
		workers_stop(workers, ARRAY_SIZE(workers));

		/* Poison doesn't keep the page from becoming shared. */
		gmem_make_shared(g, 0, NR_PAGES);
		ASSERT_REFUSED(EHWPOISON, struck, 0, NR_PAGES);
		ASSERT_HOST_REFUSED(struck);
		ASSERT_TRUE(rest_is_shared(struck));
	}
	ASSERT_GT(NR_RACES / 2, nr_busy);
}

GMEM_TEST_MAIN(gmem_vm_unsupported() ?: hwpoison_unsupported())

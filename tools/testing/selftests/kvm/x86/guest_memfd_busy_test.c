// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test that a conversion of guest_memfd memory to private reports a page that
 * is in use by the host: the right one, quickly, and with little disturbance.
 */
#include <linux/sizes.h>

#include "gmem_test.h"

#define NR_PAGES	16
#define MANY_PAGES	1024
#define ALLOCATE_SIZE	SZ_128M

GMEM_FIXTURE(busy, NR_PAGES)

static bool host_splice(u64 n)
{
	return gmem_splice(g, n % (NR_PAGES - 1), 2, 1000);
}

/*
 * A long-term pin must not be missed among transient ones, although one of the
 * latter may be reported at times.
 */
TEST_F_TIMEOUT(busy, longterm_pin_among_transient, 120)
{
	struct worker users[4] = { [0 ... 3] = { "vmsplice", host_splice } };
	int i, pin = gmem_pin(g, NR_PAGES - 1, 1), nr_named = 0;

	workers_start(users, ARRAY_SIZE(users));
	for (i = 0; i < 20 && nr_named < 3; i++) {
		ASSERT_EQ(EAGAIN, gmem_convert(g, 0, NR_PAGES, PRIVATE));
		nr_named += g->error_page == NR_PAGES - 1;
	}
	ASSERT_EQ(3, nr_named);
	workers_stop(users, ARRAY_SIZE(users));
	kvm_close(pin);
}

/* Waiting for a page in use must not block all faults on the file. */
TEST_F_TIMEOUT(busy, faults_during_wait, 120)
{
	struct worker faulter = { "fault", fault_in_page };
	u64 nr_faults;
	int pin, i;

	memset(g->mem, 0xaa, DATA_SIZE);
	pin = gmem_pin(g, 5, 1);
	workers_start(&faulter, 1);
	nr_faults = READ_ONCE(faulter.nr_done);
	for (i = 0; i < 10; i++)
		ASSERT_EQ(EAGAIN, gmem_convert(g, 0, NR_PAGES, PRIVATE));
	nr_faults = READ_ONCE(faulter.nr_done) - nr_faults;
	workers_stop(&faulter, 1);
	kvm_close(pin);
	ASSERT_LE(50 * i, nr_faults);
}

/* After a failure, all pages must still be mapped, except the pinned one in the host. */
TEST_F(busy, mappings_after_failure)
{
	const int pinned = 5;
	int pin, page;

	gmem_fill(g, 0, NR_PAGES);
	ASSERT_TRUE(gmem_host_can_access(g, 0, NR_PAGES));
	pin = gmem_pin(g, pinned, 1);
	ASSERT_REFUSED(EAGAIN, pinned, 0, NR_PAGES);

	EXPECT_EQ(0, gmem_count_faults(g, 0, NR_PAGES));
	for (page = 0; page < NR_PAGES; page++) {
		if (page != pinned)
			EXPECT_TRUE(hwpoison_is_mapped(gmem_hva(g, page)));
	}
	gmem_check(g, 0, NR_PAGES);
	kvm_close(pin);

	/* Verify the checks: success does unmap and zap. */
	ASSERT_CONVERTED(0, NR_PAGES, PRIVATE);
	ASSERT_LE(NR_PAGES, gmem_count_faults(g, 0, NR_PAGES));
	for (page = 0; page < NR_PAGES; page++)
		ASSERT_FALSE(hwpoison_is_mapped(gmem_hva(g, page)));
	gmem_check(g, 0, NR_PAGES);
}

static int large_fd;

static bool allocate(u64 n)
{
	kvm_fallocate(large_fd, FALLOC_FL_KEEP_SIZE, PAGE_SIZE, ALLOCATE_SIZE - PAGE_SIZE);
	return true;
}

/* A large allocation must not hold the invalidate lock all the time. */
TEST_F_TIMEOUT(busy, long_allocation, 120)
{
	struct worker allocator = { "allocate", allocate };
	struct timespec start = time_now(), one;
	u64 nr_conversions = 0, worst_ms = 0;

	large_fd = vm_create_guest_memfd(g->vm, ALLOCATE_SIZE, 0);
	workers_start(&allocator, 1);
	for (; !READ_ONCE(allocator.nr_done); nr_conversions += 2) {
		one = time_now();
		gmem_set_shared(large_fd, 0, PAGE_SIZE);
		gmem_set_private(large_fd, 0, PAGE_SIZE);
		worst_ms = max_t(u64, worst_ms, elapsed_ms(one));
	}
	ASSERT_LT(20, nr_conversions);
	ASSERT_GT(elapsed_ms(start) / 2, worst_ms);
	workers_stop(&allocator, 1);
	kvm_close(large_fd);
}

GMEM_FIXTURE(many, MANY_PAGES)

/*
 * A VMM that drops 16 pins one by one, following error_offset, should be done
 * within two seconds.  As machines can be slow, only require that most pins are
 * reported within half a second each.  The first busy page in the range is
 * reported, regardless of the order of pins.
 */
TEST_F_TIMEOUT(many, pins_dropped_one_by_one, 120)
{
	int pins[NR_PAGES], i;
	struct timespec start;
	u64 ms[NR_PAGES];

	/* Pin two of every 16 pages, the last ones first. */
	memset(g->mem, 0xaa, 256 * PAGE_SIZE);
	for (i = NR_PAGES - 1; i >= 0; i--)
		pins[i] = gmem_pin(g, 16 * i, 2);

	/* Pages in between can be converted. */
	ASSERT_CONVERTED(18, 14, PRIVATE);
	for (i = 0; i < NR_PAGES; i++) {
		start = time_now();
		ASSERT_REFUSED(EAGAIN, 16 * i, i, 256 - i);
		ms[i] = elapsed_ms(start);
		ASSERT_TRUE(gmem_host_can_access_all_but(g, 18, 14));
		kvm_close(pins[i]);
	}
	ASSERT_GT(500, median(ms, NR_PAGES));
	ASSERT_CONVERTED(0, 256, PRIVATE);
	ASSERT_TRUE(gmem_host_can_access_all_but(g, 0, 256));

	/* A page may also be unpinned during the wait. */
	gmem_make_shared(g, 0, MANY_PAGES);
	for (i = 0; i < 4; i++)
		ASSERT_EQ(0, convert_during_unpin(i));
}

static bool converted;
static int nr_missed;

static bool host_pin_for_a_moment(u64 n)
{
	int pin = __gmem_pin(g, 7 * n % MANY_PAGES, 1);

	if (pin < 0)
		return false;

	usleep(500);
	nr_missed += READ_ONCE(converted);
	kvm_close(pin);
	usleep(n % 16 * 250);
	return true;
}

/* A pin must not be missed if it is taken while other pages are being checked. */
TEST_F(many, racing_pins)
{
	struct worker pinner = { "pin", host_pin_for_a_moment };
	struct timespec start;

	workers_start(&pinner, 1);
	start = time_now();
	while (elapsed_ms(start) < 5000) {
		ASSERT_TRUE(gmem_host_can_access(g, 0, MANY_PAGES));
		ASSERT_CONVERTED(0, MANY_PAGES, PRIVATE);

		/* Stay private for longer than a pin lasts. */
		WRITE_ONCE(converted, true);
		usleep(3000);
		WRITE_ONCE(converted, false);
		gmem_make_shared(g, 0, MANY_PAGES);
	}
	workers_stop(&pinner, 1);
	EXPECT_EQ(0, nr_missed);
	EXPECT_LT(0, pinner.nr_done);
}

GMEM_TEST_MAIN(gmem_pin_unsupported() ?: gmem_vm_unsupported())

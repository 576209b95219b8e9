// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test that who holds on to a page is reported to be in the way of a conversion
 * of guest_memfd memory to private: soon, by name, and with little disturbance.
 */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "gmem_util.h"
#include "gmem_vm.h"
#include "hwpoison.h"
#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"
#include "kselftest_harness.h"

#define NR_PAGES	16
#define DATA_SIZE	(NR_PAGES * PAGE_SIZE)
#define RACE_PAGES	1024
#define PRIVATE		KVM_MEMORY_ATTRIBUTE_PRIVATE

/*
 * The least that tells 150 ms, within which a pin is to be reported, from
 * several times that, and leaves some room for slow machines.
 */
#define REPORT_MS	400

FIXTURE(pin) {
	struct gmem_vm g;
};

FIXTURE_SETUP(pin)
{
	const char *reason = gmem_vm_unsupported();

	if (reason)
		SKIP(exit(KSFT_SKIP), "%s", reason);
	if (!gmem_vm_can_pin())
		SKIP(exit(KSFT_SKIP), "CONFIG_GUP_TEST is not enabled");

	gmem_vm_create(&self->g, NR_PAGES);
}

FIXTURE_TEARDOWN(pin)
{
	gmem_vm_free(&self->g);
}

/* Reported soon, also if the request is repeated indefinitely. */
TEST_F(pin, is_found_soon)
{
	struct gmem_vm *g = &self->g;
	int pins[2], i, error_page, nr_calls = 0;
	u64 first_ms, ms;
	struct timespec start;

	memset(g->mem, 0xaa, DATA_SIZE);
	/* The later page first: it's not the order of pinning that counts. */
	pins[1] = gmem_vm_pin(g, 11, 2);
	pins[0] = gmem_vm_pin(g, 5, 1);
	ASSERT_LE(0, pins[0]);
	ASSERT_LE(0, pins[1]);

	clock_gettime(CLOCK_MONOTONIC, &start);
	ASSERT_EQ(EAGAIN, gmem_vm_convert(g, 2, 12, PRIVATE, &error_page));
	first_ms = elapsed_ms(start);
	ASSERT_EQ(5, error_page);
	ASSERT_GT(REPORT_MS, first_ms);

	clock_gettime(CLOCK_MONOTONIC, &start);
	do {
		ASSERT_EQ(EAGAIN, gmem_vm_convert(g, 2, 12, PRIVATE, &error_page));
		ASSERT_EQ(5, error_page);
		nr_calls++;
	} while (elapsed_ms(start) < 3000);
	ms = elapsed_ms(start) / nr_calls;
	TH_LOG("the first call took %lu ms, %d repeated ones %lu ms each",
	       first_ms, nr_calls, ms);
	ASSERT_GT(REPORT_MS, ms);

	for (i = 0; i < NR_PAGES; i++)
		ASSERT_TRUE(gmem_vm_host_can_access(g, i));

	/* Outside of the pins is not busy, and each pin counts by itself. */
	ASSERT_EQ(0, gmem_vm_convert(g, 6, 5, PRIVATE, &error_page));
	ASSERT_EQ(0, gmem_vm_convert(g, 13, 3, PRIVATE, &error_page));
	kvm_close(pins[0]);
	ASSERT_EQ(EAGAIN, gmem_vm_convert(g, 2, 14, PRIVATE, &error_page));
	ASSERT_EQ(11, error_page);
	ASSERT_TRUE(gmem_vm_host_can_access(g, 5));

	/* No memory of what was busy outlasts the reason. */
	kvm_close(pins[1]);
	ASSERT_EQ(0, gmem_vm_convert(g, 2, 14, PRIVATE, &error_page));
	for (i = 0; i < NR_PAGES; i++)
		ASSERT_EQ(i < 2, gmem_vm_host_can_access(g, i));
}

/* A VMM that unpins pages one by one, as error_offset says, is done soon. */
TEST_F(pin, dropped_one_by_one)
{
	struct gmem_vm *g = &self->g;
	int pins[NR_PAGES], i, error_page, r;
	struct timespec start;

	memset(g->mem, 0xaa, DATA_SIZE);
	for (i = 0; i < NR_PAGES; i++) {
		pins[i] = gmem_vm_pin(g, i, 1);
		ASSERT_LE(0, pins[i]);
	}

	start = time_now();
	for (i = 0; i < NR_PAGES; i++) {
		r = gmem_vm_convert(g, 0, NR_PAGES, PRIVATE, &error_page);
		ASSERT_EQ(EAGAIN, r);
		ASSERT_LE(0, error_page);
		ASSERT_GT(NR_PAGES, error_page);
		ASSERT_LE(0, pins[error_page]);
		kvm_close(pins[error_page]);
		pins[error_page] = -1;
	}
	ASSERT_EQ(0, gmem_vm_convert(g, 0, NR_PAGES, PRIVATE, &error_page));
	TH_LOG("%d pins dropped in %lu ms", i, elapsed_ms(start));
	/* 2 s, and as much again for slow machines. */
	ASSERT_GT(4000, elapsed_ms(start));
}

/* Which page it is, is told in full. */
TEST_F(pin, far_into_the_file)
{
	const u64 size = 1ull << 46, offset = size - 2 * PAGE_SIZE;
	struct gmem_vm far = { .vm = self->g.vm };
	u64 error_offset = 0;
	int pin;

	far.fd = vm_create_guest_memfd(far.vm, size, GUEST_MEMFD_FLAG_MMAP |
				       GUEST_MEMFD_FLAG_INIT_SHARED);
	far.mem = __kvm_mmap(2 * PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED,
			     far.fd, offset);
	*gmem_vm_hva(&far, 1) = 1;
	pin = gmem_vm_pin(&far, 1, 1);
	ASSERT_LE(0, pin);

	ASSERT_EQ(-1, __gmem_set_attributes(far.fd, 0, size,
					    KVM_MEMORY_ATTRIBUTE_PRIVATE,
					    &error_offset));
	ASSERT_EQ(EAGAIN, errno);
	ASSERT_EQ(offset + PAGE_SIZE, error_offset);
	gmem_set_private(far.fd, 0, size - PAGE_SIZE);

	kvm_close(pin);
	gmem_set_private(far.fd, 0, size);
	kvm_munmap(far.mem, 2 * PAGE_SIZE);
	kvm_close(far.fd);
}

/* Wherever it is among many pages. */
TEST_F(pin, is_found_among_many)
{
	const int nr_pages = 256, pinned[] = { nr_pages - 1, 100, 31 };
	struct gmem_vm g;
	int pins[ARRAY_SIZE(pinned)], i, error_page;

	gmem_vm_create(&g, nr_pages);
	memset(g.mem, 0xaa, nr_pages * PAGE_SIZE);

	for (i = 0; i < ARRAY_SIZE(pinned); i++) {
		pins[i] = gmem_vm_pin(&g, pinned[i], 1);
		ASSERT_LE(0, pins[i]);
		ASSERT_EQ(EAGAIN, gmem_vm_convert(&g, 0, nr_pages, PRIVATE, &error_page));
		ASSERT_EQ(pinned[i], error_page);
	}
	for (i = 0; i < ARRAY_SIZE(pinned); i++)
		kvm_close(pins[i]);
	ASSERT_EQ(0, gmem_vm_convert(&g, 0, nr_pages, PRIVATE, &error_page));
	gmem_vm_free(&g);
}

/* A pin that goes away while the conversion is waiting is waited for. */
TEST_F(pin, going_away_is_waited_for)
{
	struct gmem_vm *g = &self->g;
	pthread_t thread;
	int i, error_page, pin;

	for (i = 0; i < 4; i++) {
		*gmem_vm_hva(g, i) = 0x1111;
		pin = gmem_vm_pin(g, i, 1);
		ASSERT_LE(0, pin);
		close_later(&thread, pin, 50);
		ASSERT_EQ(0, gmem_vm_convert(g, 0, NR_PAGES, PRIVATE, &error_page));
		kvm_pthread_join(thread, NULL);
		gmem_set_shared(g->fd, 0, DATA_SIZE);
	}
}

struct faulter {
	struct gmem_vm *g;
	bool stop;
	u64 nr_faults;
	u64 worst_ms;
};

static void *fault_around(void *arg)
{
	struct faulter *f = arg;
	struct timespec start;

	while (!READ_ONCE(f->stop)) {
		u64 *hva = gmem_vm_hva(f->g, f->nr_faults % 4);

		madvise(hva, PAGE_SIZE, MADV_DONTNEED);
		clock_gettime(CLOCK_MONOTONIC, &start);
		(void)READ_ONCE(*hva);
		f->worst_ms = max_t(u64, f->worst_ms, elapsed_ms(start));
		WRITE_ONCE(f->nr_faults, f->nr_faults + 1);
	}
	return NULL;
}

/* Waiting for a page in use must not stop all faults on the file meanwhile. */
TEST_F(pin, lets_others_fault)
{
	struct gmem_vm *g = &self->g;
	struct faulter f = { .g = g };
	int pin, i, error_page;
	pthread_t thread;
	u64 nr_faults;

	memset(g->mem, 0xaa, DATA_SIZE);
	pin = gmem_vm_pin(g, 5, 1);
	ASSERT_LE(0, pin);
	kvm_pthread_create(&thread, NULL, fault_around, &f);

	nr_faults = READ_ONCE(f.nr_faults);
	for (i = 0; i < 10; i++)
		ASSERT_EQ(EAGAIN, gmem_vm_convert(g, 0, NR_PAGES, PRIVATE, &error_page));
	nr_faults = READ_ONCE(f.nr_faults) - nr_faults;

	WRITE_ONCE(f.stop, true);
	kvm_pthread_join(thread, NULL);
	kvm_close(pin);
	TH_LOG("%lu faults during %d calls, the longest took %lu ms",
	       nr_faults, i, f.worst_ms);
	ASSERT_LE(10 * i, nr_faults);
	ASSERT_GT(100, f.worst_ms);
}

/* A page that was busy for long is like any other once it is not. */
TEST_F(pin, leaves_no_grudge)
{
	struct gmem_vm *g = &self->g;
	struct timespec start;
	pthread_t thread;
	int error_page, pin;

	*gmem_vm_hva(g, 3) = 0x1111;
	pin = gmem_vm_pin(g, 3, 1);
	ASSERT_LE(0, pin);
	ASSERT_EQ(EAGAIN, gmem_vm_convert(g, 0, NR_PAGES, PRIVATE, &error_page));
	ASSERT_EQ(3, error_page);
	kvm_close(pin);
	clock_gettime(CLOCK_MONOTONIC, &start);
	ASSERT_EQ(0, gmem_vm_convert(g, 0, NR_PAGES, PRIVATE, &error_page));
	ASSERT_GT(REPORT_MS / 2, elapsed_ms(start));
	gmem_set_shared(g->fd, 0, DATA_SIZE);

	pin = gmem_vm_pin(g, 3, 1);
	ASSERT_LE(0, pin);
	close_later(&thread, pin, 50);
	ASSERT_EQ(0, gmem_vm_convert(g, 0, NR_PAGES, PRIVATE, &error_page));
	kvm_pthread_join(thread, NULL);
}

/* The first, the last, or one amidst: nobody else pays for the page in use. */
TEST_F(pin, failure_disturbs_little)
{
	const int pinned[] = { 5, 0, NR_PAGES - 1 };
	struct gmem_vm *g = &self->g;
	int pin, i, page, error_page;
	u64 faults;

	for (i = 0; i < ARRAY_SIZE(pinned); i++) {
		for (page = 0; page < NR_PAGES; page++) {
			*gmem_vm_hva(g, page) = page;
			ASSERT_EQ(page, gmem_vm_read(g, page));
		}
		faults = vcpu_get_stat(g->vcpu, pf_taken);

		pin = gmem_vm_pin(g, pinned[i], 1);
		ASSERT_LE(0, pin);
		ASSERT_EQ(EAGAIN, gmem_vm_convert(g, 0, NR_PAGES, PRIVATE, &error_page));
		ASSERT_EQ(pinned[i], error_page);
		ASSERT_EQ(EAGAIN, gmem_vm_convert(g, 0, NR_PAGES, PRIVATE, &error_page));

		for (page = 0; page < NR_PAGES; page++) {
			if (page != pinned[i])
				EXPECT_TRUE(hwpoison_mapped_pfn(gmem_vm_hva(g, page)));
			ASSERT_EQ(page, gmem_vm_read(g, page));
		}
		EXPECT_EQ(faults, vcpu_get_stat(g->vcpu, pf_taken));
		kvm_close(pin);
	}

	/* The measure works: success does unmap and zap. */
	ASSERT_EQ(0, gmem_vm_convert(g, 0, NR_PAGES, PRIVATE, &error_page));
	for (page = 0; page < NR_PAGES; page++) {
		ASSERT_FALSE(hwpoison_mapped_pfn(gmem_vm_hva(g, page)));
		ASSERT_EQ(page, gmem_vm_read(g, page));
	}
	ASSERT_LE(faults + NR_PAGES, vcpu_get_stat(g->vcpu, pf_taken));
}

struct pinner {
	struct gmem_vm g;
	bool converted;
	bool stop;
	int nr_pins;
	int nr_missed;
};

static void *pin_for_moments(void *arg)
{
	struct pinner *p = arg;
	int pin;
	u64 n;

	for (n = 0; !READ_ONCE(p->stop); n++) {
		pin = gmem_vm_pin(&p->g, 7 * n % RACE_PAGES, 1);
		if (pin < 0)
			continue;

		p->nr_pins++;
		usleep(500);
		p->nr_missed += READ_ONCE(p->converted);
		kvm_close(pin);
		usleep(n % 16 * 250);
	}
	return NULL;
}

/* Nor is it missed if it comes while others of the pages are being looked at. */
TEST_F(pin, is_not_missed)
{
	struct pinner p = {};
	struct timespec start;
	pthread_t thread;
	int rounds, error_page;

	gmem_vm_create(&p.g, RACE_PAGES);
	kvm_pthread_create(&thread, NULL, pin_for_moments, &p);

	clock_gettime(CLOCK_MONOTONIC, &start);
	for (rounds = 0; elapsed_ms(start) < 5000; rounds++) {
		ASSERT_EQ(0, madvise(p.g.mem, RACE_PAGES * PAGE_SIZE,
				     MADV_POPULATE_WRITE));
		ASSERT_EQ(0, gmem_vm_convert(&p.g, 0, RACE_PAGES, PRIVATE, &error_page));

		/* For longer than a pin lasts. */
		WRITE_ONCE(p.converted, true);
		usleep(3000);
		WRITE_ONCE(p.converted, false);
		gmem_set_shared(p.g.fd, 0, RACE_PAGES * PAGE_SIZE);
	}
	WRITE_ONCE(p.stop, true);
	kvm_pthread_join(thread, NULL);
	gmem_vm_free(&p.g);

	TH_LOG("%d pins during %d conversions", p.nr_pins, rounds);
	EXPECT_EQ(0, p.nr_missed);
	EXPECT_LT(0, p.nr_pins);
}

TEST_HARNESS_MAIN

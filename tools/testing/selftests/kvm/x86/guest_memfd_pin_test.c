// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test that who holds on to a page is reported to be in the way of a conversion
 * of guest_memfd memory to private: soon, by name, and with little disturbance.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

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
#define TRACE_DIR	"/sys/kernel/tracing/instances/gmem_pin"

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

static u64 elapsed_ms(struct timespec start)
{
	return timespec_to_ns(timespec_elapsed(start)) / 1000000;
}

/* Found soon, also by those who repeat their request for ever. */
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
	ASSERT_GT(2000, first_ms);

	clock_gettime(CLOCK_MONOTONIC, &start);
	do {
		ASSERT_EQ(EAGAIN, gmem_vm_convert(g, 2, 12, PRIVATE, &error_page));
		ASSERT_EQ(5, error_page);
		nr_calls++;
	} while (elapsed_ms(start) < 3000);
	ms = elapsed_ms(start) / nr_calls;
	TH_LOG("the first call took %lu ms, %d repeated ones %lu ms each",
	       first_ms, nr_calls, ms);
	ASSERT_GT(2000, ms);

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

static void *unpin_later(void *fd)
{
	usleep(50000);
	kvm_close((int)(long)fd);
	return NULL;
}

/* A pin that goes away while the conversion is waiting is waited for. */
TEST_F(pin, going_away_is_waited_for)
{
	struct gmem_vm *g = &self->g;
	pthread_t thread;
	int i, error_page;
	long pin;

	for (i = 0; i < 4; i++) {
		*gmem_vm_hva(g, i) = 0x1111;
		pin = gmem_vm_pin(g, i, 1);
		ASSERT_LE(0, pin);
		kvm_pthread_create(&thread, NULL, unpin_later, (void *)pin);
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
	ASSERT_GT(500, f.worst_ms);
}

/* A page that was busy for long is like any other once it is not. */
TEST_F(pin, leaves_no_grudge)
{
	struct gmem_vm *g = &self->g;
	struct timespec start;
	pthread_t thread;
	int error_page;
	long pin;

	*gmem_vm_hva(g, 3) = 0x1111;
	pin = gmem_vm_pin(g, 3, 1);
	ASSERT_LE(0, pin);
	ASSERT_EQ(EAGAIN, gmem_vm_convert(g, 0, NR_PAGES, PRIVATE, &error_page));
	ASSERT_EQ(3, error_page);
	kvm_close(pin);
	clock_gettime(CLOCK_MONOTONIC, &start);
	ASSERT_EQ(0, gmem_vm_convert(g, 0, NR_PAGES, PRIVATE, &error_page));
	ASSERT_GT(500, elapsed_ms(start));
	gmem_set_shared(g->fd, 0, DATA_SIZE);

	pin = gmem_vm_pin(g, 3, 1);
	ASSERT_LE(0, pin);
	kvm_pthread_create(&thread, NULL, unpin_later, (void *)pin);
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

static int trace_drains(void)
{
	mkdir(TRACE_DIR, 0700);
	return gmem_vm_write_file(TRACE_DIR "/events/workqueue/workqueue_queue_work/enable",
				  "1");
}

/*
 * Workers of other CPUs that were made to drain their LRU caches since the
 * last time, as seen by the workqueue.
 */
static int count_drains(void)
{
	FILE *f = fopen(TRACE_DIR "/trace", "r");
	char line[512];
	int nr = 0;

	TEST_ASSERT(f, "Cannot open the trace");
	while (fgets(line, sizeof(line), f))
		nr += !!strstr(line, "lru_add_drain_per_cpu");
	fclose(f);

	/* Opening it this way is what empties it. */
	f = fopen(TRACE_DIR "/trace", "w");
	TEST_ASSERT(f, "Cannot empty the trace");
	fclose(f);
	return nr;
}

static bool stop_filling;

static void *fill_lru_caches(void *arg)
{
	char *mem = kvm_mmap(64 * PAGE_SIZE, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS, -1);
	int i;

	/* A CPU whose caches are empty would be spared. */
	pin_self_to_cpu(1);
	while (!READ_ONCE(stop_filling)) {
		for (i = 0; i < 64; i++)
			WRITE_ONCE(mem[i * PAGE_SIZE], 1);
		madvise(mem, 64 * PAGE_SIZE, MADV_DONTNEED);
	}
	return NULL;
}

/*
 * A few in a row are fine, then one each 100 ms, of all CPUs but the one that
 * asks for it, which begins with its own cache.
 */
static int max_drains(struct timespec start)
{
	return (elapsed_ms(start) / 100 + 10) *
	       (sysconf(_SC_NPROCESSORS_ONLN) - 1);
}

static void ignore_signal(int sig)
{
}

/* A VMM that repeats its request must not make all CPUs drain for ever. */
TEST_F(pin, repeated_requests_drain_rarely)
{
	struct itimerval timer = {
		.it_value.tv_usec = 5000,
		.it_interval.tv_usec = 5000,
	};
	struct sigaction sa = { .sa_handler = ignore_signal };
	struct gmem_vm *g = &self->g;
	int pin, calls, drains, error_page, r;
	struct timespec start;
	pthread_t thread;

	if (sysconf(_SC_NPROCESSORS_ONLN) < 2)
		SKIP(return, "only one CPU");

	if (trace_drains())
		SKIP(return, "no tracing of workqueues");

	pin_self_to_cpu(0);
	kvm_pthread_create(&thread, NULL, fill_lru_caches, NULL);
	*gmem_vm_hva(g, 0) = 1;
	pin = gmem_vm_pin(g, 0, 1);
	ASSERT_LE(0, pin);

	clock_gettime(CLOCK_MONOTONIC, &start);
	ASSERT_EQ(EAGAIN, gmem_vm_convert(g, 0, 1, PRIVATE, &error_page));
	drains = count_drains();
	TH_LOG("the first call made %d CPUs drain", drains);
	EXPECT_GE(max_drains(start), drains);

	/* Those who don't even wait for the answer can try the most often. */
	sigaction(SIGALRM, &sa, NULL);
	setitimer(ITIMER_REAL, &timer, NULL);
	clock_gettime(CLOCK_MONOTONIC, &start);
	for (calls = 0; elapsed_ms(start) < 4000; calls++) {
		r = gmem_vm_convert(g, 0, 1, PRIVATE, &error_page);
		ASSERT_TRUE(r == EAGAIN || r == EINTR);
	}
	drains = count_drains();
	TH_LOG("%d more calls made %d CPUs drain", calls, drains);
	EXPECT_GE(max_drains(start), drains);
	/* Or else there is something wrong with the way to count them. */
	EXPECT_LT(0, drains);
	timer = (struct itimerval) {};
	setitimer(ITIMER_REAL, &timer, NULL);

	WRITE_ONCE(stop_filling, true);
	kvm_pthread_join(thread, NULL);
	kvm_close(pin);
	rmdir(TRACE_DIR);
}

struct toucher {
	char *mem;
	pthread_barrier_t barrier;
};

/* Has each page in the LRU cache of CPU 1 by the time that it is to change. */
static void *touch_on_cpu_1(void *arg)
{
	struct toucher *t = arg;

	pin_self_to_cpu(1);
	for (;;) {
		pthread_barrier_wait(&t->barrier);
		if (READ_ONCE(stop_filling))
			return NULL;

		WRITE_ONCE(*t->mem, 1);
		pthread_barrier_wait(&t->barrier);
	}
}

/*
 * Nor may one whose requests succeed, each with a page that takes a drain, and
 * each in a file of its own.  They wait for their turn, but not for so long that
 * they would fail.
 */
TEST_F(pin, successful_requests_drain_rarely)
{
	u64 flags = GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED;
	struct timespec start;
	struct toucher t;
	pthread_t thread;
	int fd, calls, drains;

	if (sysconf(_SC_NPROCESSORS_ONLN) < 2)
		SKIP(return, "only one CPU");

	if (trace_drains())
		SKIP(return, "no tracing of workqueues");

	pin_self_to_cpu(0);
	pthread_barrier_init(&t.barrier, NULL, 2);
	kvm_pthread_create(&thread, NULL, touch_on_cpu_1, &t);

	clock_gettime(CLOCK_MONOTONIC, &start);
	for (calls = 0; elapsed_ms(start) < 4000; calls++) {
		fd = vm_create_guest_memfd(self->g.vm, PAGE_SIZE, flags);
		t.mem = kvm_mmap(PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
		pthread_barrier_wait(&t.barrier);
		pthread_barrier_wait(&t.barrier);

		gmem_set_private(fd, 0, PAGE_SIZE);
		kvm_munmap(t.mem, PAGE_SIZE);
		kvm_close(fd);
	}
	drains = count_drains();
	TH_LOG("%d calls made %d CPUs drain", calls, drains);
	EXPECT_GE(max_drains(start), drains);
	EXPECT_LT(0, drains);

	WRITE_ONCE(stop_filling, true);
	pthread_barrier_wait(&t.barrier);
	kvm_pthread_join(thread, NULL);
	rmdir(TRACE_DIR);
}

TEST_HARNESS_MAIN

// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test that a conversion of guest_memfd memory changes all of the range or
 * nothing, when memory is short and when signals arrive.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <linux/falloc.h>

#include "gmem_vm.h"
#include "hwpoison.h"
#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"
#include "userfaultfd_util.h"
#include "kselftest_harness.h"

#define PRIVATE		KVM_MEMORY_ATTRIBUTE_PRIVATE
#define GARBAGE		0x5a5a5a5a5a5a5a5aull
#define FAULT_DIR	"/sys/kernel/debug/"

/* Sees to it that all of it can be accessed, and is allocated. */
static bool all_shared(struct gmem_vm *g, int page, int nr)
{
	return !madvise(gmem_vm_hva(g, page), nr * PAGE_SIZE, MADV_POPULATE_WRITE);
}

static void skip_unless_supported(struct __test_metadata *_metadata)
{
	const char *reason = gmem_vm_unsupported();
	int uffd = syscall(__NR_userfaultfd, O_CLOEXEC);

	if (reason || uffd < 0)
		SKIP(exit(KSFT_SKIP), "%s", reason ?: "no userfaultfd");
	close(uffd);
}

/*
 * Failing allocations, with /proc/thread-self/fail-nth: the nth allocation of
 * this thread from now on fails.
 */
#define ALLOC_PAGES	256

FIXTURE(alloc) {
	struct gmem_vm g;
	int fail_nth;
	bool is_private[ALLOC_PAGES];
};

static int open_fail_nth(struct __test_metadata *_metadata)
{
	int fd = open("/proc/thread-self/fail-nth", O_RDWR);

	if (fd < 0 || gmem_vm_write_file(FAULT_DIR "failslab/ignore-gfp-wait", "N"))
		SKIP(exit(KSFT_SKIP), "CONFIG_FAILSLAB or debugfs is not there");

	/* Where there is memory from the page allocator, too. */
	gmem_vm_write_file(FAULT_DIR "fail_page_alloc/ignore-gfp-wait", "N");
	gmem_vm_write_file(FAULT_DIR "fail_page_alloc/min-order", "0");
	gmem_vm_write_file(FAULT_DIR "fail_page_alloc/verbose", "0");
	gmem_vm_write_file(FAULT_DIR "failslab/verbose", "0");
	return fd;
}

FIXTURE_SETUP(alloc)
{
	int i;

	skip_unless_supported(_metadata);
	self->fail_nth = open_fail_nth(_metadata);

	gmem_vm_create(&self->g, ALLOC_PAGES);

	/* Each page unlike its neighbours: that is a lot to store. */
	for (i = 1; i < ALLOC_PAGES; i += 2) {
		gmem_set_private(self->g.fd, i * PAGE_SIZE, PAGE_SIZE);
		self->is_private[i] = true;
	}
}

FIXTURE_TEARDOWN(alloc)
{
	gmem_vm_free(&self->g);
	close(self->fail_nth);
}

static void fail_from_now_on(int fd, int nth)
{
	char text[16];
	int len = snprintf(text, sizeof(text), "%d", nth);

	TEST_ASSERT(pwrite(fd, text, len, 0) == len, "Cannot write fail-nth");
}

/* Whether that allocation has come. */
static bool has_failed(int fd)
{
	char text[16] = {};
	int saved = errno;

	TEST_ASSERT(pread(fd, text, sizeof(text) - 1, 0) > 0,
		    "Cannot read fail-nth");
	fail_from_now_on(fd, 0);
	errno = saved;
	return !atoi(text);
}

TEST_F_TIMEOUT(alloc, every_failure_changes_nothing, 300)
{
	struct kvm_random_state rng = new_kvm_random_state(kvm_random_seed);
	struct gmem_vm *g = &self->g;
	int round, nth, page, nr, i, r, error_page, nr_failed = 0;
	bool to_private, failed;

	for (round = 0; round < 100; round++) {
		/* Maps what is shared. */
		for (i = 0; i < ALLOC_PAGES; i++)
			gmem_vm_host_can_access(g, i);

		page = kvm_random_u32(&rng) % (ALLOC_PAGES - 1);
		nr = 2 + kvm_random_u32(&rng) % min(ALLOC_PAGES - 1 - page, 40);
		to_private = kvm_random_bool(&rng);

		for (nth = 1;; nth++) {
			fail_from_now_on(self->fail_nth, nth);
			r = gmem_vm_convert(g, page, nr, to_private ? PRIVATE : 0,
					    &error_page);
			failed = has_failed(self->fail_nth);
			if (!r)
				break;

			ASSERT_TRUE(failed);
			ASSERT_EQ(ENOMEM, r);
			ASSERT_EQ(page, error_page);
			/* Not even unmapped: it is the first thing that can fail. */
			for (i = page; i < page + nr; i++)
				ASSERT_EQ(!self->is_private[i],
					  !!hwpoison_mapped_pfn(gmem_vm_hva(g, i)));
			for (i = 0; i < ALLOC_PAGES; i++)
				ASSERT_EQ(!self->is_private[i],
					  gmem_vm_host_can_access(g, i));
			nr_failed++;
		}

		ASSERT_EQ(-1, error_page);
		for (i = page; i < page + nr; i++)
			self->is_private[i] = to_private;
		for (i = 0; i < ALLOC_PAGES; i++)
			ASSERT_EQ(!self->is_private[i],
				  gmem_vm_host_can_access(g, i));

		/* Chop it up again, there must be something to store. */
		for (i = page; i < page + nr; i += 2) {
			self->is_private[i] = !to_private;
			gmem_set_attributes(g->fd, i * PAGE_SIZE, PAGE_SIZE,
					    to_private ? 0 : PRIVATE);
		}
	}
	TH_LOG("%d failures in %d conversions", nr_failed, round);
	ASSERT_LT(0, nr_failed);
}

/* Only who has something to store needs memory, and that is seen to first. */
TEST_F(alloc, comes_after_nothing_to_do_and_before_pages)
{
	struct gmem_vm *g = &self->g;
	int error_page, pin = -1, i, k, r = 0;
	u64 pfn = 0;

	for (i = 0; i < 2; i++) {
		fail_from_now_on(self->fail_nth, 1);
		ASSERT_EQ(0, gmem_vm_convert(g, 10 + i, 1, i ? PRIVATE : 0, &error_page));
		ASSERT_FALSE(has_failed(self->fail_nth));
	}

	*gmem_vm_hva(g, 20) = 1;
	*gmem_vm_hva(g, 30) = 1;
	if (gmem_vm_can_pin()) {
		pin = gmem_vm_pin(g, 20, 1);
		ASSERT_LE(0, pin);
	}
	if (!hwpoison_unsupported()) {
		pfn = gmem_vm_host_pfn(g, 30);
		ASSERT_EQ(0, gmem_vm_poison(g, 30));
	}

	/* Slabs have a stock of what several ranges take, but not of it all. */
	for (i = 20; i <= 30; i += 10) {
		for (k = 1; k < 10; k++) {
			fail_from_now_on(self->fail_nth, 1);
			r = gmem_vm_convert(g, i - k, 2 * k, PRIVATE, &error_page);
			if (has_failed(self->fail_nth))
				break;
		}
		ASSERT_EQ(ENOMEM, r);
		ASSERT_EQ(i - k, error_page);
	}

	/* They were in the way. */
	if (pin >= 0) {
		ASSERT_EQ(EAGAIN, gmem_vm_convert(g, 15, 10, PRIVATE, &error_page));
		ASSERT_EQ(20, error_page);
		kvm_close(pin);
	}
	if (pfn) {
		ASSERT_EQ(EHWPOISON, gmem_vm_convert(g, 25, 10, PRIVATE, &error_page));
		ASSERT_EQ(30, error_page);
		kvm_fallocate(g->fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE,
			      30 * PAGE_SIZE, PAGE_SIZE);
		hwpoison_unpoison(pfn);
	}
}

TEST_F(alloc, creation)
{
	struct gmem_vm *g = &self->g;
	int nth, fd;

	for (nth = 1;; nth++) {
		fail_from_now_on(self->fail_nth, nth);
		fd = __vm_create_guest_memfd(g->vm, PAGE_SIZE * 16, 0);
		if (!has_failed(self->fail_nth))
			break;
		if (fd >= 0)
			kvm_close(fd);
		else
			ASSERT_EQ(ENOMEM, errno);
	}
	ASSERT_LE(0, fd);
	ASSERT_LT(1, nth);
	kvm_close(fd);
}

/* Signals; long requests take many pages that are present. */
#define SIGNAL_PAGES	16384

FIXTURE(signals) {
	struct gmem_vm g;
};

static void ignore_signal(int sig)
{
}

static void ignore_alarms(void)
{
	struct sigaction sa = { .sa_handler = ignore_signal };

	sigaction(SIGALRM, &sa, NULL);
}

FIXTURE_SETUP(signals)
{
	skip_unless_supported(_metadata);
	ignore_alarms();
	gmem_vm_create(&self->g, SIGNAL_PAGES);
}

FIXTURE_TEARDOWN(signals)
{
	gmem_vm_free(&self->g);
}

static void set_timer(u64 us)
{
	struct itimerval timer = {
		.it_value.tv_sec = us / 1000000,
		.it_value.tv_usec = us % 1000000,
	};

	setitimer(ITIMER_REAL, &timer, NULL);
}

static u64 elapsed_us(struct timespec start)
{
	return timespec_to_ns(timespec_elapsed(start)) / 1000;
}

TEST_F_TIMEOUT(signals, interruption_changes_nothing, 300)
{
	struct kvm_random_state rng = new_kvm_random_state(kvm_random_seed);
	struct gmem_vm *g = &self->g;
	int i, r, error_page, nr_interrupted = 0;
	struct timespec start;
	u64 us;

	kvm_fallocate(g->fd, FALLOC_FL_KEEP_SIZE, 0, SIGNAL_PAGES * PAGE_SIZE);
	clock_gettime(CLOCK_MONOTONIC, &start);
	gmem_set_private(g->fd, 0, SIGNAL_PAGES * PAGE_SIZE);
	us = max_t(u64, elapsed_us(start), 1000);
	gmem_set_shared(g->fd, 0, SIGNAL_PAGES * PAGE_SIZE);

	for (i = 0; i < 100 && nr_interrupted < 16; i++) {
		/* One page of another kind, that the walk be cut in two. */
		gmem_set_private(g->fd, i * PAGE_SIZE, PAGE_SIZE);

		set_timer(1 + kvm_random_u32(&rng) % us);
		r = gmem_vm_convert(g, 0, SIGNAL_PAGES, PRIVATE, &error_page);
		set_timer(0);
		ASSERT_EQ(-1, error_page);

		if (r) {
			ASSERT_EQ(EINTR, r);
			nr_interrupted++;
			ASSERT_TRUE(all_shared(g, 0, i));
			ASSERT_FALSE(gmem_vm_host_can_access(g, i));
			ASSERT_TRUE(all_shared(g, i + 1, SIGNAL_PAGES - i - 1));
			gmem_vm_write(g, i + 1, i);
			ASSERT_EQ(i, *gmem_vm_hva(g, i + 1));

			gmem_set_private(g->fd, 0, SIGNAL_PAGES * PAGE_SIZE);
		}
		ASSERT_FALSE(gmem_vm_host_can_access(g, 0));
		ASSERT_FALSE(gmem_vm_host_can_access(g, SIGNAL_PAGES - 1));
		gmem_set_shared(g->fd, 0, SIGNAL_PAGES * PAGE_SIZE);
	}
	TH_LOG("%d of %d conversions of %lu us interrupted", nr_interrupted, i, us);
	ASSERT_LT(0, nr_interrupted);
}

/*
 * A signal that is pending when the request begins: sent while the kernel waits
 * for the page that the struct is in.
 */
static struct {
	pthread_t caller;
	struct kvm_memory_attributes2 *page;
	char contents[PAGE_SIZE];
	/* Which of the caller's allocations fails, if not 0. */
	int fail_nth;
	int nth;
} pending;

static int signal_and_resolve(int uffd_mode, int uffd, struct uffd_msg *msg)
{
	struct uffdio_copy copy = {
		.dst = (u64)pending.page,
		.src = (u64)pending.contents,
		.len = PAGE_SIZE,
	};

	/* With a signal pending, the kernel tries again and again meanwhile. */
	pthread_kill(pending.caller, SIGALRM);
	return ioctl(uffd, UFFDIO_COPY, &copy) && errno != EEXIST ? -1 : 0;
}

static int convert_with_signal_pending(struct gmem_vm *g, int page, int nr,
				       u64 attributes, int *error_page)
{
	struct kvm_memory_attributes2 *attrs = (void *)pending.contents;
	struct uffd_desc *uffd;
	int r;

	pending.caller = pthread_self();
	pending.page = kvm_mmap(PAGE_SIZE, PROT_READ | PROT_WRITE,
				MAP_PRIVATE | MAP_ANONYMOUS, -1);
	*attrs = (struct kvm_memory_attributes2) {
		.offset = page * PAGE_SIZE,
		.size = nr * PAGE_SIZE,
		.attributes = attributes,
		.error_offset = GARBAGE,
	};

	uffd = uffd_setup_demand_paging(UFFDIO_REGISTER_MODE_MISSING, 0,
					pending.page, PAGE_SIZE, 1,
					signal_and_resolve);
	if (pending.nth)
		fail_from_now_on(pending.fail_nth, pending.nth);
	r = ioctl(g->fd, KVM_SET_MEMORY_ATTRIBUTES2, pending.page) ? errno : 0;
	if (pending.nth)
		fail_from_now_on(pending.fail_nth, 0);
	uffd_stop_demand_paging(uffd);

	*error_page = pending.page->error_offset == GARBAGE ? -1 :
		      pending.page->error_offset / PAGE_SIZE;
	kvm_munmap(pending.page, PAGE_SIZE);
	return r;
}

static int count_private(struct gmem_vm *g, int nr)
{
	int i, nr_private = 0;

	for (i = 0; i < nr; i++)
		nr_private += !gmem_vm_host_can_access(g, i);
	return nr_private;
}

/* In a range of @nr pages, which is more than a few. */
static void signal_precedes_poison(struct __test_metadata *_metadata,
				   struct gmem_vm *g, int page, int nr)
{
	u64 pfn = gmem_vm_host_pfn(g, page);
	int error_page;

	ASSERT_EQ(0, gmem_vm_poison(g, page));
	ASSERT_EQ(EINTR, convert_with_signal_pending(g, 0, nr, PRIVATE, &error_page));
	ASSERT_EQ(-1, error_page);
	ASSERT_EQ(EHWPOISON, gmem_vm_convert(g, 0, nr, PRIVATE, &error_page));
	ASSERT_EQ(page, error_page);
	kvm_fallocate(g->fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE,
		      page * PAGE_SIZE, PAGE_SIZE);
	hwpoison_unpoison(pfn);
}

TEST_F_TIMEOUT(signals, pending_from_the_start, 120)
{
	struct gmem_vm *g = &self->g;
	int error_page, pin, i;

	kvm_fallocate(g->fd, FALLOC_FL_KEEP_SIZE, 0, SIGNAL_PAGES * PAGE_SIZE);

	/* What is short is better completed, what is done is done. */
	ASSERT_EQ(0, convert_with_signal_pending(g, 8, 8, PRIVATE, &error_page));
	ASSERT_EQ(8, count_private(g, 16));
	ASSERT_EQ(0, convert_with_signal_pending(g, 8, 8, PRIVATE, &error_page));
	ASSERT_EQ(0, convert_with_signal_pending(g, 8, 8, 0, &error_page));
	ASSERT_EQ(0, convert_with_signal_pending(g, 0, SIGNAL_PAGES, 0, &error_page));
	ASSERT_EQ(-1, error_page);

	/* To private it's the pages that take long, to shared the ranges. */
	ASSERT_EQ(EINTR, convert_with_signal_pending(g, 0, SIGNAL_PAGES, PRIVATE,
						     &error_page));
	ASSERT_EQ(-1, error_page);
	ASSERT_TRUE(all_shared(g, 0, SIGNAL_PAGES));
	for (i = 1; i < 256; i += 2)
		gmem_set_private(g->fd, i * PAGE_SIZE, PAGE_SIZE);
	ASSERT_EQ(EINTR, convert_with_signal_pending(g, 0, 256, 0, &error_page));
	ASSERT_EQ(-1, error_page);
	ASSERT_EQ(128, count_private(g, 256));

	/* It comes before a poisoned page, be that the first. */
	if (!hwpoison_unsupported())
		signal_precedes_poison(_metadata, g, 254, 256);
	gmem_set_shared(g->fd, 0, 256 * PAGE_SIZE);
	if (!hwpoison_unsupported())
		signal_precedes_poison(_metadata, g, 0, SIGNAL_PAGES);

	/* And before a page in use, likewise. */
	if (!gmem_vm_can_pin())
		return;
	for (i = 0; i < SIGNAL_PAGES; i += SIGNAL_PAGES - 1) {
		pin = gmem_vm_pin(g, i, 1);
		ASSERT_LE(0, pin);
		ASSERT_EQ(EINTR, convert_with_signal_pending(g, 0, SIGNAL_PAGES,
							     PRIVATE, &error_page));
		ASSERT_EQ(-1, error_page);
		kvm_close(pin);
	}
	ASSERT_TRUE(all_shared(g, 0, SIGNAL_PAGES));
}

/* Memory is the first thing that a request may want for, and signals the next. */
TEST_F(signals, come_after_want_of_memory)
{
	struct gmem_vm *g = &self->g;
	int error_page, r;

	kvm_fallocate(g->fd, FALLOC_FL_KEEP_SIZE, 0, SIGNAL_PAGES * PAGE_SIZE);

	/* Who has nothing to store wants for none. */
	pending.fail_nth = open_fail_nth(_metadata);
	fail_from_now_on(pending.fail_nth, 1);
	ASSERT_EQ(0, gmem_vm_convert(g, 8, SIGNAL_PAGES - 8, 0, &error_page));
	ASSERT_FALSE(has_failed(pending.fail_nth));

	/* Some allocations may be for the fault on the struct. */
	do {
		pending.nth++;
		r = convert_with_signal_pending(g, 8, SIGNAL_PAGES - 8, PRIVATE,
						&error_page);
	} while (r != ENOMEM && pending.nth < 10);
	ASSERT_EQ(ENOMEM, r);
	ASSERT_EQ(8, error_page);

	pending.nth = 0;
	ASSERT_EQ(EINTR, convert_with_signal_pending(g, 8, SIGNAL_PAGES - 8,
						     PRIVATE, &error_page));
	ASSERT_EQ(-1, error_page);
	close(pending.fail_nth);
}

/* Waiting for a page in use is the one thing that takes long on small ranges. */
TEST_F(signals, end_a_wait)
{
	struct gmem_vm *g = &self->g;
	int pin, error_page, i;
	struct timespec start;

	if (!gmem_vm_can_pin())
		SKIP(return, "CONFIG_GUP_TEST is not enabled");

	for (i = 3; i < 7; i++) {
		*gmem_vm_hva(g, i) = 1;
		pin = gmem_vm_pin(g, i, 1);
		ASSERT_LE(0, pin);

		clock_gettime(CLOCK_MONOTONIC, &start);
		set_timer(30000);
		ASSERT_EQ(EINTR, gmem_vm_convert(g, 0, 8, PRIVATE, &error_page));
		ASSERT_EQ(-1, error_page);
		ASSERT_GT(130000, elapsed_us(start));
		ASSERT_TRUE(all_shared(g, 0, 8));

		ASSERT_EQ(EAGAIN, gmem_vm_convert(g, 0, 8, PRIVATE, &error_page));
		ASSERT_EQ(i, error_page);

		kvm_close(pin);
		ASSERT_EQ(0, gmem_vm_convert(g, 0, 8, PRIVATE, &error_page));
		gmem_set_shared(g->fd, 0, 8 * PAGE_SIZE);
	}
}

TEST_F(signals, fatal_ones_kill)
{
	struct gmem_vm *g = &self->g;
	int pin = -1, i, status;
	struct timespec start;
	pid_t pid;

	kvm_fallocate(g->fd, FALLOC_FL_KEEP_SIZE, 0, SIGNAL_PAGES * PAGE_SIZE);

	/* First among large requests, then while waiting. */
	for (i = 0; i < 2; i++) {
		if (i && gmem_vm_can_pin())
			pin = gmem_vm_pin(g, SIGNAL_PAGES - 1, 1);

		pid = fork();
		if (!pid) {
			int error_page;

			for (;;) {
				gmem_vm_convert(g, 0, SIGNAL_PAGES, PRIVATE, &error_page);
				gmem_vm_convert(g, 0, SIGNAL_PAGES, 0, &error_page);
			}
		}
		usleep(100000);
		clock_gettime(CLOCK_MONOTONIC, &start);
		kill(pid, SIGKILL);
		ASSERT_EQ(pid, waitpid(pid, &status, 0));
		ASSERT_EQ(SIGKILL, WTERMSIG(status));
		ASSERT_GT(1000000, elapsed_us(start));

		/* The lock is free, and the range of one kind. */
		gmem_set_shared(g->fd, 0, SIGNAL_PAGES * PAGE_SIZE);
		if (pin >= 0)
			kvm_close(pin);
		gmem_set_private(g->fd, 0, SIGNAL_PAGES * PAGE_SIZE);
		gmem_set_shared(g->fd, 0, SIGNAL_PAGES * PAGE_SIZE);
	}
}

TEST_HARNESS_MAIN

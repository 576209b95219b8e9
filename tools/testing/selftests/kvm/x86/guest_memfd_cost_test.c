// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test what conversions of guest_memfd memory cost others: CPUs whose LRU caches
 * are drained, tasks that fault on the file or read its fdinfo, and tasks that
 * run where a fragmented file is made uniform or closed.
 *
 * Bounds are for slow machines, with all checks, in emulation.  Where other
 * machines can use the same CPUs, the best of several tries counts.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <linux/falloc.h>

#include "gmem_util.h"
#include "gmem_vm.h"
#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"
#include "kselftest_harness.h"

#define PRIVATE		KVM_MEMORY_ATTRIBUTE_PRIVATE
#define NR_PAGES	64
#define DATA_SIZE	(NR_PAGES * PAGE_SIZE)

#define NR_FRAGMENTS	100000
#define FRAGMENTED_SIZE	((NR_FRAGMENTS + 1) * GMEM_FRAGMENT_SIZE)
/* How long others may have to wait for a file with that many fragments. */
#define WAIT_MS		100

FIXTURE(cost) {
	struct gmem_vm g;
};

FIXTURE_SETUP(cost)
{
	const char *reason = gmem_vm_unsupported();

	if (reason)
		SKIP(exit(KSFT_SKIP), "%s", reason);
	if (nr_cpus() < 2)
		SKIP(exit(KSFT_SKIP), "only one CPU");

	gmem_vm_create(&self->g, NR_PAGES);
	pin_self_to_cpu(nth_cpu(0));
}

FIXTURE_TEARDOWN(cost)
{
	gmem_vm_free(&self->g);
}

struct toucher {
	char *mem;
	bool lock;
	pthread_barrier_t barrier;
};

/* Touch one page after the other, each when it is about to be converted. */
static void *touch_pages(void *arg)
{
	struct toucher *t = arg;
	int i;

	pin_self_to_cpu(nth_cpu(1));
	for (i = 0; i < NR_PAGES; i++) {
		pthread_barrier_wait(&t->barrier);
		WRITE_ONCE(t->mem[i * PAGE_SIZE], 1);
		if (t->lock)
			mlock(t->mem + i * PAGE_SIZE, PAGE_SIZE);
		pthread_barrier_wait(&t->barrier);
	}
	return NULL;
}

static void punch_all(struct gmem_vm *g)
{
	kvm_fallocate(g->fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, 0, DATA_SIZE);
}

/* Return how long the conversions took. */
static u64 touch_and_convert(struct __test_metadata *_metadata, struct gmem_vm *g,
			     bool lock)
{
	struct toucher t = { .mem = g->mem, .lock = lock };
	struct timespec start;
	pthread_t thread;
	int i, error_page;
	u64 us = 0;

	pthread_barrier_init(&t.barrier, NULL, 2);
	kvm_pthread_create(&thread, NULL, touch_pages, &t);
	for (i = 0; i < NR_PAGES; i++) {
		pthread_barrier_wait(&t.barrier);
		pthread_barrier_wait(&t.barrier);
		start = time_now();
		ASSERT_EQ(0, gmem_vm_convert(g, i, 1, PRIVATE, &error_page));
		us += elapsed_us(start);
	}
	kvm_pthread_join(thread, NULL);
	munlock(g->mem, DATA_SIZE);
	gmem_set_shared(g->fd, 0, DATA_SIZE);
	return us;
}

/*
 * Pages that wait in caches of another CPU, because they are new or have just
 * been locked, convert about as fast as those that don't.
 */
static void compare_with_drained(struct __test_metadata *_metadata, struct gmem_vm *g,
				 bool lock, int max_ratio)
{
	u64 us = 0, drained_us = 0;
	int i;

	for (i = 0; i < 5; i++) {
		punch_all(g);
		us = touch_and_convert(_metadata, g, lock);
		drained_us = touch_and_convert(_metadata, g, false);
		TH_LOG("%lu us per page, %lu us once drained", us / NR_PAGES,
		       drained_us / NR_PAGES);
		if (us <= max_ratio * drained_us)
			return;
	}
	ASSERT_GE(max_ratio * drained_us, us);
}

TEST_F_TIMEOUT(cost, fresh_pages, 120)
{
	compare_with_drained(_metadata, &self->g, false, 2);
}

/* Only a drain of the other CPU drops the reference, but it may not be delayed. */
TEST_F_TIMEOUT(cost, locked_pages, 120)
{
	compare_with_drained(_metadata, &self->g, true, 20);
}

static u64 convert_one_by_one(struct __test_metadata *_metadata, struct gmem_vm *g)
{
	struct timespec start = time_now();
	int i, error_page;
	u64 us;

	for (i = 0; i < NR_PAGES; i++)
		ASSERT_EQ(0, gmem_vm_convert(g, i, 1, PRIVATE, &error_page));
	us = elapsed_us(start);
	munlock(g->mem, DATA_SIZE);
	gmem_set_shared(g->fd, 0, DATA_SIZE);
	return us;
}

/*
 * Unmapping puts pages of a locked mapping into a cache of the CPU that does it,
 * i.e. that of the conversion.
 */
TEST_F_TIMEOUT(cost, locked_mapping, 120)
{
	struct gmem_vm *g = &self->g;
	u64 us = 0, unlocked_us = 0;
	int i;

	kvm_fallocate(g->fd, FALLOC_FL_KEEP_SIZE, 0, DATA_SIZE);
	for (i = 0; i < 5; i++) {
		kvm_madvise(g->mem, DATA_SIZE, MADV_POPULATE_WRITE);
		unlocked_us = convert_one_by_one(_metadata, g);

		ASSERT_EQ(0, mlock(g->mem, DATA_SIZE));
		us = convert_one_by_one(_metadata, g);
		TH_LOG("%lu us per locked page, %lu us per other", us / NR_PAGES,
		       unlocked_us / NR_PAGES);
		if (us <= 2 * unlocked_us)
			return;
	}
	ASSERT_GE(2 * unlocked_us, us);
}

/* How long this task ran, and how long it waited for a CPU. */
static bool read_schedstat(u64 *ran_ns, u64 *waited_ns)
{
	FILE *f = fopen("/proc/self/schedstat", "r");
	int nr;

	if (!f)
		return false;
	nr = fscanf(f, "%lu %lu", ran_ns, waited_ns);
	fclose(f);
	return nr == 2;
}

/*
 * A process on another CPU that always has something in its LRU cache.  It never
 * sleeps, i.e. it waits while the CPU does what others make the kernel do.
 * Exit with the share of that time, in 1/1000.
 */
static void run_bystander(void)
{
	char *mem = kvm_mmap(64 * PAGE_SIZE, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS, -1);
	u64 ran_ns, waited_ns, ran_before, waited_before;
	struct timespec start;
	int i;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	pin_self_to_cpu(nth_cpu(1));
	read_schedstat(&ran_before, &waited_before);
	start = time_now();
	while (elapsed_ms(start) < 1000) {
		for (i = 0; i < 64; i++)
			WRITE_ONCE(mem[i * PAGE_SIZE], 1);
		madvise(mem, 64 * PAGE_SIZE, MADV_DONTNEED);
	}
	read_schedstat(&ran_ns, &waited_ns);
	ran_ns -= ran_before;
	waited_ns -= waited_before;
	_exit(min_t(u64, 1000 * waited_ns / (ran_ns + waited_ns), 255));
}

static int lost_time(struct __test_metadata *_metadata, struct gmem_vm *g,
		     bool convert)
{
	int error_page, status, nr_calls = 0;
	pid_t pid = fork();

	if (!pid)
		run_bystander();

	while (waitpid(pid, &status, WNOHANG) != pid) {
		if (!convert) {
			usleep(1000);
			continue;
		}
		TEST_ASSERT(gmem_vm_convert(g, 0, NR_PAGES, PRIVATE, &error_page) == EAGAIN,
			    "A page is pinned, but was converted");
		nr_calls++;
	}
	TEST_ASSERT(WIFEXITED(status), "The bystander died, status 0x%x", status);
	TH_LOG("%d calls: %d/1000 of the other CPU's time are lost", nr_calls,
	       WEXITSTATUS(status));
	return WEXITSTATUS(status);
}

/* A VMM whose conversions fail must not slow down the rest of the machine. */
TEST_F_TIMEOUT(cost, failing_conversions, 120)
{
	int pin, i, lost = 255, idle_lost = 255;
	struct gmem_vm *g = &self->g;
	u64 ns;

	if (!gmem_vm_can_pin())
		SKIP(return, "CONFIG_GUP_TEST is not enabled");
	if (!read_schedstat(&ns, &ns))
		SKIP(return, "no /proc/self/schedstat (CONFIG_SCHED_INFO)");

	kvm_madvise(g->mem, DATA_SIZE, MADV_POPULATE_WRITE);
	pin = gmem_vm_pin(g, NR_PAGES - 1, 1);
	ASSERT_LE(0, pin);
	for (i = 0; i < 3; i++)
		idle_lost = min(idle_lost, lost_time(_metadata, g, false));
	for (i = 0; i < 10 && lost > idle_lost + 10; i++)
		lost = min(lost, lost_time(_metadata, g, true));
	kvm_close(pin);
	ASSERT_GE(idle_lost + 10, lost);
}

/* The fastest of many, the others have been interrupted. */
static u64 time_fdinfo(int fd)
{
	u64 ns, best = -1ull;
	struct timespec begin = time_now(), start;
	int i;

	for (i = 0; i < 50 && elapsed_ms(begin) < 2000; i++) {
		start = time_now();
		gmem_read_fdinfo(getpid(), fd);
		ns = timespec_to_ns(timespec_elapsed(start));
		best = min_t(u64, best, ns);
	}
	return best;
}

static int create_shared(struct gmem_vm *g, u64 size)
{
	return vm_create_guest_memfd(g->vm, size, GUEST_MEMFD_FLAG_MMAP |
				     GUEST_MEMFD_FLAG_INIT_SHARED);
}

TEST_F_TIMEOUT(cost, fdinfo, 300)
{
	u64 empty_ns, pages_ns, ranges_ns;
	int fd, nr_pages = 65536;

	fd = create_shared(&self->g, FRAGMENTED_SIZE);
	empty_ns = time_fdinfo(fd);
	kvm_fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, nr_pages * PAGE_SIZE);
	pages_ns = time_fdinfo(fd);
	kvm_fallocate(fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, 0,
		      nr_pages * PAGE_SIZE);
	gmem_fragment(fd, NR_FRAGMENTS);
	ASSERT_EQ(2 * NR_FRAGMENTS + 1, gmem_read_fdinfo(getpid(), fd).ranges);
	ranges_ns = time_fdinfo(fd);
	kvm_close(fd);

	TH_LOG("%lu ns, %lu ns with %d pages, %lu ns with %d ranges", empty_ns,
	       pages_ns, nr_pages, ranges_ns, 2 * NR_FRAGMENTS + 1);
	EXPECT_GE(3 * empty_ns, pages_ns);
	EXPECT_GE(3 * empty_ns, ranges_ns);
}

/*
 * Tasks that want to run for a moment, again and again: on each CPU one that
 * comes first, and one that faults on the first page of a file if there is one.
 */
struct watcher {
	pthread_t thread;
	int cpu;
	char *mem;
	bool *stop;
	u64 worst_ms;
};

static void *watch(void *arg)
{
	const struct sched_param param = { .sched_priority = 1 };
	struct watcher *w = arg;
	struct timespec start;

	pin_self_to_cpu(w->cpu);
	sched_setscheduler(0, SCHED_FIFO, &param);
	while (!READ_ONCE(*w->stop)) {
		start = time_now();
		usleep(1000);
		if (w->mem) {
			madvise(w->mem, PAGE_SIZE, MADV_DONTNEED);
			WRITE_ONCE(*w->mem, 1);
		}
		w->worst_ms = max_t(u64, w->worst_ms, elapsed_ms(start));
	}
	return NULL;
}

/* Return the longest that one had to wait. */
static u64 watch_the_end(struct __test_metadata *_metadata, struct gmem_vm *g,
			 bool just_close)
{
	struct watcher watchers[3] = {};
	struct timespec start;
	u64 ms, worst = 0;
	bool stop = false;
	int fd, i;

	fd = create_shared(g, FRAGMENTED_SIZE);
	gmem_fragment(fd, NR_FRAGMENTS);

	for (i = 0; i < ARRAY_SIZE(watchers); i++) {
		watchers[i].cpu = nth_cpu(i & 1);
		watchers[i].stop = &stop;
		if (i == 2 && !just_close)
			watchers[i].mem = kvm_mmap(PAGE_SIZE, PROT_READ | PROT_WRITE,
						   MAP_SHARED, fd);
		kvm_pthread_create(&watchers[i].thread, NULL, watch, &watchers[i]);
	}
	usleep(50000);

	start = time_now();
	if (just_close)
		kvm_close(fd);
	else
		gmem_set_private(fd, 2 * PAGE_SIZE, FRAGMENTED_SIZE - 2 * PAGE_SIZE);
	ms = elapsed_ms(start);

	/* Memory is freed after a grace period. */
	sleep(2);
	WRITE_ONCE(stop, true);
	for (i = 0; i < ARRAY_SIZE(watchers); i++) {
		kvm_pthread_join(watchers[i].thread, NULL);
		TH_LOG("%lu ms, of which a %s had to wait %lu ms", ms,
		       watchers[i].mem ? "fault" : "task", watchers[i].worst_ms);
		worst = max_t(u64, worst, watchers[i].worst_ms);
		if (watchers[i].mem)
			kvm_munmap(watchers[i].mem, PAGE_SIZE);
	}
	if (!just_close)
		kvm_close(fd);
	return worst;
}

TEST_F_TIMEOUT(cost, make_uniform, 300)
{
	u64 worst = WAIT_MS;
	int i;

	for (i = 0; i < 3 && worst >= WAIT_MS; i++)
		worst = watch_the_end(_metadata, &self->g, false);
	ASSERT_GT(WAIT_MS, worst);
}

TEST_F_TIMEOUT(cost, close, 300)
{
	u64 worst = WAIT_MS;
	int i;

	for (i = 0; i < 3 && worst >= WAIT_MS; i++)
		worst = watch_the_end(_metadata, &self->g, true);
	ASSERT_GT(WAIT_MS, worst);
}

TEST_HARNESS_MAIN

// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test the cost of guest_memfd conversions for others: CPUs whose LRU caches
 * are drained, tasks that fault on the file or read its fdinfo, and tasks on
 * the CPU that makes a fragmented file uniform or closes it.  Also test that
 * conversions skip unchanged pages.
 *
 * The bounds allow for slow machines, i.e. for emulation with all debug checks.
 * Compare each measurement with an adjacent one in which the cause is absent,
 * and use the median of several, as the CPUs may have other work.
 */
#include <sched.h>
#include <sys/resource.h>

#include "gmem_test.h"

#define NR_PAGES	64
#define NR_WINDOWS	9
#define WINDOW_MS	500

#define NR_FRAGMENTS	100000
#define FRAGMENTED_SIZE	((NR_FRAGMENTS + 1) * GMEM_FRAGMENT_SIZE)
/* The maximum wait of other tasks: in ms, and in percent of the operation's time. */
#define WAIT_MS		100
#define WAIT_PERCENT	25

/*
 * A failing conversion may make another CPU drain its LRU caches every 50 ms,
 * and do the resulting work, e.g. free memory.  With three switches per drain,
 * that is below 1% of the CPU's time if switching to another task and back
 * takes less than 0.16 ms.  It takes longer in emulation, so count switches.
 */
#define MAX_SWITCHES	(3 * WINDOW_MS / 50)

GMEM_FIXTURE(cost, NR_PAGES)

static u64 nr_switches;

/*
 * Keep the LRU cache of another CPU filled.  Never sleep, so that the thread is
 * switched out only if the kernel does work for others.
 */
static bool fill_lru_cache(u64 n)
{
	static char mem[64 * PAGE_SIZE] __aligned(PAGE_SIZE);
	struct rusage usage;
	int i;

	if (!n)
		pin_self_to_cpu(nth_cpu(1));
	for (i = 0; i < sizeof(mem); i += PAGE_SIZE)
		WRITE_ONCE(mem[i], 1);
	madvise(mem, sizeof(mem), MADV_DONTNEED);
	getrusage(RUSAGE_THREAD, &usage);
	WRITE_ONCE(nr_switches, usage.ru_nivcsw);
	return true;
}

/* Return how often the bystander was switched out, with or without conversions. */
static s64 count_switches(bool convert)
{
	u64 before = READ_ONCE(nr_switches);
	struct timespec start = time_now();

	while (elapsed_ms(start) < WINDOW_MS) {
		if (convert)
			TEST_ASSERT_EQ(gmem_convert(g, 0, NR_PAGES, PRIVATE), EAGAIN);
		else
			usleep(1000);
	}
	/* The last conversion may have exceeded the window. */
	return (READ_ONCE(nr_switches) - before) * WINDOW_MS / elapsed_ms(start);
}

/* A VMM whose conversions fail must not slow down the rest of the machine. */
TEST_F_TIMEOUT(cost, failing_conversions, 120)
{
	struct worker bystander = { "bystander", fill_lru_cache };
	u64 excess[NR_WINDOWS];
	s64 quiet, busy;
	int pin, i;

	SKIP_IF(gmem_pin_unsupported());

	kvm_madvise(g->mem, DATA_SIZE, MADV_POPULATE_WRITE);
	pin = gmem_pin(g, NR_PAGES - 1, 1);
	workers_start(&bystander, 1);

	for (i = 0; i < NR_WINDOWS; i++) {
		quiet = count_switches(false);
		busy = count_switches(true);
		excess[i] = max_t(s64, busy - quiet, 0);
		TH_LOG("%ld switches without conversions, %ld with", quiet, busy);
	}
	workers_stop(&bystander, 1);
	kvm_close(pin);
	ASSERT_LT(NR_WINDOWS, bystander.nr_done);
	ASSERT_GE(MAX_SWITCHES, median(excess, NR_WINDOWS));
}

/* Two pages with 16 leaves in between, i.e. 65,536 pages. */
#define LEAF		(GMEM_FRAGMENT_SIZE / PAGE_SIZE)
#define FIRST		(LEAF - 1)
#define LAST		(17 * LEAF)

struct times {
	u64 fdinfo_ns, convert_ns;
};

/*
 * Read fdinfo, and make two pages private.  From the second time on, all pages in
 * between are already private.
 */
static struct times take_times(struct gmem_vm *file)
{
	u64 fdinfo_ns[25], convert_ns[25];
	struct timespec start;
	int i;

	for (i = 0; i < ARRAY_SIZE(fdinfo_ns); i++) {
		start = time_now();
		gmem_read_fdinfo(getpid(), file->fd);
		fdinfo_ns[i] = timespec_to_ns(timespec_elapsed(start));

		gmem_make_shared(file, FIRST, 1);
		gmem_make_shared(file, LAST, 1);
		start = time_now();
		gmem_make_private(file, FIRST, LAST - FIRST + 1);
		convert_ns[i] = timespec_to_ns(timespec_elapsed(start));
	}
	return (struct times){ median(fdinfo_ns, i), median(convert_ns, i) };
}

/*
 * Long runs of pages that don't change cost nothing.  The cost of fdinfo depends
 * neither on the number of pages nor on that of ranges.
 */
TEST_F_TIMEOUT(cost, unchanged_pages, 300)
{
	struct gmem_vm file = { .fd = gmem_create_shared(g, FRAGMENTED_SIZE) };
	struct times empty, pages, ranges;

	empty = take_times(&file);
	gmem_allocate(&file, FIRST + 1, LAST - FIRST - 1);
	pages = take_times(&file);
	gmem_punch_hole(&file, 0, LAST);
	gmem_make_shared(&file, 0, LAST + 1);
	gmem_fragment(file.fd, NR_FRAGMENTS);
	ranges = take_times(&file);
	kvm_close(file.fd);

	EXPECT_GE(10 * empty.convert_ns, pages.convert_ns);
	EXPECT_GE(3 * empty.fdinfo_ns, pages.fdinfo_ns);
	EXPECT_GE(3 * empty.fdinfo_ns, ranges.fdinfo_ns);
}

static enum { QUIET, BUSY, DONE } phase;

/* Real-time threads, one on each of two CPUs, that run briefly and repeatedly. */
struct watcher {
	pthread_t thread;
	int cpu;
	char *mem;		/* a page of the file to fault on, or NULL */
	s64 worst_ms[2];	/* of waits that end while QUIET, and later */
};

static void *watch(void *arg)
{
	const struct sched_param param = { .sched_priority = 1 };
	struct watcher *w = arg;
	struct timespec start;
	int p;

	pin_self_to_cpu(w->cpu);
	sched_setscheduler(0, SCHED_FIFO, &param);
	do {
		start = time_now();
		usleep(1000);
		if (w->mem) {
			madvise(w->mem, PAGE_SIZE, MADV_DONTNEED);
			WRITE_ONCE(*w->mem, 1);
		}
		p = READ_ONCE(phase);
		w->worst_ms[p != QUIET] = max_t(s64, w->worst_ms[p != QUIET],
						elapsed_ms(start));
	} while (p != DONE);
	return NULL;
}

/*
 * Return how long tasks have to wait while a fragmented file is closed or made
 * uniform, as a percentage of the operation's time.  Cap that time, so that
 * WAIT_PERCENT of it is at most WAIT_MS.  If the host preempts emulated CPUs,
 * tasks have to wait even while nothing happens, and even longer during the
 * operation.  Hence subtract twice the wait while nothing happens.
 */
static u64 wait_percent(bool close)
{
	int fd = gmem_create_shared(g, FRAGMENTED_SIZE), i;
	struct watcher w[2] = {};
	struct timespec start;
	s64 quiet, busy;
	u64 end_ms;

	gmem_fragment(fd, NR_FRAGMENTS);
	/* A mapping would keep the file open. */
	if (!close)
		w[1].mem = kvm_mmap(PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd);

	phase = QUIET;
	for (i = 0; i < ARRAY_SIZE(w); i++) {
		w[i].cpu = nth_cpu(i);
		kvm_pthread_create(&w[i].thread, NULL, watch, &w[i]);
	}
	sleep(2);

	WRITE_ONCE(phase, BUSY);
	start = time_now();
	if (close)
		kvm_close(fd);
	else
		gmem_set_private(fd, 2 * PAGE_SIZE, FRAGMENTED_SIZE - 2 * PAGE_SIZE);
	end_ms = elapsed_ms(start);

	/* Wait for memory to be freed, after an RCU grace period. */
	sleep(2);
	WRITE_ONCE(phase, DONE);
	for (i = 0; i < ARRAY_SIZE(w); i++)
		kvm_pthread_join(w[i].thread, NULL);
	if (!close) {
		kvm_munmap(w[1].mem, PAGE_SIZE);
		kvm_close(fd);
	}

	quiet = max(w[0].worst_ms[QUIET], w[1].worst_ms[QUIET]);
	busy = max(w[0].worst_ms[BUSY], w[1].worst_ms[BUSY]);
	ksft_print_msg("waited %ld of %lu ms, %ld ms while nothing happened\n",
		       busy, end_ms, quiet);
	return max_t(s64, busy - 2 * quiet, 0) * 100 /
	       clamp(end_ms, 1ul, WAIT_MS * 100ul / WAIT_PERCENT);
}

static u64 median_wait(bool close)
{
	u64 percent[] = { wait_percent(close), wait_percent(close), wait_percent(close) };

	return median(percent, ARRAY_SIZE(percent));
}

TEST_F_TIMEOUT(cost, make_uniform, 300)
{
	ASSERT_GT(WAIT_PERCENT, median_wait(false));
}

TEST_F_TIMEOUT(cost, close, 300)
{
	ASSERT_GT(WAIT_PERCENT, median_wait(true));
}

int main(int argc, char **argv)
{
	pin_self_to_cpu(nth_cpu(0));
	return gmem_test_run(argc, argv, smp_unsupported() ?: gmem_vm_unsupported());
}

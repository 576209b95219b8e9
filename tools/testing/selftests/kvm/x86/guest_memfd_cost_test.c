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

#define NR_FRAGMENTS	100000
#define FRAGMENTED_SIZE	((NR_FRAGMENTS + 1) * GMEM_FRAGMENT_SIZE)
/* The maximum wait of others: in ms, and relative to the operation's time. */
#define WAIT_MS		100
#define WAIT_PERCENT	25

GMEM_FIXTURE(cost, NR_PAGES)

#define WINDOW_MS	500

/*
 * A failing conversion may make another CPU drain its LRU caches every 50 ms,
 * and do the resulting work, e.g. free memory.  With three switches per drain,
 * that is below 1% of the CPU's time if switching to another task and back
 * takes less than 0.16 ms.  It takes longer in emulation, so count switches.
 */
#define MAX_SWITCHES	(3 * WINDOW_MS / 50)

struct bystander {
	bool stop;
	u64 nr_switches;
};

/*
 * A process that keeps another CPU's LRU cache filled.  It never sleeps, so it
 * is switched out only if the kernel does work for others.
 */
static void run_bystander(struct bystander *b)
{
	char *mem = kvm_mmap(64 * PAGE_SIZE, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS, -1);
	struct rusage usage;
	int i;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	pin_self_to_cpu(nth_cpu(1));
	while (!READ_ONCE(b->stop)) {
		for (i = 0; i < 64; i++)
			WRITE_ONCE(mem[i * PAGE_SIZE], 1);
		madvise(mem, 64 * PAGE_SIZE, MADV_DONTNEED);
		getrusage(RUSAGE_SELF, &usage);
		WRITE_ONCE(b->nr_switches, usage.ru_nivcsw);
	}
	_exit(0);
}

/* Return how often the bystander was switched out, with or without conversions. */
static s64 count_switches(struct bystander *b, bool convert)
{
	u64 before = READ_ONCE(b->nr_switches);
	struct timespec start = time_now();

	while (elapsed_ms(start) < WINDOW_MS) {
		if (convert)
			TEST_ASSERT_EQ(gmem_convert(g, 0, NR_PAGES, PRIVATE), EAGAIN);
		else
			usleep(1000);
	}
	/* The last conversion may have exceeded the window. */
	return (READ_ONCE(b->nr_switches) - before) * WINDOW_MS / elapsed_ms(start);
}

/* A VMM whose conversions fail must not slow down the rest of the machine. */
TEST_F_TIMEOUT(cost, failing_conversions, 120)
{
	u64 excess[NR_WINDOWS], nr;
	struct bystander *b;
	s64 quiet, busy;
	int pin, i;
	pid_t pid;

	SKIP_IF(gmem_pin_unsupported());

	kvm_madvise(g->mem, DATA_SIZE, MADV_POPULATE_WRITE);
	pin = gmem_pin(g, NR_PAGES - 1, 1);
	b = kvm_mmap(PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1);
	pid = fork();
	if (!pid)
		run_bystander(b);

	for (i = 0; i < NR_WINDOWS; i++) {
		quiet = count_switches(b, false);
		busy = count_switches(b, true);
		excess[i] = max_t(s64, busy - quiet, 0);
		TH_LOG("%ld switches without conversions, %ld with", quiet, busy);
	}
	WRITE_ONCE(b->stop, true);
	ASSERT_EQ(pid, waitpid(pid, NULL, 0));
	kvm_close(pin);

	nr = median(excess, NR_WINDOWS);
	TH_LOG("%lu more switches in %d ms", nr, WINDOW_MS);
	ASSERT_GE(MAX_SWITCHES, nr);
}

static u64 time_fdinfo(int fd)
{
	struct timespec start;
	u64 ns[50];
	int i;

	for (i = 0; i < ARRAY_SIZE(ns); i++) {
		start = time_now();
		gmem_read_fdinfo(getpid(), fd);
		ns[i] = timespec_to_ns(timespec_elapsed(start));
	}
	return median(ns, ARRAY_SIZE(ns));
}

/* The cost depends neither on the number of pages nor on that of ranges. */
TEST_F_TIMEOUT(cost, fdinfo, 300)
{
	struct gmem_vm file = { .fd = gmem_create_shared(g, FRAGMENTED_SIZE) };
	u64 empty_ns, pages_ns, ranges_ns;
	int nr_pages = 65536;

	empty_ns = time_fdinfo(file.fd);
	gmem_allocate(&file, 0, nr_pages);
	pages_ns = time_fdinfo(file.fd);
	gmem_punch_hole(&file, 0, nr_pages);
	gmem_fragment(file.fd, NR_FRAGMENTS);
	ASSERT_EQ(2 * NR_FRAGMENTS + 1, gmem_read_fdinfo(getpid(), file.fd).ranges);
	ranges_ns = time_fdinfo(file.fd);
	kvm_close(file.fd);

	TH_LOG("%lu ns, %lu ns with %d pages, %lu ns with %d ranges", empty_ns,
	       pages_ns, nr_pages, ranges_ns, 2 * NR_FRAGMENTS + 1);
	EXPECT_GE(3 * empty_ns, pages_ns);
	EXPECT_GE(3 * empty_ns, ranges_ns);
}

/* Return the time to make two pages private, with private ones in between. */
static u64 time_ends(struct gmem_vm *file, int first, int last)
{
	struct timespec start;
	u64 ns[9];
	int i;

	for (i = 0; i < ARRAY_SIZE(ns); i++) {
		gmem_make_shared(file, first, 1);
		gmem_make_shared(file, last, 1);
		start = time_now();
		gmem_make_private(file, first, last - first + 1);
		ns[i] = timespec_to_ns(timespec_elapsed(start));
	}
	return median(ns, ARRAY_SIZE(ns));
}

/* Unchanged pages cost nothing if there are many in a row. */
TEST_F_TIMEOUT(cost, unchanged_pages, 300)
{
	const int leaf = GMEM_FRAGMENT_SIZE / PAGE_SIZE, first = leaf - 1, last = 4 * leaf;
	struct gmem_vm file = {
		.fd = vm_create_guest_memfd(g->vm, 5 * GMEM_FRAGMENT_SIZE, 0),
	};
	u64 empty_ns, pages_ns;

	empty_ns = time_ends(&file, first, last);
	gmem_allocate(&file, first + 1, last - first - 1);
	pages_ns = time_ends(&file, first, last);
	kvm_close(file.fd);

	TH_LOG("%lu ns, %lu ns with %d pages in between", empty_ns, pages_ns,
	       last - first - 1);
	EXPECT_GE(10 * empty_ns, pages_ns);
}

/*
 * Real-time tasks that run briefly and repeatedly: one on each of two CPUs, and
 * a third that also faults on the first page of the file, if that stays open.
 */
struct watcher {
	pthread_t thread;
	int cpu;
	char *mem;
	u64 worst_ms;
};

static bool stop_watching;
/* The time that the last operation took. */
static u64 end_ms;

static void *watch(void *arg)
{
	const struct sched_param param = { .sched_priority = 1 };
	struct watcher *w = arg;
	struct timespec start;

	pin_self_to_cpu(w->cpu);
	sched_setscheduler(0, SCHED_FIFO, &param);
	while (!READ_ONCE(stop_watching)) {
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

enum end {
	NOTHING,
	MAKE_UNIFORM,
	CLOSE,
};

/* Return the longest wait of any watcher while @end happens to a file. */
static s64 watch_the_end(enum end end)
{
	struct watcher watchers[3] = {};
	struct timespec start;
	u64 worst = 0;
	int fd, i;

	fd = gmem_create_shared(g, FRAGMENTED_SIZE);
	if (end != NOTHING)
		gmem_fragment(fd, NR_FRAGMENTS);

	stop_watching = false;
	for (i = 0; i < ARRAY_SIZE(watchers); i++) {
		watchers[i].cpu = nth_cpu(i & 1);
		if (i == 2 && end != CLOSE)
			watchers[i].mem = kvm_mmap(PAGE_SIZE, PROT_READ | PROT_WRITE,
						   MAP_SHARED, fd);
		kvm_pthread_create(&watchers[i].thread, NULL, watch, &watchers[i]);
	}
	usleep(50000);

	start = time_now();
	if (end == CLOSE)
		kvm_close(fd);
	else if (end == MAKE_UNIFORM)
		gmem_set_private(fd, 2 * PAGE_SIZE, FRAGMENTED_SIZE - 2 * PAGE_SIZE);
	end_ms = elapsed_ms(start);

	/* Wait for memory to be freed, after an RCU grace period. */
	sleep(2);
	WRITE_ONCE(stop_watching, true);
	for (i = 0; i < ARRAY_SIZE(watchers); i++) {
		kvm_pthread_join(watchers[i].thread, NULL);
		worst = max_t(u64, worst, watchers[i].worst_ms);
		if (watchers[i].mem)
			kvm_munmap(watchers[i].mem, PAGE_SIZE);
	}
	if (end != CLOSE)
		kvm_close(fd);
	return worst;
}

/*
 * If the host preempts emulated CPUs, tasks have to wait even while nothing
 * happens, and even longer for a conversion.  Subtract twice the wait while
 * nothing happens.  Return the rest as a percentage of the operation's time,
 * capped so that WAIT_PERCENT of it is at most WAIT_MS.
 */
static u64 median_wait(enum end end)
{
	const u64 longest = WAIT_MS * 100 / WAIT_PERCENT;
	u64 percent[3];
	s64 quiet, busy;
	int i;

	for (i = 0; i < ARRAY_SIZE(percent); i++) {
		quiet = watch_the_end(NOTHING);
		busy = watch_the_end(end);
		percent[i] = max_t(s64, busy - 2 * quiet, 0) * 100 /
			     clamp(end_ms, 1ul, longest);
		ksft_print_msg("waited %ld of %lu ms, %ld ms while nothing happened\n",
			       busy, end_ms, quiet);
	}
	return median(percent, ARRAY_SIZE(percent));
}

TEST_F_TIMEOUT(cost, make_uniform, 300)
{
	ASSERT_GT(WAIT_PERCENT, median_wait(MAKE_UNIFORM));
}

TEST_F_TIMEOUT(cost, close, 300)
{
	ASSERT_GT(WAIT_PERCENT, median_wait(CLOSE));
}

int main(int argc, char **argv)
{
	pin_self_to_cpu(nth_cpu(0));
	return gmem_test_run(argc, argv, smp_unsupported() ?: gmem_vm_unsupported());
}

// SPDX-License-Identifier: GPL-2.0-only
/*
 * gmem-bench: measure the cost of converting guest_memfd memory between shared
 * and private.  Each row of output is
 *
 *	row <TAB> VALUE <TAB> UNIT <TAB> NAME
 *
 * VALUE is a time in nanoseconds of CLOCK_MONOTONIC if UNIT is "call", "page"
 * or "fault", i.e. the time per call, page or fault.  The other units are "ms",
 * "KiB", "count", and "x" for a ratio.  The benchmark is meant for a machine
 * with one CPU whose clock counts instructions (QEMU's -icount
 * shift=0,sleep=off): there, one nanosecond is one instruction, and results
 * are reproducible.  On other machines they are just times.
 *
 * A result includes reading the clock once per timed call; the row "reading
 * the clock" has the cost of that.
 */
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "bench.h"

static const struct {
	const char *name;
	bool in_place;
	bool per_vm;
	void (*run)(void);
} cases[] = {
	{ "references",	true,	true,	bench_references },
	{ "states",	true,	false,	bench_states },
	{ "empty",	true,	false,	bench_empty },
	{ "no-change",	true,	false,	bench_no_change },
	{ "fragments",	true,	false,	bench_fragments },
	{ "busy",	true,	false,	bench_busy },
	{ "wait",	true,	false,	bench_wait },
	{ "in-place",	true,	false,	bench_in_place },
	{ "huge",	true,	false,	bench_huge },
	{ "per-vm",	false,	true,	bench_per_vm },
};

void pause_ns(long ns)
{
	struct timespec pause = { .tv_nsec = ns };

	clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, NULL);
}

void start_fifo_thread(pthread_t *thread, void *(*run)(void *), void *arg)
{
	struct sched_param param = { .sched_priority = 1 };
	pthread_attr_t attr;

	pthread_attr_init(&attr);
	pthread_attr_setinheritsched(&attr, PTHREAD_EXPLICIT_SCHED);
	pthread_attr_setschedpolicy(&attr, SCHED_FIFO);
	pthread_attr_setschedparam(&attr, &param);
	errno = pthread_create(thread, &attr, run, arg);
	if (errno)
		err(1, "pthread_create");
	pthread_attr_destroy(&attr);
}

__u64 now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ULL + ts.tv_nsec;
}

static int compare(const void *a, const void *b)
{
	const __u64 *x = a, *y = b;

	return *x < *y ? -1 : *x > *y;
}

/* The median excludes calls that were hit by a timer interrupt. */
__u64 median(__u64 *sample, unsigned int nr)
{
	qsort(sample, nr, sizeof(*sample), compare);
	return sample[nr / 2];
}

const char *size_name(__u64 size)
{
	static const char * const unit[] = { "KiB", "MiB", "GiB", "TiB" };
	static char name[16];
	unsigned int i = 0;

	for (size /= KIB; size >= KIB && i + 1 < ARRAY_SIZE(unit); i++)
		size /= KIB;
	snprintf(name, sizeof(name), "%llu %s", size, unit[i]);
	return name;
}

void row(double value, const char *unit, const char *fmt, ...)
{
	va_list ap;

	printf("row\t%.3f\t%s\t", value, unit);
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	printf("\n");
	profile_print();
	fflush(stdout);
}

/*
 * References for the other rows, one per call and one per page, to distinguish
 * a change in the kernel from a change in the compiler.  Both run kernel code
 * like that of a conversion, built by the same compiler, but do not convert
 * memory.  Neither allocates or clears pages: clearing a page takes one
 * instruction or thousands, depending on the CPU.
 *
 * Per call: punching a hole into an empty part of a memfd.  Like a conversion,
 * this is a system call that takes a file's locks, unmaps and walks a range,
 * and finds nothing to do.
 *
 * Per page: mapping and unmapping a page of a memfd.  This gets the folio from
 * the page cache, locks it, and changes page tables and the reverse map.
 */
#define REF_PAGES	4096

void bench_references(void)
{
	int fd = memfd_create("reference", MFD_CLOEXEC);
	__u64 sample[MAX_ROUNDS], t;
	volatile __u8 *mem;
	unsigned int i, j;

	if (fd < 0 || ftruncate(fd, 2 * REF_PAGES * PAGE_BYTES))
		err(1, "memfd");
	mem = mmap(NULL, REF_PAGES * PAGE_BYTES, PROT_READ | PROT_WRITE,
		   MAP_SHARED, fd, 0);
	if (mem == MAP_FAILED)
		err(1, "mmap");

	for (i = 0; i < MAX_ROUNDS; i++) {
		t = now();
		sample[i] = now() - t;
	}
	row(median(sample, MAX_ROUNDS), "call", "reading the clock");

	for (i = 0; i < MAX_ROUNDS; i++) {
		t = now();
		syscall(SYS_getppid);
		sample[i] = now() - t;
	}
	row(median(sample, MAX_ROUNDS), "call", "a system call, getppid()");

	for (i = 0; i < MAX_ROUNDS; i++) {
		t = now();
		if (fallocate(fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE,
			      REF_PAGES * PAGE_BYTES, PAGE_BYTES))
			err(1, "punching a hole in the memfd");
		sample[i] = now() - t;
	}
	row(median(sample, MAX_ROUNDS), "call",
	    "reference per call: a hole in an empty memfd");

	/* The first round allocates. */
	for (i = 0; i < 4; i++) {
		t = now();
		for (j = 0; j < REF_PAGES; j++)
			mem[j * PAGE_BYTES] = 1;
		if (madvise((void *)mem, REF_PAGES * PAGE_BYTES, MADV_DONTNEED))
			err(1, "madvise");
		sample[i] = now() - t;
	}
	row((double)median(sample + 1, 3) / REF_PAGES, "page",
	    "reference per page: map and unmap a memfd");

	munmap((void *)mem, REF_PAGES * PAGE_BYTES);
	close(fd);
}

static void usage(FILE *file)
{
	unsigned int i;

	fprintf(file, "usage: gmem-bench [--profile] [CASE...]\ncases:");
	for (i = 0; i < ARRAY_SIZE(cases); i++)
		fprintf(file, " %s", cases[i].name);
	fprintf(file, "\nby default, all cases that apply to KVM's current mode\n"
		"--profile: print the kernel functions that conversions and guest faults spend their time in\n");
}

int main(int argc, char **argv)
{
	bool in_place = has_in_place_conversion();
	unsigned int i;
	int arg;

	if (argc > 1 && !strcmp(argv[1], "--profile")) {
		profile_open();
		argv++;
		argc--;
	}
	if (argc > 1 && !strcmp(argv[1], "--help")) {
		usage(stdout);
		return 0;
	}
	for (i = 0; argc < 2 && i < ARRAY_SIZE(cases); i++)
		if (in_place ? cases[i].in_place : cases[i].per_vm)
			cases[i].run();
	for (arg = 1; arg < argc; arg++) {
		for (i = 0; i < ARRAY_SIZE(cases); i++)
			if (!strcmp(argv[arg], cases[i].name))
				break;
		if (i == ARRAY_SIZE(cases)) {
			usage(stderr);
			return 2;
		}
		if (!(in_place ? cases[i].in_place : cases[i].per_vm)) {
			fprintf(stderr, "gmem-bench: %s: not available with gmem_in_place_conversion=%d\n",
				argv[arg], in_place);
			return EXIT_CANNOT_RUN;
		}
		cases[i].run();
	}
	return 0;
}

// SPDX-License-Identifier: GPL-2.0-only
/*
 * --profile: the kernel functions that conversions and guest faults spend their
 * time in.
 *
 * A perf event samples the kernel's instruction pointer between profile_begin()
 * and profile_end().  It uses a timer interrupt, so code that runs with
 * interrupts disabled is attributed to the place where they are enabled again.
 */
#include <err.h>
#include <fcntl.h>
#include <linux/perf_event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "bench.h"

/* The shortest period that the kernel accepts for its software clock. */
#define PERIOD_NS	10000
#define RING_PAGES	64
#define MAX_FUNCTIONS	200000
#define SHOWN		12

static struct function {
	__u64 address;
	char name[60];
	unsigned int samples;
} *functions;
static unsigned int nr_functions;

static int perf_fd = -1;
static struct perf_event_mmap_page *ring;

static int by_address(const void *a, const void *b)
{
	const struct function *x = a, *y = b;

	return x->address < y->address ? -1 : x->address > y->address;
}

static int by_samples(const void *a, const void *b)
{
	const struct function *x = *(struct function **)a;
	const struct function *y = *(struct function **)b;

	return x->samples > y->samples ? -1 : x->samples < y->samples;
}

static void read_symbols(void)
{
	FILE *file = fopen("/proc/kallsyms", "re");
	char line[256], type;
	struct function *f;

	functions = calloc(MAX_FUNCTIONS, sizeof(*functions));
	if (!file || !functions)
		err(1, "/proc/kallsyms");
	while (nr_functions < MAX_FUNCTIONS && fgets(line, sizeof(line), file)) {
		f = &functions[nr_functions];
		if (sscanf(line, "%llx %c %59s", &f->address, &type, f->name) == 3 &&
		    strchr("tTwW", type))
			nr_functions++;
	}
	fclose(file);
	qsort(functions, nr_functions, sizeof(*functions), by_address);
	if (!nr_functions || !functions[nr_functions - 1].address)
		errx(1, "/proc/kallsyms shows no addresses; this needs root");
}

static void write_setting(const char *name, const char *value)
{
	int fd = open(name, O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, value, strlen(value)) < 0)
		err(1, "%s", name);
	close(fd);
}

/* Until the kernel has verified its clock, its timers have the resolution of a tick. */
static void wait_for_timers(void)
{
	struct timespec res;
	unsigned int i;

	for (i = 0; i < 1000; i++) {
		if (!clock_getres(CLOCK_MONOTONIC, &res) &&
		    !res.tv_sec && res.tv_nsec < PERIOD_NS)
			return;
		usleep(10000);
	}
	errx(1, "no high-resolution timers");
}

void profile_open(void)
{
	struct perf_event_attr attr = {
		.type = PERF_TYPE_SOFTWARE,
		.config = PERF_COUNT_SW_CPU_CLOCK,
		.size = sizeof(attr),
		.sample_period = PERIOD_NS,
		.sample_type = PERF_SAMPLE_IP,
		.exclude_user = 1,
		.disabled = 1,
	};

	read_symbols();
	wait_for_timers();
	/* Don't let the kernel reduce the rate if sampling takes much of the time. */
	write_setting("/proc/sys/kernel/perf_event_max_sample_rate", "200000");
	write_setting("/proc/sys/kernel/perf_cpu_time_max_percent", "0");
	perf_fd = syscall(SYS_perf_event_open, &attr, 0, -1, -1, PERF_FLAG_FD_CLOEXEC);
	if (perf_fd < 0)
		err(1, "perf_event_open");
	ring = mmap(NULL, (1 + RING_PAGES) * PAGE_BYTES, PROT_READ | PROT_WRITE,
		    MAP_SHARED, perf_fd, 0);
	if (ring == MAP_FAILED)
		err(1, "mmap of the perf event");
}

static void count(__u64 address)
{
	unsigned int low = 0, high = nr_functions, middle;

	/* Find the last function that begins at or before the address. */
	while (high - low > 1) {
		middle = (low + high) / 2;
		if (functions[middle].address <= address)
			low = middle;
		else
			high = middle;
	}
	functions[low].samples++;
}

static void drain(void)
{
	const char *data = (char *)ring + ring->data_offset;
	__u64 head = __atomic_load_n(&ring->data_head, __ATOMIC_ACQUIRE);
	__u64 tail = ring->data_tail;
	struct perf_event_header header;
	__u64 address;

	/* Records consist of 64-bit words, none of which wraps. */
	for (; tail < head; tail += header.size) {
		memcpy(&header, data + tail % ring->data_size, sizeof(header));
		memcpy(&address, data + (tail + sizeof(header)) % ring->data_size,
		       sizeof(address));
		if (header.type == PERF_RECORD_SAMPLE)
			count(address);
	}
	__atomic_store_n(&ring->data_tail, tail, __ATOMIC_RELEASE);
}

void profile_begin(void)
{
	if (perf_fd >= 0)
		ioctl(perf_fd, PERF_EVENT_IOC_ENABLE, 0);
}

void profile_end(void)
{
	if (perf_fd < 0)
		return;
	ioctl(perf_fd, PERF_EVENT_IOC_DISABLE, 0);
	drain();
}

/* Print and reset the samples since the last call. */
void profile_print(void)
{
	struct function **sorted;
	unsigned int i, nr = 0, sum = 0;

	if (perf_fd < 0)
		return;
	sorted = calloc(nr_functions, sizeof(*sorted));
	if (!sorted)
		err(1, "memory for the profile");
	for (i = 0; i < nr_functions; i++) {
		if (!functions[i].samples)
			continue;
		sum += functions[i].samples;
		sorted[nr++] = &functions[i];
	}
	qsort(sorted, nr, sizeof(*sorted), by_samples);
	for (i = 0; i < nr && i < SHOWN; i++)
		printf("    %5.1f%%  %s\n", 100.0 * sorted[i]->samples / sum,
		       sorted[i]->name);
	if (sum)
		printf("    of %u samples\n", sum);
	for (i = 0; i < nr_functions; i++)
		functions[i].samples = 0;
	free(sorted);
}

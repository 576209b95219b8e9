// SPDX-License-Identifier: GPL-2.0-only
/*
 * Guest memory with kvm.gmem_hugepages off and on, compared with the memory of
 * an ordinary VM with small pages and with transparent huge pages.
 *
 * The guest runs only to populate its memory.  Other guest faults are taken with
 * KVM_PRE_FAULT_MEMORY, i.e. without leaving and re-entering the guest.
 */
#include <err.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "bench.h"

#define PARAMETER	"/sys/module/kvm/parameters/gmem_hugepages"
#define CHUNK		(2 * MIB)
#define BYTES		(1024 * MIB)
#define PAGES		(BYTES / PAGE_BYTES)

static void write_to(const char *path, const char *value)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, value, 1) != 1)
		err(1, "%s", path);
	close(fd);
}

static long page_tables_kib(void)
{
	char line[128];
	long kib = -1;
	FILE *file;

	/* Include the pending counts of all CPUs. */
	write_to("/proc/sys/vm/stat_refresh", "1");

	file = fopen("/proc/meminfo", "re");
	if (!file)
		err(1, "/proc/meminfo");
	while (fgets(line, sizeof(line), file))
		if (sscanf(line, "SecPageTables: %ld kB", &kib) == 1)
			break;
	fclose(file);
	return kib;
}

static void populate_rows(struct vm *vm, const char *name)
{
	__u64 small, large, t;
	long tables;

	vm_guest_start(vm);
	small = vm_stat(vm, "pages_4k");
	large = vm_stat(vm, "pages_2m");
	tables = page_tables_kib();

	profile_begin();
	t = now();
	vm_guest_touch(vm);
	t = now() - t;
	profile_end();
	row((double)t / PAGES, "page", "huge, %s: populate 1 GiB", name);
	row(page_tables_kib() - tables, "KiB", "huge, %s: page tables for it", name);
	row(vm_stat(vm, "pages_4k") - small, "count", "huge, %s: mappings of 4 KiB", name);
	row(vm_stat(vm, "pages_2m") - large, "count", "huge, %s: mappings of 2 MiB", name);
	vm_guest_stop(vm);
}

/* Convert one page of memory that the guest has mapped, and back. */
static void one_page_rows(struct vm *vm, const char *name)
{
	__u64 sample[2][MAX_ROUNDS], offset, t;
	__u64 mapped = vm_stat(vm, "pages_2m");
	unsigned int i;

	for (i = 0; i < MAX_ROUNDS; i++) {
		offset = (2 * i + 1) * CHUNK + 100 * PAGE_BYTES;
		sample[0][i] = vm_convert(vm, offset, PAGE_BYTES, SHARED);
	}
	if (mapped && vm_stat(vm, "pages_2m") != mapped - MAX_ROUNDS)
		errx(1, "each conversion has to split one huge page");
	row(median(sample[0], MAX_ROUNDS), "call",
	    "huge, %s: first page of 2 MiB to shared", name);
	for (i = 0; i < MAX_ROUNDS; i++) {
		offset = (2 * i + 1) * CHUNK + 200 * PAGE_BYTES;
		sample[0][i] = vm_convert(vm, offset, PAGE_BYTES, SHARED);
		vm_convert(vm, offset, PAGE_BYTES, PRIVATE);
	}
	row(median(sample[0], MAX_ROUNDS), "call",
	    "huge, %s: another page of them to shared", name);
	for (i = 0; i < MAX_ROUNDS; i++) {
		offset = (2 * i + 1) * CHUNK + 100 * PAGE_BYTES;
		sample[0][i] = vm_convert(vm, offset, PAGE_BYTES, PRIVATE);
		t = now();
		vm_prefault_range(vm, offset, PAGE_BYTES);
		sample[1][i] = now() - t;
	}
	row(median(sample[0], MAX_ROUNDS), "call",
	    "huge, %s: the page back to private", name);
	row(median(sample[1], MAX_ROUNDS), "fault",
	    "huge, %s: and touched", name);
	if (vm_stat(vm, "pages_2m") != mapped)
		errx(1, "the huge pages are not back");
}

/*
 * After the last page of a chunk has been punched and replaced by another one,
 * the chunk can no longer be mapped as a whole, which each fault has to find
 * out.
 */
static void refilled_rows(struct vm *vm, const char *name)
{
	__u64 end = 3 * CHUNK + CHUNK, t, sum = 0, pages = 0, offset;
	__u64 mapped;

	/* The page that was freed last is allocated first: swap two pages. */
	vm_punch_range(vm, end - PAGE_BYTES, PAGE_BYTES);
	vm_punch_range(vm, 0, PAGE_BYTES);
	vm_prefault_range(vm, end - PAGE_BYTES, PAGE_BYTES);
	vm_prefault_range(vm, 0, PAGE_BYTES);
	/* Zap the whole chunk. */
	vm_convert(vm, 3 * CHUNK, CHUNK, SHARED);
	vm_convert(vm, 3 * CHUNK, CHUNK, PRIVATE);
	mapped = vm_stat(vm, "pages_2m");
	for (offset = 3 * CHUNK; offset < end - PAGE_BYTES; offset += PAGE_BYTES) {
		t = now();
		vm_prefault_range(vm, offset, PAGE_BYTES);
		sum += now() - t;
		pages++;
	}
	if (vm_stat(vm, "pages_2m") != mapped)
		errx(1, "the punched page was allocated in the same place");
	row((double)sum / pages, "fault",
	    "huge, %s: beside a page that was punched", name);
}

static void whole_rows(struct vm *vm, const char *name)
{
	struct rusage before, after;
	__u64 sample[MAX_ROUNDS];
	unsigned int i;

	for (i = 0; i < MAX_ROUNDS; i++)
		sample[i] = vm_convert(vm, (10 + i) * CHUNK, CHUNK, SHARED);
	row(median(sample, MAX_ROUNDS), "call",
	    "huge, %s: 2 MiB to shared, guest-mapped", name);

	/* Count the host faults that follow, except the one that allocates the page table. */
	vm_touch(vm, 10 * CHUNK, 10 * CHUNK + PAGE_BYTES, PAGE_BYTES);
	getrusage(RUSAGE_SELF, &before);
	vm_touch(vm, 10 * CHUNK + MIB, 11 * CHUNK, PAGE_BYTES);
	getrusage(RUSAGE_SELF, &after);
	row(after.ru_minflt - before.ru_minflt, "count",
	    "huge, %s: host faults in a MiB of that", name);
	vm_convert(vm, 10 * CHUNK, MAX_ROUNDS * CHUNK, PRIVATE);

	vm_prefault(vm);
	row((double)vm_convert(vm, 0, BYTES, SHARED) / PAGES, "page",
	    "huge, %s: 1 GiB to shared, guest-mapped", name);
	vm_prefault(vm);
	row((double)vm_convert(vm, 0, BYTES, PRIVATE) / PAGES, "page",
	    "huge, %s: 1 GiB to private, guest-mapped", name);
}

static void bench_gmem(const char *parameter, const char *name)
{
	struct vm vm;

	write_to(PARAMETER, parameter);
	vm_open(&vm, BYTES);
	vm_convert(&vm, 0, BYTES, PRIVATE);
	populate_rows(&vm, name);
	one_page_rows(&vm, name);
	whole_rows(&vm, name);
	vm_prefault(&vm);
	refilled_rows(&vm, name);
	vm_close(&vm);
	write_to(PARAMETER, "0");
}

static void bench_ordinary(int advice, const char *name)
{
	struct vm vm;

	vm_open_ordinary(&vm, BYTES);
	if (madvise(vm.mem, BYTES, advice))
		err(1, "madvise for %s", name);
	populate_rows(&vm, name);
	vm_close(&vm);
}

/*
 * A thread of higher priority that converts one page periodically, while guest
 * faults hold locks, or read the attributes that it is about to change.
 */
#define PAUSE_NS	20000

struct flipper {
	pthread_t thread;
	struct vm *vm;
	__u64 offset;
	__u64 longest;
	volatile bool stop;
};

static void *flip_now_and_then(void *arg)
{
	struct flipper *flipper = arg;
	bool to_private = false;
	__u64 t;

	while (!flipper->stop) {
		pause_ns(PAUSE_NS);
		t = vm_convert(flipper->vm, flipper->offset, PAGE_BYTES,
			       to_private ? PRIVATE : SHARED);
		if (t > flipper->longest)
			flipper->longest = t;
		to_private = !to_private;
	}
	return NULL;
}

static void stop_flipper(struct flipper *flipper)
{
	flipper->stop = true;
	pthread_join(flipper->thread, NULL);
}

/* A page of the first chunk is converted while guest faults populate the other chunks. */
static void populating_row(struct vm *vm, const char *name)
{
	struct flipper flipper = { .vm = vm };
	__u64 offset;

	start_fifo_thread(&flipper.thread, flip_now_and_then, &flipper);
	for (offset = CHUNK; offset < vm->size; offset += CHUNK)
		vm_prefault_range(vm, offset, CHUNK);
	stop_flipper(&flipper);
	row(flipper.longest, "call",
	    "huge, %s: longest conversion, populating", name);
}

/*
 * Faults on the pages of a chunk, one by one, while another of its pages is
 * converted.  Some faults find the chunk uniform, and map all of it.
 */
static void neighbours_row(struct vm *vm, const char *name)
{
	struct flipper flipper = {
		.vm = vm,
		.offset = 3 * CHUNK + 100 * PAGE_BYTES,
	};
	__u64 offset, t, longest = 0;
	unsigned int i;

	start_fifo_thread(&flipper.thread, flip_now_and_then, &flipper);
	for (i = 0; i < MAX_ROUNDS; i++) {
		for (offset = 3 * CHUNK; offset < 4 * CHUNK; offset += PAGE_BYTES) {
			if (offset == flipper.offset)
				continue;
			t = now();
			vm_prefault_range(vm, offset, PAGE_BYTES);
			t = now() - t;
			if (t > longest)
				longest = t;
		}
		/* Zap the whole chunk, so that all pages fault again. */
		vm_convert(vm, 3 * CHUNK, CHUNK, SHARED);
		vm_convert(vm, 3 * CHUNK, CHUNK, PRIVATE);
	}
	stop_flipper(&flipper);
	row(longest, "fault",
	    "huge, %s: longest fault beside a conversion", name);
}

static void bench_flips(const char *parameter, const char *name)
{
	struct vm vm;

	write_to(PARAMETER, parameter);
	vm_open(&vm, 64 * MIB);
	vm_convert(&vm, 0, vm.size, PRIVATE);
	populating_row(&vm, name);
	neighbours_row(&vm, name);
	vm_close(&vm);
	write_to(PARAMETER, "0");
}

void bench_huge(void)
{
	bench_gmem("0", "off");
	bench_gmem("1", "on");
	bench_flips("0", "off");
	bench_flips("1", "on");
	bench_ordinary(MADV_NOHUGEPAGE, "ordinary VM, 4 KiB");
	bench_ordinary(MADV_HUGEPAGE, "ordinary VM, THP");
}

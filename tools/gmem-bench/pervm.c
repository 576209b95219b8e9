// SPDX-License-Identifier: GPL-2.0-only
/*
 * A round trip of 64 MiB, to private and back to shared, with and without
 * in-place conversion.  Without it, shared and private memory are two copies,
 * and KVM_SET_MEMORY_ATTRIBUTES selects the one that the guest sees.
 *
 * "populated": the memory is allocated, but not mapped by the guest.
 * "in use": host and guest have it mapped before and after, as far as that is
 * allowed.
 */
#include <err.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "bench.h"

#define BYTES	(64 * MIB)

enum step {
	SET_ATTRIBUTES,
	ALLOCATE,
	COPY,
	DISCARD,
	FAULT,
	NR_STEPS,
};

static const char * const step_name[] = {
	[SET_ATTRIBUTES] = "attributes",
	[ALLOCATE] = "allocate",
	[COPY] = "copy",
	[DISCARD] = "discard",
	[FAULT] = "fault in",
};

struct trip {
	__u64 step[NR_STEPS];
	long used_before;
	long used_most;
	__u64 lap;
};

static void trip_step(struct trip *trip, enum step step)
{
	long used;

	trip->step[step] += now() - trip->lap;
	used = mem_used_kib();
	if (used > trip->used_most)
		trip->used_most = used;
	trip->lap = now();
}

static void trip_start(struct trip *trip)
{
	memset(trip->step, 0, sizeof(trip->step));
	trip->lap = now();
}

static void trip_rows(struct trip *trip, const char *way, bool in_use,
		      bool steps)
{
	const char *state = in_use ? "in use" : "populated";
	const double pages = BYTES / PAGE_BYTES;
	__u64 sum = 0;
	int i;

	for (i = 0; i < NR_STEPS; i++) {
		sum += trip->step[i];
		if (steps && trip->step[i])
			row(trip->step[i] / pages, "page",
			    "round trip %s, %s: %s", way, state, step_name[i]);
	}
	row(sum / pages, "page", "round trip %s, %s", way, state);
	if (!steps)
		return;
	row(trip->used_most - trip->used_before, "KiB",
	    "round trip %s, %s: peak memory", way, state);
}

static void bench_in_place_trip(bool in_use)
{
	struct trip trip;
	struct vm vm;

	trip.used_before = trip.used_most = mem_used_kib();
	vm_open(&vm, BYTES);
	vm_populate(&vm);
	vm_convert(&vm, 0, BYTES, PRIVATE);
	vm_convert(&vm, 0, BYTES, SHARED);
	if (in_use) {
		vm_touch(&vm, 0, BYTES, PAGE_BYTES);
		vm_prefault(&vm);
	}

	trip_start(&trip);
	vm_convert(&vm, 0, BYTES, PRIVATE);
	trip_step(&trip, SET_ATTRIBUTES);
	if (in_use) {
		vm_prefault(&vm);
		trip_step(&trip, FAULT);
	}
	vm_convert(&vm, 0, BYTES, SHARED);
	trip_step(&trip, SET_ATTRIBUTES);
	if (in_use) {
		vm_touch(&vm, 0, BYTES, PAGE_BYTES);
		vm_prefault(&vm);
		trip_step(&trip, FAULT);
	}
	trip_rows(&trip, "in place", in_use, true);
	vm_close(&vm);
}

void bench_in_place(void)
{
	bench_in_place_trip(false);
	bench_in_place_trip(true);
}

/*
 * The VMM cannot access private memory.  In a real VM, the guest or firmware
 * copies the data.  Here, a buffer stands in for the private copy, so that the
 * work is counted, while the buffer's memory is not.
 */
static __u8 *create_buffer(void)
{
	__u8 *buffer = mmap(NULL, BYTES, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	if (buffer == MAP_FAILED)
		err(1, "mmap of a buffer");
	return buffer;
}

static void bench_per_vm_trip(bool in_use, bool huge)
{
	__u8 *buffer = create_buffer();
	struct trip trip;
	struct vm vm;

	trip.used_before = trip.used_most = mem_used_kib();
	vm_open_per_vm(&vm, BYTES);
	if (madvise(vm.mem, BYTES, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE))
		err(1, "madvise for %s pages", huge ? "huge" : "small");
	vm_touch(&vm, 0, BYTES, PAGE_BYTES);
	if (in_use)
		vm_prefault(&vm);

	trip_start(&trip);
	vm_set_attributes(&vm, PRIVATE);
	trip_step(&trip, SET_ATTRIBUTES);
	vm_populate(&vm);
	trip_step(&trip, ALLOCATE);
	memcpy(buffer, vm.mem, BYTES);
	trip_step(&trip, COPY);
	if (madvise(vm.mem, BYTES, MADV_DONTNEED))
		err(1, "MADV_DONTNEED");
	trip_step(&trip, DISCARD);
	if (in_use) {
		vm_prefault(&vm);
		trip_step(&trip, FAULT);
	}

	vm_set_attributes(&vm, SHARED);
	trip_step(&trip, SET_ATTRIBUTES);
	vm_touch(&vm, 0, BYTES, PAGE_BYTES);
	trip_step(&trip, ALLOCATE);
	memcpy(vm.mem, buffer, BYTES);
	trip_step(&trip, COPY);
	vm_punch(&vm);
	trip_step(&trip, DISCARD);
	if (in_use) {
		vm_prefault(&vm);
		trip_step(&trip, FAULT);
	}
	trip_rows(&trip, huge ? "by copying huge pages" : "by copying", in_use,
		  !huge);
	vm_close(&vm);
	munmap(buffer, BYTES);
}

/*
 * Without in-place conversion, a guest_memfd has only small pages.  Shared memory
 * outside of it can use huge pages, as long as only whole huge pages are
 * converted.
 */
void bench_per_vm(void)
{
	bench_per_vm_trip(false, false);
	bench_per_vm_trip(true, false);
	bench_per_vm_trip(false, true);
	bench_per_vm_trip(true, true);
}

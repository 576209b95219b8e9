// SPDX-License-Identifier: GPL-2.0-only
/* Conversions of whole files, by the initial state of their pages. */
#include <stddef.h>

#include "bench.h"

struct state {
	const char *name;
	bool fresh;		/* allocated for each conversion */
	bool all_sizes;
	bool mapped_before;	/* page tables of host and guest exist */
	/* Bring shared pages into the state. */
	void (*make)(struct vm *vm);
	/* Bring private pages into the state.  NULL: don't measure conversion to shared. */
	void (*make_private)(struct vm *vm);
};

static void touch(struct vm *vm)
{
	vm_touch(vm, 0, vm->size, PAGE_BYTES);
}

static void touch_and_prefault(struct vm *vm)
{
	touch(vm);
	vm_prefault(vm);
}

static void nothing(struct vm *vm)
{
	(void)vm;
}

/*
 * Private pages have no host mappings, so measure conversion to shared only for
 * the states without any.
 */
static const struct state states[] = {
	{
		.name = "populated",
		.all_sizes = true,
		.make = nothing,
		.make_private = nothing,
	}, {
		.name = "populated, mapped before",
		.mapped_before = true,
		.make = nothing,
		.make_private = nothing,
	}, {
		.name = "host-mapped",
		.make = touch,
	}, {
		.name = "guest-mapped",
		.make = vm_prefault,
		.make_private = vm_prefault,
	}, {
		.name = "host- and guest-mapped",
		.make = touch_and_prefault,
	}, {
		.name = "fresh, host-touched",
		.fresh = true,
		.make = touch,
	}, {
		.name = "fresh, allocated",
		.fresh = true,
		.make = vm_populate,
		.make_private = vm_populate,
	},
};

static const __u64 sizes[] = { 4 * KIB, 64 * KIB, MIB, 16 * MIB, 64 * MIB };

static unsigned int rounds(__u64 size)
{
	return size < MIB ? MAX_ROUNDS : 3;
}

/* One direction; the way back is not measured. */
static __u64 measure(struct vm *vm, const struct state *state, __u64 to)
{
	void (*make)(struct vm *vm) = to ? state->make : state->make_private;
	__u64 sample[MAX_ROUNDS];
	unsigned int i;

	for (i = 0; i < rounds(vm->size); i++) {
		vm_convert(vm, 0, vm->size, to ? SHARED : PRIVATE);
		if (state->fresh)
			vm_punch(vm);
		make(vm);
		sample[i] = vm_measure(vm, 0, vm->size, to);
	}
	return median(sample, rounds(vm->size));
}

static void bench_state(const struct state *state, __u64 size)
{
	double pages = size / PAGE_BYTES;
	struct vm vm;

	vm_open(&vm, size);
	/* Only the fresh rows measure the first conversion of a page. */
	if (!state->fresh) {
		vm_populate(&vm);
		if (state->mapped_before)
			touch_and_prefault(&vm);
		vm_convert(&vm, 0, size, PRIVATE);
	}
	row(measure(&vm, state, PRIVATE) / pages, "page", "%s, %s, to private",
	    state->name, size_name(size));
	if (state->make_private)
		row(measure(&vm, state, SHARED) / pages, "page",
		    "%s, %s, to shared", state->name, size_name(size));
	vm_close(&vm);
}

void bench_states(void)
{
	unsigned int i, j;

	for (i = 0; i < ARRAY_SIZE(states); i++)
		for (j = 0; j < ARRAY_SIZE(sizes); j++)
			if (states[i].all_sizes || j == 0 ||
			    j == ARRAY_SIZE(sizes) - 1)
				bench_state(&states[i], sizes[j]);
}

// SPDX-License-Identifier: GPL-2.0-only
/*
 * Cases whose cost depends more on the number of ranges in a file than on the
 * number of pages.  Empty files are in no memslot, and not mapped.
 */
#include <stddef.h>

#include "bench.h"

#define FRAG_BYTES	(64 * MIB)
#define STRIDE		(2 * PAGE_BYTES)

static __u64 median_call(struct vm *vm, __u64 size, __u64 from, __u64 to)
{
	__u64 sample[MAX_ROUNDS];
	unsigned int i;

	for (i = 0; i < MAX_ROUNDS; i++) {
		if (from != to)
			vm_convert(vm, 0, size, from);
		sample[i] = vm_measure(vm, 0, size, to);
	}
	return median(sample, MAX_ROUNDS);
}

void bench_empty(void)
{
	static const __u64 sizes[] = {
		4 * KIB, MIB, 256 * MIB, TIB / 16, 16 * TIB
	};
	struct vm vm;
	unsigned int i;

	vm_open_unbound(&vm, 16 * TIB);
	for (i = 0; i < ARRAY_SIZE(sizes); i++) {
		row(median_call(&vm, sizes[i], SHARED, PRIVATE), "call",
		    "empty, %s, to private", size_name(sizes[i]));
		row(median_call(&vm, sizes[i], PRIVATE, SHARED), "call",
		    "empty, %s, to shared", size_name(sizes[i]));
		vm_convert(&vm, 0, sizes[i], SHARED);
	}
	vm_close(&vm);
}

/* Convert every other page, with one call for each.  Return the total time. */
static __u64 fragment(struct vm *vm)
{
	__u64 offset, sum = 0;

	for (offset = 0; offset < vm->size; offset += STRIDE)
		sum += vm_measure(vm, offset, PAGE_BYTES, PRIVATE);
	return sum;
}

void bench_no_change(void)
{
	struct vm vm;

	vm_open(&vm, FRAG_BYTES);
	vm_populate(&vm);
	row(median_call(&vm, PAGE_BYTES, SHARED, SHARED), "call",
	    "no change, 4 KiB, shared");
	row(median_call(&vm, FRAG_BYTES, SHARED, SHARED), "call",
	    "no change, 64 MiB, shared");
	vm_convert(&vm, 0, FRAG_BYTES, PRIVATE);
	row(median_call(&vm, FRAG_BYTES, PRIVATE, PRIVATE), "call",
	    "no change, 64 MiB, private");
	vm_convert(&vm, 0, FRAG_BYTES, SHARED);
	fragment(&vm);
	row(median_call(&vm, PAGE_BYTES, PRIVATE, PRIVATE), "call",
	    "no change, a page among 16384 ranges");
	vm_close(&vm);
}

struct fragments {
	const char *name;
	bool populated;
	/* Map shared pages: all of them, or, if fragmented, every other one. */
	void (*map)(struct vm *vm, bool fragmented);
};

static void map_host(struct vm *vm, bool fragmented)
{
	if (fragmented)
		vm_touch(vm, PAGE_BYTES, vm->size, STRIDE);
	else
		vm_touch(vm, 0, vm->size, PAGE_BYTES);
}

/* Private pages are mapped for the guest as well. */
static void map_guest(struct vm *vm, bool fragmented)
{
	(void)fragmented;
	vm_prefault(vm);
}

static const struct fragments fragments[] = {
	{ "empty",		false,	NULL },
	{ "populated",		true,	NULL },
	{ "host-mapped",	true,	map_host },
	{ "guest-mapped",	true,	map_guest },
};

static void map(struct vm *vm, const struct fragments *frag, bool fragmented)
{
	if (frag->map)
		frag->map(vm, fragmented);
}

static void bench_one_fragmented(const struct fragments *frag)
{
	const double pages = FRAG_BYTES / STRIDE;
	__u64 in_a_row, one_by_one, joined;
	struct vm vm;

	if (!frag->populated) {
		vm_open_unbound(&vm, FRAG_BYTES);
	} else {
		vm_open(&vm, FRAG_BYTES);
		vm_populate(&vm);
		vm_convert(&vm, 0, FRAG_BYTES, PRIVATE);
		vm_convert(&vm, 0, FRAG_BYTES, SHARED);
	}

	/* The same number of pages as below, but contiguous. */
	map(&vm, frag, false);
	in_a_row = vm_measure(&vm, 0, FRAG_BYTES / 2, PRIVATE);
	vm_convert(&vm, 0, FRAG_BYTES, SHARED);

	map(&vm, frag, false);
	one_by_one = fragment(&vm);
	row(one_by_one / pages, "call",
	    "alternate pages, %s: one to private", frag->name);

	map(&vm, frag, true);
	joined = vm_measure(&vm, 0, FRAG_BYTES, PRIVATE);
	if (frag->populated) {
		row(joined / pages, "page",
		    "alternate pages, %s: all to private", frag->name);
		row((double)joined / in_a_row, "x",
		    "alternate pages, %s: against a row", frag->name);
	} else {
		row(joined, "call", "alternate pages, %s: all to private",
		    frag->name);
	}

	vm_convert(&vm, 0, FRAG_BYTES, SHARED);
	fragment(&vm);
	map(&vm, frag, true);
	joined = vm_measure(&vm, 0, FRAG_BYTES, SHARED);
	if (frag->populated)
		row(joined / pages, "page",
		    "alternate pages, %s: all to shared", frag->name);
	else
		row(joined, "call", "alternate pages, %s: all to shared",
		    frag->name);
	vm_close(&vm);
}

void bench_fragments(void)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(fragments); i++)
		bench_one_fragmented(&fragments[i]);
}

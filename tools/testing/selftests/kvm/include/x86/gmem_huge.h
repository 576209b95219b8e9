/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Scaffolding for tests of guest_memfd's huge pages: a VM with a few chunks of
 * memory, and the number of huge pages that are mapped in its guest.
 */
#ifndef SELFTEST_KVM_GMEM_HUGE_H
#define SELFTEST_KVM_GMEM_HUGE_H

#include <linux/sizes.h>

#include "gmem_test.h"

#define NR_CHUNKS	4
#define NR_PAGES	(NR_CHUNKS * GMEM_CHUNK_PAGES)
/* A page within the second chunk. */
#define PAGE		(GMEM_CHUNK_PAGES + 100)

FIXTURE(huge) {
	u64 pages_2m;
};

FIXTURE_SETUP(huge)
{
	int i;

	gmem_vm_create_huge(g, NR_PAGES);

	/* Map the guest's page tables before counting anything. */
	for (i = 0; i < NR_CHUNKS; i++)
		gmem_write(g, i * GMEM_CHUNK_PAGES, 0);
	gmem_punch_hole(g, 0, NR_PAGES);
	self->pages_2m = vm_get_stat(g->vm, pages_2m);
}

FIXTURE_TEARDOWN(huge)
{
	gmem_vm_free(g);
}

static inline u64 nr_faults(struct gmem_vm *g)
{
	return vcpu_get_stat(g->vcpu, pf_taken);
}

/* The number of huge pages that KVM maps, also for a nested guest. */
#define nr_huge(self)	((int)(vm_get_stat(g->vm, pages_2m) - (self)->pages_2m))

#endif /* SELFTEST_KVM_GMEM_HUGE_H */

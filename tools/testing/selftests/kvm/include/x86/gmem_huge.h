/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The frame of a test of guest_memfd's huge pages: a VM whose memory is a few
 * chunks, and the number of huge pages that its guest has mapped.
 */
#ifndef SELFTEST_KVM_GMEM_HUGE_H
#define SELFTEST_KVM_GMEM_HUGE_H

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <linux/falloc.h>
#include <linux/sizes.h>

#include "gmem_util.h"
#include "gmem_vm.h"
#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"
#include "kselftest_harness.h"

#define PRIVATE		KVM_MEMORY_ATTRIBUTE_PRIVATE
#define NR_CHUNKS	4
#define NR_PAGES	(NR_CHUNKS * GMEM_CHUNK_PAGES)
/* A page in the middle of the second chunk. */
#define PAGE		(GMEM_CHUNK_PAGES + 100)

FIXTURE(huge) {
	struct gmem_vm g;
	u64 pages_2m;
};

FIXTURE_SETUP(huge)
{
	int i;

	gmem_vm_create_huge(&self->g, NR_PAGES);

	/* Have the guest's page tables mapped before anything is counted. */
	for (i = 0; i < NR_CHUNKS; i++)
		gmem_write(&self->g, i * GMEM_CHUNK_PAGES, 0);
	gmem_punch_hole(&self->g, 0, NR_PAGES);
	self->pages_2m = vm_get_stat(self->g.vm, pages_2m);
}

FIXTURE_TEARDOWN(huge)
{
	gmem_vm_free(&self->g);
}

static inline void convert(struct gmem_vm *g, int page, int nr, u64 attributes)
{
	gmem_set_attributes(g->fd, (u64)page * PAGE_SIZE, (u64)nr * PAGE_SIZE,
			    attributes);
}

static inline u64 nr_faults(struct gmem_vm *g)
{
	return vcpu_get_stat(g->vcpu, pf_taken);
}

/* How many chunks the guest has mapped with huge pages. */
#define nr_huge(self)	((int)(vm_get_stat((self)->g.vm, pages_2m) - (self)->pages_2m))

#endif /* SELFTEST_KVM_GMEM_HUGE_H */

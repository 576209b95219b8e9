/* SPDX-License-Identifier: GPL-2.0 */
#ifndef GMEM_VMM_PEER_H
#define GMEM_VMM_PEER_H

#include "../../gmem-guest/gmem-guest.h"
#include "../vmm/vm.h"

struct peer {
	bool started, ended;		/* as reported by the guest's driver */
	unsigned long checked;		/* pages that the VMM has checked */
	unsigned long wrong;		/* pages that had wrong contents */
	unsigned long blocks;		/* each write and each read counts */
	unsigned long refused;		/* invalid requests */
	struct gmem_guest_request report;
};

extern struct peer peer;

/* Serve the request that the guest's driver has put into the page @pfn. */
void peer_request(struct vm *vm, __u64 pfn);

#endif /* GMEM_VMM_PEER_H */

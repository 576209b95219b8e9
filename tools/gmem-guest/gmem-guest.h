/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The interface between the driver in a Linux guest (gmem_guest.c) and the VMM:
 * requests in a page of shared memory, whose frame number the guest writes to a
 * port, and the contents of the pages that are converted.
 */
#ifndef GMEM_GUEST_H
#define GMEM_GUEST_H

#include <linux/types.h>

#define GMEM_GUEST_PORT		0x5a0	/* 32 bits */
#define GMEM_GUEST_RUN		16	/* pages in one request, at most */
#define GMEM_GUEST_BLOCKS	256	/* of the disk, each a page */
#define GMEM_GUEST_WORDS	512	/* in a page */

enum gmem_guest_command {
	GMEM_GUEST_START,	/* the driver has started */
	GMEM_GUEST_EXCHANGE,	/* pages are shared: check and replace their contents */
	GMEM_GUEST_WRITE,	/* write a page to a block of the disk */
	GMEM_GUEST_READ,	/* read a block of the disk into a page */
	GMEM_GUEST_END,		/* the driver has ended, and reports its counters */
};

struct gmem_guest_request {
	__u32 command;
	__u32 error;			/* from the VMM: 0 or an errno */
	__u64 pfn;			/* of the first page */
	__u32 npages;
	__u32 block;
	__u32 generation[GMEM_GUEST_RUN];	/* of each page's contents */

	/* With GMEM_GUEST_END, the guest's counters */
	__u64 to_private, to_shared;	/* requests for conversions, refused or not */
	__u64 pages_to_private, pages_to_shared;
	__u64 peak;			/* pages that were private at the same time */
	__u64 checked;			/* pages whose contents were checked in full */
	__u64 blocks;			/* each write and each read counts */
	__u64 refused;			/* requests for conversions that were refused */
	__u64 wrong;			/* pages whose contents have changed */
};

/* The side that was the last to write a page */
enum { GMEM_GUEST_SIDE, GMEM_HOST_SIDE };

/* Return word @i of a page.  It depends on all arguments, so that a mix-up is noticed. */
static inline __u64 gmem_guest_word(__u64 pfn, __u32 generation, int side, unsigned int i)
{
	__u64 x = pfn << 10 | i;

	x ^= (__u64)generation << 33 | (__u64)side << 32;
	x *= 0x9e3779b97f4a7c15ULL;
	return x ^ x >> 29;
}

static inline void gmem_guest_fill(__u64 *page, __u64 pfn, __u32 generation, int side)
{
	unsigned int i;

	for (i = 0; i < GMEM_GUEST_WORDS; i++)
		page[i] = gmem_guest_word(pfn, generation, side, i);
}

static inline int gmem_guest_same(const __u64 *page, __u64 pfn, __u32 generation, int side)
{
	unsigned int i;

	for (i = 0; i < GMEM_GUEST_WORDS; i++)
		if (page[i] != gmem_guest_word(pfn, generation, side, i))
			return 0;
	return 1;
}

#endif /* GMEM_GUEST_H */

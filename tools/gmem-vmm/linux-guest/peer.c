// SPDX-License-Identifier: GPL-2.0
/*
 * The counterpart of the guest's driver: checks the contents of pages that the
 * guest has made shared, and emulates a disk that can only access shared pages.
 */
#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "../vmm/die.h"
#include "../vmm/host.h"
#include "peer.h"

struct peer peer;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static __u8 disk[GMEM_GUEST_BLOCKS][PAGE_BYTES];

/*
 * The guest may name any page, and make a page private at any time: copy guest
 * memory before looking at it, and be prepared for the copy to fail.
 */
static bool copy_in(struct vm *vm, void *to, __u64 pfn, size_t size)
{
	if (pfn >= vm->size / PAGE_BYTES)
		return false;
	return !touch_copy(to, vm->mem + pfn * PAGE_BYTES, size).fault;
}

static bool copy_out(struct vm *vm, __u64 pfn, const void *from, size_t size)
{
	if (pfn >= vm->size / PAGE_BYTES)
		return false;
	return !touch_copy(vm->mem + pfn * PAGE_BYTES, from, size).fault;
}

static int exchange(struct vm *vm, const struct gmem_guest_request *request)
{
	__u64 page[GMEM_GUEST_WORDS];
	__u32 i;

	if (!request->npages || request->npages > GMEM_GUEST_RUN)
		return EINVAL;
	for (i = 0; i < request->npages; i++) {
		__u64 pfn = request->pfn + i;

		if (!copy_in(vm, page, pfn, sizeof(page)))
			return EFAULT;
		peer.checked++;
		if (!gmem_guest_same(page, pfn, request->generation[i], GMEM_GUEST_SIDE)) {
			complain("NOT TRUE: page %#llx contains the guest's data", pfn);
			peer.wrong++;
			return EIO;
		}
		gmem_guest_fill(page, pfn, request->generation[i], GMEM_HOST_SIDE);
		if (!copy_out(vm, pfn, page, sizeof(page)))
			return EFAULT;
	}
	return 0;
}

static int transfer(struct vm *vm, const struct gmem_guest_request *request)
{
	__u8 page[PAGE_BYTES];

	if (request->block >= GMEM_GUEST_BLOCKS)
		return EINVAL;
	peer.blocks++;
	if (request->command == GMEM_GUEST_READ)
		return copy_out(vm, request->pfn, disk[request->block], sizeof(page)) ? 0 : EFAULT;
	if (!copy_in(vm, page, request->pfn, sizeof(page)))
		return EFAULT;
	memcpy(disk[request->block], page, sizeof(page));
	return 0;
}

static int serve(struct vm *vm, const struct gmem_guest_request *request)
{
	switch (request->command) {
	case GMEM_GUEST_START:
		peer.started = true;
		return 0;
	case GMEM_GUEST_EXCHANGE:
		return exchange(vm, request);
	case GMEM_GUEST_WRITE:
	case GMEM_GUEST_READ:
		return transfer(vm, request);
	case GMEM_GUEST_END:
		peer.report = *request;
		peer.ended = true;
		return 0;
	default:
		return EINVAL;
	}
}

void peer_request(struct vm *vm, __u64 pfn)
{
	struct gmem_guest_request request;

	pthread_mutex_lock(&lock);
	if (copy_in(vm, &request, pfn, sizeof(request))) {
		request.error = serve(vm, &request);
		/* EIO stands for wrong data, which are counted separately. */
		peer.refused += request.error && request.error != EIO;
		if (!copy_out(vm, pfn, &request, offsetof(struct gmem_guest_request, pfn)))
			peer.refused++;
	} else {
		peer.refused++;
	}
	pthread_mutex_unlock(&lock);
}

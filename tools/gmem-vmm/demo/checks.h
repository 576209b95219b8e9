/* SPDX-License-Identifier: GPL-2.0 */
#ifndef GMEM_VMM_CHECKS_H
#define GMEM_VMM_CHECKS_H

#include <time.h>

#include "../vmm/host.h"
#include "inject.h"
#include "show.h"

/* State that is passed from one step of the demonstration to the next. */
struct demo {
	int step;		/* the last one completed or skipped */
	__u8 used[FILE_PAGES];	/* pages in memory before the conversion */
	struct map_row row;	/* the map before the conversion */
	__u64 frame;		/* of DATA_PAGE */
	struct usage empty, full, shared, again;
	struct vcpu counter;
	pthread_t thread;
	__u32 counted;
	unsigned long conversions;
	struct pin pin;
	struct timespec refused;
	bool huge;		/* memory is allocated in chunks of 2 MiB */
	bool no_huge;		/* the steps with huge pages were skipped */
	bool skipped;		/* the steps with memory errors were skipped */
	__u64 lost_frame;	/* of the last page hit by an error */
	unsigned long lost_kb;	/* HardwareCorrupted before the injection */
};

extern struct demo demo;
extern const __u8 guest_image[], guest_counter[], guest_image_end[];

static inline void *at(const struct vm *vm, unsigned long page, unsigned int byte)
{
	return vm->mem + page * PAGE_BYTES + byte;
}

/* Each of these ends the demonstration if the claim is not true. */
void check_text(const struct vm *vm, unsigned int where, const char *text);
void check_sigbus(const struct vm *vm, unsigned long page, bool write);
void check_map(struct vm *vm);

#endif /* GMEM_VMM_CHECKS_H */

/* SPDX-License-Identifier: GPL-2.0 */
#ifndef GMEM_VMM_STATS_H
#define GMEM_VMM_STATS_H

#include "../vmm/vm.h"

/* Conversions in one direction */
struct direction {
	unsigned long calls, pages, failed;
	__u64 ns, worst_ns;
};

/* Call these around a conversion, in the thread that requests it */
void stats_begin(bool private);
void stats_end(__u64 size, int err);

/* Conversions to private if @private is true, to shared otherwise */
const struct direction *stats_of(bool private);

#endif /* GMEM_VMM_STATS_H */

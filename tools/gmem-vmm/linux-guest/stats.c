// SPDX-License-Identifier: GPL-2.0
/*
 * The number of conversions, and their durations.
 */
#include "stats.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct direction directions[2];

static __thread struct {
	bool private;
	__u64 start;
} current;

void stats_begin(bool private)
{
	current.private = private;
	current.start = gmem_now();
}

void stats_end(__u64 size, int err)
{
	struct direction *d = &directions[current.private];
	__u64 ns = gmem_now() - current.start;

	pthread_mutex_lock(&lock);
	d->calls++;
	d->ns += ns;
	if (ns > d->worst_ns)
		d->worst_ns = ns;
	if (err)
		d->failed++;
	else
		d->pages += size / PAGE_BYTES;
	pthread_mutex_unlock(&lock);
}

const struct direction *stats_of(bool private)
{
	return &directions[private];
}

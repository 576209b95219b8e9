// SPDX-License-Identifier: GPL-2.0-only
/*
 * Decide how long a conversion waits for pages in use on the host.
 *
 * References that go away by themselves must not fail a request, but one that
 * stays must be reported soon.  Only time tells them apart: GUP-fast and page
 * walkers hold a reference for microseconds, direct I/O for the duration of a
 * disk request, and all of them for longer if they are preempted.
 *
 * With the invalidate lock held and the page unmapped, there are no new users,
 * i.e. the page is unused as soon as its current users are done.  But vCPUs
 * that fault on the file wait for that lock, and so may the very task that
 * holds the reference.  Hence, take turns with other tasks that want the lock.
 *
 * Keep pages, locks and the clock out of this file, so that KUnit can test it.
 */
#include <kunit/visibility.h>
#include <linux/export.h>
#include <linux/minmax.h>
#include <linux/time64.h>

#include "guest_memfd_wait.h"

/*
 * Report a page that has been in use by the same users for this long.  A VMM
 * may learn of pinned pages one at a time: unpinning 16 in turn should take
 * less than two seconds.
 */
#define KVM_GMEM_WAIT_PAGE_NS		(100 * NSEC_PER_MSEC)

/*
 * If users come and go, probably none of them blocks the conversion for good,
 * but it takes luck to catch a moment without users.  Report a page after this
 * long, in case one of the users is a long-term pin.
 */
#define KVM_GMEM_WAIT_NS		(2 * NSEC_PER_SEC)

/*
 * Count the time between two looks at a page as no more than this.  A late
 * look, e.g. on a slow machine or after the task was frozen, must not count as
 * several looks.
 */
#define KVM_GMEM_WAIT_STEP_NS		(1500 * NSEC_PER_USEC)

/*
 * If other tasks want the lock, wait for this long with the lock held, and then
 * for the same time without it.  A longer turn is more likely to outlast a disk
 * request, but keeps vCPUs waiting.
 */
#define KVM_GMEM_WAIT_TURN_NS		(1500 * NSEC_PER_USEC)

/*
 * Pages enter LRU caches without a fault, too, e.g. by munlock() or when
 * reclaim puts them back.  Drain again after this many looks with the lock
 * held.
 */
#define KVM_GMEM_WAIT_DRAIN_LOOKS	16

/*
 * Draining the LRU caches of all CPUs takes tens of microseconds from each CPU,
 * i.e. from tasks that have nothing to do with the VM.  Drains that make a
 * conversion succeed are no worse than those that other users of memory cause.
 * Limit all others to one per interval, system-wide, so that failing requests
 * don't slow the system down, but allow a few in a row.
 */
#define KVM_GMEM_DRAIN_INTERVAL_NS	(50 * NSEC_PER_MSEC)
#define KVM_GMEM_DRAIN_BURST		4

static void kvm_gmem_wait_advance(struct kvm_gmem_wait *wait, u64 now)
{
	u64 step = min_t(u64, now - wait->last_look, KVM_GMEM_WAIT_STEP_NS);

	wait->last_look = now;
	wait->page_ns += step;
	wait->total_ns += step;
}

/* Start or continue waiting for a page with the lock held. */
void kvm_gmem_wait_for(struct kvm_gmem_wait *wait, u64 now, unsigned long page)
{
	if (!wait->waiting || wait->page != page) {
		wait->moved = wait->waiting;
		wait->waiting = true;
		wait->page = page;
		wait->page_ns = 0;
	}

	wait->last_look = now;
	wait->turn_since = now;
	wait->hold_looks = 0;
}
EXPORT_SYMBOL_IF_KUNIT(kvm_gmem_wait_for);

/* The page is still in use.  Return true to keep the lock and look again. */
bool kvm_gmem_wait_hold(struct kvm_gmem_wait *wait, u64 now, bool contended)
{
	kvm_gmem_wait_advance(wait, now);
	wait->hold_looks++;

	if (kvm_gmem_wait_expired(wait))
		return false;

	return !contended || now - wait->turn_since < KVM_GMEM_WAIT_TURN_NS;
}
EXPORT_SYMBOL_IF_KUNIT(kvm_gmem_wait_hold);

/* Return true if the LRU caches are worth draining again before the next look. */
bool kvm_gmem_wait_drain_due(const struct kvm_gmem_wait *wait)
{
	return wait->hold_looks && !(wait->hold_looks % KVM_GMEM_WAIT_DRAIN_LOOKS);
}
EXPORT_SYMBOL_IF_KUNIT(kvm_gmem_wait_drain_due);

/* Return true if the page is to be reported. */
bool kvm_gmem_wait_expired(const struct kvm_gmem_wait *wait)
{
	return wait->page_ns >= KVM_GMEM_WAIT_PAGE_NS ||
	       wait->total_ns >= KVM_GMEM_WAIT_NS;
}
EXPORT_SYMBOL_IF_KUNIT(kvm_gmem_wait_expired);

/* Start over: users have changed, so the page may not be pinned for good. */
void kvm_gmem_wait_users_changed(struct kvm_gmem_wait *wait)
{
	wait->page_ns = 0;
}
EXPORT_SYMBOL_IF_KUNIT(kvm_gmem_wait_users_changed);

/* Start waiting without the lock. */
void kvm_gmem_wait_pause(struct kvm_gmem_wait *wait, u64 now)
{
	wait->last_look = now;
	wait->turn_since = now;
}
EXPORT_SYMBOL_IF_KUNIT(kvm_gmem_wait_pause);

/* Return true to look again without the lock, false to try again with it. */
bool kvm_gmem_wait_paused(struct kvm_gmem_wait *wait, u64 now, bool in_use)
{
	kvm_gmem_wait_advance(wait, now);

	if (!in_use) {
		kvm_gmem_wait_users_changed(wait);
		return false;
	}

	return now - wait->turn_since < KVM_GMEM_WAIT_TURN_NS;
}
EXPORT_SYMBOL_IF_KUNIT(kvm_gmem_wait_paused);

/* Take a drain of all CPUs' LRU caches from the budget, or return false. */
bool kvm_gmem_drain_take(struct kvm_gmem_drain_budget *budget, u64 now)
{
	u64 until = max(budget->spent_until, now);

	if (until - now > (KVM_GMEM_DRAIN_BURST - 1) * KVM_GMEM_DRAIN_INTERVAL_NS)
		return false;

	budget->spent_until = until + KVM_GMEM_DRAIN_INTERVAL_NS;
	return true;
}
EXPORT_SYMBOL_IF_KUNIT(kvm_gmem_drain_take);

/*
 * Return @nr drains to the budget.  @spent_until is the budget's value after
 * the last of them.  Time before @now has been replenished already, and time
 * beyond @spent_until was spent by others.
 */
void kvm_gmem_drain_refund(struct kvm_gmem_drain_budget *budget, u64 now,
			   unsigned int nr, u64 spent_until)
{
	if (spent_until > now)
		budget->spent_until -= min_t(u64, nr * KVM_GMEM_DRAIN_INTERVAL_NS,
					     spent_until - now);
}
EXPORT_SYMBOL_IF_KUNIT(kvm_gmem_drain_refund);

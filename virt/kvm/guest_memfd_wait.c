// SPDX-License-Identifier: GPL-2.0-only
/*
 * How long a conversion waits for pages that are in use on the host.
 *
 * References that go away by themselves must not fail a request, and one that
 * stays must be reported soon.  Nothing tells them apart but time.  GUP-fast and
 * page walkers hold theirs for microseconds, direct I/O for one request to a
 * disk, and all of them for longer if they are preempted.
 *
 * With the invalidate lock held and the page unmapped there are no new users,
 * i.e. the page is unused as soon as all those who are left get to run.  But
 * vCPUs that fault on the file wait for that lock, and so may the very task that
 * has the reference.  So hold it for a short time if there are others who want
 * it, drop it for somewhat longer, and try again.
 *
 * This file knows neither pages nor locks, nor a clock.
 */
#include <kunit/visibility.h>
#include <linux/export.h>
#include <linux/minmax.h>
#include <linux/time64.h>

#include "guest_memfd_wait.h"

/*
 * A page that is in use each time that it is looked at is reported after this
 * time.  16 pages that are pinned, and unpinned one after the other as they are
 * reported, shall take less than two seconds.
 */
#define KVM_GMEM_WAIT_PAGE_NS		(100 * NSEC_PER_MSEC)

/*
 * If another page is in use each time, or the same page is not in use for a
 * moment, then there are users that come and go.  No one of them stays, but it
 * takes luck to find a moment without any.  A page that is pinned for good and
 * is hidden among these is reported after this time.
 */
#define KVM_GMEM_WAIT_NS		(2 * NSEC_PER_SEC)

/*
 * On a slow machine, e.g. an emulated one, either time can be over before there
 * were enough looks at the page, or at all pages.  Only looks with the lock held
 * count.
 */
#define KVM_GMEM_WAIT_LOOKS		64

/* How long to wait with the lock held if others want it, and then without. */
#define KVM_GMEM_WAIT_HOLD_NS		(1 * NSEC_PER_MSEC)
#define KVM_GMEM_WAIT_PAUSE_NS		(4 * NSEC_PER_MSEC)

/*
 * Draining the LRU caches of all CPUs takes time from tasks that have nothing
 * to do with the VM: tens of microseconds of each CPU.  Drains that serve their
 * purpose are no more than what other users of memory cause.  The others must
 * not be a means to slow the machine down, so there is one such drain in this
 * time for the whole machine, and a few in a row for those who are unlucky.
 */
#define KVM_GMEM_DRAIN_INTERVAL_NS	(50 * NSEC_PER_MSEC)
#define KVM_GMEM_DRAIN_BURST		4

/* Start the page's time, and with it the looks that count. */
static void kvm_gmem_wait_restart_page(struct kvm_gmem_wait *wait, u64 now)
{
	wait->page_since = now;
	wait->page_looks = 0;
}

/* Begin, or go on, to wait for a page. */
void kvm_gmem_wait_for(struct kvm_gmem_wait *wait, u64 now, unsigned long page)
{
	if (!wait->waiting)
		wait->since = now;

	if (!wait->waiting || wait->page != page) {
		wait->moved = wait->waiting;
		wait->page = page;
		kvm_gmem_wait_restart_page(wait, now);
	}

	wait->waiting = true;
	wait->hold_since = now;
}
EXPORT_SYMBOL_IF_KUNIT(kvm_gmem_wait_for);

/* The page is in use still.  Return true if to go on with the lock held. */
bool kvm_gmem_wait_hold(struct kvm_gmem_wait *wait, u64 now, bool contended)
{
	wait->nr_looks++;
	wait->page_looks++;

	if (kvm_gmem_wait_expired(wait, now))
		return false;

	return !contended || now - wait->hold_since < KVM_GMEM_WAIT_HOLD_NS;
}
EXPORT_SYMBOL_IF_KUNIT(kvm_gmem_wait_hold);

/* Return true if the page is to be reported. */
bool kvm_gmem_wait_expired(const struct kvm_gmem_wait *wait, u64 now)
{
	return (wait->page_looks >= KVM_GMEM_WAIT_LOOKS &&
		now - wait->page_since >= KVM_GMEM_WAIT_PAGE_NS) ||
	       (wait->nr_looks >= KVM_GMEM_WAIT_LOOKS &&
		now - wait->since >= KVM_GMEM_WAIT_NS);
}
EXPORT_SYMBOL_IF_KUNIT(kvm_gmem_wait_expired);

/* Users of the page have come or gone, so it is not one that stays. */
void kvm_gmem_wait_changed(struct kvm_gmem_wait *wait, u64 now)
{
	kvm_gmem_wait_restart_page(wait, now);
}
EXPORT_SYMBOL_IF_KUNIT(kvm_gmem_wait_changed);

/* Begin to wait without the lock. */
void kvm_gmem_wait_pause(struct kvm_gmem_wait *wait, u64 now)
{
	wait->pause_since = now;
}
EXPORT_SYMBOL_IF_KUNIT(kvm_gmem_wait_pause);

/* Return true if to go on without the lock. */
bool kvm_gmem_wait_paused(struct kvm_gmem_wait *wait, u64 now, bool in_use)
{
	/* A page that nobody uses right now is not pinned for good. */
	if (!in_use) {
		kvm_gmem_wait_restart_page(wait, now);
		return false;
	}

	return now - wait->pause_since < KVM_GMEM_WAIT_PAUSE_NS;
}
EXPORT_SYMBOL_IF_KUNIT(kvm_gmem_wait_paused);

/* Return true if to drain the LRU caches of all CPUs. */
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
 * These drains were not in vain.  After the last of them the budget was spent
 * until @spent_until.  Time has given back what is before @now, and anything
 * later was spent by others.
 */
void kvm_gmem_drain_refund(struct kvm_gmem_drain_budget *budget, u64 now,
			   unsigned int nr, u64 spent_until)
{
	if (spent_until > now)
		budget->spent_until -= min_t(u64, nr * KVM_GMEM_DRAIN_INTERVAL_NS,
					     spent_until - now);
}
EXPORT_SYMBOL_IF_KUNIT(kvm_gmem_drain_refund);

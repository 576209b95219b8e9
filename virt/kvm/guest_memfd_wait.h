/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef __KVM_GUEST_MEMFD_WAIT_H__
#define __KVM_GUEST_MEMFD_WAIT_H__

#include <linux/types.h>

/*
 * Track how long one request to make pages private has been waiting.  All times
 * are in ns, from one and the same monotonic clock.
 *
 * Once @waiting is set, @page has been in use by the same users for @page_ns.
 * @total_ns is the time waited for all pages.  @moved is set as soon as a
 * second page is waited for.
 *
 * @last_look is the time up to which waiting has been counted.  @turn_since is
 * when the current turn with or without the lock began, and @hold_looks counts
 * the looks at @page in the last turn with the lock.
 */
struct kvm_gmem_wait {
	bool waiting;
	bool moved;
	unsigned long page;
	u64 page_ns;
	u64 total_ns;
	u64 last_look;
	u64 turn_since;
	unsigned int hold_looks;
};

/*
 * @spent_until is when the budget will be full again.  Each drain of all CPUs'
 * LRU caches moves it to one interval after its old value or the current time,
 * whichever is later.
 */
struct kvm_gmem_drain_budget {
	u64 spent_until;
};

void kvm_gmem_wait_for(struct kvm_gmem_wait *wait, u64 now, unsigned long page);
bool kvm_gmem_wait_hold(struct kvm_gmem_wait *wait, u64 now, bool contended);
bool kvm_gmem_wait_drain_due(const struct kvm_gmem_wait *wait);
bool kvm_gmem_wait_expired(const struct kvm_gmem_wait *wait);
void kvm_gmem_wait_users_changed(struct kvm_gmem_wait *wait);
void kvm_gmem_wait_pause(struct kvm_gmem_wait *wait, u64 now);
bool kvm_gmem_wait_paused(struct kvm_gmem_wait *wait, u64 now, bool in_use);

bool kvm_gmem_drain_take(struct kvm_gmem_drain_budget *budget, u64 now);
void kvm_gmem_drain_refund(struct kvm_gmem_drain_budget *budget, u64 now,
			   unsigned int nr, u64 spent_until);

#endif /* __KVM_GUEST_MEMFD_WAIT_H__ */

/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef __KVM_GUEST_MEMFD_WAIT_H__
#define __KVM_GUEST_MEMFD_WAIT_H__

#include <linux/types.h>

/*
 * The patience of one request to make pages private, see guest_memfd_wait.c.
 * All times are in ns of any one monotonic clock.
 *
 * @page is the page that the request waits for, which has been in use whenever
 * it was looked at since @page_since; @page_looks of these were with new users
 * kept out.  @nr_looks counts those at any page.
 */
struct kvm_gmem_wait {
	bool waiting;
	bool moved;
	unsigned long page;
	unsigned int nr_looks;
	unsigned int page_looks;
	u64 since;
	u64 page_since;
	u64 hold_since;
	u64 pause_since;
};

/* What draining LRU caches of all CPUs in vain has cost them of late. */
struct kvm_gmem_drain_budget {
	u64 spent_until;
};

void kvm_gmem_wait_for(struct kvm_gmem_wait *wait, u64 now, unsigned long page);
bool kvm_gmem_wait_hold(struct kvm_gmem_wait *wait, u64 now, bool contended);
bool kvm_gmem_wait_expired(const struct kvm_gmem_wait *wait, u64 now);
void kvm_gmem_wait_changed(struct kvm_gmem_wait *wait, u64 now);
void kvm_gmem_wait_pause(struct kvm_gmem_wait *wait, u64 now);
bool kvm_gmem_wait_paused(struct kvm_gmem_wait *wait, u64 now, bool in_use);

bool kvm_gmem_drain_take(struct kvm_gmem_drain_budget *budget, u64 now);
void kvm_gmem_drain_refund(struct kvm_gmem_drain_budget *budget, u64 now,
			   unsigned int nr, u64 spent_until);

#endif /* __KVM_GUEST_MEMFD_WAIT_H__ */

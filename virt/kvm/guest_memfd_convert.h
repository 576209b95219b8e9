/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef __KVM_GUEST_MEMFD_CONVERT_H__
#define __KVM_GUEST_MEMFD_CONVERT_H__

#include <linux/types.h>

struct folio;
struct inode;
struct kvm;

/**
 * struct kvm_gmem_conversion - A conversion at work
 * @kvm: the VM that the file belongs to
 * @inode: the guest_memfd's inode
 * @start: first page of the range
 * @last: last page of the range, inclusive
 * @attrs: attributes to give to each page
 * @nr_busy: pages with references of unknown users, as counted by
 *	     kvm_gmem_note_folio()
 * @nr_poisoned: poisoned pages, likewise
 * @unmapped: the host's mappings are gone and must be
 * @nr_attempts: attempts so far that found a page in use
 * @busy_since: when the first of them did, in ns
 * @busy_index: which page the last of them found
 * @nr_moves: how often an attempt found another page in use than the one before
 * @restless: that is so often that there must be users that come and go
 * @locked_wait_ns: how long this attempt waits if others wait for the lock, in
 *		    ns, 0 before the first one
 * @locked_waited_ns: how long this attempt has waited with the lock held
 * @certain: the conversion will succeed, there is no way back
 * @error_index: the page that stood in the way
 * @nr_changed: pages that change state, present or not
 * @first_changed: the first of them, if any
 * @last_changed: the last of them, inclusive
 * @nr_present: pages seen that were present and to change state
 * @nr_drains: how often all CPUs were made to drain their LRU caches
 * @waited_ns: time spent waiting for references to go away
 */
struct kvm_gmem_conversion {
	struct kvm *kvm;
	struct inode *inode;
	pgoff_t start;
	pgoff_t last;
	u64 attrs;
	unsigned long nr_busy;
	unsigned long nr_poisoned;
	bool unmapped;
	unsigned int nr_attempts;
	u64 busy_since;
	pgoff_t busy_index;
	unsigned int nr_moves;
	bool restless;
	u64 locked_wait_ns;
	u64 locked_waited_ns;
	bool certain;
	pgoff_t error_index;
	pgoff_t nr_changed;
	pgoff_t first_changed;
	pgoff_t last_changed;
	unsigned long nr_present;
	unsigned int nr_drains;
	u64 waited_ns;
};

typedef int (*kvm_gmem_folio_fn)(struct kvm_gmem_conversion *c,
				 struct folio *folio);

int kvm_gmem_take_a_break(struct kvm_gmem_conversion *c, unsigned int *nr_steps);
int kvm_gmem_walk_folios(struct kvm_gmem_conversion *c, kvm_gmem_folio_fn fn);
int kvm_gmem_evict_host_users(struct kvm_gmem_conversion *c);
void kvm_gmem_wait_unlocked(struct kvm_gmem_conversion *c);

#endif /* __KVM_GUEST_MEMFD_CONVERT_H__ */

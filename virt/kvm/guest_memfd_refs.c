// SPDX-License-Identifier: GPL-2.0-only
/*
 * Drop the host's references to pages of a guest_memfd before a conversion makes
 * them private.
 *
 * Each user of a page holds a reference, but the count doesn't tell who the
 * users are or how long they stay.  Page table entries can be removed, LRU
 * caches can be drained, and all other references have to be waited for, see
 * guest_memfd_wait.c.
 */
#include <linux/hrtimer.h>
#include <linux/kvm_host.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/sched/signal.h>
#include <linux/spinlock.h>
#include <linux/swap.h>

#include "guest_memfd.h"
#include "guest_memfd_convert.h"

/* Drains affect the whole system, so all conversions share the budget. */
static struct kvm_gmem_drain_budget kvm_gmem_drain_budget;
static DEFINE_SPINLOCK(kvm_gmem_drain_lock);

/*
 * Return true if there are references other than those of the page cache and of
 * page tables.  The result can be wrong while mappings come and go.
 */
static bool kvm_gmem_folio_has_extra_refs(struct folio *folio)
{
	return folio_ref_count(folio) > folio_expected_ref_count(folio);
}

/*
 * Return true if the host neither uses the page nor can start to.  A fault in
 * flight turns its reference into that of a page table entry, so reading the
 * one counter that includes both is sufficient.  The page cache holds the one
 * remaining reference, as all folios are of order 0.
 */
static bool kvm_gmem_folio_is_unused(struct folio *folio)
{
	return folio_ref_count(folio) == 1;
}

/* Give the users of a page time to finish, starting with a short nap. */
static void kvm_gmem_nap(unsigned int state, unsigned int *nap_us)
{
	ktime_t nap = us_to_ktime(*nap_us);

	*nap_us = min(2 * *nap_us, 200);
	set_current_state(state);
	schedule_hrtimeout_range(&nap, nap / 2, HRTIMER_MODE_REL);
}

static void kvm_gmem_drain_all(struct kvm_gmem_conversion *c, struct folio *folio)
{
	enum lru_cache_drained drained = LRU_CACHE_NOT_DRAINED;

	scoped_guard(spinlock, &kvm_gmem_drain_lock) {
		if (!kvm_gmem_drain_take(&kvm_gmem_drain_budget, ktime_get_ns()))
			return;
		c->drains_spent_until = kvm_gmem_drain_budget.spent_until;
	}

	c->drained = true;
	c->nr_drains++;
	lru_cache_drain_for_folio(folio, 0, &drained);
}

/* Don't count the drains of a successful request against the budget. */
void kvm_gmem_host_refs_dropped(struct kvm_gmem_conversion *c)
{
	if (!c->nr_drains)
		return;

	guard(spinlock)(&kvm_gmem_drain_lock);
	kvm_gmem_drain_refund(&kvm_gmem_drain_budget, ktime_get_ns(), c->nr_drains,
			      c->drains_spent_until);
}

static int kvm_gmem_unmap_folio(struct kvm_gmem_conversion *c, struct folio *folio)
{
	/*
	 * Host faults drop the invalidate lock before installing the PTE, but
	 * keep the folio locked until then.  Take the folio lock to wait for
	 * faults in flight; new ones block on the invalidate lock.
	 */
	if (folio_lock_killable(folio))
		return -EINTR;

	if (folio_mapped(folio))
		unmap_mapping_pages(c->inode->i_mapping, folio->index, 1, false);

	folio_unlock(folio);
	return 0;
}

static void kvm_gmem_watch_refs(struct kvm_gmem_conversion *c, struct folio *folio)
{
	int extra_refs = folio_ref_count(folio) - folio_expected_ref_count(folio);

	if (extra_refs != c->extra_refs)
		kvm_gmem_wait_users_changed(&c->wait);
	c->extra_refs = extra_refs;
}

static int kvm_gmem_wait_locked(struct kvm_gmem_conversion *c, struct folio *folio)
{
	struct rw_semaphore *lock = &c->inode->i_mapping->invalidate_lock;
	u64 start = ktime_get_ns(), now = start;
	unsigned int nap_us = 20;
	bool unused;

	kvm_gmem_wait_for(&c->wait, start, folio->index);
	do {
		/* Not freezable, as other tasks wait for the lock. */
		kvm_gmem_nap(TASK_KILLABLE, &nap_us);

		if (kvm_gmem_wait_drain_due(&c->wait))
			kvm_gmem_drain_all(c, folio);

		now = ktime_get_ns();
		kvm_gmem_watch_refs(c, folio);
		unused = kvm_gmem_folio_is_unused(folio);
	} while (!unused && !fatal_signal_pending(current) &&
		 kvm_gmem_wait_hold(&c->wait, now, rwsem_is_contended(lock)));

	c->waited_ns += now - start;
	if (unused)
		return 0;

	return fatal_signal_pending(current) ? -EINTR : -EAGAIN;
}

/* Drop all host references to a folio that has some. */
static int kvm_gmem_drop_folio_refs(struct kvm_gmem_conversion *c, struct folio *folio)
{
	int r;

	c->error_index = folio->index;

	r = kvm_gmem_unmap_folio(c, folio);
	if (r)
		return r;

	/* Unmapping from an mlock()ed range puts the page into an LRU cache. */
	if (!kvm_gmem_folio_is_unused(folio))
		lru_add_drain();

	/* Drain here at most once per attempt; waiting may drain again. */
	if (!kvm_gmem_folio_is_unused(folio) && !folio_test_hwpoison(folio) &&
	    !c->drained)
		kvm_gmem_drain_all(c, folio);

	if (kvm_gmem_folio_is_unused(folio))
		return 0;

	/* memory_failure() keeps its reference. */
	return folio_test_hwpoison(folio) ? -EHWPOISON : kvm_gmem_wait_locked(c, folio);
}

/*
 * Report poison in preference to pages in use: check the whole range before
 * waiting for any page.
 */
static int kvm_gmem_check_poison(struct kvm_gmem_conversion *c)
{
	struct xarray *pages = &c->inode->i_mapping->i_pages;
	struct kvm_gmem_attrs *attrs = &GMEM_I(c->inode)->attrs;
	unsigned long index = c->first_change;
	struct folio *folio;

	for (folio = xa_find(pages, &index, c->last_change, KVM_GMEM_TAG_POISONED);
	     folio;
	     folio = xa_find_after(pages, &index, c->last_change, KVM_GMEM_TAG_POISONED)) {
		if (folio_test_hwpoison(folio) &&
		    !kvm_gmem_attrs_is_private(attrs, index)) {
			c->error_index = index;
			return -EHWPOISON;
		}
	}
	return 0;
}

/*
 * Begin with the page that the last attempt found in use, so that the time until
 * a pinned page is reported does not depend on the size of the range.
 */
static int kvm_gmem_resume_wait(struct kvm_gmem_conversion *c)
{
	struct folio *folio;

	if (!c->wait.waiting)
		return 0;

	folio = xa_load(&c->inode->i_mapping->i_pages, c->wait.page);
	if (!folio || kvm_gmem_folio_is_unused(folio) ||
	    kvm_gmem_attrs_is_private(&GMEM_I(c->inode)->attrs, c->wait.page))
		return 0;

	return kvm_gmem_drop_folio_refs(c, folio);
}

/*
 * Unmap a range from the host in a bounded number of steps, between which other
 * tasks can use or remove their mappings.
 */
static int kvm_gmem_unmap_range(struct kvm_gmem_conversion *c, pgoff_t first,
				pgoff_t last)
{
	pgoff_t nr = max((last - first) / 64 + 1, 4096);

	for (; first <= last; first += nr) {
		unmap_mapping_pages(c->inode->i_mapping, first,
				    min(nr, last - first + 1), false);
		cond_resched();
		if (fatal_signal_pending(current))
			return -EINTR;
	}
	return 0;
}

/*
 * Check all pages while the host's mappings are still in place, so that no page
 * is unmapped in vain if another one stays in use.  But if users come and go,
 * unmap the whole range before checking, else they move on to the next page
 * while the conversion waits for one.
 */
static int kvm_gmem_try_drop_host_refs(struct kvm_gmem_conversion *c)
{
	pgoff_t first_mapped = ULONG_MAX, last_mapped = 0;
	struct folio *folio;
	int r;

	if (c->wait.moved) {
		r = kvm_gmem_unmap_range(c, c->first_change, c->last_change);
		if (r)
			return r;
	}

	r = kvm_gmem_resume_wait(c);
	if (r)
		return r;

	kvm_gmem_for_each_change(folio, c, c->first_change, c->last_change) {
		if (kvm_gmem_folio_is_unused(folio))
			continue;

		if (kvm_gmem_folio_has_extra_refs(folio)) {
			r = kvm_gmem_drop_folio_refs(c, folio);
			if (r)
				return r;
			continue;
		}

		first_mapped = min(first_mapped, folio->index);
		last_mapped = folio->index;
	}

	if (fatal_signal_pending(current))
		return -EINTR;

	if (first_mapped > last_mapped)
		return 0;

	r = kvm_gmem_unmap_range(c, first_mapped, last_mapped);
	if (r)
		return r;

	kvm_gmem_for_each_change(folio, c, first_mapped, last_mapped) {
		if (kvm_gmem_folio_is_unused(folio))
			continue;

		r = kvm_gmem_drop_folio_refs(c, folio);
		if (r)
			return r;
	}
	return fatal_signal_pending(current) ? -EINTR : 0;
}

/*
 * Drop all host references to pages that are to become private.  New ones can't
 * be taken until the invalidate lock is dropped.
 */
int kvm_gmem_drop_host_refs(struct kvm_gmem_conversion *c)
{
	int r;

	lockdep_assert_held_write(&c->inode->i_mapping->invalidate_lock);

	c->drained = false;

	r = kvm_gmem_check_poison(c);
	if (r)
		return r;

	r = kvm_gmem_try_drop_host_refs(c);

	/* memory_failure() may have hit a page during the wait. */
	if (r == -EAGAIN && kvm_gmem_check_poison(c))
		return -EHWPOISON;

	return r;
}

static bool kvm_gmem_page_in_use(struct kvm_gmem_conversion *c)
{
	struct address_space *mapping = c->inode->i_mapping;
	struct folio *folio;
	bool in_use;

	/* Don't take a reference, as the lock keeps pages in the file. */
	if (!filemap_invalidate_trylock_shared(mapping))
		return true;

	folio = xa_load(&mapping->i_pages, c->error_index);
	in_use = folio && kvm_gmem_folio_has_extra_refs(folio);
	filemap_invalidate_unlock_shared(mapping);
	return in_use;
}

/*
 * Sleep without the lock, so that the users of the page at @c's error_index can
 * continue.  Try again as soon as the page looks unused, before a task that has
 * just dropped its references to some pages takes others.
 */
void kvm_gmem_wait_unlocked(struct kvm_gmem_conversion *c)
{
	u64 start = ktime_get_ns(), now;
	unsigned int nap_us = 50;

	lockdep_assert_not_held(&c->inode->i_mapping->invalidate_lock);

	kvm_gmem_wait_pause(&c->wait, start);
	do {
		kvm_gmem_nap(TASK_KILLABLE | TASK_FREEZABLE, &nap_us);
		now = ktime_get_ns();
	} while (!fatal_signal_pending(current) &&
		 kvm_gmem_wait_paused(&c->wait, now, kvm_gmem_page_in_use(c)));

	c->waited_ns += now - start;
}

// SPDX-License-Identifier: GPL-2.0-only
/*
 * Seeing to it that nobody on the host uses memory of a guest_memfd, before a
 * conversion makes it private.
 *
 * Whoever uses a page has a reference, which tells nothing about whose it is
 * and for how long.  Page table entries can be removed, LRU caches drained, and
 * the rest be waited for: a while with the invalidate lock held, which keeps new
 * users out, and then without it, by those who started the conversion.
 */
#include <linux/delay.h>
#include <linux/ktime.h>
#include <linux/kvm_host.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/sched/signal.h>
#include <linux/swap.h>

#include "guest_memfd.h"
#include "guest_memfd_convert.h"

/*
 * How long to wait, at a time, with the invalidate lock held.  With the lock
 * no new references can come, i.e. most are gone as soon as those who hold
 * them get to run.  But some may be held by whoever waits for that very lock,
 * as GUP keeps the pages that it already has while it faults in the next one,
 * and vCPUs that fault on the file stall.  So start with little if somebody else
 * waits for the lock, and be more patient with each attempt, for the sake of
 * those who have been preempted.
 */
#define KVM_GMEM_LOCKED_WAIT_MIN_NS	(1 * NSEC_PER_MSEC)
#define KVM_GMEM_LOCKED_WAIT_MAX_NS	(32 * NSEC_PER_MSEC)

/*
 * How long to wait, at a time, without the lock, for whoever uses the page that
 * stood in the way to get on and be done.
 */
#define KVM_GMEM_UNLOCKED_WAIT_NS	(16 * NSEC_PER_MSEC)

/*
 * The least that each page gets, for one page that takes long must not make the
 * next one in the range look busy.
 */
#define KVM_GMEM_PAGE_WAIT_NS	(100 * NSEC_PER_USEC)

/*
 * Draining LRU caches disturbs all CPUs, and nobody who converts in a loop,
 * with success or without, should do that to them: a few times in a row is
 * fine, then once in a while.  Who has to wait for the next time waits no
 * longer than for other references.  All files of a VM share this, or else new
 * ones would be the way to drain more often.
 */
#define KVM_GMEM_DRAIN_INTERVAL_NS	(100 * NSEC_PER_MSEC)
#define KVM_GMEM_DRAIN_BURST_NS		(3 * KVM_GMEM_DRAIN_INTERVAL_NS)

/*
 * Requests that are over in a moment, as the size of a guest's own page state
 * changes, are better completed than interrupted.
 */
#define KVM_GMEM_LONG_REQUEST	64

/**
 * kvm_gmem_take_a_break() - Let others run in a loop over a range
 * @c: the conversion
 * @nr_steps: steps of the loop so far, 0 before the first call
 *
 * Context: May sleep.
 * Return: 0, or -EINTR if a signal is pending, the loop is long, and the
 *	   conversion can still be given up.
 */
int kvm_gmem_take_a_break(struct kvm_gmem_conversion *c, unsigned int *nr_steps)
{
	cond_resched();

	if (++*nr_steps <= KVM_GMEM_LONG_REQUEST || c->certain)
		return 0;

	return signal_pending(current) ? -EINTR : 0;
}

/*
 * Collects pages from *@index to @last, without taking references: these would
 * be in the way of memory_failure(), which reports a page with users that it
 * doesn't know as not dealt with.  Nothing takes pages out of the file while the
 * invalidate lock is held for write, see kvm_gmem_release_folio() for who else
 * could.
 */
static unsigned int kvm_gmem_find_folios(struct address_space *mapping,
					 pgoff_t *index, pgoff_t last,
					 struct folio_batch *fbatch)
{
	XA_STATE(xas, &mapping->i_pages, *index);
	struct folio *folio;

	folio_batch_reinit(fbatch);

	guard(rcu)();

	xas_for_each(&xas, folio, last) {
		if (xas_retry(&xas, folio))
			continue;

		*index = folio_next_index(folio);
		if (!folio_batch_add(fbatch, folio))
			break;
	}
	return folio_batch_count(fbatch);
}

/**
 * kvm_gmem_walk_folios() - Visit all pages that a conversion is about
 * @c: the conversion
 * @fn: what to call for each page in the range that is present and would change
 *	state, in ascending order, with no reference held; ends the walk with
 *	anything but 0
 *
 * The cost follows these pages, not the size of the range.
 *
 * Context: The file's invalidate lock must be held for write.  May sleep.
 * Return: 0, what @fn returned, or -EINTR if a signal is pending, the walk is
 *	   long, and the conversion can still be given up.
 */
int kvm_gmem_walk_folios(struct kvm_gmem_conversion *c, kvm_gmem_folio_fn fn)
{
	struct address_space *mapping = c->inode->i_mapping;
	struct kvm_gmem_attrs_range range;
	struct folio_batch fbatch;
	unsigned int nr_steps = 0;
	pgoff_t index;
	int i, r;

	lockdep_assert_held_write(&mapping->invalidate_lock);

	folio_batch_init(&fbatch);

	kvm_gmem_for_each_attrs_range(&range, &GMEM_I(c->inode)->attrs,
				      c->start, c->last) {
		if (range.attrs == c->attrs)
			continue;

		index = range.start;
		while (kvm_gmem_find_folios(mapping, &index, range.last, &fbatch)) {
			for (i = 0; i < folio_batch_count(&fbatch); i++) {
				r = fn(c, fbatch.folios[i]);
				if (r)
					return r;
			}

			r = kvm_gmem_take_a_break(c, &nr_steps);
			if (r)
				return r;
		}

		/* Ranges without pages take time as well if there are many. */
		r = kvm_gmem_take_a_break(c, &nr_steps);
		if (r)
			return r;
	}
	return 0;
}

/*
 * Whether somebody has a reference beyond the page cache and the host's page
 * tables.  While mappings come and go, the answer can be wrong
 * either way.  It is for good once there are to be none: a fault in flight
 * turns its reference into that of a page table entry, i.e. the one number
 * that is looked at then has either in it.
 */
static bool kvm_gmem_folio_is_busy(struct kvm_gmem_conversion *c,
				   struct folio *folio)
{
	if (c->unmapped)
		return folio_ref_count(folio) > folio_nr_pages(folio);

	return folio_ref_count(folio) > folio_expected_ref_count(folio);
}

static int kvm_gmem_refuse_folio(struct kvm_gmem_conversion *c,
				 struct folio *folio, int err)
{
	c->error_index = folio->index;
	return err;
}

/*
 * Poison has precedence over pages in use, wherever in the range either is, so
 * look for it in all pages before waiting for any.  Signals have precedence over
 * poison, so the first poisoned page is not the end of a long walk.
 */
static int kvm_gmem_note_folio(struct kvm_gmem_conversion *c, struct folio *folio)
{
	c->nr_present++;

	if (!folio_test_hwpoison(folio))
		c->nr_busy += kvm_gmem_folio_is_busy(c, folio);
	else if (!c->nr_poisoned++)
		c->error_index = folio->index;

	return 0;
}

/* Returns false if it's too early to drain LRU caches again. */
static bool kvm_gmem_drain_for_folio(struct kvm_gmem_conversion *c,
				     struct folio *folio)
{
	enum lru_cache_drained drained = LRU_CACHE_NOT_DRAINED;
	u64 until = READ_ONCE(c->kvm->gmem_drained_until);
	u64 now = ktime_get_ns();

	if (now + KVM_GMEM_DRAIN_BURST_NS < until)
		return false;

	lru_cache_drain_for_folio(folio, 0, &drained);
	if (drained == LRU_CACHE_DRAINED_ALL) {
		/* A racing conversion of another file may drain once more. */
		WRITE_ONCE(c->kvm->gmem_drained_until,
			   max(now, until) + KVM_GMEM_DRAIN_INTERVAL_NS);
		c->nr_drains++;
	}
	return true;
}

/* Keeps the page from being mapped, and thereby pinned, until further notice. */
static int kvm_gmem_unmap_folio(struct kvm_gmem_conversion *c,
				struct folio *folio)
{
	/*
	 * A host fault drops the invalidate lock before it maps the page, but
	 * holds on to the folio lock until it has.  Once that lock has been
	 * had, faults are past or have yet to begin.
	 */
	if (folio_lock_killable(folio))
		return -EINTR;

	if (folio_mapped(folio))
		unmap_mapping_pages(c->inode->i_mapping, folio->index, 1, false);

	folio_unlock(folio);
	return 0;
}

/* Whether waiting with the invalidate lock held has ceased to make sense. */
static bool kvm_gmem_waited_enough(struct kvm_gmem_conversion *c, u64 waited)
{
	if (waited < c->locked_wait_ns)
		return false;

	return waited > KVM_GMEM_LOCKED_WAIT_MAX_NS ||
	       rwsem_is_contended(&c->inode->i_mapping->invalidate_lock);
}

static int kvm_gmem_wait_for_users(struct kvm_gmem_conversion *c,
				   struct folio *folio)
{
	u64 waited, start = ktime_get_ns();
	unsigned long delay_us = 10;
	bool busy;

	do {
		usleep_range(delay_us, 2 * delay_us);
		delay_us = min(2 * delay_us, 500);
		waited = ktime_get_ns() - start;
		busy = kvm_gmem_folio_is_busy(c, folio);
	} while (busy &&
		 (waited < KVM_GMEM_PAGE_WAIT_NS ||
		  !kvm_gmem_waited_enough(c, c->locked_waited_ns + waited)));

	c->locked_waited_ns += waited;
	c->waited_ns += waited;
	return busy ? -EAGAIN : 0;
}

/* Sees to it that nobody but the guest uses the page. */
static int kvm_gmem_settle_folio(struct kvm_gmem_conversion *c,
				 struct folio *folio)
{
	int r;

	if (folio_test_hwpoison(folio))
		return kvm_gmem_refuse_folio(c, folio, -EHWPOISON);

	if (!kvm_gmem_folio_is_busy(c, folio))
		return 0;

	/*
	 * A page that was just allocated sits in some CPU's LRU cache, which
	 * holds a reference, nearly every time.  It is none to unmap the page
	 * for, nor to wait for with the lock held, which doesn't drain it.
	 */
	if (!folio_test_lru(folio)) {
		if (!kvm_gmem_drain_for_folio(c, folio))
			return kvm_gmem_refuse_folio(c, folio, -EAGAIN);

		if (!kvm_gmem_folio_is_busy(c, folio))
			return 0;
	}

	r = kvm_gmem_unmap_folio(c, folio);
	if (r || !kvm_gmem_folio_is_busy(c, folio))
		return r;

	/* Unmapping from an mlock()ed range puts it into an LRU cache, too. */
	kvm_gmem_drain_for_folio(c, folio);
	if (!kvm_gmem_folio_is_busy(c, folio))
		return 0;

	r = kvm_gmem_wait_for_users(c, folio);
	if (folio_test_hwpoison(folio))
		r = -EHWPOISON;
	return r ? kvm_gmem_refuse_folio(c, folio, r) : 0;
}

static int kvm_gmem_unmap_range(struct kvm_gmem_conversion *c)
{
	struct kvm_gmem_attrs_range range;
	unsigned int nr_steps = 0;
	int r;

	lockdep_assert_held_write(&c->inode->i_mapping->invalidate_lock);

	kvm_gmem_for_each_attrs_range(&range, &GMEM_I(c->inode)->attrs,
				      c->start, c->last) {
		if (range.attrs != c->attrs)
			unmap_mapping_pages(c->inode->i_mapping, range.start,
					    range.last - range.start + 1, false);

		r = kvm_gmem_take_a_break(c, &nr_steps);
		if (r)
			return r;
	}
	return 0;
}

/**
 * kvm_gmem_evict_host_users() - Make sure that nobody but the guest uses pages
 * @c: a conversion to private
 *
 * Looks at all pages with the host's mappings in place, first.  A page that is
 * in use for long had better be found before they are torn down.  Users that
 * come and go are another matter: while one page is waited for, they would find
 * the next one.
 *
 * Context: The file's invalidate lock must be held for write, and be so until
 *	    the new attributes have been stored.  May sleep.
 * Return: 0; -EAGAIN if it is worth the while to try again without the lock
 *	   held in between, or -EHWPOISON, with @c's error_index set; -EINTR.
 */
int kvm_gmem_evict_host_users(struct kvm_gmem_conversion *c)
{
	int r;

	lockdep_assert_held_write(&c->inode->i_mapping->invalidate_lock);

	c->nr_busy = 0;
	c->nr_poisoned = 0;
	c->unmapped = false;
	c->locked_waited_ns = 0;
	c->locked_wait_ns = clamp(2 * c->locked_wait_ns,
				  KVM_GMEM_LOCKED_WAIT_MIN_NS,
				  KVM_GMEM_LOCKED_WAIT_MAX_NS);

	r = kvm_gmem_walk_folios(c, kvm_gmem_note_folio);
	if (r)
		return r;

	if (c->nr_poisoned)
		return -EHWPOISON;

	if (c->nr_busy) {
		if (c->restless) {
			r = kvm_gmem_unmap_range(c);
			if (r)
				return r;
		}

		r = kvm_gmem_walk_folios(c, kvm_gmem_settle_folio);
		if (r)
			return r;
	}

	r = kvm_gmem_unmap_range(c);
	if (r)
		return r;

	c->unmapped = true;
	return kvm_gmem_walk_folios(c, kvm_gmem_settle_folio);
}

static bool kvm_gmem_is_still_busy(struct kvm_gmem_conversion *c)
{
	struct address_space *mapping = c->inode->i_mapping;
	struct folio *folio;
	bool busy;

	/*
	 * Pages stay in the file, so there is no need for a reference.  Whatever
	 * the attempt has unmapped may be mapped again by now, i.e. @c's idea of
	 * that, which kvm_gmem_folio_is_busy() goes by, is out of date.
	 */
	if (!filemap_invalidate_trylock_shared(mapping))
		return true;

	folio = xa_load(&mapping->i_pages, c->error_index);
	busy = folio && folio_ref_count(folio) > folio_expected_ref_count(folio);
	filemap_invalidate_unlock_shared(mapping);
	return busy;
}

/**
 * kvm_gmem_wait_unlocked() - Let users of a page go on for a while
 * @c: a conversion to private that found the page at its error_index in use
 *
 * Returns as soon as that page looks unused, which is when another attempt has
 * the best chances: who has just let go of some pages has yet to get hold of
 * others.  Otherwise after a while, or when a signal is pending.
 *
 * Context: Without the file's invalidate lock.  Sleeps.
 */
void kvm_gmem_wait_unlocked(struct kvm_gmem_conversion *c)
{
	u64 waited, start = ktime_get_ns();
	unsigned long delay_us = 50;

	do {
		usleep_range(delay_us, 2 * delay_us);
		delay_us = min(2 * delay_us, 500);
		waited = ktime_get_ns() - start;
	} while (waited < KVM_GMEM_UNLOCKED_WAIT_NS &&
		 kvm_gmem_is_still_busy(c) && !signal_pending(current));

	c->waited_ns += waited;
}

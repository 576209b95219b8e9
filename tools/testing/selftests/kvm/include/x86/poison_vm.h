/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A VM some of whose memory is lost to errors, and threads to make that happen
 * when it is least convenient.
 */
#ifndef SELFTEST_KVM_POISON_VM_H
#define SELFTEST_KVM_POISON_VM_H

#include <pthread.h>

#include "gmem_vm.h"

#define POISON_VM_PAGES	16
#define POISON_VM_SIZE	(POISON_VM_PAGES * PAGE_SIZE)
#define POISON_VM_RACES	40

/**
 * struct poison_vm - A VM that has had memory errors
 * @g: the VM
 * @lost: how much memory was lost before
 * @pfns: the pages that errors have struck
 * @nr_pfns: how many these are
 * @nr_busy: for how many of them memory_failure() said that they are in use
 */
struct poison_vm {
	struct gmem_vm g;
	u64 lost;
	u64 pfns[POISON_VM_RACES + POISON_VM_PAGES];
	int nr_pfns;
	int nr_busy;
};

void poison_vm_create(struct poison_vm *p, unsigned long type, u64 flags);

/*
 * Fails if the guest cannot access all of its memory, anew, or if any page that
 * was struck cannot be had back.
 */
void poison_vm_free(struct poison_vm *p);

void poison_vm_punch_hole(struct poison_vm *p, int page, int nr_pages);

/* Allocate a page that has yet to be touched, and return its pfn. */
u64 poison_vm_alloc(struct poison_vm *p, int page);

/* Have an error strike a page.  Returns what memory_failure() does. */
int poison_vm_strike(struct poison_vm *p, u64 pfn);

/*
 * The same while others may be looking at the page, with a reference.  Then,
 * memory_failure() cannot rule out that it is still in use, and says so, though
 * it has done what there is to do.  Returns whether that or nothing went wrong.
 */
bool poison_vm_strike_in_race(struct poison_vm *p, u64 pfn);

/* Returns how many of the pages that were struck cannot be had back. */
int poison_vm_unpoison(struct poison_vm *p);

/* Whether KVM_RUN, which returned @r and @err, was ended by a poisoned page. */
bool poison_vm_is_exit(struct poison_vm *p, int page, bool private, int r, int err);
bool poison_vm_refuses(struct poison_vm *p, int page, bool private);

/**
 * struct racer - A thread that does something while the main thread does, too
 * @p: the VM
 * @thread: the thread
 * @barrier: both wait here, to start together
 * @stop: set for the thread to stop
 * @page: the page to access, or the one that was in the way
 * @nr_done: how often the thread has done what it does
 * @r: what the last ioctl returned
 * @err: its errno
 */
struct racer {
	struct poison_vm *p;
	pthread_t thread;
	pthread_barrier_t barrier;
	bool stop;
	int page;
	int nr_done;
	int r;
	int err;
};

/* @fn gets the racer, and has to start with racer_ready(). */
void racer_start(struct racer *racer, void *(*fn)(void *arg));
void racer_join(struct racer *racer);

static inline void racer_ready(struct racer *racer)
{
	pthread_barrier_wait(&racer->barrier);
}

#endif /* SELFTEST_KVM_POISON_VM_H */

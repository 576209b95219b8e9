/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Memory errors on request, and what the kernel says about the pages that they
 * strike.
 */
#ifndef SELFTEST_KVM_HWPOISON_H
#define SELFTEST_KVM_HWPOISON_H

#include "kvm_util.h"

/*
 * Why there can be no memory errors here: a reason to skip a test, or NULL if
 * there can be.
 */
const char *hwpoison_unsupported(void);

/*
 * Have an error strike a page that nobody is about to access.  Return 0 if
 * memory_failure() has dealt with it, -errno if it reports that it couldn't.
 */
int hwpoison_inject(u64 pfn);

/*
 * Remember a page that an error has struck, which injecting one does, and forget
 * all of them.  The latter needs pages that have no users left; return how many
 * could not be had back.
 */
void hwpoison_remember(u64 pfn);
int hwpoison_unpoison_all(void);

/*
 * What the kernel log says since hwpoison_log_open() on how the error in a page
 * was handled: "Recovered", "Delayed", "Failed", "Ignored", or "nothing".
 */
int hwpoison_log_open(void);
void hwpoison_log_read(int fd, u64 pfn, char *handling, size_t size);

/* The size of all memory lost to errors, in bytes. */
u64 hwpoison_lost_memory(void);

/* KPF_* of a page, see linux/kernel-page-flags.h. */
u64 hwpoison_page_flags(u64 pfn);

/* The page at an address of this process, or 0 if none is mapped. */
u64 hwpoison_mapped_pfn(const void *hva);

/*
 * Allocate a page of a guest_memfd, which has none there, and return its pfn.
 * Unlike a mapping, this reveals the pfn of private memory, too.
 */
u64 hwpoison_alloc_gmem_page(int fd, u64 offset);
bool hwpoison_can_alloc_gmem_page(void);

#endif /* SELFTEST_KVM_HWPOISON_H */

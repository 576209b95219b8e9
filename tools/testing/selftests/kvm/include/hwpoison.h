/* SPDX-License-Identifier: GPL-2.0-only */
/* Inject memory errors, and query what the kernel reports about poisoned pages. */
#ifndef SELFTEST_KVM_HWPOISON_H
#define SELFTEST_KVM_HWPOISON_H

#include "kvm_util.h"

/* Return the reason to skip a test if errors can't be injected, or NULL. */
const char *hwpoison_unsupported(void);

/*
 * Inject an error that no access has hit, i.e. without MF_ACTION_REQUIRED.
 * Return 0 or the -errno that memory_failure() reports.  If another task
 * happens to hold a reference to the page, memory_failure() can't rule out that
 * the page is still in use, and reports -EBUSY although it has handled the
 * error.
 */
int hwpoison_inject(u64 pfn);

/*
 * hwpoison_unpoison_all() recovers the pages poisoned by hwpoison_inject(), and
 * those of hwpoison_remember().  Only pages that are no longer in use can be
 * recovered.  Return the number of pages that were not recovered.
 */
void hwpoison_remember(u64 pfn);
int hwpoison_unpoison_all(void);

/*
 * Store in @handling how the kernel has handled the error in a page, as logged
 * since hwpoison_log_open(): "Recovered", "Delayed", "Failed", "Ignored", or
 * "nothing" if no handling was logged.
 */
int hwpoison_log_open(void);
void hwpoison_log_read(int fd, u64 pfn, char *handling, size_t size);

/* Return the amount of memory lost to errors, in bytes. */
u64 hwpoison_lost_memory(void);

/* Return the KPF_* flags of a page, see linux/kernel-page-flags.h. */
u64 hwpoison_page_flags(u64 pfn);

/* Return true if a page is mapped at an address of this process. */
bool hwpoison_is_mapped(const void *hva);

/* Return the pfn mapped at an address of this process, or 0 if there is none. */
u64 hwpoison_mapped_pfn(const void *hva);
const char *hwpoison_pfn_unsupported(void);

/*
 * Allocate a missing page of a guest_memfd, and return its pfn.  Unlike a
 * lookup in a mapping, this works for private memory, too.
 */
u64 hwpoison_alloc_gmem_page(int fd, u64 offset);
const char *hwpoison_alloc_unsupported(void);

#endif /* SELFTEST_KVM_HWPOISON_H */

/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Scaffolding for guest_memfd tests: a fresh VM for each case.
 *
 * To write a test, start from a small one, e.g. guest_memfd_busy_test.c:
 * declare the VM with GMEM_FIXTURE(name, number of pages), use it as g in each
 * TEST_F(), and end with GMEM_TEST_MAIN(reason to skip all cases, or NULL).
 */
#ifndef SELFTEST_KVM_GMEM_TEST_H
#define SELFTEST_KVM_GMEM_TEST_H

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <linux/falloc.h>

#include "gmem_util.h"
#include "gmem_vm.h"
#include "hwpoison.h"
#include "kselftest_harness.h"
#include "kvm_syscalls.h"
#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"

#define PRIVATE		KVM_MEMORY_ATTRIBUTE_PRIVATE
#define SHARED		0

/* Each test defines NR_PAGES. */
#define DATA_SIZE	(NR_PAGES * PAGE_SIZE)

static struct gmem_vm gmem_test_vm;
static struct gmem_vm * const g = &gmem_test_vm;

#define GMEM_FIXTURE(name, nr)						\
	FIXTURE(name) {							\
	};								\
									\
	FIXTURE_SETUP(name) {						\
		gmem_vm_create(g, nr);					\
	}								\
									\
	FIXTURE_TEARDOWN(name) {					\
		gmem_vm_free(g);					\
		hwpoison_unpoison_all();				\
	}

/* Skip a case if there is a reason, i.e. @reason isn't NULL. */
#define SKIP_IF(reason)							\
do {									\
	const char *__reason = (reason);				\
									\
	if (__reason)							\
		SKIP(return, "%s", __reason);				\
} while (0)

/* Expect a condition to be true in another process. */
#define ASSERT_IN_CHILD(condition)					\
do {									\
	pid_t __pid = fork();						\
	int __status = -1;						\
									\
	if (!__pid)							\
		_exit(!(condition));					\
	ASSERT_LT(0, __pid);						\
	ASSERT_EQ(__pid, waitpid(__pid, &__status, 0));			\
	ASSERT_EQ(0, __status);						\
} while (0)

/* Expect a conversion to private to fail with @error, and to report page @at. */
#define ASSERT_REFUSED(error, at, page, nr)				\
do {									\
	ASSERT_EQ(error, gmem_convert(g, page, nr, PRIVATE));		\
	ASSERT_EQ(at, g->error_page);					\
} while (0)

#define ASSERT_CONVERTED(page, nr, attributes)				\
do {									\
	ASSERT_EQ(0, gmem_convert(g, page, nr, attributes)) {		\
		TH_LOG("page %ld is reported", (long)g->error_page);	\
	}								\
	ASSERT_EQ(-1, g->error_page);					\
} while (0)

/*
 * Convert @page to private while it is pinned, and unpin it while KVM is
 * waiting.  Try several times, as a busy machine may unpin it too late, or
 * before the conversion looks at it.  Return 0 once a conversion has waited for
 * the page and succeeded.
 */
static inline int convert_during_unpin(int page)
{
	struct timespec start;
	pthread_t thread;
	int i, r = -1;

	for (i = 0; i < 5 && (r == -1 || r == EAGAIN); i++) {
		*gmem_hva(g, page) = 1;
		close_later(&thread, gmem_pin(g, page, 1));
		start = time_now();
		r = gmem_convert(g, page, 1, PRIVATE);
		if (!r && elapsed_ms(start) < 10) {
			gmem_make_shared(g, page, 1);
			r = -1;
		}
		kvm_pthread_join(thread, NULL);
	}
	return r;
}

/* For a worker that faults in the first four pages, one at a time. */
static inline bool fault_in_page(u64 n)
{
	u64 *hva = gmem_hva(g, n % 4);

	madvise(hva, PAGE_SIZE, MADV_DONTNEED);
	(void)READ_ONCE(*hva);
	return true;
}

/*
 * Prepare for memory errors.  Return the amount of memory already lost, in
 * bytes, for gmem_poison_end().
 */
static inline u64 gmem_poison_begin(void)
{
	/* Send no signal for an error before the page is accessed. */
	int r = prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_LATE, 0, 0);

	TEST_ASSERT(!r, __KVM_SYSCALL_ERROR("prctl(PR_MCE_KILL)", r));
	return hwpoison_lost_memory();
}

/*
 * Free all memory, recover the pages that were poisoned, and verify that the
 * guest can access memory again: pages can be mapped only if all invalidations
 * that began have ended.
 */
static inline void gmem_poison_end(u64 lost)
{
	int i, nr_failed;

	gmem_punch_hole(g, 0, g->nr_pages);
	nr_failed = hwpoison_unpoison_all();
	for (i = 0; i < g->nr_pages; i++)
		TEST_ASSERT_EQ(gmem_read(g, i), 0);
	TEST_ASSERT_EQ(nr_failed, 0);
	TEST_ASSERT_EQ(hwpoison_lost_memory(), lost);
}

/* If there is a reason why no case can run, report a single skip. */
static inline int gmem_test_run(int argc, char **argv, const char *reason)
{
	if (reason)
		ksft_exit_skip("%s\n", reason);

	return test_harness_run(argc, argv);
}

#define GMEM_TEST_MAIN(reason)						\
	int main(int argc, char **argv)					\
	{								\
		return gmem_test_run(argc, argv, reason);		\
	}

/* Likewise, but set @number to the last argument if that is a number. */
#define GMEM_TEST_MAIN_NUMBER(reason, number)				\
	int main(int argc, char **argv)					\
	{								\
		if (argc > 1 && isdigit(argv[argc - 1][0]))		\
			number = atoi_positive(#number, argv[--argc]);	\
		argv[argc] = NULL;					\
									\
		return gmem_test_run(argc, argv, reason);		\
	}

#endif /* SELFTEST_KVM_GMEM_TEST_H */

/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What tests of guest_memfd need besides a VM: times, signals, CPUs, accesses
 * that may fail, and what fdinfo says of a file.
 */
#ifndef SELFTEST_KVM_GMEM_UTIL_H
#define SELFTEST_KVM_GMEM_UTIL_H

#include <pthread.h>
#include <time.h>

#include "kvm_util.h"
#include "test_util.h"

static inline u64 elapsed_us(struct timespec start)
{
	return timespec_to_ns(timespec_elapsed(start)) / 1000;
}

static inline u64 elapsed_ms(struct timespec start)
{
	return elapsed_us(start) / 1000;
}

static inline struct timespec time_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now;
}

/* Install a handler that does nothing, with sigaction()'s @flags. */
void ignore_signal(int sig, int flags);

/* Send SIGALRM to this process after @us, then each @interval_us if not 0. */
void set_alarm(u64 us, u64 interval_us);

/*
 * Access memory that may be private, i.e. return false instead of dying of
 * SIGBUS, in any thread.  Needs catch_sigbus() once.
 */
void catch_sigbus(void);
bool try_read(u64 *hva, u64 *value);
bool try_write(u64 *hva, u64 value);

/*
 * Return the nth of the CPUs that the process was started on, the last one if
 * there are not that many.  Machines under emulation may reserve some CPUs for
 * tasks that don't run VMs.
 */
int nth_cpu(int n);
int nr_cpus(void);

/* Close a file descriptor, e.g. that of a pin, in a thread, after @ms. */
void close_later(pthread_t *thread, int fd, int ms);

/**
 * struct gmem_fdinfo - What /proc/<pid>/fdinfo/<fd> says of a guest_memfd
 * @size: size of the file, in bytes
 * @flags: flags that it was created with
 * @shared: how much of it is shared, in bytes
 * @private: how much of it is private, in bytes
 * @ranges: number of ranges that differ from their neighbours
 * @allocated: number of allocated pages
 * @poisoned: number of poisoned pages
 */
struct gmem_fdinfo {
	u64 size;
	u64 flags;
	u64 shared;
	u64 private;
	u64 ranges;
	u64 allocated;
	u64 poisoned;
};

/* Fails if a line is missing, or is there twice. */
struct gmem_fdinfo gmem_read_fdinfo(pid_t pid, int fd);

/*
 * Make @nr pages of a file private, each so far from the next one that KVM needs
 * memory for it.  The file must be shared and have a size of at least @nr + 1
 * times GMEM_FRAGMENT_SIZE.
 */
#define GMEM_FRAGMENT_SIZE	(4096ull * PAGE_SIZE)

void gmem_fragment(int fd, int nr);

#endif /* SELFTEST_KVM_GMEM_UTIL_H */

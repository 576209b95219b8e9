/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What tests of guest_memfd need besides a VM: times, signals, CPUs, threads,
 * files of the kernel, and what these say about a guest_memfd.
 */
#ifndef SELFTEST_KVM_GMEM_UTIL_H
#define SELFTEST_KVM_GMEM_UTIL_H

#include <pthread.h>
#include <time.h>

#include "kvm_util.h"
#include "test_util.h"

static inline struct timespec time_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now;
}

static inline u64 elapsed_us(struct timespec start)
{
	return timespec_to_ns(timespec_elapsed(start)) / 1000;
}

static inline u64 elapsed_ms(struct timespec start)
{
	return elapsed_us(start) / 1000;
}

/* Sort values, and return the one in the middle. */
u64 median(u64 *values, int nr);

/* Install a handler that does nothing, with sigaction()'s @flags. */
void ignore_signal(int sig, int flags);

/* Send SIGALRM to this process after @us, and each @us, or never again if 0. */
void set_alarm(u64 us);

/*
 * Access memory that may be private: return false instead of dying of SIGBUS,
 * in any thread.  Needs catch_sigbus() once.
 */
void catch_sigbus(void);
bool try_read(u64 *hva, u64 *value);
bool try_write(u64 *hva, u64 value);

/* Have an error strike a page that this thread accesses.  Return true if it did. */
bool try_poison(u64 *hva);

/*
 * Return the nth of the CPUs that the process was started on, the last one if
 * there are fewer.  Machines under emulation may reserve CPUs for tasks that
 * don't run VMs.
 */
int nth_cpu(int n);
int nr_cpus(void);

/*
 * Wait until another thread or a guest has changed a word.  Return false if that
 * takes unreasonably long.
 */
bool wait_for_change(u64 *word, u64 old);

/* Close a file descriptor, e.g. that of a pin, in a thread, after @ms. */
void close_later(pthread_t *thread, int fd, int ms);

/**
 * struct worker - A thread that does something again and again
 * @name: what it does
 * @work: do it for the nth time; return false if it could not be done
 * @thread: the thread
 * @stop: set for the thread to stop
 * @nr_done: how often it was done
 * @nr_failed: how often it could not be done
 */
struct worker {
	const char *name;
	bool (*work)(u64 n);
	pthread_t thread;
	bool stop;
	u64 nr_done;
	u64 nr_failed;
};

/* Stopping waits for the threads to end, and prints how often each succeeded. */
void workers_start(struct worker *workers, int nr);
void workers_stop(struct worker *workers, int nr);

/* Write to a file of debugfs and the like.  Return 0 or -errno. */
int __printf(2, 3) write_file(const char *path, const char *fmt, ...);

/*
 * Have the nth allocation of this thread from now on fail, with @fd of
 * /proc/thread-self/fail-nth.  fail_nth_came() ends that, and returns true if
 * that allocation has come.
 */
void fail_nth_start(int fd, int nth);
bool fail_nth_came(int fd);

/* The number after "@key:" in /proc/meminfo, in bytes. */
u64 read_meminfo(const char *key);

/* A tracing instance with a single event, which disturbs no other tracing. */
struct trace {
	char dir[64];
	char event[64];
};

/* @event is the path of its folder in events/. */
const char *trace_unsupported(const char *event);
void __printf(3, 4) trace_start(struct trace *t, const char *event,
				const char *filter, ...);
void trace_stop(struct trace *t);

/* Remove all events.  Return how many there were, and the text of the last. */
int trace_take(struct trace *t, char *text, size_t size);

/* The number after a field's name, which includes the delimiters around it. */
u64 trace_field(const char *text, const char *name);

/**
 * struct gmem_fdinfo - What /proc/<pid>/fdinfo/<fd> says of a guest_memfd
 * @size: size of the file, in bytes
 * @flags: flags that it was created with
 * @shared: how much of it is shared, in bytes
 * @private: how much of it is private, in bytes
 * @ranges: number of ranges that differ from their neighbours
 * @allocated: number of allocated pages
 * @poisoned: number of poisoned pages
 * @page_size: what memory is allocated in, in bytes, if there is enough of it
 * @chunks: number of 2 MiB pieces that are as they were allocated
 */
struct gmem_fdinfo {
	u64 size;
	u64 flags;
	u64 shared;
	u64 private;
	u64 ranges;
	u64 allocated;
	u64 poisoned;
	u64 page_size;
	u64 chunks;
};

/* Fail if a line is missing, or is there twice. */
struct gmem_fdinfo gmem_read_fdinfo(pid_t pid, int fd);

/*
 * Make @nr pages of a file private, each so far from the next that KVM needs
 * memory for it.  The file must be shared and have a size of at least @nr + 1
 * times GMEM_FRAGMENT_SIZE.
 */
#define GMEM_FRAGMENT_SIZE	(4096ull * getpagesize())

void gmem_fragment(int fd, int nr);

#endif /* SELFTEST_KVM_GMEM_UTIL_H */

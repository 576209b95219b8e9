/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Helpers for guest_memfd tests that don't depend on a VM: time, signals, CPUs,
 * threads, kernel files, and what those files report about a guest_memfd.
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

/* Sort values and return the median. */
u64 median(u64 *values, int nr);

/* Install a handler that does nothing.  @flags are sigaction()'s sa_flags. */
void ignore_signal(int sig, int flags);

/* Send SIGALRM to this process every @us microseconds; 0 stops the timer. */
void set_alarm(u64 us);

/*
 * Access memory that may be private: return false on SIGBUS instead of dying.
 * Call catch_sigbus() once before; the accesses can be made in any thread.
 */
void catch_sigbus(void);
bool try_read(u64 *hva, u64 *value);
bool try_write(u64 *hva, u64 value);

/*
 * Inject an error into a page, as if this thread had accessed it.  Return true
 * on success.
 */
bool try_poison(u64 *hva);

/*
 * Return the nth, counting from 0, of the CPUs that the process was allowed to
 * run on when it was started, or the last one if there are fewer.  Emulated
 * machines may reserve CPUs for tasks that don't run VMs.
 */
int nth_cpu(int n);
int nr_cpus(void);

/* Wait until another thread or a guest changes a word.  Return false on timeout. */
bool wait_for_change(u64 *word, u64 old);

/* Start a thread that closes a file descriptor, e.g. that of a pin, after @ms. */
void close_later(pthread_t *thread, int fd, int ms);

/**
 * struct worker - A thread that repeats an operation
 * @name: name of the operation
 * @work: do it for the nth time; return false on failure
 * @thread: the thread
 * @stop: set to stop the thread
 * @nr_done: number of successes
 * @nr_failed: number of failures
 */
struct worker {
	const char *name;
	bool (*work)(u64 n);
	pthread_t thread;
	bool stop;
	u64 nr_done;
	u64 nr_failed;
};

/* Stopping waits for the threads to end, and prints each one's counts. */
void workers_start(struct worker *workers, int nr);
void workers_stop(struct worker *workers, int nr);

/* Write to a file in debugfs or the like.  Return 0 or -errno. */
int __printf(2, 3) write_file(const char *path, const char *fmt, ...);

/*
 * Make this thread's nth allocation fail, counting from fail_nth_start().  @fd
 * is from fail_nth_open(), which returns -1 if the kernel doesn't support this.
 * fail_nth_came() stops counting, and returns true if the nth allocation was
 * reached.
 */
int fail_nth_open(void);
void fail_nth_start(int fd, int nth);
bool fail_nth_came(int fd);

/* Return the value of "@key:" in /proc/meminfo, in bytes. */
u64 read_meminfo(const char *key);

/* A tracing instance with a single event, which doesn't disturb other tracing. */
struct trace {
	char dir[64];
	char event[64];
};

/* @event is the path of its directory in events/. */
const char *trace_unsupported(const char *event);
void __printf(3, 4) trace_start(struct trace *t, const char *event,
				const char *filter, ...);
void trace_stop(struct trace *t);

/* Consume all events.  Return their number, and the text of the last one. */
int trace_take(struct trace *t, char *text, size_t size);

/* Return the number that follows @name, which includes the field's delimiters. */
u64 trace_field(const char *text, const char *name);

/**
 * struct gmem_fdinfo - Contents of /proc/<pid>/fdinfo/<fd> for a guest_memfd
 * @size: size of the file, in bytes
 * @flags: flags that the file was created with
 * @shared: how much of it is shared, in bytes
 * @private: how much of it is private, in bytes
 * @ranges: number of ranges that are shared or private throughout
 * @allocated: number of allocated pages
 * @poisoned: number of poisoned pages
 * @page_size: preferred size of allocations, in bytes
 * @chunks: number of 2 MiB chunks that are still whole
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

/* Fail if a line is missing or duplicated. */
struct gmem_fdinfo gmem_read_fdinfo(pid_t pid, int fd);

/*
 * Make @nr pages of a file private, far enough apart that KVM needs memory for
 * each.  The file must be shared, and at least (@nr + 1) * GMEM_FRAGMENT_SIZE
 * bytes in size.
 */
#define GMEM_FRAGMENT_SIZE	(4096ull * getpagesize())

void gmem_fragment(int fd, int nr);

#endif /* SELFTEST_KVM_GMEM_UTIL_H */

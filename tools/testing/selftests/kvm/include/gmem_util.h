/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * VM-independent helpers for guest_memfd tests, e.g. for time, signals, CPUs,
 * threads, memory accesses, kernel files, failing allocations, and tracing.
 */
#ifndef SELFTEST_KVM_GMEM_UTIL_H
#define SELFTEST_KVM_GMEM_UTIL_H

#include <pthread.h>
#include <time.h>
#include <unistd.h>

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

/* Install a handler that does nothing. */
void ignore_signal(int sig);

/*
 * Access memory that may be private: return false on SIGBUS instead of dying.
 * Call catch_sigbus() once beforehand; any thread can make the accesses.
 */
void catch_sigbus(void);
bool try_read(u64 *hva, u64 *value);
bool try_write(u64 *hva, u64 value);

/*
 * Inject an error into a page, as if this thread had accessed it.  Return true
 * on success.  Call catch_sigbus() once beforehand, too.
 */
bool try_poison(u64 *hva);

/*
 * Return the nth, counting from 0, of the CPUs that the process was allowed to
 * run on when it was started, or the last one if there are fewer.  Other CPUs
 * of an emulated machine may be unable to run VMs.
 */
int nth_cpu(int n);

/* Return the reason to skip a test if there is no second CPU, or NULL. */
const char *smp_unsupported(void);

/* Wait until another thread or a guest changes a word.  Return false on timeout. */
bool wait_for_change(u64 *word, u64 old);

/* Start a thread that unpins a page, by closing @fd, while KVM waits for the page. */
void close_later(pthread_t *thread, int fd);

/* A thread that repeats an operation. */
struct worker {
	const char *name;
	bool (*work)(u64 n);	/* for n = 0, 1, ...; returns false on failure */
	pthread_t thread;
	bool stop;
	u64 nr_done;
	u64 nr_failed;
};

/* workers_stop() joins the threads, and prints how often each succeeded or failed. */
void workers_start(struct worker *workers, int nr);
void workers_stop(struct worker *workers, int nr);

/* Pick a random range below @max: return the start, and set @nr to the length. */
static inline int kvm_random_range(struct kvm_random_state *rng, int max, int *nr)
{
	int start = kvm_random_u32(rng) % max;

	*nr = 1 + kvm_random_u32(rng) % (max - start);
	return start;
}

/* Return @reason if this process can't access @path with @mode, or NULL. */
static inline const char *access_unsupported(const char *path, int mode,
					     const char *reason)
{
	return access(path, mode) ? reason : NULL;
}

/* Write to a file in debugfs or the like.  Return 0 or -errno. */
int __printf(2, 3) write_file(const char *path, const char *fmt, ...);

/*
 * Make this thread's nth allocation fail, counting from fail_nth_start().  @fd
 * is from fail_nth_open().  fail_nth_came() stops counting, and returns true if
 * the nth allocation was reached.
 */
const char *fail_nth_unsupported(void);
int fail_nth_open(void);
void fail_nth_start(int fd, int nth);
bool fail_nth_came(int fd);

/* Return a value of /proc/meminfo, in bytes.  @key is its name with the colon. */
u64 read_meminfo(const char *key);

/* A tracing instance with a single event, which doesn't disturb other tracing. */
struct trace {
	char dir[64];
	char event[64];
};

/* @event is a directory below events/, e.g. "kvm/kvm_gmem_convert". */
const char *trace_unsupported(const char *event);
void __printf(3, 4) trace_start(struct trace *t, const char *event,
				const char *filter, ...);
void trace_stop(struct trace *t);

/* Consume all events.  Return their number, and store the last one in @text. */
int trace_take(struct trace *t, char *text, size_t size);

/* Return the number after @name, the name of a field with delimiters: " pfn=". */
u64 trace_field(const char *text, const char *name);

/* Contents of /proc/<pid>/fdinfo/<fd> for a guest_memfd. */
struct gmem_fdinfo {
	u64 size;		/* in bytes */
	u64 flags;
	u64 shared;		/* in bytes */
	u64 private;		/* in bytes */
	u64 ranges;		/* of pages with the same attribute */
	u64 allocated;		/* in pages */
	u64 poisoned;		/* in pages */
	u64 page_size;		/* preferred size of allocations, in bytes */
	u64 chunks;		/* 2 MiB chunks that are still whole */
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

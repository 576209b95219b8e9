// SPDX-License-Identifier: GPL-2.0-only
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cgroup_util.h"
#include "gmem_util.h"
#include "kselftest.h"
#include "kvm_syscalls.h"

#define TRACING		"/sys/kernel/tracing/"
#define FAULT_DIR	"/sys/kernel/debug/"

static int compare_u64(const void *a, const void *b)
{
	return *(u64 *)a < *(u64 *)b ? -1 : *(u64 *)a > *(u64 *)b;
}

u64 median(u64 *values, int nr)
{
	qsort(values, nr, sizeof(*values), compare_u64);
	return values[nr / 2];
}

static void do_nothing(int sig)
{
}

void ignore_signal(int sig)
{
	struct sigaction sa = { .sa_handler = do_nothing };

	TEST_ASSERT(!sigaction(sig, &sa, NULL),
		    __KVM_SYSCALL_ERROR("sigaction()", -1));
}

static __thread sigjmp_buf sigbus_env;
static __thread bool trying;

static void return_false(int sig)
{
	if (!READ_ONCE(trying))
		ksft_exit_fail_msg("SIGBUS outside of try_*()\n");

	WRITE_ONCE(trying, false);
	siglongjmp(sigbus_env, 1);
}

void catch_sigbus(void)
{
	struct sigaction sa = { .sa_handler = return_false };

	TEST_ASSERT(!sigaction(SIGBUS, &sa, NULL),
		    __KVM_SYSCALL_ERROR("sigaction()", -1));
}

bool try_read(u64 *hva, u64 *value)
{
	if (sigsetjmp(sigbus_env, 1))
		return false;

	WRITE_ONCE(trying, true);
	*value = READ_ONCE(*hva);
	WRITE_ONCE(trying, false);
	return true;
}

bool try_write(u64 *hva, u64 value)
{
	if (sigsetjmp(sigbus_env, 1))
		return false;

	WRITE_ONCE(trying, true);
	WRITE_ONCE(*hva, value);
	WRITE_ONCE(trying, false);
	return true;
}

bool try_poison(u64 *hva)
{
	bool poisoned;

	if (sigsetjmp(sigbus_env, 1))
		return true;

	WRITE_ONCE(trying, true);
	poisoned = !madvise(hva, getpagesize(), MADV_HWPOISON);
	WRITE_ONCE(trying, false);
	return poisoned;
}

static cpu_set_t initial_cpus;

/* Run before any test pins its thread to a CPU. */
static void __attribute__((constructor)) get_initial_cpus(void)
{
	sched_getaffinity(0, sizeof(initial_cpus), &initial_cpus);
}

const char *smp_unsupported(void)
{
	return CPU_COUNT(&initial_cpus) < 2 ? "only one CPU" : NULL;
}

int nth_cpu(int n)
{
	int cpu, last = 0;

	for (cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		if (!CPU_ISSET(cpu, &initial_cpus))
			continue;
		last = cpu;
		if (!n--)
			break;
	}
	return last;
}

bool wait_for_change(u64 *word, u64 old)
{
	struct timespec start = time_now();

	while (READ_ONCE(*word) == old && elapsed_ms(start) < 30000)
		usleep(100);
	return READ_ONCE(*word) != old;
}

static void *do_close_later(void *arg)
{
	/* KVM waits 100 ms for a page.  Leave time to start the conversion. */
	usleep(30000);
	kvm_close((long)arg);
	return NULL;
}

void close_later(pthread_t *thread, int fd)
{
	kvm_pthread_create(thread, NULL, do_close_later, (void *)(long)fd);
}

static void *do_work(void *arg)
{
	struct worker *w = arg;
	u64 n, *nr;

	for (n = 0; !READ_ONCE(w->stop); n++) {
		nr = w->work(n) ? &w->nr_done : &w->nr_failed;
		WRITE_ONCE(*nr, *nr + 1);
	}
	return NULL;
}

void workers_start(struct worker *workers, int nr)
{
	int i;

	for (i = 0; i < nr; i++)
		kvm_pthread_create(&workers[i].thread, NULL, do_work, &workers[i]);
}

void workers_stop(struct worker *workers, int nr)
{
	int i;

	for (i = 0; i < nr; i++)
		WRITE_ONCE(workers[i].stop, true);
	for (i = 0; i < nr; i++) {
		kvm_pthread_join(workers[i].thread, NULL);
		ksft_print_msg("%s: %lu succeeded, %lu failed\n", workers[i].name,
			       workers[i].nr_done, workers[i].nr_failed);
	}
}

int write_file(const char *path, const char *fmt, ...)
{
	int fd = open(path, O_WRONLY), r;
	va_list args;

	if (fd < 0)
		return -errno;

	va_start(args, fmt);
	r = vdprintf(fd, fmt, args) < 0 ? -errno : 0;
	va_end(args);
	kvm_close(fd);
	return r;
}

const char *fail_nth_unsupported(void)
{
	return access_unsupported(FAULT_DIR "failslab/ignore-gfp-wait", W_OK,
				  "no failslab in debugfs (this needs root and CONFIG_FAILSLAB)");
}

int fail_nth_open(void)
{
	/* If possible, make page allocations fail, too. */
	write_file(FAULT_DIR "fail_page_alloc/ignore-gfp-wait", "N");
	write_file(FAULT_DIR "fail_page_alloc/min-order", "0");
	write_file(FAULT_DIR "fail_page_alloc/verbose", "0");
	write_file(FAULT_DIR "failslab/verbose", "0");
	TEST_ASSERT(!write_file(FAULT_DIR "failslab/ignore-gfp-wait", "N"),
		    "Cannot set up failslab");

	return open_path_or_exit("/proc/thread-self/fail-nth", O_RDWR);
}

void fail_nth_start(int fd, int nth)
{
	char text[16];
	int len = snprintf(text, sizeof(text), "%d", nth);

	TEST_ASSERT(pwrite(fd, text, len, 0) == len, "Cannot write fail-nth");
}

bool fail_nth_came(int fd)
{
	char text[16] = {};
	int saved = errno;

	TEST_ASSERT(pread(fd, text, sizeof(text) - 1, 0) > 0, "Cannot read fail-nth");
	fail_nth_start(fd, 0);
	errno = saved;
	return !atoi(text);
}

u64 read_meminfo(const char *key)
{
	long kib = cg_read_key_long("/proc", "meminfo", key);

	TEST_ASSERT(kib >= 0, "No %s in /proc/meminfo", key);
	return kib * 1024;
}

const char *trace_unsupported(const char *event)
{
	char path[128];

	snprintf(path, sizeof(path), TRACING "events/%s/enable", event);
	if (access(TRACING "instances", W_OK) || access(path, F_OK))
		return "no tracepoints in " TRACING " (this needs root and tracefs)";

	return NULL;
}

static void trace_write(struct trace *t, const char *file, const char *text)
{
	char path[192];
	int r;

	snprintf(path, sizeof(path), "%s/events/%s/%s", t->dir, t->event, file);
	r = write_file(path, "%s", text);
	TEST_ASSERT(!r, "Cannot write '%s' to %s, error: %d", text, path, r);
}

void trace_start(struct trace *t, const char *event, const char *filter, ...)
{
	char text[64];
	va_list args;

	va_start(args, filter);
	vsnprintf(text, sizeof(text), filter, args);
	va_end(args);

	TEST_ASSERT(!trace_unsupported(event), "No event %s", event);
	snprintf(t->event, sizeof(t->event), "%s", event);
	snprintf(t->dir, sizeof(t->dir), TRACING "instances/kvm-selftest-%d-%.9s",
		 getpid(), strrchr(event, '/') + 1);
	TEST_ASSERT(!mkdir(t->dir, 0700), __KVM_SYSCALL_ERROR("mkdir()", -1));
	trace_write(t, "filter", text);
	trace_write(t, "enable", "1");
}

void trace_stop(struct trace *t)
{
	trace_write(t, "enable", "0");
	TEST_ASSERT(!rmdir(t->dir), __KVM_SYSCALL_ERROR("rmdir()", -1));
}

int trace_take(struct trace *t, char *text, size_t size)
{
	char path[96], line[512], *s;
	int nr = 0;
	FILE *f;

	snprintf(path, sizeof(path), "%s/trace", t->dir);
	f = fopen(path, "r");
	TEST_ASSERT(f, "Cannot open %s", path);
	while (fgets(line, sizeof(line), f)) {
		s = strstr(line, strrchr(t->event, '/') + 1);
		if (line[0] != '#' && s) {
			snprintf(text, size, "%s", s);
			nr++;
		}
	}
	fclose(f);

	/* Truncating the file removes the events from the buffer. */
	f = fopen(path, "w");
	TEST_ASSERT(f, "Cannot open %s", path);
	fclose(f);
	return nr;
}

u64 trace_field(const char *text, const char *name)
{
	const char *s = strstr(text, name);

	TEST_ASSERT(s, "No '%s' in '%s'", name, text);
	return strtoull(s + strlen(name), NULL, 0);
}

struct gmem_fdinfo gmem_read_fdinfo(pid_t pid, int fd)
{
	struct gmem_fdinfo info = {};
	struct {
		const char *key;
		u64 *value;
		int nr_lines;
	} lines[] = {
		{ "gmem-size:\t", &info.size },
		{ "gmem-flags:\t", &info.flags },
		{ "gmem-shared:\t", &info.shared },
		{ "gmem-private:\t", &info.private },
		{ "gmem-ranges:\t", &info.ranges },
		{ "gmem-pages-allocated:\t", &info.allocated },
		{ "gmem-pages-poisoned:\t", &info.poisoned },
		{ "gmem-page-size:\t", &info.page_size },
		{ "gmem-chunks:\t", &info.chunks },
	};
	char path[64], line[128];
	FILE *f;
	int i;

	snprintf(path, sizeof(path), "/proc/%d/fdinfo/%d", pid, fd);
	f = fopen(path, "r");
	TEST_ASSERT(f, "Cannot open %s", path);

	while (fgets(line, sizeof(line), f)) {
		for (i = 0; i < ARRAY_SIZE(lines); i++) {
			size_t len = strlen(lines[i].key);

			if (strncmp(line, lines[i].key, len))
				continue;
			*lines[i].value = strtoull(line + len, NULL, 0);
			lines[i].nr_lines++;
		}
	}
	fclose(f);

	for (i = 0; i < ARRAY_SIZE(lines); i++)
		TEST_ASSERT(lines[i].nr_lines == 1, "%d lines with '%s' in %s, not 1",
			    lines[i].nr_lines, lines[i].key, path);
	return info;
}

void gmem_fragment(int fd, int nr)
{
	int i;

	for (i = 1; i <= nr; i++)
		gmem_set_private(fd, i * GMEM_FRAGMENT_SIZE, getpagesize());
}

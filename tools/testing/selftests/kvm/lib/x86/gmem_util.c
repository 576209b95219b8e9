// SPDX-License-Identifier: GPL-2.0-only
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

#include "gmem_util.h"
#include "kvm_syscalls.h"
#include "processor.h"

static void do_nothing(int sig)
{
}

void ignore_signal(int sig, int flags)
{
	struct sigaction sa = {
		.sa_handler = do_nothing,
		.sa_flags = flags,
	};

	TEST_ASSERT(!sigaction(sig, &sa, NULL),
		    __KVM_SYSCALL_ERROR("sigaction()", -1));
}

void set_alarm(u64 us, u64 interval_us)
{
	struct itimerval timer = {
		.it_value.tv_sec = us / 1000000,
		.it_value.tv_usec = us % 1000000,
		.it_interval.tv_sec = interval_us / 1000000,
		.it_interval.tv_usec = interval_us % 1000000,
	};

	setitimer(ITIMER_REAL, &timer, NULL);
}

static __thread sigjmp_buf sigbus_env;

static void return_false(int sig)
{
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

	*value = READ_ONCE(*hva);
	return true;
}

bool try_write(u64 *hva, u64 value)
{
	if (sigsetjmp(sigbus_env, 1))
		return false;

	WRITE_ONCE(*hva, value);
	return true;
}

static cpu_set_t initial_cpus;

/* Before any test binds its thread to a CPU. */
static void __attribute__((constructor)) get_initial_cpus(void)
{
	sched_getaffinity(0, sizeof(initial_cpus), &initial_cpus);
}

int nr_cpus(void)
{
	return CPU_COUNT(&initial_cpus);
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

struct closing {
	int fd;
	int ms;
};

static void *do_close_later(void *arg)
{
	struct closing c = *(struct closing *)arg;

	free(arg);
	usleep(c.ms * 1000);
	kvm_close(c.fd);
	return NULL;
}

void close_later(pthread_t *thread, int fd, int ms)
{
	struct closing *c = malloc(sizeof(*c));

	TEST_ASSERT(c, "Out of memory");
	*c = (struct closing) { .fd = fd, .ms = ms };
	kvm_pthread_create(thread, NULL, do_close_later, c);
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
		{ "gmem-flags:\t0x", &info.flags },
		{ "gmem-shared:\t", &info.shared },
		{ "gmem-private:\t", &info.private },
		{ "gmem-ranges:\t", &info.ranges },
		{ "gmem-pages-allocated:\t", &info.allocated },
		{ "gmem-pages-poisoned:\t", &info.poisoned },
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
			*lines[i].value = strtoull(line + len, NULL,
						   lines[i].value == &info.flags ? 16 : 10);
			lines[i].nr_lines++;
		}
	}
	fclose(f);

	for (i = 0; i < ARRAY_SIZE(lines); i++)
		TEST_ASSERT(lines[i].nr_lines == 1, "%d lines '%s' in %s",
			    lines[i].nr_lines, lines[i].key, path);
	return info;
}

void gmem_fragment(int fd, int nr)
{
	int i;

	for (i = 1; i <= nr; i++)
		gmem_set_private(fd, i * GMEM_FRAGMENT_SIZE, PAGE_SIZE);
}

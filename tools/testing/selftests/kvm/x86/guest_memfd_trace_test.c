// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test what the tracepoint kvm:kvm_gmem_convert tells of conversions of
 * guest_memfd memory between shared and private.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <linux/falloc.h>

#include "gmem_util.h"
#include "gmem_vm.h"
#include "hwpoison.h"
#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"
#include "kselftest_harness.h"

#define PRIVATE		KVM_MEMORY_ATTRIBUTE_PRIVATE
#define TRACING		"/sys/kernel/tracing/"
#define EVENT		"events/kvm/kvm_gmem_convert/"
#define NR_PAGES	16
#define DATA_SIZE	(NR_PAGES * PAGE_SIZE)

/* See include/trace/events/kvm.h. */
struct event {
	u64 ino;
	u64 start;
	u64 nr_pages;
	char to[16];
	u64 nr_changed;
	unsigned int nr_drains;
	u64 waited_ns;
	int ret;
};

FIXTURE(trace) {
	struct gmem_vm g;
	char dir[64];
};

static int write_trace_file(const char *dir, const char *name, const char *text)
{
	char path[160];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	return gmem_vm_write_file(path, text);
}

FIXTURE_SETUP(trace)
{
	const char *reason = gmem_vm_unsupported();
	char filter[32];

	if (reason)
		SKIP(exit(KSFT_SKIP), "%s", reason);
	if (access(TRACING "instances", W_OK))
		SKIP(exit(KSFT_SKIP), "no " TRACING "instances");

	/* Without this event there is something wrong, not missing. */
	ASSERT_EQ(0, access(TRACING EVENT "enable", F_OK));

	/* An instance of its own, so as not to disturb whoever else is tracing. */
	snprintf(self->dir, sizeof(self->dir), TRACING "instances/gmem_trace-%d",
		 getpid());
	ASSERT_EQ(0, mkdir(self->dir, 0700));
	snprintf(filter, sizeof(filter), "common_pid == %d", getpid());
	ASSERT_EQ(0, write_trace_file(self->dir, EVENT "filter", filter));
	ASSERT_EQ(0, write_trace_file(self->dir, EVENT "enable", "1"));

	gmem_vm_create(&self->g, NR_PAGES);
}

FIXTURE_TEARDOWN(trace)
{
	gmem_vm_free(&self->g);
	EXPECT_EQ(0, write_trace_file(self->dir, EVENT "enable", "0"));
	EXPECT_EQ(0, rmdir(self->dir));
}

static const char *field(const char *event, const char *name)
{
	const char *s = strstr(event, name);

	TEST_ASSERT(s, "No '%s' in '%s'", name, event);
	return s + strlen(name);
}

static u64 number(const char *event, const char *name)
{
	return strtoull(field(event, name), NULL, 0);
}

/* Takes all events since the last time.  Returns how many, keeps the last. */
static int take_events(const char *dir, struct event *e)
{
	char path[96], line[512], *s;
	int nr = 0;
	FILE *f;

	snprintf(path, sizeof(path), "%s/trace", dir);
	f = fopen(path, "r");
	TEST_ASSERT(f, "Cannot open %s", path);
	while (fgets(line, sizeof(line), f)) {
		s = strstr(line, "kvm_gmem_convert: ");
		if (!s)
			continue;

		e->ino = number(s, " ino ");
		e->start = number(s, " start ");
		e->nr_pages = number(s, " nr_pages ");
		TEST_ASSERT(sscanf(field(s, " to "), "%15s", e->to) == 1,
			    "No direction in '%s'", line);
		e->nr_changed = number(s, " changed ");
		e->nr_drains = number(s, " drains ");
		e->waited_ns = number(s, " waited ");
		e->ret = strtol(field(s, " ret "), NULL, 0);
		nr++;
	}
	fclose(f);

	/* Opening it this way is what empties it. */
	f = fopen(path, "w");
	TEST_ASSERT(f, "Cannot open %s", path);
	fclose(f);
	return nr;
}

/*
 * Convert, and see that there is one event that tells what was asked for and
 * how it ended.  What else it tells is returned.
 */
static struct event trace_convert(struct __test_metadata *_metadata,
				  const char *dir, int fd, u64 offset, u64 size,
				  u64 attributes)
{
	u64 error_offset = 0, elapsed_ns;
	struct event e = {};
	struct timespec start;
	struct stat st;
	int r;

	ASSERT_EQ(0, fstat(fd, &st));
	clock_gettime(CLOCK_MONOTONIC, &start);
	r = __gmem_set_attributes(fd, offset, size, attributes, &error_offset);
	r = r ? -errno : 0;
	elapsed_ns = timespec_to_ns(timespec_elapsed(start));

	ASSERT_EQ(1, take_events(dir, &e));
	EXPECT_EQ(st.st_ino, e.ino);
	EXPECT_EQ(offset / PAGE_SIZE, e.start);
	EXPECT_EQ(size / PAGE_SIZE, e.nr_pages);
	EXPECT_STREQ(attributes & PRIVATE ? "private" : "shared", e.to);
	EXPECT_EQ(r, e.ret);
	EXPECT_GE(elapsed_ns, e.waited_ns);
	/* Who gives up on a page has done little else but wait for it. */
	if (r == -EAGAIN)
		EXPECT_LE(elapsed_ns / 2, e.waited_ns);
	return e;
}

#define TRACE_CONVERT(page, nr, attributes)				\
	trace_convert(_metadata, self->dir, self->g.fd,			\
		      (page) * PAGE_SIZE, (nr) * PAGE_SIZE, attributes)

/* Nobody was in the way. */
#define EXPECT_SMOOTH(changed, e)					\
do {									\
	struct event __e = (e);						\
									\
	EXPECT_EQ(0, __e.ret);						\
	EXPECT_EQ(changed, __e.nr_changed);				\
	EXPECT_EQ(0, __e.nr_drains);					\
	EXPECT_EQ(0, __e.waited_ns);					\
} while (0)

TEST_F(trace, pages_that_change_state)
{
	struct gmem_vm *g = &self->g;
	struct event e;

	/* Allocated by the kernel, thus drained from this CPU's cache, or none. */
	pin_self_to_cpu(nth_cpu(0));
	EXPECT_SMOOTH(NR_PAGES, TRACE_CONVERT(0, NR_PAGES, PRIVATE));
	EXPECT_SMOOTH(NR_PAGES, TRACE_CONVERT(0, NR_PAGES, 0));

	kvm_fallocate(g->fd, FALLOC_FL_KEEP_SIZE, 2 * PAGE_SIZE, 4 * PAGE_SIZE);
	EXPECT_SMOOTH(1, TRACE_CONVERT(3, 1, PRIVATE));
	EXPECT_SMOOTH(4, TRACE_CONVERT(0, 5, PRIVATE));
	EXPECT_SMOOTH(11, TRACE_CONVERT(5, 11, PRIVATE));
	EXPECT_SMOOTH(2, TRACE_CONVERT(3, 2, 0));
	EXPECT_SMOOTH(14, TRACE_CONVERT(0, NR_PAGES, 0));

	/* Nothing to do is seen as such. */
	EXPECT_SMOOTH(0, TRACE_CONVERT(0, NR_PAGES, 0));
	EXPECT_SMOOTH(0, TRACE_CONVERT(15, 1, 0));

	/* What is no valid request is no conversion. */
	ASSERT_EQ(-1, ioctl(g->fd, KVM_SET_MEMORY_ATTRIBUTES2, NULL));
	e.ino = 0;
	ASSERT_EQ(-1, __gmem_set_attributes(g->fd, DATA_SIZE, PAGE_SIZE, 0, &e.ino));
	ASSERT_EQ(0, take_events(self->dir, &e));
}

TEST_F(trace, files_are_told_apart)
{
	const u64 size = 1ull << 46;
	int fd = vm_create_guest_memfd(self->g.vm, size, 0);

	EXPECT_SMOOTH(size / PAGE_SIZE,
		      trace_convert(_metadata, self->dir, fd, 0, size, 0));
	EXPECT_SMOOTH(1, trace_convert(_metadata, self->dir, fd, size - PAGE_SIZE,
				       PAGE_SIZE, PRIVATE));
	EXPECT_SMOOTH(NR_PAGES, TRACE_CONVERT(0, NR_PAGES, PRIVATE));
	kvm_close(fd);
}

TEST_F(trace, busy)
{
	struct gmem_vm *g = &self->g;
	pthread_t thread;
	struct event e;
	int pin;

	if (!gmem_vm_can_pin())
		SKIP(return, "CONFIG_GUP_TEST is not enabled");

	memset(g->mem, 0xaa, 8 * PAGE_SIZE);
	pin = gmem_vm_pin(g, 5, 1);
	ASSERT_LE(0, pin);

	e = TRACE_CONVERT(2, 14, PRIVATE);
	EXPECT_EQ(-EAGAIN, e.ret);
	EXPECT_EQ(0, e.nr_changed);
	/* The reference could have been that of an LRU cache. */
	EXPECT_LE(1, e.nr_drains);

	/* No reason to wait. */
	e = TRACE_CONVERT(2, 14, 0);
	EXPECT_SMOOTH(0, e);

	/* However many attempts it takes, there is one event, and so many pages. */
	close_later(&thread, pin, 50);
	e = TRACE_CONVERT(2, 14, PRIVATE);
	kvm_pthread_join(thread, NULL);
	EXPECT_EQ(0, e.ret);
	EXPECT_EQ(14, e.nr_changed);
	EXPECT_LT(0, e.waited_ns);
}

/* Signals neither end a conversion nor hide why it failed. */
TEST_F(trace, signals)
{
	const int nr_pages = 16384, size = nr_pages * PAGE_SIZE;
	int fd = vm_create_guest_memfd(self->g.vm, size, 0);
	struct gmem_vm *g = &self->g;
	struct event e;
	int pin;

	kvm_fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, size);
	ignore_signal(SIGALRM, 0);
	set_alarm(1000, 1000);
	e = trace_convert(_metadata, self->dir, fd, 0, size, 0);
	EXPECT_EQ(0, e.ret);
	EXPECT_EQ(nr_pages, e.nr_changed);
	e = trace_convert(_metadata, self->dir, fd, 0, size, PRIVATE);
	EXPECT_EQ(0, e.ret);
	EXPECT_EQ(nr_pages, e.nr_changed);
	set_alarm(0, 0);
	kvm_close(fd);

	if (!gmem_vm_can_pin())
		SKIP(return, "CONFIG_GUP_TEST is not enabled");

	*gmem_vm_hva(g, 5) = 1;
	pin = gmem_vm_pin(g, 5, 1);
	ASSERT_LE(0, pin);
	set_alarm(50000, 10000);
	e = TRACE_CONVERT(0, NR_PAGES, PRIVATE);
	set_alarm(0, 0);
	EXPECT_EQ(-EAGAIN, e.ret);
	EXPECT_EQ(0, e.nr_changed);
	EXPECT_LT(0, e.waited_ns);
	kvm_close(pin);
}

TEST_F(trace, poisoned)
{
	const char *reason = hwpoison_unsupported();
	struct gmem_vm *g = &self->g;
	struct event e;
	u64 pfn;

	if (reason)
		SKIP(return, "%s", reason);

	memset(g->mem, 0xaa, DATA_SIZE);
	pfn = gmem_vm_host_pfn(g, 5);
	ASSERT_EQ(0, gmem_vm_poison(g, 5));

	e = TRACE_CONVERT(2, 14, PRIVATE);
	EXPECT_EQ(-EHWPOISON, e.ret);
	EXPECT_EQ(0, e.nr_changed);
	/* It's known at once. */
	EXPECT_EQ(0, e.waited_ns);
	EXPECT_EQ(0, e.nr_drains);

	e = TRACE_CONVERT(2, 3, PRIVATE);
	EXPECT_EQ(0, e.ret);
	EXPECT_EQ(3, e.nr_changed);
	e = TRACE_CONVERT(0, NR_PAGES, 0);
	EXPECT_EQ(0, e.ret);
	EXPECT_EQ(3, e.nr_changed);

	kvm_fallocate(g->fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, 0,
		      DATA_SIZE);
	hwpoison_unpoison(pfn);
}

static void *touch_on_other_cpu(void *arg)
{
	struct gmem_vm *g = arg;

	pin_self_to_cpu(nth_cpu(1));
	*gmem_vm_hva(g, 3) = 1;
	return NULL;
}

/* Pages that may wait in another CPU's LRU cache: a drain is enough, if any. */
TEST_F(trace, fresh_pages)
{
	struct gmem_vm *g = &self->g;
	pthread_t thread;
	struct event e;
	int i;

	if (nr_cpus() < 2)
		SKIP(return, "only one CPU");

	pin_self_to_cpu(nth_cpu(0));
	for (i = 0; i < 10; i++) {
		kvm_pthread_create(&thread, NULL, touch_on_other_cpu, g);
		kvm_pthread_join(thread, NULL);

		e = TRACE_CONVERT(3, 1, PRIVATE);
		EXPECT_EQ(0, e.ret);
		EXPECT_EQ(1, e.nr_changed);
		EXPECT_GE(1, e.nr_drains);

		e = TRACE_CONVERT(3, 1, 0);
		EXPECT_EQ(0, e.nr_drains);
		kvm_fallocate(g->fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE,
			      3 * PAGE_SIZE, PAGE_SIZE);
	}
}

TEST_HARNESS_MAIN

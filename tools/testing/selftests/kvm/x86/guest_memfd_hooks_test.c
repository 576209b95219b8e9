// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test when guest_memfd calls the hooks for confidential VMs, and what happens
 * if they fail, with the fake ones of CONFIG_KVM_GMEM_TEST_HOOKS.  These warn if
 * they are called in the wrong order.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <linux/falloc.h>
#include <linux/kernel-page-flags.h>

#include "gmem_vm.h"
#include "hwpoison.h"
#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"
#include "kselftest_harness.h"

#define HOOKS		"/sys/kernel/debug/kvm_gmem_test_hooks/"
#define PRIVATE		KVM_MEMORY_ATTRIBUTE_PRIVATE
#define NR_PAGES	16
#define DATA_SIZE	(NR_PAGES * PAGE_SIZE)

struct counters {
	int assigned;
	int released;
	int unflushed;
	int leaked;
};

static int read_counter(const char *name)
{
	char path[128];
	int value;
	FILE *f;

	snprintf(path, sizeof(path), HOOKS "%s", name);
	f = fopen(path, "r");
	TEST_ASSERT(f, "Cannot open %s", path);
	TEST_ASSERT(fscanf(f, "%d", &value) == 1, "Cannot read %s", path);
	fclose(f);
	return value;
}

static struct counters read_counters(void)
{
	return (struct counters) {
		.assigned = read_counter("assigned"),
		.released = read_counter("released"),
		.unflushed = read_counter("unflushed"),
		.leaked = read_counter("leaked"),
	};
}

/* What has changed since @old, which is updated. */
#define EXPECT_COUNTERS(old, nr_assigned, nr_released, nr_leaked)		\
do {										\
	struct counters __new = read_counters(), *__old = (old);		\
										\
	EXPECT_EQ(nr_assigned, __new.assigned - __old->assigned);		\
	EXPECT_EQ(nr_released, __new.released - __old->released);		\
	EXPECT_EQ(nr_leaked, __new.leaked - __old->leaked);			\
	EXPECT_EQ(0, __new.unflushed - __old->unflushed);			\
	*__old = __new;								\
} while (0)

static void write_knob(const char *hook, const char *knob, int value)
{
	char path[128], text[16];
	int r;

	snprintf(path, sizeof(path), HOOKS "%s/%s", hook, knob);
	snprintf(text, sizeof(text), "%d", value);
	r = gmem_vm_write_file(path, text);
	TEST_ASSERT(!r, "Cannot write %s, error: %d", path, r);
}

/* Fail one call of a hook, after as many others as given. */
static void inject(const char *hook, int nr_before)
{
	write_knob(hook, "verbose", 0);
	write_knob(hook, "interval", 1);
	write_knob(hook, "space", nr_before + 1);
	write_knob(hook, "times", 1);
	write_knob(hook, "probability", 100);
}

static void inject_nothing(void)
{
	write_knob("fail_alloc", "probability", 0);
	write_knob("fail_make_private", "probability", 0);
	write_knob("fail_release", "probability", 0);
	write_knob("fail_zap", "probability", 0);
}

static void read_fdinfo(int fd, char *text, size_t size)
{
	char path[64];
	size_t len;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	f = fopen(path, "r");
	TEST_ASSERT(f, "Cannot open %s", path);
	len = fread(text, 1, size - 1, f);
	TEST_ASSERT(len, "Cannot read %s", path);
	text[len] = '\0';
	fclose(f);
}

static void punch_hole(struct gmem_vm *g, int page, int nr)
{
	kvm_fallocate(g->fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE,
		      page * PAGE_SIZE, nr * PAGE_SIZE);
}

FIXTURE(hooks) {
	struct gmem_vm g;
	struct counters before;
	struct counters seen;
};

FIXTURE_SETUP(hooks)
{
	self->before = read_counters();
	gmem_vm_create(&self->g, NR_PAGES);
	gmem_vm_read(&self->g, 0);

	/* Nothing is private yet. */
	self->seen = read_counters();
	ASSERT_EQ(self->before.assigned, self->seen.assigned);
}

/* A dead VM gives back its memory like any other. */
FIXTURE_TEARDOWN(hooks)
{
	struct counters after;

	inject_nothing();
	gmem_vm_free(&self->g);
	after = read_counters();
	EXPECT_EQ(self->before.assigned + after.leaked - self->before.leaked,
		  after.assigned);
}

/* Pages that only the host has had, or nobody, need not be released. */
TEST_F(hooks, released_if_the_guest_had_it)
{
	static const int touched[] = { 1, 2, 5, 9 };
	struct gmem_vm *g = &self->g;
	int round, i;

	for (i = 0; i < 8; i++)
		*gmem_vm_hva(g, i) = 0x100 + i;

	for (round = 0; round < 3; round++) {
		gmem_set_private(g->fd, 0, DATA_SIZE);
		EXPECT_COUNTERS(&self->seen, 0, 0, 0);

		for (i = 0; i < ARRAY_SIZE(touched); i++)
			gmem_vm_read(g, touched[i]);
		EXPECT_COUNTERS(&self->seen, 4, 0, 0);

		gmem_set_shared(g->fd, 0, 4 * PAGE_SIZE);
		EXPECT_COUNTERS(&self->seen, -2, 2, 0);

		/* Again, and what does not change. */
		gmem_set_shared(g->fd, 0, 4 * PAGE_SIZE);
		gmem_set_private(g->fd, 4 * PAGE_SIZE, 8 * PAGE_SIZE);
		EXPECT_COUNTERS(&self->seen, 0, 0, 0);

		gmem_set_shared(g->fd, 0, DATA_SIZE);
		EXPECT_COUNTERS(&self->seen, -2, 2, 0);

		for (i = 0; i < 8; i++)
			ASSERT_EQ(0x100 + i, *gmem_vm_hva(g, i));
		for (i = 0; i < NR_PAGES; i++)
			gmem_vm_read(g, i);
		EXPECT_COUNTERS(&self->seen, 0, 0, 0);
	}
}

TEST_F(hooks, data_survive)
{
	struct gmem_vm *g = &self->g;
	int round, i;

	for (round = 0; round < 20; round++) {
		for (i = 0; i < NR_PAGES; i++)
			*gmem_vm_hva(g, i) = 0x1000 * round + i;

		gmem_set_private(g->fd, 0, DATA_SIZE);
		for (i = 0; i < NR_PAGES; i++) {
			ASSERT_EQ(0x1000 * round + i, gmem_vm_read(g, i));
			gmem_vm_write(g, i, 0x2000 * round + i);
		}

		gmem_set_shared(g->fd, 0, DATA_SIZE);
		for (i = 0; i < NR_PAGES; i++)
			ASSERT_EQ(0x2000 * round + i, *gmem_vm_hva(g, i));
	}
	EXPECT_COUNTERS(&self->seen, 0, 20 * NR_PAGES, 0);
}

TEST_F(hooks, released_without_a_memslot)
{
	struct gmem_vm *g = &self->g;

	gmem_set_private(g->fd, 0, DATA_SIZE);
	gmem_vm_write(g, 3, 0x1111);
	vm_set_user_memory_region2(g->vm, GMEM_VM_SLOT, KVM_MEM_GUEST_MEMFD,
				   GMEM_VM_GPA, 0, NULL, g->fd, 0);
	EXPECT_COUNTERS(&self->seen, 1, 0, 0);

	gmem_set_shared(g->fd, 0, DATA_SIZE);
	EXPECT_COUNTERS(&self->seen, -1, 1, 0);
	ASSERT_EQ(0x1111, *gmem_vm_hva(g, 3));
}

TEST_F(hooks, released_when_freed)
{
	struct gmem_vm *g = &self->g;
	int i;

	gmem_set_private(g->fd, 0, DATA_SIZE);
	for (i = 0; i < 4; i++)
		gmem_vm_write(g, i, 0x1111);
	EXPECT_COUNTERS(&self->seen, 4, 0, 0);

	punch_hole(g, 1, 2);
	EXPECT_COUNTERS(&self->seen, -2, 2, 0);

	ASSERT_EQ(0, gmem_vm_read(g, 1));
	EXPECT_COUNTERS(&self->seen, 1, 0, 0);
}

/* vCPUs fault pages in again and again, at any point of a conversion. */
TEST_F(hooks, order_under_load)
{
	struct gmem_vm *g = &self->g;
	struct gmem_vm_hammer hammers[2];
	int round, page;

	gmem_vm_hammer_start(g, hammers, 2, HAMMER_LOSSLESS);
	for (round = 0; round < 300; round++) {
		page = round % (NR_PAGES - 3);
		gmem_set_private(g->fd, page * PAGE_SIZE, 4 * PAGE_SIZE);
		usleep(500);
		gmem_set_shared(g->fd, page * PAGE_SIZE, 4 * PAGE_SIZE);
		(*gmem_vm_hva(g, page))++;
	}
	gmem_vm_hammer_stop(g, hammers, 2);
}

/* All that is left to do with such a VM is to destroy it. */
#define ASSERT_DEAD(dead)							\
do {										\
	struct gmem_vm *__g = (dead);						\
	int __page;								\
										\
	ASSERT_EQ(EIO, gmem_vm_convert(__g, 0, 1, 0, &__page));			\
	ASSERT_EQ(-1, __page);							\
	ASSERT_EQ(EIO, gmem_vm_convert(__g, NR_PAGES - 1, 1, PRIVATE, &__page)); \
	/* Before anything that is wrong with the request. */			\
	ASSERT_EQ(-1, ioctl(__g->fd, KVM_SET_MEMORY_ATTRIBUTES2, NULL));	\
	ASSERT_EQ(EIO, errno);							\
	ASSERT_EQ(-1, ioctl(__g->vm->fd, KVM_CHECK_EXTENSION, KVM_CAP_USER_MEMORY)); \
	ASSERT_EQ(EIO, errno);							\
	ASSERT_EQ(-1, gmem_vm_start_read(__g, 0));				\
	ASSERT_EQ(EIO, errno);							\
} while (0)

/* To shared, with a failure at whichever page. */
static void conversion_fails(struct __test_metadata *_metadata,
			     struct gmem_vm *g, struct counters *seen,
			     const char *hook, int nr_before)
{
	char before[1024], after[1024];
	int i, error_page;

	for (i = 0; i < 8; i++)
		*gmem_vm_hva(g, i) = 0x100 + i;
	gmem_set_private(g->fd, 0, 8 * PAGE_SIZE);
	for (i = 0; i < 6; i++)
		ASSERT_EQ(0x100 + i, gmem_vm_read(g, i));
	EXPECT_COUNTERS(seen, 6, 0, 0);
	read_fdinfo(g->fd, before, sizeof(before));

	inject(hook, nr_before);
	ASSERT_EQ(EIO, gmem_vm_convert(g, 0, NR_PAGES, 0, &error_page));
	ASSERT_EQ(-1, error_page);
	EXPECT_COUNTERS(seen, -nr_before, nr_before, 0);

	read_fdinfo(g->fd, after, sizeof(after));
	EXPECT_STREQ(before, after);
	for (i = 0; i < NR_PAGES; i++)
		ASSERT_EQ(i >= 8, gmem_vm_host_can_access(g, i));
	ASSERT_DEAD(g);
}

TEST_F(hooks, first_release_fails)
{
	conversion_fails(_metadata, &self->g, &self->seen, "fail_release", 0);
}

TEST_F(hooks, later_release_fails)
{
	conversion_fails(_metadata, &self->g, &self->seen, "fail_release", 2);
}

TEST_F(hooks, last_release_fails)
{
	conversion_fails(_metadata, &self->g, &self->seen, "fail_release", 5);
}

TEST_F(hooks, zap_fails)
{
	conversion_fails(_metadata, &self->g, &self->seen, "fail_zap", 0);
}

TEST_F(hooks, make_private_fails)
{
	struct gmem_vm *g = &self->g;
	char before[1024], after[1024];
	int i;

	*gmem_vm_hva(g, 3) = 0x1111;
	gmem_set_private(g->fd, 0, 8 * PAGE_SIZE);
	read_fdinfo(g->fd, before, sizeof(before));

	inject("fail_make_private", 0);
	ASSERT_EQ(-1, gmem_vm_start_read(g, 3));
	ASSERT_EQ(EIO, errno);
	EXPECT_COUNTERS(&self->seen, 0, 0, 0);

	read_fdinfo(g->fd, after, sizeof(after));
	EXPECT_STREQ(before, after);
	for (i = 0; i < NR_PAGES; i++)
		ASSERT_EQ(i >= 8, gmem_vm_host_can_access(g, i));
	ASSERT_DEAD(g);
}

/* Ahead of time it is no different. */
TEST_F(hooks, make_private_fails_in_pre_fault)
{
	struct gmem_vm *g = &self->g;
	struct kvm_pre_fault_memory range = {
		.gpa = GMEM_VM_GPA,
		.size = PAGE_SIZE,
	};

	if (!vm_check_cap(g->vm, KVM_CAP_PRE_FAULT_MEMORY))
		SKIP(return, "no KVM_CAP_PRE_FAULT_MEMORY");

	gmem_set_private(g->fd, 0, PAGE_SIZE);
	inject("fail_make_private", 0);
	ASSERT_EQ(-1, __vcpu_ioctl(g->vcpu, KVM_PRE_FAULT_MEMORY, &range));
	ASSERT_EQ(EIO, errno);
	ASSERT_DEAD(g);
}

/* What can be gone next time does not kill the VM. */
TEST_F(hooks, make_private_lacks_memory)
{
	struct gmem_vm *g = &self->g;
	u64 value;

	*gmem_vm_hva(g, 3) = 0x1111;
	gmem_set_private(g->fd, 0, DATA_SIZE);
	inject("fail_alloc", 0);
	ASSERT_EQ(-1, __gmem_vm_read(g, 3, &value));
	ASSERT_EQ(ENOMEM, errno);
	EXPECT_COUNTERS(&self->seen, 0, 0, 0);

	ASSERT_EQ(0x1111, gmem_vm_read(g, 3));
	gmem_set_shared(g->fd, 0, DATA_SIZE);
	ASSERT_EQ(0x1111, *gmem_vm_hva(g, 3));
}

/* The page is lost, nobody may get it. */
TEST_F(hooks, release_of_a_freed_page_fails)
{
	struct gmem_vm *g = &self->g;
	u64 pfn = gmem_vm_host_pfn(g, 3);
	int i;

	gmem_set_private(g->fd, 0, DATA_SIZE);
	gmem_vm_write(g, 3, 0x1111);
	EXPECT_COUNTERS(&self->seen, 1, 0, 0);

	inject("fail_release", 0);
	punch_hole(g, 3, 1);
	EXPECT_COUNTERS(&self->seen, 0, 0, 1);
	ASSERT_EQ(BIT_ULL(KPF_LRU), hwpoison_page_flags(pfn) & BIT_ULL(KPF_LRU));

	/* The VM goes on without it. */
	ASSERT_EQ(0, gmem_vm_read(g, 3));
	gmem_set_shared(g->fd, 0, DATA_SIZE);
	for (i = 0; i < NR_PAGES; i++)
		ASSERT_NE(pfn, gmem_vm_host_pfn(g, i));
}

int main(int argc, char **argv)
{
	const char *reason = gmem_vm_unsupported();

	if (!reason && access(HOOKS "fail_release", R_OK))
		reason = "no " HOOKS " (CONFIG_KVM_GMEM_TEST_HOOKS)";
	if (reason)
		ksft_exit_skip("%s\n", reason);

	return test_harness_run(argc, argv);
}

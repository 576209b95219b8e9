// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test conversion of guest_memfd memory while the kernel's memory management
 * does all that it can to the host's mappings and to pages by frame number.  It
 * must neither fail a conversion nor make private memory accessible.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <linux/mempolicy.h>
#include <linux/userfaultfd.h>

#include "gmem_util.h"
#include "gmem_vm.h"
#include "kvm_util.h"
#include "numaif.h"
#include "processor.h"
#include "test_util.h"
#include "kselftest_harness.h"

#define NR_PAGES	16
#define DATA_SIZE	(NR_PAGES * PAGE_SIZE)
#define PRIVATE		KVM_MEMORY_ATTRIBUTE_PRIVATE
#define SECONDS		3
#define MEMORY_DIR	"/sys/devices/system/memory"

/* What the users work on. */
static struct {
	struct gmem_vm *g;
	bool stop;
} host;

/* Users return what their system call does, i.e. a negative number on failure. */
typedef long (*mm_user)(void);

static long pageout(void)
{
	return madvise(host.g->mem, DATA_SIZE, MADV_PAGEOUT);
}

static long cold(void)
{
	return madvise(host.g->mem, DATA_SIZE, MADV_COLD);
}

static long collapse(void)
{
	return madvise(host.g->mem, DATA_SIZE, MADV_COLLAPSE);
}

static long compaction(void)
{
	return gmem_vm_write_file("/proc/sys/vm/compact_memory", "1");
}

static void touch_all(char *mem)
{
	u64 value;
	int i;

	for (i = 0; i < NR_PAGES; i++)
		try_read((u64 *)(mem + i * PAGE_SIZE), &value);
}

/* Mappings move with what is mapped, leave a hole behind, or grow. */
static long move_mapping(void)
{
	char *mem = mmap(NULL, DATA_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED,
			 host.g->fd, 0);
	char *moved;

	if (mem == MAP_FAILED)
		return -1;

	touch_all(mem);
	moved = mremap(mem, DATA_SIZE, DATA_SIZE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP);
	if (moved == MAP_FAILED) {
		moved = mremap(mem, DATA_SIZE, 2 * DATA_SIZE, MREMAP_MAYMOVE);
	} else {
		touch_all(moved);
		munmap(mem, DATA_SIZE);
	}
	if (moved == MAP_FAILED)
		return -1;

	touch_all(moved);
	return munmap(moved, 2 * DATA_SIZE);
}

static long fork_child(void)
{
	pid_t pid = fork();

	if (!pid) {
		touch_all(host.g->mem);
		_exit(0);
	}
	return pid < 0 ? -1 : waitpid(pid, NULL, 0);
}

static long read_remotely(void)
{
	static char buf[DATA_SIZE];
	struct iovec local = { buf, DATA_SIZE };
	struct iovec remote = { host.g->mem, DATA_SIZE };

	return process_vm_readv(getpid(), &local, 1, &remote, 1, 0);
}

/* From node to node and back.  They don't move, but are taken off their LRU. */
static long migrate(void)
{
	static int node;
	int nodes[NR_PAGES], status[NR_PAGES], i;
	void *pages[NR_PAGES];

	node ^= 1;
	for (i = 0; i < NR_PAGES; i++) {
		pages[i] = gmem_vm_hva(host.g, i);
		nodes[i] = node;
	}
	return syscall(SYS_move_pages, 0, (long)NR_PAGES, pages, nodes, status,
		       MPOL_MF_MOVE);
}

static long protect(void)
{
	int r = mprotect(host.g->mem, DATA_SIZE, PROT_READ);

	return mprotect(host.g->mem, DATA_SIZE, PROT_READ | PROT_WRITE) ?: r;
}

static long uffd_wp_async(void)
{
	struct uffdio_api api = {
		.api = UFFD_API,
		.features = UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_UNPOPULATED,
	};
	struct uffdio_register reg = {
		.range = { (u64)host.g->mem, DATA_SIZE },
		.mode = UFFDIO_REGISTER_MODE_WP,
	};
	struct uffdio_writeprotect wp = {
		.range = { (u64)host.g->mem, DATA_SIZE },
		.mode = UFFDIO_WRITEPROTECT_MODE_WP,
	};
	int fd = syscall(__NR_userfaultfd, O_CLOEXEC), r = -1;

	if (fd < 0)
		return -1;

	if (!ioctl(fd, UFFDIO_API, &api) && !ioctl(fd, UFFDIO_REGISTER, &reg)) {
		r = ioctl(fd, UFFDIO_WRITEPROTECT, &wp);
		touch_all(host.g->mem);
	}
	close(fd);
	return r;
}

static char memory_block[64];

/*
 * Offlining the memory fails, but only when a signal says so: guest_memfd's
 * pages look like they could be moved.
 */
static long offline(void)
{
	pid_t pid = fork();

	if (!pid) {
		ignore_signal(SIGALRM, 0);
		set_alarm(100000, 100000);
		if (!gmem_vm_write_file(memory_block, "offline"))
			gmem_vm_write_file(memory_block, "online");
		_exit(0);
	}
	return pid < 0 ? -1 : waitpid(pid, NULL, 0);
}

struct user {
	const char *name;
	mm_user use;
	pthread_t thread;
	u64 nr_calls;
	u64 nr_failed;
};

static void *user(void *arg)
{
	struct user *u = arg;

	for (; !READ_ONCE(host.stop); u->nr_calls++) {
		u->nr_failed += u->use() < 0;
		sched_yield();
	}
	return NULL;
}

FIXTURE(mm) {
	struct gmem_vm g;
};

FIXTURE_SETUP(mm)
{
	const char *reason = gmem_vm_unsupported();

	if (reason)
		SKIP(exit(KSFT_SKIP), "%s", reason);

	catch_sigbus();
	gmem_vm_create(&self->g, NR_PAGES);
	host.g = &self->g;
}

FIXTURE_TEARDOWN(mm)
{
	gmem_vm_free(&self->g);
}

/* The hammer leaves it alone, like the first word. */
static u64 *last_word(struct gmem_vm *g, int page)
{
	return gmem_vm_hva(g, page + 1) - 1;
}

static void race_with_users(struct __test_metadata *_metadata, struct gmem_vm *g,
			    struct user *users, int nr_users)
{
	struct kvm_random_state rng = new_kvm_random_state(kvm_random_seed);
	int page = 0, nr = 0, i, error_page = 0, round, r = 0;
	struct gmem_vm_hammer hammer;
	struct timespec start, call;
	u64 value, worst = 0;

	for (i = 0; i < NR_PAGES; i++)
		*last_word(g, i) = 0x1111 * i;

	gmem_vm_hammer_start(g, &hammer, 1, HAMMER_LOSSLESS);
	for (i = 0; i < nr_users; i++)
		kvm_pthread_create(&users[i].thread, NULL, user, &users[i]);

	start = time_now();
	for (round = 0; !r && elapsed_ms(start) < SECONDS * 1000; round++) {
		page = kvm_random_u32(&rng) % NR_PAGES;
		nr = 1 + kvm_random_u32(&rng) % (NR_PAGES - page);

		call = time_now();
		r = gmem_vm_convert(g, page, nr, PRIVATE, &error_page);
		worst = max_t(u64, worst, elapsed_ms(call));
		for (i = page; !r && i < page + nr; i++)
			EXPECT_FALSE(try_read(last_word(g, i), &value));

		gmem_set_shared(g->fd, page * PAGE_SIZE, nr * PAGE_SIZE);
		for (i = page; i < page + nr; i++)
			EXPECT_TRUE(try_read(last_word(g, i), &value) &&
				    value == 0x1111 * i);
	}

	WRITE_ONCE(host.stop, true);
	for (i = 0; i < nr_users; i++)
		kvm_pthread_join(users[i].thread, NULL);
	gmem_vm_hammer_stop(g, &hammer, 1);

	TH_LOG("%d rounds, the longest conversion took %lu ms", round, worst);
	for (i = 0; i < nr_users; i++) {
		TH_LOG("%s: %lu times, %lu of them failed", users[i].name,
		       users[i].nr_calls, users[i].nr_failed);
		EXPECT_NE(0, users[i].nr_calls);
	}
	ASSERT_EQ(0, r) {
		TH_LOG("pages %d to %d, page %d is busy", page, page + nr - 1,
		       error_page);
	}
}

static void race_with(struct __test_metadata *_metadata, struct gmem_vm *g,
		      mm_user use)
{
	struct user user = { "the user", use };

	race_with_users(_metadata, g, &user, 1);
}

TEST_F(mm, pageout)
{
	race_with(_metadata, &self->g, pageout);
}

TEST_F(mm, cold)
{
	race_with(_metadata, &self->g, cold);
}

TEST_F(mm, collapse)
{
	race_with(_metadata, &self->g, collapse);
}

TEST_F(mm, compaction)
{
	race_with(_metadata, &self->g, compaction);
}

TEST_F(mm, mremap)
{
	race_with(_metadata, &self->g, move_mapping);
}

TEST_F(mm, fork)
{
	race_with(_metadata, &self->g, fork_child);
}

TEST_F(mm, process_vm_readv)
{
	if (read_remotely() < 0)
		SKIP(return, "CONFIG_CROSS_MEMORY_ATTACH is not enabled");

	race_with(_metadata, &self->g, read_remotely);
}

TEST_F(mm, move_pages)
{
	race_with(_metadata, &self->g, migrate);
}

TEST_F(mm, mprotect)
{
	race_with(_metadata, &self->g, protect);
}

TEST_F(mm, uffd_wp_async)
{
	race_with(_metadata, &self->g, uffd_wp_async);
}

TEST_F(mm, offline)
{
	u64 block, pa = gmem_vm_host_pfn(&self->g, 0) * PAGE_SIZE;
	char size[32] = {};
	int fd;

	fd = open(MEMORY_DIR "/block_size_bytes", O_RDONLY);
	if (fd < 0)
		SKIP(return, "no memory blocks (CONFIG_MEMORY_HOTREMOVE)");
	ASSERT_LT(0, read(fd, size, sizeof(size) - 1));
	kvm_close(fd);
	block = pa / strtoull(size, NULL, 16);
	snprintf(memory_block, sizeof(memory_block),
		 MEMORY_DIR "/memory%lu/state", block);

	race_with(_metadata, &self->g, offline);
}

TEST_F(mm, everything)
{
	struct user users[] = {
		{ "pageout", pageout },
		{ "cold", cold },
		{ "compaction", compaction },
		{ "mremap", move_mapping },
		{ "fork", fork_child },
		{ "process_vm_readv", read_remotely },
		{ "move_pages", migrate },
		{ "mprotect", protect },
	};

	race_with_users(_metadata, &self->g, users, ARRAY_SIZE(users));
}

TEST_HARNESS_MAIN

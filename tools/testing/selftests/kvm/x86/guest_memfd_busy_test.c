// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test that nobody is in the way of a conversion of guest_memfd memory to
 * private whose reference goes away by itself.
 *
 * usage: guest_memfd_busy_test [harness options] [rounds]
 *
 * Without a number of rounds, conversions race with each kind of users for some
 * seconds.
 */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <linux/falloc.h>
#include <linux/sizes.h>

#include "gmem_util.h"
#include "gmem_vm.h"
#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"
#include "kselftest_harness.h"
#include "../../../../mm/gup_test.h"

#define NR_PAGES	16
#define DATA_SIZE	(NR_PAGES * PAGE_SIZE)
#define NR_VCPUS	2
#define PRIVATE		KVM_MEMORY_ATTRIBUTE_PRIVATE
#define ALLOCATE_SIZE	(256 * SZ_1M)
#define DEFAULT_SECONDS	12

static u64 nr_rounds;

/* What the host's threads work on, how many pages they pin, and for how long. */
static struct {
	struct gmem_vm *g;
	int nr_pin;
	int hold_us;
	bool stop;
} host;

/* A plain access, which is a SIGBUS whenever the page is private. */
static u64 host_touch(u64 n)
{
	u64 *hva = gmem_vm_hva(host.g, n % NR_PAGES);

	return n & 1 ? try_write(hva, n) : try_read(hva, &n);
}

static u64 host_populate(u64 n)
{
	return !madvise(host.g->mem, DATA_SIZE,
			n & 1 ? MADV_POPULATE_READ : MADV_POPULATE_WRITE);
}

/* Page table walk and get_user_pages() by a stranger, a page at a time. */
static u64 host_read_remotely(u64 n)
{
	static __thread int fd = -1;
	char buf[64];

	if (fd < 0)
		fd = open_path_or_exit("/proc/self/mem", O_RDWR);

	return pread(fd, buf, sizeof(buf),
		     (u64)gmem_vm_hva(host.g, n % NR_PAGES)) > 0;
}

static int host_pin_page(u64 n)
{
	return n % (NR_PAGES - host.nr_pin + 1);
}

static u64 host_pin_fast(u64 n)
{
	struct gup_test gup = {
		.addr = (u64)gmem_vm_hva(host.g, host_pin_page(n)),
		.size = host.nr_pin * PAGE_SIZE,
		.nr_pages_per_call = host.nr_pin,
	};
	static __thread int fd = -1;

	if (fd < 0)
		fd = open("/sys/kernel/debug/gup_test", O_RDWR);

	return fd >= 0 && !ioctl(fd, n & 1 ? PIN_FAST_BENCHMARK :
					     GUP_FAST_BENCHMARK, &gup);
}

static u64 host_lock(u64 n)
{
	void *hva = gmem_vm_hva(host.g, n % NR_PAGES);

	mlock(hva, PAGE_SIZE);
	return !munlock(hva, PAGE_SIZE);
}

/* Direct I/O to a very fast disk: the pages are pinned for one short copy. */
static u64 host_splice(u64 n)
{
	struct iovec iov = {
		.iov_base = gmem_vm_hva(host.g, host_pin_page(n)),
		.iov_len = host.nr_pin * PAGE_SIZE,
	};
	static __thread char buf[DATA_SIZE];
	static __thread int fds[2];
	ssize_t len, r;

	if (!fds[1])
		TEST_ASSERT(!pipe(fds), __KVM_SYSCALL_ERROR("pipe()", -1));

	len = vmsplice(fds[1], &iov, 1, SPLICE_F_NONBLOCK);
	if (len <= 0)
		return 0;

	if (host.hold_us)
		usleep(host.hold_us);

	for (; len > 0; len -= r) {
		r = read(fds[0], buf, len);
		TEST_ASSERT(r > 0, __KVM_SYSCALL_ERROR("read()", (int)r));
	}
	return 1;
}

static u64 host_remap(u64 n)
{
	void *mem = mmap(NULL, DATA_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED,
			 host.g->fd, 0);
	int r = madvise(mem, DATA_SIZE, MADV_POPULATE_READ);

	munmap(mem, DATA_SIZE);
	return !r;
}

/* Looks pages up by their frame number, the way that LRU walkers do. */
static u64 host_mark_idle(u64 n)
{
	static __thread int idle = -1, pagemap = -1;
	u64 entry, mask = -1ull;

	if (idle < 0) {
		idle = open("/sys/kernel/mm/page_idle/bitmap", O_RDWR);
		pagemap = open_path_or_exit("/proc/self/pagemap", O_RDONLY);
	}

	entry = (u64)gmem_vm_hva(host.g, n % NR_PAGES) / PAGE_SIZE;
	if (pread(pagemap, &entry, 8, entry * 8) != 8 || !(entry & BIT_ULL(63)))
		return 0;

	entry &= GENMASK_ULL(54, 0);
	return pwrite(idle, &mask, 8, entry / 64 * 8) == 8;
}

struct host_user {
	const char *name;
	u64 (*use)(u64 n);
	pthread_t thread;
	u64 nr_hits;
};

static void *host_user(void *arg)
{
	struct host_user *u = arg;
	u64 n;

	for (n = 0; !READ_ONCE(host.stop); n++) {
		u64 hit = u->use(n);

		WRITE_ONCE(u->nr_hits, u->nr_hits + hit);
	}

	return NULL;
}

FIXTURE(busy) {
	struct gmem_vm g;
	struct gmem_vm_hammer hammers[NR_VCPUS];
};

FIXTURE_SETUP(busy)
{
	const char *reason = gmem_vm_unsupported();

	if (reason)
		SKIP(exit(KSFT_SKIP), "%s", reason);

	gmem_vm_create(&self->g, NR_PAGES);
	host.g = &self->g;
}

FIXTURE_TEARDOWN(busy)
{
	gmem_vm_free(&self->g);
}

/* A process of its own has page tables of its own, and its own TLBs. */
static pid_t fork_host_process(void)
{
	pid_t parent = getpid(), pid = fork();
	u64 n;

	TEST_ASSERT(pid >= 0, __KVM_SYSCALL_ERROR("fork()", pid));
	if (pid)
		return pid;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (n = 0; getppid() == parent; n++)
		host_populate(n);
	_exit(0);
}

/*
 * Users come in large numbers as it is.  The CPU is for the conversions, whose
 * number counts, and which preempt users at any point then.
 */
static void convert_first(void)
{
	const struct sched_param param = { .sched_priority = 1 };
	int r = sched_setscheduler(0, SCHED_FIFO, &param);

	TEST_ASSERT(!r, __KVM_SYSCALL_ERROR("sched_setscheduler()", r));
}

static void race_with_users(struct __test_metadata *_metadata,
			    struct gmem_vm *g, struct gmem_vm_hammer *hammers,
			    struct host_user *users, int nr_users)
{
	struct kvm_random_state rng = new_kvm_random_state(kvm_random_seed);
	u64 round, ms, minutes = 0, worst = 0;
	struct timespec start, call;
	int page = 0, nr = 0, i, status, r = 0, error_page = 0, nr_mapped = 0;
	pid_t child;

	catch_sigbus();
	child = fork_host_process();
	gmem_vm_hammer_start(g, hammers, NR_VCPUS, HAMMER_LOSSLESS);
	for (i = 0; i < nr_users; i++)
		kvm_pthread_create(&users[i].thread, NULL, host_user, &users[i]);
	convert_first();

	clock_gettime(CLOCK_MONOTONIC, &start);
	for (round = 0; !r; round++) {
		if (nr_rounds ? round == nr_rounds :
				elapsed_ms(start) > DEFAULT_SECONDS * 1000)
			break;

		page = kvm_random_u32(&rng) % NR_PAGES;
		nr = 1 + kvm_random_u32(&rng) % (NR_PAGES - page);

		clock_gettime(CLOCK_MONOTONIC, &call);
		r = gmem_vm_convert(g, page, nr, PRIVATE, &error_page);
		worst = max_t(u64, worst, elapsed_ms(call));

		/* A fault in flight must not map what is private by now. */
		if (!r)
			nr_mapped += host_touch(page + round % nr);

		gmem_set_shared(g->fd, page * PAGE_SIZE, nr * PAGE_SIZE);

		if (elapsed_ms(start) / 60000 > minutes)
			TH_LOG("%lu rounds in %lu minutes", round, ++minutes);
	}
	ms = elapsed_ms(start);

	WRITE_ONCE(host.stop, true);
	for (i = 0; i < nr_users; i++)
		kvm_pthread_join(users[i].thread, NULL);
	gmem_vm_hammer_stop(g, hammers, NR_VCPUS);
	kill(child, SIGKILL);
	ASSERT_EQ(child, waitpid(child, &status, 0));

	TH_LOG("%lu rounds in %lu ms, the longest conversion took %lu ms",
	       round, ms, worst);
	for (i = 0; i < nr_users; i++)
		TH_LOG("%14s: %lu times", users[i].name, users[i].nr_hits);

	ASSERT_EQ(0, r) {
		TH_LOG("pages %d to %d, page %d in the way",
		       page, page + nr - 1, error_page);
	}
	ASSERT_EQ(0, nr_mapped);
	/* There was something to be in the way. */
	ASSERT_NE(0, users[0].nr_hits);
	ASSERT_NE(0, users[1].nr_hits);
}

/* What guests and VMMs do all the time: nothing but accesses. */
TEST_F_TIMEOUT(busy, faults_are_not, 7200)
{
	struct host_user users[] = {
		{ "touch", host_touch },
		{ "touch too", host_touch },
	};

	race_with_users(_metadata, &self->g, self->hammers, users,
			ARRAY_SIZE(users));
}

TEST_F_TIMEOUT(busy, short_lived_users_are_not, 3600)
{
	struct host_user users[] = {
		{ "touch", host_touch },
		{ "populate", host_populate },
		{ "read remotely", host_read_remotely },
		{ "pin fast", host_pin_fast },
		{ "mlock", host_lock },
		{ "vmsplice", host_splice },
		{ "remap", host_remap },
		{ "mark idle", host_mark_idle },
	};

	host.nr_pin = 1;
	race_with_users(_metadata, &self->g, self->hammers, users,
			ARRAY_SIZE(users));
}

/*
 * While pages are being pinned, those that already are wait for the next one
 * to be faulted in, which may be up to the very conversion that they obstruct.
 */
TEST_F_TIMEOUT(busy, pinning_many_pages_is_not, 3600)
{
	struct host_user users[] = {
		{ "touch", host_touch },
		{ "vmsplice", host_splice },
	};

	host.nr_pin = NR_PAGES / 2;
	race_with_users(_metadata, &self->g, self->hammers, users,
			ARRAY_SIZE(users));
}

/*
 * Enough of them that some page of the range is in use at any time, for as long
 * as new ones may come.
 */
TEST_F_TIMEOUT(busy, overlapping_users_are_not, 3600)
{
	struct host_user users[16];
	int i;

	for (i = 0; i < ARRAY_SIZE(users); i++)
		users[i] = (struct host_user) { "vmsplice", host_splice };

	host.nr_pin = 1;
	host.hold_us = 8000;
	race_with_users(_metadata, &self->g, self->hammers, users,
			ARRAY_SIZE(users));
}

/*
 * A lasting pin must not be missed among all the others, though at times it is
 * one of these that is named.
 */
TEST_F(busy, who_stays_among_them_is)
{
	struct host_user users[4];
	struct gmem_vm *g = &self->g;
	int error_page, pin, i, nr_named = 0;
	struct timespec start;
	u64 ms, worst = 0;

	pin = gmem_vm_pin(g, NR_PAGES - 1, 1);
	ASSERT_LE(0, pin);

	host.nr_pin = 2;
	host.hold_us = 1000;
	for (i = 0; i < ARRAY_SIZE(users); i++) {
		users[i] = (struct host_user) { "vmsplice", host_splice };
		kvm_pthread_create(&users[i].thread, NULL, host_user, &users[i]);
	}

	for (i = 0; i < 20 && nr_named < 3; i++) {
		clock_gettime(CLOCK_MONOTONIC, &start);
		ASSERT_EQ(EAGAIN, gmem_vm_convert(g, 0, NR_PAGES, PRIVATE, &error_page));
		ms = elapsed_ms(start);
		ASSERT_GT(1000, ms);
		worst = max_t(u64, worst, ms);
		nr_named += error_page == NR_PAGES - 1;
	}
	TH_LOG("%d of %d calls named the page, the longest took %lu ms",
	       nr_named, i, worst);
	ASSERT_EQ(3, nr_named);

	WRITE_ONCE(host.stop, true);
	for (i = 0; i < ARRAY_SIZE(users); i++)
		kvm_pthread_join(users[i].thread, NULL);
	kvm_close(pin);
}

/* When memory that is locked gets unmapped, LRU caches have it for a while. */
TEST_F(busy, locked_memory_is_not)
{
	struct gmem_vm *g = &self->g;
	int i, error_page;

	for (i = 0; i < 20; i++) {
		ASSERT_EQ(0, mlock(g->mem, DATA_SIZE));
		ASSERT_EQ(0, gmem_vm_convert(g, 0, NR_PAGES, PRIVATE, &error_page));
		munlock(g->mem, DATA_SIZE);
		gmem_set_shared(g->fd, 0, DATA_SIZE);
	}
}

static void *allocate(void *arg)
{
	int fd = *(int *)arg;

	kvm_fallocate(fd, FALLOC_FL_KEEP_SIZE, PAGE_SIZE, ALLOCATE_SIZE - PAGE_SIZE);
	WRITE_ONCE(host.stop, true);
	return NULL;
}

/* Who allocates a lot of memory must not have the lock for all that time. */
TEST_F(busy, allocation_lets_others_in)
{
	int fd = vm_create_guest_memfd(self->g.vm, ALLOCATE_SIZE, 0);
	u64 nr_conversions = 0;
	pthread_t thread;

	kvm_pthread_create(&thread, NULL, allocate, &fd);
	while (!READ_ONCE(host.stop)) {
		gmem_set_shared(fd, 0, PAGE_SIZE);
		gmem_set_private(fd, 0, PAGE_SIZE);
		nr_conversions += 2;
	}
	kvm_pthread_join(thread, NULL);
	kvm_close(fd);

	TH_LOG("%lu conversions during allocation", nr_conversions);
	ASSERT_LT(20, nr_conversions);
}

int main(int argc, char **argv)
{
	if (argc > 1 && isdigit(argv[argc - 1][0]))
		nr_rounds = atoi_positive("Number of rounds", argv[--argc]);
	argv[argc] = NULL;

	return test_harness_run(argc, argv);
}

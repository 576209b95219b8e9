// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test conversion of guest_memfd memory to private while the host briefly uses
 * pages, and while memory management operates on the host's mappings and on the
 * pages themselves.  That must neither make a conversion fail, nor make private
 * memory accessible.
 *
 * usage: guest_memfd_users_test [harness options] [rounds]
 *
 * Without a number of rounds, conversions race with each type of user for a few
 * seconds.
 */
#include <sched.h>
#include <sys/syscall.h>

#include <linux/userfaultfd.h>

#include "gmem_test.h"
#include "numaif.h"
#include "../../../../mm/gup_test.h"

#define NR_PAGES	16
#define HEAVY_MS	8000
#define DEFAULT_MS	2000
#define MEMORY_DIR	"/sys/devices/system/memory"

static u64 nr_rounds;

/* How many pages in a row a user takes references to, and for how long. */
static int nr_pin = 1, hold_us;

/* A plain access, which raises SIGBUS whenever the page is private. */
static bool host_touch(u64 n)
{
	u64 *hva = gmem_hva(g, n % NR_PAGES);

	return n & 1 ? try_write(hva, n) : try_read(hva, &n);
}

static bool host_populate(u64 n)
{
	return !madvise(g->mem, DATA_SIZE,
			n & 1 ? MADV_POPULATE_READ : MADV_POPULATE_WRITE);
}

/* Call get_user_pages_remote(), as for another process, page by page. */
static bool host_read_remotely(u64 n)
{
	static __thread int fd = -1;
	char buf[64];

	if (fd < 0)
		fd = open_path_or_exit("/proc/self/mem", O_RDWR);

	return pread(fd, buf, sizeof(buf), (u64)gmem_hva(g, n % NR_PAGES)) > 0;
}

static bool host_pin_fast(u64 n)
{
	struct gup_test gup = {
		.addr = (u64)gmem_hva(g, n % (NR_PAGES - nr_pin + 1)),
		.size = nr_pin * PAGE_SIZE,
		.nr_pages_per_call = nr_pin,
	};
	static __thread int fd = -1;

	if (fd < 0)
		fd = open("/sys/kernel/debug/gup_test", O_RDWR);

	return fd >= 0 && !ioctl(fd, n & 1 ? PIN_FAST_BENCHMARK :
					     GUP_FAST_BENCHMARK, &gup);
}

static bool host_lock(u64 n)
{
	void *hva = gmem_hva(g, n % NR_PAGES);

	mlock(hva, PAGE_SIZE);
	return !munlock(hva, PAGE_SIZE);
}

/* Act like direct I/O: hold references to pages until their data is copied. */
static bool host_splice(u64 n)
{
	return gmem_splice(g, n % (NR_PAGES - nr_pin + 1), nr_pin, hold_us);
}

/* Look pages up by their frame number, as compaction and DAMON do. */
static bool host_mark_idle(u64 n)
{
	static __thread int idle = -1;
	u64 pfn, mask = -1ull;

	if (idle < 0)
		idle = open("/sys/kernel/mm/page_idle/bitmap", O_RDWR);

	pfn = hwpoison_mapped_pfn(gmem_hva(g, n % NR_PAGES));
	return pfn && pwrite(idle, &mask, 8, pfn / 64 * 8) == 8;
}

static bool pageout(u64 n)
{
	return !madvise(g->mem, DATA_SIZE, MADV_PAGEOUT);
}

static bool cold(u64 n)
{
	return !madvise(g->mem, DATA_SIZE, MADV_COLD);
}

static bool collapse(u64 n)
{
	return !madvise(g->mem, DATA_SIZE, MADV_COLLAPSE);
}

static bool compact(u64 n)
{
	return !write_file("/proc/sys/vm/compact_memory", "1");
}

static void touch_all(char *mem)
{
	u64 value;
	int i;

	for (i = 0; i < NR_PAGES; i++)
		try_read((u64 *)(mem + i * PAGE_SIZE), &value);
}

/* Move the pages of a mapping to a new one. */
static bool remap(u64 n)
{
	char *mem = mmap(NULL, DATA_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED,
			 g->fd, 0);
	char *moved;

	if (mem == MAP_FAILED)
		return false;

	touch_all(mem);
	moved = mremap(mem, DATA_SIZE, DATA_SIZE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP,
		       NULL);
	if (moved == MAP_FAILED) {
		munmap(mem, DATA_SIZE);
		return false;
	}

	touch_all(moved);
	munmap(mem, DATA_SIZE);
	touch_all(moved);
	return !munmap(moved, DATA_SIZE);
}

static bool fork_child(u64 n)
{
	pid_t pid = fork();

	if (!pid) {
		touch_all(g->mem);
		_exit(0);
	}
	return pid > 0 && waitpid(pid, NULL, 0) == pid;
}

/* Try to move pages between nodes.  They stay, but leave the LRU meanwhile. */
static bool migrate(u64 n)
{
	int nodes[NR_PAGES], status[NR_PAGES], i;
	void *pages[NR_PAGES];

	for (i = 0; i < NR_PAGES; i++) {
		pages[i] = gmem_hva(g, i);
		nodes[i] = n & 1;
	}
	return syscall(SYS_move_pages, 0, (long)NR_PAGES, pages, nodes, status,
		       MPOL_MF_MOVE) >= 0;
}

static bool protect(u64 n)
{
	int r = mprotect(g->mem, DATA_SIZE, PROT_READ);

	return !mprotect(g->mem, DATA_SIZE, PROT_READ | PROT_WRITE) && !r;
}

static bool uffd_wp_async(u64 n)
{
	struct uffdio_api api = {
		.api = UFFD_API,
		.features = UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_UNPOPULATED,
	};
	struct uffdio_register reg = {
		.range = { (u64)g->mem, DATA_SIZE },
		.mode = UFFDIO_REGISTER_MODE_WP,
	};
	struct uffdio_writeprotect wp = {
		.range = { (u64)g->mem, DATA_SIZE },
		.mode = UFFDIO_WRITEPROTECT_MODE_WP,
	};
	int fd = syscall(__NR_userfaultfd, O_CLOEXEC);
	bool done = false;

	if (fd < 0)
		return false;

	if (!ioctl(fd, UFFDIO_API, &api) && !ioctl(fd, UFFDIO_REGISTER, &reg)) {
		done = !ioctl(fd, UFFDIO_WRITEPROTECT, &wp);
		touch_all(g->mem);
	}
	close(fd);
	return done;
}

/*
 * Offlining the memory of a page fails, but only once a signal ends it, because
 * guest_memfd's pages look movable.
 */
static bool offline(u64 n)
{
	char path[64], size[32] = {};
	int fd;
	pid_t pid;

	fd = open(MEMORY_DIR "/block_size_bytes", O_RDONLY);
	if (fd < 0 || read(fd, size, sizeof(size) - 1) <= 0)
		return false;
	kvm_close(fd);

	pid = fork();
	if (!pid) {
		ignore_signal(SIGALRM, 0);
		set_alarm(100000);
		snprintf(path, sizeof(path), MEMORY_DIR "/memory%llu/state",
			 gmem_host_pfn(g, NR_PAGES) * PAGE_SIZE / strtoull(size, NULL, 16));
		if (!write_file(path, "offline"))
			write_file(path, "online");
		_exit(0);
	}
	return pid > 0 && waitpid(pid, NULL, 0) == pid;
}

/* Use another process, with its own page tables and TLB entries. */
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

static const char *priorities_unsupported(void)
{
	struct sched_param param = { .sched_priority = 1 };

	if (sched_setscheduler(0, SCHED_FIFO, &param))
		return "no permission to use real-time priorities";

	param.sched_priority = 0;
	sched_setscheduler(0, SCHED_OTHER, &param);
	return NULL;
}

/*
 * Prioritize conversions: their number counts, and they should preempt users at
 * any point.  There are plenty of faults and short pins anyway.
 */
static void convert_first(void)
{
	const struct sched_param param = { .sched_priority = 1 };
	int r = sched_setscheduler(0, SCHED_FIFO, &param);

	TEST_ASSERT(!r, __KVM_SYSCALL_ERROR("sched_setscheduler()", r));
}

/* Use a word that is written by neither hammers nor host_touch(). */
static u64 *last_word(int page)
{
	return gmem_hva(g, page + 1) - 1;
}

/* The last page stays shared. */
GMEM_FIXTURE(transient, NR_PAGES + 1)

FIXTURE_VARIANT(transient) {
	struct worker users[16];
	bool heavy;	/* with a second vCPU, and another process */
	int nr_pin;
	int hold_us;
};

/* Plain accesses, as guests and VMMs make all the time. */
FIXTURE_VARIANT_ADD(transient, faults) {
	.heavy = true,
	.users = {
		{ "touch", host_touch },
		{ "touch too", host_touch },
	},
};

FIXTURE_VARIANT_ADD(transient, references) {
	.heavy = true,
	.users = {
		{ "touch", host_touch },
		{ "populate", host_populate },
		{ "read remotely", host_read_remotely },
		{ "pin fast", host_pin_fast },
		{ "mlock", host_lock },
		{ "vmsplice", host_splice },
		{ "mark idle", host_mark_idle },
	},
};

/*
 * Pages that are already pinned stay so until the next one is faulted in, which
 * may have to wait for the very conversion that they block.
 */
FIXTURE_VARIANT_ADD(transient, many_pages) {
	.heavy = true,
	.users = {
		{ "touch", host_touch },
		{ "vmsplice", host_splice },
	},
	.nr_pin = NR_PAGES / 2,
};

/* Some page of the range is always in use, as long as there are new users. */
FIXTURE_VARIANT_ADD(transient, overlapping) {
	.heavy = true,
	.users = {
		[0 ... 15] = { "vmsplice", host_splice },
	},
	.hold_us = 8000,
};

/* A single type of user. */
FIXTURE_VARIANT_ADD(transient, pageout) { .users = { { "pageout", pageout } } };
FIXTURE_VARIANT_ADD(transient, cold) { .users = { { "cold", cold } } };
FIXTURE_VARIANT_ADD(transient, collapse) { .users = { { "collapse", collapse } } };
FIXTURE_VARIANT_ADD(transient, compaction) { .users = { { "compaction", compact } } };
FIXTURE_VARIANT_ADD(transient, mremap) { .users = { { "mremap", remap } } };
FIXTURE_VARIANT_ADD(transient, fork) { .users = { { "fork", fork_child } } };
FIXTURE_VARIANT_ADD(transient, move_pages) { .users = { { "move_pages", migrate } } };
FIXTURE_VARIANT_ADD(transient, mprotect) { .users = { { "mprotect", protect } } };
FIXTURE_VARIANT_ADD(transient, uffd_wp_async) { .users = { { "uffd_wp_async", uffd_wp_async } } };
FIXTURE_VARIANT_ADD(transient, offline) { .users = { { "offline", offline } } };

FIXTURE_VARIANT_ADD(transient, everything) {
	.users = {
		{ "pageout", pageout },
		{ "cold", cold },
		{ "compaction", compact },
		{ "mremap", remap },
		{ "fork", fork_child },
		{ "move_pages", migrate },
		{ "mprotect", protect },
	},
};

TEST_F_TIMEOUT(transient, conversions, 7200)
{
	struct kvm_random_state rng = new_kvm_random_state(kvm_random_seed);
	int page = 0, nr = 0, nr_users = 0, first, step, i, r = 0, nr_wrong = 0;
	struct worker users[ARRAY_SIZE(variant->users)];
	const int nr_vcpus = variant->heavy ? 2 : 1;
	const u64 ms = variant->heavy ? HEAVY_MS : DEFAULT_MS;
	struct gmem_hammer hammers[2];
	u64 round, value, minutes = 0, worst = 0;
	struct timespec start, call;
	pid_t child = -1;

	memcpy(users, variant->users, sizeof(users));
	while (nr_users < ARRAY_SIZE(users) && users[nr_users].work)
		nr_users++;
	if (users[0].work == offline && access(MEMORY_DIR "/block_size_bytes", R_OK))
		SKIP(return, "no memory blocks (CONFIG_MEMORY_HOTREMOVE)");
	if (variant->heavy)
		SKIP_IF(priorities_unsupported());

	nr_pin = variant->nr_pin ?: 1;
	hold_us = variant->hold_us;
	catch_sigbus();
	for (i = 0; i < NR_PAGES; i++)
		*last_word(i) = 0x1111 * i;

	if (variant->heavy)
		child = fork_host_process();
	gmem_hammer_start(g, hammers, nr_vcpus, HAMMER_LOSSLESS);
	workers_start(users, nr_users);
	if (variant->heavy)
		convert_first();

	start = time_now();
	for (round = 0; !r; round++) {
		if (nr_rounds ? round == nr_rounds : elapsed_ms(start) > ms)
			break;

		page = kvm_random_range(&rng, NR_PAGES, &nr);

		call = time_now();
		r = gmem_convert(g, page, nr, PRIVATE);
		worst = max_t(u64, worst, elapsed_ms(call));

		/*
		 * A fault in flight must not map a page that has become
		 * private.  Check only one page if faults are to be tested, as
		 * checking maps it.
		 */
		first = page + (variant->heavy ? round % nr : 0);
		step = variant->heavy ? nr : 1;
		for (i = first; !r && i < page + nr; i += step)
			nr_wrong += try_read(last_word(i), &value);

		gmem_make_shared(g, page, nr);
		for (i = first; i < page + nr; i += step)
			nr_wrong += !try_read(last_word(i), &value) || value != 0x1111 * i;

		if (elapsed_ms(start) / 60000 > minutes)
			TH_LOG("%lu rounds in %lu minutes", round, ++minutes);
	}
	TH_LOG("%lu rounds in %lu ms, the longest conversion took %lu ms",
	       round, elapsed_ms(start), worst);

	workers_stop(users, nr_users);
	gmem_hammer_stop(g, hammers, nr_vcpus);
	if (variant->heavy) {
		kill(child, SIGKILL);
		ASSERT_EQ(child, waitpid(child, NULL, 0));
	}

	ASSERT_EQ(0, r) {
		TH_LOG("pages %d to %d, page %ld is reported", page, page + nr - 1,
		       (long)g->error_page);
	}
	ASSERT_EQ(0, nr_wrong);
	for (i = 0; i < nr_users; i++)
		EXPECT_NE(0, users[i].nr_done + users[i].nr_failed);
	if (users[0].work == host_touch || users[0].work == remap)
		ASSERT_NE(0, users[0].nr_done);
}

GMEM_FIXTURE(fault, 1)

static u64 nr_asked;

static bool touch_when_asked(u64 n)
{
	while (READ_ONCE(nr_asked) <= n)
		sched_yield();

	return try_write(gmem_hva(g, 0), n);
}

/*
 * Preempt a fault that has dropped the invalidate lock, but has yet to map the
 * page.  As no other task wants the lock, there is no second attempt that would
 * unmap a page that the fault maps a moment later.
 */
TEST_F_TIMEOUT(fault, in_flight, 300)
{
	struct kvm_random_state rng = new_kvm_random_state(kvm_random_seed);
	struct worker faulter = { "fault", touch_when_asked };
	u64 round;

	SKIP_IF(priorities_unsupported());

	catch_sigbus();
	pin_self_to_cpu(nth_cpu(0));
	workers_start(&faulter, 1);
	convert_first();

	for (round = 1; round <= 1000; round++) {
		WRITE_ONCE(nr_asked, round);
		usleep(kvm_random_u32(&rng) % 200);
		ASSERT_CONVERTED(0, 1, PRIVATE);

		while (READ_ONCE(faulter.nr_done) + READ_ONCE(faulter.nr_failed) < round)
			usleep(100);
		gmem_make_shared(g, 0, 1);
	}
	WRITE_ONCE(nr_asked, -1ull);
	workers_stop(&faulter, 1);
	ASSERT_LT(0, faulter.nr_done);
}

GMEM_TEST_MAIN_NUMBER(gmem_vm_unsupported(), nr_rounds)

// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test conversion of guest_memfd memory to private while the host briefly uses
 * pages, and while memory management operates on the host's mappings and on the
 * pages themselves.  That must neither make a conversion fail, nor make private
 * memory accessible.
 *
 * usage: guest_memfd_users_test [harness options] [rounds]
 *
 * Without rounds, conversions race with each type of user for a few seconds.
 */
#include <sched.h>
#include <sys/syscall.h>

#include <linux/userfaultfd.h>

#include "gmem_test.h"
#include "numaif.h"
#include "../../../../mm/gup_test.h"

#define NR_PAGES	16

static u64 nr_rounds;

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
	static int fd;
	char buf[64];

	if (!fd)
		fd = open_path_or_exit("/proc/self/mem", O_RDWR);

	return pread(fd, buf, sizeof(buf), (u64)gmem_hva(g, n % NR_PAGES)) > 0;
}

static bool host_pin_fast(u64 n)
{
	struct gup_test gup = {
		.addr = (u64)gmem_hva(g, n % NR_PAGES),
		.size = PAGE_SIZE,
		.nr_pages_per_call = 1,
	};
	static int fd;

	if (!fd)
		fd = open("/sys/kernel/debug/gup_test", O_RDWR);

	return !ioctl(fd, n & 1 ? PIN_FAST_BENCHMARK : GUP_FAST_BENCHMARK, &gup) && gup.size;
}

static bool host_mlock(u64 n)
{
	void *hva = gmem_hva(g, n % NR_PAGES);
	bool locked = !mlock(hva, PAGE_SIZE);

	return !munlock(hva, PAGE_SIZE) && locked;
}

static bool host_splice(u64 n)
{
	return gmem_splice(g, n % NR_PAGES, 1, 0);
}

static bool host_splice_many(u64 n)
{
	return gmem_splice(g, n % (NR_PAGES / 2 + 1), NR_PAGES / 2, 0);
}

/* Act like direct I/O: hold references to pages until their data is copied. */
static bool host_splice_slowly(u64 n)
{
	return gmem_splice(g, n % NR_PAGES, 1, 8000);
}

/* Look pages up by their frame number, as compaction and DAMON do. */
static bool host_mark_idle(u64 n)
{
	static int fd;
	u64 pfn, mask = -1ull;

	if (!fd)
		fd = open("/sys/kernel/mm/page_idle/bitmap", O_RDWR);

	pfn = hwpoison_mapped_pfn(gmem_hva(g, n % NR_PAGES));
	return pfn && pwrite(fd, &mask, 8, pfn / 64 * 8) == 8;
}

static bool host_reclaim(u64 n)
{
	return !madvise(g->mem, DATA_SIZE, n & 1 ? MADV_PAGEOUT : MADV_COLD);
}

static bool host_compaction(u64 n)
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
static bool host_mremap(u64 n)
{
	char *mem = kvm_mmap(DATA_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, g->fd);
	char *moved;

	touch_all(mem);
	moved = mremap(mem, DATA_SIZE, DATA_SIZE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP,
		       NULL);
	kvm_munmap(mem, DATA_SIZE);
	if (moved == MAP_FAILED)
		return false;

	touch_all(moved);
	kvm_munmap(moved, DATA_SIZE);
	return true;
}

/* Another process has its own page tables and TLB entries. */
static bool host_fork(u64 n)
{
	pid_t pid = fork();

	if (!pid) {
		touch_all(g->mem);
		_exit(0);
	}
	return pid > 0 && waitpid(pid, NULL, 0) == pid;
}

/* Try to move pages between nodes.  They stay, but leave the LRU for a moment. */
static bool host_move_pages(u64 n)
{
	int nodes[NR_PAGES], status[NR_PAGES], i;
	void *pages[NR_PAGES];

	for (i = 0; i < NR_PAGES; i++) {
		pages[i] = gmem_hva(g, i);
		nodes[i] = n & 1;
	}
	/* This returns the number of pages that left the LRU, but can't be moved. */
	return syscall(SYS_move_pages, 0, (long)NR_PAGES, pages, nodes, status,
		       MPOL_MF_MOVE) > 0;
}

static bool host_uffd_wp_async(u64 n)
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
	bool done;

	done = !ioctl(fd, UFFDIO_API, &api) && !ioctl(fd, UFFDIO_REGISTER, &reg) &&
	       !ioctl(fd, UFFDIO_WRITEPROTECT, &wp);
	touch_all(g->mem);
	close(fd);
	return done;
}

/*
 * Prioritize conversions, but none of the threads that start later: conversions
 * should be many, and preempt users at any point.
 */
static const char *convert_first(void)
{
	const struct sched_param param = { .sched_priority = 1 };

	return sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &param) ?
	       "no permission to use real-time priorities" : NULL;
}

/* Use a word that is written by neither hammers nor host_touch(). */
static u64 *last_word(int page)
{
	return gmem_hva(g, page + 1) - 1;
}

GMEM_FIXTURE(transient, NR_PAGES)

FIXTURE_VARIANT(transient) {
	struct worker users[17];
	bool heavy;	/* prioritize conversions, and run a second vCPU */
};

#define USER(name)	{ #name, host_##name }

/* Plain accesses, as guests and VMMs make all the time. */
FIXTURE_VARIANT_ADD(transient, faults) {
	.heavy = true,
	.users = { USER(touch), USER(touch) },
};

FIXTURE_VARIANT_ADD(transient, references) {
	.heavy = true,
	.users = { USER(touch), USER(populate), USER(read_remotely), USER(pin_fast),
		   USER(mlock), USER(splice), USER(mark_idle) },
};

/*
 * Pages that are already pinned stay so until the next one is faulted in, which
 * may have to wait for the very conversion that they block.
 */
FIXTURE_VARIANT_ADD(transient, many_pages) {
	.heavy = true,
	.users = { USER(touch), USER(splice_many), USER(populate) },
};

/* Some page of the range is always in use, as long as there are new users. */
FIXTURE_VARIANT_ADD(transient, overlapping) {
	.heavy = true,
	.users = { [0 ... 15] = USER(splice_slowly), USER(populate) },
};

FIXTURE_VARIANT_ADD(transient, reclaim) { .users = { USER(reclaim) } };
FIXTURE_VARIANT_ADD(transient, compaction) { .users = { USER(compaction) } };
FIXTURE_VARIANT_ADD(transient, mremap) { .users = { USER(mremap) } };
FIXTURE_VARIANT_ADD(transient, fork) { .users = { USER(fork) } };
FIXTURE_VARIANT_ADD(transient, move_pages) { .users = { USER(move_pages) } };
FIXTURE_VARIANT_ADD(transient, uffd_wp_async) { .users = { USER(uffd_wp_async) } };

TEST_F_TIMEOUT(transient, conversions, 7200)
{
	struct kvm_random_state rng = new_kvm_random_state(kvm_random_seed);
	int page = 0, nr = 0, nr_users = 0, i, r = 0, nr_wrong = 0;
	struct worker users[ARRAY_SIZE(variant->users)];
	const int nr_vcpus = variant->heavy ? 2 : 1;
	const u64 ms = variant->heavy ? 8000 : 2000;
	struct gmem_hammer hammers[2];
	struct timespec start, call;
	u64 round, value, worst_ms = 0;

	if (variant->heavy)
		SKIP_IF(convert_first());

	catch_sigbus();
	for (i = 0; i < NR_PAGES; i++)
		*last_word(i) = 0x1111 * i;

	memcpy(users, variant->users, sizeof(users));
	while (nr_users < ARRAY_SIZE(users) && users[nr_users].work)
		nr_users++;
	gmem_hammer_start(g, hammers, nr_vcpus, HAMMER_LOSSLESS);
	workers_start(users, nr_users);

	start = time_now();
	for (round = 0; !r; round++) {
		if (nr_rounds ? round == nr_rounds : elapsed_ms(start) > ms)
			break;

		page = kvm_random_range(&rng, NR_PAGES, &nr);
		call = time_now();
		r = gmem_convert(g, page, nr, PRIVATE);
		worst_ms = max_t(u64, worst_ms, elapsed_ms(call));

		/*
		 * A fault in flight must not map a page that has become
		 * private.  Check only one page, as checking maps it.
		 */
		i = page + round % nr;
		nr_wrong += !r && try_read(last_word(i), &value);

		gmem_make_shared(g, page, nr);
		nr_wrong += !try_read(last_word(i), &value) || value != 0x1111 * i;
	}
	TH_LOG("%lu rounds in %lu ms, at worst %lu ms for a conversion", round,
	       elapsed_ms(start), worst_ms);

	workers_stop(users, nr_users);
	gmem_hammer_stop(g, hammers, nr_vcpus);

	ASSERT_EQ(0, r) {
		TH_LOG("pages %d to %d, page %ld is reported", page, page + nr - 1,
		       (long)g->error_page);
	}
	ASSERT_EQ(0, nr_wrong);
	for (i = 0; i < nr_users; i++)
		ASSERT_NE(0, users[i].nr_done + users[i].nr_failed);
	/* Users may need e.g. userfaultfd, a second node, or permission. */
	if (!users[0].nr_done && users[0].work != host_touch)
		SKIP(return, "'%s' never succeeded", users[0].name);
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

	SKIP_IF(convert_first());
	catch_sigbus();
	pin_self_to_cpu(nth_cpu(0));
	workers_start(&faulter, 1);

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

// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test how memory_failure() treats a page of a guest_memfd, and the process
 * that has it mapped.  Try each combination of how the error was found, the
 * policy of the process, and the state of the page, except those that software
 * can't inject.
 *
 * Each injection is done by a child, which may get killed.  The result is a
 * table that compares the wanted behaviour with what was seen.
 *
 * Also test that soft offlining leaves the pages of a guest_memfd in place.
 * Soft offlining retires a page that is about to fail, if the contents can be
 * migrated or read from disk again, neither of which is possible here.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include <linux/falloc.h>
#include <linux/kernel-page-flags.h>

#include "gmem_util.h"
#include "hwpoison.h"
#include "kselftest.h"
#include "kvm_syscalls.h"
#include "kvm_util.h"
#include "test_util.h"
#ifdef __x86_64__
#include "gmem_vm.h"
#endif

/* The page that fails, with a neighbour to either side. */
#define NR_PAGES	3
#define VALUE		0x5aul

enum policy { EARLY, LATE };

struct row {
	bool private;
	bool action_required;
	enum policy policy;
	bool mapped;
	bool dirty;
	bool sigbus;
};

static const struct row rows[] = {
	/* private, AR, policy, mapped, dirty: SIGBUS */
	{ false, false, EARLY, true,  true,  true },
	{ false, false, EARLY, true,  false, false },
	{ false, false, EARLY, false, true,  false },
	{ false, false, EARLY, false, false, false },
	{ false, false, LATE,  true,  true,  false },
	{ false, false, LATE,  true,  false, false },
	{ false, false, LATE,  false, true,  false },
	{ false, false, LATE,  false, false, false },
	{ false, true,  EARLY, true,  true,  true },
	{ false, true,  LATE,  true,  true,  true },
	{ false, true,  EARLY, true,  false, false },
	{ false, true,  LATE,  true,  false, false },
	{ true,  false, EARLY, false, true,  false },
	{ true,  false, EARLY, false, false, false },
	{ true,  false, LATE,  false, true,  false },
	{ true,  false, LATE,  false, false, false },
};

/* The child's exit status, and its report: complete only if @done is set. */
struct seen {
	int status;
	int result;
	int nr_signals;
	siginfo_t signal;
	bool signal_thread_ok;
	bool signal_addr_ok;
	char handling[16];
	bool counted;
	bool later_ok;
	bool neighbours_ok;
	bool fresh_ok;
	bool done;
};

static size_t page_size;
static struct seen *seen;

static struct {
	sig_atomic_t nr;
	siginfo_t info;
	pid_t tid;
} sigbus;

static void sigbus_handler(int signum, siginfo_t *info, void *context)
{
	sigbus.info = *info;
	sigbus.tid = kvm_gettid();
	sigbus.nr++;
}

static bool access_is_sigbus(char *p)
{
	u64 value;

	return !try_read((u64 *)p, &value);
}

static void set_policy(enum policy policy)
{
	int r = prctl(PR_MCE_KILL, PR_MCE_KILL_SET, policy == EARLY ?
		      PR_MCE_KILL_EARLY : PR_MCE_KILL_LATE, 0, 0);

	TEST_ASSERT(!r, __KVM_SYSCALL_ERROR("prctl(PR_MCE_KILL)", r));
}

/*
 * BUS_MCEERR_AO is sent to a thread with an early policy, no matter which one
 * is running.  Create a thread with the row's policy in addition to the main
 * thread, whose policy is never early.
 */
static pthread_barrier_t barrier;
static pid_t other_tid;

static void *other_thread(void *arg)
{
	set_policy(*(enum policy *)arg);
	other_tid = kvm_gettid();
	pthread_barrier_wait(&barrier);

	/* A signal that arrived in the meantime is handled before this returns. */
	pthread_barrier_wait(&barrier);
	return NULL;
}

/* @hva is needed for errors that require action, and to check signals. */
static void inject(const struct row *row, u64 pfn, char *hva)
{
	struct sigaction sa = {
		.sa_sigaction = sigbus_handler,
		.sa_flags = SA_SIGINFO,
	};
	u64 lost = hwpoison_lost_memory();
	int log = hwpoison_log_open();
	enum policy policy = row->policy;
	pthread_t thread;

	TEST_ASSERT(!sigaction(SIGBUS, &sa, NULL), "sigaction() failed");
	set_policy(LATE);
	pthread_barrier_init(&barrier, NULL, 2);
	kvm_pthread_create(&thread, NULL, other_thread, &policy);
	pthread_barrier_wait(&barrier);

	if (row->action_required) {
		seen->result = madvise(hva, page_size, MADV_HWPOISON) ? errno : 0;
		hwpoison_remember(pfn);
	} else {
		seen->result = -hwpoison_inject(pfn);
	}

	pthread_barrier_wait(&barrier);
	kvm_pthread_join(thread, NULL);
	hwpoison_log_read(log, pfn, seen->handling, sizeof(seen->handling));
	kvm_close(log);

	seen->nr_signals = sigbus.nr;
	seen->signal = sigbus.info;
	seen->signal_thread_ok = sigbus.tid == (row->action_required ? kvm_gettid() :
								       other_tid);
	seen->signal_addr_ok = (char *)sigbus.info.si_addr >= hva &&
			       (char *)sigbus.info.si_addr < hva + page_size;

	seen->counted = hwpoison_lost_memory() == lost + page_size &&
			hwpoison_page_flags(pfn) & BIT_ULL(KPF_HWPOISON);

	/* From here on, SIGBUS is caused by accesses to the page. */
	catch_sigbus();
}

static void shared_row(const struct row *row)
{
	size_t size = NR_PAGES * page_size;
	struct kvm_vm *vm = vm_create_barebones();
	char *mem, *page, *other;
	u64 pfn, flags;
	int fd;

	fd = vm_create_guest_memfd(vm, size, GUEST_MEMFD_FLAG_MMAP |
					     GUEST_MEMFD_FLAG_INIT_SHARED);
	mem = kvm_mmap(size, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
	page = mem + page_size;

	mem[0] = VALUE;
	page[page_size] = VALUE;
	if (row->dirty)
		*page = VALUE;
	else
		TEST_ASSERT_EQ(READ_ONCE(*page), 0);

	pfn = hwpoison_mapped_pfn(page);
	TEST_ASSERT(pfn, "The page is not mapped");

	/* Unmap the page without removing the mapping. */
	if (!row->mapped)
		kvm_madvise(page, page_size, MADV_DONTNEED);

	TEST_ASSERT_EQ(hwpoison_is_mapped(page), row->mapped);
	flags = hwpoison_page_flags(pfn);
	if (!row->mapped)
		TEST_ASSERT_EQ(!!(flags & BIT_ULL(KPF_DIRTY)), row->dirty);
	else if (!row->dirty)
		TEST_ASSERT_EQ(flags & BIT_ULL(KPF_DIRTY), 0);

	inject(row, pfn, page);

	other = kvm_mmap(size, PROT_READ, MAP_SHARED, fd);
	seen->later_ok = access_is_sigbus(page) &&
			 access_is_sigbus(other + page_size + 8);

	seen->neighbours_ok = !access_is_sigbus(mem) && mem[0] == VALUE &&
			      !access_is_sigbus(page + page_size) &&
			      page[page_size] == VALUE;

	kvm_fallocate(fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, page_size,
		      page_size);
	seen->fresh_ok = !access_is_sigbus(page) && *page == 0 &&
			 hwpoison_mapped_pfn(page) != pfn &&
			 !access_is_sigbus(other + page_size);
	seen->fresh_ok &= !hwpoison_unpoison_all();
}

#ifdef __x86_64__
static const char *private_unsupported(void)
{
	if (!(kvm_check_cap(KVM_CAP_VM_TYPES) & BIT(KVM_X86_SW_PROTECTED_VM)))
		return "no KVM_X86_SW_PROTECTED_VM";

	return hwpoison_alloc_unsupported();
}

static void private_row(const struct row *row)
{
	bool in_place = !gmem_vm_unsupported();
	struct gmem_vm g;
	u64 pfn;

	__gmem_vm_create(&g, KVM_X86_SW_PROTECTED_VM, in_place ? GUEST_MEMFD_FLAG_MMAP : 0,
			 NR_PAGES);
	if (!in_place)
		vm_set_memory_attributes(g.vm, GMEM_GPA, NR_PAGES * page_size,
					 KVM_MEMORY_ATTRIBUTE_PRIVATE);

	pfn = hwpoison_alloc_gmem_page(g.fd, page_size);
	gmem_write(&g, 0, VALUE);
	gmem_write(&g, 2, VALUE);
	if (row->dirty)
		gmem_write(&g, 1, VALUE);

	inject(row, pfn, (char *)gmem_hva(&g, 1));

	seen->later_ok = gmem_refuses(&g, 1, true) &&
			 (!in_place || access_is_sigbus((char *)gmem_hva(&g, 1)));
	seen->neighbours_ok = gmem_read(&g, 0) == VALUE && gmem_read(&g, 2) == VALUE;

	gmem_punch_hole(&g, 1, 1);
	seen->fresh_ok = gmem_read(&g, 1) == 0 && !hwpoison_unpoison_all();
}
#else
static const char *private_unsupported(void)
{
	return "no VM type with private memory";
}

static void private_row(const struct row *row)
{
}
#endif

static void run_row(const struct row *row)
{
	pid_t pid;

	memset(seen, 0, sizeof(*seen));
	fflush(NULL);
	pid = fork();
	TEST_ASSERT(pid >= 0, __KVM_SYSCALL_ERROR("fork()", pid));

	if (!pid) {
		alarm(60);
		if (row->private)
			private_row(row);
		else
			shared_row(row);
		seen->done = true;
		_exit(0);
	}
	TEST_ASSERT_EQ(waitpid(pid, &seen->status, 0), pid);
}

static bool signal_ok(const struct row *row, const struct seen *s)
{
	if (!row->sigbus)
		return !s->nr_signals;

	return s->nr_signals == 1 && s->signal_thread_ok && s->signal_addr_ok &&
	       s->signal.si_code == (row->action_required ? BUS_MCEERR_AR :
							    BUS_MCEERR_AO) &&
	       1ul << s->signal.si_addr_lsb == page_size;
}

static bool handling_ok(const struct seen *s)
{
	return !strcmp(s->handling, "Delayed") || !strcmp(s->handling, "Recovered");
}

static bool row_ok(const struct row *row, const struct seen *s)
{
	return s->done && !s->result && signal_ok(row, s) && handling_ok(s) &&
	       s->counted && s->later_ok && s->neighbours_ok && s->fresh_ok;
}

static const char *signal_str(const struct row *row, const struct seen *s)
{
	if (!s->nr_signals)
		return "-";
	if (!signal_ok(row, s))
		return "BAD";
	return s->signal.si_code == BUS_MCEERR_AR ? "AR" : "AO";
}

#define OK_BAD(x)	((x) ? "ok" : "BAD")

static void print_row(const char *name, const struct row *row, const struct seen *s)
{
	printf("# %-42s | 0    %-7s| ", name,
	       !row->sigbus ? "-" : row->action_required ? "AR" : "AO");
	if (s->done)
		printf("%-6d%-7s%-10s%-6s%-6s%-6s%s%s\n", -s->result,
		       signal_str(row, s), s->handling, OK_BAD(s->counted),
		       OK_BAD(s->later_ok), OK_BAD(s->neighbours_ok),
		       OK_BAD(s->fresh_ok), row_ok(row, s) ? "" : "\t<- not as wanted");
	else
		printf("the child died, status 0x%x\n", s->status);

	if (s->done && !signal_ok(row, s) && s->nr_signals)
		ksft_print_msg("%d SIGBUS, si_code %d, si_addr %s, si_addr_lsb %d, thread %s\n",
			       s->nr_signals, s->signal.si_code,
			       OK_BAD(s->signal_addr_ok), s->signal.si_addr_lsb,
			       OK_BAD(s->signal_thread_ok));
}

static void test_row(const struct row *row, int *nr_ok)
{
	char name[64];

	snprintf(name, sizeof(name), "%s, %s, %s, %s, %s",
		 row->private ? "private" : "shared",
		 row->action_required ? "AR" : "not AR",
		 row->policy == EARLY ? "EARLY" : "LATE",
		 row->mapped ? "mapped" : "not mapped",
		 row->dirty ? "dirty" : "clean");
	run_row(row);
	print_row(name, row, seen);
	ksft_test_result(row_ok(row, seen), "%s\n", name);
	*nr_ok += row_ok(row, seen);
}

#define SOFT_OFFLINE	"/sys/devices/system/memory/soft_offline_page"
#define COMPACT		"/proc/sys/vm/compact_memory"

static bool soft_offline(bool mapped, bool dirty)
{
	struct kvm_vm *vm = vm_create_barebones();
	char *mem, value;
	bool ok;
	u64 pfn;
	int fd, r;

	fd = vm_create_guest_memfd(vm, page_size, GUEST_MEMFD_FLAG_MMAP |
						  GUEST_MEMFD_FLAG_INIT_SHARED);
	mem = kvm_mmap(page_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
	if (dirty)
		*mem = VALUE;
	value = READ_ONCE(*mem);
	pfn = hwpoison_mapped_pfn(mem);
	if (!mapped)
		kvm_madvise(mem, page_size, MADV_DONTNEED);

	/*
	 * A new page can be in an LRU cache, whose reference would prevent
	 * offlining.  Start compaction, which first drains these caches.
	 */
	TEST_ASSERT(!write_file(COMPACT, "1"), "Cannot write to " COMPACT);
	r = write_file(SOFT_OFFLINE, "0x%lx", pfn * page_size);

	ok = r && r != -EOPNOTSUPP && *mem == value && hwpoison_mapped_pfn(mem) == pfn &&
	     !(hwpoison_page_flags(pfn) & BIT_ULL(KPF_HWPOISON));
	ksft_print_msg("soft offlining of a %s page that is %smapped: %d, %s\n",
		       dirty ? "dirty" : "clean", mapped ? "" : "not ", r, OK_BAD(ok));
	kvm_munmap(mem, page_size);
	kvm_close(fd);
	kvm_vm_free(vm);
	return ok;
}

static void test_soft_offline(void)
{
	bool ok = true;
	int i;

	if (access(SOFT_OFFLINE, W_OK) || access(COMPACT, W_OK)) {
		ksft_test_result_skip("soft offlining: no " SOFT_OFFLINE " or " COMPACT "\n");
		return;
	}

	for (i = 0; i < 4; i++)
		ok &= soft_offline(i & 1, i & 2);
	ksft_test_result(ok, "soft offlining leaves pages in place\n");
}

int main(int argc, char *argv[])
{
	const char *reason = hwpoison_unsupported(), *no_private = private_unsupported();
	int nr_rows = 0, nr_ok = 0, nr_private = 0, i;
	u64 lost;

	ksft_print_header();
	TEST_REQUIRE(kvm_check_cap(KVM_CAP_GUEST_MEMFD_FLAGS) &
		     GUEST_MEMFD_FLAG_INIT_SHARED);
	if (reason)
		ksft_exit_skip("%s\n", reason);

	page_size = getpagesize();
	seen = kvm_mmap(sizeof(*seen), PROT_READ | PROT_WRITE,
			MAP_SHARED | MAP_ANONYMOUS, -1);
	lost = hwpoison_lost_memory();
	for (i = 0; i < ARRAY_SIZE(rows); i++)
		nr_private += rows[i].private;
	ksft_set_plan(ARRAY_SIZE(rows) - (no_private ? nr_private - 1 : 0) + 2);

	ksft_print_msg("%-42s | wanted      | seen\n", "");
	ksft_print_msg("%-42s | %-5s%-7s| %-6s%-7s%-10s%-6s%-6s%-6s%s\n",
		       "memory, action required, policy, page", "r", "SIGBUS",
		       "r", "SIGBUS", "handling", "count", "later", "near", "fresh");
	for (i = 0; i < ARRAY_SIZE(rows); i++) {
		if (rows[i].private && no_private)
			continue;
		test_row(&rows[i], &nr_ok);
		nr_rows++;
	}
	ksft_print_msg("%d of %d rows as wanted\n", nr_ok, nr_rows);
	if (no_private)
		ksft_test_result_skip("private memory: %s\n", no_private);

	ksft_test_result(hwpoison_lost_memory() == lost,
			 "all memory has been recovered\n");
	test_soft_offline();
	ksft_finished();
}

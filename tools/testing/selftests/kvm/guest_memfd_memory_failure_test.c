// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test how memory_failure() treats a page of a guest_memfd, and the process
 * that has it mapped.  Try each combination of how the error was found, the
 * policy of the process, and the state of the page, except those that software
 * can't inject.  Print a table of what is wanted and what was seen.
 *
 * Also test that soft offlining leaves the pages of a guest_memfd in place, as
 * their contents can neither be migrated nor read from disk again.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
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

/* The page that fails, with a neighbour on either side. */
#define NR_PAGES	3
#define VALUE		0x5aul
#define NO_VALUE	(~0ul)

#define EARLY		PR_MCE_KILL_EARLY
#define LATE		PR_MCE_KILL_LATE

struct row {
	bool private;
	bool action_required;
	int policy;
	bool mapped;
	bool dirty;
	const char *sigbus;
};

static const struct row rows[] = {
	/* private, AR, policy, mapped, dirty: SIGBUS */
	{ false, false, EARLY, true,  true,  "AO" },
	{ false, false, EARLY, true,  false, "-" },
	{ false, false, EARLY, false, true,  "-" },
	{ false, false, EARLY, false, false, "-" },
	{ false, false, LATE,  true,  true,  "-" },
	{ false, false, LATE,  true,  false, "-" },
	{ false, false, LATE,  false, true,  "-" },
	{ false, false, LATE,  false, false, "-" },
	{ false, true,  EARLY, true,  true,  "AR" },
	{ false, true,  LATE,  true,  true,  "AR" },
	{ false, true,  EARLY, true,  false, "-" },
	{ false, true,  LATE,  true,  false, "-" },
	{ true,  false, EARLY, false, true,  "-" },
	{ true,  false, EARLY, false, false, "-" },
	{ true,  false, LATE,  false, true,  "-" },
	{ true,  false, LATE,  false, false, "-" },
};

/* What was seen, in memory shared with the child that injects the error. */
static struct {
	int result;
	char sigbus[8];
	char handling[16];
	bool counted, later, near, fresh;
} *seen;

static size_t page_size;

static sig_atomic_t nr_sigbus;
static siginfo_t sigbus;

static void sigbus_handler(int signum, siginfo_t *info, void *context)
{
	sigbus = *info;
	nr_sigbus++;
}

/* The page that fails. */
static char *page;
static u64 pfn;

/* Return the name of the signal that was raised, or what is wrong with it. */
static const char *sigbus_name(void)
{
	char *addr = sigbus.si_addr;

	if (!nr_sigbus)
		return "-";
	if (nr_sigbus > 1)
		return "twice";
	if (addr < page || addr >= page + page_size)
		return "addr";
	if (1ul << sigbus.si_addr_lsb != page_size)
		return "lsb";
	if (sigbus.si_code == BUS_MCEERR_AO)
		return "AO";
	return sigbus.si_code == BUS_MCEERR_AR ? "AR" : "code";
}

static void inject(const struct row *row)
{
	struct sigaction sa = {
		.sa_sigaction = sigbus_handler,
		.sa_flags = SA_SIGINFO,
	};
	u64 lost = hwpoison_lost_memory();
	int log = hwpoison_log_open();

	TEST_ASSERT(!sigaction(SIGBUS, &sa, NULL), "sigaction() failed");
	TEST_ASSERT(!prctl(PR_MCE_KILL, PR_MCE_KILL_SET, row->policy, 0, 0),
		    __KVM_SYSCALL_ERROR("prctl(PR_MCE_KILL)", -1));

	if (row->action_required) {
		seen->result = madvise(page, page_size, MADV_HWPOISON) ? -errno : 0;
		hwpoison_remember(pfn);
	} else {
		seen->result = hwpoison_inject(pfn);
	}

	snprintf(seen->sigbus, sizeof(seen->sigbus), "%s", sigbus_name());
	hwpoison_log_read(log, pfn, seen->handling, sizeof(seen->handling));
	seen->counted = hwpoison_lost_memory() == lost + page_size &&
			hwpoison_page_flags(pfn) & BIT_ULL(KPF_HWPOISON);

	/* From here on, SIGBUS is caused by accesses to the page. */
	catch_sigbus();
}

static u64 read_word(char *p)
{
	u64 value;

	return try_read((u64 *)p, &value) ? value : NO_VALUE;
}

/* A file and its mapping. */
static int fd;
static char *mem;

static void create_file(bool mapped, bool dirty)
{
	size_t size = NR_PAGES * page_size;

	fd = vm_create_guest_memfd(vm_create_barebones(), size, GUEST_MEMFD_FLAG_MMAP |
				   GUEST_MEMFD_FLAG_INIT_SHARED);
	mem = kvm_mmap(size, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
	page = mem + page_size;

	*mem = VALUE;
	page[page_size] = VALUE;
	if (dirty)
		*page = VALUE;
	TEST_ASSERT_EQ(READ_ONCE(*page), dirty ? VALUE : 0);

	pfn = hwpoison_mapped_pfn(page);
	TEST_ASSERT(pfn, "The page is not mapped");

	/* Unmap the page without removing the mapping. */
	if (!mapped)
		kvm_madvise(page, page_size, MADV_DONTNEED);

	TEST_ASSERT_EQ(hwpoison_is_mapped(page), mapped);
	/* That a mapped page is dirty may be recorded only in the page table. */
	if (!mapped || !dirty)
		TEST_ASSERT_EQ(!!(hwpoison_page_flags(pfn) & BIT_ULL(KPF_DIRTY)), dirty);
}

static void shared_row(const struct row *row)
{
	create_file(row->mapped, row->dirty);
	inject(row);

	seen->later = read_word(page) == NO_VALUE;
	seen->near = read_word(mem) == VALUE && read_word(page + page_size) == VALUE;
	kvm_fallocate(fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, page_size,
		      page_size);
	seen->fresh = read_word(page) == 0 && hwpoison_mapped_pfn(page) != pfn &&
		      !hwpoison_unpoison_all();
}

#ifdef __x86_64__
static const char *private_unsupported(void)
{
	if (!(kvm_check_cap(KVM_CAP_VM_TYPES) & BIT(KVM_X86_SW_PROTECTED_VM)))
		return "no software-protected VMs";

	return hwpoison_alloc_unsupported();
}

static void private_row(const struct row *row)
{
	bool in_place = !gmem_vm_unsupported();
	struct gmem_vm g;

	__gmem_vm_create(&g, KVM_X86_SW_PROTECTED_VM, in_place ? GUEST_MEMFD_FLAG_MMAP : 0,
			 NR_PAGES);
	if (!in_place)
		vm_set_memory_attributes(g.vm, GMEM_GPA, NR_PAGES * page_size,
					 KVM_MEMORY_ATTRIBUTE_PRIVATE);

	pfn = hwpoison_alloc_gmem_page(g.fd, page_size);
	page = (char *)gmem_hva(&g, 1);
	gmem_write(&g, 0, VALUE);
	gmem_write(&g, 2, VALUE);
	if (row->dirty)
		gmem_write(&g, 1, VALUE);

	inject(row);

	seen->later = gmem_refuses(&g, 1, true);
	seen->near = gmem_read(&g, 0) == VALUE && gmem_read(&g, 2) == VALUE;
	gmem_punch_hole(&g, 1, 1);
	seen->fresh = gmem_read(&g, 1) == 0 && !hwpoison_unpoison_all();
}
#else
static const char *private_unsupported(void)
{
	return "no VM type with private memory";
}

static void private_row(const struct row *row) { }
#endif

#define OK_BAD(x)	((x) ? "ok" : "BAD")

static bool test_row(const struct row *row, const char *name)
{
	int status;
	pid_t pid;
	bool ok;

	memset(seen, 0, sizeof(*seen));
	/* The signal may kill the process that injects the error. */
	fflush(NULL);
	pid = fork();
	TEST_ASSERT(pid >= 0, __KVM_SYSCALL_ERROR("fork()", pid));
	if (!pid) {
		alarm(60);
		if (row->private)
			private_row(row);
		else
			shared_row(row);
		_exit(0);
	}
	TEST_ASSERT_EQ(waitpid(pid, &status, 0), pid);

	ok = !status && !seen->result && !strcmp(seen->sigbus, row->sigbus) &&
	     !strcmp(seen->handling, "Delayed") && seen->counted && seen->later &&
	     seen->near && seen->fresh;

	printf("# %-42s | 0    %-7s| ", name, row->sigbus);
	if (status)
		printf("the child died, status 0x%x\n", status);
	else
		printf("%-6d%-7s%-10s%-6s%-6s%-6s%s%s\n", seen->result, seen->sigbus,
		       seen->handling, OK_BAD(seen->counted), OK_BAD(seen->later),
		       OK_BAD(seen->near), OK_BAD(seen->fresh),
		       ok ? "" : "\t<- not as wanted");
	ksft_test_result(ok, "%s\n", name);
	return ok;
}

static void test_rows(int nr)
{
	int nr_ok = 0;
	const struct row *row;
	char name[64];

	ksft_print_msg("%-42s | wanted      | seen\n", "");
	ksft_print_msg("%-42s | %-5s%-7s| %-6s%-7s%-10s%-6s%-6s%-6s%s\n",
		       "memory, action required, policy, page", "r", "SIGBUS",
		       "r", "SIGBUS", "handling", "count", "later", "near", "fresh");

	for (row = rows; row < rows + nr; row++) {
		snprintf(name, sizeof(name), "%s, %s, %s, %s, %s",
			 row->private ? "private" : "shared",
			 row->action_required ? "AR" : "not AR",
			 row->policy == EARLY ? "EARLY" : "LATE",
			 row->mapped ? "mapped" : "not mapped",
			 row->dirty ? "dirty" : "clean");
		nr_ok += test_row(row, name);
	}
	ksft_print_msg("%d of %d rows as wanted\n", nr_ok, nr);
}

#define SOFT_OFFLINE	"/sys/devices/system/memory/soft_offline_page"
#define COMPACT		"/proc/sys/vm/compact_memory"

static void test_soft_offline(void)
{
	bool mapped, dirty, ok = true;
	int i, r;

	if (access(SOFT_OFFLINE, W_OK) || access(COMPACT, W_OK)) {
		ksft_test_result_skip("soft offlining: no " SOFT_OFFLINE " or " COMPACT "\n");
		return;
	}

	for (i = 0; i < 4; i++) {
		mapped = i & 1;
		dirty = i & 2;
		create_file(mapped, dirty);

		/*
		 * A new page can be in an LRU cache, whose reference would
		 * prevent offlining.  Compaction begins by draining all caches.
		 */
		TEST_ASSERT(!write_file(COMPACT, "1"), "Cannot write to " COMPACT);
		r = write_file(SOFT_OFFLINE, "0x%lx", pfn * page_size);
		if (!r || r == -EOPNOTSUPP || *page != (dirty ? VALUE : 0) ||
		    hwpoison_mapped_pfn(page) != pfn) {
			ksft_print_msg("mapped %d, dirty %d: result %d\n", mapped, dirty, r);
			ok = false;
		}
	}
	ksft_test_result(ok, "soft offlining leaves pages in place\n");
}

int main(int argc, char *argv[])
{
	const char *reason = hwpoison_unsupported(), *no_private = private_unsupported();
	int nr_rows = ARRAY_SIZE(rows);
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
	/* The private rows are the last ones. */
	while (no_private && rows[nr_rows - 1].private)
		nr_rows--;
	ksft_set_plan(nr_rows + !!no_private + 2);

	test_rows(nr_rows);
	if (no_private)
		ksft_test_result_skip("private memory: %s\n", no_private);
	test_soft_offline();
	ksft_test_result(hwpoison_lost_memory() == lost,
			 "all memory has been recovered\n");
	ksft_finished();
}

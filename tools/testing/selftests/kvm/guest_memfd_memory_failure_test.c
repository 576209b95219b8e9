// SPDX-License-Identifier: GPL-2.0-only
/*
 * What memory_failure() does to a page of a guest_memfd, and to the process
 * that has it mapped: for each combination of how the error was found, what
 * the process asked for, and what state the page is in.
 *
 * Each injection is done by a child, which may get killed, and looked at from
 * all sides.  The result is a table of what was seen beside what was wanted.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
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

#include "hwpoison.h"
#include "kselftest.h"
#include "kvm_syscalls.h"
#include "kvm_util.h"
#include "test_util.h"
#include "ucall_common.h"

/* The page that fails, with a neighbour to either side. */
#define NR_PAGES	3
#define GUEST_SLOT	10
#define GUEST_GPA	((gpa_t)1 << 32)
#define VALUE		0x5aul

enum policy { EARLY, LATE, ANY };

struct row {
	bool private;
	bool action_required;
	enum policy policy;
	bool mapped;
	bool dirty;
	bool sigbus;
};

static enum policy first_policy(const struct row *row)
{
	return row->policy == LATE ? LATE : EARLY;
}

static enum policy last_policy(const struct row *row)
{
	return row->policy == EARLY ? EARLY : LATE;
}

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
	{ false, true,  ANY,   true,  true,  true },
	{ false, true,  ANY,   true,  false, false },
	{ true,  false, EARLY, false, true,  false },
	{ true,  false, EARLY, false, false, false },
	{ true,  false, LATE,  false, true,  false },
	{ true,  false, LATE,  false, false, false },
};

/* What the child reports, if it lives to tell that it is @done. */
struct seen {
	const char *skip;
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
static sigjmp_buf *sigbus_jmp;

static void sigbus_handler(int signum, siginfo_t *info, void *context)
{
	if (sigbus_jmp)
		siglongjmp(*sigbus_jmp, 1);

	/* Not an injection but an access, which would be repeated for ever. */
	if (sigbus.nr > 1)
		_exit(KSFT_FAIL);

	sigbus.info = *info;
	sigbus.tid = kvm_gettid();
	sigbus.nr++;
}

static bool access_is_sigbus(char *p)
{
	sigjmp_buf jmp;

	if (sigsetjmp(jmp, 1)) {
		WRITE_ONCE(sigbus_jmp, NULL);
		return true;
	}
	WRITE_ONCE(sigbus_jmp, &jmp);
	(void)READ_ONCE(*p);
	WRITE_ONCE(sigbus_jmp, NULL);
	return false;
}

/*
 * Advice that there is bad memory (BUS_MCEERR_AO) goes to a thread that wants
 * to hear it early, no matter who is running.  Have one besides the main
 * thread, which never wants to.
 */
static struct {
	pthread_t thread;
	pthread_barrier_t barrier;
	enum policy policy;
	pid_t tid;
} advised;

static void set_policy(enum policy policy)
{
	int r = prctl(PR_MCE_KILL, PR_MCE_KILL_SET, policy == EARLY ?
		      PR_MCE_KILL_EARLY : PR_MCE_KILL_LATE, 0, 0);

	TEST_ASSERT(!r, __KVM_SYSCALL_ERROR("prctl(PR_MCE_KILL)", r));
}

static void *advised_thread(void *arg)
{
	set_policy(advised.policy);
	advised.tid = kvm_gettid();
	pthread_barrier_wait(&advised.barrier);

	/* A signal that came in the meantime is handled before this returns. */
	pthread_barrier_wait(&advised.barrier);
	return NULL;
}

static void advised_start(enum policy policy)
{
	struct sigaction sa = {
		.sa_sigaction = sigbus_handler,
		.sa_flags = SA_SIGINFO,
	};

	TEST_ASSERT(!sigaction(SIGBUS, &sa, NULL), "sigaction() failed");
	set_policy(LATE);
	advised.policy = policy;
	pthread_barrier_init(&advised.barrier, NULL, 2);
	TEST_ASSERT(!pthread_create(&advised.thread, NULL, advised_thread, NULL),
		    "pthread_create() failed");
	pthread_barrier_wait(&advised.barrier);
}

static void advised_stop(void)
{
	pthread_barrier_wait(&advised.barrier);
	pthread_join(advised.thread, NULL);
}

/* @hva is needed for errors that require action, and to check signals. */
static void inject(const struct row *row, enum policy policy, u64 pfn, char *hva)
{
	u64 lost = hwpoison_lost_memory();
	int log = hwpoison_log_open();
	pid_t tid;

	advised_start(policy);

	if (row->action_required)
		seen->result = madvise(hva, page_size, MADV_HWPOISON) ? errno : 0;
	else
		seen->result = -hwpoison_inject(pfn);

	advised_stop();
	hwpoison_log_read(log, pfn, seen->handling, sizeof(seen->handling));
	kvm_close(log);

	tid = row->action_required ? kvm_gettid() : advised.tid;
	seen->nr_signals = sigbus.nr;
	seen->signal = sigbus.info;
	seen->signal_thread_ok = sigbus.tid == tid;
	seen->signal_addr_ok = (char *)sigbus.info.si_addr >= hva &&
			       (char *)sigbus.info.si_addr < hva + page_size;

	seen->counted = hwpoison_lost_memory() == lost + page_size &&
			hwpoison_page_flags(pfn) & BIT_ULL(KPF_HWPOISON);
}

static void punch_hole(int fd)
{
	kvm_fallocate(fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, page_size,
		      page_size);
}

static void shared_row(const struct row *row, enum policy policy)
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

	/* The mapping as such stays: it's not the page's fault. */
	if (!row->mapped)
		kvm_madvise(page, page_size, MADV_DONTNEED);

	TEST_ASSERT_EQ(!!hwpoison_mapped_pfn(page), row->mapped);
	flags = hwpoison_page_flags(pfn);
	if (!row->mapped)
		TEST_ASSERT_EQ(!!(flags & BIT_ULL(KPF_DIRTY)), row->dirty);
	else if (!row->dirty)
		TEST_ASSERT_EQ(flags & BIT_ULL(KPF_DIRTY), 0);

	inject(row, policy, pfn, page);

	other = kvm_mmap(size, PROT_READ, MAP_SHARED, fd);
	seen->later_ok = access_is_sigbus(page) &&
			 access_is_sigbus(other + page_size + 8);

	seen->neighbours_ok = !access_is_sigbus(mem) && mem[0] == VALUE &&
			      !access_is_sigbus(page + page_size) &&
			      page[page_size] == VALUE;

	punch_hole(fd);
	seen->fresh_ok = !access_is_sigbus(page) && *page == 0 &&
			 hwpoison_mapped_pfn(page) != pfn &&
			 !access_is_sigbus(other + page_size);
	seen->fresh_ok &= !hwpoison_unpoison(pfn);
}

static void guest_code(u64 *mem, u64 stride, bool dirty)
{
	u64 *page = mem + stride;
	u64 *next = page + stride;

	WRITE_ONCE(*mem, VALUE);
	WRITE_ONCE(*next, VALUE);
	if (dirty)
		WRITE_ONCE(*page, VALUE);

	GUEST_SYNC(0);
	GUEST_SYNC(READ_ONCE(*page));
	GUEST_SYNC(READ_ONCE(*mem) + READ_ONCE(*next));
}

static int run_guest(struct kvm_vcpu *vcpu, u64 *value)
{
	struct ucall uc;
	int r = _vcpu_run(vcpu);

	if (r)
		return r;

	TEST_ASSERT_EQ(get_ucall(vcpu, &uc), UCALL_SYNC);
	*value = uc.args[1];
	return 0;
}

#ifdef __x86_64__
static const char *private_shape(struct vm_shape *shape)
{
	shape->type = KVM_X86_SW_PROTECTED_VM;
	if (!(kvm_check_cap(KVM_CAP_VM_TYPES) & BIT(shape->type)))
		return "no KVM_X86_SW_PROTECTED_VM";

	if (!hwpoison_can_alloc_gmem_page())
		return "no tracepoint to tell the pfn of private memory";

	return NULL;
}
#else
static const char *private_shape(struct vm_shape *shape)
{
	return "no VM type with private memory";
}
#endif

static void private_row(const struct row *row, enum policy policy)
{
	struct vm_shape shape = VM_SHAPE_DEFAULT;
	size_t size = NR_PAGES * page_size;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	char *mem, *page;
	u64 pfn, value;
	bool in_place;
	int fd;

	seen->skip = private_shape(&shape);
	if (seen->skip)
		return;

	vm = vm_create_shape_with_one_vcpu(shape, &vcpu, guest_code);
	in_place = vm_has_gmem_attributes(vm);
	fd = vm_create_guest_memfd(vm, size, vm_gmem_flags(vm));
	mem = in_place ? kvm_mmap(size, PROT_READ | PROT_WRITE, MAP_SHARED, fd) :
			 kvm_mmap(size, PROT_READ | PROT_WRITE,
				  MAP_PRIVATE | MAP_ANONYMOUS, -1);
	page = mem + page_size;
	vm_set_user_memory_region2(vm, GUEST_SLOT, KVM_MEM_GUEST_MEMFD, GUEST_GPA,
				   size, mem, fd, 0);
	virt_map(vm, GUEST_GPA, GUEST_GPA, NR_PAGES);
	vcpu_args_set(vcpu, 3, GUEST_GPA, page_size / sizeof(u64), row->dirty);

	pfn = hwpoison_alloc_gmem_page(fd, page_size);

	/* The mapping was good before; it covers the page ever after. */
	if (in_place && row->dirty)
		*page = VALUE;

	if (in_place)
		gmem_set_private(fd, 0, size);
	else
		vm_mem_set_private(vm, GUEST_GPA, size);
	TEST_ASSERT(!run_guest(vcpu, &value), "The guest cannot run");

	inject(row, policy, pfn, page);

	seen->later_ok = run_guest(vcpu, &value) == -1 && errno == EHWPOISON &&
			 vcpu->run->exit_reason == KVM_EXIT_MEMORY_FAULT &&
			 vcpu->run->memory_fault.gpa == GUEST_GPA + page_size &&
			 vcpu->run->memory_fault.flags == KVM_MEMORY_EXIT_FLAG_PRIVATE;
	if (in_place)
		seen->later_ok &= access_is_sigbus(page);

	/* The guest is still at it. */
	punch_hole(fd);
	seen->fresh_ok = !run_guest(vcpu, &value) && value == 0;
	seen->neighbours_ok = !run_guest(vcpu, &value) && value == 2 * VALUE;
	seen->fresh_ok &= !hwpoison_unpoison(pfn);
}

static void run_row(const struct row *row, enum policy policy)
{
	pid_t pid;

	memset(seen, 0, sizeof(*seen));
	fflush(NULL);
	pid = fork();
	TEST_ASSERT(pid >= 0, __KVM_SYSCALL_ERROR("fork()", pid));

	if (!pid) {
		alarm(60);
		if (row->private)
			private_row(row, policy);
		else
			shared_row(row, policy);
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
	return s->done && !s->skip && !s->result && signal_ok(row, s) && handling_ok(s) &&
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

#define YES_NO(x)	((x) ? "yes" : "no")
#define OK_BAD(x)	((x) ? "ok" : "BAD")

static void print_header(void)
{
	ksft_print_msg("%38s| %-12s| seen\n", "", "wanted");
	ksft_print_msg("%-8s %-3s %-10s %-6s %-6s| %-5s%-7s| %-6s%-7s%-10s%-6s%-6s%-6s%s\n",
		       "memory", "AR", "policy", "mapped", "dirty", "r", "SIGBUS",
		       "r", "SIGBUS", "handling", "count", "later", "near", "fresh");
}

static void print_row(const struct row *row, enum policy policy, const struct seen *s)
{
	char text[16];

	snprintf(text, sizeof(text), "%s%s", row->policy == ANY ? "any: " : "",
		 policy == EARLY ? "EARLY" : "LATE");
	printf("# %-8s %-3s %-10s %-6s %-6s| 0    %-7s| ",
	       row->private ? "private" : "shared", YES_NO(row->action_required),
	       text, YES_NO(row->mapped), YES_NO(row->dirty),
	       !row->sigbus ? "-" : row->action_required ? "AR" : "AO");

	if (s->skip)
		printf("skipped: %s\n", s->skip);
	else if (!s->done)
		printf("the child died, status 0x%x\n", s->status);
	else
		printf("%-6d%-7s%-10s%-6s%-6s%-6s%s%s\n", -s->result,
		       signal_str(row, s), s->handling, OK_BAD(s->counted),
		       OK_BAD(s->later_ok), OK_BAD(s->neighbours_ok),
		       OK_BAD(s->fresh_ok), row_ok(row, s) ? "" : "\t<- not as wanted");

	if (s->done && !signal_ok(row, s) && s->nr_signals)
		ksft_print_msg("%d SIGBUS, si_code %d, si_addr %s, si_addr_lsb %d, thread %s\n",
			       s->nr_signals, s->signal.si_code,
			       OK_BAD(s->signal_addr_ok), s->signal.si_addr_lsb,
			       OK_BAD(s->signal_thread_ok));
}

int main(int argc, char *argv[])
{
	struct {
		bool ok;
		const char *skip;
	} results[ARRAY_SIZE(rows)];
	int nr_rows = 0, nr_ok = 0, i;
	const char *reason;
	enum policy p;
	u64 lost;

	ksft_print_header();
	TEST_REQUIRE(kvm_check_cap(KVM_CAP_GUEST_MEMFD_FLAGS) &
		     GUEST_MEMFD_FLAG_INIT_SHARED);

	reason = hwpoison_unsupported();
	if (reason)
		ksft_exit_skip("%s\n", reason);

	page_size = getpagesize();
	seen = kvm_mmap(sizeof(*seen), PROT_READ | PROT_WRITE,
			MAP_SHARED | MAP_ANONYMOUS, -1);
	lost = hwpoison_lost_memory();
	ksft_set_plan(ARRAY_SIZE(rows) + 1);

	print_header();
	for (i = 0; i < ARRAY_SIZE(rows); i++) {
		results[i].ok = true;
		for (p = first_policy(&rows[i]); p <= last_policy(&rows[i]); p++) {
			run_row(&rows[i], p);
			print_row(&rows[i], p, seen);
			results[i].ok &= row_ok(&rows[i], seen);
			results[i].skip = seen->skip;
		}
		nr_rows += !results[i].skip;
		nr_ok += results[i].ok;
	}
	ksft_print_msg("%d of %d rows as wanted\n", nr_ok, nr_rows);

	for (i = 0; i < ARRAY_SIZE(rows); i++)
		ksft_test_result_report(results[i].skip ? KSFT_SKIP :
					results[i].ok ? KSFT_PASS : KSFT_FAIL,
					"%s, %s, %s, %s, %s%s%s\n",
					rows[i].private ? "private" : "shared",
					rows[i].action_required ? "AR" : "not AR",
					rows[i].policy == EARLY ? "EARLY" :
					rows[i].policy == LATE ? "LATE" : "any policy",
					rows[i].mapped ? "mapped" : "not mapped",
					rows[i].dirty ? "dirty" : "clean",
					results[i].skip ? ": " : "",
					results[i].skip ?: "");

	ksft_test_result(hwpoison_lost_memory() == lost,
			 "all memory has been recovered\n");
	ksft_finished();
}

// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test that signals reach tasks which wait for a conversion of guest_memfd
 * memory, i.e. that vCPUs can be kicked and everything can be killed, and that a
 * VMM can be killed in the middle of conversions.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <linux/falloc.h>

#include "gmem_util.h"
#include "gmem_vm.h"
#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"
#include "kselftest_harness.h"

#define PRIVATE		KVM_MEMORY_ATTRIBUTE_PRIVATE

/*
 * Present, these take long enough to convert to be waited for.  They are not
 * mapped: a process that dies has to wait while others unmap pages of a file
 * that it has mapped, too (for i_mmap_rwsem), which is not what is tested here.
 */
#define BIG_PAGES	131072
#define BIG_SIZE	((u64)BIG_PAGES * PAGE_SIZE)

/*
 * A process with a VM of its own that does something that has to wait for a
 * conversion, which this process makes.
 */
enum waiting_for {
	VCPU_FAULT,
	HOST_FAULT,
	CONVERSION,
	/* Not in particular: see run_vmm(). */
	VMM,
};

struct waiter {
	/* Written by the waiter. */
	int fd;
	bool ready;
	bool returned;
	int err;
	/* Written by this process. */
	bool go;
};

/* The waiter, and its file as this process has it. */
struct scene {
	pid_t pid;
	struct waiter *w;
	int fd;
};

FIXTURE(waiting) {
	struct scene s;
};

FIXTURE_SETUP(waiting)
{
	const char *reason = gmem_vm_unsupported();

	if (reason)
		SKIP(exit(KSFT_SKIP), "%s", reason);
	if (nr_cpus() < 2)
		SKIP(exit(KSFT_SKIP), "only one CPU");

	self->s.w = kvm_mmap(PAGE_SIZE, PROT_READ | PROT_WRITE,
			     MAP_SHARED | MAP_ANONYMOUS, -1);
}

FIXTURE_TEARDOWN(waiting)
{
	kvm_munmap(self->s.w, PAGE_SIZE);
}

/* A file of BIG_PAGES and one more, which is all that the guest has of it. */
static void run_waiter(struct waiter *w, enum waiting_for what)
{
	struct gmem_vm g;
	int error_page;
	u64 *hva;

	pin_self_to_cpu(nth_cpu(1));
	ignore_signal(SIGUSR1, 0);

	gmem_vm_create(&g, 1);
	vm_set_user_memory_region2(g.vm, GMEM_VM_SLOT, KVM_MEM_GUEST_MEMFD,
				   GMEM_VM_GPA, 0, NULL, g.fd, 0);
	g.fd = vm_create_guest_memfd(g.vm, BIG_SIZE + PAGE_SIZE,
				     GUEST_MEMFD_FLAG_MMAP |
				     GUEST_MEMFD_FLAG_INIT_SHARED);
	hva = __kvm_mmap(PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, g.fd,
			 BIG_SIZE);
	vm_set_user_memory_region2(g.vm, GMEM_VM_SLOT, KVM_MEM_GUEST_MEMFD,
				   GMEM_VM_GPA, PAGE_SIZE, hva, g.fd, BIG_SIZE);
	/* From here on each KVM_RUN reads that page. */
	gmem_vm_read(&g, 0);

	w->fd = g.fd;
	for (;;) {
		WRITE_ONCE(w->ready, true);
		while (!READ_ONCE(w->go))
			usleep(500);
		WRITE_ONCE(w->go, false);

		if (what == VCPU_FAULT)
			w->err = __vcpu_run(g.vcpu) ? errno : 0;
		else if (what == HOST_FAULT)
			WRITE_ONCE(*hva, 1);
		else
			gmem_vm_convert(&g, BIG_PAGES, 1, PRIVATE, &error_page);
		WRITE_ONCE(w->returned, true);
	}
}

/* A VMM that does all that takes locks, until it is killed. */
#define VMM_PAGES	16
#define VMM_VCPUS	2

static void *vmm_convert(void *arg)
{
	struct kvm_random_state rng = new_kvm_random_state(kvm_random_seed ^ getpid());
	struct gmem_vm *g = arg;
	int page, nr, error_page;

	for (;;) {
		page = kvm_random_u32(&rng) % VMM_PAGES;
		nr = 1 + kvm_random_u32(&rng) % (VMM_PAGES - page);
		gmem_vm_convert(g, page, nr, kvm_random_bool(&rng) ? PRIVATE : 0,
				&error_page);
		gmem_vm_host_can_access_all(g, page, nr);
	}
	return NULL;
}

static void run_vmm(struct waiter *w)
{
	struct gmem_vm_hammer hammers[VMM_VCPUS];
	struct gmem_vm g;
	pthread_t thread;

	gmem_vm_create(&g, VMM_PAGES);
	gmem_vm_hammer_start(&g, hammers, VMM_VCPUS, HAMMER_RETRY);
	kvm_pthread_create(&thread, NULL, vmm_convert, &g);
	w->fd = g.fd;
	WRITE_ONCE(w->ready, true);
	vmm_convert(&g);
}

static int get_fd_of(pid_t pid, int fd)
{
	int pidfd = syscall(SYS_pidfd_open, pid, 0), r;

	r = syscall(SYS_pidfd_getfd, pidfd, fd, 0);
	TEST_ASSERT(r >= 0, __KVM_SYSCALL_ERROR("pidfd_getfd()", r));
	kvm_close(pidfd);
	return r;
}

static void fork_waiter(struct scene *s, enum waiting_for what)
{
	memset(s->w, 0, sizeof(*s->w));
	s->pid = fork();
	TEST_ASSERT(s->pid >= 0, __KVM_SYSCALL_ERROR("fork()", s->pid));
	if (!s->pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (what == VMM)
			run_vmm(s->w);
		else
			run_waiter(s->w, what);
	}
	while (!READ_ONCE(s->w->ready))
		usleep(1000);

	s->fd = get_fd_of(s->pid, s->w->fd);
}

struct conversion {
	int fd;
	struct timespec start;
	struct timespec end;
};

static void *convert_big(void *arg)
{
	struct conversion *c = arg;

	pin_self_to_cpu(nth_cpu(0));
	c->start = time_now();
	gmem_set_private(c->fd, 0, BIG_SIZE);
	c->end = time_now();
	return NULL;
}

static s64 ms_between(struct timespec from, struct timespec to)
{
	return (timespec_to_ns(to) - timespec_to_ns(from)) / 1000000;
}

static void start_waiter(struct scene *s, enum waiting_for what)
{
	fork_waiter(s, what);
	kvm_fallocate(s->fd, FALLOC_FL_KEEP_SIZE, 0, BIG_SIZE);
}

static void stop_waiter(struct scene *s)
{
	kill(s->pid, SIGKILL);
	waitpid(s->pid, NULL, 0);
	kvm_close(s->fd);
}

/* Have all to convert, and the waiter fault again. */
static void reset_file(struct scene *s)
{
	gmem_set_shared(s->fd, 0, BIG_SIZE + PAGE_SIZE);
	kvm_fallocate(s->fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE,
		      BIG_SIZE, PAGE_SIZE);
}

/*
 * Send a signal to the waiter in the middle of a conversion, which should take
 * @whole_ms, corrected if it doesn't.  Return how long it took until the signal
 * had an effect, as a percentage of what was left of the conversion; -1 if the
 * waiter didn't have to wait.
 */
static int signal_in_the_middle(struct scene *s, u64 *whole_ms, int sig)
{
	struct conversion c = { .fd = s->fd };
	struct timespec sent, seen;
	bool returned;
	pthread_t thread;
	s64 left;

	kvm_pthread_create(&thread, NULL, convert_big, &c);
	usleep(*whole_ms * 1000 / 4);
	WRITE_ONCE(s->w->go, true);
	usleep(*whole_ms * 1000 / 8);

	returned = READ_ONCE(s->w->returned);
	sent = time_now();
	kill(s->pid, sig);
	if (sig == SIGKILL)
		waitpid(s->pid, NULL, 0);
	else
		while (!READ_ONCE(s->w->returned))
			usleep(1000);
	seen = time_now();
	kvm_pthread_join(thread, NULL);

	*whole_ms = ms_between(c.start, c.end);
	left = ms_between(sent, c.end);
	if (returned || left < (s64)*whole_ms / 4)
		return -1;
	return ms_between(sent, seen) * 100 / left;
}

/* Timing is up to chance where others use the CPUs, so try several times. */
static void signal_waiter(struct __test_metadata *_metadata, struct scene *s,
			  enum waiting_for what, int sig)
{
	struct conversion c = {};
	int i, percent = -1;
	u64 whole_ms = 0;
	pthread_t thread;

	for (i = 0; i < 5 && (percent < 0 || percent > 50); i++) {
		start_waiter(s, what);
		reset_file(s);
		if (!whole_ms) {
			c.fd = s->fd;
			kvm_pthread_create(&thread, NULL, convert_big, &c);
			kvm_pthread_join(thread, NULL);
			whole_ms = ms_between(c.start, c.end);
			reset_file(s);
		}

		percent = signal_in_the_middle(s, &whole_ms, sig);
		TH_LOG("of %lu ms: gone after %d%% of the rest", whole_ms, percent);
		if (percent >= 0 && percent <= 50 && sig != SIGKILL)
			EXPECT_EQ(EINTR, s->w->err);
		stop_waiter(s);
	}
	ASSERT_LE(0, percent);
	ASSERT_GE(50, percent);
}

TEST_F_TIMEOUT(waiting, vcpu_kick, 300)
{
	signal_waiter(_metadata, &self->s, VCPU_FAULT, SIGUSR1);
}

TEST_F_TIMEOUT(waiting, vcpu_kill, 300)
{
	signal_waiter(_metadata, &self->s, VCPU_FAULT, SIGKILL);
}

TEST_F_TIMEOUT(waiting, host_fault_kill, 300)
{
	signal_waiter(_metadata, &self->s, HOST_FAULT, SIGKILL);
}

TEST_F_TIMEOUT(waiting, conversion_kill, 300)
{
	signal_waiter(_metadata, &self->s, CONVERSION, SIGKILL);
}

/* The file outlives its VMM, and still works. */
static void use_file(struct __test_metadata *_metadata, int fd, u64 value)
{
	const size_t size = VMM_PAGES * PAGE_SIZE;
	u64 *mem, ignored;

	gmem_set_shared(fd, 0, size);
	mem = kvm_mmap(size, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
	kvm_madvise(mem, size, MADV_POPULATE_WRITE);
	mem[0] = value;
	gmem_set_private(fd, 0, size);
	ASSERT_FALSE(try_read(mem, &ignored));
	ASSERT_EQ(size, gmem_read_fdinfo(getpid(), fd).private);
	gmem_set_shared(fd, 0, size);
	ASSERT_EQ(value, mem[0]);
	kvm_munmap(mem, size);
}

TEST_F_TIMEOUT(waiting, vmm_kill, 300)
{
	struct kvm_random_state rng = new_kvm_random_state(kvm_random_seed);
	struct timespec start;
	u64 ms, worst = 0;
	int round, status;

	catch_sigbus();
	for (round = 0; round < 30; round++) {
		fork_waiter(&self->s, VMM);
		usleep(kvm_random_u32(&rng) % 100000);

		start = time_now();
		kill(self->s.pid, SIGKILL);
		ASSERT_EQ(self->s.pid, waitpid(self->s.pid, &status, 0));
		ASSERT_EQ(SIGKILL, WTERMSIG(status));
		ms = elapsed_ms(start);
		worst = max_t(u64, worst, ms);

		use_file(_metadata, self->s.fd, round + 1);
		kvm_close(self->s.fd);
	}
	TH_LOG("%d VMMs killed, the slowest took %lu ms", round, worst);
	ASSERT_GT(2000, worst);
}

TEST_HARNESS_MAIN

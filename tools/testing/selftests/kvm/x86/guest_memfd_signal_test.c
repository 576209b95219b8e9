// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test that only fatal signals end a conversion of guest_memfd memory, and that
 * others don't keep it from making progress; that signals reach tasks that wait
 * for a conversion; and that a VMM can be killed in the middle of conversions.
 */
#include <sys/syscall.h>

#include "gmem_test.h"

#define NR_PAGES	16
#define NR_VCPUS	2

/*
 * If present, these pages take long enough to convert that the conversion can
 * be interrupted, or waited for.  Waiters don't map them: a process that dies
 * has to wait for i_mmap_rwsem while another unmaps pages of a file that both
 * have mapped, which isn't tested here.
 */
#define BIG_PAGES	65536
#define BIG_SIZE	(BIG_PAGES * PAGE_SIZE)

/* The maximum time for a process to die, even on slow machines. */
#define SOON_US		400000

/* Another file of the same VM. */
static struct gmem_vm big;

FIXTURE(signal) { };

FIXTURE_SETUP(signal)
{
	gmem_vm_create(g, NR_PAGES);
	big = *g;
	big.nr_pages = BIG_PAGES;
	big.fd = gmem_create_shared(g, BIG_SIZE);
	big.mem = kvm_mmap(BIG_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, big.fd);
}

FIXTURE_TEARDOWN(signal)
{
	kvm_munmap(big.mem, BIG_SIZE);
	kvm_close(big.fd);
	gmem_vm_free(g);
}

static u64 private_pages(struct gmem_vm *vm)
{
	return gmem_read_fdinfo(getpid(), vm->fd).private / PAGE_SIZE;
}

/* Convert while signals arrive, during a wait for a pin and during a long walk. */
static void convert_under_signals(struct __test_metadata *_metadata)
{
	int pin, i;

	for (i = 0; i < 4 && !gmem_pin_unsupported(); i++) {
		*gmem_hva(g, i) = 1;
		pin = gmem_pin(g, i, 1);
		ASSERT_REFUSED(EAGAIN, i, 0, NR_PAGES);
		ASSERT_EQ(0, private_pages(g));
		kvm_close(pin);

		/* The wait is as long as without signals. */
		ASSERT_EQ(0, convert_during_unpin(i));
		gmem_make_shared(g, 0, NR_PAGES);
	}

	for (i = 0; i < 2; i++) {
		madvise(big.mem, BIG_SIZE, MADV_POPULATE_WRITE);
		ASSERT_EQ(0, gmem_convert(&big, 0, BIG_PAGES, PRIVATE));
		ASSERT_EQ(BIG_PAGES, private_pages(&big));
		ASSERT_EQ(0, gmem_convert(&big, 0, BIG_PAGES, SHARED));
		ASSERT_EQ(0, private_pages(&big));
	}

	if (!hwpoison_unsupported()) {
		ASSERT_EQ(0, gmem_poison(&big, BIG_PAGES - 1));
		ASSERT_EQ(EHWPOISON, gmem_convert(&big, 0, BIG_PAGES, PRIVATE));
		ASSERT_EQ(BIG_PAGES - 1, big.error_page);
		gmem_punch_hole(&big, BIG_PAGES - 1, 1);
		ASSERT_EQ(0, hwpoison_unpoison_all());
	}
}

static void convert_under_alarm(struct __test_metadata *_metadata, int flags)
{
	int i;

	ignore_signal(SIGALRM, flags);
	set_alarm(2000);
	convert_under_signals(_metadata);

	/* Send signals often enough to hit short requests, at any point. */
	set_alarm(300);
	for (i = 0; i < 200; i++) {
		ASSERT_CONVERTED(0, NR_PAGES, PRIVATE);
		ASSERT_CONVERTED(i % 8, 8, SHARED);
		ASSERT_CONVERTED(0, NR_PAGES, SHARED);
	}
	set_alarm(0);
}

TEST_F_TIMEOUT(signal, handler, 120)
{
	convert_under_alarm(_metadata, 0);
}

TEST_F_TIMEOUT(signal, sa_restart, 120)
{
	convert_under_alarm(_metadata, SA_RESTART);
}

/* Job control doesn't run a handler. */
TEST_F_TIMEOUT(signal, sigstop, 120)
{
	bool *done = kvm_mmap(PAGE_SIZE, PROT_READ | PROT_WRITE,
			      MAP_SHARED | MAP_ANONYMOUS, -1);
	pid_t parent = getpid(), pid = fork();

	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		while (!READ_ONCE(*done)) {
			kill(parent, SIGSTOP);
			usleep(20000);
			kill(parent, SIGCONT);
			usleep(20000);
		}
		_exit(0);
	}
	convert_under_signals(_metadata);

	WRITE_ONCE(*done, true);
	ASSERT_EQ(pid, waitpid(pid, NULL, 0));
	kvm_munmap(done, PAGE_SIZE);
}

/* Kill a process, and return the time it took to die. */
static u64 kill_us(pid_t pid)
{
	struct timespec start = time_now();
	int status;

	kill(pid, SIGKILL);
	TEST_ASSERT(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status),
		    "The process was not killed, status 0x%x", status);
	return elapsed_us(start);
}

static u64 kill_converter(struct gmem_vm *vm)
{
	pid_t pid = fork();

	while (!pid) {
		gmem_convert(vm, 0, vm->nr_pages, PRIVATE);
		gmem_convert(vm, 0, vm->nr_pages, SHARED);
	}
	usleep(100000);
	return kill_us(pid);
}

TEST_F_TIMEOUT(signal, sigkill, 120)
{
	int pin, i;

	/* Kill during large requests, and while waiting. */
	for (i = 0; i < 4; i++) {
		madvise(big.mem, BIG_SIZE, MADV_POPULATE_WRITE);
		EXPECT_GT(SOON_US, kill_converter(&big));
		ASSERT_EQ(1, gmem_read_fdinfo(getpid(), big.fd).ranges);
		gmem_make_shared(&big, 0, BIG_PAGES);
	}
	for (i = 0; i < 4 && !gmem_pin_unsupported(); i++) {
		*gmem_hva(g, i) = 1;
		pin = gmem_pin(g, i, 1);
		EXPECT_GT(SOON_US, kill_converter(g));
		ASSERT_EQ(0, private_pages(g));
		kvm_close(pin);
		gmem_make_private(g, 0, NR_PAGES);
		gmem_make_shared(g, 0, NR_PAGES);
	}
}

/*
 * A waiter is a child process with its own VM.  This process converts memory of
 * that VM, and an operation of the waiter has to wait for the conversion.
 */
enum waiting_for {
	VCPU_FAULT,
	HOST_FAULT,
	CONVERSION,
	ALLOCATION,
	HOLE,
	VMM,		/* anything, until it is killed */
};

struct waiter {
	/* Written by the waiter. */
	int fd;
	bool ready;
	bool returned;
	int err;
	/* Set by this process, cleared by the waiter. */
	bool go;
};

static struct waiter *w;
static pid_t waiter_pid;
static int waiter_fd;	/* in this process */

FIXTURE(waiter) { };

FIXTURE_VARIANT(waiter) {
	enum waiting_for what;
	int sig;
};

FIXTURE_VARIANT_ADD(waiter, vcpu_kick) { .what = VCPU_FAULT, .sig = SIGUSR1 };
FIXTURE_VARIANT_ADD(waiter, vcpu_kill) { .what = VCPU_FAULT, .sig = SIGKILL };
FIXTURE_VARIANT_ADD(waiter, host_fault_kill) { .what = HOST_FAULT, .sig = SIGKILL };
FIXTURE_VARIANT_ADD(waiter, conversion_kill) { .what = CONVERSION, .sig = SIGKILL };
FIXTURE_VARIANT_ADD(waiter, allocation_kill) { .what = ALLOCATION, .sig = SIGKILL };
FIXTURE_VARIANT_ADD(waiter, hole_kill) { .what = HOLE, .sig = SIGKILL };

FIXTURE_SETUP(waiter)
{
	SKIP_IF(smp_unsupported());

	w = kvm_mmap(PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1);
}

FIXTURE_TEARDOWN(waiter)
{
	kvm_munmap(w, PAGE_SIZE);
}

/* The file has BIG_PAGES + 1 pages, of which only the last is in a memslot. */
static void run_waiter(enum waiting_for what)
{
	u64 *hva;

	pin_self_to_cpu(nth_cpu(1));
	ignore_signal(SIGUSR1, 0);

	gmem_vm_create(g, 1);
	gmem_set_slot(g, GMEM_SLOT, 0, 0, 0);
	g->fd = gmem_create_shared(g, BIG_SIZE + PAGE_SIZE);
	hva = __kvm_mmap(PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, g->fd,
			 BIG_SIZE);
	vm_set_user_memory_region2(g->vm, GMEM_SLOT, KVM_MEM_GUEST_MEMFD, GMEM_GPA,
				   PAGE_SIZE, hva, g->fd, BIG_SIZE);
	/* From here on, each KVM_RUN reads that page. */
	gmem_read(g, 0);

	w->fd = g->fd;
	for (;;) {
		WRITE_ONCE(w->ready, true);
		while (!READ_ONCE(w->go))
			usleep(500);
		WRITE_ONCE(w->go, false);

		if (what == VCPU_FAULT)
			w->err = __vcpu_run(g->vcpu) ? errno : 0;
		else if (what == HOST_FAULT)
			WRITE_ONCE(*hva, 1);
		else if (what == CONVERSION)
			gmem_convert(g, BIG_PAGES, 1, PRIVATE);
		else if (what == ALLOCATION)
			gmem_allocate(g, BIG_PAGES, 1);
		else
			gmem_punch_hole(g, BIG_PAGES, 1);
		WRITE_ONCE(w->returned, true);
	}
}

static void *vmm_convert(void *arg)
{
	struct kvm_random_state rng = new_kvm_random_state(kvm_random_seed ^ getpid());
	int page, nr;

	for (;;) {
		page = kvm_random_range(&rng, NR_PAGES, &nr);
		gmem_convert(g, page, nr, kvm_random_bool(&rng) ? PRIVATE : SHARED);
		gmem_host_can_access(g, page, nr);
	}
	return NULL;
}

static void run_vmm(void)
{
	struct gmem_hammer hammers[NR_VCPUS];
	pthread_t thread;

	gmem_vm_create(g, NR_PAGES);
	gmem_hammer_start(g, hammers, NR_VCPUS, HAMMER_RETRY);
	kvm_pthread_create(&thread, NULL, vmm_convert, NULL);
	w->fd = g->fd;
	WRITE_ONCE(w->ready, true);
	vmm_convert(NULL);
}

static void fork_waiter(enum waiting_for what)
{
	int pidfd;

	memset(w, 0, sizeof(*w));
	waiter_pid = fork();
	TEST_ASSERT(waiter_pid >= 0, __KVM_SYSCALL_ERROR("fork()", waiter_pid));
	if (!waiter_pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (what == VMM)
			run_vmm();
		else
			run_waiter(what);
	}
	while (!READ_ONCE(w->ready))
		usleep(1000);

	pidfd = syscall(SYS_pidfd_open, waiter_pid, 0);
	waiter_fd = syscall(SYS_pidfd_getfd, pidfd, w->fd, 0);
	TEST_ASSERT(waiter_fd >= 0, __KVM_SYSCALL_ERROR("pidfd_getfd()", waiter_fd));
	kvm_close(pidfd);
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

static s64 us_between(struct timespec from, struct timespec to)
{
	return (timespec_to_ns(to) - timespec_to_ns(from)) / 1000;
}

static u64 time_conversion(int fd)
{
	struct conversion c = { .fd = fd };
	pthread_t thread;

	kvm_pthread_create(&thread, NULL, convert_big, &c);
	kvm_pthread_join(thread, NULL);
	gmem_set_shared(fd, 0, BIG_SIZE);
	return us_between(c.start, c.end);
}

/*
 * A task that is killed doesn't check the rest of the range.  Checking all of it
 * takes only a few milliseconds on a fast machine, and the time to die depends
 * on the load of the CPUs, so try many times.
 */
TEST_F_TIMEOUT(signal, sigkill_check, 120)
{
	bool *started = kvm_mmap(PAGE_SIZE, PROT_READ | PROT_WRITE,
				 MAP_SHARED | MAP_ANONYMOUS, -1);
	u64 whole_us, us;
	pid_t pid;
	int i;

	/* Without mappings, the check takes nearly all of the time. */
	kvm_fallocate(big.fd, FALLOC_FL_KEEP_SIZE, 0, BIG_SIZE);
	whole_us = time_conversion(big.fd);
	for (i = 0, us = whole_us; i < 50 && us > whole_us / 2; i++) {
		*started = false;
		pid = fork();
		while (!pid) {
			WRITE_ONCE(*started, true);
			gmem_convert(&big, 0, BIG_PAGES, PRIVATE);
			pause();
		}
		while (!READ_ONCE(*started))
			;
		usleep(whole_us / 4);
		us = kill_us(pid);
		TH_LOG("a conversion takes %lu us, killed in %lu us", whole_us, us);

		/* Don't count a kill that came too late. */
		if (private_pages(&big)) {
			gmem_make_shared(&big, 0, BIG_PAGES);
			us = whole_us;
		}
	}
	ASSERT_GE(whole_us / 2, us);
	kvm_munmap(started, PAGE_SIZE);
}

/*
 * Send a signal to the waiter in the middle of a conversion.  @whole_us is the
 * expected duration; it is updated to the actual one.  Return the time until
 * the signal took effect, as a percentage of the rest of the conversion; -1 if
 * the waiter didn't have to wait, or if the signal was sent too late to tell.
 */
static int signal_in_the_middle(u64 *whole_us, int sig)
{
	struct conversion c = { .fd = waiter_fd };
	struct timespec sent, seen;
	pthread_t thread;
	bool returned;
	s64 left;

	kvm_pthread_create(&thread, NULL, convert_big, &c);
	usleep(*whole_us / 4);
	WRITE_ONCE(w->go, true);
	usleep(*whole_us / 8);

	returned = READ_ONCE(w->returned);
	sent = time_now();
	if (sig == SIGKILL) {
		kill_us(waiter_pid);
	} else {
		kill(waiter_pid, sig);
		while (!READ_ONCE(w->returned))
			usleep(1000);
	}
	seen = time_now();
	kvm_pthread_join(thread, NULL);

	*whole_us = us_between(c.start, c.end);
	left = us_between(sent, c.end);
	if (returned || left <= (s64)*whole_us / 4)
		return -1;
	return us_between(sent, seen) * 100 / left;
}

/* The timing depends on the load of the CPUs, so try several times. */
TEST_F_TIMEOUT(waiter, signal, 300)
{
	int i, percent = -1;
	u64 whole_us = 0;

	for (i = 0; i < 5 && (percent < 0 || percent > 50); i++) {
		fork_waiter(variant->what);
		kvm_fallocate(waiter_fd, FALLOC_FL_KEEP_SIZE, 0, BIG_SIZE);
		if (!whole_us)
			whole_us = time_conversion(waiter_fd);
		/* Have the waiter fault again. */
		kvm_fallocate(waiter_fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE,
			      BIG_SIZE, PAGE_SIZE);

		percent = signal_in_the_middle(&whole_us, variant->sig);
		TH_LOG("conversion: %lu us, signal seen after %d%% of the rest", whole_us, percent);
		if (percent >= 0 && percent <= 50 && variant->sig != SIGKILL)
			EXPECT_EQ(EINTR, w->err);
		if (variant->sig != SIGKILL)
			kill_us(waiter_pid);
		kvm_close(waiter_fd);
	}
	ASSERT_LE(0, percent);
	ASSERT_GE(50, percent);
}

/* The file outlives its VMM, and still works. */
TEST_F_TIMEOUT(signal, vmm_kill, 300)
{
	struct kvm_random_state rng = new_kvm_random_state(kvm_random_seed);
	const size_t size = NR_PAGES * PAGE_SIZE;
	u64 worst = 0, ignored, *mem;
	int round;

	w = kvm_mmap(PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1);
	catch_sigbus();
	for (round = 0; round < 30; round++) {
		fork_waiter(VMM);
		usleep(kvm_random_u32(&rng) % 100000);
		worst = max_t(u64, worst, kill_us(waiter_pid));

		gmem_set_shared(waiter_fd, 0, size);
		mem = kvm_mmap(size, PROT_READ | PROT_WRITE, MAP_SHARED, waiter_fd);
		kvm_madvise(mem, size, MADV_POPULATE_WRITE);
		mem[0] = round + 1;
		gmem_set_private(waiter_fd, 0, size);
		ASSERT_FALSE(try_read(mem, &ignored));
		ASSERT_EQ(size, gmem_read_fdinfo(getpid(), waiter_fd).private);
		gmem_set_shared(waiter_fd, 0, size);
		ASSERT_EQ(round + 1, mem[0]);
		kvm_munmap(mem, size);
		kvm_close(waiter_fd);
	}
	TH_LOG("%d VMMs killed, the slowest took %lu us", round, worst);
	ASSERT_GT(2000000, worst);
}

GMEM_TEST_MAIN(gmem_vm_unsupported())

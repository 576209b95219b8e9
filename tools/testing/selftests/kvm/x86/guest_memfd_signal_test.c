// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test that only fatal signals end a conversion of guest_memfd memory, and that
 * others don't keep it from making progress; that signals reach tasks that wait
 * for a conversion; and that a VMM can be killed in the middle of conversions.
 */
#include <sys/syscall.h>

#include "gmem_test.h"

#define NR_PAGES	16

/* So many that a conversion can be interrupted or waited for, if all are present. */
#define BIG_PAGES	65536

/* The maximum time for a process to die, even on slow machines. */
#define SOON_US		400000

/* Memory shared with a child process. */
static struct {
	/* Written by the child. */
	bool ready;
	bool returned;
	int fd;
	int err;
	u64 whole_us;
	/* Written by this process, but the child clears go. */
	bool go;
	bool stop;
} *child;

/* Create a VM with a large file, of which only the first page is in a memslot. */
static void create_big_vm(int nr_mapped)
{
	gmem_vm_create(g, 1);
	gmem_set_slot(g, GMEM_SLOT, 0, 0, 0);
	kvm_munmap(g->mem, PAGE_SIZE);
	kvm_close(g->fd);

	g->nr_pages = BIG_PAGES;
	g->fd = gmem_create_shared(g, BIG_PAGES * PAGE_SIZE);
	g->mem = kvm_mmap(nr_mapped * PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, g->fd);
	gmem_set_slot(g, GMEM_SLOT, 0, 1, 0);
}

FIXTURE(signal) { };

FIXTURE_SETUP(signal)
{
	create_big_vm(BIG_PAGES);
}

FIXTURE_TEARDOWN(signal)
{
	gmem_vm_free(g);
}

/*
 * Convert while signals arrive: during waits for a pin, during long walks, and at
 * any point of short requests.
 */
static void convert_under_signals(struct __test_metadata *_metadata, int sig, int us)
{
	pid_t parent = getpid(), pid;
	int pin, i;

	SKIP_IF(gmem_pin_unsupported());

	child->stop = false;
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		while (!READ_ONCE(child->stop)) {
			kill(parent, sig);
			usleep(us);
			kill(parent, SIGCONT);
			usleep(us);
		}
		_exit(0);
	}

	for (i = 0; i < 4; i++) {
		*gmem_hva(g, i) = 1;
		pin = gmem_pin(g, i, 1);
		ASSERT_REFUSED(EAGAIN, i, 0, NR_PAGES);
		kvm_close(pin);

		/* The wait is as long as without signals. */
		ASSERT_EQ(0, convert_during_unpin(i));
		gmem_make_shared(g, 0, BIG_PAGES);
	}
	for (i = 0; i < 2; i++) {
		ASSERT_TRUE(gmem_host_can_access(g, 0, BIG_PAGES));
		gmem_make_private(g, 0, BIG_PAGES);
		gmem_make_shared(g, 0, BIG_PAGES);
	}
	for (i = 0; i < 2000; i++) {
		gmem_make_private(g, 0, NR_PAGES);
		gmem_make_shared(g, 0, NR_PAGES);
	}

	WRITE_ONCE(child->stop, true);
	while (waitpid(pid, NULL, 0) != pid)
		;
}

TEST_F_TIMEOUT(signal, handler, 120)
{
	ignore_signal(SIGUSR1);
	convert_under_signals(_metadata, SIGUSR1, 1000);
}

/* Job control doesn't run a handler. */
TEST_F_TIMEOUT(signal, sigstop, 120)
{
	convert_under_signals(_metadata, SIGSTOP, 20000);
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

#define TOO_LATE	(-1ull)

/*
 * Kill a process @us after it has started a conversion, which must fail as a
 * whole.  Return the time it took to die, or TOO_LATE if the conversion had
 * already succeeded.
 */
static u64 kill_converter(u64 us)
{
	struct gmem_fdinfo info;
	pid_t pid;

	child->ready = false;
	pid = fork();
	TEST_ASSERT(pid >= 0, __KVM_SYSCALL_ERROR("fork()", pid));
	while (!pid) {
		WRITE_ONCE(child->ready, true);
		gmem_convert(g, 0, BIG_PAGES, PRIVATE);
		pause();
	}
	while (!READ_ONCE(child->ready))
		;
	usleep(us);
	us = kill_us(pid);
	info = gmem_read_fdinfo(getpid(), g->fd);
	TEST_ASSERT_EQ(info.ranges, 1);
	gmem_make_shared(g, 0, BIG_PAGES);
	return info.private ? TOO_LATE : us;
}

TEST_F_TIMEOUT(signal, sigkill, 240)
{
	u64 whole_us = -1, us = TOO_LATE;
	struct timespec start;
	int pin, i, nr_late = 0;

	SKIP_IF(gmem_pin_unsupported());

	/*
	 * A task that is killed doesn't check the rest of the range.  Checking
	 * all of it takes only a few milliseconds on a fast machine, and the
	 * time to die depends on the load of the CPUs, so try many times.
	 * Without mappings, the check takes nearly all of a conversion's time.
	 */
	gmem_allocate(g, 0, BIG_PAGES);
	for (i = 0; i < 3; i++) {
		start = time_now();
		gmem_make_private(g, 0, BIG_PAGES);
		whole_us = min(whole_us, elapsed_us(start));
		gmem_make_shared(g, 0, BIG_PAGES);
	}
	for (i = 0; i < 50 && us > whole_us / 2; i++)
		us = kill_converter(whole_us / 4);
	ASSERT_GE(whole_us / 2, us);

	/* Kill while mappings are being removed, and during a wait for a pin. */
	for (i = 0; i < 4; i++) {
		ASSERT_TRUE(gmem_host_can_access(g, 0, BIG_PAGES));
		us = kill_converter(whole_us + i * whole_us / 2);
		nr_late += us == TOO_LATE;
		EXPECT_TRUE(us == TOO_LATE || us < SOON_US);

		*gmem_hva(g, i) = 1;
		pin = gmem_pin(g, i, 1);
		EXPECT_GT(SOON_US, kill_converter(50000));
		kvm_close(pin);
	}
	ASSERT_GT(i, nr_late);
}

/* Start a VMM in another process, and get a descriptor of its file. */
static pid_t fork_vmm(void (*run)(void), int *fd)
{
	pid_t pid;
	int pidfd;

	memset(child, 0, sizeof(*child));
	pid = fork();
	TEST_ASSERT(pid >= 0, __KVM_SYSCALL_ERROR("fork()", pid));
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		run();
		for (;;)
			pause();
	}
	while (!READ_ONCE(child->ready))
		usleep(1000);

	pidfd = syscall(SYS_pidfd_open, pid, 0);
	*fd = syscall(SYS_pidfd_getfd, pidfd, child->fd, 0);
	TEST_ASSERT(*fd >= 0, __KVM_SYSCALL_ERROR("pidfd_getfd()", *fd));
	kvm_close(pidfd);
	return pid;
}

static bool convert_some(u64 n)
{
	int page = 5 * n % NR_PAGES, nr = 1 + n % (NR_PAGES - page);

	gmem_convert(g, page, nr, n % 3 ? PRIVATE : SHARED);
	gmem_host_can_access(g, page, nr);
	return true;
}

static void run_vmm(void)
{
	static struct worker workers[2] = { [0 ... 1] = { "convert", convert_some } };
	static struct gmem_hammer hammers[2];

	gmem_vm_create(g, NR_PAGES);
	gmem_hammer_start(g, hammers, 2, HAMMER_RETRY);
	workers_start(workers, 2);
	child->fd = g->fd;
	WRITE_ONCE(child->ready, true);
}

/* The file outlives its VMM, and still works. */
TEST_F_TIMEOUT(signal, vmm_kill, 300)
{
	struct gmem_vm file = { .nr_pages = NR_PAGES };
	int round;
	pid_t pid;

	for (round = 0; round < 30; round++) {
		pid = fork_vmm(run_vmm, &file.fd);
		usleep(round * 3000);
		ASSERT_GT(2000000, kill_us(pid));

		gmem_make_shared(&file, 0, NR_PAGES);
		file.mem = kvm_mmap(DATA_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, file.fd);
		memset(file.mem, 0xaa, DATA_SIZE);
		gmem_make_private(&file, 0, NR_PAGES);
		ASSERT_TRUE(gmem_host_can_access_all_but(&file, 0, NR_PAGES));
		gmem_make_shared(&file, 0, NR_PAGES);
		ASSERT_EQ(0xaaaaaaaaaaaaaaaaul, *gmem_hva(&file, 0));
		kvm_munmap(file.mem, DATA_SIZE);
		kvm_close(file.fd);
	}
}

/*
 * A waiter is a VMM in another process.  This process converts all but the first
 * page of the VMM's file, and an operation of the waiter on the first page has
 * to wait for that conversion.  Only the first page is mapped: a process that
 * dies has to wait for i_mmap_rwsem while another unmaps pages of a file that
 * both have mapped, which isn't tested here.
 */
FIXTURE(waiter) { };

FIXTURE_VARIANT(waiter) {
	void (*operate)(struct gmem_vm *g, int page, int nr);
	int sig;
};

static void (*operate)(struct gmem_vm *g, int page, int nr);

FIXTURE_SETUP(waiter)
{
	SKIP_IF(smp_unsupported());
	operate = variant->operate;
}

FIXTURE_TEARDOWN(waiter) { }

static void vcpu_fault(struct gmem_vm *g, int page, int nr)
{
	child->err = __vcpu_run(g->vcpu) ? errno : 0;
}

static void host_fault(struct gmem_vm *g, int page, int nr)
{
	WRITE_ONCE(*gmem_hva(g, page), 1);
}

FIXTURE_VARIANT_ADD(waiter, vcpu_kick) { vcpu_fault, SIGUSR1 };
FIXTURE_VARIANT_ADD(waiter, vcpu_kill) { vcpu_fault, SIGKILL };
FIXTURE_VARIANT_ADD(waiter, host_fault_kill) { host_fault, SIGKILL };
FIXTURE_VARIANT_ADD(waiter, conversion_kill) { gmem_make_private, SIGKILL };
FIXTURE_VARIANT_ADD(waiter, allocation_kill) { gmem_allocate, SIGKILL };
FIXTURE_VARIANT_ADD(waiter, hole_kill) { gmem_punch_hole, SIGKILL };

static void run_waiter(void)
{
	struct timespec start;

	/* Measure the conversion on the CPU that convert_big() will use. */
	pin_self_to_cpu(nth_cpu(0));
	ignore_signal(SIGUSR1);
	create_big_vm(1);

	gmem_allocate(g, 1, BIG_PAGES - 1);
	start = time_now();
	gmem_make_private(g, 1, BIG_PAGES - 1);
	child->whole_us = elapsed_us(start);
	gmem_make_shared(g, 1, BIG_PAGES - 1);
	pin_self_to_cpu(nth_cpu(1));

	/* The next KVM_RUN reads the first page again, and has to fault. */
	gmem_read(g, 0);
	gmem_punch_hole(g, 0, 1);

	child->fd = g->fd;
	WRITE_ONCE(child->ready, true);
	while (!READ_ONCE(child->go))
		usleep(100);
	WRITE_ONCE(child->go, false);
	operate(g, 0, 1);
	WRITE_ONCE(child->returned, true);
}

static struct timespec converted;

static void *convert_big(void *arg)
{
	int fd = *(int *)arg;

	pin_self_to_cpu(nth_cpu(0));
	gmem_set_private(fd, PAGE_SIZE, (BIG_PAGES - 1) * PAGE_SIZE);
	converted = time_now();
	return NULL;
}

/*
 * A signal must take effect in less than half of the time that the conversion
 * has left.  The timing depends on the load of the CPUs, so try several times.
 */
TEST_F_TIMEOUT(waiter, signal, 300)
{
	bool waiting, in_time = false;
	struct timespec sent;
	s64 us, left_us;
	pthread_t thread;
	pid_t pid;
	int i, fd;

	for (i = 0; i < 5 && !in_time; i++) {
		pid = fork_vmm(run_waiter, &fd);
		kvm_pthread_create(&thread, NULL, convert_big, &fd);
		usleep(child->whole_us / 4);
		WRITE_ONCE(child->go, true);
		while (READ_ONCE(child->go))
			usleep(50);
		usleep(child->whole_us / 8);

		waiting = !READ_ONCE(child->returned);
		sent = time_now();
		if (variant->sig == SIGKILL) {
			us = kill_us(pid);
		} else {
			kill(pid, variant->sig);
			while (!READ_ONCE(child->returned))
				usleep(50);
			us = elapsed_us(sent);
			kill_us(pid);
		}
		kvm_pthread_join(thread, NULL);
		left_us = timespec_to_ns(timespec_sub(converted, sent)) / 1000;
		TH_LOG("conversion: %lu us, %ld us left, signal seen after %ld us",
		       child->whole_us, left_us, us);

		/* Don't count a signal that was sent too early or too late. */
		in_time = waiting && left_us > (s64)child->whole_us / 4 && us <= left_us / 2;
		if (in_time && variant->sig != SIGKILL)
			EXPECT_EQ(EINTR, child->err);
		kvm_close(fd);
	}
	ASSERT_TRUE(in_time);
}

int main(int argc, char **argv)
{
	child = kvm_mmap(PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1);
	return gmem_test_run(argc, argv, gmem_vm_unsupported());
}

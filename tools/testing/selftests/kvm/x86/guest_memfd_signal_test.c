// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test that no signal but a fatal one ends a conversion of guest_memfd memory,
 * nor keeps it from making progress.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <linux/falloc.h>

#include "gmem_util.h"
#include "gmem_vm.h"
#include "hwpoison.h"
#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"
#include "userfaultfd_util.h"
#include "kselftest_harness.h"

#define PRIVATE		KVM_MEMORY_ATTRIBUTE_PRIVATE
#define GARBAGE		0x5a5a5a5a5a5a5a5aull
#define NR_PAGES	16

/* Present and mapped, these take long enough to convert to be interrupted. */
#define BIG_PAGES	65536
#define BIG_SIZE	((u64)BIG_PAGES * PAGE_SIZE)

/* To hear of a pin, or of a death, on slow machines too. */
#define SOON_MS		400

FIXTURE(signals) {
	struct gmem_vm g;
	struct gmem_vm big;	/* another file of the same VM */
};

FIXTURE_SETUP(signals)
{
	const char *reason = gmem_vm_unsupported();

	if (reason)
		SKIP(exit(KSFT_SKIP), "%s", reason);

	gmem_vm_create(&self->g, NR_PAGES);
	self->big = (struct gmem_vm) {
		.vm = self->g.vm,
		.nr_pages = BIG_PAGES,
		.fd = vm_create_guest_memfd(self->g.vm, BIG_SIZE,
					    GUEST_MEMFD_FLAG_MMAP |
					    GUEST_MEMFD_FLAG_INIT_SHARED),
	};
	self->big.mem = kvm_mmap(BIG_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED,
				 self->big.fd);
}

FIXTURE_TEARDOWN(signals)
{
	kvm_munmap(self->big.mem, BIG_SIZE);
	kvm_close(self->big.fd);
	gmem_vm_free(&self->g);
}

static u64 private_pages(int fd)
{
	return gmem_read_fdinfo(getpid(), fd).private / PAGE_SIZE;
}

/*
 * A signal that is pending when the request begins: sent while the kernel waits
 * for the page that the struct is in.
 */
static struct {
	pthread_t caller;
	struct kvm_memory_attributes2 *page;
	char contents[PAGE_SIZE];
} pending;

static int signal_and_resolve(int uffd_mode, int uffd, struct uffd_msg *msg)
{
	struct uffdio_copy copy = {
		.dst = (u64)pending.page,
		.src = (u64)pending.contents,
		.len = PAGE_SIZE,
	};

	/* With a signal pending, the kernel tries again and again meanwhile. */
	pthread_kill(pending.caller, SIGALRM);
	return ioctl(uffd, UFFDIO_COPY, &copy) && errno != EEXIST ? -1 : 0;
}

static int convert_with_signal_pending(struct gmem_vm *g, int page, int nr,
				       u64 attributes, int *error_page)
{
	struct kvm_memory_attributes2 *attrs = (void *)pending.contents;
	struct uffd_desc *uffd;
	int r;

	pending.caller = pthread_self();
	pending.page = kvm_mmap(PAGE_SIZE, PROT_READ | PROT_WRITE,
				MAP_PRIVATE | MAP_ANONYMOUS, -1);
	*attrs = (struct kvm_memory_attributes2) {
		.offset = page * PAGE_SIZE,
		.size = nr * PAGE_SIZE,
		.attributes = attributes,
		.error_offset = GARBAGE,
	};

	uffd = uffd_setup_demand_paging(UFFDIO_REGISTER_MODE_MISSING, 0,
					pending.page, PAGE_SIZE, 1,
					signal_and_resolve);
	r = ioctl(g->fd, KVM_SET_MEMORY_ATTRIBUTES2, pending.page) ? errno : 0;
	uffd_stop_demand_paging(uffd);

	*error_page = pending.page->error_offset == GARBAGE ? -1 :
		      pending.page->error_offset / PAGE_SIZE;
	kvm_munmap(pending.page, PAGE_SIZE);
	return r;
}

TEST_F_TIMEOUT(signals, pending, 120)
{
	struct gmem_vm *g = &self->big;
	int error_page, pin, i, uffd;
	u64 pfn;

	uffd = syscall(__NR_userfaultfd, O_CLOEXEC);
	if (uffd < 0)
		SKIP(return, "no userfaultfd");
	close(uffd);
	ignore_signal(SIGALRM, 0);
	kvm_fallocate(g->fd, FALLOC_FL_KEEP_SIZE, 0, BIG_SIZE);

	ASSERT_EQ(0, convert_with_signal_pending(g, 8, 8, PRIVATE, &error_page));
	ASSERT_EQ(-1, error_page);
	ASSERT_EQ(8, private_pages(g->fd));
	ASSERT_EQ(0, convert_with_signal_pending(g, 8, 8, PRIVATE, &error_page));
	ASSERT_EQ(0, convert_with_signal_pending(g, 8, 8, 0, &error_page));
	ASSERT_EQ(0, private_pages(g->fd));

	/* Many pages, and many ranges. */
	ASSERT_EQ(0, convert_with_signal_pending(g, 0, BIG_PAGES, PRIVATE,
						 &error_page));
	ASSERT_EQ(BIG_PAGES, private_pages(g->fd));
	for (i = 1; i < 1024; i += 2)
		gmem_set_shared(g->fd, i * PAGE_SIZE, PAGE_SIZE);
	ASSERT_EQ(0, convert_with_signal_pending(g, 0, BIG_PAGES, 0, &error_page));
	ASSERT_EQ(0, private_pages(g->fd));
	ASSERT_EQ(-1, error_page);

	/* Errors are what they are without a signal. */
	if (!hwpoison_unsupported()) {
		pfn = gmem_vm_host_pfn(g, 200);
		ASSERT_EQ(0, gmem_vm_poison(g, 200));
		ASSERT_EQ(EHWPOISON, convert_with_signal_pending(g, 0, 256, PRIVATE,
								 &error_page));
		ASSERT_EQ(200, error_page);
		kvm_fallocate(g->fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE,
			      200 * PAGE_SIZE, PAGE_SIZE);
		hwpoison_unpoison(pfn);
	}
	if (gmem_vm_can_pin()) {
		pin = gmem_vm_pin(g, BIG_PAGES - 1, 1);
		ASSERT_LE(0, pin);
		ASSERT_EQ(EAGAIN, convert_with_signal_pending(g, 0, BIG_PAGES, PRIVATE,
							      &error_page));
		ASSERT_EQ(BIG_PAGES - 1, error_page);
		kvm_close(pin);
	}
	ASSERT_EQ(0, private_pages(g->fd));
}

/* What signals find: a wait for a pin, and a long walk. */
static void convert_under_signals(struct __test_metadata *_metadata,
				  struct gmem_vm *g, struct gmem_vm *big)
{
	int pin, error_page, i;
	struct timespec start;
	pthread_t thread;

	for (i = 0; i < 4 && gmem_vm_can_pin(); i++) {
		*gmem_vm_hva(g, i) = 1;
		pin = gmem_vm_pin(g, i, 1);
		ASSERT_LE(0, pin);
		ASSERT_EQ(EAGAIN, gmem_vm_convert(g, 0, NR_PAGES, PRIVATE, &error_page));
		ASSERT_EQ(i, error_page);
		ASSERT_EQ(0, private_pages(g->fd));

		/* It waits as long as it does without them. */
		close_later(&thread, pin, 50);
		ASSERT_EQ(0, gmem_vm_convert(g, 0, NR_PAGES, PRIVATE, &error_page));
		kvm_pthread_join(thread, NULL);
		gmem_set_shared(g->fd, 0, NR_PAGES * PAGE_SIZE);
	}

	for (i = 0; i < 2; i++) {
		madvise(big->mem, BIG_SIZE, MADV_POPULATE_WRITE);
		start = time_now();
		ASSERT_EQ(0, gmem_vm_convert(big, 0, BIG_PAGES, PRIVATE, &error_page));
		TH_LOG("%d pages converted in %lu ms", BIG_PAGES, elapsed_ms(start));
		ASSERT_EQ(BIG_PAGES, private_pages(big->fd));
		ASSERT_EQ(0, gmem_vm_convert(big, 0, BIG_PAGES, 0, &error_page));
		ASSERT_EQ(0, private_pages(big->fd));
	}
}

TEST_F_TIMEOUT(signals, handler, 120)
{
	ignore_signal(SIGALRM, 0);
	set_alarm(2000, 2000);
	convert_under_signals(_metadata, &self->g, &self->big);
	set_alarm(0, 0);
}

TEST_F_TIMEOUT(signals, sa_restart, 120)
{
	ignore_signal(SIGALRM, SA_RESTART);
	set_alarm(2000, 2000);
	convert_under_signals(_metadata, &self->g, &self->big);
	set_alarm(0, 0);
}

/* Job control runs no handler.  The cgroup freezer and suspend look the same. */
TEST_F_TIMEOUT(signals, sigstop, 120)
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
	convert_under_signals(_metadata, &self->g, &self->big);

	WRITE_ONCE(*done, true);
	ASSERT_EQ(pid, waitpid(pid, NULL, 0));
	kvm_munmap(done, PAGE_SIZE);
}

/* Return how long it took until the process was dead. */
static u64 kill_converter(struct gmem_vm *g)
{
	struct timespec start;
	int error_page, status;
	pid_t pid = fork();

	if (!pid) {
		for (;;) {
			gmem_vm_convert(g, 0, g->nr_pages, PRIVATE, &error_page);
			gmem_vm_convert(g, 0, g->nr_pages, 0, &error_page);
		}
	}
	usleep(100000);
	start = time_now();
	kill(pid, SIGKILL);
	TEST_ASSERT(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status),
		    "The process was not killed, status 0x%x", status);
	return elapsed_ms(start);
}

TEST_F_TIMEOUT(signals, sigkill, 120)
{
	int pin = -1, i;
	u64 ms;

	/* At large requests, and at waiting. */
	for (i = 0; i < 4; i++) {
		madvise(self->big.mem, BIG_SIZE, MADV_POPULATE_WRITE);
		ms = kill_converter(&self->big);
		EXPECT_GT(SOON_MS, ms);
		ASSERT_EQ(1, gmem_read_fdinfo(getpid(), self->big.fd).ranges);
		gmem_set_shared(self->big.fd, 0, BIG_SIZE);
	}
	for (i = 0; i < 4 && gmem_vm_can_pin(); i++) {
		*gmem_vm_hva(&self->g, i) = 1;
		pin = gmem_vm_pin(&self->g, i, 1);
		ASSERT_LE(0, pin);
		ms = kill_converter(&self->g);
		EXPECT_GT(SOON_MS, ms);
		ASSERT_EQ(0, private_pages(self->g.fd));
		kvm_close(pin);
		gmem_set_private(self->g.fd, 0, NR_PAGES * PAGE_SIZE);
		gmem_set_shared(self->g.fd, 0, NR_PAGES * PAGE_SIZE);
	}
}

TEST_HARNESS_MAIN

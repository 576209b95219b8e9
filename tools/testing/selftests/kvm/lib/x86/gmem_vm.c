// SPDX-License-Identifier: GPL-2.0-only
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include <linux/falloc.h>

#include "gmem_util.h"
#include "gmem_vm.h"
#include "hwpoison.h"
#include "kselftest.h"
#include "processor.h"
#include "test_util.h"
#include "../../../../../../mm/gup_test.h"

#define GUP_TEST_FILE	"/sys/kernel/debug/gup_test"

/* Far longer than a hammer takes to stop or to fail, even in emulation. */
#define HAMMER_STOP_SECONDS	120

/* The guest's next access, written by the host while the vCPU isn't running. */
static struct {
	u64 gpa;
	u64 value;
	bool is_write;
} request;

static void guest_code(void)
{
	for (;;) {
		u64 *p = (u64 *)READ_ONCE(request.gpa);

		if (READ_ONCE(request.is_write))
			WRITE_ONCE(*p, READ_ONCE(request.value));

		GUEST_SYNC(READ_ONCE(*p));
	}
}

/* Shared by all hammers.  The host sets stop while they run. */
static struct {
	u64 nr_pages;
	bool lossless;
	bool stop;
} hammering;

bool gmem_hammer_stopped(void)
{
	return READ_ONCE(hammering.stop);
}

/* Each hammer owns a word in each page, and thus knows its expected value. */
static void guest_hammer(u64 id)
{
	u64 seen[GMEM_HAMMER_PAGES] = {};
	u64 i;

	for (i = 0; !gmem_hammer_stopped(); i++) {
		u64 page = i % READ_ONCE(hammering.nr_pages);
		u64 *p = (u64 *)(GMEM_GPA + page * PAGE_SIZE) + 1 + id;

		if (READ_ONCE(hammering.lossless))
			GUEST_ASSERT_EQ(READ_ONCE(*p), seen[page]);
		WRITE_ONCE(*p, ++seen[page]);
	}
	GUEST_DONE();
}

const char *gmem_vm_unsupported(void)
{
	if (!(kvm_check_cap(KVM_CAP_VM_TYPES) & BIT(KVM_X86_SW_PROTECTED_VM)))
		return "no software-protected VMs (CONFIG_KVM_SW_PROTECTED_VM, nested paging)";

	if (!(kvm_check_cap(KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES) &
	      KVM_MEMORY_ATTRIBUTE_PRIVATE))
		return "in-place conversion is off (kvm.gmem_in_place_conversion)";

	return NULL;
}

void __gmem_vm_create(struct gmem_vm *g, unsigned long type, u64 flags,
		      int nr_pages)
{
	const struct vm_shape shape = {
		.mode = VM_MODE_DEFAULT,
		.type = type,
	};
	u64 size = (u64)nr_pages * PAGE_SIZE;

	g->nr_pages = nr_pages;
	g->vm = vm_create_shape_with_one_vcpu(shape, &g->vcpu, guest_code);
	vcpu_regs_get(g->vcpu, &g->start);

	g->fd = vm_create_guest_memfd(g->vm, size, flags);
	if (flags & GUEST_MEMFD_FLAG_MMAP)
		g->mem = kvm_mmap(size, PROT_READ | PROT_WRITE, MAP_SHARED, g->fd);
	else
		g->mem = kvm_mmap(size, PROT_READ | PROT_WRITE,
				  MAP_PRIVATE | MAP_ANONYMOUS, -1);

	gmem_set_slot(g, GMEM_SLOT, 0, nr_pages, 0);
	virt_map(g->vm, GMEM_GPA, GMEM_GPA, nr_pages);
}

void gmem_vm_create(struct gmem_vm *g, int nr_pages)
{
	__gmem_vm_create(g, KVM_X86_SW_PROTECTED_VM, GUEST_MEMFD_FLAG_MMAP |
			 GUEST_MEMFD_FLAG_INIT_SHARED, nr_pages);
}

#define HUGEPAGES_FILE	"/sys/module/kvm/parameters/gmem_hugepages"

const char *gmem_hugepages_unsupported(void)
{
	return geteuid() ? "kvm.gmem_hugepages can only be set by root" : NULL;
}

bool gmem_set_hugepages(bool on)
{
	bool was_on;

	TEST_ASSERT(!access(HUGEPAGES_FILE, F_OK), "No " HUGEPAGES_FILE);
	was_on = get_kvm_param_bool("gmem_hugepages");
	TEST_ASSERT(!write_file(HUGEPAGES_FILE, on ? "1" : "0"),
		    "Cannot write " HUGEPAGES_FILE);
	return was_on;
}

void gmem_vm_create_huge(struct gmem_vm *g, int nr_pages)
{
	bool on = gmem_set_hugepages(true);

	gmem_vm_create(g, nr_pages);
	gmem_set_hugepages(on);
}

void gmem_vm_free(struct gmem_vm *g)
{
	kvm_munmap(g->mem, (u64)g->nr_pages * PAGE_SIZE);
	if (g->fd >= 0)
		kvm_close(g->fd);
	kvm_vm_free(g->vm);
}

int gmem_create_shared(struct gmem_vm *g, u64 size)
{
	return vm_create_guest_memfd(g->vm, size, GUEST_MEMFD_FLAG_MMAP |
				     GUEST_MEMFD_FLAG_INIT_SHARED);
}

void gmem_set_slot(struct gmem_vm *g, int slot, int gpage, int nr, int page)
{
	vm_set_user_memory_region2(g->vm, slot, KVM_MEM_GUEST_MEMFD,
				   GMEM_GPA + gpage * PAGE_SIZE,
				   (u64)nr * PAGE_SIZE, gmem_hva(g, page), g->fd,
				   (u64)page * PAGE_SIZE);
}

int gmem_start_read(struct gmem_vm *g, int page)
{
	request.gpa = GMEM_GPA + (u64)page * PAGE_SIZE;
	request.is_write = false;
	sync_global_to_guest(g->vm, request);

	return _vcpu_run(g->vcpu);
}

u64 gmem_get_ucall(struct kvm_vcpu *vcpu, u64 cmd)
{
	struct ucall uc;
	u64 r = get_ucall(vcpu, &uc);

	if (r == UCALL_ABORT)
		REPORT_GUEST_ASSERT(uc);

	TEST_ASSERT(r == cmd, "Unexpected exit, reason: %u (%s)",
		    vcpu->run->exit_reason, exit_reason_str(vcpu->run->exit_reason));
	return uc.args[1];
}

static int gmem_finish(struct gmem_vm *g, int r, u64 *value)
{
	int err;

	if (r) {
		/* Otherwise, the next KVM_RUN would repeat this access. */
		err = errno;
		vcpu_regs_set(g->vcpu, &g->start);
		errno = err;
		return r;
	}

	*value = gmem_get_ucall(g->vcpu, UCALL_SYNC);
	return 0;
}

int gmem_continue(struct gmem_vm *g, u64 *value)
{
	return gmem_finish(g, _vcpu_run(g->vcpu), value);
}

int __gmem_read(struct gmem_vm *g, int page, u64 *value)
{
	return gmem_finish(g, gmem_start_read(g, page), value);
}

u64 gmem_read(struct gmem_vm *g, int page)
{
	u64 value = 0;
	int r = __gmem_read(g, page, &value);

	TEST_ASSERT(!r, KVM_IOCTL_ERROR(KVM_RUN, r));
	return value;
}

u64 gmem_write(struct gmem_vm *g, int page, u64 value)
{
	int r;

	request.gpa = GMEM_GPA + (u64)page * PAGE_SIZE;
	request.value = value;
	request.is_write = true;
	sync_global_to_guest(g->vm, request);

	r = gmem_continue(g, &value);
	TEST_ASSERT(!r, KVM_IOCTL_ERROR(KVM_RUN, r));
	return value;
}

void gmem_fill(struct gmem_vm *g, int page, int nr)
{
	int i;

	for (i = page; i < page + nr; i++)
		TEST_ASSERT_EQ(gmem_write(g, i, gmem_pattern(i)), gmem_pattern(i));
}

void gmem_check(struct gmem_vm *g, int page, int nr)
{
	int i;

	for (i = page; i < page + nr; i++)
		TEST_ASSERT_EQ(gmem_read(g, i), gmem_pattern(i));
}

u64 gmem_count_faults(struct gmem_vm *g, int page, int nr)
{
	u64 before = vcpu_get_stat(g->vcpu, pf_taken);
	int i;

	for (i = page; i < page + nr; i++)
		gmem_read(g, i);
	return vcpu_get_stat(g->vcpu, pf_taken) - before;
}

int gmem_convert(struct gmem_vm *g, int page, int nr, u64 attributes)
{
	const u64 garbage = 0x5a5a5a5a5a5a5a5aull;
	u64 error_offset = garbage;
	int r;

	r = __gmem_set_attributes(g->fd, (u64)page * PAGE_SIZE,
				  (u64)nr * PAGE_SIZE, attributes, &error_offset);
	r = r ? errno : 0;
	g->error_page = error_offset == garbage ? -1 : error_offset / PAGE_SIZE;
	return r;
}

void gmem_allocate(struct gmem_vm *g, int page, int nr)
{
	kvm_fallocate(g->fd, FALLOC_FL_KEEP_SIZE, (u64)page * PAGE_SIZE,
		      (u64)nr * PAGE_SIZE);
}

void gmem_punch_hole(struct gmem_vm *g, int page, int nr)
{
	kvm_fallocate(g->fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE,
		      (u64)page * PAGE_SIZE, (u64)nr * PAGE_SIZE);
}

bool gmem_host_can_access(struct gmem_vm *g, int page, int nr)
{
	int r = madvise(gmem_hva(g, page), nr * PAGE_SIZE, MADV_POPULATE_WRITE);

	TEST_ASSERT(!r || errno == EFAULT || errno == EHWPOISON,
		    __KVM_SYSCALL_ERROR("madvise()", r));
	return !r;
}

bool gmem_host_can_access_all_but(struct gmem_vm *g, int page, int nr)
{
	int i;

	for (i = 0; i < g->nr_pages; i++)
		if (gmem_host_can_access(g, i, 1) != (i < page || i >= page + nr))
			return false;
	return true;
}

u64 gmem_host_pfn(struct gmem_vm *g, int page)
{
	u64 *hva = gmem_hva(g, page);
	u64 pfn;

	(void)READ_ONCE(*hva);

	pfn = hwpoison_mapped_pfn(hva);
	TEST_ASSERT(pfn, "Page %d is not mapped", page);
	return pfn;
}

bool gmem_is_refused(struct gmem_vm *g, int page, bool private, int err)
{
	struct kvm_run *run = g->vcpu->run;

	if (err == EHWPOISON && run->exit_reason == KVM_EXIT_MEMORY_FAULT &&
	    run->memory_fault.gpa == GMEM_GPA + page * PAGE_SIZE &&
	    run->memory_fault.size == PAGE_SIZE &&
	    run->memory_fault.flags == (private ? KVM_MEMORY_EXIT_FLAG_PRIVATE : 0))
		return true;

	ksft_print_msg("Page %d isn't refused: errno %d, exit reason %u, gpa 0x%llx flags 0x%llx\n",
		       page, err, run->exit_reason, run->memory_fault.gpa,
		       run->memory_fault.flags);
	return false;
}

bool gmem_refuses(struct gmem_vm *g, int page, bool private)
{
	u64 value;

	return gmem_is_refused(g, page, private, __gmem_read(g, page, &value) ? errno : 0);
}

const char *gmem_pin_unsupported(void)
{
	return access_unsupported(GUP_TEST_FILE, R_OK | W_OK,
				  "no gup_test in debugfs (this needs root and CONFIG_GUP_TEST)");
}

int __gmem_pin(struct gmem_vm *g, int page, int nr)
{
	struct pin_longterm_test pin = {
		.addr = (u64)gmem_hva(g, page),
		.size = nr * PAGE_SIZE,
		.flags = PIN_LONGTERM_TEST_FLAG_USE_FAST,
	};
	int fd = open(GUP_TEST_FILE, O_RDWR), err;

	if (fd < 0)
		return -errno;

	if (ioctl(fd, PIN_LONGTERM_TEST_START, &pin)) {
		err = -errno;
		kvm_close(fd);
		return err;
	}
	return fd;
}

int gmem_pin(struct gmem_vm *g, int page, int nr)
{
	int fd = __gmem_pin(g, page, nr);

	TEST_ASSERT(fd >= 0, "Cannot pin %d pages from page %d on, error: %d", nr, page, fd);
	return fd;
}

bool gmem_splice(struct gmem_vm *g, int page, int nr, int us)
{
	struct iovec iov = {
		.iov_base = gmem_hva(g, page),
		.iov_len = nr * PAGE_SIZE,
	};
	static __thread char buf[PAGE_SIZE];
	static __thread int fds[2];
	ssize_t len, r;

	if (!fds[1])
		TEST_ASSERT(!pipe(fds), __KVM_SYSCALL_ERROR("pipe()", -1));

	len = vmsplice(fds[1], &iov, 1, SPLICE_F_NONBLOCK);
	if (len <= 0)
		return false;

	if (us)
		usleep(us);

	for (; len > 0; len -= r) {
		r = read(fds[0], buf, sizeof(buf));
		TEST_ASSERT(r > 0, __KVM_SYSCALL_ERROR("read()", (int)r));
	}
	return true;
}

int gmem_poison(struct gmem_vm *g, int page)
{
	/* madvise() treats the page as accessed by the caller, hence the signal. */
	struct sigaction old;
	int r;

	sigaction(SIGBUS, NULL, &old);
	ignore_signal(SIGBUS);
	hwpoison_remember(gmem_host_pfn(g, page));
	r = madvise(gmem_hva(g, page), PAGE_SIZE, MADV_HWPOISON);
	if (r)
		r = -errno;
	sigaction(SIGBUS, &old, NULL);
	return r;
}

/* Act like a device that reads as all ones. */
static void answer_mmio(struct gmem_hammer *h)
{
	struct kvm_run *run = h->vcpu->run;

	TEST_ASSERT(run->mmio.phys_addr >= GMEM_GPA &&
		    run->mmio.phys_addr < GMEM_GPA + h->g->nr_pages * PAGE_SIZE,
		    "MMIO outside of the file, at gpa 0x%llx", run->mmio.phys_addr);
	if (!run->mmio.is_write)
		memset(run->mmio.data, 0xff, run->mmio.len);
}

static void *run_hammer(void *arg)
{
	struct gmem_hammer *h = arg;
	struct kvm_run *run = h->vcpu->run;
	struct ucall uc;

	for (;;) {
		h->err = __vcpu_run(h->vcpu) ? errno : 0;
		if (h->err == EINTR && run->immediate_exit)
			return NULL;
		if (h->err == EINTR)
			continue;

		if (!h->err && h->mode == HAMMER_MMIO &&
		    run->exit_reason == KVM_EXIT_MMIO) {
			answer_mmio(h);
			continue;
		}

		if (!h->err) {
			switch (get_ucall(h->vcpu, &uc)) {
			case UCALL_DONE:
				return NULL;
			case UCALL_ABORT:
				REPORT_GUEST_ASSERT(uc);
			default:
				break;
			}
		}

		TEST_ASSERT(h->mode == HAMMER_ONCE || h->mode == HAMMER_RETRY,
			    "The guest's access failed, errno: %d, exit reason: %u (%s)",
			    h->err, run->exit_reason,
			    exit_reason_str(run->exit_reason));
		h->nr_failures++;
		/* The guest may never get to see the request to stop. */
		if (h->mode == HAMMER_ONCE || gmem_hammer_stopped())
			return NULL;
		sched_yield();
	}
}

void gmem_hammer_resume(struct gmem_hammer *h)
{
	kvm_pthread_create(&h->thread, NULL, run_hammer, h);
}

void __gmem_hammer_start(struct gmem_vm *g, struct gmem_hammer *hammers, int nr,
			 enum gmem_hammer_mode mode, void *code)
{
	int i;

	hammering.nr_pages = min_t(u64, g->nr_pages, GMEM_HAMMER_PAGES);
	hammering.lossless = mode == HAMMER_LOSSLESS;
	hammering.stop = false;
	sync_global_to_guest(g->vm, hammering);

	for (i = 0; i < nr; i++) {
		hammers[i] = (struct gmem_hammer) {
			.g = g,
			.mode = mode,
			.vcpu = vm_vcpu_add(g->vm, 1 + i, code),
		};
		vcpu_args_set(hammers[i].vcpu, 1, (u64)i);
	}

	for (i = 0; i < nr; i++)
		gmem_hammer_resume(&hammers[i]);
}

void gmem_hammer_start(struct gmem_vm *g, struct gmem_hammer *hammers, int nr,
		       enum gmem_hammer_mode mode)
{
	__gmem_hammer_start(g, hammers, nr, mode, guest_hammer);
}

/* The thread may be stuck in KVM, or the guest may make no progress. */
static void give_up(struct gmem_hammer *h)
{
	ignore_signal(SIGUSR1);
	WRITE_ONCE(h->vcpu->run->immediate_exit, 1);
	pthread_kill(h->thread, SIGUSR1);
	kvm_pthread_join(h->thread, NULL);

	vcpu_dump(stderr, h->vcpu, 2);
	TEST_FAIL("vCPU %u did not stop in %d seconds, errno: %d",
		  h->vcpu->id, HAMMER_STOP_SECONDS, h->err);
}

void gmem_hammer_join(struct gmem_hammer *hammers, int nr)
{
	struct timespec deadline;
	int i;

	clock_gettime(CLOCK_REALTIME, &deadline);
	deadline.tv_sec += HAMMER_STOP_SECONDS;

	for (i = 0; i < nr; i++)
		if (pthread_timedjoin_np(hammers[i].thread, NULL, &deadline))
			give_up(&hammers[i]);
}

void gmem_hammer_stop(struct gmem_vm *g, struct gmem_hammer *hammers, int nr)
{
	WRITE_ONCE(hammering.stop, true);
	sync_global_to_guest(g->vm, hammering);
	gmem_hammer_join(hammers, nr);
}

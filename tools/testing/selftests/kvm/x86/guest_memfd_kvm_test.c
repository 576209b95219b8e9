// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test conversion of guest_memfd memory that other parts of KVM use or wait
 * for: vCPUs that fault elsewhere in the file, what KVM itself writes to guest
 * memory, and other VMs; and that VMs which are dead don't convert.
 */
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <asm/kvm_para.h>
#include <asm/pvclock-abi.h>
#include <linux/falloc.h>

#include "gmem_util.h"
#include "gmem_vm.h"
#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"
#include "kselftest_harness.h"

#define PRIVATE		KVM_MEMORY_ATTRIBUTE_PRIVATE
/* The guest faults on the latter in a row while the former are converted. */
#define NR_CONVERTED	16
#define NR_FAULTS	256
#define NR_PAGES	(NR_CONVERTED + NR_FAULTS)
#define DATA_SIZE	(NR_PAGES * PAGE_SIZE)

FIXTURE(kvm) {
	struct gmem_vm g;
};

FIXTURE_SETUP(kvm)
{
	const char *reason = gmem_vm_unsupported();

	if (reason)
		SKIP(exit(KSFT_SKIP), "%s", reason);

	gmem_vm_create(&self->g, NR_PAGES);
}

FIXTURE_TEARDOWN(kvm)
{
	gmem_vm_free(&self->g);
}

static void guest_touch(void)
{
	int i;

	for (;;) {
		for (i = NR_CONVERTED; i < NR_PAGES; i++)
			WRITE_ONCE(*(u64 *)(GMEM_VM_GPA + i * PAGE_SIZE), i);
		GUEST_SYNC(0);
	}
}

static struct {
	struct gmem_vm *g;
	bool stop;
	u64 nr_conversions;
} converter;

static void *flip_pages(void *arg)
{
	pin_self_to_cpu(nth_cpu(1));
	for (; !READ_ONCE(converter.stop); converter.nr_conversions += 2) {
		gmem_set_private(converter.g->fd, 0, NR_CONVERTED * PAGE_SIZE);
		gmem_set_shared(converter.g->fd, 0, NR_CONVERTED * PAGE_SIZE);
	}
	return NULL;
}

/* Return how many tries each fault takes, in percent. */
static u64 count_tries(struct __test_metadata *_metadata, struct gmem_vm *g,
		       struct kvm_vcpu *vcpu)
{
	u64 taken = vcpu_get_stat(vcpu, pf_taken), fixed = vcpu_get_stat(vcpu, pf_fixed);
	struct timespec start = time_now();
	int round;

	for (round = 0; elapsed_ms(start) < 5000; round++) {
		kvm_fallocate(g->fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE,
			      NR_CONVERTED * PAGE_SIZE, NR_FAULTS * PAGE_SIZE);
		vcpu_run(vcpu);
	}
	taken = vcpu_get_stat(vcpu, pf_taken) - taken;
	fixed = vcpu_get_stat(vcpu, pf_fixed) - fixed;
	TH_LOG("%lu faults taken, %lu fixed, in %d rounds", taken, fixed, round);
	ASSERT_LE(round * NR_FAULTS, fixed);
	return 100 * taken / fixed;
}

/*
 * A fault that waits for the conversion of another page must not start over
 * when that is done, or else conversions back to back starve all faults.
 */
TEST_F_TIMEOUT(kvm, fault_tries, 120)
{
	struct gmem_vm *g = &self->g;
	struct kvm_vcpu *vcpu;
	int i, tries = INT_MAX;
	pthread_t thread;

	if (nr_cpus() < 2)
		SKIP(return, "only one CPU");

	pin_self_to_cpu(nth_cpu(0));
	kvm_fallocate(g->fd, FALLOC_FL_KEEP_SIZE, 0, NR_CONVERTED * PAGE_SIZE);
	vcpu = vm_vcpu_add(g->vm, 1, guest_touch);
	vcpu_run(vcpu);
	ASSERT_GE(110, count_tries(_metadata, g, vcpu));

	converter.g = g;
	kvm_pthread_create(&thread, NULL, flip_pages, NULL);
	/* Other load makes tasks lose a race now and then. */
	for (i = 0; i < 3 && tries > 110; i++)
		tries = count_tries(_metadata, g, vcpu);
	EXPECT_GE(110, tries);
	WRITE_ONCE(converter.stop, true);
	kvm_pthread_join(thread, NULL);
	TH_LOG("%lu conversions meanwhile", converter.nr_conversions);
	ASSERT_LT(100, converter.nr_conversions);
}

static void guest_exit(void)
{
	for (;;)
		GUEST_SYNC(0);
}

/* Have KVM write what it writes to the guest's memory. */
static void run_and_set_clock(struct kvm_vcpu *vcpu)
{
	struct kvm_clock_data clock = {};

	vm_ioctl(vcpu->vm, KVM_GET_CLOCK, &clock);
	clock.flags = 0;
	vm_ioctl(vcpu->vm, KVM_SET_CLOCK, &clock);
	vcpu_run(vcpu);
}

static struct kvm_vcpu *clock_vcpu;
static bool stop_clock;

static void *run_until_stopped(void *arg)
{
	u64 *nr_runs = arg;

	for (; !READ_ONCE(stop_clock); (*nr_runs)++)
		run_and_set_clock(clock_vcpu);
	return NULL;
}

/*
 * KVM changes the version with each update of the structure, which is at the
 * start of page 3.
 */
static void convert_kvms_page(struct __test_metadata *_metadata, struct gmem_vm *g,
			      u32 msr, size_t version_offset)
{
	u32 *version = (void *)gmem_vm_hva(g, 3) + version_offset;
	struct kvm_vcpu *vcpu = vm_vcpu_add(g->vm, 1, guest_exit);
	int error_page, round, r;
	u64 value, nr_runs = 0;
	pthread_t thread;
	u32 seen;

	vcpu_set_msr(vcpu, msr, (GMEM_VM_GPA + 3 * PAGE_SIZE) | KVM_MSR_ENABLED);

	/* The page is out of KVM's reach while it is private. */
	for (round = 0; round < 10; round++) {
		seen = READ_ONCE(*version);
		run_and_set_clock(vcpu);
		ASSERT_NE(seen, READ_ONCE(*version));
		seen = READ_ONCE(*version);

		ASSERT_EQ(0, gmem_vm_convert(g, 2, 4, PRIVATE, &error_page));
		run_and_set_clock(vcpu);
		run_and_set_clock(vcpu);
		gmem_set_shared(g->fd, 2 * PAGE_SIZE, 4 * PAGE_SIZE);
		ASSERT_EQ(seen, READ_ONCE(*version));
	}

	/* And never busy. */
	catch_sigbus();
	clock_vcpu = vcpu;
	kvm_pthread_create(&thread, NULL, run_until_stopped, &nr_runs);
	for (round = 0; round < 500; round++) {
		r = gmem_vm_convert(g, 2, 4, PRIVATE, &error_page);
		ASSERT_EQ(0, r);
		ASSERT_FALSE(try_read(gmem_vm_hva(g, 3), &value));
		gmem_set_shared(g->fd, 2 * PAGE_SIZE, 4 * PAGE_SIZE);
	}
	WRITE_ONCE(stop_clock, true);
	kvm_pthread_join(thread, NULL);
	TH_LOG("%lu runs of the vCPU during %d conversions", nr_runs, round);
}

TEST_F_TIMEOUT(kvm, kvmclock, 120)
{
	convert_kvms_page(_metadata, &self->g, MSR_KVM_SYSTEM_TIME_NEW,
			  offsetof(struct pvclock_vcpu_time_info, version));
}

TEST_F_TIMEOUT(kvm, steal_time, 120)
{
	if (!kvm_cpu_has(X86_FEATURE_KVM_STEAL_TIME))
		SKIP(return, "no KVM_FEATURE_STEAL_TIME");

	convert_kvms_page(_metadata, &self->g, MSR_KVM_STEAL_TIME,
			  offsetof(struct kvm_steal_time, version));
}

/* An ordinary VM whose memslot is the host's mapping of another VM's memory. */
static void guest_count(void)
{
	u64 *counter = (u64 *)GMEM_VM_GPA;

	for (;;)
		WRITE_ONCE(*counter, READ_ONCE(*counter) + 1);
}

static struct {
	struct kvm_vcpu *vcpu;
	u64 nr_faults;
	bool stop;
} other;

static void *run_other_vm(void *arg)
{
	while (!READ_ONCE(other.stop)) {
		int r = __vcpu_run(other.vcpu) ? errno : 0;

		TEST_ASSERT(r == EFAULT || r == EINTR,
			    "KVM_RUN: errno %d, exit reason %u", r,
			    other.vcpu->run->exit_reason);
		WRITE_ONCE(other.nr_faults, other.nr_faults + (r == EFAULT));
		usleep(50);
	}
	return NULL;
}

static bool becomes_different(u64 *word, u64 old)
{
	struct timespec start = time_now();

	while (READ_ONCE(*word) == old && elapsed_ms(start) < 5000)
		usleep(100);
	return READ_ONCE(*word) != old;
}

TEST_F_TIMEOUT(kvm, other_vm, 120)
{
	struct gmem_vm *g = &self->g;
	u64 nr_faults, value;
	struct kvm_vm *vm;
	pthread_t thread;
	int round;

	*gmem_vm_hva(g, 0) = 0;
	vm = vm_create_with_one_vcpu(&other.vcpu, guest_count);
	vm_set_user_memory_region(vm, GMEM_VM_SLOT, 0, GMEM_VM_GPA, PAGE_SIZE,
				  g->mem);
	virt_map(vm, GMEM_VM_GPA, GMEM_VM_GPA, 1);
	ignore_signal(SIGUSR1, 0);
	kvm_pthread_create(&thread, NULL, run_other_vm, NULL);

	for (round = 0; round < 100; round++) {
		value = READ_ONCE(*gmem_vm_hva(g, 0));
		ASSERT_TRUE(becomes_different(gmem_vm_hva(g, 0), value));

		nr_faults = READ_ONCE(other.nr_faults);
		gmem_set_private(g->fd, 0, PAGE_SIZE);
		value = gmem_vm_read(g, 0);
		ASSERT_TRUE(becomes_different(&other.nr_faults, nr_faults));
		ASSERT_EQ(value, gmem_vm_read(g, 0));
		gmem_set_shared(g->fd, 0, PAGE_SIZE);
	}

	WRITE_ONCE(other.stop, true);
	WRITE_ONCE(other.vcpu->run->immediate_exit, 1);
	pthread_kill(thread, SIGUSR1);
	kvm_pthread_join(thread, NULL);
	kvm_vm_free(vm);
}

/* A VM dies if it is to enter SMM and there is no memory to save its state to. */
TEST_F(kvm, dead_vm)
{
	struct gmem_vm *g = &self->g;
	int error_page;

	if (!kvm_has_cap(KVM_CAP_X86_SMM))
		SKIP(return, "no KVM_CAP_X86_SMM");

	*gmem_vm_hva(g, 0) = 1;
	gmem_set_private(g->fd, 5 * PAGE_SIZE, PAGE_SIZE);

	vcpu_set_msr(g->vcpu, MSR_IA32_SMBASE, GMEM_VM_GPA - (1 << 20));
	vcpu_ioctl(g->vcpu, KVM_SMI, NULL);
	ASSERT_EQ(-1, __vcpu_run(g->vcpu));
	ASSERT_EQ(EIO, errno);

	EXPECT_EQ(EIO, gmem_vm_convert(g, 0, 8, PRIVATE, &error_page));
	EXPECT_EQ(-1, error_page);
	EXPECT_EQ(EIO, gmem_vm_convert(g, 5, 1, 0, &error_page));
	EXPECT_EQ(-1, error_page);
	EXPECT_EQ(PAGE_SIZE, gmem_read_fdinfo(getpid(), g->fd).private);
	EXPECT_TRUE(gmem_vm_host_can_access(g, 0));
	EXPECT_FALSE(gmem_vm_host_can_access(g, 5));
}

TEST_HARNESS_MAIN

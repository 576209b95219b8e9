// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test in-place conversion of guest_memfd memory between shared and private,
 * with KVM_SET_MEMORY_ATTRIBUTES2, on a live guest.
 */
#include <asm/kvm_para.h>
#include <asm/pvclock-abi.h>

#include "gmem_test.h"

#define NR_PAGES	16
#define NR_FAULTS	256
/* So many that nearly every conversion of them makes a fault wait. */
#define NR_FLIPS	2048

GMEM_FIXTURE(conversion, NR_PAGES)

TEST_F(conversion, contents)
{
	u64 pfn = hwpoison_pfn_unsupported() ? 0 : gmem_host_pfn(g, 3);

	*gmem_hva(g, 3) = 0x1111;
	ASSERT_EQ(0x1111, gmem_read(g, 3));

	gmem_make_private(g, 3, 1);
	ASSERT_EQ(0x1111, gmem_read(g, 3));
	ASSERT_EQ(0x2222, gmem_write(g, 3, 0x2222));

	gmem_make_shared(g, 3, 1);
	ASSERT_EQ(0x2222, *gmem_hva(g, 3));
	if (pfn)
		ASSERT_EQ(pfn, gmem_host_pfn(g, 3));
	*gmem_hva(g, 3) = 0x3333;
	ASSERT_EQ(0x3333, gmem_read(g, 3));
}

TEST_F(conversion, host_access)
{
	int i;

	memset(g->mem, 0xaa, DATA_SIZE);
	gmem_make_private(g, 4, 2);
	ASSERT_TRUE(gmem_host_can_access_all_but(g, 4, 2));
	TEST_EXPECT_SIGBUS((void)READ_ONCE(*gmem_hva(g, 4)));
	TEST_EXPECT_SIGBUS(WRITE_ONCE(*gmem_hva(g, 5), 0));

	gmem_make_shared(g, 0, NR_PAGES);
	for (i = 0; i < NR_PAGES; i++)
		ASSERT_EQ(0xaaaaaaaaaaaaaaaaul, *gmem_hva(g, i));
}

/* In either state, memory that was never touched or was punched out is zero. */
TEST_F(conversion, new_memory)
{
	int i;

	gmem_make_private(g, 0, 1);
	ASSERT_EQ(0, gmem_read(g, 0));
	ASSERT_EQ(0, gmem_read(g, 1));
	gmem_write(g, 0, 0x1111);
	*gmem_hva(g, 1) = 0x2222;
	ASSERT_EQ(0x2222, gmem_read(g, 1));

	/* Neither punching a hole nor allocating memory changes an attribute. */
	gmem_punch_hole(g, 0, NR_PAGES);
	for (i = 0; i < 2; i++) {
		ASSERT_FALSE(gmem_host_can_access(g, 0, 1));
		ASSERT_EQ(0, gmem_read(g, 0));
		ASSERT_EQ(0, *gmem_hva(g, 1));
		ASSERT_EQ(0, gmem_read(g, 1));
		gmem_allocate(g, 0, NR_PAGES);
	}

	gmem_punch_hole(g, 0, NR_PAGES);
	gmem_make_shared(g, 0, 1);
	ASSERT_EQ(0, *gmem_hva(g, 0));
}

TEST_F(conversion, pin_of_private_page)
{
	SKIP_IF(gmem_pin_unsupported());

	*gmem_hva(g, 0) = 0x1111;
	gmem_make_private(g, 0, 1);
	ASSERT_EQ(-EFAULT, __gmem_pin(g, 0, 1));

	gmem_make_shared(g, 0, 1);
	kvm_close(gmem_pin(g, 0, 1));
}

/* A conversion zaps and flushes once, for any number of pages, ranges and slots. */
TEST_F(conversion, one_zap_and_flush)
{
	u64 attributes, flushes, fewest[2] = { -1, -1 };
	int i, page, nr_changed;

	gmem_set_slot(g, GMEM_SLOT, 0, 0, 0);
	gmem_set_slot(g, GMEM_SLOT, 0, NR_PAGES / 2, 0);
	gmem_set_slot(g, GMEM_SLOT + 1, NR_PAGES / 2, NR_PAGES / 2, NR_PAGES / 2);

	for (i = 0; i < 6; i++) {
		attributes = i & 1 ? SHARED : PRIVATE;
		nr_changed = NR_PAGES;
		for (page = 1; page < NR_PAGES; page += 3) {
			ASSERT_CONVERTED(page, 1, attributes);
			nr_changed--;
		}
		gmem_count_faults(g, 0, NR_PAGES);

		flushes = vm_get_stat(g->vm, remote_tlb_flush_requests);
		ASSERT_CONVERTED(0, NR_PAGES, attributes);
		flushes = vm_get_stat(g->vm, remote_tlb_flush_requests) - flushes;
		/* Memory management may flush for other memory of the VM. */
		fewest[i & 1] = min(fewest[i & 1], flushes);
		ASSERT_LE(nr_changed, gmem_count_faults(g, 0, NR_PAGES));
	}
	ASSERT_EQ(1, fewest[0]);
	ASSERT_EQ(1, fewest[1]);
}

/* Unchanged pages at either end of the range stay mapped in the guest. */
TEST_F(conversion, unchanged_pages)
{
	const int first = 2, nr = 3, end = first + nr;
	u64 attributes;
	int i;

	for (i = 0; i < 2; i++) {
		attributes = i ? SHARED : PRIVATE;
		ASSERT_EQ(0, gmem_convert(g, 0, NR_PAGES, attributes));
		ASSERT_EQ(0, gmem_convert(g, first, nr, attributes ^ PRIVATE));
		gmem_count_faults(g, 0, NR_PAGES);

		ASSERT_EQ(0, gmem_convert(g, 0, NR_PAGES, attributes));
		ASSERT_EQ(0, gmem_count_faults(g, 0, first));
		ASSERT_EQ(0, gmem_count_faults(g, end, NR_PAGES - end));
		ASSERT_LE(nr, gmem_count_faults(g, first, nr));
	}
}

/*
 * Write continually, so that this CPU caches a translation that the conversion
 * has to flush.
 */
static bool write_next(u64 n)
{
	return try_write(gmem_hva(g, 3), n);
}

/* When the call returns, no CPU can write to the page anymore. */
TEST_F(conversion, racing_host_writes)
{
	struct worker writer = { "write", write_next };
	u64 value, last;
	int round, i;

	catch_sigbus();
	workers_start(&writer, 1);
	for (round = 0; round < 100; round++) {
		last = READ_ONCE(writer.nr_done);
		for (i = 0; i < 10000 && READ_ONCE(writer.nr_done) < last + 10; i++)
			usleep(100);
		ASSERT_LT(last, READ_ONCE(writer.nr_done));

		gmem_make_private(g, 2, 3);
		value = gmem_read(g, 3);
		usleep(1000);
		ASSERT_EQ(value, gmem_read(g, 3));
		gmem_make_shared(g, 3, 1);
	}
	workers_stop(&writer, 1);
}

TEST_F(conversion, pre_fault)
{
	struct kvm_pre_fault_memory range;
	u64 faults;
	int i, page;

	if (!vm_check_cap(g->vm, KVM_CAP_PRE_FAULT_MEMORY))
		SKIP(return, "no KVM_CAP_PRE_FAULT_MEMORY");

	for (page = 0; page < NR_PAGES; page++)
		*gmem_hva(g, page) = 0x100 + page;
	/* Fault in page tables and code, which must not be counted below. */
	gmem_read(g, 0);

	for (i = 0; i < 3; i++) {
		gmem_make_private(g, 4 + i, 6);
		range = (struct kvm_pre_fault_memory) {
			.gpa = GMEM_GPA,
			.size = DATA_SIZE,
		};
		while (range.size)
			vcpu_ioctl(g->vcpu, KVM_PRE_FAULT_MEMORY, &range);

		faults = vcpu_get_stat(g->vcpu, pf_taken);
		for (page = 0; page < NR_PAGES; page++)
			ASSERT_EQ(0x100 + page, gmem_read(g, page));
		ASSERT_EQ(faults, vcpu_get_stat(g->vcpu, pf_taken));
		gmem_make_shared(g, 5, 3);
	}
}

/* The guest faults on pages after those that are converted. */
GMEM_FIXTURE(kvm, NR_FLIPS + NR_FAULTS)

static void guest_touch(void)
{
	int i;

	for (;;) {
		for (i = NR_FLIPS; i < NR_FLIPS + NR_FAULTS; i++)
			WRITE_ONCE(*(u64 *)(GMEM_GPA + i * PAGE_SIZE), i);
		GUEST_SYNC(0);
	}
}

static bool flip_pages(u64 n)
{
	pin_self_to_cpu(nth_cpu(1));
	gmem_make_private(g, 0, NR_FLIPS);
	gmem_make_shared(g, 0, NR_FLIPS);
	return true;
}

/*
 * Have the guest touch new pages.  Return how often a fault started over, and
 * store the number of faults in @nr_faults.
 */
static u64 count_retries(struct kvm_vcpu *vcpu, u64 *nr_faults)
{
	u64 taken = vcpu_get_stat(vcpu, pf_taken);
	u64 fixed = vcpu_get_stat(vcpu, pf_fixed);
	struct timespec start = time_now();

	while (elapsed_ms(start) < 6000) {
		gmem_punch_hole(g, NR_FLIPS, NR_FAULTS);
		vcpu_run(vcpu);
	}
	taken = vcpu_get_stat(vcpu, pf_taken) - taken;
	fixed = vcpu_get_stat(vcpu, pf_fixed) - fixed;
	TEST_ASSERT(fixed >= NR_FAULTS, "Only %lu faults", fixed);
	*nr_faults = fixed;
	return taken - fixed;
}

/*
 * A fault that waits for the conversion of another page must not start over
 * when that is done, or back-to-back conversions would starve all faults.
 */
TEST_F_TIMEOUT(kvm, fault_retries, 120)
{
	struct worker flipper = { "convert", flip_pages };
	struct kvm_vcpu *vcpu;
	u64 retries, nr_faults;

	SKIP_IF(smp_unsupported());

	pin_self_to_cpu(nth_cpu(0));
	gmem_allocate(g, 0, NR_FLIPS);
	vcpu = vm_vcpu_add(g->vm, 1, guest_touch);
	vcpu_run(vcpu);

	workers_start(&flipper, 1);
	retries = count_retries(vcpu, &nr_faults);
	workers_stop(&flipper, 1);
	TH_LOG("%lu retries of %lu faults", retries, nr_faults);

	EXPECT_GE(nr_faults / 10, retries);
	/* Each conversion makes a fault wait, and there are two in a round. */
	EXPECT_GT(flipper.nr_done, retries);
	ASSERT_LT(100, flipper.nr_done);
}

static void guest_exit(void)
{
	for (;;)
		GUEST_SYNC(0);
}

static struct kvm_vcpu *clock_vcpu;

/* Make KVM update its structures in the guest's memory. */
static bool run_and_set_clock(u64 n)
{
	struct kvm_clock_data clock = {};

	vm_ioctl(clock_vcpu->vm, KVM_GET_CLOCK, &clock);
	clock.flags = 0;
	vm_ioctl(clock_vcpu->vm, KVM_SET_CLOCK, &clock);
	vcpu_run(clock_vcpu);
	return true;
}

/*
 * KVM changes the version with each update of the structure, which is at the
 * start of page 3.
 */
static void convert_kvms_page(struct __test_metadata *_metadata, u32 msr,
			      size_t version_offset)
{
	u32 *version = (void *)gmem_hva(g, 3) + version_offset, seen;
	struct worker clock = { "run", run_and_set_clock };
	int round;
	u64 value;

	clock_vcpu = vm_vcpu_add(g->vm, 1, guest_exit);
	vcpu_set_msr(clock_vcpu, msr, (GMEM_GPA + 3 * PAGE_SIZE) | KVM_MSR_ENABLED);

	/* KVM can't access the page while it is private. */
	for (round = 0; round < 10; round++) {
		seen = READ_ONCE(*version);
		run_and_set_clock(0);
		ASSERT_NE(seen, READ_ONCE(*version));
		seen = READ_ONCE(*version);

		ASSERT_CONVERTED(2, 4, PRIVATE);
		run_and_set_clock(0);
		run_and_set_clock(0);
		gmem_make_shared(g, 2, 4);
		ASSERT_EQ(seen, READ_ONCE(*version));
	}

	/* KVM's accesses never make the page busy. */
	catch_sigbus();
	workers_start(&clock, 1);
	for (round = 0; round < 500; round++) {
		ASSERT_CONVERTED(2, 4, PRIVATE);
		ASSERT_FALSE(try_read(gmem_hva(g, 3), &value));
		gmem_make_shared(g, 2, 4);
	}
	workers_stop(&clock, 1);
}

TEST_F_TIMEOUT(kvm, kvmclock, 120)
{
	convert_kvms_page(_metadata, MSR_KVM_SYSTEM_TIME_NEW,
			  offsetof(struct pvclock_vcpu_time_info, version));
}

TEST_F_TIMEOUT(kvm, steal_time, 120)
{
	if (!kvm_cpu_has(X86_FEATURE_KVM_STEAL_TIME))
		SKIP(return, "no KVM_FEATURE_STEAL_TIME");

	convert_kvms_page(_metadata, MSR_KVM_STEAL_TIME,
			  offsetof(struct kvm_steal_time, version));
}

/* An ordinary VM whose memslot is the host's mapping of another VM's memory. */
static struct kvm_vcpu *other_vcpu;

static void guest_count(void)
{
	u64 *counter = (u64 *)GMEM_GPA;

	for (;;)
		WRITE_ONCE(*counter, READ_ONCE(*counter) + 1);
}

static bool run_other_vm(u64 n)
{
	int r = __vcpu_run(other_vcpu) ? errno : 0;

	TEST_ASSERT(r == EFAULT || r == EINTR, "KVM_RUN: errno %d, exit reason %u", r,
		    other_vcpu->run->exit_reason);
	usleep(50);
	return r == EINTR;
}

TEST_F_TIMEOUT(kvm, other_vm, 120)
{
	struct worker other = { "run without a fault", run_other_vm };
	u64 nr_faults, value;
	struct kvm_vm *vm;
	int round;

	*gmem_hva(g, 0) = 0;
	vm = vm_create_with_one_vcpu(&other_vcpu, guest_count);
	vm_set_user_memory_region(vm, GMEM_SLOT, 0, GMEM_GPA, PAGE_SIZE, g->mem);
	virt_map(vm, GMEM_GPA, GMEM_GPA, 1);
	ignore_signal(SIGUSR1, 0);
	workers_start(&other, 1);

	for (round = 0; round < 100; round++) {
		value = READ_ONCE(*gmem_hva(g, 0));
		ASSERT_TRUE(wait_for_change(gmem_hva(g, 0), value));

		nr_faults = READ_ONCE(other.nr_failed);
		gmem_make_private(g, 0, 1);
		value = gmem_read(g, 0);
		ASSERT_TRUE(wait_for_change(&other.nr_failed, nr_faults));
		ASSERT_EQ(value, gmem_read(g, 0));
		gmem_make_shared(g, 0, 1);
	}

	WRITE_ONCE(other.stop, true);
	WRITE_ONCE(other_vcpu->run->immediate_exit, 1);
	pthread_kill(other.thread, SIGUSR1);
	workers_stop(&other, 1);
	kvm_vm_free(vm);
}

GMEM_TEST_MAIN(gmem_vm_unsupported())

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
	u64 pfn = hwpoison_pfn_unsupported() ? 0 : gmem_host_pfn(g, 4);
	struct kvm_pre_fault_memory range = {
		.gpa = GMEM_GPA,
		.size = DATA_SIZE,
	};
	int i;

	for (i = 0; i < NR_PAGES; i++)
		*gmem_hva(g, i) = gmem_pattern(i);
	gmem_check(g, 0, NR_PAGES);

	gmem_make_private(g, 4, 2);
	gmem_check(g, 0, NR_PAGES);
	ASSERT_EQ(0x1111, gmem_write(g, 4, 0x1111));

	/* The host can use all pages but the private ones. */
	ASSERT_TRUE(gmem_host_can_access_all_but(g, 4, 2));
	ASSERT_FALSE(gmem_splice(g, 4, 1, 0));
	TEST_EXPECT_SIGBUS((void)READ_ONCE(*gmem_hva(g, 4)));
	TEST_EXPECT_SIGBUS(WRITE_ONCE(*gmem_hva(g, 5), 0));

	gmem_make_shared(g, 0, NR_PAGES);
	ASSERT_TRUE(gmem_splice(g, 4, 1, 0));
	ASSERT_EQ(0x1111, *gmem_hva(g, 4));
	if (pfn)
		ASSERT_EQ(pfn, gmem_host_pfn(g, 4));
	*gmem_hva(g, 4) = gmem_pattern(4);
	gmem_check(g, 0, NR_PAGES);

	/* Pages that are pre-faulted, shared or private, don't fault again. */
	gmem_make_private(g, 0, NR_PAGES);
	gmem_make_shared(g, 4, 6);
	while (range.size)
		vcpu_ioctl(g->vcpu, KVM_PRE_FAULT_MEMORY, &range);
	ASSERT_EQ(0, gmem_count_faults(g, 0, NR_PAGES));
	gmem_check(g, 0, NR_PAGES);
}

/*
 * In either state, memory that was never touched or was punched out is zero.
 * Neither punching a hole nor allocating memory changes an attribute.
 */
TEST_F(conversion, new_memory)
{
	int i;

	gmem_make_private(g, 0, 1);
	for (i = 0; i < 3; i++) {
		ASSERT_FALSE(gmem_host_can_access(g, 0, 1));
		ASSERT_EQ(0, gmem_read(g, 0));
		ASSERT_EQ(0, *gmem_hva(g, 1));
		ASSERT_EQ(0, gmem_read(g, 1));
		gmem_write(g, 0, 0x1111);
		*gmem_hva(g, 1) = 0x2222;

		gmem_punch_hole(g, 0, NR_PAGES);
		if (i == 1)
			gmem_allocate(g, 0, NR_PAGES);
	}
	gmem_make_shared(g, 0, 1);
	ASSERT_EQ(0, *gmem_hva(g, 0));
}

/*
 * A conversion zaps and flushes once, for any number of pages, ranges and slots.
 * Unchanged pages at either end of the range stay mapped in the guest.
 */
TEST_F(conversion, one_zap_and_flush)
{
	const int first = 2, nr = NR_PAGES - 5, end = first + nr;
	u64 attributes, count, flushes[2] = { -1, -1 }, faults[2] = { -1, -1 };
	int i;

	gmem_set_slot(g, GMEM_SLOT, 0, 0, 0);
	gmem_set_slot(g, GMEM_SLOT, 0, NR_PAGES / 2, 0);
	gmem_set_slot(g, GMEM_SLOT + 1, NR_PAGES / 2, NR_PAGES / 2, NR_PAGES / 2);

	for (i = 0; i < 6; i++) {
		attributes = i & 1 ? SHARED : PRIVATE;
		gmem_make_attributes(g, 0, NR_PAGES, attributes);
		gmem_make_attributes(g, first, nr, attributes ^ PRIVATE);
		gmem_make_attributes(g, first + 1, 1, attributes);
		gmem_count_faults(g, 0, NR_PAGES);

		count = vm_get_stat(g->vm, remote_tlb_flush_requests);
		ASSERT_CONVERTED(0, NR_PAGES, attributes);
		count = vm_get_stat(g->vm, remote_tlb_flush_requests) - count;
		/* Memory management may flush and zap other memory of the VM. */
		flushes[i & 1] = min(flushes[i & 1], count);

		count = gmem_count_faults(g, 0, first) +
			gmem_count_faults(g, end, NR_PAGES - end);
		faults[i & 1] = min(faults[i & 1], count);
		ASSERT_LE(nr - 1, gmem_count_faults(g, first, nr));
	}
	for (i = 0; i < 2; i++) {
		ASSERT_EQ(1, flushes[i]);
		ASSERT_EQ(0, faults[i]);
	}
}

/*
 * Have a worker write to the first page, and convert the page.  Once conversion
 * to private has returned, the worker can't write to the page anymore.
 */
static void convert_while_written(struct __test_metadata *_metadata,
				  struct worker *w)
{
	u64 value, nr_failed;
	int round;

	workers_start(w, 1);
	for (round = 0; round < 100; round++) {
		value = READ_ONCE(*gmem_hva(g, 0));
		ASSERT_TRUE(wait_for_change(gmem_hva(g, 0), value));

		nr_failed = READ_ONCE(w->nr_failed);
		gmem_make_private(g, 0, 1);
		value = gmem_read(g, 0);
		ASSERT_TRUE(wait_for_change(&w->nr_failed, nr_failed));
		ASSERT_EQ(value, gmem_read(g, 0));
		gmem_make_shared(g, 0, 1);
	}
	workers_stop(w, 1);
}

/* Write continually, so that this CPU caches a translation. */
static bool write_next(u64 n)
{
	return try_write(gmem_hva(g, 0), n);
}

TEST_F(conversion, racing_host_writes)
{
	struct worker writer = { "write", write_next };

	catch_sigbus();
	convert_while_written(_metadata, &writer);
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
 * A fault that waits for the conversion of another page must not start over
 * when that is done, or back-to-back conversions would starve all faults.
 */
TEST_F_TIMEOUT(kvm, fault_retries, 120)
{
	struct worker flipper = { "convert", flip_pages };
	struct timespec start;
	struct kvm_vcpu *vcpu;
	u64 taken, fixed;

	SKIP_IF(smp_unsupported());

	pin_self_to_cpu(nth_cpu(0));
	gmem_allocate(g, 0, NR_FLIPS);
	vcpu = vm_vcpu_add(g->vm, 1, guest_touch);
	vcpu_run(vcpu);

	workers_start(&flipper, 1);
	taken = vcpu_get_stat(vcpu, pf_taken);
	fixed = vcpu_get_stat(vcpu, pf_fixed);
	start = time_now();
	while (elapsed_ms(start) < 6000) {
		gmem_punch_hole(g, NR_FLIPS, NR_FAULTS);
		vcpu_run(vcpu);
	}
	fixed = vcpu_get_stat(vcpu, pf_fixed) - fixed;
	taken = vcpu_get_stat(vcpu, pf_taken) - taken;
	workers_stop(&flipper, 1);

	ASSERT_LE(NR_FAULTS, fixed);
	EXPECT_GE(fixed / 10, taken - fixed);
	/* Both conversions of a round make a fault wait.  Expect fewer retries than rounds. */
	EXPECT_GT(flipper.nr_done, taken - fixed);
	ASSERT_LT(100, flipper.nr_done);
}

static struct kvm_vcpu *clock_vcpu;

/* Make KVM update its structures in the guest's memory. */
static bool run_and_set_clock(u64 n)
{
	struct kvm_clock_data clock = {};

	vm_ioctl(clock_vcpu->vm, KVM_SET_CLOCK, &clock);
	vcpu_run(clock_vcpu);
	return true;
}

/*
 * The structure for @msr is at the start of page 3.  KVM changes its version
 * with each update.
 */
static void convert_kvms_page(struct __test_metadata *_metadata, u32 msr,
			      size_t version_offset)
{
	u32 *version = (void *)gmem_hva(g, 3) + version_offset, seen;
	struct worker clock = { "run", run_and_set_clock };
	int round;

	clock_vcpu = vm_vcpu_add(g->vm, 1, guest_touch);
	vcpu_set_msr(clock_vcpu, msr, (GMEM_GPA + 3 * PAGE_SIZE) | KVM_MSR_ENABLED);

	/* KVM can't access the page while it is private. */
	for (round = 0; round < 2; round++) {
		seen = READ_ONCE(*version);
		run_and_set_clock(0);
		ASSERT_NE(seen, READ_ONCE(*version));

		seen = READ_ONCE(*version);
		ASSERT_CONVERTED(2, 4, PRIVATE);
		run_and_set_clock(0);
		gmem_make_shared(g, 2, 4);
		ASSERT_EQ(seen, READ_ONCE(*version));
	}

	/* KVM's accesses never make the page busy. */
	workers_start(&clock, 1);
	for (round = 0; round < 500; round++) {
		ASSERT_CONVERTED(2, 4, PRIVATE);
		gmem_make_shared(g, 2, 4);
	}
	workers_stop(&clock, 1);
	ASSERT_LT(0, clock.nr_done);
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
	u64 *counter = (u64 *)GMEM_GPA, i;

	for (i = 1;; i++) {
		WRITE_ONCE(*counter, i);
		/* Let the worker stop, but hardly ever interrupt the writes. */
		if (!(i % 1000000))
			GUEST_SYNC(0);
	}
}

static bool run_other_vm(u64 n)
{
	int r = __vcpu_run(other_vcpu);

	TEST_ASSERT(!r || errno == EFAULT, KVM_IOCTL_ERROR(KVM_RUN, r));
	usleep(50);
	return !r;
}

TEST_F_TIMEOUT(kvm, other_vm, 120)
{
	struct worker other = { "run without a fault", run_other_vm };
	struct kvm_vm *vm = vm_create_with_one_vcpu(&other_vcpu, guest_count);

	vm_set_user_memory_region(vm, GMEM_SLOT, 0, GMEM_GPA, PAGE_SIZE, g->mem);
	virt_map(vm, GMEM_GPA, GMEM_GPA, 1);
	convert_while_written(_metadata, &other);
	kvm_vm_free(vm);
}

GMEM_TEST_MAIN(gmem_vm_unsupported())

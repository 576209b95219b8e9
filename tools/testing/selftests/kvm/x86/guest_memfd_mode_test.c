// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test the current mode of tracking private memory, i.e. with guest_memfd's
 * in-place conversion (kvm.gmem_in_place_conversion) on or off, for VMs with
 * and without private memory.
 */
#include <sys/stat.h>

#include "gmem_test.h"

#define PARAM_FILE	"/sys/module/kvm/parameters/gmem_in_place_conversion"
#define NR_PAGES	16

static const unsigned long vm_types[] = {
	KVM_X86_DEFAULT_VM,
	KVM_X86_SW_PROTECTED_VM,
};

FIXTURE(mode) {
	bool choice;		/* kvm.gmem_in_place_conversion exists */
	bool in_place;
	bool sw_protected;
};

FIXTURE_SETUP(mode)
{
	struct stat st;

	/* Without the parameter, there can't be memory attributes of VMs. */
	self->choice = !stat(PARAM_FILE, &st);
	if (self->choice) {
		/* Any user can read the parameter, and none can change it. */
		ASSERT_EQ(0444, st.st_mode & 07777);
		self->in_place = get_kvm_param_bool("gmem_in_place_conversion");
	} else {
		ASSERT_EQ(0, kvm_check_cap(KVM_CAP_MEMORY_ATTRIBUTES));
		self->in_place = kvm_check_cap(KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES);
	}
	self->sw_protected = kvm_check_cap(KVM_CAP_VM_TYPES) &
			     BIT(KVM_X86_SW_PROTECTED_VM);
}

FIXTURE_TEARDOWN(mode) { }

/*
 * Only KVM_SET_MEMORY_ATTRIBUTES or KVM_SET_MEMORY_ATTRIBUTES2 supports an
 * attribute, and only if the VM has private memory.  The other need not exist.
 */
TEST_F(mode, capabilities)
{
	struct kvm_memory_attributes attrs = {
		.address = GMEM_GPA,
		.size = PAGE_SIZE,
		.attributes = PRIVATE,
	};
	u64 per_file = self->in_place ? PRIVATE : 0;
	u64 per_vm = PRIVATE ^ per_file;
	struct gmem_vm file;
	struct kvm_vm *vm;
	int expected, i;

	ASSERT_EQ(per_file, kvm_check_cap(KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES));
	ASSERT_EQ(per_vm, kvm_check_cap(KVM_CAP_MEMORY_ATTRIBUTES));

	for (i = 0; i <= self->sw_protected; i++) {
		vm = vm_create_barebones_type(vm_types[i]);
		ASSERT_EQ(i ? per_file : 0,
			  vm_check_cap(vm, KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES));
		ASSERT_EQ(i ? per_vm : 0, vm_check_cap(vm, KVM_CAP_MEMORY_ATTRIBUTES));

		expected = i && per_vm ? 0 : EINVAL;
		if (self->in_place && !self->choice)
			expected = ENOTTY;
		ASSERT_EQ(expected, __vm_ioctl(vm, KVM_SET_MEMORY_ATTRIBUTES, &attrs) ?
				    errno : 0);

		expected = i ? 0 : EINVAL;
		if (!self->in_place)
			expected = ENOTTY;
		file.fd = vm_create_guest_memfd(vm, DATA_SIZE, 0);
		ASSERT_EQ(expected, gmem_convert(&file, 0, 1, SHARED));
		ASSERT_EQ(-1, file.error_page);
		ASSERT_EQ(expected, gmem_convert(&file, 0, 1, PRIVATE));
		ASSERT_EQ(-1, file.error_page);

		/* The struct isn't read if the ioctl doesn't exist. */
		ASSERT_EQ(-1, ioctl(file.fd, KVM_SET_MEMORY_ATTRIBUTES2, NULL));
		ASSERT_EQ(self->in_place ? EFAULT : ENOTTY, errno);
		kvm_close(file.fd);
		kvm_vm_free(vm);
	}
}

TEST_F(mode, creation_flags)
{
	const u64 size = 1ull << 46;
	struct gmem_fdinfo info;
	struct kvm_vm *vm;
	u64 valid, flags;
	int i, fd;

	for (i = 0; i <= self->sw_protected; i++) {
		vm = vm_create_barebones_type(vm_types[i]);
		valid = GUEST_MEMFD_FLAG_MMAP;
		if (!i || self->in_place)
			valid |= GUEST_MEMFD_FLAG_INIT_SHARED;
		ASSERT_EQ(valid, vm_check_cap(vm, KVM_CAP_GUEST_MEMFD_FLAGS));

		for (flags = 0; flags < 16; flags++) {
			fd = __vm_create_guest_memfd(vm, size, flags);
			if (flags & ~valid) {
				ASSERT_EQ(-1, fd);
				ASSERT_EQ(EINVAL, errno);
				continue;
			}
			ASSERT_LE(0, fd);
			info = gmem_read_fdinfo(getpid(), fd);
			EXPECT_EQ(size, info.size);
			EXPECT_EQ(flags, info.flags);
			EXPECT_EQ(flags & GUEST_MEMFD_FLAG_INIT_SHARED ? 0 : size,
				  info.private);
			EXPECT_EQ(size - info.private, info.shared);
			EXPECT_EQ(1, info.ranges);
			kvm_close(fd);
		}
		kvm_vm_free(vm);
	}
}

/*
 * If a file can't be mapped, i.e. lacks GUEST_MEMFD_FLAG_MMAP, shared memory is
 * in the file with in-place conversion, and at userspace_addr without it.  That
 * includes pages that KVM may map along with the one that is accessed, as it
 * does with shadow paging, or if the TDP MMU is off.
 */
TEST_F(mode, userspace_addr)
{
	bool sw_protected;
	int i, round, page;
	u64 flags;

	for (i = 0; i < 4; i++) {
		/* Without private memory, the initial state of a file doesn't matter. */
		flags = i & 1 ? GUEST_MEMFD_FLAG_INIT_SHARED : 0;
		sw_protected = i & 2;
		if (sw_protected && (!self->sw_protected || (flags && !self->in_place)))
			continue;

		__gmem_vm_create(g, vm_types[sw_protected], flags, NR_PAGES);
		for (page = 0; page < NR_PAGES; page++)
			*gmem_hva(g, page) = 0x1111 + page;

		/* Shadow paging maps more pages only if the guest's PTEs have been accessed. */
		for (round = 0; round < 2; round++) {
			for (page = 0; page < NR_PAGES; page++)
				ASSERT_EQ(self->in_place ? 0 : 0x1111 + page,
					  gmem_read(g, page));
			gmem_punch_hole(g, 0, NR_PAGES);
		}

		ASSERT_EQ(0x3333, gmem_write(g, 1, 0x3333));
		ASSERT_EQ(self->in_place ? 0x1112 : 0x3333, *gmem_hva(g, 1));

		/* Private memory is always in the file. */
		if (sw_protected && self->in_place) {
			gmem_make_shared(g, 0, NR_PAGES);
			ASSERT_EQ(0x3333, gmem_read(g, 1));
			gmem_make_private(g, 1, 1);
			ASSERT_EQ(0x3333, gmem_read(g, 1));
		} else if (sw_protected) {
			vm_set_memory_attributes(g->vm, GMEM_GPA + PAGE_SIZE, PAGE_SIZE, PRIVATE);
			ASSERT_EQ(0, gmem_read(g, 1));
		}
		gmem_vm_free(g);
	}

	if (!self->sw_protected)
		SKIP(return, "no software-protected VMs");
}

#define HOLE_PAGES	16384

static bool punch_all_but_first(u64 n)
{
	gmem_punch_hole(g, 1, HOLE_PAGES);
	return true;
}

/*
 * Without in-place conversion, a fault doesn't wait while a hole is punched
 * elsewhere in the file.
 */
TEST_F_TIMEOUT(mode, fault_beside_hole, 300)
{
	u64 percent[5], worst_us;
	struct timespec start, fault;
	int i;

	if (self->in_place)
		SKIP(return, "faults wait with in-place conversion");
	SKIP_IF(smp_unsupported());

	__gmem_vm_create(g, KVM_X86_DEFAULT_VM, GUEST_MEMFD_FLAG_MMAP |
			 GUEST_MEMFD_FLAG_INIT_SHARED, HOLE_PAGES + 1);
	for (i = 0; i < ARRAY_SIZE(percent); i++) {
		struct worker puncher = { "punch a hole", punch_all_but_first };

		gmem_allocate(g, 1, HOLE_PAGES);
		worst_us = 0;
		start = time_now();
		workers_start(&puncher, 1);
		while (!READ_ONCE(puncher.nr_done)) {
			kvm_madvise(g->mem, PAGE_SIZE, MADV_DONTNEED);
			fault = time_now();
			WRITE_ONCE(*gmem_hva(g, 0), i);
			worst_us = max_t(u64, worst_us, elapsed_us(fault));
		}
		/* Without any fault in the meantime, nothing was tested. */
		percent[i] = worst_us ? 100 * worst_us / elapsed_us(start) : 100;
		workers_stop(&puncher, 1);
	}
	ASSERT_GT(50, median(percent, ARRAY_SIZE(percent)));
	gmem_vm_free(g);
}

TEST_HARNESS_MAIN

// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test the mode of tracking private memory that is in use, i.e. with
 * guest_memfd's in-place conversion (kvm.gmem_in_place_conversion) on or off,
 * for VMs with and without private memory.
 */
#include <sys/stat.h>

#include "gmem_test.h"

#define PARAM_FILE	"/sys/module/kvm/parameters/gmem_in_place_conversion"
#define NR_PAGES	16

FIXTURE(mode) {
	bool choice;		/* the parameter exists */
	bool in_place;
	bool sw_protected;
};

FIXTURE_SETUP(mode)
{
	/*
	 * The parameter doesn't exist if the kernel supports only one of the
	 * modes.  The capability indicates which one.
	 */
	self->choice = !access(PARAM_FILE, R_OK);
	if (self->choice)
		self->in_place = get_kvm_param_bool("gmem_in_place_conversion");
	else
		self->in_place = kvm_check_cap(KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES);
	self->sw_protected = kvm_check_cap(KVM_CAP_VM_TYPES) &
			     BIT(KVM_X86_SW_PROTECTED_VM);
}

FIXTURE_TEARDOWN(mode) { }

static struct kvm_vm *create_vm(bool sw_protected)
{
	return vm_create_barebones_type(sw_protected ? KVM_X86_SW_PROTECTED_VM :
						       KVM_X86_DEFAULT_VM);
}

TEST_F(mode, capabilities)
{
	u64 per_file = self->in_place ? PRIVATE : 0;
	u64 per_vm = self->in_place ? 0 : PRIVATE;
	struct kvm_vm *vm;
	int i;

	ASSERT_EQ(per_file, kvm_check_cap(KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES));
	ASSERT_EQ(per_vm, kvm_check_cap(KVM_CAP_MEMORY_ATTRIBUTES));

	for (i = 0; i <= self->sw_protected; i++) {
		vm = create_vm(i);
		ASSERT_EQ(i ? per_file : 0,
			  vm_check_cap(vm, KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES));
		ASSERT_EQ(i ? per_vm : 0, vm_check_cap(vm, KVM_CAP_MEMORY_ATTRIBUTES));
		kvm_vm_free(vm);
	}
}

/* The mode is fixed when the module is loaded, and can be read by any user. */
TEST_F(mode, parameter)
{
	struct stat st;

	if (!self->choice)
		SKIP(return, "no parameter kvm.gmem_in_place_conversion, i.e. only one mode");

	ASSERT_EQ(0, stat(PARAM_FILE, &st));
	ASSERT_EQ(0444, st.st_mode & 07777);
}

TEST_F(mode, vm_ioctl)
{
	struct kvm_memory_attributes attrs = {
		.address = GMEM_GPA,
		.size = PAGE_SIZE,
		.attributes = PRIVATE,
	};
	struct kvm_memory_attributes2 attrs2 = {};
	struct kvm_vm *vm;
	int expected = 0;

	if (!self->sw_protected)
		SKIP(return, "no software-protected VMs");

	vm = create_vm(true);
	if (self->in_place)
		expected = self->choice ? EINVAL : ENOTTY;
	ASSERT_EQ(expected, __vm_ioctl(vm, KVM_SET_MEMORY_ATTRIBUTES, &attrs) ? errno : 0);

	/* The file's ioctl isn't an ioctl of the VM. */
	ASSERT_EQ(-1, __vm_ioctl(vm, KVM_SET_MEMORY_ATTRIBUTES2, &attrs2));
	ASSERT_EQ(ENOTTY, errno);
	kvm_vm_free(vm);
}

/*
 * Without in-place conversion, there is no such ioctl.  With it, the struct
 * must be readable, and the VM must have private memory.
 */
TEST_F(mode, file_ioctl)
{
	struct gmem_vm file;
	struct kvm_vm *vm;
	int expected, i;
	u64 unused = 0;

	for (i = 0; i <= self->sw_protected; i++) {
		vm = create_vm(i);
		file.fd = vm_create_guest_memfd(vm, DATA_SIZE, 0);
		expected = !self->in_place ? ENOTTY : i ? 0 : EINVAL;

		ASSERT_EQ(expected, gmem_convert(&file, 0, 1, SHARED));
		ASSERT_EQ(-1, file.error_page);
		ASSERT_EQ(expected, gmem_convert(&file, 0, 1, PRIVATE));
		ASSERT_EQ(-1, file.error_page);

		ASSERT_EQ(-1, __gmem_set_attributes(file.fd, 0, 1, PRIVATE, &unused));
		ASSERT_EQ(self->in_place ? EINVAL : ENOTTY, errno);
		ASSERT_EQ(-1, ioctl(file.fd, KVM_SET_MEMORY_ATTRIBUTES2, NULL));
		ASSERT_EQ(self->in_place ? EFAULT : ENOTTY, errno);
		kvm_close(file.fd);
		kvm_vm_free(vm);
	}
}

TEST_F(mode, creation_flags)
{
	static const u64 sizes[] = { PAGE_SIZE, DATA_SIZE, 1ull << 46 };
	struct gmem_fdinfo info;
	struct kvm_vm *vm;
	u64 valid, flags;
	int i, s, fd;

	for (i = 0; i <= self->sw_protected; i++) {
		vm = create_vm(i);
		valid = GUEST_MEMFD_FLAG_MMAP;
		if (!i || self->in_place)
			valid |= GUEST_MEMFD_FLAG_INIT_SHARED;
		ASSERT_EQ(valid, vm_check_cap(vm, KVM_CAP_GUEST_MEMFD_FLAGS));

		for (flags = 0; flags < 16; flags++) {
			if (!(flags & ~valid))
				continue;
			ASSERT_EQ(-1, __vm_create_guest_memfd(vm, DATA_SIZE, flags));
			ASSERT_EQ(EINVAL, errno);
		}

		for (s = 0; s < 4 * ARRAY_SIZE(sizes); s++) {
			u64 size = sizes[s / 4];

			flags = s % 4;
			if (flags & ~valid)
				continue;

			fd = vm_create_guest_memfd(vm, size, flags);
			kvm_fallocate(fd, FALLOC_FL_KEEP_SIZE, size - PAGE_SIZE,
				      PAGE_SIZE);
			info = gmem_read_fdinfo(getpid(), fd);
			EXPECT_EQ(size, info.size);
			EXPECT_EQ(flags, info.flags);
			EXPECT_EQ(flags & GUEST_MEMFD_FLAG_INIT_SHARED ? 0 : size,
				  info.private);
			EXPECT_EQ(size, info.private + info.shared);
			EXPECT_EQ(1, info.ranges);
			EXPECT_EQ(1, info.allocated);
			EXPECT_EQ(0, info.poisoned);
			kvm_close(fd);
		}
		kvm_vm_free(vm);
	}
}

/*
 * If a file can't be mapped, i.e. lacks GUEST_MEMFD_FLAG_MMAP, shared memory is
 * in the file with in-place conversion, and at userspace_addr without it.
 */
TEST_F(mode, userspace_addr)
{
	if (!self->sw_protected)
		SKIP(return, "no software-protected VMs");

	__gmem_vm_create(g, KVM_X86_SW_PROTECTED_VM,
			 self->in_place ? GUEST_MEMFD_FLAG_INIT_SHARED : 0, NR_PAGES);
	*gmem_hva(g, 0) = 0x1111;
	*gmem_hva(g, 1) = 0x2222;
	ASSERT_EQ(self->in_place ? 0 : 0x1111, gmem_read(g, 0));

	ASSERT_EQ(0x3333, gmem_write(g, 1, 0x3333));
	ASSERT_EQ(self->in_place ? 0x2222 : 0x3333, *gmem_hva(g, 1));

	if (self->in_place)
		gmem_make_private(g, 0, 1);
	else
		vm_set_memory_attributes(g->vm, GMEM_GPA, PAGE_SIZE, PRIVATE);
	ASSERT_EQ(0, gmem_read(g, 0));
	gmem_vm_free(g);
}

/*
 * Test the same for pages that KVM may map along with the one that is accessed,
 * as it does with shadow paging and without the TDP MMU.
 */
TEST_F(mode, userspace_addr_of_neighbours)
{
	/* Without private memory, the initial state of a file doesn't matter. */
	static const u64 flags[] = { GUEST_MEMFD_FLAG_INIT_SHARED, 0 };
	int f, round, i;

	for (f = 0; f < ARRAY_SIZE(flags); f++) {
		__gmem_vm_create(g, KVM_X86_DEFAULT_VM, flags[f], NR_PAGES);
		for (i = 0; i < NR_PAGES; i++)
			*gmem_hva(g, i) = 0x1111 + i;

		/* Shadow paging does so only if the guest's PTEs have been accessed. */
		for (round = 0; round < 2; round++) {
			for (i = 0; i < NR_PAGES; i++)
				ASSERT_EQ(self->in_place ? 0 : 0x1111 + i, gmem_read(g, i));
			gmem_punch_hole(g, 0, NR_PAGES);
		}
		gmem_vm_free(g);
	}
}

#define HOLE_PAGES	16384

static bool punched;

static void *punch_all_but_first(void *arg)
{
	gmem_punch_hole(arg, 1, HOLE_PAGES);
	WRITE_ONCE(punched, true);
	return NULL;
}

/*
 * Without in-place conversion, a fault doesn't wait while a hole is punched
 * elsewhere in the file.
 */
TEST_F_TIMEOUT(mode, fault_beside_hole, 300)
{
	const u64 size = (HOLE_PAGES + 1) * PAGE_SIZE;
	struct timespec start, fault;
	struct gmem_vm file;
	u64 percent[5], worst;
	pthread_t thread;
	struct kvm_vm *vm;
	int i;

	if (self->in_place)
		SKIP(return, "faults wait with in-place conversion");

	vm = create_vm(false);
	file.fd = vm_create_guest_memfd(vm, size, GUEST_MEMFD_FLAG_MMAP |
					GUEST_MEMFD_FLAG_INIT_SHARED);
	file.mem = kvm_mmap(PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, file.fd);
	for (i = 0; i < ARRAY_SIZE(percent); i++) {
		gmem_allocate(&file, 0, HOLE_PAGES + 1);
		WRITE_ONCE(punched, false);
		worst = 0;
		start = time_now();
		kvm_pthread_create(&thread, NULL, punch_all_but_first, &file);
		while (!READ_ONCE(punched)) {
			kvm_madvise(file.mem, PAGE_SIZE, MADV_DONTNEED);
			fault = time_now();
			WRITE_ONCE(*gmem_hva(&file, 0), i);
			worst = max_t(u64, worst, elapsed_us(fault));
		}
		percent[i] = 100 * worst / elapsed_us(start);
		kvm_pthread_join(thread, NULL);
		TH_LOG("a fault took up to %lu us, %lu%% of the time", worst, percent[i]);
	}
	ASSERT_GT(50, median(percent, ARRAY_SIZE(percent)));
	kvm_munmap(file.mem, PAGE_SIZE);
	kvm_close(file.fd);
	kvm_vm_free(vm);
}

TEST_HARNESS_MAIN

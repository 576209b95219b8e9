// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test what userspace sees of KVM_SET_MEMORY_ATTRIBUTES2, with in-place
 * conversion (kvm.gmem_in_place_conversion) on and off.
 */
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "gmem_vm.h"
#include "hwpoison.h"
#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"
#include "kselftest_harness.h"

#define PARAM_FILE	"/sys/module/kvm/parameters/gmem_in_place_conversion"
#define PRIVATE		KVM_MEMORY_ATTRIBUTE_PRIVATE
#define NR_PAGES	16
#define DATA_SIZE	(NR_PAGES * PAGE_SIZE)
#define GARBAGE		0x5a5a5a5a5a5a5a5aull

kvm_static_assert(KVM_SET_MEMORY_ATTRIBUTES2 == 0xc080aed2);
kvm_static_assert(KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES == 252);
kvm_static_assert(KVM_MEMORY_ATTRIBUTE_PRIVATE == 8);
kvm_static_assert(GUEST_MEMFD_FLAG_MMAP == 1);
kvm_static_assert(GUEST_MEMFD_FLAG_INIT_SHARED == 2);
kvm_static_assert(sizeof(struct kvm_memory_attributes2) == 128);
kvm_static_assert(offsetof(struct kvm_memory_attributes2, address) == 0);
kvm_static_assert(offsetof(struct kvm_memory_attributes2, offset) == 0);
kvm_static_assert(offsetof(struct kvm_memory_attributes2, size) == 8);
kvm_static_assert(offsetof(struct kvm_memory_attributes2, attributes) == 16);
kvm_static_assert(offsetof(struct kvm_memory_attributes2, flags) == 24);
kvm_static_assert(offsetof(struct kvm_memory_attributes2, error_offset) == 32);
kvm_static_assert(offsetof(struct kvm_memory_attributes2, reserved) == 40);

/* Returns the errno that the ioctl failed with, 0 for none. */
static int set_attrs(int fd, struct kvm_memory_attributes2 *attrs)
{
	return ioctl(fd, KVM_SET_MEMORY_ATTRIBUTES2, attrs) ? errno : 0;
}

/* The same, and the struct must not have been written to. */
#define EXPECT_UNTOUCHED(expected, fd, attrs)				\
do {									\
	const struct kvm_memory_attributes2 *__in = (attrs);		\
	struct kvm_memory_attributes2 __attrs = *__in;			\
	int __r = set_attrs(fd, &__attrs);				\
									\
	EXPECT_EQ(expected, __r) {					\
		TH_LOG("offset 0x%llx size 0x%llx attributes 0x%llx flags 0x%llx", \
		       __in->offset, __in->size, __in->attributes,	\
		       __in->flags);					\
	}								\
	EXPECT_EQ(0, memcmp(&__attrs, __in, sizeof(__attrs)));		\
} while (0)

static struct kvm_memory_attributes2 range(u64 offset, u64 size, u64 attributes)
{
	return (struct kvm_memory_attributes2) {
		.offset = offset,
		.size = size,
		.attributes = attributes,
		.error_offset = GARBAGE,
	};
}

/* What holds whether in-place conversion is on or off. */
FIXTURE(mode) {
	bool choice;		/* there is a parameter to choose with */
	bool in_place;
	bool sw_protected;
};

FIXTURE_SETUP(mode)
{
	/*
	 * Nothing is left to choose without per-VM tracking, nor in a kernel that
	 * has nothing else: it's the capability that tells one from the other.
	 */
	self->choice = !access(PARAM_FILE, R_OK);
	if (self->choice)
		self->in_place = get_kvm_param_bool("gmem_in_place_conversion");
	else
		self->in_place = kvm_check_cap(KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES);
	self->sw_protected = kvm_check_cap(KVM_CAP_VM_TYPES) &
			     BIT(KVM_X86_SW_PROTECTED_VM);
}

FIXTURE_TEARDOWN(mode)
{
}

static struct kvm_vm *create_vm(bool sw_protected)
{
	return vm_create_barebones_type(sw_protected ? KVM_X86_SW_PROTECTED_VM :
						       KVM_X86_DEFAULT_VM);
}

TEST_F(mode, one_capability_or_the_other)
{
	u64 per_file = self->in_place ? PRIVATE : 0;
	u64 per_vm = self->in_place ? 0 : PRIVATE;
	struct kvm_vm *vm;

	ASSERT_EQ(per_file, kvm_check_cap(KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES));
	ASSERT_EQ(per_vm, kvm_check_cap(KVM_CAP_MEMORY_ATTRIBUTES));

	vm = create_vm(false);
	ASSERT_EQ(0, vm_check_cap(vm, KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES));
	ASSERT_EQ(0, vm_check_cap(vm, KVM_CAP_MEMORY_ATTRIBUTES));
	kvm_vm_free(vm);

	if (!self->sw_protected)
		SKIP(return, "no software-protected VMs");

	vm = create_vm(true);
	ASSERT_EQ(per_file, vm_check_cap(vm, KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES));
	ASSERT_EQ(per_vm, vm_check_cap(vm, KVM_CAP_MEMORY_ATTRIBUTES));
	kvm_vm_free(vm);
}

/* One choice for the module's life, that anybody can read. */
TEST_F(mode, parameter_is_read_only)
{
	struct stat st;

	if (!self->choice)
		SKIP(return, "no kvm.gmem_in_place_conversion to choose with");

	ASSERT_EQ(0, stat(PARAM_FILE, &st));
	ASSERT_EQ(0444, st.st_mode & 07777);
}

TEST_F(mode, vm_ioctl)
{
	struct kvm_memory_attributes attrs = {
		.address = GMEM_VM_GPA,
		.size = PAGE_SIZE,
		.attributes = PRIVATE,
	};
	struct kvm_vm *vm;
	int expected, r;

	if (!self->sw_protected)
		SKIP(return, "no software-protected VMs");

	vm = create_vm(true);
	r = __vm_ioctl(vm, KVM_SET_MEMORY_ATTRIBUTES, &attrs) ? errno : 0;
	if (!self->in_place)
		expected = 0;
	else
		expected = self->choice ? EINVAL : ENOTTY;
	ASSERT_EQ(expected, r);

	/* The ioctl of the file is none of the VM. */
	ASSERT_EQ(ENOTTY, set_attrs(vm->fd, &(struct kvm_memory_attributes2) {}));
	kvm_vm_free(vm);
}

TEST_F(mode, file_ioctl)
{
	struct kvm_memory_attributes2 attrs = range(0, PAGE_SIZE, PRIVATE);
	struct kvm_vm *vm = create_vm(false);
	int expected, fd;

	/* Being off is found before anything else, else it's the VM type. */
	fd = vm_create_guest_memfd(vm, DATA_SIZE, 0);
	expected = self->in_place ? EINVAL : ENOTTY;
	EXPECT_UNTOUCHED(expected, fd, &attrs);
	attrs.attributes = 0;
	EXPECT_UNTOUCHED(expected, fd, &attrs);
	ASSERT_EQ(self->in_place ? EFAULT : ENOTTY, set_attrs(fd, NULL));
	kvm_close(fd);
	kvm_vm_free(vm);

	if (!self->sw_protected)
		SKIP(return, "no software-protected VMs");

	vm = create_vm(true);
	fd = vm_create_guest_memfd(vm, DATA_SIZE, 0);
	EXPECT_UNTOUCHED(self->in_place ? 0 : ENOTTY, fd, &attrs);
	attrs.attributes = PRIVATE;
	EXPECT_UNTOUCHED(self->in_place ? 0 : ENOTTY, fd, &attrs);
	attrs.size = 1;
	EXPECT_UNTOUCHED(self->in_place ? EINVAL : ENOTTY, fd, &attrs);
	ASSERT_EQ(self->in_place ? EFAULT : ENOTTY, set_attrs(fd, NULL));
	kvm_close(fd);
	kvm_vm_free(vm);
}

TEST_F(mode, creation_flags)
{
	struct kvm_vm *vm;
	u64 valid, flags;
	int i, fd;

	for (i = 0; i <= self->sw_protected; i++) {
		vm = create_vm(i);
		valid = GUEST_MEMFD_FLAG_MMAP;
		if (!i || self->in_place)
			valid |= GUEST_MEMFD_FLAG_INIT_SHARED;
		ASSERT_EQ(valid, vm_check_cap(vm, KVM_CAP_GUEST_MEMFD_FLAGS));

		for (flags = 0; flags < 16; flags++) {
			fd = __vm_create_guest_memfd(vm, DATA_SIZE, flags);
			if (flags & ~valid) {
				ASSERT_EQ(-1, fd);
				ASSERT_EQ(EINVAL, errno);
				continue;
			}
			ASSERT_LE(0, fd);
			kvm_close(fd);
		}
		kvm_vm_free(vm);
	}
}

/* Which memory a shared access gets: the slot's other memory, or the file. */
TEST_F(mode, userspace_addr)
{
	struct kvm_memory_attributes attrs = {
		.address = GMEM_VM_GPA,
		.size = PAGE_SIZE,
		.attributes = PRIVATE,
	};
	struct gmem_vm g;

	if (!self->sw_protected)
		SKIP(return, "no software-protected VMs");

	__gmem_vm_create(&g, KVM_X86_SW_PROTECTED_VM,
			 self->in_place ? GUEST_MEMFD_FLAG_INIT_SHARED : 0,
			 NR_PAGES);
	*gmem_vm_hva(&g, 0) = 0x1111;
	*gmem_vm_hva(&g, 1) = 0x2222;
	ASSERT_EQ(self->in_place ? 0 : 0x1111, gmem_vm_read(&g, 0));

	ASSERT_EQ(0x3333, gmem_vm_write(&g, 1, 0x3333));
	ASSERT_EQ(self->in_place ? 0x2222 : 0x3333, *gmem_vm_hva(&g, 1));

	if (self->in_place)
		gmem_set_private(g.fd, 0, PAGE_SIZE);
	else
		vm_ioctl(g.vm, KVM_SET_MEMORY_ATTRIBUTES, &attrs);
	ASSERT_EQ(0, gmem_vm_read(&g, 0));
	gmem_vm_free(&g);
}

/*
 * The same for pages that KVM may map along with the one that was accessed, as
 * it does with shadow paging and without the TDP MMU.
 */
static void read_neighbours(struct __test_metadata *_metadata, bool in_place,
			    u64 flags)
{
	struct gmem_vm g;
	int i;

	__gmem_vm_create(&g, KVM_X86_DEFAULT_VM, flags, NR_PAGES);
	for (i = 0; i < NR_PAGES; i++)
		*gmem_vm_hva(&g, i) = 0x1111 + i;

	for (i = 0; i < NR_PAGES; i++)
		ASSERT_EQ(in_place ? 0 : 0x1111 + i, gmem_vm_read(&g, i));

	/* Shadow paging does it only if the guest's PTEs have the accessed bit. */
	kvm_fallocate(g.fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, 0,
		      NR_PAGES * PAGE_SIZE);
	for (i = 0; i < NR_PAGES; i++)
		ASSERT_EQ(in_place ? 0 : 0x1111 + i, gmem_vm_read(&g, i));
	gmem_vm_free(&g);
}

TEST_F(mode, userspace_addr_of_neighbours)
{
	/* Without private memory, what a file starts out as is of no concern. */
	read_neighbours(_metadata, self->in_place, GUEST_MEMFD_FLAG_INIT_SHARED);
	read_neighbours(_metadata, self->in_place, 0);
}

FIXTURE(abi) {
	struct gmem_vm g;
};

FIXTURE_SETUP(abi)
{
	const char *reason = gmem_vm_unsupported();

	if (reason)
		SKIP(exit(KSFT_SKIP), "%s", reason);

	gmem_vm_create(&self->g, NR_PAGES);
}

FIXTURE_TEARDOWN(abi)
{
	gmem_vm_free(&self->g);
}

TEST_F(abi, other_ioctls_are_refused)
{
	static const unsigned int other[] = {
		KVM_SET_MEMORY_ATTRIBUTES,
		_IOW(KVMIO, 0xd2, struct kvm_memory_attributes2),
		_IOR(KVMIO, 0xd2, struct kvm_memory_attributes2),
		_IO(KVMIO, 0xd2),
		_IOC(_IOC_READ | _IOC_WRITE, KVMIO, 0xd2, 120),
		_IOC(_IOC_READ | _IOC_WRITE, KVMIO, 0xd2, 136),
		_IOWR(KVMIO, 0xd3, struct kvm_memory_attributes2),
		_IOWR(0xad, 0xd2, struct kvm_memory_attributes2),
		KVM_GET_API_VERSION,
		KVM_CHECK_EXTENSION,
		KVM_CREATE_GUEST_MEMFD,
	};
	struct gmem_vm *g = &self->g;
	int i;

	for (i = 0; i < ARRAY_SIZE(other); i++) {
		struct kvm_memory_attributes2 attrs = range(0, PAGE_SIZE, PRIVATE);

		ASSERT_EQ(-1, ioctl(g->fd, other[i], &attrs));
		ASSERT_EQ(ENOTTY, errno);
		/* Not even read. */
		ASSERT_EQ(-1, ioctl(g->fd, other[i], NULL));
		ASSERT_EQ(ENOTTY, errno);
	}
	ASSERT_TRUE(gmem_vm_host_can_access_all(g, 0, NR_PAGES));

	ASSERT_NE(0, ioctl(g->vm->kvm_fd, KVM_SET_MEMORY_ATTRIBUTES2, NULL));
	ASSERT_NE(0, ioctl(g->vcpu->fd, KVM_SET_MEMORY_ATTRIBUTES2, NULL));
}

TEST_F(abi, unreadable_struct)
{
	const int size = sizeof(struct kvm_memory_attributes2);
	struct kvm_memory_attributes2 attrs;
	struct gmem_vm *g = &self->g;
	char *page;
	int i;

	/* The first page is there, the second is not. */
	page = kvm_mmap(2 * PAGE_SIZE, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS, -1);
	kvm_munmap(page + PAGE_SIZE, PAGE_SIZE);

	/* A struct that would be refused, were it only read. */
	memset(page, 0xff, PAGE_SIZE);
	ASSERT_EQ(EFAULT, set_attrs(g->fd, NULL));
	ASSERT_EQ(EFAULT, set_attrs(g->fd, (void *)-8ul));
	ASSERT_EQ(EFAULT, set_attrs(g->fd, (void *)(page + PAGE_SIZE)));
	for (i = 8; i < size; i += 8)
		ASSERT_EQ(EFAULT, set_attrs(g->fd, (void *)(page + PAGE_SIZE - i)));

	/* One that is complete but for its last 8 bytes, reserved ones. */
	attrs = range(0, PAGE_SIZE, PRIVATE);
	memcpy(page + PAGE_SIZE - size + 8, &attrs, size - 8);
	ASSERT_EQ(EFAULT, set_attrs(g->fd, (void *)(page + PAGE_SIZE - size + 8)));
	ASSERT_TRUE(gmem_vm_host_can_access_all(g, 0, NR_PAGES));

	/* The struct is not written on success, nor if it is refused. */
	memcpy(page + PAGE_SIZE - size, &attrs, size);
	ASSERT_EQ(0, mprotect(page, PAGE_SIZE, PROT_READ));
	ASSERT_EQ(0, set_attrs(g->fd, (void *)(page + PAGE_SIZE - size)));
	ASSERT_FALSE(gmem_vm_host_can_access(g, 0));
	ASSERT_EQ(EINVAL, set_attrs(g->fd, (void *)page));
	kvm_munmap(page, PAGE_SIZE);
}

TEST_F(abi, invalid_fields)
{
	struct gmem_vm *g = &self->g;
	const struct {
		u64 offset, size;
	} bad[] = {
		{ 0, 0 }, { PAGE_SIZE, 0 }, { DATA_SIZE, 0 },
		{ 1, PAGE_SIZE }, { PAGE_SIZE / 2, PAGE_SIZE },
		{ PAGE_SIZE - 1, PAGE_SIZE }, { PAGE_SIZE, 1 },
		{ 0, PAGE_SIZE + 1 }, { 0, PAGE_SIZE / 2 },
		{ PAGE_SIZE / 2, PAGE_SIZE / 2 },
		{ DATA_SIZE, PAGE_SIZE }, { 0, DATA_SIZE + PAGE_SIZE },
		{ DATA_SIZE - PAGE_SIZE, 2 * PAGE_SIZE },
		{ DATA_SIZE + PAGE_SIZE, PAGE_SIZE }, { 1ull << 45, PAGE_SIZE },
		{ 0, 1ull << 63 }, { 1ull << 63, PAGE_SIZE },
		/* These wrap, onto the file or below it. */
		{ -PAGE_SIZE, PAGE_SIZE }, { -PAGE_SIZE, 2 * PAGE_SIZE },
		{ 1ull << 63, 1ull << 63 }, { PAGE_SIZE, -PAGE_SIZE },
		{ 2 * PAGE_SIZE, -PAGE_SIZE }, { -1ull, PAGE_SIZE },
		{ 0, -1ull }, { 1, -1ull },
	};
	struct kvm_memory_attributes2 attrs;
	u64 attributes;
	int i;

	/* To shared is valid or not all the same, though nothing's to be done. */
	for (attributes = 0; attributes <= PRIVATE; attributes += PRIVATE) {
		for (i = 0; i < ARRAY_SIZE(bad); i++) {
			attrs = range(bad[i].offset, bad[i].size, attributes);
			EXPECT_UNTOUCHED(EINVAL, g->fd, &attrs);
		}
		for (i = 0; i < 64; i++) {
			attrs = range(0, PAGE_SIZE, attributes);
			attrs.flags = BIT_ULL(i);
			EXPECT_UNTOUCHED(EINVAL, g->fd, &attrs);

			attrs.flags = 0;
			attrs.attributes |= BIT_ULL(i);
			if (attrs.attributes & ~PRIVATE)
				EXPECT_UNTOUCHED(EINVAL, g->fd, &attrs);
		}
		for (i = 0; i < ARRAY_SIZE(attrs.reserved); i++) {
			attrs = range(0, PAGE_SIZE, attributes);
			attrs.reserved[i] = 1;
			EXPECT_UNTOUCHED(EINVAL, g->fd, &attrs);
			attrs.reserved[i] = 1ull << 63;
			EXPECT_UNTOUCHED(EINVAL, g->fd, &attrs);
		}
	}

	/* A struct that somebody forgot to zero. */
	memset(&attrs, 0xa5, sizeof(attrs));
	attrs.offset = 0;
	attrs.size = PAGE_SIZE;
	attrs.attributes = PRIVATE;
	EXPECT_UNTOUCHED(EINVAL, g->fd, &attrs);
	attrs.flags = 0;
	EXPECT_UNTOUCHED(EINVAL, g->fd, &attrs);

	ASSERT_TRUE(gmem_vm_host_can_access_all(g, 0, NR_PAGES));
}

/* Doing nothing: no unmapping, no zapping, and nobody is in the way. */
TEST_F(abi, no_op)
{
	struct kvm_memory_attributes2 attrs = range(0, DATA_SIZE, 0);
	struct gmem_vm *g = &self->g;
	int pin = -1, i;
	u64 faults;

	memset(g->mem, 0xaa, DATA_SIZE);
	for (i = 0; i < NR_PAGES; i++)
		gmem_vm_read(g, i);
	if (gmem_vm_can_pin())
		pin = gmem_vm_pin(g, 3, 1);

	faults = vcpu_get_stat(g->vcpu, pf_taken);
	EXPECT_UNTOUCHED(0, g->fd, &attrs);
	for (i = 0; i < NR_PAGES; i++) {
		ASSERT_TRUE(hwpoison_mapped_pfn(gmem_vm_hva(g, i)));
		gmem_vm_read(g, i);
	}
	ASSERT_EQ(faults, vcpu_get_stat(g->vcpu, pf_taken));
	if (pin >= 0)
		kvm_close(pin);

	attrs.attributes = PRIVATE;
	EXPECT_UNTOUCHED(0, g->fd, &attrs);
	for (i = 0; i < NR_PAGES; i++)
		gmem_vm_read(g, i);
	/* The statistics do count what a conversion zaps. */
	ASSERT_LE(faults + NR_PAGES, vcpu_get_stat(g->vcpu, pf_taken));

	faults = vcpu_get_stat(g->vcpu, pf_taken);
	EXPECT_UNTOUCHED(0, g->fd, &attrs);
	for (i = 0; i < NR_PAGES; i++)
		gmem_vm_read(g, i);
	ASSERT_EQ(faults, vcpu_get_stat(g->vcpu, pf_taken));
}

/* Only what is in the way is reported, and only where it's due. */
TEST_F(abi, busy_page)
{
	struct kvm_memory_attributes2 attrs = range(PAGE_SIZE, DATA_SIZE - PAGE_SIZE,
						    PRIVATE);
	struct gmem_vm *g = &self->g;
	struct kvm_memory_attributes2 expected;
	int pin, i;

	if (!gmem_vm_can_pin())
		SKIP(return, "CONFIG_GUP_TEST is not enabled");

	/* A mapping is no reason to be busy, pages 8 and 9 are no longer shared. */
	memset(g->mem, 0xaa, DATA_SIZE);
	gmem_set_private(g->fd, 8 * PAGE_SIZE, 2 * PAGE_SIZE);
	pin = gmem_vm_pin(g, 5, 1);
	ASSERT_LE(0, pin);

	expected = attrs;
	expected.error_offset = 5 * PAGE_SIZE;
	ASSERT_EQ(EAGAIN, set_attrs(g->fd, &attrs));
	ASSERT_EQ(0, memcmp(&attrs, &expected, sizeof(attrs)));
	for (i = 0; i < NR_PAGES; i++)
		ASSERT_EQ(i != 8 && i != 9, gmem_vm_host_can_access(g, i));

	/* What is wrong with the request is found first. */
	attrs.flags = 1;
	EXPECT_UNTOUCHED(EINVAL, g->fd, &attrs);
	attrs.flags = 0;
	attrs.size += PAGE_SIZE;
	EXPECT_UNTOUCHED(EINVAL, g->fd, &attrs);

	/* To shared, nobody is in the way. */
	attrs = range(0, DATA_SIZE, 0);
	EXPECT_UNTOUCHED(0, g->fd, &attrs);
	ASSERT_TRUE(gmem_vm_host_can_access_all(g, 0, NR_PAGES));
	kvm_close(pin);
}

/*
 * The struct may be in memory that it is about, as long as that is shared: even
 * in the very page that is in the way, and is unmapped to find out.
 */
TEST_F(abi, struct_in_the_file)
{
	struct gmem_vm *g = &self->g;
	struct kvm_memory_attributes2 *attrs = (void *)gmem_vm_hva(g, 5);
	int pin;

	if (gmem_vm_can_pin()) {
		*attrs = range(0, DATA_SIZE, PRIVATE);
		pin = gmem_vm_pin(g, 5, 1);
		ASSERT_LE(0, pin);
		ASSERT_EQ(EAGAIN, set_attrs(g->fd, attrs));
		ASSERT_EQ(5 * PAGE_SIZE, attrs->error_offset);
		kvm_close(pin);
	}

	*attrs = range(0, DATA_SIZE, PRIVATE);
	ASSERT_EQ(0, set_attrs(g->fd, attrs));
	ASSERT_FALSE(gmem_vm_host_can_access(g, 5));
	ASSERT_EQ(EFAULT, set_attrs(g->fd, attrs));
	gmem_set_shared(g->fd, 0, DATA_SIZE);
	ASSERT_EQ(GARBAGE, attrs->error_offset);
}

TEST_HARNESS_MAIN

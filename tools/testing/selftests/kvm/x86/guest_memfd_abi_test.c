// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test the ABI of KVM_SET_MEMORY_ATTRIBUTES2, natively and with the system call
 * of 32-bit programs, which 64-bit programs can make as well.
 */
#include <stddef.h>

#include "gmem_test.h"

#define NR_PAGES	16
#define GARBAGE		0x5a5a5a5a5a5a5a5aull

#define NR_getpid_32	20
#define NR_ioctl_32	54

kvm_static_assert(KVM_SET_MEMORY_ATTRIBUTES2 == 0xc080aed2);
kvm_static_assert(KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES == 252);
kvm_static_assert(KVM_MEMORY_ATTRIBUTE_PRIVATE == 8);
kvm_static_assert(GUEST_MEMFD_FLAG_MMAP == 1);
kvm_static_assert(GUEST_MEMFD_FLAG_INIT_SHARED == 2);

/* There are no holes, so the layout is the same for 32-bit programs. */
kvm_static_assert(sizeof(struct kvm_memory_attributes2) == 128);
kvm_static_assert(offsetof(struct kvm_memory_attributes2, address) == 0);
kvm_static_assert(offsetof(struct kvm_memory_attributes2, offset) == 0);
kvm_static_assert(offsetof(struct kvm_memory_attributes2, size) == 8);
kvm_static_assert(offsetof(struct kvm_memory_attributes2, attributes) == 16);
kvm_static_assert(offsetof(struct kvm_memory_attributes2, flags) == 24);
kvm_static_assert(offsetof(struct kvm_memory_attributes2, error_offset) == 32);
kvm_static_assert(offsetof(struct kvm_memory_attributes2, reserved) == 40);

static bool use_ia32;

/* A struct whose address fits in 32 bits. */
static struct kvm_memory_attributes2 *low;

/* Return the kernel's result, i.e. -errno on failure. */
static int syscall_32(u32 nr, u32 a, u32 b, u32 c)
{
	int r;

	asm volatile("int $0x80"
		     : "=a" (r)
		     : "a" (nr), "b" (a), "c" (b), "d" (c)
		     : "memory", "r8", "r9", "r10", "r11");
	return r;
}

/* Without emulation, the system call raises SIGSEGV. */
static bool has_ia32_emulation(void)
{
	pid_t pid = fork();
	int status = -1;

	if (!pid) {
		signal(SIGSEGV, SIG_DFL);
		_exit(syscall_32(NR_getpid_32, 0, 0, 0) != getpid());
	}

	waitpid(pid, &status, 0);
	return !status;
}

/* Return the errno of the ioctl, 0 on success. */
static int do_ioctl(int fd, unsigned int cmd, void *arg)
{
	if (use_ia32)
		return -syscall_32(NR_ioctl_32, fd, cmd, (u32)(unsigned long)arg);

	return ioctl(fd, cmd, arg) ? errno : 0;
}

static int set_attrs(int fd, void *attrs)
{
	return do_ioctl(fd, KVM_SET_MEMORY_ATTRIBUTES2, attrs);
}

/* Expect the ioctl not to write to the struct. */
#define ASSERT_UNTOUCHED(expected, fd, attrs)				\
do {									\
	const struct kvm_memory_attributes2 __in = (attrs);		\
									\
	*low = __in;							\
	ASSERT_EQ(expected, set_attrs(fd, low)) {			\
		TH_LOG("offset 0x%llx size 0x%llx attributes 0x%llx flags 0x%llx", \
		       __in.offset, __in.size, __in.attributes, __in.flags); \
	}								\
	ASSERT_EQ(0, memcmp(low, &__in, sizeof(__in)));			\
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

FIXTURE(abi) { };

FIXTURE_VARIANT(abi) {
	bool ia32;
};

FIXTURE_VARIANT_ADD(abi, native) { .ia32 = false };
FIXTURE_VARIANT_ADD(abi, ia32) { .ia32 = true };

FIXTURE_SETUP(abi)
{
	if (variant->ia32 && !has_ia32_emulation())
		SKIP(return, "no 32-bit system calls (CONFIG_IA32_EMULATION)");

	use_ia32 = variant->ia32;
	low = kvm_mmap(PAGE_SIZE, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1);
	gmem_vm_create(g, NR_PAGES);
}

FIXTURE_TEARDOWN(abi)
{
	gmem_vm_free(g);
}

TEST_F(abi, large_offsets)
{
	const u64 size = 1ull << 46, last = size - PAGE_SIZE;
	struct gmem_vm far = { .fd = gmem_create_shared(g, size) };
	int pin;

	far.mem = __kvm_mmap(PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, far.fd, last);
	ASSERT_TRUE(gmem_host_can_access(&far, 0, 1));
	ASSERT_UNTOUCHED(0, far.fd, range(last, PAGE_SIZE, PRIVATE));
	ASSERT_FALSE(gmem_host_can_access(&far, 0, 1));
	ASSERT_UNTOUCHED(EINVAL, far.fd, range(size, PAGE_SIZE, PRIVATE));

	SKIP_IF(gmem_pin_unsupported());

	gmem_set_shared(far.fd, 0, size);
	pin = gmem_pin(&far, 0, 1);
	*low = range(0, size, PRIVATE);
	ASSERT_EQ(EAGAIN, set_attrs(far.fd, low));
	ASSERT_EQ(last, low->error_offset);

	kvm_close(pin);
	kvm_munmap(far.mem, PAGE_SIZE);
	kvm_close(far.fd);
}

/* Other numbers, and other descriptors, are refused before the struct is read. */
TEST_F(abi, other_ioctls)
{
	static const unsigned int other[] = {
		KVM_SET_MEMORY_ATTRIBUTES,
		_IO(KVMIO, 0xd2),
		_IOW(KVMIO, 0xd2, struct kvm_memory_attributes2),
		_IOR(KVMIO, 0xd2, struct kvm_memory_attributes2),
		_IOC(_IOC_READ | _IOC_WRITE, KVMIO, 0xd2, 120),
		_IOWR(KVMIO, 0xd3, struct kvm_memory_attributes2),
		_IOWR(0xad, 0xd2, struct kvm_memory_attributes2),
	};
	int i;

	for (i = 0; i < ARRAY_SIZE(other); i++)
		EXPECT_EQ(ENOTTY, do_ioctl(g->fd, other[i], NULL));

	EXPECT_EQ(EINVAL, set_attrs(g->vm->kvm_fd, NULL));
	EXPECT_EQ(ENOTTY, set_attrs(g->vm->fd, NULL));
	EXPECT_EQ(EINVAL, set_attrs(g->vcpu->fd, NULL));
}

TEST_F(abi, inaccessible_struct)
{
	struct kvm_memory_attributes2 attrs = range(0, PAGE_SIZE, PRIVATE);
	const int size = sizeof(attrs);
	char *page, *end;

	/* Map the first page, but not the second. */
	page = kvm_mmap(2 * PAGE_SIZE, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1);
	end = page + PAGE_SIZE;
	kvm_munmap(end, PAGE_SIZE);

	/* Use a struct that would be rejected if it could be read. */
	memset(page, 0xff, PAGE_SIZE);
	ASSERT_EQ(EFAULT, set_attrs(g->fd, NULL));
	ASSERT_EQ(EFAULT, set_attrs(g->fd, end - size + 8));

	/* Use a valid struct whose last 8 bytes, which are reserved, can't be read. */
	memcpy(end - size + 8, &attrs, size - 8);
	ASSERT_EQ(EFAULT, set_attrs(g->fd, end - size + 8));
	ASSERT_TRUE(gmem_host_can_access(g, 0, NR_PAGES));

	/* The struct need not be writable. */
	memcpy(end - size, &attrs, size);
	ASSERT_EQ(0, mprotect(page, PAGE_SIZE, PROT_READ));
	ASSERT_EQ(0, set_attrs(g->fd, end - size));
	ASSERT_FALSE(gmem_host_can_access(g, 0, 1));
	kvm_munmap(page, PAGE_SIZE);
}

TEST_F(abi, invalid_fields)
{
	static const struct {
		u64 offset, size;
	} bad[] = {
		{ 0, 0 }, { DATA_SIZE, 0 },
		{ 1, PAGE_SIZE }, { PAGE_SIZE - 1, PAGE_SIZE },
		{ PAGE_SIZE, 1 }, { 0, PAGE_SIZE + 1 },
		{ PAGE_SIZE / 2, PAGE_SIZE / 2 },
		{ DATA_SIZE, PAGE_SIZE }, { DATA_SIZE - PAGE_SIZE, 2 * PAGE_SIZE },
		{ 0, 1ull << 63 }, { 1ull << 63, PAGE_SIZE },
		/* Wrap around, to the start of the file or into it. */
		{ -PAGE_SIZE, PAGE_SIZE }, { -PAGE_SIZE, 2 * PAGE_SIZE },
		{ 1ull << 63, 1ull << 63 }, { 2 * PAGE_SIZE, -PAGE_SIZE },
		{ 1, -1ull },
	};
	struct kvm_memory_attributes2 attrs;
	u64 attributes;
	int i;

	/* Conversion to shared is a no-op here, but validates the same fields. */
	for (attributes = SHARED; attributes <= PRIVATE; attributes += PRIVATE) {
		for (i = 0; i < ARRAY_SIZE(bad); i++)
			ASSERT_UNTOUCHED(EINVAL, g->fd,
					 range(bad[i].offset, bad[i].size, attributes));

		for (i = 0; i < 64; i++) {
			attrs = range(0, PAGE_SIZE, attributes | BIT_ULL(i));
			if (attrs.attributes & ~PRIVATE)
				ASSERT_UNTOUCHED(EINVAL, g->fd, attrs);
			attrs.attributes = attributes;
			attrs.flags = BIT_ULL(i);
			ASSERT_UNTOUCHED(EINVAL, g->fd, attrs);
		}
		for (i = 0; i < 8 * sizeof(attrs.reserved); i++) {
			attrs = range(0, PAGE_SIZE, attributes);
			attrs.reserved[i / 64] = BIT_ULL(i % 64);
			ASSERT_UNTOUCHED(EINVAL, g->fd, attrs);
		}
	}
	ASSERT_TRUE(gmem_host_can_access(g, 0, NR_PAGES));
}

/* A no-op unmaps and zaps nothing. */
TEST_F(abi, no_op)
{
	int i;

	memset(g->mem, 0xaa, DATA_SIZE);
	gmem_count_faults(g, 0, NR_PAGES);
	ASSERT_UNTOUCHED(0, g->fd, range(0, DATA_SIZE, SHARED));
	for (i = 0; i < NR_PAGES; i++)
		ASSERT_TRUE(hwpoison_is_mapped(gmem_hva(g, i)));
	ASSERT_EQ(0, gmem_count_faults(g, 0, NR_PAGES));

	/* Verify that the checks notice what a conversion unmaps and zaps. */
	ASSERT_UNTOUCHED(0, g->fd, range(0, DATA_SIZE, PRIVATE));
	for (i = 0; i < NR_PAGES; i++)
		ASSERT_FALSE(hwpoison_is_mapped(gmem_hva(g, i)));
	ASSERT_LE(NR_PAGES, gmem_count_faults(g, 0, NR_PAGES));

	ASSERT_UNTOUCHED(0, g->fd, range(0, DATA_SIZE, PRIVATE));
	ASSERT_EQ(0, gmem_count_faults(g, 0, NR_PAGES));
}

/*
 * The struct may be in the memory to be converted, as long as that is shared.
 * It may even be in the very page that is in use, which KVM unmaps before it
 * writes error_offset.
 */
TEST_F(abi, struct_in_the_file)
{
	struct kvm_memory_attributes2 *attrs, expected;
	int pin;

	memset(g->mem, 0xaa, DATA_SIZE);
	attrs = __kvm_mmap(PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_32BIT,
			   g->fd, 5 * PAGE_SIZE);
	*attrs = range(0, DATA_SIZE, PRIVATE);
	ASSERT_EQ(0, set_attrs(g->fd, attrs));
	ASSERT_FALSE(gmem_host_can_access(g, 5, 1));
	ASSERT_EQ(EFAULT, set_attrs(g->fd, attrs));
	gmem_make_shared(g, 0, NR_PAGES);
	ASSERT_EQ(GARBAGE, attrs->error_offset);

	SKIP_IF(gmem_pin_unsupported());

	/* A page is not busy just because it is mapped or already private. */
	gmem_make_private(g, 8, 2);
	ASSERT_TRUE(gmem_host_can_access_all_but(g, 8, 2));
	*attrs = range(PAGE_SIZE, DATA_SIZE - PAGE_SIZE, PRIVATE);
	expected = *attrs;
	expected.error_offset = 5 * PAGE_SIZE;
	pin = gmem_pin(g, 5, 1);
	ASSERT_EQ(EAGAIN, set_attrs(g->fd, attrs));
	ASSERT_EQ(0, memcmp(attrs, &expected, sizeof(*attrs)));
	ASSERT_TRUE(gmem_host_can_access_all_but(g, 8, 2));

	/* Errors in the request take precedence over pages in use. */
	expected.flags = 1;
	ASSERT_UNTOUCHED(EINVAL, g->fd, expected);
	ASSERT_UNTOUCHED(EINVAL, g->fd, range(0, DATA_SIZE + PAGE_SIZE, PRIVATE));

	/* Conversion to shared ignores users. */
	ASSERT_UNTOUCHED(0, g->fd, range(0, DATA_SIZE, SHARED));
	ASSERT_TRUE(gmem_host_can_access(g, 0, NR_PAGES));
	kvm_close(pin);
	kvm_munmap(attrs, PAGE_SIZE);
}

GMEM_TEST_MAIN(gmem_vm_unsupported())

// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test the ABI of KVM_SET_MEMORY_ATTRIBUTES2, natively and with the system call
 * of 32-bit programs, which 64-bit programs can make as well.
 */
#include <setjmp.h>
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
kvm_static_assert(sizeof(struct kvm_memory_attributes2) == 128);
kvm_static_assert(offsetof(struct kvm_memory_attributes2, address) == 0);
kvm_static_assert(offsetof(struct kvm_memory_attributes2, offset) == 0);
kvm_static_assert(offsetof(struct kvm_memory_attributes2, size) == 8);
kvm_static_assert(offsetof(struct kvm_memory_attributes2, attributes) == 16);
kvm_static_assert(offsetof(struct kvm_memory_attributes2, flags) == 24);
kvm_static_assert(offsetof(struct kvm_memory_attributes2, error_offset) == 32);
kvm_static_assert(offsetof(struct kvm_memory_attributes2, reserved) == 40);

/* A 32-bit compiler aligns __u64 to 4 bytes, which must make no difference. */
typedef u64 u64_32 __aligned(4);
struct attributes_32 {
	u64_32 offset, size, attributes, flags, error_offset, reserved[11];
};

kvm_static_assert(sizeof(struct attributes_32) ==
		  sizeof(struct kvm_memory_attributes2));
kvm_static_assert(offsetof(struct attributes_32, reserved) ==
		  offsetof(struct kvm_memory_attributes2, reserved));

static bool use_ia32;

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

static sigjmp_buf no_int80;

static void no_int80_handler(int sig)
{
	siglongjmp(no_int80, 1);
}

static bool has_ia32_emulation(void)
{
	struct sigaction sa = { .sa_handler = no_int80_handler }, old;
	static bool ret;

	sigaction(SIGSEGV, &sa, &old);
	if (!sigsetjmp(no_int80, 1))
		ret = syscall_32(NR_getpid_32, 0, 0, 0) == getpid();
	sigaction(SIGSEGV, &old, NULL);
	return ret;
}

/* Return the errno of the ioctl, 0 on success. */
static int do_ioctl(int fd, unsigned int cmd, void *arg)
{
	if (use_ia32)
		return -syscall_32(NR_ioctl_32, fd, cmd, (u32)(unsigned long)arg);

	return ioctl(fd, cmd, arg) ? errno : 0;
}

/* Pass a copy of the struct whose address fits in 32 bits. */
static int set_attrs(int fd, struct kvm_memory_attributes2 *attrs)
{
	static struct kvm_memory_attributes2 *low;
	int r;

	if (!low)
		low = kvm_mmap(PAGE_SIZE, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1);
	*low = *attrs;
	r = do_ioctl(fd, KVM_SET_MEMORY_ATTRIBUTES2, low);
	*attrs = *low;
	return r;
}

/* Expect the ioctl not to write to the struct. */
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

FIXTURE(abi) { };

FIXTURE_VARIANT(abi) {
	bool ia32;
};

FIXTURE_VARIANT_ADD(abi, native) { };

FIXTURE_VARIANT_ADD(abi, ia32) {
	.ia32 = true,
};

FIXTURE_SETUP(abi)
{
	if (variant->ia32 && !has_ia32_emulation())
		SKIP(return, "no 32-bit system calls (CONFIG_IA32_EMULATION)");

	use_ia32 = variant->ia32;
	gmem_vm_create(g, NR_PAGES);
}

FIXTURE_TEARDOWN(abi)
{
	gmem_vm_free(g);
}

TEST_F(abi, large_offsets)
{
	const u64 size = 1ull << 46, page = size - PAGE_SIZE;
	struct kvm_memory_attributes2 attrs = range(page, PAGE_SIZE, PRIVATE);
	struct gmem_vm far = { .fd = gmem_create_shared(g, size) };

	far.mem = __kvm_mmap(PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, far.fd, page);
	ASSERT_TRUE(gmem_host_can_access(&far, 0, 1));
	EXPECT_UNTOUCHED(0, far.fd, &attrs);
	ASSERT_FALSE(gmem_host_can_access(&far, 0, 1));

	attrs.offset = size;
	EXPECT_UNTOUCHED(EINVAL, far.fd, &attrs);
	kvm_munmap(far.mem, PAGE_SIZE);
	kvm_close(far.fd);
}

TEST_F(abi, large_error_offset)
{
	const u64 size = 1ull << 46, page = size - PAGE_SIZE;
	struct kvm_memory_attributes2 attrs = range(0, size, PRIVATE);
	struct gmem_vm far = { };
	int pin;

	SKIP_IF(gmem_pin_unsupported());

	far.fd = gmem_create_shared(g, size);
	far.mem = __kvm_mmap(PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, far.fd, page);
	*gmem_hva(&far, 0) = 1;
	pin = gmem_pin(&far, 0, 1);
	ASSERT_EQ(EAGAIN, set_attrs(far.fd, &attrs));
	ASSERT_EQ(page, attrs.error_offset);
	gmem_set_private(far.fd, 0, page);

	kvm_close(pin);
	gmem_set_private(far.fd, 0, size);
	kvm_munmap(far.mem, PAGE_SIZE);
	kvm_close(far.fd);
}

TEST_F(abi, other_ioctls)
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
	int i;

	for (i = 0; i < ARRAY_SIZE(other); i++) {
		struct kvm_memory_attributes2 attrs = range(0, PAGE_SIZE, PRIVATE);

		if (!use_ia32)
			ASSERT_EQ(ENOTTY, do_ioctl(g->fd, other[i], &attrs));
		/* The struct must not even be read. */
		ASSERT_EQ(ENOTTY, do_ioctl(g->fd, other[i], NULL));
	}
	ASSERT_TRUE(gmem_host_can_access(g, 0, NR_PAGES));

	ASSERT_EQ(EINVAL, do_ioctl(g->vm->kvm_fd, KVM_SET_MEMORY_ATTRIBUTES2, NULL));
	ASSERT_EQ(ENOTTY, do_ioctl(g->vm->fd, KVM_SET_MEMORY_ATTRIBUTES2, NULL));
	ASSERT_EQ(EINVAL, do_ioctl(g->vcpu->fd, KVM_SET_MEMORY_ATTRIBUTES2, NULL));
}

TEST_F(abi, inaccessible_struct)
{
	const int size = sizeof(struct kvm_memory_attributes2);
	struct kvm_memory_attributes2 attrs;
	char *page, *end;
	int i;

	/* Map the first page, but not the second. */
	page = kvm_mmap(2 * PAGE_SIZE, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1);
	end = page + PAGE_SIZE;
	kvm_munmap(end, PAGE_SIZE);

	/* Use a struct that would be rejected if it could be read. */
	memset(page, 0xff, PAGE_SIZE);
	ASSERT_EQ(EFAULT, do_ioctl(g->fd, KVM_SET_MEMORY_ATTRIBUTES2, NULL));
	ASSERT_EQ(EFAULT, do_ioctl(g->fd, KVM_SET_MEMORY_ATTRIBUTES2, (void *)-8ul));
	for (i = 0; i < size; i += 8)
		ASSERT_EQ(EFAULT, do_ioctl(g->fd, KVM_SET_MEMORY_ATTRIBUTES2, end - i));

	/* Use one that is complete except for its last 8 bytes, which are reserved. */
	attrs = range(0, PAGE_SIZE, PRIVATE);
	memcpy(end - size + 8, &attrs, size - 8);
	ASSERT_EQ(EFAULT, do_ioctl(g->fd, KVM_SET_MEMORY_ATTRIBUTES2, end - size + 8));
	ASSERT_TRUE(gmem_host_can_access(g, 0, NR_PAGES));

	/* The struct is written neither on success nor if it is rejected. */
	memcpy(end - size, &attrs, size);
	ASSERT_EQ(0, mprotect(page, PAGE_SIZE, PROT_READ));
	ASSERT_EQ(0, do_ioctl(g->fd, KVM_SET_MEMORY_ATTRIBUTES2, end - size));
	ASSERT_FALSE(gmem_host_can_access(g, 0, 1));
	ASSERT_EQ(EINVAL, do_ioctl(g->fd, KVM_SET_MEMORY_ATTRIBUTES2, page));
	kvm_munmap(page, PAGE_SIZE);
}

TEST_F(abi, invalid_fields)
{
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
		/*
		 * All of these but { 0, -1ull } wrap around, to the start of
		 * the file or into it.
		 */
		{ -PAGE_SIZE, PAGE_SIZE }, { -PAGE_SIZE, 2 * PAGE_SIZE },
		{ 1ull << 63, 1ull << 63 }, { PAGE_SIZE, -PAGE_SIZE },
		{ 2 * PAGE_SIZE, -PAGE_SIZE }, { -1ull, PAGE_SIZE },
		{ 0, -1ull }, { 1, -1ull },
	};
	struct kvm_memory_attributes2 attrs;
	u64 attributes;
	int i;

	/* Conversion to shared is a no-op here, but validates the same fields. */
	for (attributes = SHARED; attributes <= PRIVATE; attributes += PRIVATE) {
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
	ASSERT_TRUE(gmem_host_can_access(g, 0, NR_PAGES));
}

/* A no-op unmaps and zaps nothing, and ignores pages in use. */
TEST_F(abi, no_op)
{
	struct kvm_memory_attributes2 attrs = range(0, DATA_SIZE, SHARED);
	int pin = -1, i, round;

	memset(g->mem, 0xaa, DATA_SIZE);
	gmem_count_faults(g, 0, NR_PAGES);
	if (!gmem_pin_unsupported())
		pin = gmem_pin(g, 3, 1);

	for (round = 0; round < 2; round++) {
		EXPECT_UNTOUCHED(0, g->fd, &attrs);
		for (i = 0; i < NR_PAGES; i++)
			ASSERT_EQ(!round, hwpoison_is_mapped(gmem_hva(g, i)));
		ASSERT_EQ(0, gmem_count_faults(g, 0, NR_PAGES));
		if (round)
			break;

		if (pin >= 0)
			kvm_close(pin);
		attrs.attributes = PRIVATE;
		EXPECT_UNTOUCHED(0, g->fd, &attrs);
		/* Verify that the statistics count what a conversion zaps. */
		ASSERT_LE(NR_PAGES, gmem_count_faults(g, 0, NR_PAGES));
	}
}

TEST_F(abi, busy_page)
{
	struct kvm_memory_attributes2 attrs = range(PAGE_SIZE, DATA_SIZE - PAGE_SIZE,
						    PRIVATE);
	struct kvm_memory_attributes2 expected;
	int pin;

	SKIP_IF(gmem_pin_unsupported());

	/* Neither being mapped nor being private already makes a page busy. */
	memset(g->mem, 0xaa, DATA_SIZE);
	gmem_make_private(g, 8, 2);
	pin = gmem_pin(g, 5, 1);

	expected = attrs;
	expected.error_offset = 5 * PAGE_SIZE;
	ASSERT_EQ(EAGAIN, set_attrs(g->fd, &attrs));
	ASSERT_EQ(0, memcmp(&attrs, &expected, sizeof(attrs)));
	ASSERT_TRUE(gmem_host_can_access_all_but(g, 8, 2));

	/* Errors in the request take precedence. */
	attrs.flags = 1;
	EXPECT_UNTOUCHED(EINVAL, g->fd, &attrs);
	attrs.flags = 0;
	attrs.size += PAGE_SIZE;
	EXPECT_UNTOUCHED(EINVAL, g->fd, &attrs);

	attrs = range(0, DATA_SIZE, SHARED);
	EXPECT_UNTOUCHED(0, g->fd, &attrs);
	ASSERT_TRUE(gmem_host_can_access(g, 0, NR_PAGES));
	kvm_close(pin);
}

/*
 * The struct may be in the memory to be converted, as long as that is shared.
 * It may even be in the very page that is in use, which KVM unmaps before it
 * writes error_offset.
 */
TEST_F(abi, struct_in_the_file)
{
	struct kvm_memory_attributes2 *attrs;
	int pin;

	attrs = __kvm_mmap(PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_32BIT,
			   g->fd, 5 * PAGE_SIZE);
	if (!gmem_pin_unsupported()) {
		*attrs = range(0, DATA_SIZE, PRIVATE);
		pin = gmem_pin(g, 5, 1);
		ASSERT_EQ(EAGAIN, do_ioctl(g->fd, KVM_SET_MEMORY_ATTRIBUTES2, attrs));
		ASSERT_EQ(5 * PAGE_SIZE, attrs->error_offset);
		kvm_close(pin);
	}

	*attrs = range(0, DATA_SIZE, PRIVATE);
	ASSERT_EQ(0, do_ioctl(g->fd, KVM_SET_MEMORY_ATTRIBUTES2, attrs));
	ASSERT_FALSE(gmem_host_can_access(g, 5, 1));
	ASSERT_EQ(EFAULT, do_ioctl(g->fd, KVM_SET_MEMORY_ATTRIBUTES2, attrs));
	gmem_make_shared(g, 0, NR_PAGES);
	ASSERT_EQ(GARBAGE, attrs->error_offset);
	kvm_munmap(attrs, PAGE_SIZE);
}

GMEM_TEST_MAIN(gmem_vm_unsupported())

// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test KVM_SET_MEMORY_ATTRIBUTES2 for 32-bit callers on a 64-bit kernel: with
 * the system call that these use, which does not take a 32-bit program.
 */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "gmem_vm.h"
#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"
#include "kselftest_harness.h"

#define PRIVATE		KVM_MEMORY_ATTRIBUTE_PRIVATE
#define NR_PAGES	8
#define DATA_SIZE	(NR_PAGES * PAGE_SIZE)

#define NR_getpid_32	20
#define NR_ioctl_32	54

/*
 * The struct as a 32-bit compiler lays it out: __u64 is aligned to 4 bytes
 * there, which must make no difference.
 */
typedef u64 u64_32 __aligned(4);
struct attributes_32 {
	u64_32 offset;
	u64_32 size;
	u64_32 attributes;
	u64_32 flags;
	u64_32 error_offset;
	u64_32 reserved[11];
};

kvm_static_assert(sizeof(struct attributes_32) ==
		  sizeof(struct kvm_memory_attributes2));
kvm_static_assert(offsetof(struct attributes_32, error_offset) ==
		  offsetof(struct kvm_memory_attributes2, error_offset));
kvm_static_assert(offsetof(struct attributes_32, reserved) ==
		  offsetof(struct kvm_memory_attributes2, reserved));

/* Returns what the kernel does, i.e. -errno on failure. */
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

FIXTURE(abi32) {
	struct gmem_vm g;
	struct attributes_32 *attrs;
};

FIXTURE_SETUP(abi32)
{
	const char *reason = gmem_vm_unsupported();

	if (reason)
		SKIP(exit(KSFT_SKIP), "%s", reason);
	if (!has_ia32_emulation())
		SKIP(exit(KSFT_SKIP), "no 32-bit system calls (CONFIG_IA32_EMULATION)");

	gmem_vm_create(&self->g, NR_PAGES);
	/* Where a 32-bit pointer gets; at the end of a page, nothing behind it. */
	self->attrs = kvm_mmap(2 * PAGE_SIZE, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1);
	kvm_munmap((char *)self->attrs + PAGE_SIZE, PAGE_SIZE);
	self->attrs = (void *)((char *)self->attrs + PAGE_SIZE -
			       sizeof(*self->attrs));
}

FIXTURE_TEARDOWN(abi32)
{
	kvm_munmap((void *)((unsigned long)self->attrs & PAGE_MASK), PAGE_SIZE);
	gmem_vm_free(&self->g);
}

static int set_attrs(struct gmem_vm *g, struct attributes_32 *attrs)
{
	return syscall_32(NR_ioctl_32, g->fd, KVM_SET_MEMORY_ATTRIBUTES2,
			  (u32)(unsigned long)attrs);
}

TEST_F(abi32, converts)
{
	struct attributes_32 expected, *attrs = self->attrs;
	struct gmem_vm *g = &self->g;
	int i;

	*gmem_vm_hva(g, 2) = 0x1111;
	*attrs = (struct attributes_32) {
		.offset = 2 * PAGE_SIZE,
		.size = 3 * PAGE_SIZE,
		.attributes = PRIVATE,
		.error_offset = -1ull,
	};
	expected = *attrs;
	ASSERT_EQ(0, set_attrs(g, attrs));
	ASSERT_EQ(0, memcmp(&expected, attrs, sizeof(*attrs)));
	for (i = 0; i < NR_PAGES; i++)
		ASSERT_EQ(i < 2 || i > 4, gmem_vm_host_can_access(g, i));
	ASSERT_EQ(0x1111, gmem_vm_read(g, 2));

	attrs->attributes = 0;
	ASSERT_EQ(0, set_attrs(g, attrs));
	for (i = 0; i < NR_PAGES; i++)
		ASSERT_TRUE(gmem_vm_host_can_access(g, i));
	ASSERT_EQ(0x1111, *gmem_vm_hva(g, 2));
}

TEST_F(abi32, offsets_beyond_4_gib)
{
	const u64 size = 1ull << 42, page = size - PAGE_SIZE;
	struct attributes_32 *attrs = self->attrs;
	struct gmem_vm *g = &self->g;
	char *mem;
	int fd;

	fd = vm_create_guest_memfd(g->vm, size, GUEST_MEMFD_FLAG_MMAP |
						GUEST_MEMFD_FLAG_INIT_SHARED);
	mem = __kvm_mmap(PAGE_SIZE, PROT_READ, MAP_SHARED, fd, page);
	*attrs = (struct attributes_32) {
		.offset = page,
		.size = PAGE_SIZE,
		.attributes = PRIVATE,
	};
	ASSERT_EQ(0, madvise(mem, PAGE_SIZE, MADV_POPULATE_READ));
	ASSERT_EQ(0, syscall_32(NR_ioctl_32, fd, KVM_SET_MEMORY_ATTRIBUTES2,
				(u32)(unsigned long)attrs));
	ASSERT_EQ(-1, madvise(mem, PAGE_SIZE, MADV_POPULATE_READ));

	attrs->offset = size;
	ASSERT_EQ(-EINVAL, syscall_32(NR_ioctl_32, fd, KVM_SET_MEMORY_ATTRIBUTES2,
				      (u32)(unsigned long)attrs));
	kvm_munmap(mem, PAGE_SIZE);
	kvm_close(fd);
}

TEST_F(abi32, errors)
{
	struct attributes_32 expected, *attrs = self->attrs;
	struct gmem_vm *g = &self->g;
	int pin;

	*attrs = (struct attributes_32) {
		.offset = 2 * PAGE_SIZE,
		.size = 4 * PAGE_SIZE,
		.attributes = PRIVATE,
		.error_offset = -1ull,
	};
	ASSERT_EQ(-EFAULT, set_attrs(g, NULL));
	ASSERT_EQ(-EFAULT, set_attrs(g, (void *)((char *)attrs + 8)));
	ASSERT_EQ(-ENOTTY, syscall_32(NR_ioctl_32, g->fd, KVM_SET_MEMORY_ATTRIBUTES,
				      (u32)(unsigned long)attrs));

	attrs->reserved[10] = 1ull << 63;
	expected = *attrs;
	ASSERT_EQ(-EINVAL, set_attrs(g, attrs));
	ASSERT_EQ(0, memcmp(&expected, attrs, sizeof(*attrs)));
	attrs->reserved[10] = 0;

	if (!gmem_vm_can_pin())
		SKIP(return, "CONFIG_GUP_TEST is not enabled");

	*gmem_vm_hva(g, 3) = 1;
	pin = gmem_vm_pin(g, 3, 1);
	ASSERT_LE(0, pin);
	expected = *attrs;
	expected.error_offset = 3 * PAGE_SIZE;
	ASSERT_EQ(-EAGAIN, set_attrs(g, attrs));
	ASSERT_EQ(0, memcmp(&expected, attrs, sizeof(*attrs)));
	kvm_close(pin);
	ASSERT_EQ(0, set_attrs(g, attrs));
}

TEST_HARNESS_MAIN

// SPDX-License-Identifier: GPL-2.0-only
/*
 * Soft offlining takes a page that is about to fail out of use, if what is in
 * it can be had elsewhere: on a disk, or in another page after migration.
 * guest_memfd has neither, its pages must stay, with what is in them.
 */
#include <errno.h>
#include <stdio.h>
#include <unistd.h>
#include <sys/mman.h>

#include <linux/kernel-page-flags.h>

#include "hwpoison.h"
#include "kselftest.h"
#include "kvm_syscalls.h"
#include "kvm_util.h"
#include "test_util.h"

#define SOFT_OFFLINE	"/sys/devices/system/memory/soft_offline_page"
#define COMPACT		"/proc/sys/vm/compact_memory"
#define VALUE		0x5a

static size_t page_size;

static int soft_offline(u64 pfn)
{
	int fd = open_path_or_exit(SOFT_OFFLINE, O_WRONLY);
	char addr[32];
	int len, r;

	len = snprintf(addr, sizeof(addr), "0x%lx", pfn * page_size);
	r = write(fd, addr, len) == len ? 0 : -errno;
	kvm_close(fd);
	return r;
}

/*
 * A page that was just allocated is in an LRU cache, whose reference would save
 * it.  Compaction begins with draining these caches.
 */
static void drain_lru_caches(void)
{
	int fd = open_path_or_exit(COMPACT, O_WRONLY);

	TEST_ASSERT(write(fd, "1", 1) == 1, "Cannot write to " COMPACT);
	kvm_close(fd);
}

static void test_soft_offline(bool mapped, bool dirty)
{
	struct kvm_vm *vm = vm_create_barebones();
	char *mem, value;
	u64 pfn;
	int fd, r;

	fd = vm_create_guest_memfd(vm, page_size, GUEST_MEMFD_FLAG_MMAP |
						  GUEST_MEMFD_FLAG_INIT_SHARED);
	mem = kvm_mmap(page_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
	if (dirty)
		*mem = VALUE;
	value = READ_ONCE(*mem);
	pfn = hwpoison_mapped_pfn(mem);
	TEST_ASSERT(pfn, "The page is not mapped");

	if (!mapped)
		kvm_madvise(mem, page_size, MADV_DONTNEED);

	drain_lru_caches();
	r = soft_offline(pfn);

	ksft_test_result(r && *mem == value && hwpoison_mapped_pfn(mem) == pfn &&
			 !(hwpoison_page_flags(pfn) & BIT_ULL(KPF_HWPOISON)),
			 "soft offlining fails and leaves a %s page that is %smapped in place: %d, 0x%x\n",
			 dirty ? "dirty" : "clean", mapped ? "" : "not ", r, *mem);

	kvm_munmap(mem, page_size);
	kvm_close(fd);
	kvm_vm_free(vm);
}

int main(int argc, char *argv[])
{
	const char *reason;
	int i;

	ksft_print_header();
	TEST_REQUIRE(kvm_check_cap(KVM_CAP_GUEST_MEMFD_FLAGS) &
		     GUEST_MEMFD_FLAG_INIT_SHARED);

	reason = hwpoison_unsupported();
	if (reason)
		ksft_exit_skip("%s\n", reason);
	if (access(SOFT_OFFLINE, W_OK))
		ksft_exit_skip("no " SOFT_OFFLINE " (CONFIG_MEMORY_HOTPLUG)\n");
	if (access(COMPACT, W_OK))
		ksft_exit_skip("no " COMPACT " (CONFIG_COMPACTION)\n");

	page_size = getpagesize();
	ksft_set_plan(4);
	for (i = 0; i < 4; i++)
		test_soft_offline(i & 1, i & 2);
	ksft_finished();
}

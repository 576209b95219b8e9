// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test KVM_SET_MEMORY_ATTRIBUTES2 on guest_memfd files of all sizes and flags,
 * bound to memslots in any way, or to none.
 */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <linux/falloc.h>
#include <linux/kernel-page-flags.h>
#include <linux/sizes.h>

#include "gmem_vm.h"
#include "hwpoison.h"
#include "kvm_util.h"
#include "numaif.h"
#include "processor.h"
#include "test_util.h"
#include "kselftest_harness.h"

#define NR_PAGES	16
#define DATA_SIZE	(NR_PAGES * PAGE_SIZE)

FIXTURE(file) {
	struct gmem_vm g;
};

FIXTURE_SETUP(file)
{
	const char *reason = gmem_vm_unsupported();

	if (reason)
		SKIP(exit(KSFT_SKIP), "%s", reason);

	gmem_vm_create(&self->g, NR_PAGES);
}

FIXTURE_TEARDOWN(file)
{
	gmem_vm_free(&self->g);
}

TEST_F(file, last_page)
{
	struct gmem_vm *g = &self->g;
	int i;

	*gmem_vm_hva(g, NR_PAGES - 1) = 0x1111;
	gmem_set_private(g->fd, DATA_SIZE - PAGE_SIZE, PAGE_SIZE);
	for (i = 0; i < NR_PAGES; i++)
		ASSERT_EQ(i < NR_PAGES - 1, gmem_vm_host_can_access(g, i));
	ASSERT_EQ(0x1111, gmem_vm_read(g, NR_PAGES - 1));

	gmem_set_shared(g->fd, DATA_SIZE - PAGE_SIZE, PAGE_SIZE);
	for (i = 0; i < NR_PAGES; i++)
		ASSERT_TRUE(gmem_vm_host_can_access(g, i));
}

/* Files bound nowhere, from one page to the largest that there can be. */
TEST_F(file, file_sizes)
{
	static const u64 sizes[] = {
		PAGE_SIZE, SZ_1G, 1ull << 40, 1ull << 46, LLONG_MAX & PAGE_MASK,
	};
	struct gmem_vm *g = &self->g;
	int i, fd;
	char *mem;

	for (i = 0; i < ARRAY_SIZE(sizes); i++) {
		u64 size = sizes[i], last = size - PAGE_SIZE;
		u64 error_offset = 0;

		fd = __vm_create_guest_memfd(g->vm, size, GUEST_MEMFD_FLAG_MMAP);
		ASSERT_LE(0, fd) {
			TH_LOG("size 0x%lx", size);
		}
		ASSERT_EQ(-1, __gmem_set_attributes(fd, size, PAGE_SIZE, 0,
						    &error_offset));
		ASSERT_EQ(EINVAL, errno);

		gmem_set_shared(fd, last, PAGE_SIZE);
		mem = __kvm_mmap(PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED,
				 fd, last);
		*mem = 1;
		gmem_set_private(fd, 0, size);
		ASSERT_EQ(-1, madvise(mem, PAGE_SIZE, MADV_POPULATE_READ));
		gmem_set_shared(fd, 0, size);
		ASSERT_EQ(1, *mem);
		kvm_munmap(mem, PAGE_SIZE);
		kvm_close(fd);
	}
}

TEST_F(file, files_without_mmap)
{
	const u64 flags[] = { 0, GUEST_MEMFD_FLAG_INIT_SHARED };
	struct gmem_vm g;
	int i;

	for (i = 0; i < ARRAY_SIZE(flags); i++) {
		__gmem_vm_create(&g, KVM_X86_SW_PROTECTED_VM, flags[i], NR_PAGES);
		ASSERT_EQ(MAP_FAILED, mmap(NULL, DATA_SIZE, PROT_READ, MAP_SHARED,
					   g.fd, 0));

		ASSERT_EQ(0x1111, gmem_vm_write(&g, 2, 0x1111));
		gmem_set_shared(g.fd, 0, DATA_SIZE);
		ASSERT_EQ(0x1111, gmem_vm_read(&g, 2));
		gmem_set_private(g.fd, 2 * PAGE_SIZE, PAGE_SIZE);
		ASSERT_EQ(0x1111, gmem_vm_read(&g, 2));
		gmem_vm_free(&g);
	}
}

TEST_F(file, other_descriptors_of_the_file)
{
	struct gmem_vm *g = &self->g;
	int fd = kvm_dup(g->fd);
	pid_t pid;
	int status;

	gmem_set_private(fd, 0, PAGE_SIZE);
	ASSERT_FALSE(gmem_vm_host_can_access(g, 0));
	kvm_close(fd);

	pid = fork();
	if (!pid) {
		gmem_set_private(g->fd, PAGE_SIZE, PAGE_SIZE);
		_exit(0);
	}
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	ASSERT_EQ(0, status);
	ASSERT_FALSE(gmem_vm_host_can_access(g, 1));
	ASSERT_TRUE(gmem_vm_host_can_access(g, 2));
}

static void set_slot(struct gmem_vm *g, int slot, int gpage, int nr, int page)
{
	vm_set_user_memory_region2(g->vm, slot, KVM_MEM_GUEST_MEMFD,
				   GMEM_VM_GPA + gpage * PAGE_SIZE,
				   nr * PAGE_SIZE, g->mem, g->fd,
				   page * PAGE_SIZE);
}

/* Attributes belong to the file: slots come and go, or leave gaps. */
TEST_F(file, memslots_come_and_go)
{
	struct gmem_vm *g = &self->g;
	u64 value;
	int i;

	for (i = 0; i < NR_PAGES; i++)
		*gmem_vm_hva(g, i) = 0x100 + i;
	gmem_set_private(g->fd, 5 * PAGE_SIZE, 2 * PAGE_SIZE);
	for (i = 0; i < NR_PAGES; i++)
		ASSERT_EQ(0x100 + i, gmem_vm_read(g, i));

	/* A gfn without a slot is shared, i.e. the exit is one for MMIO. */
	set_slot(g, GMEM_VM_SLOT, 0, 0, 0);
	ASSERT_EQ(0, gmem_vm_start_read(g, 5));
	ASSERT_EQ(KVM_EXIT_MMIO, g->vcpu->run->exit_reason);
	memset(g->vcpu->run->mmio.data, 0x77, 8);
	ASSERT_EQ(0, gmem_vm_continue(g, &value));
	ASSERT_EQ(0x7777777777777777ul, value);

	/* Converts without a slot. */
	gmem_set_private(g->fd, 9 * PAGE_SIZE, PAGE_SIZE);

	/* Back in three slots: pages 4-7, at 12; 9-11, at 0; 15, at 7. */
	set_slot(g, GMEM_VM_SLOT, 12, 4, 4);
	set_slot(g, GMEM_VM_SLOT + 1, 0, 3, 9);
	set_slot(g, GMEM_VM_SLOT + 2, 7, 1, 15);
	ASSERT_FALSE(gmem_vm_host_can_access(g, 5));
	ASSERT_FALSE(gmem_vm_host_can_access(g, 9));
	ASSERT_EQ(0x105, gmem_vm_read(g, 13));
	ASSERT_EQ(0x109, gmem_vm_read(g, 0));
	ASSERT_EQ(0x10f, gmem_vm_read(g, 7));

	/* One request across all of them, and across what none has. */
	gmem_set_private(g->fd, 4 * PAGE_SIZE, 12 * PAGE_SIZE);
	for (i = 0; i < 4; i++)
		ASSERT_EQ(0x200 + i, gmem_vm_write(g, 12 + i, 0x200 + i));
	for (i = 0; i < 3; i++)
		ASSERT_EQ(0x300 + i, gmem_vm_write(g, i, 0x300 + i));
	ASSERT_EQ(0x400, gmem_vm_write(g, 7, 0x400));

	gmem_set_shared(g->fd, 0, DATA_SIZE);
	for (i = 0; i < NR_PAGES; i++) {
		value = 0x100 + i;
		if (i >= 4 && i <= 7)
			value = 0x200 + i - 4;
		else if (i >= 9 && i <= 11)
			value = 0x300 + i - 9;
		else if (i == 15)
			value = 0x400;
		ASSERT_EQ(value, *gmem_vm_hva(g, i));
	}

	/* And the guest follows into shared memory. */
	*gmem_vm_hva(g, 5) = 0x500;
	ASSERT_EQ(0x500, gmem_vm_read(g, 13));
}

/* What the host does to its mapping is no concern of the guest's. */
TEST_F(file, host_mappings_come_and_go)
{
	struct gmem_vm *g = &self->g;
	u64 faults;
	int i;

	gmem_set_private(g->fd, 0, 4 * PAGE_SIZE);
	for (i = 0; i < NR_PAGES; i++)
		ASSERT_EQ(0x100 + i, gmem_vm_write(g, i, 0x100 + i));

	faults = vcpu_get_stat(g->vcpu, pf_taken);
	kvm_madvise(g->mem, DATA_SIZE, MADV_DONTNEED);
	ASSERT_EQ(0, mprotect(g->mem, DATA_SIZE, PROT_READ));
	kvm_munmap(g->mem, DATA_SIZE);
	for (i = 0; i < NR_PAGES; i++)
		ASSERT_EQ(0x100 + i, gmem_vm_read(g, i));
	ASSERT_EQ(faults, vcpu_get_stat(g->vcpu, pf_taken));

	g->mem = kvm_mmap(DATA_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, g->fd);
	for (i = 0; i < NR_PAGES; i++)
		ASSERT_EQ(i >= 4, gmem_vm_host_can_access(g, i));
}

/* Whether what a hammer writes to a page is where the host reads. */
static bool guest_writes_where_host_reads(struct gmem_vm *g, int page)
{
	u64 *word = gmem_vm_hva(g, page) + 1, seen = READ_ONCE(*word);
	int i;

	for (i = 0; i < 50000 && READ_ONCE(*word) == seen; i++)
		usleep(100);
	return READ_ONCE(*word) != seen;
}

/*
 * Guest faults hold no reference to the page that they are about to map.  If it
 * has gone meanwhile then the guest must not get it.
 */
TEST_F(file, holes_are_seen_by_faults_in_flight)
{
	struct gmem_vm *g = &self->g;
	struct gmem_vm_hammer hammer;
	int i, round;

	gmem_vm_hammer_start(g, &hammer, 1, HAMMER_RETRY);
	for (round = 0; round < 60; round++) {
		for (i = 0; i < 50; i++)
			kvm_fallocate(g->fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE,
				      i % NR_PAGES * PAGE_SIZE, PAGE_SIZE);

		for (i = 0; i < NR_PAGES; i++)
			ASSERT_TRUE(guest_writes_where_host_reads(g, i)) {
				TH_LOG("page %d, in round %d", i, round);
			}
	}
	gmem_vm_hammer_stop(g, &hammer, 1);
}

/* Read-only memory, or a log of writes, is not to be had of a guest_memfd. */
TEST_F(file, memslot_flags)
{
	const u32 flags[] = { KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY };
	struct gmem_vm *g = &self->g;
	int i;

	set_slot(g, GMEM_VM_SLOT, 0, 0, 0);
	for (i = 0; i < ARRAY_SIZE(flags); i++) {
		ASSERT_EQ(-1, __vm_set_user_memory_region2(g->vm, GMEM_VM_SLOT,
							   KVM_MEM_GUEST_MEMFD | flags[i],
							   GMEM_VM_GPA, DATA_SIZE,
							   g->mem, g->fd, 0));
		ASSERT_EQ(EINVAL, errno);
	}
	set_slot(g, GMEM_VM_SLOT, 0, NR_PAGES, 0);
}

/* Empty but for its ends, and all of it the guest's: a matter of two pages. */
TEST_F(file, huge_memslot)
{
	const u64 size = 1ull << 38, gpa = size;
	struct gmem_vm *g = &self->g;
	struct timespec start;
	char *mem;
	int fd, i;

	fd = vm_create_guest_memfd(g->vm, size, GUEST_MEMFD_FLAG_MMAP |
						GUEST_MEMFD_FLAG_INIT_SHARED);
	mem = kvm_mmap(size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd);
	vm_set_user_memory_region2(g->vm, GMEM_VM_SLOT + 1, KVM_MEM_GUEST_MEMFD,
				   gpa, size, mem, fd, 0);
	mem[0] = 1;
	mem[size - 1] = 2;

	clock_gettime(CLOCK_MONOTONIC, &start);
	for (i = 0; i < 50; i++) {
		gmem_set_private(fd, 0, size);
		gmem_set_shared(fd, 0, size);
		ASSERT_EQ(1, mem[0]);
		ASSERT_EQ(2, mem[size - 1]);
	}
	ASSERT_GT(10, timespec_elapsed(start).tv_sec);

	vm_set_user_memory_region2(g->vm, GMEM_VM_SLOT + 1, KVM_MEM_GUEST_MEMFD,
				   gpa, 0, mem, fd, 0);
	kvm_munmap(mem, size);
	kvm_close(fd);
}

/* The reclaim code is never to see them, in whichever state they are. */
TEST_F(file, pages_stay_unevictable)
{
	const u64 wanted = BIT_ULL(KPF_LRU) | BIT_ULL(KPF_UNEVICTABLE);
	struct gmem_vm *g = &self->g;
	u64 pfn = gmem_vm_host_pfn(g, 2);
	int i;

	if (access("/proc/kpageflags", R_OK))
		SKIP(return, "no /proc/kpageflags (CONFIG_PROC_PAGE_MONITOR)");

	for (i = 0; i < 2; i++) {
		/* Drains the LRU cache that it may still be in. */
		gmem_set_private(g->fd, 2 * PAGE_SIZE, PAGE_SIZE);
		ASSERT_EQ(wanted, hwpoison_page_flags(pfn) & wanted);
		gmem_vm_write(g, 2, 0x1111);
		ASSERT_EQ(wanted, hwpoison_page_flags(pfn) & wanted);

		gmem_set_shared(g->fd, 0, DATA_SIZE);
		ASSERT_EQ(0x1111, *gmem_vm_hva(g, 2));
		ASSERT_EQ(wanted, hwpoison_page_flags(pfn) & wanted);
		ASSERT_EQ(pfn, gmem_vm_host_pfn(g, 2));
	}
}

/* The policy is the file's, and holds for who allocates a page, and as what. */
TEST_F(file, numa_policy)
{
	struct gmem_vm *g = &self->g;
	void *pages[NR_PAGES];
	int status[NR_PAGES], i, round;

	if (!is_multi_numa_node_system())
		SKIP(return, "only one NUMA node");

	for (i = 0; i < NR_PAGES; i++) {
		const unsigned long node = BIT(i & 1);

		pages[i] = gmem_vm_hva(g, i);
		kvm_mbind(pages[i], PAGE_SIZE, MPOL_BIND, &node, 8, 0);
	}

	for (round = 0; round < 2; round++) {
		gmem_set_private(g->fd, 0, DATA_SIZE);
		for (i = 0; i < NR_PAGES; i++)
			gmem_vm_write(g, i, 0x100 + i);
		gmem_set_shared(g->fd, 0, DATA_SIZE);

		for (i = 0; i < NR_PAGES; i++)
			ASSERT_EQ(0x100 + i, *gmem_vm_hva(g, i));
		kvm_move_pages(0, NR_PAGES, pages, NULL, status, 0);
		for (i = 0; i < NR_PAGES; i++)
			ASSERT_EQ(i & 1, status[i]);

		kvm_fallocate(g->fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE,
			      0, DATA_SIZE);
	}
}

/* Whoever has the file can still convert when all else of the VM is closed. */
TEST_F(file, outlives_its_vm)
{
	struct gmem_vm g;
	u64 error_offset = 0;
	char *mem;
	int fd;

	gmem_vm_create(&g, NR_PAGES);
	gmem_vm_write(&g, 3, 0x1111);
	fd = kvm_dup(g.fd);
	gmem_vm_free(&g);

	gmem_set_private(fd, 2 * PAGE_SIZE, 4 * PAGE_SIZE);
	mem = kvm_mmap(DATA_SIZE, PROT_READ, MAP_SHARED, fd);
	ASSERT_EQ(-1, madvise(mem, DATA_SIZE, MADV_POPULATE_READ));
	ASSERT_EQ(-1, __gmem_set_attributes(fd, 0, DATA_SIZE + PAGE_SIZE, 0,
					    &error_offset));
	ASSERT_EQ(EINVAL, errno);
	gmem_set_shared(fd, 0, DATA_SIZE);
	ASSERT_EQ(0x1111, *(u64 *)(mem + 3 * PAGE_SIZE));
	kvm_munmap(mem, DATA_SIZE);
	kvm_close(fd);
}

/* Without the file, memory counts as shared and faults for want of memory. */
TEST_F(file, close_while_a_vcpu_runs)
{
	struct gmem_vm *g = &self->g;
	struct gmem_vm_hammer hammer;
	struct kvm_run *run;

	gmem_set_private(g->fd, 0, DATA_SIZE);
	gmem_vm_hammer_start(g, &hammer, 1, HAMMER_ONCE);
	usleep(200000);

	/* The mapping holds on to the file as well. */
	kvm_munmap(g->mem, DATA_SIZE);
	kvm_close(g->fd);
	g->fd = -1;
	g->mem = kvm_mmap(DATA_SIZE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1);

	kvm_pthread_join(hammer.thread, NULL);
	run = hammer.vcpu->run;
	ASSERT_EQ(EFAULT, hammer.err);
	ASSERT_EQ(KVM_EXIT_MEMORY_FAULT, run->exit_reason);
	ASSERT_EQ(0, run->memory_fault.flags);
	ASSERT_EQ(PAGE_SIZE, run->memory_fault.size);
	ASSERT_LE(GMEM_VM_GPA, run->memory_fault.gpa);
	ASSERT_GT(GMEM_VM_GPA + DATA_SIZE, run->memory_fault.gpa);
}

TEST_HARNESS_MAIN

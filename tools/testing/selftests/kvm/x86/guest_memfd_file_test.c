// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test KVM_SET_MEMORY_ATTRIBUTES2 on guest_memfd files of all sizes, bound to
 * memslots in various ways, or not at all.
 */
#include <limits.h>

#include <linux/kernel-page-flags.h>
#include <linux/sizes.h>

#include "gmem_test.h"
#include "numaif.h"

#define NR_PAGES	16
#define BOUND_SIZE	BIT_ULL(38)

GMEM_FIXTURE(file, NR_PAGES)

/*
 * Files are empty except for their first and last page, so their size must not
 * matter.  One of them is bound to a memslot as a whole.
 */
TEST_F(file, sizes)
{
	static const u64 sizes[] = {
		PAGE_SIZE, SZ_1G, BOUND_SIZE, 1ull << 40, 1ull << 46,
		LLONG_MAX & PAGE_MASK,
	};
	struct timespec start = time_now();
	int i, round, fd;
	char *mem, *last;

	for (i = 0; i < ARRAY_SIZE(sizes); i++) {
		u64 size = sizes[i], mapped = min_t(u64, size, 1ull << 46);

		/* Map the end of the file if it is too large for the address space. */
		fd = vm_create_guest_memfd(g->vm, size, GUEST_MEMFD_FLAG_MMAP);
		mem = __kvm_mmap(mapped, PROT_READ | PROT_WRITE,
				 MAP_SHARED | MAP_NORESERVE, fd, size - mapped);
		last = mem + mapped - PAGE_SIZE;
		if (size == BOUND_SIZE)
			vm_set_user_memory_region2(g->vm, GMEM_SLOT + 1, KVM_MEM_GUEST_MEMFD,
						   size, size, mem, fd, 0);

		gmem_set_shared(fd, size - PAGE_SIZE, PAGE_SIZE);
		last[1] = 2;
		gmem_set_shared(fd, 0, size);
		mem[0] = 1;
		for (round = 0; round < 50; round++) {
			gmem_set_private(fd, 0, size);
			ASSERT_EQ(size, gmem_read_fdinfo(getpid(), fd).private);
			ASSERT_EQ(-1, madvise(last, PAGE_SIZE, MADV_POPULATE_READ));
			gmem_set_shared(fd, 0, size);
			ASSERT_EQ(1, mem[0]);
			ASSERT_EQ(2, last[1]);
		}
		kvm_munmap(mem, mapped);
		kvm_close(fd);
	}
	ASSERT_GT(10000, elapsed_ms(start));
}

/* The guest's pages, and the pages of the file that are bound there. */
static const struct {
	int gpage, nr, page;
} slots[] = { { 12, 4, 4 }, { 0, 3, 9 }, { 7, 1, 15 } };

static void check_slots(struct __test_metadata *_metadata)
{
	int s, i;

	for (s = 0; s < ARRAY_SIZE(slots); s++) {
		for (i = 0; i < slots[s].nr; i++)
			ASSERT_EQ(gmem_pattern(slots[s].page + i),
				  gmem_read(g, slots[s].gpage + i));
	}
}

/* Attributes belong to the file, even if memslots come and go, or leave gaps. */
TEST_F(file, memslots)
{
	u64 value;
	int i;

	gmem_fill(g, 0, NR_PAGES);
	gmem_make_private(g, 5, 2);

	/* A gfn without a memslot counts as shared, so expect an MMIO exit. */
	gmem_set_slot(g, GMEM_SLOT, 0, 0, 0);
	ASSERT_EQ(0, gmem_start_read(g, 5));
	ASSERT_EQ(KVM_EXIT_MMIO, g->vcpu->run->exit_reason);
	memset(g->vcpu->run->mmio.data, 0x77, 8);
	ASSERT_EQ(0, gmem_continue(g, &value));
	ASSERT_EQ(0x7777777777777777ul, value);

	gmem_make_private(g, 9, 1);
	for (i = 0; i < ARRAY_SIZE(slots); i++)
		gmem_set_slot(g, GMEM_SLOT + i, slots[i].gpage, slots[i].nr, slots[i].page);
	ASSERT_FALSE(gmem_host_can_access(g, 5, 1));
	ASSERT_FALSE(gmem_host_can_access(g, 9, 1));
	check_slots(_metadata);

	/* Make one request across all slots, and across pages without a slot. */
	gmem_make_private(g, 4, 12);
	ASSERT_TRUE(gmem_host_can_access_all_but(g, 4, 12));
	check_slots(_metadata);

	gmem_make_shared(g, 0, NR_PAGES);
	check_slots(_metadata);
	for (i = 0; i < NR_PAGES; i++)
		ASSERT_EQ(gmem_pattern(i), *gmem_hva(g, i));
}

/* Changes to the host's mapping don't affect the guest. */
TEST_F(file, host_mappings)
{
	gmem_make_private(g, 0, 4);
	gmem_fill(g, 0, NR_PAGES);

	kvm_madvise(g->mem, DATA_SIZE, MADV_DONTNEED);
	ASSERT_EQ(0, mprotect(g->mem, DATA_SIZE, PROT_READ));
	kvm_munmap(g->mem, DATA_SIZE);
	ASSERT_EQ(0, gmem_count_faults(g, 0, NR_PAGES));
	gmem_check(g, 0, NR_PAGES);

	g->mem = kvm_mmap(DATA_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, g->fd);
	ASSERT_TRUE(gmem_host_can_access_all_but(g, 0, 4));
}

/*
 * Guest faults hold no reference to the page that they are about to map.  If
 * the page has left the file in the meantime, the guest must not get it.
 */
TEST_F_TIMEOUT(file, holes_under_faults, 300)
{
	struct gmem_hammer hammer;
	int i, round;
	u64 *word;

	gmem_hammer_start(g, &hammer, 1, HAMMER_RETRY);
	for (round = 0; round < 60; round++) {
		for (i = 0; i < 50; i++)
			gmem_punch_hole(g, i % NR_PAGES, 1);

		/* The host must see what the guest writes. */
		for (i = 0; i < NR_PAGES; i++) {
			word = gmem_hva(g, i) + 1;
			ASSERT_TRUE(wait_for_change(word, READ_ONCE(*word)));
		}
	}
	gmem_hammer_stop(g, &hammer, 1);
}

/* Pages must never be visible to reclaim, private or shared. */
TEST_F(file, unevictable_pages)
{
	const u64 wanted = BIT_ULL(KPF_LRU) | BIT_ULL(KPF_UNEVICTABLE);
	const u64 attributes[] = { PRIVATE, SHARED };
	u64 pfn;
	int i;

	SKIP_IF(access_unsupported("/proc/kpageflags", R_OK,
				   "no /proc/kpageflags (CONFIG_PROC_PAGE_MONITOR)"));

	pfn = gmem_host_pfn(g, 2);
	for (i = 0; i < ARRAY_SIZE(attributes); i++) {
		gmem_make_attributes(g, 2, 1, attributes[i]);
		ASSERT_EQ(wanted, hwpoison_page_flags(pfn) & wanted);
		gmem_fill(g, 2, 1);
		ASSERT_EQ(wanted, hwpoison_page_flags(pfn) & wanted);
	}
	ASSERT_EQ(pfn, gmem_host_pfn(g, 2));
	ASSERT_EQ(wanted, hwpoison_page_flags(pfn) & wanted);
}

/*
 * The policy of the file applies to allocations by the guest, too.  Those by the
 * host are tested by guest_memfd_test.
 */
TEST_F(file, numa_policy)
{
	int status[NR_PAGES], i;
	void *pages[NR_PAGES];

	if (!is_multi_numa_node_system())
		SKIP(return, "only one NUMA node");

	for (i = 0; i < NR_PAGES; i++) {
		const unsigned long node = BIT(i & 1);

		pages[i] = gmem_hva(g, i);
		kvm_mbind(pages[i], PAGE_SIZE, MPOL_BIND, &node, 8, 0);
	}

	gmem_make_private(g, 0, NR_PAGES);
	gmem_fill(g, 0, NR_PAGES);
	gmem_make_shared(g, 0, NR_PAGES);
	ASSERT_TRUE(gmem_host_can_access(g, 0, NR_PAGES));

	kvm_move_pages(0, NR_PAGES, pages, NULL, status, 0);
	for (i = 0; i < NR_PAGES; i++)
		ASSERT_EQ(i & 1, status[i]);
}

/* Any descriptor works, in any process, even if that of the VM is closed. */
TEST_F(file, other_descriptors)
{
	struct gmem_vm other;
	int fd;

	gmem_vm_create(&other, NR_PAGES);
	ASSERT_IN_CHILD(!gmem_convert(&other, 1, 1, PRIVATE));
	ASSERT_TRUE(gmem_host_can_access_all_but(&other, 1, 1));

	fd = kvm_dup(other.fd);
	gmem_vm_free(&other);
	gmem_set_private(fd, 4 * PAGE_SIZE, 2 * PAGE_SIZE);
	ASSERT_EQ(3 * PAGE_SIZE, gmem_read_fdinfo(getpid(), fd).private);
	kvm_close(fd);
}

/* Once the file is closed, memory counts as shared, and accesses fail. */
TEST_F_TIMEOUT(file, close_under_vcpu, 300)
{
	struct gmem_hammer hammer;
	struct kvm_run *run;

	gmem_make_private(g, 0, NR_PAGES);
	gmem_hammer_start(g, &hammer, 1, HAMMER_ONCE);
	usleep(200000);

	/* The mapping holds a reference to the file as well. */
	kvm_munmap(g->mem, DATA_SIZE);
	kvm_close(g->fd);
	g->fd = -1;
	g->mem = kvm_mmap(DATA_SIZE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1);

	gmem_hammer_join(&hammer, 1);
	run = hammer.vcpu->run;
	ASSERT_EQ(EFAULT, hammer.err);
	ASSERT_EQ(KVM_EXIT_MEMORY_FAULT, run->exit_reason);
	ASSERT_EQ(0, run->memory_fault.flags);
	ASSERT_EQ(PAGE_SIZE, run->memory_fault.size);
	ASSERT_LE(GMEM_GPA, run->memory_fault.gpa);
	ASSERT_GT(GMEM_GPA + DATA_SIZE, run->memory_fault.gpa);
}

GMEM_TEST_MAIN(gmem_vm_unsupported())

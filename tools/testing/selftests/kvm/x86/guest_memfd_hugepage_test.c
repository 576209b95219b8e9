// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test guest_memfd memory that the guest maps with huge pages: when huge pages
 * are used, how changes to single pages affect them, and that the rules for
 * single pages still hold.
 */
#include <sys/resource.h>

#include "gmem_huge.h"

/* Expect @what to cause @nr faults in the guest. */
#define ASSERT_FAULTS(nr, what)						\
do {									\
	u64 __before = nr_faults(g);					\
									\
	what;								\
	ASSERT_EQ(nr, nr_faults(g) - __before);				\
} while (0)

/*
 * Check the contents of the second chunk, except for PAGE.  Reading the other
 * pages must not cause any faults in the guest.
 */
static void check_others(struct __test_metadata *_metadata)
{
	ASSERT_FAULTS(0, gmem_check(g, GMEM_CHUNK_PAGES, PAGE - GMEM_CHUNK_PAGES));
	ASSERT_FAULTS(0, gmem_check(g, PAGE + 1, 2 * GMEM_CHUNK_PAGES - PAGE - 1));
}

static void populate(struct __test_metadata *_metadata, FIXTURE_DATA(huge) *self)
{
	ASSERT_FAULTS(NR_CHUNKS, gmem_fill(g, 0, NR_PAGES));
	ASSERT_EQ(NR_CHUNKS, nr_huge(self));
	ASSERT_EQ(NR_CHUNKS, gmem_read_fdinfo(getpid(), g->fd).chunks);
	ASSERT_EQ(NR_PAGES, gmem_read_fdinfo(getpid(), g->fd).allocated);
	gmem_check(g, 0, NR_PAGES);
}

TEST_F(huge, populate_shared)
{
	ASSERT_EQ(SZ_2M, gmem_read_fdinfo(getpid(), g->fd).page_size);
	populate(_metadata, self);
}

TEST_F(huge, populate_private)
{
	gmem_make_private(g, 0, NR_PAGES);
	populate(_metadata, self);
}

/* Chunks bypass LRU caches, whose references would block the conversion. */
TEST_F(huge, populate_by_host)
{
	int i;

	for (i = 0; i < NR_CHUNKS; i++)
		*gmem_hva(g, i * GMEM_CHUNK_PAGES + i) = gmem_pattern(i);
	ASSERT_EQ(0, gmem_convert(g, 0, NR_PAGES, PRIVATE));

	for (i = 0; i < NR_CHUNKS; i++) {
		ASSERT_EQ(gmem_pattern(i), gmem_read(g, i * GMEM_CHUNK_PAGES + i));
		ASSERT_EQ(0, gmem_read(g, i * GMEM_CHUNK_PAGES + 511));
	}
	ASSERT_EQ(NR_CHUNKS, nr_huge(self));
}

static void one_page(struct __test_metadata *_metadata, FIXTURE_DATA(huge) *self,
		     u64 from, u64 to)
{
	u64 pfn;
	int i;

	gmem_make_attributes(g, 0, NR_PAGES, from);
	gmem_fill(g, 0, NR_PAGES);

	gmem_make_attributes(g, PAGE, 1, to);
	ASSERT_EQ(NR_CHUNKS - 1, nr_huge(self));
	check_others(_metadata);
	for (i = GMEM_CHUNK_PAGES; i < 2 * GMEM_CHUNK_PAGES; i++)
		ASSERT_EQ(i == PAGE ? !to : !from, gmem_host_can_access(g, i, 1));

	ASSERT_FAULTS(1, gmem_check(g, PAGE, 1));
	ASSERT_EQ(NR_CHUNKS - 1, nr_huge(self));

	/* One fault brings back the huge page. */
	gmem_make_attributes(g, PAGE, 1, from);
	ASSERT_FAULTS(1, gmem_check(g, PAGE, 1));
	ASSERT_EQ(NR_CHUNKS, nr_huge(self));
	ASSERT_FAULTS(0, gmem_check(g, 0, NR_PAGES));

	/* The memory is still one contiguous chunk. */
	gmem_make_shared(g, 0, NR_PAGES);
	pfn = gmem_host_pfn(g, GMEM_CHUNK_PAGES);
	ASSERT_EQ(0, pfn % GMEM_CHUNK_PAGES);
	for (i = 0; i < GMEM_CHUNK_PAGES; i++)
		ASSERT_EQ(pfn + i, gmem_host_pfn(g, GMEM_CHUNK_PAGES + i));
	ASSERT_EQ(NR_CHUNKS, gmem_read_fdinfo(getpid(), g->fd).chunks);
}

TEST_F(huge, one_page_to_shared)
{
	one_page(_metadata, self, PRIVATE, 0);
}

TEST_F(huge, one_page_to_private)
{
	one_page(_metadata, self, 0, PRIVATE);
}

/* Convert the end of a chunk, all of the next, and the beginning of a third. */
TEST_F(huge, range_to_shared)
{
	gmem_make_private(g, 0, NR_PAGES);
	gmem_fill(g, 0, NR_PAGES);

	gmem_make_shared(g, 10, 2 * GMEM_CHUNK_PAGES);
	ASSERT_EQ(NR_CHUNKS - 3, nr_huge(self));
	ASSERT_FAULTS(0, gmem_check(g, 0, 10));
	ASSERT_FAULTS(0, gmem_check(g, 2 * GMEM_CHUNK_PAGES + 10,
				    2 * GMEM_CHUNK_PAGES - 10));

	ASSERT_FAULTS(2 * GMEM_CHUNK_PAGES - 511,
		      gmem_check(g, 10, 2 * GMEM_CHUNK_PAGES));
	ASSERT_EQ(NR_CHUNKS - 2, nr_huge(self));
}

TEST_F(huge, chunk_to_shared)
{
	gmem_make_private(g, 0, NR_PAGES);
	gmem_fill(g, 0, NR_PAGES);
	gmem_make_shared(g, GMEM_CHUNK_PAGES, GMEM_CHUNK_PAGES);
	ASSERT_EQ(NR_CHUNKS - 1, nr_huge(self));

	ASSERT_FAULTS(1, gmem_check(g, 0, NR_PAGES));
	ASSERT_EQ(NR_CHUNKS, nr_huge(self));
}

TEST_F(huge, punch_one_page)
{
	gmem_fill(g, 0, NR_PAGES);
	gmem_punch_hole(g, PAGE, 1);
	ASSERT_EQ(NR_PAGES - 1, gmem_read_fdinfo(getpid(), g->fd).allocated);
	ASSERT_EQ(NR_CHUNKS - 1, gmem_read_fdinfo(getpid(), g->fd).chunks);
	check_others(_metadata);
	ASSERT_EQ(0, gmem_read(g, PAGE));
	ASSERT_EQ(NR_PAGES, gmem_read_fdinfo(getpid(), g->fd).allocated);
	gmem_check(g, GMEM_CHUNK_PAGES, PAGE - GMEM_CHUNK_PAGES);

	/* Punching out the whole chunk makes room for a new one. */
	gmem_punch_hole(g, GMEM_CHUNK_PAGES, GMEM_CHUNK_PAGES);
	ASSERT_EQ(0, gmem_read(g, PAGE));
	ASSERT_EQ(0, gmem_read(g, PAGE + 1));
	ASSERT_EQ(NR_CHUNKS, nr_huge(self));
	ASSERT_EQ(NR_CHUNKS, gmem_read_fdinfo(getpid(), g->fd).chunks);
}

/* A hole frees exactly the requested pages, even if a neighbour is in use. */
TEST_F(huge, punch_beside_pin)
{
	int fd;

	SKIP_IF(gmem_pin_unsupported());

	gmem_fill(g, 0, NR_PAGES);
	fd = gmem_pin(g, PAGE + 1, 1);
	gmem_punch_hole(g, PAGE - 10, 11);
	ASSERT_EQ(NR_PAGES - 11, gmem_read_fdinfo(getpid(), g->fd).allocated);
	gmem_check(g, 0, PAGE - 10);
	gmem_check(g, PAGE + 1, NR_PAGES - PAGE - 1);
	ASSERT_EQ(0, gmem_read(g, PAGE));
	kvm_close(fd);
}

TEST_F(huge, pin_one_page)
{
	int fd;

	SKIP_IF(gmem_pin_unsupported());

	gmem_fill(g, 0, NR_PAGES);
	fd = gmem_pin(g, PAGE, 1);
	ASSERT_EQ(EAGAIN, gmem_convert(g, GMEM_CHUNK_PAGES, GMEM_CHUNK_PAGES, PRIVATE));
	ASSERT_EQ(PAGE, g->error_page);

	gmem_make_private(g, GMEM_CHUNK_PAGES, PAGE - GMEM_CHUNK_PAGES);
	gmem_make_private(g, PAGE + 1, 2 * GMEM_CHUNK_PAGES - PAGE - 1);
	gmem_check(g, 0, NR_PAGES);

	kvm_close(fd);
	gmem_make_private(g, PAGE, 1);
	gmem_check(g, 0, NR_PAGES);
	ASSERT_EQ(NR_CHUNKS, nr_huge(self));
}

TEST_F(huge, poison_one_page)
{
	u64 value;
	int i;

	SKIP_IF(hwpoison_unsupported());

	gmem_fill(g, 0, NR_PAGES);
	ASSERT_EQ(0, gmem_poison(g, PAGE));
	ASSERT_EQ(NR_CHUNKS - 1, nr_huge(self));

	ASSERT_EQ(-1, __gmem_read(g, PAGE, &value));
	ASSERT_EQ(EHWPOISON, errno);
	for (i = GMEM_CHUNK_PAGES; i < 2 * GMEM_CHUNK_PAGES; i++)
		if (i != PAGE)
			ASSERT_EQ(gmem_pattern(i), gmem_read(g, i));
	ASSERT_EQ(NR_CHUNKS - 1, nr_huge(self));

	ASSERT_EQ(EHWPOISON, gmem_convert(g, GMEM_CHUNK_PAGES, GMEM_CHUNK_PAGES, PRIVATE));
	ASSERT_EQ(PAGE, g->error_page);

	gmem_punch_hole(g, GMEM_CHUNK_PAGES, GMEM_CHUNK_PAGES);
	ASSERT_EQ(0, gmem_read(g, PAGE));
	ASSERT_EQ(NR_CHUNKS, nr_huge(self));
	ASSERT_EQ(0, hwpoison_unpoison_all());
}

/* Have the host touch shared memory after a conversion. */
TEST_F(huge, fault_around)
{
	struct rusage before, after;
	int i;

	gmem_make_private(g, 0, NR_PAGES);
	gmem_fill(g, 0, NR_PAGES);
	gmem_make_shared(g, 0, NR_PAGES);
	gmem_make_private(g, PAGE, 1);
	/* Take faults for page tables before counting. */
	ASSERT_EQ(gmem_pattern(0), *gmem_hva(g, 0));
	ASSERT_EQ(gmem_pattern(GMEM_CHUNK_PAGES), *gmem_hva(g, GMEM_CHUNK_PAGES));

	getrusage(RUSAGE_SELF, &before);
	for (i = 0; i < 256; i++)
		WRITE_ONCE(*gmem_hva(g, GMEM_CHUNK_PAGES / 2 + i), i);
	getrusage(RUSAGE_SELF, &after);
	TH_LOG("%ld faults in a MiB", after.ru_minflt - before.ru_minflt);
	ASSERT_GE(20, after.ru_minflt - before.ru_minflt);

	/* Private pages are never mapped along with others. */
	ASSERT_EQ(gmem_pattern(PAGE - 1), *gmem_hva(g, PAGE - 1));
	ASSERT_EQ(0, hwpoison_mapped_pfn(gmem_hva(g, PAGE)));
	ASSERT_FALSE(gmem_host_can_access(g, PAGE, 1));
	ASSERT_EQ(gmem_pattern(PAGE + 1), *gmem_hva(g, PAGE + 1));
}

TEST_F(huge, prefault)
{
	struct kvm_pre_fault_memory range = {
		.gpa = GMEM_GPA,
		.size = (u64)NR_PAGES * PAGE_SIZE,
	};

	gmem_make_private(g, 0, NR_PAGES);
	gmem_make_shared(g, PAGE, 1);
	vcpu_ioctl(g->vcpu, KVM_PRE_FAULT_MEMORY, &range);
	ASSERT_EQ(0, range.size);
	ASSERT_EQ(NR_CHUNKS - 1, nr_huge(self));

	ASSERT_FAULTS(0, gmem_fill(g, 0, NR_PAGES));
}

static void slot_code(u64 gva, u64 nr)
{
	u64 i;

	for (i = 0; i < nr; i++)
		WRITE_ONCE(*(u64 *)(gva + i * PAGE_SIZE), i);
	for (i = 0; i < nr; i++)
		GUEST_ASSERT_EQ(READ_ONCE(*(u64 *)(gva + i * PAGE_SIZE)), i);
	GUEST_DONE();
}

/*
 * Where slot_code() accesses memory.  GMEM_GPA itself is already mapped, with
 * small pages.
 */
#define SLOT_GVA	BIT_ULL(40)

/* Create an ordinary VM, with memory in chunks regardless of the parameter. */
static void ordinary_create(struct gmem_vm *o, u64 flags, int nr_pages)
{
	bool on = gmem_set_hugepages(true);

	__gmem_vm_create(o, KVM_X86_DEFAULT_VM, flags, nr_pages);
	gmem_set_hugepages(on);
}

static void ordinary_create_shared(struct gmem_vm *o, int nr_pages)
{
	ordinary_create(o, GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED,
			nr_pages);
}

/*
 * Run slot_code(), at most once for each VM.  Return the number of huge pages
 * that KVM maps for it.
 */
static int ordinary_run(struct gmem_vm *o, u64 gva, u64 nr)
{
	u64 pages_2m = vm_get_stat(o->vm, pages_2m);
	struct kvm_vcpu *vcpu = vm_vcpu_add(o->vm, 1, slot_code);

	vcpu_args_set(vcpu, 2, gva, nr);
	vcpu_run(vcpu);
	gmem_get_ucall(vcpu, UCALL_DONE);
	return vm_get_stat(o->vm, pages_2m) - pages_2m;
}

/* Neighbours in the guest's address space aren't neighbours in its memory. */
TEST(shuffled)
{
	struct gmem_vm o;
	int i, page;

	ordinary_create_shared(&o, GMEM_CHUNK_PAGES);
	for (i = 0; i < GMEM_CHUNK_PAGES; i++) {
		page = i * 5 % GMEM_CHUNK_PAGES;
		virt_pg_map(o.vm, SLOT_GVA + i * PAGE_SIZE, GMEM_GPA + page * PAGE_SIZE);
	}
	ordinary_run(&o, SLOT_GVA, GMEM_CHUNK_PAGES);

	for (i = 0; i < GMEM_CHUNK_PAGES; i++)
		ASSERT_EQ(i, *gmem_hva(&o, i * 5 % GMEM_CHUNK_PAGES));
	gmem_vm_free(&o);
}

/* If the guest's own page tables use a huge page, so does KVM. */
TEST(mapped_huge_by_guest)
{
	struct gmem_vm o;

	ordinary_create_shared(&o, GMEM_CHUNK_PAGES);
	virt_map_level(o.vm, SLOT_GVA, GMEM_GPA, SZ_2M, PG_LEVEL_2M);
	ASSERT_EQ(1, ordinary_run(&o, SLOT_GVA, GMEM_CHUNK_PAGES));
	ASSERT_EQ(511, *gmem_hva(&o, 511));
	gmem_vm_free(&o);
}

/*
 * Access all pages of a memslot with @nr pages, @gfn pages after GMEM_GPA in
 * the guest and at @pgoff in the file.  Return the number of chunks that KVM
 * maps with huge pages.
 */
static int run_in_slot(int gfn, int pgoff, int nr, int file_pages)
{
	struct gmem_vm o;
	int i, nr_huge;

	ordinary_create_shared(&o, file_pages);
	gmem_set_slot(&o, GMEM_SLOT, 0, 0, 0);
	/* The alignment of the host's address must not matter. */
	vm_set_user_memory_region2(o.vm, GMEM_SLOT, KVM_MEM_GUEST_MEMFD,
				   GMEM_GPA + (u64)gfn * PAGE_SIZE,
				   (u64)nr * PAGE_SIZE, o.mem, o.fd,
				   (u64)pgoff * PAGE_SIZE);
	virt_map_level(o.vm, SLOT_GVA, GMEM_GPA, SZ_8M, PG_LEVEL_2M);
	nr_huge = ordinary_run(&o, SLOT_GVA + (u64)gfn * PAGE_SIZE, nr);

	for (i = 0; i < nr; i++)
		TEST_ASSERT_EQ(*gmem_hva(&o, pgoff + i), i);
	gmem_vm_free(&o);
	return nr_huge;
}

TEST(slots)
{
	/* Two whole chunks. */
	EXPECT_EQ(2, run_in_slot(0, 0, 1024, 1024));
	EXPECT_EQ(2, run_in_slot(512, 512, 1024, 1536));
	/* One whole chunk, with parts of others around it. */
	EXPECT_EQ(1, run_in_slot(256, 256, 1024, 1536));
	/* No whole chunk. */
	EXPECT_EQ(0, run_in_slot(1, 1, 511, 512));
	EXPECT_EQ(0, run_in_slot(256, 256, 512, 1024));
	/* The file ends before the chunk does. */
	EXPECT_EQ(0, run_in_slot(0, 0, 511, 511));
	EXPECT_EQ(1, run_in_slot(0, 0, 1023, 1023));
	/* The alignment differs between guest and file. */
	EXPECT_EQ(0, run_in_slot(0, 1, 1024, 1536));
	EXPECT_EQ(0, run_in_slot(512, 256, 1024, 1536));
	EXPECT_EQ(0, run_in_slot(1, 0, 1024, 1024));
}

/*
 * VMs without private memory ignore the attributes of their files.  Without
 * INIT_SHARED, all memory of these files is private.
 */
TEST(ordinary_vm_of_private_file)
{
	static const u64 flags[] = { 0, GUEST_MEMFD_FLAG_MMAP };
	struct gmem_vm g;
	u64 pages_2m;
	int i;

	for (i = 0; i < ARRAY_SIZE(flags); i++) {
		ordinary_create(&g, flags[i], NR_PAGES);
		pages_2m = vm_get_stat(g.vm, pages_2m);
		gmem_fill(&g, PAGE, 3);
		EXPECT_EQ(pages_2m + 1, vm_get_stat(g.vm, pages_2m));
		gmem_check(&g, PAGE, 3);
		gmem_vm_free(&g);
	}
}

GMEM_TEST_MAIN(gmem_vm_unsupported() ?: gmem_hugepages_unsupported())

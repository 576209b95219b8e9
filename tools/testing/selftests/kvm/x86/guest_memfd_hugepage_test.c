// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test guest_memfd memory that the guest maps with huge pages: when huge pages
 * are used, how changes to single pages affect them, and that the rules for
 * single pages still hold.
 */
#include <sys/resource.h>

#include "gmem_huge.h"

/*
 * Check the contents of the second chunk, except for PAGE.  Reading the other
 * pages must not cause any faults in the guest.
 */
static void check_others(struct gmem_vm *g)
{
	u64 faults = nr_faults(g);

	gmem_check(g, GMEM_CHUNK_PAGES, PAGE - GMEM_CHUNK_PAGES);
	gmem_check(g, PAGE + 1, 2 * GMEM_CHUNK_PAGES - PAGE - 1);
	TEST_ASSERT_EQ(nr_faults(g), faults);
}

static void populate(struct __test_metadata *_metadata, FIXTURE_DATA(huge) *self)
{
	u64 faults = nr_faults(g);

	gmem_fill(g, 0, NR_PAGES);
	ASSERT_EQ(NR_CHUNKS, nr_faults(g) - faults);
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
	convert(g, 0, NR_PAGES, PRIVATE);
	populate(_metadata, self);
}

/* References held by LRU caches must not make the conversion fail. */
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
	u64 faults, pfn;
	int i;

	convert(g, 0, NR_PAGES, from);
	gmem_fill(g, 0, NR_PAGES);

	convert(g, PAGE, 1, to);
	ASSERT_EQ(NR_CHUNKS - 1, nr_huge(self));
	check_others(g);
	for (i = GMEM_CHUNK_PAGES; i < 2 * GMEM_CHUNK_PAGES; i++)
		ASSERT_EQ(i == PAGE ? !to : !from, gmem_host_can_access(g, i, 1));

	faults = nr_faults(g);
	ASSERT_EQ(gmem_pattern(PAGE), gmem_read(g, PAGE));
	ASSERT_EQ(1, nr_faults(g) - faults);
	ASSERT_EQ(NR_CHUNKS - 1, nr_huge(self));

	/* One fault brings back the huge page. */
	convert(g, PAGE, 1, from);
	faults = nr_faults(g);
	ASSERT_EQ(gmem_pattern(PAGE), gmem_read(g, PAGE));
	ASSERT_EQ(1, nr_faults(g) - faults);
	ASSERT_EQ(NR_CHUNKS, nr_huge(self));
	gmem_check(g, 0, NR_PAGES);
	ASSERT_EQ(1, nr_faults(g) - faults);

	/* The memory is still one contiguous chunk. */
	convert(g, 0, NR_PAGES, 0);
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
	u64 faults;

	convert(g, 0, NR_PAGES, PRIVATE);
	gmem_fill(g, 0, NR_PAGES);

	convert(g, 10, 2 * GMEM_CHUNK_PAGES, 0);
	ASSERT_EQ(NR_CHUNKS - 3, nr_huge(self));
	faults = nr_faults(g);
	gmem_check(g, 0, 10);
	gmem_check(g, 2 * GMEM_CHUNK_PAGES + 10, 2 * GMEM_CHUNK_PAGES - 10);
	ASSERT_EQ(faults, nr_faults(g));

	gmem_check(g, 10, 2 * GMEM_CHUNK_PAGES);
	ASSERT_EQ(2 * GMEM_CHUNK_PAGES - 511, nr_faults(g) - faults);
	ASSERT_EQ(NR_CHUNKS - 2, nr_huge(self));
}

TEST_F(huge, chunk_to_shared)
{
	u64 faults;

	convert(g, 0, NR_PAGES, PRIVATE);
	gmem_fill(g, 0, NR_PAGES);
	convert(g, GMEM_CHUNK_PAGES, GMEM_CHUNK_PAGES, 0);
	ASSERT_EQ(NR_CHUNKS - 1, nr_huge(self));

	faults = nr_faults(g);
	gmem_check(g, 0, NR_PAGES);
	ASSERT_EQ(1, nr_faults(g) - faults);
	ASSERT_EQ(NR_CHUNKS, nr_huge(self));
}

TEST_F(huge, punch_one_page)
{
	gmem_fill(g, 0, NR_PAGES);
	gmem_punch_hole(g, PAGE, 1);
	ASSERT_EQ(NR_PAGES - 1, gmem_read_fdinfo(getpid(), g->fd).allocated);
	ASSERT_EQ(NR_CHUNKS - 1, gmem_read_fdinfo(getpid(), g->fd).chunks);
	check_others(g);
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

	if (!gmem_can_pin())
		SKIP(return, "CONFIG_GUP_TEST or debugfs is missing");

	gmem_fill(g, 0, NR_PAGES);
	fd = gmem_pin(g, PAGE + 1, 1);
	ASSERT_LE(0, fd);
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

	if (!gmem_can_pin())
		SKIP(return, "CONFIG_GUP_TEST or debugfs is missing");

	gmem_fill(g, 0, NR_PAGES);
	fd = gmem_pin(g, PAGE, 1);
	ASSERT_LE(0, fd);
	ASSERT_EQ(EAGAIN, gmem_convert(g, GMEM_CHUNK_PAGES, GMEM_CHUNK_PAGES, PRIVATE));
	ASSERT_EQ(PAGE, g->error_page);

	convert(g, GMEM_CHUNK_PAGES, PAGE - GMEM_CHUNK_PAGES, PRIVATE);
	convert(g, PAGE + 1, 2 * GMEM_CHUNK_PAGES - PAGE - 1, PRIVATE);
	gmem_check(g, 0, NR_PAGES);

	kvm_close(fd);
	convert(g, PAGE, 1, PRIVATE);
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

	convert(g, 0, NR_PAGES, PRIVATE);
	gmem_fill(g, 0, NR_PAGES);
	convert(g, 0, NR_PAGES, 0);
	convert(g, PAGE, 1, PRIVATE);
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
	u64 faults;

	convert(g, 0, NR_PAGES, PRIVATE);
	convert(g, PAGE, 1, 0);
	vcpu_ioctl(g->vcpu, KVM_PRE_FAULT_MEMORY, &range);
	ASSERT_EQ(0, range.size);
	ASSERT_EQ(NR_CHUNKS - 1, nr_huge(self));

	faults = nr_faults(g);
	gmem_fill(g, 0, NR_PAGES);
	ASSERT_EQ(faults, nr_faults(g));
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

struct ordinary {
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpu;
	char *mem;
	int fd;
	u64 pages_2m;
};

/* Create an ordinary VM and a file, but no memslot for the file yet. */
static void ordinary_create(struct ordinary *o, void *code, u64 file_pages)
{
	bool on = gmem_hugepages();

	o->vm = vm_create_with_one_vcpu(&o->vcpu, code);
	gmem_set_hugepages(true);
	o->fd = vm_create_guest_memfd(o->vm, file_pages * PAGE_SIZE,
				      GUEST_MEMFD_FLAG_MMAP |
				      GUEST_MEMFD_FLAG_INIT_SHARED);
	gmem_set_hugepages(on);
	o->mem = kvm_mmap(file_pages * PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED,
			  o->fd);
	o->pages_2m = vm_get_stat(o->vm, pages_2m);
}

static void ordinary_free(struct ordinary *o, u64 file_pages)
{
	kvm_munmap(o->mem, file_pages * PAGE_SIZE);
	kvm_close(o->fd);
	kvm_vm_free(o->vm);
}

static void ordinary_run(struct ordinary *o)
{
	vcpu_run(o->vcpu);
	gmem_get_ucall(o->vcpu, UCALL_DONE);
}

FIXTURE(ordinary) { };

FIXTURE_SETUP(ordinary) { }

FIXTURE_TEARDOWN(ordinary) { }

/* Neighbours in the guest's address space aren't neighbours in its memory. */
TEST_F(ordinary, shuffled)
{
	const u64 gva = 1ull << 40;
	struct ordinary o;
	int i, page;

	ordinary_create(&o, slot_code, GMEM_CHUNK_PAGES);
	vm_set_user_memory_region2(o.vm, GMEM_SLOT, KVM_MEM_GUEST_MEMFD, GMEM_GPA,
				   GMEM_CHUNK_PAGES * PAGE_SIZE, o.mem, o.fd, 0);
	for (i = 0; i < GMEM_CHUNK_PAGES; i++) {
		page = i * 5 % GMEM_CHUNK_PAGES;
		virt_pg_map(o.vm, gva + i * PAGE_SIZE, GMEM_GPA + page * PAGE_SIZE);
	}
	vcpu_args_set(o.vcpu, 2, gva, (u64)GMEM_CHUNK_PAGES);
	ordinary_run(&o);

	for (i = 0; i < GMEM_CHUNK_PAGES; i++)
		ASSERT_EQ(i, *(u64 *)(o.mem + i * 5 % GMEM_CHUNK_PAGES * PAGE_SIZE));
	ordinary_free(&o, GMEM_CHUNK_PAGES);
}

/* If the guest's own page tables use a huge page, so does KVM. */
TEST_F(ordinary, mapped_huge_by_guest)
{
	struct ordinary o;

	ordinary_create(&o, slot_code, GMEM_CHUNK_PAGES);
	vm_set_user_memory_region2(o.vm, GMEM_SLOT, KVM_MEM_GUEST_MEMFD, GMEM_GPA,
				   GMEM_CHUNK_PAGES * PAGE_SIZE, o.mem, o.fd, 0);
	virt_map_level(o.vm, GMEM_GPA, GMEM_GPA, SZ_2M, PG_LEVEL_2M);
	vcpu_args_set(o.vcpu, 2, GMEM_GPA, (u64)GMEM_CHUNK_PAGES);
	ordinary_run(&o);
	ASSERT_EQ(1, vm_get_stat(o.vm, pages_2m) - o.pages_2m);
	ASSERT_EQ(511, *(u64 *)(o.mem + 511 * PAGE_SIZE));
	ordinary_free(&o, GMEM_CHUNK_PAGES);
}

/*
 * Access all pages of a memslot with @nr pages, @gfn pages after GMEM_GPA in
 * the guest and at @pgoff in the file.  Return the number of chunks that KVM
 * maps with huge pages.
 */
static int run_in_slot(int gfn, int pgoff, int nr, int file_pages)
{
	struct ordinary o;
	int i, nr_huge;

	ordinary_create(&o, slot_code, file_pages);
	vm_set_user_memory_region2(o.vm, GMEM_SLOT, KVM_MEM_GUEST_MEMFD,
				   GMEM_GPA + (u64)gfn * PAGE_SIZE,
				   (u64)nr * PAGE_SIZE, o.mem, o.fd,
				   (u64)pgoff * PAGE_SIZE);
	virt_map_level(o.vm, GMEM_GPA, GMEM_GPA, SZ_8M, PG_LEVEL_2M);
	vcpu_args_set(o.vcpu, 2, GMEM_GPA + (u64)gfn * PAGE_SIZE, (u64)nr);
	ordinary_run(&o);

	for (i = 0; i < nr; i++)
		TEST_ASSERT_EQ(*(u64 *)(o.mem + (u64)(pgoff + i) * PAGE_SIZE), i);
	nr_huge = vm_get_stat(o.vm, pages_2m) - o.pages_2m;
	ordinary_free(&o, file_pages);
	return nr_huge;
}

TEST_F(ordinary, slots)
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
 * VMs without private memory ignore the attributes of their files, which are
 * private unless the file starts out as shared.
 */
TEST(ordinary_vm_of_private_file)
{
	static const u64 flags[] = { 0, GUEST_MEMFD_FLAG_MMAP };
	bool on = gmem_hugepages();
	struct gmem_vm g;
	u64 pages_2m;
	int i;

	for (i = 0; i < ARRAY_SIZE(flags); i++) {
		gmem_set_hugepages(true);
		__gmem_vm_create(&g, KVM_X86_DEFAULT_VM, flags[i], NR_PAGES);
		gmem_set_hugepages(on);

		pages_2m = vm_get_stat(g.vm, pages_2m);
		gmem_fill(&g, PAGE, 3);
		EXPECT_EQ(pages_2m + 1, vm_get_stat(g.vm, pages_2m));
		gmem_check(&g, PAGE, 3);
		gmem_vm_free(&g);
	}
}

GMEM_TEST_MAIN(gmem_vm_unsupported())

// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test huge pages of guest_memfd memory while vCPUs are running: if memslots
 * are recreated or the file is closed, a vCPU must see the current contents, or
 * exit because there is no memory.  vCPUs must make progress while a page of a
 * chunk is being converted.  A nested guest must see the same memory as the
 * guest that runs it.
 */
#include "gmem_huge.h"
#include "svm_util.h"

/* If there are fewer CPUs, some vCPUs get preempted in memslot lookups. */
#define NR_VCPUS	4
#define PASS_SECONDS	120
/* The value that the guest reads if the access exits as MMIO. */
#define NOTHING		~0ull

/* Written by the host. */
static u64 slot_seq;
static u64 generation;

/* Written by the guest: the number of pages that each vCPU has accessed. */
static u64 nr_pages[NR_VCPUS];

/* The slot's offsets in the file, in pages; about half rule out huge pages. */
static const int slot_pages[] = { 0, 512, 256, 1536, 768, 1024, 1280 };

static int slot_page(u64 seq)
{
	return slot_pages[seq / 2 % ARRAY_SIZE(slot_pages)];
}

/* Return true if page @i of a slot at any of these offsets may contain @value. */
static bool can_be_at(u64 i, u64 value)
{
	u64 page = value - gmem_pattern(i);

	return page < NR_PAGES && page % 256 == 0;
}

/*
 * Read all pages of the slot.  @slot_seq is odd while the slot is recreated.  A
 * read during which it is even and doesn't change must find the right page of
 * the file.
 */
static void guest_follow(u64 id)
{
	u64 i, seq, value, *p;

	while (!gmem_hammer_stopped()) {
		for (i = 0; i < GMEM_CHUNK_PAGES; i++) {
			p = (u64 *)(GMEM_GPA + i * PAGE_SIZE);
			seq = READ_ONCE(slot_seq);
			value = READ_ONCE(*p);

			if (seq % 2 == 0 && seq == READ_ONCE(slot_seq))
				GUEST_ASSERT_EQ(value, gmem_pattern(slot_page(seq) + i));
			else if (value != NOTHING)
				GUEST_ASSERT(can_be_at(i, value));

			/*
			 * The value must not depend on the slot's offset, which
			 * is a multiple of 256.
			 */
			WRITE_ONCE(p[1 + id], 1 + i % 256);
			nr_pages[id]++;
		}
	}
	GUEST_DONE();
}

/* Read all pages, again and again.  Each new file has its own @generation. */
static void guest_read_all(u64 id)
{
	u64 i, value;

	while (!gmem_hammer_stopped()) {
		for (i = 0; i < NR_PAGES; i++) {
			value = READ_ONCE(*(u64 *)(GMEM_GPA + i * PAGE_SIZE));
			GUEST_ASSERT_EQ(value, gmem_pattern(i) + READ_ONCE(generation));
			nr_pages[id]++;
		}
	}
	GUEST_DONE();
}

/* Wait until each vCPU has made @nr accesses that began after the call. */
static void wait_for_pages(struct kvm_vm *vm, int nr_vcpus, u64 nr)
{
	struct timespec start = time_now();
	u64 before[NR_VCPUS];
	int i;

	sync_global_from_guest(vm, nr_pages);
	memcpy(before, nr_pages, sizeof(before));

	for (i = 0; i < nr_vcpus; i++) {
		while (nr_pages[i] <= before[i] + nr) {
			TEST_ASSERT(elapsed_ms(start) < PASS_SECONDS * 1000,
				    "vCPU %d makes no progress", i);
			usleep(1000);
			sync_global_from_guest(vm, nr_pages);
		}
	}
}

static void set_slot_seq(struct kvm_vm *vm, u64 seq)
{
	slot_seq = seq;
	sync_global_to_guest(vm, slot_seq);
}

/* Without a memslot, there is no memory, so accesses are MMIO. */
TEST_F_TIMEOUT(huge, slot_under_vcpus, 600)
{
	/* Wait for all pages to be read in every eighth round. */
	const int nr_rounds = 32 * ARRAY_SIZE(slot_pages);
	struct gmem_hammer hammers[NR_VCPUS];
	bool whole;
	int i, j;

	for (i = 0; i < NR_PAGES; i++)
		*gmem_hva(g, i) = gmem_pattern(i);
	gmem_make_private(g, GMEM_CHUNK_PAGES, GMEM_CHUNK_PAGES);
	gmem_set_slot(g, GMEM_SLOT, 0, 0, 0);
	gmem_set_slot(g, GMEM_SLOT, 0, GMEM_CHUNK_PAGES, slot_page(0));

	__gmem_hammer_start(g, hammers, NR_VCPUS, HAMMER_MMIO, guest_follow);

	for (i = 1; i <= nr_rounds; i++) {
		set_slot_seq(g->vm, 2 * i - 1);
		gmem_set_slot(g, GMEM_SLOT, 0, 0, 0);
		/* Convert a page while it is in no slot. */
		gmem_make_attributes(g, PAGE, 1, i % 2 ? SHARED : PRIVATE);
		gmem_set_slot(g, GMEM_SLOT, 0, GMEM_CHUNK_PAGES, slot_page(2 * i));
		set_slot_seq(g->vm, 2 * i);

		wait_for_pages(g->vm, NR_VCPUS, i % 8 ? 1 : GMEM_CHUNK_PAGES);
		whole = slot_page(2 * i) % GMEM_CHUNK_PAGES == 0 &&
			(slot_page(2 * i) != GMEM_CHUNK_PAGES || i % 2 == 0);
		ASSERT_EQ(whole, nr_huge(self)) {
			TH_LOG("round %d, from page %d on", i, slot_page(2 * i));
		}
	}

	gmem_hammer_stop(g, hammers, NR_VCPUS);

	gmem_make_shared(g, 0, NR_PAGES);
	for (i = 0; i < NR_PAGES; i++) {
		ASSERT_EQ(gmem_pattern(i), *gmem_hva(g, i));
		for (j = 1; j <= NR_VCPUS; j++)
			ASSERT_EQ(1 + i % 256, gmem_hva(g, i)[j]);
	}
}

/* With a memslot but without its file, there is no memory, either. */
TEST_F_TIMEOUT(huge, file_closed_under_vcpu, 600)
{
	const u64 size = (u64)NR_PAGES * PAGE_SIZE;
	struct gmem_hammer hammer;
	struct kvm_run *run;
	u64 round;
	bool on;
	int i;

	for (round = 1; round <= 10; round++) {
		for (i = 0; i < NR_PAGES; i++)
			*gmem_hva(g, i) = gmem_pattern(i) + (round << 48);
		gmem_make_private(g, GMEM_CHUNK_PAGES, 2 * GMEM_CHUNK_PAGES);
		generation = round << 48;
		sync_global_to_guest(g->vm, generation);

		/* The vCPU first repeats the access that failed. */
		if (round == 1)
			__gmem_hammer_start(g, &hammer, 1, HAMMER_ONCE, guest_read_all);
		else
			gmem_hammer_resume(&hammer);
		wait_for_pages(g->vm, 1, NR_PAGES);
		ASSERT_EQ(NR_CHUNKS, nr_huge(self));

		/* The mapping holds a reference to the file as well. */
		kvm_munmap(g->mem, size);
		kvm_close(g->fd);
		gmem_hammer_join(&hammer, 1);
		run = hammer.vcpu->run;
		ASSERT_EQ(EFAULT, hammer.err);
		ASSERT_EQ(KVM_EXIT_MEMORY_FAULT, run->exit_reason);
		ASSERT_EQ(0, run->memory_fault.flags);
		ASSERT_LE(GMEM_GPA, run->memory_fault.gpa);
		ASSERT_GT(GMEM_GPA + size, run->memory_fault.gpa);
		ASSERT_EQ(0, nr_huge(self));

		on = gmem_set_hugepages(true);
		g->fd = gmem_create_shared(g, size);
		gmem_set_hugepages(on);
		g->mem = kvm_mmap(size, PROT_READ | PROT_WRITE, MAP_SHARED, g->fd);
		gmem_set_slot(g, GMEM_SLOT, 0, 0, 0);
		gmem_set_slot(g, GMEM_SLOT, 0, NR_PAGES, 0);
	}
}

static bool flip(u64 n)
{
	gmem_make_attributes(g, PAGE, 1, n % 2 ? SHARED : PRIVATE);
	return true;
}

/*
 * While one page is converted all the time, faults on any page of its chunk
 * retry, but not forever.
 */
TEST_F_TIMEOUT(huge, one_page_flipping, 600)
{
	struct gmem_hammer hammers[NR_VCPUS];
	struct worker flipper = { "convert", flip };
	u64 taken = 0, fixed = 0, longest = 0;
	int i;

	for (i = 0; i < NR_PAGES; i++)
		*gmem_hva(g, i) = gmem_pattern(i);
	workers_start(&flipper, 1);
	__gmem_hammer_start(g, hammers, NR_VCPUS, HAMMER_LOSSLESS, guest_read_all);

	for (i = 0; i < 20; i++) {
		struct timespec start = time_now();

		wait_for_pages(g->vm, NR_VCPUS, NR_PAGES);
		longest = max(longest, elapsed_ms(start));

		/* Make the vCPUs fault on its neighbours again. */
		gmem_make_attributes(g, PAGE + 1, 200, i % 2 ? SHARED : PRIVATE);
	}

	gmem_hammer_stop(g, hammers, NR_VCPUS);
	workers_stop(&flipper, 1);
	for (i = 0; i < NR_VCPUS; i++) {
		taken += vcpu_get_stat(hammers[i].vcpu, pf_taken);
		fixed += vcpu_get_stat(hammers[i].vcpu, pf_fixed);
	}
	TH_LOG("%lu conversions, %lu faults, %lu mappings, a pass took %lu ms at most",
	       flipper.nr_done, taken, fixed, longest);
	ASSERT_LT(0, fixed);
	ASSERT_LT(1, flipper.nr_done);
}

/* Written by the host: the next page for the nested guest to read. */
static u64 l2_page;

static void l2_code(void)
{
	for (;;)
		GUEST_SYNC(READ_ONCE(*(u64 *)(GMEM_GPA + READ_ONCE(l2_page) * PAGE_SIZE)));
}

static void l1_code(struct svm_test_data *svm)
{
	generic_svm_setup(svm, l2_code);
	run_guest(svm->vmcb, svm->vmcb_gpa);
	GUEST_FAIL("The nested guest has exited, reason: 0x%lx",
		   svm->vmcb->control.exit_code);
}

static u64 l2_read(struct kvm_vcpu *vcpu, int page)
{
	l2_page = page;
	sync_global_to_guest(g->vm, l2_page);
	vcpu_run(vcpu);
	return gmem_get_ucall(vcpu, UCALL_SYNC);
}

/* Test nested paging, with tables that KVM builds from those of the guest. */
TEST_F_TIMEOUT(huge, nested, 600)
{
	struct kvm_vcpu *vcpu;
	gva_t svm;
	int i;

	if (!kvm_cpu_has(X86_FEATURE_SVM) || !kvm_cpu_has_tdp())
		SKIP(return, "no nested SVM with nested paging");

	vcpu = vm_vcpu_add(g->vm, 1, l1_code);
	vm_enable_tdp(g->vm);
	vcpu_alloc_svm(g->vm, &svm);
	vcpu_args_set(vcpu, 1, svm);
	for (i = 0; i < NR_CHUNKS; i++)
		__virt_pg_map(g->vm, &g->vm->stage2_mmu, GMEM_GPA + i * SZ_2M,
			      GMEM_GPA + i * SZ_2M, PG_LEVEL_2M);
	tdp_identity_map_default_memslots(g->vm);

	gmem_make_private(g, 0, NR_PAGES);
	gmem_fill(g, 0, NR_PAGES);
	ASSERT_EQ(NR_CHUNKS, nr_huge(self));
	ASSERT_EQ(gmem_pattern(PAGE), l2_read(vcpu, PAGE));
	ASSERT_EQ(NR_CHUNKS + 1, nr_huge(self));

	/* Neither guest nor nested guest keeps the huge page of this chunk. */
	gmem_make_shared(g, PAGE, 1);
	ASSERT_EQ(NR_CHUNKS - 1, nr_huge(self));
	*gmem_hva(g, PAGE) = 0x1111;
	ASSERT_EQ(0x1111, l2_read(vcpu, PAGE));
	ASSERT_EQ(gmem_pattern(PAGE + 1), l2_read(vcpu, PAGE + 1));
	ASSERT_EQ(NR_CHUNKS - 1, nr_huge(self));

	/* The nested guest must read the new page. */
	gmem_punch_hole(g, PAGE, 1);
	ASSERT_EQ(0, l2_read(vcpu, PAGE));

	gmem_punch_hole(g, GMEM_CHUNK_PAGES, GMEM_CHUNK_PAGES);
	gmem_make_private(g, PAGE, 1);
	gmem_fill(g, GMEM_CHUNK_PAGES, GMEM_CHUNK_PAGES);
	for (i = GMEM_CHUNK_PAGES; i < 2 * GMEM_CHUNK_PAGES; i++)
		ASSERT_EQ(gmem_pattern(i), l2_read(vcpu, i));
	ASSERT_EQ(NR_CHUNKS + 1, nr_huge(self));
}

GMEM_TEST_MAIN(gmem_vm_unsupported() ?: gmem_hugepages_unsupported())

// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test that huge pages never give a guest access to the wrong memory: vCPUs
 * touch all pages of two chunks, and the host touches the shared ones, while
 * one thread converts, punches and writes at random, and tracks the expected
 * contents of each page.
 *
 * With CONFIG_KVM_PROVE_MMU, KVM checks each huge page that it maps.
 *
 * usage: guest_memfd_hugepage_stress_test [harness options] [seconds]
 */
#include "gmem_test.h"

#define NR_PAGES	(2 * GMEM_CHUNK_PAGES)
#define NR_HAMMERS	2

static int nr_seconds = 20;

/* The first word of a page: zero, or the page's number and a count of writes. */
static u64 pattern(int page, u32 seq)
{
	return ((u64)(page + 1) << 32) | seq;
}

#define IS_VALID(value, page)	(!(value) || (value) >> 32 == (u64)(page) + 1)

/* Read the first word of all pages, and write to a word that no other vCPU uses. */
static void guest_stress(u64 id)
{
	u64 page = id, value, *p;

	while (!gmem_hammer_stopped()) {
		page = (page * 5 + 3) % NR_PAGES;
		p = (u64 *)(GMEM_GPA + page * PAGE_SIZE);
		value = READ_ONCE(*p);
		__GUEST_ASSERT(IS_VALID(value, page), "Page %lu contains 0x%lx", page, value);
		WRITE_ONCE(p[1 + id], page);
	}
	GUEST_DONE();
}

static void *run_host(void *arg)
{
	struct kvm_random_state rng = new_kvm_random_state(kvm_random_seed + 1);
	u64 value;
	int page;

	while (!gmem_hammer_stopped()) {
		page = kvm_random_u32(&rng) % NR_PAGES;
		if (try_read(gmem_hva(g, page), &value))
			TEST_ASSERT(IS_VALID(value, page), "Page %d contains 0x%lx", page,
				    value);
	}
	return NULL;
}

FIXTURE(stress) {
	u64 values[NR_PAGES];
	bool private[NR_PAGES];
	u32 seq;
};

FIXTURE_SETUP(stress)
{
	gmem_vm_create_huge(g, NR_PAGES);
}

FIXTURE_TEARDOWN(stress)
{
	gmem_vm_free(g);
}

/* Pick a few pages, a chunk, all pages, or any range. */
static int random_pages(struct kvm_random_state *rng, int *nr)
{
	int page = kvm_random_range(rng, NR_PAGES, nr);

	switch (kvm_random_u32(rng) % 8) {
	case 0:
		*nr = GMEM_CHUNK_PAGES;
		return round_down(page, GMEM_CHUNK_PAGES);
	case 1:
		return page;
	case 2:
		*nr = NR_PAGES;
		return 0;
	default:
		*nr = 1 + kvm_random_u32(rng) % min(8, NR_PAGES - page);
		return page;
	}
}

static void do_convert(FIXTURE_DATA(stress) *self, struct kvm_random_state *rng,
		       int page, int nr)
{
	bool to_private = kvm_random_bool(rng);
	int i;

	/* Keep memory mostly private, or huge pages would be too rare. */
	if (nr >= GMEM_CHUNK_PAGES)
		to_private = true;

	gmem_make_attributes(g, page, nr, to_private ? PRIVATE : SHARED);
	for (i = page; i < page + nr; i++)
		self->private[i] = to_private;
}

static void do_punch(FIXTURE_DATA(stress) *self, int page, int nr)
{
	gmem_punch_hole(g, page, nr);
	memset(&self->values[page], 0, nr * sizeof(self->values[0]));
}

/* The guest must read what the host wrote, and vice versa. */
static void do_write(FIXTURE_DATA(stress) *self, struct kvm_random_state *rng,
		     int page)
{
	self->values[page] = pattern(page, ++self->seq);
	if (!self->private[page] && kvm_random_bool(rng))
		WRITE_ONCE(*gmem_hva(g, page), self->values[page]);
	else
		gmem_write(g, page, self->values[page]);
}

static void do_read(FIXTURE_DATA(stress) *self, int page)
{
	u64 value;

	value = gmem_read(g, page);
	TEST_ASSERT(value == self->values[page], "Guest's page %d contains 0x%lx, not 0x%lx",
		    page, value, self->values[page]);

	TEST_ASSERT(try_read(gmem_hva(g, page), &value) == !self->private[page],
		    "The host %s page %d", self->private[page] ?
		    "can access private" : "can't access shared", page);
	TEST_ASSERT(self->private[page] || value == self->values[page],
		    "Host's page %d contains 0x%lx, not 0x%lx", page, value,
		    self->values[page]);
}

TEST_F_TIMEOUT(stress, oracle, 24 * 60 * 60)
{
	struct kvm_random_state rng = new_kvm_random_state(kvm_random_seed);
	struct gmem_hammer hammers[NR_HAMMERS];
	struct timespec start = time_now();
	u64 nr_done, pages_2m = 0, max_us = 0;
	int page, nr;
	pthread_t host;

	catch_sigbus();
	gmem_write(g, 0, 0);

	__gmem_hammer_start(g, hammers, NR_HAMMERS, HAMMER_LOSSLESS, guest_stress);
	kvm_pthread_create(&host, NULL, run_host, NULL);

	for (nr_done = 0; elapsed_ms(start) < nr_seconds * 1000ull; nr_done++) {
		struct timespec before = time_now();

		page = random_pages(&rng, &nr);
		switch (kvm_random_u32(&rng) % 16) {
		case 0:
			do_punch(self, page, nr);
			break;
		case 1 ... 6:
			do_convert(self, &rng, page, nr);
			break;
		default:
			do_write(self, &rng, page);
		}
		max_us = max(max_us, elapsed_us(before));
		do_read(self, page);
		do_read(self, page + nr - 1);
		if (nr_done % 16 == 0)
			pages_2m = max(pages_2m, vm_get_stat(g->vm, pages_2m));
	}

	gmem_hammer_stop(g, hammers, NR_HAMMERS);
	kvm_pthread_join(host, NULL);

	TH_LOG("%lu steps, at most %lu huge pages, the longest step took %lu us",
	       nr_done, pages_2m, max_us);
	for (page = 0; page < NR_PAGES; page++)
		do_read(self, page);
	ASSERT_LT(0, pages_2m);
}

GMEM_TEST_MAIN_NUMBER(gmem_vm_unsupported() ?: gmem_hugepages_unsupported(),
		      nr_seconds)

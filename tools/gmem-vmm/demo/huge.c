// SPDX-License-Identifier: GPL-2.0
/*
 * The steps of the demonstration in which the guest's memory is mapped with
 * huge pages: the effects of converting one page.
 */
#include <stdio.h>

#include "../vmm/kvm-stats.h"
#include "checks.h"
#include "huge.h"

#define PARAMETER	"/sys/module/kvm/parameters/gmem_hugepages"
#define BULK_CHUNKS	(BULK_PAGES / CHUNK_PAGES)

/* KVM's statistics. */
struct counts {
	__u64 large;		/* mappings of 2 MiB */
	__u64 small;		/* mappings of 4 KiB */
	__u64 faults;		/* of the guest */
};

static int vm_stats, vcpu_stats;
static struct counts empty, full, split;

static unsigned long fdinfo_of(const struct vm *vm, const char *field)
{
	char file[64];

	snprintf(file, sizeof(file), "/proc/self/fdinfo/%d", vm->gmem_fd);
	return proc_sum(file, field);
}

unsigned long huge_page_bytes(const struct vm *vm)
{
	return fdinfo_of(vm, "gmem-page-size:");
}

static struct counts counts_take(void)
{
	return (struct counts) {
		.large = kvm_stats_read(vm_stats, "pages_2m"),
		.small = kvm_stats_read(vm_stats, "pages_4k"),
		.faults = kvm_stats_read(vcpu_stats, "pf_taken"),
	};
}

void huge_init(const struct vm *vm, const struct vcpu *vcpu)
{
	vm_stats = kvm_stats_open(vm->fd);
	vcpu_stats = kvm_stats_open(vcpu->fd);
}

void huge_before(void)
{
	empty = counts_take();
}

static void skip(const char *why)
{
	say("   SKIPPED: %s", why);
	demo.no_huge = true;
	demo.step = STEP_HUGE_BACK;
	title("Conversions under a running vCPU");
}

/* The guest has read all of the bulk memory, which is private. */
void step_huge(struct vm *vm)
{
	__u32 *huge = at(vm, NOTE_PAGE, NOTE_HUGE - GPA(NOTE_PAGE));

	title("Huge pages: one 4 KiB page of 2 MiB converted, and converted back");
	if (!demo.huge) {
		skip("kvm.gmem_hugepages is off. Turn it on and run this again: echo 1 > " PARAMETER);
		return;
	}
	if (fdinfo_of(vm, "gmem-chunks:") < BULK_CHUNKS + 1) {
		skip("not all memory is in chunks of 2 MiB. Free memory and run this again.");
		return;
	}
	full = counts_take();
	check(full.large == empty.large + BULK_CHUNKS && full.small <= empty.small,
	      "%llu more mappings of 2 MiB for the %lu MiB with marks, and none of 4 KiB added",
	      full.large - empty.large, BULK_PAGES * PAGE_BYTES >> 20);
	*huge = true;
}

/* The guest has not touched the chunk since the conversion. */
void step_huge_one(struct vm *vm)
{
	(void)vm;
	split = counts_take();
	check(split.large == full.large - 1,
	      "mappings of 2 MiB: %llu before, %llu now", full.large, split.large);
	check(split.small == full.small + CHUNK_PAGES - 1,
	      "mappings of 4 KiB: %llu before, %llu now: the other %d pages stay mapped",
	      full.small, split.small, CHUNK_PAGES - 1);
}

void step_huge_read(struct vm *vm)
{
	struct counts now = counts_take();

	check(now.faults == split.faults + 1,
	      "the guest read all %d pages with %llu fault, for the page that changed",
	      CHUNK_PAGES, now.faults - split.faults);
	check_sigbus(vm, HUGE_PAGE - 1, false);
	check(!touch_read(at(vm, HUGE_PAGE, AT_TOUCH)).fault,
	      "the host can read page %d, but not the one before it", HUGE_PAGE);
	split = counts_take();
}

void step_huge_back(struct vm *vm)
{
	struct counts now = counts_take();

	(void)vm;
	check(now.faults == split.faults + 1 && now.large == full.large,
	      "the guest read all marks with %llu fault: there are %llu mappings of 2 MiB again",
	      now.faults - split.faults, now.large);
	check(now.small == full.small, "and %llu mappings of 4 KiB, as before", now.small);
	title("Conversions under a running vCPU");
}

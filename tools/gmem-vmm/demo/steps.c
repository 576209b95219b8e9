// SPDX-License-Identifier: GPL-2.0
/*
 * The steps of the demonstration.  The guest (guest.S) drives it: after each of
 * its steps, the host checks the result.
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "checks.h"
#include "errors.h"
#include "huge.h"
#include "steps.h"

#define BULK_KB		(BULK_PAGES * PAGE_BYTES / 1024)

static void step_shared(struct vm *vm)
{
	check_text(vm, AT_HOST, TEXT_HOST);
	check_text(vm, AT_GUEST, TEXT_GUEST);
	check(frame_of(at(vm, DATA_PAGE, 0), &demo.frame), "the host has page %u mapped",
	      DATA_PAGE);
	title("To private: the contents stay, the host is shut out");
}

static void step_private(struct vm *vm)
{
	__u8 used[FILE_PAGES];
	__u64 frame;
	int err;

	check_sigbus(vm, DATA_PAGE, false);
	check_sigbus(vm, DATA_PAGE, true);
	check_sigbus(vm, DATA_PAGE + 1, true);
	say("       A private page belongs to the guest alone.  The mapping is still there,\n"
	    "       as a range of addresses, but touching such a page raises SIGBUS, which\n"
	    "       the VMM catches.  No harm is done, and access works again when the page\n"
	    "       is shared.");
	err = syscall_touch(at(vm, DATA_PAGE, 0));
	check(err == EFAULT, "a system call on page %u fails, without a signal: %s",
	      DATA_PAGE, strerror(err));
	check(!frame_of(at(vm, DATA_PAGE, 0), &frame), "page %u is not in the host's page tables",
	      DATA_PAGE);
	pages_in_memory(vm, used);
	/* With huge pages, DATA_PAGE + 1 was allocated together with DATA_PAGE. */
	if (!demo.huge)
		check(!used[DATA_PAGE + 1],
		      "page %u is still untouched: SIGBUS allocates nothing",
		      DATA_PAGE + 1);
	title("To shared again: the same bytes in the same frame");
}

static void step_back(struct vm *vm)
{
	__u64 frame;

	check_text(vm, AT_HOST, TEXT_HOST);
	check_text(vm, AT_GUEST, TEXT_GUEST);
	check_text(vm, AT_PRIVATE, TEXT_PRIVATE);
	check(frame_of(at(vm, DATA_PAGE, 0), &frame), "the host has page %u mapped", DATA_PAGE);
	if (frame && demo.frame)
		check(frame == demo.frame, "physical frame of page %u: %#llx before, %#llx now",
		      DATA_PAGE, demo.frame, frame);
	else
		say("   note: only root can see physical frames in /proc/self/pagemap");
	memcpy(at(vm, DATA_PAGE, AT_ANSWER), TEXT_ANSWER, sizeof(TEXT_ANSWER));
}

static void step_bulk(struct vm *vm)
{
	title("A lot of memory, first touched while private: there is only one copy of it");
	usage_take(&demo.empty, vm);
	huge_before();
}

static void step_bulk_full(struct vm *vm)
{
	usage_take(&demo.full, vm);
	check(demo.full.file_kb - demo.empty.file_kb == BULK_KB,
	      "the guest touched %lu KiB, and the file grew by %lu KiB", BULK_KB,
	      demo.full.file_kb - demo.empty.file_kb);
}

static void step_bulk_back(struct vm *vm)
{
	unsigned long i, found = 0;
	__u32 *mark;

	for (i = 0; i < BULK_PAGES; i++) {
		mark = at(vm, BULK_PAGE + i, 0);
		found += mark[0] == GPA(BULK_PAGE + i);
		mark[1] = ~mark[0];
	}
	check(found == BULK_PAGES, "the host finds the guest's mark in %lu of %u pages", found,
	      BULK_PAGES);
	usage_take(&demo.shared, vm);
}

static void show_usage(const char *when, const struct usage *usage)
{
	say("     %-28s%10lu KiB%9lu KiB%13lu KiB", when, usage->file_kb, usage->own_kb,
	    usage->avail_kb);
}

static void step_bulk_done(struct vm *vm)
{
	int tries = 50;

	/* Other processes use memory as well, but a second copy would not go away. */
	do {
		usage_take(&demo.again, vm);
	} while (demo.again.avail_kb + BULK_KB / 2 < demo.full.avail_kb &&
		 --tries && !usleep(100000));

	say("     %-28s%14s%13s%17s", "memory", "in the file", "VMM's own", "left on machine");
	show_usage("before", &demo.empty);
	show_usage("guest wrote all pages", &demo.full);
	show_usage("made shared, host wrote all", &demo.shared);
	show_usage("made private, guest read all", &demo.again);
	check(demo.full.file_kb == demo.shared.file_kb && demo.full.file_kb == demo.again.file_kb,
	      "the file's memory has neither grown nor shrunk since the guest wrote all pages");
	check(demo.again.own_kb < demo.full.own_kb + BULK_KB / 2,
	      "the VMM keeps no copy of its own");
	check(demo.again.avail_kb + BULK_KB / 2 > demo.full.avail_kb,
	      "and there is no second copy elsewhere: %lu KiB left on the machine, %lu KiB after the guest wrote all pages",
	      demo.again.avail_kb, demo.full.avail_kb);
}

static void *run_counter(void *unused)
{
	(void)unused;
	vcpu_run(&demo.counter);
	return NULL;
}

static void step_live(struct vm *vm)
{
	demo.conversions = vm->conversions;
	vcpu_create(&demo.counter, vm, 1);
	vcpu_set_flat32(&demo.counter, GPA(CODE_PAGE) + (guest_counter - guest_image));
	if (pthread_create(&demo.thread, NULL, run_counter, NULL))
		die("pthread_create failed");
	say("   the second vCPU counts in page %u, and continues while the page is converted",
	    COUNT_PAGE);
}

static void step_live_done(struct vm *vm)
{
	__u32 *count = at(vm, COUNT_PAGE, 0);

	pthread_join(demo.thread, NULL);
	demo.conversions = vm->conversions - demo.conversions;
	check(demo.conversions == 2 * LIVE_ROUNDS && !vm->is_private[COUNT_PAGE],
	      "%lu conversions, and the counting continued in each state", demo.conversions);
	check(*count == demo.counted, "the page contains %u, the vCPU counted to %u: no write was lost",
	      *count, demo.counted);
	say("   (accesses that were overtaken by a conversion and repeated: %lu)",
	    demo.counter.overtaken);
	title("An invalid request");
}

static void step_busy(struct vm *vm)
{
	const char *who;
	unsigned int i;

	title("A busy page");
	for (i = 0; i < BUSY_PAGES; i++)
		touch_write(at(vm, BUSY_PAGE + i, AT_TOUCH));
	who = pin_page(&demo.pin, at(vm, PINNED_PAGE, 0));
	say("   page %u is now held by %s", PINNED_PAGE, who);
}

static void step_busy_done(struct vm *vm)
{
	check(vm->refusals, "refused at first, and converted once the page was no longer in use");
	check_sigbus(vm, PINNED_PAGE, false);
}

void demo_step(struct vm *vm, int step)
{
	static void (*const steps[])(struct vm *vm) = {
		[STEP_SHARED] = step_shared,
		[STEP_PRIVATE] = step_private,
		[STEP_BACK] = step_back,
		[STEP_BULK] = step_bulk,
		[STEP_BULK_FULL] = step_bulk_full,
		[STEP_BULK_BACK] = step_bulk_back,
		[STEP_BULK_DONE] = step_bulk_done,
		[STEP_HUGE] = step_huge,
		[STEP_HUGE_ONE] = step_huge_one,
		[STEP_HUGE_READ] = step_huge_read,
		[STEP_HUGE_BACK] = step_huge_back,
		[STEP_LIVE] = step_live,
		[STEP_LIVE_DONE] = step_live_done,
		[STEP_BUSY] = step_busy,
		[STEP_BUSY_DONE] = step_busy_done,
		[STEP_ERROR] = step_error,
		[STEP_STRIKE] = step_strike,
		[STEP_REPLACED] = step_replaced,
		[STEP_STRIKE2] = step_strike2,
		[STEP_ERROR_DONE] = step_error_done,
	};

	if (step != demo.step + 1 || step > STEP_END)
		die("the guest went astray: step %d after step %d", step, demo.step);
	demo.step = step;
	if (step < STEP_END && steps[step])
		steps[step](vm);
}

// SPDX-License-Identifier: GPL-2.0
/*
 * The steps of the demonstration in which memory fails.
 */
#include <errno.h>
#include <string.h>

#include "checks.h"
#include "errors.h"

/* The page with a memory error that has not been replaced yet, or 0. */
static unsigned long lost_page;

static void lost_page_is(const struct vm *vm, unsigned long page, const char *label)
{
	struct map_row row;

	lost_page = page;
	map_lost(page);
	map_take(&row, vm, 0);
	map_show(label, &row);
}

/*
 * Look up the frame while the page is shared.  As conversion is in place, the
 * frame stays the same when the page is private.
 */
void step_error(struct vm *vm)
{
	__u32 *errors = at(vm, NOTE_PAGE, NOTE_ERRORS - GPA(NOTE_PAGE));
	int err = strike_possible();
	bool mapped;

	title("A memory error in a private page");
	touch_read(at(vm, LOST_PAGE, 0));
	mapped = frame_of(at(vm, LOST_PAGE, 0), &demo.lost_frame);
	if (!err && mapped && !demo.lost_frame)
		err = EPERM;
	if (err) {
		say("   SKIPPED: memory errors cannot be injected here (%s).\n"
		    "   This requires root, debugfs mounted, and a kernel with CONFIG_HWPOISON_INJECT\n"
		    "   (if that is a module: modprobe hwpoison-inject).", strerror(err));
		demo.skipped = true;
		demo.step = STEP_END - 1;
		return;
	}
	check(mapped, "the host has page %u mapped, at physical frame %#llx", LOST_PAGE,
	      demo.lost_frame);
	demo.lost_kb = memory_lost_kb();
	*errors = true;
}

static void strike(struct vm *vm, unsigned long page)
{
	int err;

	say("   an uncorrected memory error is injected into frame %#llx, page %lu",
	    demo.lost_frame, page);
	err = strike_frame(demo.lost_frame);
	check(!err, "the kernel has handled it: %s", err ? strerror(err) : "no error");
	check(memory_lost_kb() == demo.lost_kb + PAGE_BYTES / 1024,
	      "the machine has lost memory: HardwareCorrupted is %lu KiB, was %lu KiB",
	      memory_lost_kb(), demo.lost_kb);
	lost_page_is(vm, page, "struck");
}

/* A hole has been punched, so the frame is no longer in use. */
static void heal(void)
{
	int err = heal_frame(demo.lost_frame);

	if (err) {
		say("   note: frame %#llx cannot be unpoisoned: %s", demo.lost_frame, strerror(err));
		demo.lost_kb = memory_lost_kb();
		return;
	}
	check(memory_lost_kb() == demo.lost_kb,
	      "the frame is unpoisoned: HardwareCorrupted is %lu KiB, as before", demo.lost_kb);
}

void step_strike(struct vm *vm)
{
	strike(vm, LOST_PAGE);
	say("       No signal is sent, as no host mapping is affected.  The guest has not\n"
	    "       noticed either: KVM has only removed its mapping of the page.");
}

/*
 * The guest's access has failed, and the hole is punched; the guest has not
 * been entered again yet.
 */
void demo_lost_page(struct vm *vm, __u64 gpa, bool private)
{
	unsigned long page = (gpa - vm->gpa) / PAGE_BYTES;
	__u8 used[FILE_PAGES];

	say("   the guest's access fails: KVM_RUN returns EHWPOISON with KVM_EXIT_MEMORY_FAULT");
	check(lost_page && page == lost_page && private == vm->is_private[page],
	      "the exit names a %s access at %#llx, which is page %lu",
	      private ? "private" : "shared", gpa, page);
	say("   the VMM punches a hole over the page (fallocate, FALLOC_FL_PUNCH_HOLE), injects\n"
	    "   a machine check into the guest (KVM_X86_SET_MCE), and enters it again");
	pages_in_memory(vm, used);
	check(!used[page], "page %lu has no memory now, and is still %s", page,
	      vm->is_private[page] ? "private" : "shared");
	lost_page_is(vm, 0, "punched");
}

static void check_told(const struct vm *vm, unsigned long page)
{
	const __u32 *lost = at(vm, NOTE_PAGE, NOTE_LOST - GPA(NOTE_PAGE));

	check(!lost_page && *lost == GPA(page),
	      "the guest's machine check reported address %#x, which is page %lu", *lost, page);
}

void step_replaced(struct vm *vm)
{
	check_told(vm, LOST_PAGE);
	heal();
}

void step_strike2(struct vm *vm)
{
	void *addr = at(vm, LOST_PAGE2, AT_TOUCH);
	const char *text = at(vm, LOST_PAGE, AT_PRIVATE);
	struct touch touch;
	bool mapped;
	__u64 frame;

	check(!strcmp(text, TEXT_FRESH), "the host reads \"%s\" in page %u", text, LOST_PAGE);
	mapped = frame_of(text, &frame);
	check(mapped && frame != demo.lost_frame,
	      "physical frame of page %u: %#llx before, %#llx now", LOST_PAGE, demo.lost_frame,
	      frame);

	title("A memory error in a shared page, and a conversion");
	check(frame_of(addr, &demo.lost_frame), "the host has page %u mapped", LOST_PAGE2);
	strike(vm, LOST_PAGE2);
	touch = touch_read(addr);
	check(touch.fault && touch.code == BUS_MCEERR_AR,
	      "host reads page %u: SIGBUS, BUS_MCEERR_AR (code %d)", LOST_PAGE2, touch.code);
}

/* A conversion has failed because of a lost page. */
void demo_poisoned(struct vm *vm, __u64 error_offset)
{
	unsigned int i, open = 0;

	say("   the kernel refuses with EHWPOISON, and names the page at offset %#llx",
	    error_offset);
	check(lost_page && error_offset == lost_page * PAGE_BYTES,
	      "error_offset is %#llx, which is page %llu: the one with the error (%lu)",
	      error_offset, error_offset / PAGE_BYTES, lost_page);
	for (i = 0; i < ERROR_PAGES; i++)
		open += !touch_write(at(vm, ERROR_PAGE + i, AT_TOUCH)).fault;
	check(open == ERROR_PAGES - 1,
	      "all or nothing: the host can still write to all pages but that one (%u of %u)",
	      open, ERROR_PAGES);
}

void step_error_done(struct vm *vm)
{
	check_told(vm, LOST_PAGE2);
	check_sigbus(vm, LOST_PAGE2, false);
	heal();
}

// SPDX-License-Identifier: GPL-2.0
/*
 * The demonstration: output around each conversion, and the devices with which
 * the guest reports its progress.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "checks.h"
#include "demo.h"
#include "errors.h"
#include "huge.h"
#include "steps.h"

#define EXIT_BUSY	3	/* stopped by --on-busy=fail */
#define PIN_MS		300	/* from the first refusal to the unpinning */

static long ms_since(const struct timespec *then)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (now.tv_sec - then->tv_sec) * 1000 + (now.tv_nsec - then->tv_nsec) / 1000000;
}

static void demo_before(struct vm *vm, __u64 offset, __u64 size, bool private)
{
	if (demo.step == STEP_LIVE)
		return;
	say("   the guest wants %llu page%s at %#llx to be %s: file offset %#llx",
	    size / PAGE_BYTES, size > PAGE_BYTES ? "s" : "", offset + vm->gpa,
	    private ? "private" : "shared", offset);
	pages_in_memory(vm, demo.used);
	map_take(&demo.row, vm, offset);
	map_show("before", &demo.row);
}

static void demo_after(struct vm *vm, __u64 offset, __u64 size, int err)
{
	struct map_row row;

	if (err == -EAGAIN) {
		complain("--on-busy=fail: the VM is stopped; its memory is unchanged\n"
			 "  (%u claims were checked up to here and are true)", checks_done());
		exit(EXIT_BUSY);
	}
	if (err || demo.step == STEP_LIVE)
		return;
	if (vm->refusals)
		say("   converted %ld ms after the first refusal; %lu refusal%s in all",
		    ms_since(&demo.refused), vm->refusals, vm->refusals == 1 ? "" : "s");
	map_take(&row, vm, offset);
	map_show("after", &row);
	map_mark(&row, offset, size);
	check_map(vm);
}

static void demo_refused(struct vm *vm, __u64 gpa, __u64 npages)
{
	(void)vm;
	say("   the guest asks for %llu pages at %#llx: refused, as not all of that is its memory",
	    npages, gpa);
}

static void *unpin_later(void *unused)
{
	(void)unused;
	usleep(PIN_MS * 1000);
	unpin_page(&demo.pin);
	return NULL;
}

/* Called for the first refusal of a request; with --on-busy=retry, more follow. */
static void demo_busy(struct vm *vm, __u64 error_offset)
{
	unsigned int i, open = 0;
	pthread_t thread;

	clock_gettime(CLOCK_MONOTONIC, &demo.refused);
	if (demo.step != STEP_BUSY)
		die("NOT TRUE: no page is busy without a lasting user: the one at offset %#llx is",
		    error_offset);
	say("   the kernel refuses with EAGAIN, and names the page at offset %#llx", error_offset);
	check(error_offset == PINNED_PAGE * PAGE_BYTES,
	      "error_offset is %#llx, which is page %llu: the one that is pinned (%u)",
	      error_offset, error_offset / PAGE_BYTES, PINNED_PAGE);
	for (i = 0; i < BUSY_PAGES; i++)
		open += !touch_write(at(vm, BUSY_PAGE + i, AT_TOUCH)).fault;
	check(open == BUSY_PAGES, "all or nothing: the host can still write to %u of %u pages",
	      open, BUSY_PAGES);
	if (vm->on_busy == BUSY_FAIL)
		return;
	say("   --on-busy=retry: the VMM retries immediately; the pin lasts for another %d ms",
	    PIN_MS);
	if (pthread_create(&thread, NULL, unpin_later, NULL))
		die("pthread_create failed");
	pthread_detach(thread);
}

/* The guest's devices.  Return true if the vCPU is done. */
static bool demo_port(struct vcpu *vcpu, bool write, __u16 port, void *data,
		      unsigned int size)
{
	static unsigned int length;
	static char line[80];
	__u32 value = 0;

	if (!write)
		die("the guest reads from port %#x, which is write-only", port);
	memcpy(&value, data, size);

	switch (port) {
	case PORT_CHAR:
		if (value == '\n' || length == sizeof(line) - 1) {
			line[length] = '\0';
			say("   guest: %s", line);
			length = 0;
		}
		if (value != '\n')
			line[length++] = value;
		return false;
	case PORT_STEP:
		demo_step(vcpu->vm, value);
		return value == STEP_END;
	case PORT_COUNT:
		demo.counted = value;
		return true;
	case PORT_FAIL:
		die("the guest has found an error: %s", line);
	}
	die("the guest uses port %#x, which does not exist", port);
}

static const struct vm_ops demo_ops = {
	.port = demo_port,
	.before = demo_before,
	.after = demo_after,
	.refused = demo_refused,
	.busy = demo_busy,
	.poisoned = demo_poisoned,
	.lost_page = demo_lost_page,
};

static void demo_start(struct vm *vm)
{
	struct utsname name;

	/* Load shared memory like any other memory: write to it. */
	memcpy(at(vm, CODE_PAGE, 0), guest_image, guest_image_end - guest_image);
	memcpy(at(vm, DATA_PAGE, AT_HOST), TEXT_HOST, sizeof(TEXT_HOST));

	uname(&name);
	say("gmem-vmm: guest memory converted in place");
	say("   kernel   Linux %s", name.release);
	say("   VM       software-protected (KVM_X86_SW_PROTECTED_VM), 2 vCPUs");
	say("   memory   one guest_memfd of %llu MiB, MMAP and INIT_SHARED;", vm->size >> 20);
	say("            offset 0 of the file is guest address %#llx", vm->gpa);
	title("Shared memory: host and guest write to the same page");
	map_legend();
	map_take(&demo.row, vm, 0);
	map_show("now", &demo.row);
}

void demo_run(enum on_busy on_busy, bool quiet)
{
	struct vm vm = {
		.ops = &demo_ops,
		.size = FILE_PAGES * PAGE_BYTES,
		.gpa = MEM_GPA,
		.on_busy = on_busy,
	};
	struct vcpu vcpu = { };

	show_init(quiet);
	touch_init();
	vm_create(&vm);
	demo.huge = huge_page_bytes(&vm) > PAGE_BYTES;
	demo_start(&vm);
	vcpu_create(&vcpu, &vm, 0);
	huge_init(&vm, &vcpu);
	vcpu_set_flat32(&vcpu, GPA(CODE_PAGE));
	vcpu_run(&vcpu);
	say("\ngmem-vmm: all %u claims were checked and are true, %s", checks_done(),
	    demo.skipped && demo.no_huge ? "but memory errors and huge pages were skipped" :
	    demo.skipped ? "but memory errors were skipped" :
	    demo.no_huge ? "but huge pages were skipped" : "and nothing was skipped");
}

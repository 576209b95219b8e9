// SPDX-License-Identifier: GPL-2.0
/*
 * The demonstration: what is shown around each conversion, and the devices by
 * which the guest says how far it is.
 */
#include <errno.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "demo.h"

#define PIN_MS		300	/* how long the busy page stays busy */

struct demo demo;

static long ms_since(const struct timespec *then)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (now.tv_sec - then->tv_sec) * 1000 + (now.tv_nsec - then->tv_nsec) / 1000000;
}

void demo_start(struct vm *vm)
{
	struct utsname name;

	uname(&name);
	say("gmem-vmm: guest memory converted in place");
	say("   kernel   Linux %s", name.release);
	say("   VM       software-protected (KVM_X86_SW_PROTECTED_VM), 2 vCPUs");
	say("   memory   one guest_memfd of %llu MiB, MMAP and INIT_SHARED;", vm->size >> 20);
	say("            offset 0 of the file is guest address %#llx", vm->gpa);
	memcpy(at(vm, DATA_PAGE, AT_HOST), TEXT_HOST, sizeof(TEXT_HOST));
	title("Shared memory: host and guest write to the same page");
	map_legend();
	map_take(&demo.row, vm, 0);
	map_show("now", &demo.row);
}

void demo_end(void)
{
	say("\ngmem-vmm: all %u claims were checked and are true, %s", checks_done(),
	    demo.skipped ? "but one part was skipped" : "nothing was skipped");
}

void demo_before(struct vm *vm, __u64 offset, __u64 size, bool private)
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

/* Our notes say what the map shows.  Is it what the kernel does, too? */
static void check_map(struct vm *vm)
{
	unsigned int there[2] = { }, open[2] = { };
	static __u8 used[FILE_PAGES];
	unsigned long i;

	pages_in_memory(vm, used);
	check(!memcmp(used, demo.used, FILE_PAGES),
	      "the same pages are in memory as before: none taken, none freed");
	for (i = 0; i < FILE_PAGES; i++) {
		if (!used[i])
			continue;
		there[vm->is_private[i]]++;
		open[vm->is_private[i]] += !touch_read(at(vm, i, AT_TOUCH)).fault;
	}
	check(open[0] == there[0] && !open[1],
	      "in memory, open to the host: %u of %u shared pages, %u of %u private",
	      open[0], there[0], open[1], there[1]);
}

void demo_after(struct vm *vm, __u64 offset, __u64 size, int err)
{
	struct map_row row;

	if (err || demo.step == STEP_LIVE)
		return;
	if (vm->refusals)
		say("   converted after %ld ms; the request was refused %lu time%s before",
		    ms_since(&demo.refused), vm->refusals, vm->refusals == 1 ? "" : "s");
	map_take(&row, vm, offset);
	map_show("after", &row);
	map_mark(&row, offset, size);
	check_map(vm);
}

static void *let_go(void *unused)
{
	(void)unused;
	usleep(PIN_MS * 1000);
	unpin_page(&demo.pin);
	return NULL;
}

/* The first refusal of a request; with --on-busy=retry, more will follow. */
void demo_busy(struct vm *vm, __u64 error_offset)
{
	unsigned int i, open = 0;
	pthread_t thread;

	clock_gettime(CLOCK_MONOTONIC, &demo.refused);
	if (demo.step != STEP_BUSY)
		die("NOT TRUE: page at offset %#llx is busy, but nobody has a lasting hold on it",
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
	say("   --on-busy=retry: the VMM asks again at once; the pin lasts %d ms", PIN_MS);
	if (pthread_create(&thread, NULL, let_go, NULL))
		die("pthread_create failed");
	pthread_detach(thread);
}

/* The guest's devices.  Returns true when the vCPU has nothing more to do. */
bool demo_port(struct vcpu *vcpu, __u16 port, __u32 value)
{
	static unsigned int length;
	static char line[80];

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
		die("NOT TRUE: the guest found that %s", line);
	}
	die("the guest uses port %#x, where there is nothing", port);
}

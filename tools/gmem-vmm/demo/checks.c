// SPDX-License-Identifier: GPL-2.0
/*
 * The state of the demonstration, and checks that several of its steps share.
 */
#include <string.h>

#include "checks.h"

struct demo demo;

void check_text(const struct vm *vm, unsigned int where, const char *text)
{
	const char *found = at(vm, DATA_PAGE, where);

	if (strcmp(found, text))
		die("NOT TRUE: page %u contains \"%s\": it contains \"%s\"", DATA_PAGE, text,
		    found);
	check(true, "the host reads \"%s\" in page %u", found, DATA_PAGE);
}

void check_sigbus(const struct vm *vm, unsigned long page, bool write)
{
	void *addr = at(vm, page, AT_TOUCH);
	struct touch touch = write ? touch_write(addr) : touch_read(addr);

	check(touch.fault && touch.code == BUS_ADRERR && touch.addr == addr,
	      "host %s page %lu: SIGBUS, BUS_ADRERR (code %d), at offset %#lx",
	      write ? "writes to" : "reads", page, touch.code,
	      touch.fault ? (unsigned long)((__u8 *)touch.addr - vm->mem) : 0);
}

/* The map shows the VMM's own record: compare it with the kernel's behaviour. */
void check_map(struct vm *vm)
{
	unsigned int there[2] = { }, open[2] = { };
	static __u8 used[FILE_PAGES];
	unsigned long i;

	pages_in_memory(vm, used);
	check(!memcmp(used, demo.used, FILE_PAGES),
	      "the same pages are in memory as before the conversion: none allocated, none freed");
	for (i = 0; i < FILE_PAGES; i++) {
		if (!used[i])
			continue;
		there[vm->is_private[i]]++;
		open[vm->is_private[i]] += !touch_read(at(vm, i, AT_TOUCH)).fault;
	}
	check(open[0] == there[0] && !open[1],
	      "pages in memory that the host can access: %u of %u shared, %u of %u private",
	      open[0], there[0], open[1], there[1]);
}

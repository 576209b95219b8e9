// SPDX-License-Identifier: GPL-2.0-only
/* Conversions that wait for a page in use, and host faults that wait for conversions. */
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "bench.h"

/* mm/gup_test.h is not among the headers that the kernel installs. */
struct pin_longterm_test {
	__u64 addr;
	__u64 size;
	__u32 flags;
};

#define PIN_LONGTERM_TEST_START		_IOW('g', 7, struct pin_longterm_test)
#define PIN_LONGTERM_TEST_FLAG_USE_WRITE	1

/* Return a file descriptor.  The pin lasts until it is closed. */
static int pin_page(__u8 *page)
{
	struct pin_longterm_test pin = {
		.addr = (unsigned long)page,
		.size = PAGE_BYTES,
		.flags = PIN_LONGTERM_TEST_FLAG_USE_WRITE,
	};
	int fd = open("/sys/kernel/debug/gup_test", O_RDWR | O_CLOEXEC);

	if (fd < 0)
		err(1, "/sys/kernel/debug/gup_test (this needs CONFIG_GUP_TEST, debugfs mounted, and root)");
	if (ioctl(fd, PIN_LONGTERM_TEST_START, &pin))
		err(1, "PIN_LONGTERM_TEST_START");
	return fd;
}

void bench_busy(void)
{
	static const struct {
		const char *where;
		__u64 offset;
	} pages[] = {
		{ "first", 0 },
		{ "middle", 32 * MIB },
		{ "last", 64 * MIB - PAGE_BYTES },
	};
	__u64 start, error_offset = ~0ULL;
	struct vm vm;
	unsigned int i;
	int error, pin;

	for (i = 0; i < ARRAY_SIZE(pages); i++) {
		vm_open(&vm, 64 * MIB);
		vm_touch(&vm, 0, vm.size, PAGE_BYTES);
		pin = pin_page(vm.mem + pages[i].offset);

		start = now();
		error = vm_try_convert(&vm, 0, vm.size, PRIVATE, &error_offset);
		start = now() - start;
		if (error != EAGAIN || error_offset != pages[i].offset)
			errx(1, "pinned page at offset %#llx: errno is %d, error_offset %#llx",
			     pages[i].offset, error, error_offset);
		row(start / 1e6, "ms", "pinned, 64 MiB, %s page: until EAGAIN",
		    pages[i].where);
		close(pin);
		vm_close(&vm);
	}
}

/*
 * The longest wait of a host fault while 64 MiB of other pages of the file are
 * converted.  A thread of higher priority touches new pages periodically, so
 * that it also hits the beginning of a conversion.
 */
#define NR_FAULTS	2048
#define PAUSE_NS	200000
#define WAIT_ROUNDS	4

struct faulter {
	pthread_t thread;
	__u8 *mem;
	__u64 longest;
	volatile bool measure;
	volatile bool stop;
};

static void *fault_now_and_then(void *arg)
{
	struct faulter *faulter = arg;
	unsigned int i = 0;
	__u64 t;

	while (!faulter->stop) {
		pause_ns(PAUSE_NS);
		if (!faulter->measure || i == NR_FAULTS)
			continue;
		t = now();
		*(volatile __u8 *)(faulter->mem + i++ * PAGE_BYTES) = 1;
		t = now() - t;
		if (t > faulter->longest)
			faulter->longest = t;
	}
	return NULL;
}

static __u64 longest_fault(bool conversions)
{
	struct faulter faulter = { .measure = false };
	unsigned int i;
	struct vm vm;

	vm_open(&vm, 64 * MIB + NR_FAULTS * PAGE_BYTES);
	faulter.mem = vm.mem + 64 * MIB;
	start_fifo_thread(&faulter.thread, fault_now_and_then, &faulter);
	for (i = 0; i < WAIT_ROUNDS; i++) {
		vm_touch(&vm, 0, 64 * MIB, PAGE_BYTES);
		faulter.measure = true;
		if (conversions) {
			vm_convert(&vm, 0, 64 * MIB, PRIVATE);
			vm_convert(&vm, 0, 64 * MIB, SHARED);
		} else {
			pause_ns(50 * PAUSE_NS);
		}
		faulter.measure = false;
	}
	faulter.stop = true;
	pthread_join(faulter.thread, NULL);
	vm_close(&vm);
	return faulter.longest;
}

void bench_wait(void)
{
	row(longest_fault(false), "fault", "longest host fault, no conversions");
	row(longest_fault(true), "fault",
	    "longest host fault, 64 MiB converting");
}

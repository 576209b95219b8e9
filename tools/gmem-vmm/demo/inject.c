// SPDX-License-Identifier: GPL-2.0
/*
 * Fault injection: a page that stays in use, and a page with a memory error.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

#include "inject.h"
#include "show.h"

#define GUP_TEST	"/sys/kernel/debug/gup_test"
#define CORRUPT		"/sys/kernel/debug/hwpoison/corrupt-pfn"
#define UNPOISON	"/sys/kernel/debug/hwpoison/unpoison-pfn"

/* From mm/gup_test.h, which is not among the installed headers. */
struct pin_longterm_test {
	__u64 addr;
	__u64 size;
	__u32 flags;
};

#define PIN_LONGTERM_TEST_START	_IOW('g', 7, struct pin_longterm_test)
#define PIN_LONGTERM_TEST_STOP	_IO('g', 8)
#define PIN_LONGTERM_TEST_FLAG_USE_WRITE	1

/*
 * Keep a page in use until unpin_page().  The kernel's own test driver pins it
 * as device drivers do.  Without that driver, use a pipe that refers to the
 * page itself, not to a copy.  Return a description of the user.
 */
const char *pin_page(struct pin *pin, void *addr)
{
	struct pin_longterm_test request = {
		.addr = (unsigned long)addr,
		.size = PAGE_BYTES,
		.flags = PIN_LONGTERM_TEST_FLAG_USE_WRITE,
	};
	struct iovec iov = {
		.iov_base = addr,
		.iov_len = PAGE_BYTES,
	};

	pin->gup_fd = open(GUP_TEST, O_RDWR | O_CLOEXEC);
	if (pin->gup_fd >= 0) {
		if (ioctl(pin->gup_fd, PIN_LONGTERM_TEST_START, &request))
			die(GUP_TEST ": %s", strerror(errno));
		return "a driver's long-term pin (gup_test)";
	}

	say("   note: " GUP_TEST ": %s", strerror(errno));
	say("         (this needs CONFIG_GUP_TEST, debugfs mounted, and root)");
	if (pipe(pin->pipe) || vmsplice(pin->pipe[1], &iov, 1, 0) != (ssize_t)PAGE_BYTES)
		die("vmsplice of a page into a pipe: %s", strerror(errno));
	return "a pipe that the page was spliced into (vmsplice)";
}

void unpin_page(struct pin *pin)
{
	if (pin->gup_fd >= 0) {
		ioctl(pin->gup_fd, PIN_LONGTERM_TEST_STOP);
		close(pin->gup_fd);
		return;
	}
	close(pin->pipe[0]);
	close(pin->pipe[1]);
}

/* The frame with an error that has not been unpoisoned yet, or 0. */
static __u64 struck;

static void tell_of_struck(void)
{
	if (struck)
		complain("4 KiB of this machine's memory are still marked as lost.  To undo that:\n"
			 "  echo %#llx > " UNPOISON, struck);
}

static int write_pfn(const char *file, __u64 pfn)
{
	int fd = open(file, O_WRONLY | O_CLOEXEC);
	char text[24];
	int len, err;

	if (fd < 0)
		return errno;
	len = snprintf(text, sizeof(text), "%#llx", pfn);
	err = write(fd, text, len) == len ? 0 : errno;
	close(fd);
	return err;
}

int strike_possible(void)
{
	return access(CORRUPT, W_OK) ? errno : 0;
}

/*
 * Make the kernel believe that the hardware has reported an uncorrected error
 * in this frame, and that no access has hit the error.
 */
int strike_frame(__u64 pfn)
{
	static bool registered;

	if (!registered)
		atexit(tell_of_struck);
	registered = true;
	struck = pfn;
	return write_pfn(CORRUPT, pfn);
}

/* Unpoison a frame that is no longer in use, so that the kernel can reuse it. */
int heal_frame(__u64 pfn)
{
	int tries = 50, err;

	/* The kernel may take a short-lived reference to any frame. */
	while ((err = write_pfn(UNPOISON, pfn)) == EBUSY && --tries)
		usleep(10000);
	if (!err)
		struck = 0;
	return err;
}

unsigned long memory_lost_kb(void)
{
	return proc_sum("/proc/meminfo", "HardwareCorrupted:");
}

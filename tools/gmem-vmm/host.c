// SPDX-License-Identifier: GPL-2.0
/*
 * The host's side of the memory: a touch that may go wrong, and a pin.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

#include "host.h"
#include "show.h"

#define GUP_TEST	"/sys/kernel/debug/gup_test"

/* From mm/gup_test.h, a kernel test: no installed header has it. */
struct pin_longterm_test {
	__u64 addr;
	__u64 size;
	__u32 flags;
};

#define PIN_LONGTERM_TEST_START	_IOW('g', 7, struct pin_longterm_test)
#define PIN_LONGTERM_TEST_STOP	_IO('g', 8)
#define PIN_LONGTERM_TEST_FLAG_USE_WRITE	1

/*
 * SIGBUS comes to the thread that touched, so what it needs is per thread.
 * Every VMM that maps guest memory has to have something like this: a bug in
 * a device model, or a guest that passes a private page to a device, must
 * end in an error of that device, not in the end of the VMM.
 */
static __thread sigjmp_buf landing;
static __thread sig_atomic_t touching;
static __thread struct touch result;

static void on_sigbus(int sig, siginfo_t *info, void *context)
{
	(void)context;
	if (!__atomic_load_n(&touching, __ATOMIC_SEQ_CST)) {
		/* Not a touch of ours: dies of it when we return. */
		signal(sig, SIG_DFL);
		return;
	}
	result.fault = true;
	result.code = info->si_code;
	result.addr = info->si_addr;
	siglongjmp(landing, 1);
}

void touch_init(void)
{
	struct sigaction action = {
		.sa_sigaction = on_sigbus,
		.sa_flags = SA_SIGINFO,
	};

	sigaction(SIGBUS, &action, NULL);
}

static struct touch touch(__u8 *addr, bool write)
{
	memset(&result, 0, sizeof(result));
	/* The signal is blocked in its handler: have the mask restored, too. */
	if (!sigsetjmp(landing, 1)) {
		__atomic_store_n(&touching, 1, __ATOMIC_SEQ_CST);
		if (write)
			__atomic_store_n(addr, 0x5a, __ATOMIC_SEQ_CST);
		else
			(void)__atomic_load_n(addr, __ATOMIC_SEQ_CST);
	}
	__atomic_store_n(&touching, 0, __ATOMIC_SEQ_CST);
	return result;
}

struct touch touch_read(const void *addr)
{
	return touch((__u8 *)addr, false);
}

struct touch touch_write(void *addr)
{
	return touch(addr, true);
}

/* Has the kernel read a byte there for us.  Returns 0 or the errno. */
int syscall_touch(const void *addr)
{
	int fds[2], err;

	if (pipe(fds))
		die("pipe: %s", strerror(errno));
	err = write(fds[1], addr, 1) == 1 ? 0 : errno;
	close(fds[0]);
	close(fds[1]);
	return err;
}

/*
 * Makes a page busy until unpin_page().  The kernel's own test driver does it
 * the way device drivers do.  Without it, a pipe that holds the page itself
 * and not a copy will do.  Returns who has the page.
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
	say("         (it takes CONFIG_GUP_TEST, debugfs mounted, and root)");
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

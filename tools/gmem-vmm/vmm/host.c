// SPDX-License-Identifier: GPL-2.0
/*
 * Host accesses to guest memory, which may fail.
 */
#include <errno.h>
#include <linux/types.h>
#include <setjmp.h>
#include <string.h>
#include <unistd.h>

#include "die.h"
#include "host.h"

/*
 * SIGBUS is sent to the thread that made the access, so this state is per
 * thread.  Every VMM that maps guest memory needs something like this: a bug in
 * a device model, or a guest that passes a private page to a device, must
 * result in an error of that device, and not kill the VMM.
 */
static __thread sigjmp_buf landing;
static __thread sig_atomic_t touching;
static __thread struct touch result;

static void on_sigbus(int sig, siginfo_t *info, void *context)
{
	(void)context;
	/*
	 * This is an early notice of a memory error, for processes that have
	 * asked for it, or for all of them (vm.memory_failure_early_kill).  The
	 * page has not been accessed yet; the next access raises another
	 * signal.
	 */
	if (info->si_code == BUS_MCEERR_AO)
		return;
	if (!__atomic_load_n(&touching, __ATOMIC_SEQ_CST)) {
		/* Not one of the accesses below: let the signal kill the VMM. */
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
	/* The signal is blocked in its handler: restore the mask, too. */
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

/*
 * Copy from or to guest memory.  If there is a fault, a part may have been
 * copied.
 */
struct touch touch_copy(void *to, const void *from, size_t size)
{
	memset(&result, 0, sizeof(result));
	if (!sigsetjmp(landing, 1)) {
		__atomic_store_n(&touching, 1, __ATOMIC_SEQ_CST);
		memcpy(to, from, size);
		__atomic_signal_fence(__ATOMIC_SEQ_CST);
	}
	__atomic_store_n(&touching, 0, __ATOMIC_SEQ_CST);
	return result;
}

/* Let the kernel read a byte on behalf of the VMM.  Return 0 or the errno. */
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

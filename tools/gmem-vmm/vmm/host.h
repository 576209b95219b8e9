/* SPDX-License-Identifier: GPL-2.0 */
#ifndef GMEM_VMM_HOST_H
#define GMEM_VMM_HOST_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>

/* Access to memory that may be private */
struct touch {
	bool fault;		/* the access raised SIGBUS */
	int code;		/* si_code of the SIGBUS */
	void *addr;		/* si_addr of the SIGBUS */
};

void touch_init(void);
struct touch touch_read(const void *addr);
struct touch touch_write(void *addr);
struct touch touch_copy(void *to, const void *from, size_t size);
int syscall_touch(const void *addr);

#endif /* GMEM_VMM_HOST_H */

/* SPDX-License-Identifier: GPL-2.0 */
#ifndef GMEM_VMM_DIE_H
#define GMEM_VMM_DIE_H

#include <stdnoreturn.h>

#define __printf(fmt, args)	__attribute__((format(printf, fmt, args)))

/* Exit statuses. */
#define EXIT_BROKEN	1	/* something is wrong */
#define EXIT_CANNOT_RUN	2	/* wrong options, or cannot run here */

void __printf(1, 2) complain(const char *fmt, ...);
noreturn void __printf(1, 2) die(const char *fmt, ...);
noreturn void __printf(1, 2) cannot_run(const char *fmt, ...);

#endif /* GMEM_VMM_DIE_H */

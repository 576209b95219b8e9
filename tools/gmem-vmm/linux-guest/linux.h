/* SPDX-License-Identifier: GPL-2.0 */
#ifndef GMEM_VMM_LINUX_H
#define GMEM_VMM_LINUX_H

#include "boot.h"

#define LINUX_MAX_CPUS		2
#define LINUX_MIN_MIB		64
#define LINUX_MAX_MIB		3072	/* interrupt controllers are above */

/*
 * Run a Linux guest until it resets the machine or powers it off.  Return the
 * exit status: 0 unless its driver or the VMM found an error.
 */
int linux_run(const struct boot *boot, unsigned int mib, enum on_busy on_busy);

#endif /* GMEM_VMM_LINUX_H */

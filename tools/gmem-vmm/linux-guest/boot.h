/* SPDX-License-Identifier: GPL-2.0 */
#ifndef GMEM_VMM_BOOT_H
#define GMEM_VMM_BOOT_H

#include "../vmm/vm.h"

/* @kernel and @initrd are paths; @initrd and @cmdline may be NULL. */
struct boot {
	const char *kernel;
	const char *initrd;
	const char *cmdline;
	int nr_cpus;
};

/* Load a kernel into shared memory; call cannot_run() if it cannot boot. */
void boot_load(struct vm *vm, const struct boot *boot);

/* Let the first vCPU start that kernel.  The kernel starts the others. */
void boot_start(struct vcpu *vcpu);

#endif /* GMEM_VMM_BOOT_H */

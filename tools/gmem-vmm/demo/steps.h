/* SPDX-License-Identifier: GPL-2.0 */
#ifndef GMEM_VMM_STEPS_H
#define GMEM_VMM_STEPS_H

#include "../vmm/vm.h"

/* The guest has done a step; what it leads to is for the host to look at. */
void demo_step(struct vm *vm, int step);

#endif /* GMEM_VMM_STEPS_H */

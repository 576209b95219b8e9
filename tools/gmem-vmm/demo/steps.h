/* SPDX-License-Identifier: GPL-2.0 */
#ifndef GMEM_VMM_STEPS_H
#define GMEM_VMM_STEPS_H

#include "../vmm/vm.h"

/* The guest has completed a step: check the results. */
void demo_step(struct vm *vm, int step);

#endif /* GMEM_VMM_STEPS_H */

/* SPDX-License-Identifier: GPL-2.0 */
#ifndef GMEM_VMM_HUGE_H
#define GMEM_VMM_HUGE_H

#include "../vmm/vm.h"

/* The file's preferred size of allocations in bytes, fixed at creation */
unsigned long huge_page_bytes(const struct vm *vm);

/* Call this before vCPUs run */
void huge_init(const struct vm *vm, const struct vcpu *vcpu);
/* Call this before the guest touches the bulk memory */
void huge_before(void);

void step_huge(struct vm *vm);
void step_huge_one(struct vm *vm);
void step_huge_read(struct vm *vm);
void step_huge_back(struct vm *vm);

#endif /* GMEM_VMM_HUGE_H */

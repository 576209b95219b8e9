/* SPDX-License-Identifier: GPL-2.0 */
#ifndef GMEM_VMM_HUGE_H
#define GMEM_VMM_HUGE_H

#include "../vmm/vm.h"

/* How the file gets its memory, which is decided when it is created */
unsigned long huge_page_bytes(const struct vm *vm);

/* Before vCPUs run, and before the guest touches what it is to map */
void huge_init(const struct vm *vm, const struct vcpu *vcpu);
void huge_before(void);

void step_huge(struct vm *vm);
void step_huge_one(struct vm *vm);
void step_huge_read(struct vm *vm);
void step_huge_back(struct vm *vm);

#endif /* GMEM_VMM_HUGE_H */

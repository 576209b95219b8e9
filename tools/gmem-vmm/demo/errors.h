/* SPDX-License-Identifier: GPL-2.0 */
#ifndef GMEM_VMM_ERRORS_H
#define GMEM_VMM_ERRORS_H

#include "../vmm/vm.h"

void step_error(struct vm *vm);
void step_strike(struct vm *vm);
void step_replaced(struct vm *vm);
void step_strike2(struct vm *vm);
void step_error_done(struct vm *vm);

/* Callbacks for struct vm_ops */
void demo_poisoned(struct vm *vm, __u64 error_offset);
void demo_lost_page(struct vm *vm, __u64 gpa, bool private);

#endif /* GMEM_VMM_ERRORS_H */

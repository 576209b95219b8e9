/* SPDX-License-Identifier: GPL-2.0 */
#ifndef GMEM_VMM_DEMO_H
#define GMEM_VMM_DEMO_H

#include "../vmm/vm.h"

void demo_run(enum on_busy on_busy, bool quiet);

#endif /* GMEM_VMM_DEMO_H */

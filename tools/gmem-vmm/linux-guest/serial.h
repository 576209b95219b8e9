/* SPDX-License-Identifier: GPL-2.0 */
#ifndef GMEM_VMM_SERIAL_H
#define GMEM_VMM_SERIAL_H

#include "../vmm/vm.h"

#define SERIAL_PORT	0x3f8
#define SERIAL_PORTS	8

/* Connect the terminal to the console ttyS0, until the program ends. */
void serial_init(struct vm *vm);
void serial_access(bool write, __u16 port, __u8 *value);

#endif /* GMEM_VMM_SERIAL_H */

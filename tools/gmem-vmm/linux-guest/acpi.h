/* SPDX-License-Identifier: GPL-2.0 */
#ifndef GMEM_VMM_ACPI_H
#define GMEM_VMM_ACPI_H

#include <linux/types.h>
#include <stdbool.h>

/*
 * Where the tables are.  The last 64 KiB below 1 MiB are not RAM, but the guest
 * searches them.
 */
#define ACPI_GPA	0xf0000

#define ACPI_PM1_PORT	0x600
#define ACPI_PM1_PORTS	6
#define ACPI_RESET_PORT	0x64	/* of a keyboard controller, only for reset */
#define ACPI_RESET	0xfe

/*
 * Describe the CPUs, interrupt controllers, and power management registers, in
 * zeroed memory at @mem.
 */
void acpi_make(void *mem, int nr_cpus);

/* The guest accesses a power management port.  Return true if it powers off. */
bool acpi_access(bool write, __u16 port, void *data, unsigned int size);

#endif /* GMEM_VMM_ACPI_H */

/* SPDX-License-Identifier: GPL-2.0 */
#ifndef GMEM_VMM_MPTABLE_H
#define GMEM_VMM_MPTABLE_H

/* The last KiB of low memory, one of the places that are searched for it. */
#define MPTABLE_GPA	0x9fc00

/* Tell the guest of its CPUs and interrupts, in the KiB at @mem. */
void mptable_make(void *mem, int nr_cpus);

#endif /* GMEM_VMM_MPTABLE_H */

/* SPDX-License-Identifier: GPL-2.0 */
/* Constants of the architecture, for C and assembly. */
#ifndef GMEM_VMM_X86_H
#define GMEM_VMM_X86_H

#define PAGE_SHIFT	12

/* The start of the CPU vendor's name, in EBX of CPUID leaf 0. */
#define CPUID_AMD	0x68747541	/* "Auth"enticAMD */
#define CPUID_HYGON	0x6f677948	/* "Hygo"nGenuine */

#endif /* GMEM_VMM_X86_H */

/* SPDX-License-Identifier: GPL-2.0 */
#ifndef GMEM_VMM_SHOW_H
#define GMEM_VMM_SHOW_H

#include "../vmm/die.h"
#include "../vmm/vm.h"
#include "guest.h"

/* Terminal */
void show_init(bool quiet);
void title(const char *text);
void __printf(1, 2) say(const char *fmt, ...);
void __printf(2, 3) check(bool ok, const char *fmt, ...);
unsigned int checks_done(void);

/* The map of the file */
#define MAP_CELLS	64

struct map_row {
	unsigned long first;	/* page */
	unsigned long scale;	/* pages per character */
	char cell[MAP_CELLS];
};

void map_legend(void);
void map_lost(unsigned long page);
void map_take(struct map_row *row, const struct vm *vm, __u64 offset);
void map_show(const char *label, const struct map_row *row);
void map_mark(const struct map_row *row, __u64 offset, __u64 size);

/* Measurements, all of them taken from the kernel */
struct usage {
	unsigned long file_kb;	/* in the guest_memfd */
	unsigned long own_kb;	/* anonymous memory of this process */
	unsigned long avail_kb;	/* memory left on the machine */
};

void pages_in_memory(const struct vm *vm, __u8 *vec);
void usage_take(struct usage *usage, const struct vm *vm);
bool frame_of(const void *addr, __u64 *pfn);
unsigned long proc_sum(const char *file, const char *field);

#endif /* GMEM_VMM_SHOW_H */

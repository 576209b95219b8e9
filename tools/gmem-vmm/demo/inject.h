/* SPDX-License-Identifier: GPL-2.0 */
#ifndef GMEM_VMM_INJECT_H
#define GMEM_VMM_INJECT_H

#include <linux/types.h>

/* Keep a page in use, as a device or a slow system call does */
struct pin {
	int gup_fd;
	int pipe[2];
};

const char *pin_page(struct pin *pin, void *addr);
void unpin_page(struct pin *pin);

/* Memory errors; functions that return an int return 0 or an errno */
int strike_possible(void);
int strike_frame(__u64 pfn);
int heal_frame(__u64 pfn);
unsigned long memory_lost_kb(void);

#endif /* GMEM_VMM_INJECT_H */

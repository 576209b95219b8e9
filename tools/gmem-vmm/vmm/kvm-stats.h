/* SPDX-License-Identifier: GPL-2.0 */
#ifndef GMEM_VMM_KVM_STATS_H
#define GMEM_VMM_KVM_STATS_H

#include <linux/types.h>

/*
 * KVM's statistics of a VM or a vCPU.  Open those of a vCPU before it runs:
 * later, the ioctl waits for KVM_RUN to return, which may never happen.
 * Reading returns 0 if this kernel does not have the statistic.
 */
int kvm_stats_open(int fd);
__u64 kvm_stats_read(int stats, const char *name);

#endif /* GMEM_VMM_KVM_STATS_H */

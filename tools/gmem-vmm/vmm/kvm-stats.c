// SPDX-License-Identifier: GPL-2.0
/*
 * KVM's binary statistics.
 */
#include <errno.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "die.h"
#include "kvm-stats.h"

int kvm_stats_open(int fd)
{
	int stats = ioctl(fd, KVM_GET_STATS_FD, NULL);

	if (stats < 0)
		die("KVM_GET_STATS_FD: %s", strerror(errno));
	return stats;
}

/* The format is described with KVM_GET_STATS_FD in Documentation/virt/kvm/api.rst. */
__u64 kvm_stats_read(int stats, const char *name)
{
	struct kvm_stats_header header;
	__u64 value = 0;
	size_t size;
	char *desc;
	__u32 i;

	if (pread(stats, &header, sizeof(header), 0) != sizeof(header))
		die("cannot read KVM's statistics");
	size = sizeof(struct kvm_stats_desc) + header.name_size;
	desc = calloc(header.num_desc, size);
	if (!desc || pread(stats, desc, header.num_desc * size, header.desc_offset) !=
		     (ssize_t)(header.num_desc * size))
		die("cannot read the descriptors of KVM's statistics");
	for (i = 0; i < header.num_desc; i++) {
		const struct kvm_stats_desc *d = (void *)(desc + i * size);

		if (strncmp(d->name, name, header.name_size))
			continue;
		if (pread(stats, &value, sizeof(value), header.data_offset + d->offset) !=
		    sizeof(value))
			die("cannot read KVM's statistic %s", name);
	}
	free(desc);
	return value;
}

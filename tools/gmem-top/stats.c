// SPDX-License-Identifier: GPL-2.0-only
/*
 * Counters of a VM, from debugfs: <tid>-<fd>/gmem_* in KVM's directory, where
 * <tid> is the thread that created the VM.  KVM_GET_STATS_FD has the same
 * counters, but is available only to the process that owns the VM.
 */
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "top.h"

const char * const stat_names[NR_STATS] = {
	[TO_PRIVATE] = "gmem_to_private",
	[PAGES_TO_PRIVATE] = "gmem_pages_to_private",
	[TO_SHARED] = "gmem_to_shared",
	[PAGES_TO_SHARED] = "gmem_pages_to_shared",
	[BUSY] = "gmem_busy",
	[POISONED] = "gmem_poisoned",
};

/* /proc does not list threads, but they can be looked up there. */
static int process_of(int tid)
{
	const char *line;
	char status[1024];

	if (!read_text(status, sizeof(status), "/proc/%d/status", tid))
		return -1;
	line = strstr(status, "\nTgid:");
	return line ? atoi(line + strlen("\nTgid:")) : -1;
}

static struct vm *find_vm(struct report *report, int pid, int fd)
{
	unsigned int i;

	for (i = 0; i < report->nr_vms; i++)
		if (report->vms[i].pid == pid && report->vms[i].fd == fd)
			return &report->vms[i];
	return NULL;
}

static bool read_stats(struct vm *vm, const char *name)
{
	char text[32];
	int i;

	for (i = 0; i < NR_STATS; i++) {
		if (!read_text(text, sizeof(text), KVM_DEBUGFS "/%s/%s", name, stat_names[i]))
			return false;
		vm->stats[i] = strtoull(text, NULL, 0);
	}
	return true;
}

/* Explain why KVM's directory cannot be read. */
const char *debugfs_hint(int err)
{
	return err == ENOENT ? "debugfs has to be mounted on /sys/kernel/debug" :
			       "only root can access debugfs";
}

void stats_read(struct report *report)
{
	DIR *dir = opendir(KVM_DEBUGFS);
	unsigned int i, missing = 0;
	struct dirent *entry;
	struct vm *vm;
	int tid, fd;

	if (!report->nr_vms) {
		if (dir)
			closedir(dir);
		return;
	}
	if (!dir) {
		note(report, "statistics of VMs: %s: %s; %s", KVM_DEBUGFS, strerror(errno),
		     debugfs_hint(errno));
		return;
	}
	while ((entry = readdir(dir))) {
		if (sscanf(entry->d_name, "%d-%d", &tid, &fd) != 2)
			continue;
		vm = find_vm(report, process_of(tid), fd);
		if (vm)
			vm->has_stats = read_stats(vm, entry->d_name);
	}
	closedir(dir);
	for (i = 0; i < report->nr_vms; i++)
		missing += !report->vms[i].has_stats;
	if (missing)
		note(report, "statistics of %u VM%s: no matching gmem_* in %s: not provided by this kernel, the thread that created a VM is gone, or the file descriptor of a VM was duplicated or passed on",
		     missing, missing == 1 ? "" : "s", KVM_DEBUGFS);
}

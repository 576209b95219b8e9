// SPDX-License-Identifier: GPL-2.0-only
/* Find VMs and guest_memfds among the open files of all processes. */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "top.h"

/* Targets of links in /proc/<pid>/fd.  FILE_LINK is only a prefix. */
#define VM_LINK		"anon_inode:kvm-vm"
#define FILE_LINK	"/[kvm-gmem]"

static bool is_number(const char *name)
{
	return isdigit((unsigned char)*name);
}

/* A process can choose any name: replace unprintable characters. */
static void read_comm(char *comm, size_t size, int pid)
{
	if (!read_text(comm, size, "/proc/%d/comm", pid))
		strcpy(comm, "?");
	comm[strcspn(comm, "\n")] = '\0';
	for (; *comm; comm++)
		if (!isprint((unsigned char)*comm))
			*comm = '?';
}

static u64 info_field(const char *info, const char *name)
{
	const char *line = strstr(info, name);

	return line ? strtoull(line + strlen(name), NULL, 0) : 0;
}

/* Kernels without the series have no lines for guest_memfd in fdinfo. */
static void read_info(struct file *file)
{
	char info[1024];

	if (!read_text(info, sizeof(info), "/proc/%d/fdinfo/%d", file->pid, file->fd) ||
	    !strstr(info, "\ngmem-size:"))
		return;

	file->has_info = true;
	file->size = info_field(info, "\ngmem-size:");
	file->flags = info_field(info, "\ngmem-flags:");
	file->shared = info_field(info, "\ngmem-shared:");
	file->private = info_field(info, "\ngmem-private:");
	file->ranges = info_field(info, "\ngmem-ranges:");
	file->allocated = info_field(info, "\ngmem-pages-allocated:") * PAGE_BYTES;
	file->poisoned = info_field(info, "\ngmem-pages-poisoned:");
}

static void add_vm(struct report *report, int pid, int fd)
{
	struct vm *vm;

	report->vms = grow(report->vms, report->nr_vms, sizeof(*vm));
	vm = &report->vms[report->nr_vms++];
	vm->pid = pid;
	vm->fd = fd;
	read_comm(vm->comm, sizeof(vm->comm), pid);
}

/* Several processes can have the same file open, and each more than once. */
static void add_file(struct report *report, int pid, int fd, const struct stat *st)
{
	struct file *file;
	unsigned int i;

	for (i = 0; i < report->nr_files; i++)
		if (report->files[i].ino == st->st_ino)
			return;

	report->files = grow(report->files, report->nr_files, sizeof(*file));
	file = &report->files[report->nr_files++];
	file->ino = st->st_ino;
	file->pid = pid;
	file->fd = fd;
	file->size = st->st_size;
	read_comm(file->comm, sizeof(file->comm), pid);
	read_info(file);
}

/* Kernel threads have no files. */
static bool is_kthread(int pid)
{
	char status[2048];

	return read_text(status, sizeof(status), "/proc/%d/status", pid) &&
	       strstr(status, "\nKthread:\t1");
}

/* Return 0 or the errno with which reading the files of the process failed. */
static int scan_process(struct report *report, int pid)
{
	char path[64], link[PATH_MAX];
	struct dirent *entry;
	struct stat st;
	ssize_t len;
	int err = 0;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	dir = opendir(path);
	if (!dir)
		return errno;

	while ((entry = readdir(dir))) {
		if (!is_number(entry->d_name))
			continue;
		len = readlinkat(dirfd(dir), entry->d_name, link, sizeof(link) - 1);
		if (len < 0) {
			/* The file may have been closed. */
			if (errno != ENOENT)
				err = errno;
			continue;
		}
		link[len] = '\0';
		if (!strcmp(link, VM_LINK))
			add_vm(report, pid, atoi(entry->d_name));
		else if (!strncmp(link, FILE_LINK, strlen(FILE_LINK)) &&
			 !fstatat(dirfd(dir), entry->d_name, &st, 0))
			add_file(report, pid, atoi(entry->d_name), &st);
	}
	closedir(dir);
	return err;
}

static int compare_files(const void *a, const void *b)
{
	const struct file *x = a, *y = b;

	return x->pid != y->pid ? x->pid - y->pid : x->fd - y->fd;
}

static int compare_vms(const void *a, const void *b)
{
	const struct vm *x = a, *y = b;

	return x->pid != y->pid ? x->pid - y->pid : x->fd - y->fd;
}

static void read_parameter(struct report *report)
{
	char text[8];

	report->in_place = -1;
	if (read_text(text, sizeof(text), GMEM_PARAMETER))
		report->in_place = text[0] == 'Y';
}

void proc_scan(struct report *report)
{
	unsigned int i, hidden = 0, bare = 0;
	struct dirent *entry;
	DIR *dir;
	int err;

	dir = opendir("/proc");
	if (!dir)
		die("cannot read /proc: %s", strerror(errno));
	while ((entry = readdir(dir))) {
		if (!is_number(entry->d_name))
			continue;
		err = scan_process(report, atoi(entry->d_name));
		if (err == EACCES || err == EPERM)
			hidden += !is_kthread(atoi(entry->d_name));
	}
	closedir(dir);

	qsort(report->files, report->nr_files, sizeof(*report->files), compare_files);
	qsort(report->vms, report->nr_vms, sizeof(*report->vms), compare_vms);
	read_parameter(report);

	if (hidden)
		note(report, "VMs and files of %u process%s: only the owner of a process, or a task with CAP_SYS_PTRACE, can read its /proc/<pid>/fd",
		     hidden, hidden == 1 ? "" : "es");
	for (i = 0; i < report->nr_files; i++)
		bare += !report->files[i].has_info;
	if (bare)
		note(report, "shared and private memory of %u file%s: no gmem-* lines in /proc/<pid>/fdinfo/<fd>: not provided by this kernel, or not readable",
		     bare, bare == 1 ? "" : "s");
}

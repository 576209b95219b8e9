// SPDX-License-Identifier: GPL-2.0-only
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <linux/falloc.h>

#include "hwpoison.h"
#include "kvm_syscalls.h"
#include "test_util.h"

#define DEBUGFS		"/sys/kernel/debug/hwpoison/"
#define INSTANCES	"/sys/kernel/tracing/instances"
#define EVENT		"events/filemap/mm_filemap_add_to_page_cache"

const char *hwpoison_unsupported(void)
{
	if (geteuid())
		return "memory errors need root";

	if (access(DEBUGFS "corrupt-pfn", W_OK))
		return "no " DEBUGFS "corrupt-pfn (CONFIG_HWPOISON_INJECT)";

	if (access("/proc/kpageflags", R_OK))
		return "no /proc/kpageflags (CONFIG_PROC_PAGE_MONITOR)";

	return NULL;
}

static int write_file(const char *path, const char *fmt, u64 value)
{
	char buf[64];
	int fd, len, r = 0;

	fd = open_path_or_exit(path, O_WRONLY);
	len = snprintf(buf, sizeof(buf), fmt, value);
	if (write(fd, buf, len) != len)
		r = -errno;
	kvm_close(fd);
	return r;
}

int hwpoison_inject(u64 pfn)
{
	return write_file(DEBUGFS "corrupt-pfn", "0x%lx", pfn);
}

int hwpoison_unpoison(u64 pfn)
{
	int tries, r = -EBUSY;

	/* Others hold references for a moment, see Documentation/mm/hwpoison.rst. */
	for (tries = 0; r == -EBUSY && tries < 50; tries++) {
		if (tries)
			usleep(10000);
		r = write_file(DEBUGFS "unpoison-pfn", "0x%lx", pfn);
	}
	return r;
}

int hwpoison_log_open(void)
{
	int fd = open_path_or_exit("/dev/kmsg", O_RDONLY | O_NONBLOCK);

	lseek(fd, 0, SEEK_END);
	return fd;
}

void hwpoison_log_read(int fd, u64 pfn, char *handling, size_t size)
{
	char record[8192], prefix[80], *s;
	ssize_t len;

	snprintf(prefix, sizeof(prefix),
		 "Memory failure: 0x%lx: recovery action for ", pfn);
	snprintf(handling, size, "nothing");

	for (;;) {
		len = read(fd, record, sizeof(record) - 1);
		if (len < 0 && errno == EPIPE)	/* overwritten: go on */
			continue;
		if (len <= 0)
			return;

		record[len] = '\0';
		s = strstr(record, prefix);
		if (!s)
			continue;
		s[strcspn(s, "\n")] = '\0';
		snprintf(handling, size, "%s", strrchr(s, ' ') + 1);
	}
}

u64 hwpoison_lost_memory(void)
{
	char line[128];
	u64 kib = -1;
	FILE *f;

	f = fopen("/proc/meminfo", "r");
	TEST_ASSERT(f, "Cannot open /proc/meminfo");
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "HardwareCorrupted: %lu kB", &kib) == 1)
			break;
	}
	fclose(f);

	TEST_ASSERT(kib != -1, "No HardwareCorrupted in /proc/meminfo");
	return kib * 1024;
}

static u64 read_entry(const char *path, u64 index)
{
	u64 entry;
	int fd;

	fd = open_path_or_exit(path, O_RDONLY);
	TEST_ASSERT_EQ(pread(fd, &entry, sizeof(entry), index * sizeof(entry)),
		       sizeof(entry));
	kvm_close(fd);
	return entry;
}

u64 hwpoison_page_flags(u64 pfn)
{
	return read_entry("/proc/kpageflags", pfn);
}

u64 hwpoison_mapped_pfn(const void *hva)
{
	u64 entry = read_entry("/proc/self/pagemap", (u64)hva / getpagesize());

	return entry & BIT_ULL(63) ? entry & GENMASK_ULL(54, 0) : 0;
}

bool hwpoison_can_alloc_gmem_page(void)
{
	return !access("/sys/kernel/tracing/" EVENT, R_OK) &&
	       !access(INSTANCES, W_OK);
}

/*
 * Private pages are mapped by nobody who could look them up.  But the page
 * cache tells who cares, file by file, which page it was given.
 */
u64 hwpoison_alloc_gmem_page(int fd, u64 offset)
{
	char dir[64], path[160], line[256];
	u64 pfn = 0, ino, ofs, p;
	struct stat st;
	char *s;
	FILE *f;

	TEST_ASSERT(!fstat(fd, &st), __KVM_SYSCALL_ERROR("fstat()", -1));

	/* An instance of its own, so as not to disturb whoever else is tracing. */
	snprintf(dir, sizeof(dir), INSTANCES "/kvm-hwpoison-%d", getpid());
	TEST_ASSERT(!mkdir(dir, 0700), __KVM_SYSCALL_ERROR("mkdir()", -1));

	snprintf(path, sizeof(path), "%s/" EVENT "/filter", dir);
	TEST_ASSERT(!write_file(path, "i_ino == %lu", st.st_ino),
		    "Cannot filter by i_ino %lu", st.st_ino);
	snprintf(path, sizeof(path), "%s/" EVENT "/enable", dir);
	TEST_ASSERT(!write_file(path, "%lu", 1), "Cannot enable the event");

	kvm_fallocate(fd, FALLOC_FL_KEEP_SIZE, offset, getpagesize());

	TEST_ASSERT(!write_file(path, "%lu", 0), "Cannot disable the event");
	snprintf(path, sizeof(path), "%s/trace", dir);
	f = fopen(path, "r");
	TEST_ASSERT(f, "Cannot open %s", path);
	while (fgets(line, sizeof(line), f)) {
		s = strstr(line, " ino ");
		if (s && sscanf(s, " ino %lx pfn=0x%lx ofs=%lu", &ino, &p, &ofs) == 3 &&
		    ino == st.st_ino && ofs == offset)
			pfn = p;
	}
	fclose(f);
	TEST_ASSERT(!rmdir(dir), __KVM_SYSCALL_ERROR("rmdir()", -1));

	TEST_ASSERT(pfn, "No page was allocated at offset 0x%lx", offset);
	return pfn;
}

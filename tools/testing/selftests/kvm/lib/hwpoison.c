// SPDX-License-Identifier: GPL-2.0-only
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <linux/falloc.h>

#include "gmem_util.h"
#include "hwpoison.h"
#include "kvm_syscalls.h"
#include "test_util.h"

#define DEBUGFS		"/sys/kernel/debug/hwpoison/"
#define MAX_STRUCK	8192
#define EVENT		"filemap/mm_filemap_add_to_page_cache"

const char *hwpoison_unsupported(void)
{
	if (geteuid())
		return "injecting memory errors needs root";

	return access_unsupported(DEBUGFS "corrupt-pfn", W_OK,
				  "no " DEBUGFS "corrupt-pfn (CONFIG_HWPOISON_INJECT)") ?:
	       access_unsupported("/proc/kpageflags", R_OK,
				  "no /proc/kpageflags (CONFIG_PROC_PAGE_MONITOR)");
}

static u64 struck[MAX_STRUCK];
static int nr_struck;

void hwpoison_remember(u64 pfn)
{
	int i = __atomic_fetch_add(&nr_struck, 1, __ATOMIC_RELAXED);

	TEST_ASSERT(i < MAX_STRUCK, "Too many memory errors");
	struck[i] = pfn;
}

int hwpoison_inject(u64 pfn)
{
	int r = write_file(DEBUGFS "corrupt-pfn", "0x%lx", pfn);

	if (!r || r == -EBUSY)
		hwpoison_remember(pfn);
	return r;
}

static int hwpoison_unpoison(u64 pfn)
{
	int tries, r = -EBUSY;

	/* Unpoisoning fails while a page has other users, however briefly. */
	for (tries = 0; r == -EBUSY && tries < 50; tries++) {
		if (tries)
			usleep(10000);
		r = write_file(DEBUGFS "unpoison-pfn", "0x%lx", pfn);
	}
	return r;
}

int hwpoison_unpoison_all(void)
{
	int nr_failed = 0;

	while (nr_struck)
		nr_failed += !!hwpoison_unpoison(struck[--nr_struck]);
	return nr_failed;
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
		if (len < 0 && errno == EPIPE)	/* records were overwritten */
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
	return read_meminfo("HardwareCorrupted:");
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

const char *hwpoison_pfn_unsupported(void)
{
	return geteuid() ? "reading the pfns of mapped pages needs root" : NULL;
}

bool hwpoison_is_mapped(const void *hva)
{
	return read_entry("/proc/self/pagemap", (u64)hva / getpagesize()) & BIT_ULL(63);
}

u64 hwpoison_mapped_pfn(const void *hva)
{
	u64 entry = read_entry("/proc/self/pagemap", (u64)hva / getpagesize());

	return entry & BIT_ULL(63) ? entry & GENMASK_ULL(54, 0) : 0;
}

const char *hwpoison_alloc_unsupported(void)
{
	return trace_unsupported(EVENT) ?
	       "no tracepoint " EVENT " (this needs root and tracefs)" : NULL;
}

/*
 * Private pages aren't mapped, so their pfns can't be looked up.  But there is
 * an event for each page that is added to the page cache of a file.
 */
u64 hwpoison_alloc_gmem_page(int fd, u64 offset)
{
	struct trace trace;
	char text[256];
	struct stat st;

	TEST_ASSERT(!fstat(fd, &st), __KVM_SYSCALL_ERROR("fstat()", -1));
	trace_start(&trace, EVENT, "i_ino == %lu", st.st_ino);
	kvm_fallocate(fd, FALLOC_FL_KEEP_SIZE, offset, getpagesize());
	TEST_ASSERT(trace_take(&trace, text, sizeof(text)) == 1 &&
		    trace_field(text, " ofs=") == offset,
		    "No page was allocated at offset 0x%lx", offset);
	trace_stop(&trace);
	return trace_field(text, " pfn=");
}

// SPDX-License-Identifier: GPL-2.0
/*
 * Output to the user, and the measurements that it is based on.
 */
#include <stdarg.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "show.h"

#define SHARED_EMPTY	'.'
#define SHARED_USED	'S'
#define PRIVATE_EMPTY	'-'
#define PRIVATE_USED	'P'
#define MIXED		'+'
#define LOST		'X'

/* /proc/self/pagemap: Documentation/admin-guide/mm/pagemap.rst */
static const __u64 pagemap_present = 1ULL << 63;
static const __u64 pagemap_pfn = (1ULL << 55) - 1;

static bool quiet, colour;
static unsigned int checked, titles;
static unsigned long lost;

void show_init(bool be_quiet)
{
	quiet = be_quiet;
	colour = isatty(STDOUT_FILENO) && !getenv("NO_COLOR");
	setvbuf(stdout, NULL, _IOLBF, 0);
}

void title(const char *text)
{
	say("\n%u. %s", ++titles, text);
}

void say(const char *fmt, ...)
{
	va_list args;

	if (quiet)
		return;
	va_start(args, fmt);
	vprintf(fmt, args);
	va_end(args);
	putchar('\n');
}

/*
 * Print a claim, or die if it is not true.  The text includes the values that
 * are compared, so that it also shows the difference.
 */
void check(bool ok, const char *fmt, ...)
{
	char text[256];
	va_list args;

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);

	if (!ok)
		die("NOT TRUE: %s", text);
	checked++;
	say("   %s  %s", colour ? "\033[32mok\033[0m" : "ok", text);
}

unsigned int checks_done(void)
{
	return checked;
}

/*
 * Find out which pages of the file exist: mincore() looks up pages in the page
 * cache, whether or not they are mapped or private.  A page that was allocated
 * but never touched (fallocate) does not count.
 */
void pages_in_memory(const struct vm *vm, __u8 *vec)
{
	unsigned long i;

	if (mincore(vm->mem, vm->size, vec))
		die("mincore() of the guest_memfd failed");
	for (i = 0; i < FILE_PAGES; i++)
		vec[i] &= 1;
}

static char map_cell(const struct vm *vm, const __u8 *used, unsigned long page)
{
	if (lost && page == lost)
		return LOST;
	if (vm->is_private[page])
		return used[page] ? PRIVATE_USED : PRIVATE_EMPTY;
	return used[page] ? SHARED_USED : SHARED_EMPTY;
}

/* Make a row that includes @offset: the first pages one by one, or the whole file. */
void map_take(struct map_row *row, const struct vm *vm, __u64 offset)
{
	static __u8 used[FILE_PAGES];
	unsigned long i, j, page;

	pages_in_memory(vm, used);
	row->first = 0;
	row->scale = offset / PAGE_BYTES < MAP_CELLS ? 1 : FILE_PAGES / MAP_CELLS;
	for (i = 0; i < MAP_CELLS; i++) {
		page = row->first + i * row->scale;
		row->cell[i] = map_cell(vm, used, page);
		for (j = 1; j < row->scale; j++) {
			if (map_cell(vm, used, page + j) != row->cell[i])
				row->cell[i] = MIXED;
		}
	}
}

void map_legend(void)
{
	say("   The map of the file:   %c shared, in memory     %c shared, not in memory",
	    SHARED_USED, SHARED_EMPTY);
	say("   %c mixed    %c lost      %c private, in memory    %c private, not in memory", MIXED,
	    LOST, PRIVATE_USED, PRIVATE_EMPTY);
}

/* Show a page as lost from now on, or none if @page is 0. */
void map_lost(unsigned long page)
{
	lost = page;
}

void map_show(const char *label, const struct map_row *row)
{
	static unsigned long scale;
	const char *want, *now = "";
	unsigned int i;

	if (quiet)
		return;
	if (row->scale != scale)
		say("   map of %s, %lu page%s per character:",
		    row->scale == 1 ? "the file's first pages" : "the whole file",
		    row->scale, row->scale == 1 ? "" : "s");
	scale = row->scale;
	printf("   %-8s|", label);
	for (i = 0; i < MAP_CELLS; i++) {
		if (row->cell[i] == LOST)
			want = "\033[1;35m";
		else if (row->cell[i] == PRIVATE_USED || row->cell[i] == PRIVATE_EMPTY)
			want = "\033[31m";
		else if (row->cell[i] == MIXED)
			want = "\033[33m";
		else
			want = "\033[32m";
		if (colour && want != now)
			fputs(want, stdout);
		now = want;
		putchar(row->cell[i]);
	}
	printf("%s|\n", colour ? "\033[0m" : "");
}

/* Point at the converted pages. */
void map_mark(const struct map_row *row, __u64 offset, __u64 size)
{
	unsigned long first = offset / PAGE_BYTES, end = first + size / PAGE_BYTES;
	unsigned long i, page;
	char line[MAP_CELLS + 1] = "";

	for (i = 0; i < MAP_CELLS; i++) {
		page = row->first + i * row->scale;
		if (page >= end)
			break;
		line[i] = page + row->scale > first ? '^' : ' ';
	}
	say("   %-8s %s", "", line);
}

/* Add up the numbers after @field in all lines of @file that contain it. */
unsigned long proc_sum(const char *file, const char *field)
{
	unsigned long value, sum = 0;
	bool found = false;
	char line[256];
	char *at;
	FILE *f;

	f = fopen(file, "re");
	if (!f)
		die("cannot read %s", file);
	while (fgets(line, sizeof(line), f)) {
		at = strstr(line, field);
		if (at && sscanf(at + strlen(field), "%lu", &value) == 1) {
			found = true;
			sum += value;
		}
	}
	fclose(f);
	if (!found)
		die("no %s in %s", field, file);
	return sum;
}

void usage_take(struct usage *usage, const struct vm *vm)
{
	static __u8 used[FILE_PAGES];
	unsigned long i;

	pages_in_memory(vm, used);
	usage->file_kb = 0;
	for (i = 0; i < FILE_PAGES; i++)
		usage->file_kb += used[i] * PAGE_BYTES / 1024;
	usage->own_kb = proc_sum("/proc/self/status", "RssAnon:");
	/* MemAvailable lacks free pages on per-CPU lists, often many MiB. */
	usage->avail_kb = proc_sum("/proc/meminfo", "MemAvailable:") +
			  proc_sum("/proc/zoneinfo", " count:") * (PAGE_BYTES / 1024);
}

/*
 * Find the physical frame that the host has mapped at @addr.  Return false if
 * there is none; @pfn is 0 for lack of permission (only root can see it).
 */
bool frame_of(const void *addr, __u64 *pfn)
{
	off_t at = (unsigned long)addr / PAGE_BYTES * sizeof(__u64);
	__u64 entry;
	ssize_t got;
	int fd;

	fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		die("cannot open /proc/self/pagemap");
	got = pread(fd, &entry, sizeof(entry), at);
	close(fd);
	if (got != sizeof(entry))
		die("cannot read /proc/self/pagemap");
	*pfn = entry & pagemap_pfn;
	return entry & pagemap_present;
}

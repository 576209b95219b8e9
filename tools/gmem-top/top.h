/* SPDX-License-Identifier: GPL-2.0-only */
/* The data of gmem-top: VMs, guest_memfds, and their conversions. */
#ifndef TOP_H
#define TOP_H

#include <stdbool.h>
#include <stdio.h>
#include <stdnoreturn.h>
#include <unistd.h>

#define ARRAY_SIZE(array)	(sizeof(array) / sizeof((array)[0]))

#define PAGE_BYTES		((u64)sysconf(_SC_PAGESIZE))

#define KVM_DEBUGFS	"/sys/kernel/debug/kvm"

#define EXIT_FAILED		1
#define EXIT_USAGE		2

#define GMEM_PARAMETER	"/sys/module/kvm/parameters/gmem_in_place_conversion"

typedef unsigned long long u64;

/* Counters of a VM since it was created, see stat_names[]. */
enum vm_stat {
	TO_PRIVATE,
	PAGES_TO_PRIVATE,
	TO_SHARED,
	PAGES_TO_SHARED,
	BUSY,
	POISONED,
	NR_STATS,
};

extern const char * const stat_names[NR_STATS];

struct vm {
	int pid, fd;
	char comm[16];
	bool has_stats;
	u64 stats[NR_STATS];
};

/* Conversions of a file, as reported by the tracepoint. */
struct conversions {
	u64 requests;
	u64 pages_to_private;
	u64 pages_to_shared;
	u64 waited_ns;
	u64 refused;		/* EAGAIN and EHWPOISON */
};

struct refusal {
	int error;		/* EAGAIN or EHWPOISON, 0 if no request was refused */
	u64 offset, size;	/* of the request */
	bool has_offender;	/* the kernel has reported @offender */
	u64 offender;		/* offset of the page that blocked the request */
};

struct activity {
	u64 ino;
	struct conversions interval, total;
	struct refusal last;
};

struct file {
	u64 ino;
	int pid, fd;		/* the first holder that was found */
	char comm[16];
	u64 size;
	/* From fdinfo; without it only the size is known. */
	bool has_info;
	u64 flags, shared, private, ranges, allocated, poisoned;
};

/* Pages that are either all shared or all private.  Which of them are allocated is not known. */
struct run {
	u64 start, nr, allocated, poisoned;
	bool private;
};

/* Where the memory of a file is private and allocated. */
struct map {
	u64 ino, nr_pages;
	struct run *runs;
	unsigned int nr_runs;
};

struct report {
	double seconds;		/* length of the interval, 0 if conversions were not watched */
	u64 lost;		/* events that were overwritten before they were read */
	int in_place;		/* 1 on, 0 off, -1 unknown */
	struct vm *vms;
	unsigned int nr_vms;
	struct file *files;
	unsigned int nr_files;
	bool with_map;		/* requested by the user */
	struct map *maps;	/* also of files that no visible process has open */
	unsigned int nr_maps;
	unsigned int width;	/* columns for the map and the notes */
	char **notes;		/* information that is not available, and why */
	unsigned int nr_notes;
};

/* util.c */
noreturn void die(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void *grow(void *array, unsigned int nr, size_t size);
bool read_text(char *text, size_t size, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
void note(struct report *report, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
bool report_has(const struct report *report, u64 ino);
void report_free(struct report *report);
double now(void);

/* proc.c */
void proc_scan(struct report *report);

/* stats.c */
void stats_read(struct report *report);
const char *debugfs_hint(int err);

/* map.c */
void map_read(struct report *report);
const struct map *map_find(const struct report *report, u64 ino);

/* trace.c */
bool trace_open(void);
void trace_close(void);
void trace_read(void);
void trace_note(struct report *report);
u64 trace_lost(void);
const struct activity *trace_activity(u64 ino);
const struct activity *trace_nth(unsigned int i);
void trace_next_interval(const struct report *report);

/* show.c */
void show_text(FILE *out, const struct report *report);

/* json.c */
void show_json(FILE *out, const struct report *report);

#endif

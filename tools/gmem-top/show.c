// SPDX-License-Identifier: GPL-2.0-only
/* A report as text.  Only the map and the notes adapt to the width. */
#include <errno.h>
#include <string.h>

#include "top.h"

/* Return one of several static buffers, so that a call of printf() can use a few. */
static char *next_text(void)
{
	static char text[16][32];
	static unsigned int i;

	return text[i++ % ARRAY_SIZE(text)];
}

static const char *bytes(u64 value)
{
	static const char unit[] = "KMGTPE";
	char *text = next_text();
	double scaled = value / 1024.0;
	unsigned int i = 0;

	if (value && value < 1024) {
		snprintf(text, 32, "%llu", value);
		return text;
	}
	if (!value)
		return "0";
	for (; scaled >= 1024 && unit[i + 1]; i++)
		scaled /= 1024;
	/* Show no digit after the point of whole or large numbers. */
	if (scaled >= 100 || scaled == (u64)scaled)
		snprintf(text, 32, "%.0f%c", scaled, unit[i]);
	else
		snprintf(text, 32, "%.1f%c", scaled, unit[i]);
	return text;
}

static const char *count(u64 value)
{
	static const char unit[] = "kMGTPE";
	char *text = next_text();
	double scaled = value;
	unsigned int i;

	if (value < 100000) {
		snprintf(text, 32, "%llu", value);
		return text;
	}
	for (i = 0, scaled /= 1000; scaled >= 1000 && unit[i + 1]; i++)
		scaled /= 1000;
	snprintf(text, 32, scaled < 100 ? "%.1f%c" : "%.0f%c", scaled, unit[i]);
	return text;
}

static const char *per_second(u64 value, double seconds)
{
	return seconds > 0 ? count(value / seconds + 0.5) : "-";
}

/* Break lines between words. */
static void show_words(FILE *out, const struct report *report, const char *indent,
		       const char *text)
{
	int len, first = 1, room = report->width - strlen(indent) - 2;
	const char *end;

	while (*text) {
		len = strlen(text);
		if (len > room + 2 * first) {
			for (end = text + room; end > text && *end != ' '; end--)
				;
			len = end > text ? end - text : room;
		}
		fprintf(out, "%s%s%.*s\n", indent, first ? "" : "  ", len, text);
		first = 0;
		text += len;
		text += strspn(text, " ");
	}
}

static void show_memory(FILE *out, const struct report *report)
{
	const struct file *f;
	unsigned int i;

	fprintf(out, "%7s %4s %-15s %8s %8s %8s %7s %8s %6s\n", "PID", "FD", "COMMAND", "SIZE",
		"SHARED", "PRIVATE", "RANGES", "ALLOC", "POISON");
	for (i = 0; i < report->nr_files; i++) {
		f = &report->files[i];
		fprintf(out, "%7d %4d %-15s %8s ", f->pid, f->fd, f->comm, bytes(f->size));
		if (f->has_info)
			fprintf(out, "%8s %8s %7s %8s %6s\n", bytes(f->shared), bytes(f->private),
				count(f->ranges), bytes(f->allocated), count(f->poisoned));
		else
			fprintf(out, "%8s %8s %7s %8s %6s\n", "-", "-", "-", "-", "-");
	}
}

static void show_offender(FILE *out, const struct refusal *last)
{
	if (!last->error)
		fprintf(out, "-\n");
	else if (last->has_offender)
		fprintf(out, "%#llx %s\n", last->offender,
			last->error == EAGAIN ? "busy" : "poisoned");
	else
		fprintf(out, "%#llx+%s %s\n", last->offset, bytes(last->size),
			last->error == EAGAIN ? "busy" : "poisoned");
}

static void show_activity(FILE *out, const struct activity *a, double seconds)
{
	fprintf(out, "%10s %9s %9s %9.1f %8s ", per_second(a->interval.requests, seconds),
		per_second(a->interval.pages_to_private, seconds),
		per_second(a->interval.pages_to_shared, seconds),
		a->interval.waited_ns / 1e6, count(a->total.refused));
	show_offender(out, &a->last);
}

static void show_conversions(FILE *out, const struct report *report)
{
	const struct activity *a;
	unsigned int i;

	fprintf(out, "%7s %4s %10s %9s %9s %9s %8s %s\n", "PID", "FD", "REQUESTS/s", "PRIVATE/s",
		"SHARED/s", "WAITED ms", "REFUSED", "OFFENDER");
	for (i = 0; i < report->nr_files; i++) {
		fprintf(out, "%7d %4d ", report->files[i].pid, report->files[i].fd);
		show_activity(out, trace_activity(report->files[i].ino), report->seconds);
	}
	/* Files that have been closed since they were converted, even if still mapped. */
	for (i = 0; (a = trace_nth(i)); i++) {
		if (!a->interval.requests || report_has(report, a->ino))
			continue;
		fprintf(out, "%7s %4s ", "?", "?");
		show_activity(out, a, report->seconds);
	}
	if (report->lost)
		fprintf(out, "Events lost in this interval, as they came faster than they could be read: %s\n",
			count(report->lost));
}

static void show_vms(FILE *out, const struct report *report)
{
	const struct vm *vm;
	unsigned int i;

	fprintf(out, "%7s %4s %-15s %9s %8s %9s %8s %5s %6s\n", "PID", "VM", "COMMAND",
		"TOPRIVATE", "PAGES", "TOSHARED", "PAGES", "BUSY", "POISON");
	for (i = 0; i < report->nr_vms; i++) {
		vm = &report->vms[i];
		fprintf(out, "%7d %4d %-15s ", vm->pid, vm->fd, vm->comm);
		if (vm->has_stats)
			fprintf(out, "%9s %8s %9s %8s %5s %6s\n", count(vm->stats[TO_PRIVATE]),
				count(vm->stats[PAGES_TO_PRIVATE]), count(vm->stats[TO_SHARED]),
				count(vm->stats[PAGES_TO_SHARED]), count(vm->stats[BUSY]),
				count(vm->stats[POISONED]));
		else
			fprintf(out, "%9s %8s %9s %8s %5s %6s\n", "-", "-", "-", "-", "-", "-");
	}
}

/* The contents of a piece of a file, which is shown as one character. */
struct piece {
	bool shared, private, allocated, absent, poisoned;
};

static char piece_char(const struct piece *p)
{
	static const char chars[3][4] = { ".sS", "-pP", "~mM" };
	const char *row = chars[p->shared && p->private ? 2 : p->private];

	if (p->poisoned)
		return '!';
	return !p->allocated ? row[0] : p->absent ? row[1] : row[2];
}

/* The size of a piece is a power of 2. */
static u64 pages_per_piece(u64 nr_pages, unsigned int width)
{
	u64 nr = 1;

	while (nr * width < nr_pages)
		nr *= 2;
	return nr;
}

static void show_pieces(FILE *out, const struct map *map, u64 per_piece)
{
	const struct run *run = map->runs, *end = map->runs + map->nr_runs;
	struct piece piece;
	u64 start;

	for (start = 0; start < map->nr_pages; start += per_piece) {
		piece = (struct piece) { };
		while (run->start + run->nr <= start)
			run++;
		/* The last run may continue in the next piece. */
		for (;; run++) {
			piece.shared |= !run->private;
			piece.private |= run->private;
			piece.allocated |= run->allocated;
			piece.absent |= run->allocated < run->nr;
			piece.poisoned |= run->poisoned;
			if (run + 1 == end || run[1].start >= start + per_piece)
				break;
		}
		fputc(piece_char(&piece), out);
	}
	fputc('\n', out);
}

static void show_map(FILE *out, const struct report *report, const struct map *map)
{
	u64 per_piece = pages_per_piece(map->nr_pages, report->width);

	fprintf(out, "%8s, %s for each character\n", bytes(map->nr_pages * PAGE_BYTES),
		bytes(per_piece * PAGE_BYTES));
	show_pieces(out, map, per_piece);
}

static void show_maps(FILE *out, const struct report *report)
{
	const struct map *map;
	const struct file *f;
	unsigned int i;

	show_words(out, report, "", "shared . s S, private - p P, both ~ m M (none, some, all allocated), ! poisoned");
	for (i = 0; i < report->nr_files; i++) {
		f = &report->files[i];
		map = map_find(report, f->ino);
		if (!map)
			continue;
		fprintf(out, "%7d %4d %-15s ", f->pid, f->fd, f->comm);
		show_map(out, report, map);
	}
	for (i = 0; i < report->nr_maps; i++) {
		map = &report->maps[i];
		if (report_has(report, map->ino))
			continue;
		fprintf(out, "%7s %4s %-15s ", "?", "?", "?");
		show_map(out, report, map);
	}
}

void show_text(FILE *out, const struct report *report)
{
	static const char * const mode[] = { "", "; in-place conversion is off",
					     "; in-place conversion is on" };
	unsigned int i;

	fprintf(out, "gmem-top: %u VM%s, %u guest_memfd%s%s", report->nr_vms,
		report->nr_vms == 1 ? "" : "s", report->nr_files, report->nr_files == 1 ? "" : "s",
		mode[report->in_place + 1]);
	if (report->seconds > 0)
		fprintf(out, "; conversions of the last %.1f s", report->seconds);
	fprintf(out, "\n");

	if (report->nr_files) {
		fprintf(out, "\nMemory\n");
		show_memory(out, report);
	}
	if (report->nr_maps) {
		fprintf(out, "\nMap\n");
		show_maps(out, report);
	}
	if ((report->nr_files || trace_nth(0)) && report->seconds > 0) {
		fprintf(out, "\nConversions (PRIVATE and SHARED in pages)\n");
		show_conversions(out, report);
	}
	if (report->nr_vms) {
		fprintf(out, "\nVMs, since they were created\n");
		show_vms(out, report);
	}
	if (report->nr_notes)
		fprintf(out, "\nNot visible\n");
	for (i = 0; i < report->nr_notes; i++)
		show_words(out, report, "  ", report->notes[i]);
}

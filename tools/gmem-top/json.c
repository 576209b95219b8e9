// SPDX-License-Identifier: GPL-2.0-only
/* A report as one line of JSON.  All sizes and offsets are in bytes. */
#include <errno.h>
#include <time.h>

#include "top.h"

static void string(FILE *out, const char *text)
{
	fputc('"', out);
	for (; *text; text++) {
		if (*text == '"' || *text == '\\')
			fprintf(out, "\\%c", *text);
		else if ((unsigned char)*text < 0x20)
			fprintf(out, "\\u%04x", *text);
		else
			fputc(*text, out);
	}
	fputc('"', out);
}

static void conversions(FILE *out, const char *name, const struct conversions *c)
{
	fprintf(out, "\"%s\":{\"requests\":%llu,\"pages_to_private\":%llu,\"pages_to_shared\":%llu,\"waited_ns\":%llu,\"refused\":%llu}",
		name, c->requests, c->pages_to_private, c->pages_to_shared, c->waited_ns,
		c->refused);
}

static void activity(FILE *out, const struct activity *a)
{
	conversions(out, "interval", &a->interval);
	fputc(',', out);
	conversions(out, "total", &a->total);
	fprintf(out, ",\"last_refusal\":");
	if (!a->last.error) {
		fprintf(out, "null");
		return;
	}
	fprintf(out, "{\"error\":\"%s\",\"offset\":%llu,\"size\":%llu,\"error_offset\":",
		a->last.error == EAGAIN ? "EAGAIN" : "EHWPOISON", a->last.offset, a->last.size);
	if (a->last.has_offender)
		fprintf(out, "%llu}", a->last.offender);
	else
		fprintf(out, "null}");
}

static void runs(FILE *out, const struct map *map)
{
	const struct run *run;
	unsigned int i;

	if (!map) {
		fprintf(out, "null");
		return;
	}
	fputc('[', out);
	for (i = 0; i < map->nr_runs; i++) {
		run = &map->runs[i];
		fprintf(out, "%s{\"offset\":%llu,\"size\":%llu,\"private\":%s,\"allocated\":%llu,\"pages_poisoned\":%llu}",
			i ? "," : "", run->start * PAGE_BYTES, run->nr * PAGE_BYTES,
			run->private ? "true" : "false", run->allocated * PAGE_BYTES,
			run->poisoned);
	}
	fputc(']', out);
}

/* Files for which only the map is available. */
static void other_files(FILE *out, const struct report *report)
{
	unsigned int i, nr = 0;

	fprintf(out, "],\"other_files\":[");
	for (i = 0; i < report->nr_maps; i++) {
		if (report_has(report, report->maps[i].ino))
			continue;
		fprintf(out, "%s{\"ino\":%llu,\"map\":", nr++ ? "," : "", report->maps[i].ino);
		runs(out, &report->maps[i]);
		fputc('}', out);
	}
}

static void file(FILE *out, const struct report *report, const struct file *f)
{
	fprintf(out, "{\"pid\":%d,\"fd\":%d,\"ino\":%llu,\"command\":", f->pid, f->fd, f->ino);
	string(out, f->comm);
	fprintf(out, ",\"size\":%llu", f->size);
	if (f->has_info)
		fprintf(out, ",\"flags\":%llu,\"shared\":%llu,\"private\":%llu,\"ranges\":%llu,\"allocated\":%llu,\"pages_poisoned\":%llu",
			f->flags, f->shared, f->private, f->ranges, f->allocated, f->poisoned);
	fprintf(out, ",\"conversions\":");
	if (report->seconds > 0) {
		fputc('{', out);
		activity(out, trace_activity(f->ino));
		fputc('}', out);
	} else {
		fprintf(out, "null");
	}
	if (report->with_map) {
		fprintf(out, ",\"map\":");
		runs(out, map_find(report, f->ino));
	}
	fputc('}', out);
}

static void vm(FILE *out, const struct vm *vm)
{
	int i;

	fprintf(out, "{\"pid\":%d,\"fd\":%d,\"command\":", vm->pid, vm->fd);
	string(out, vm->comm);
	fprintf(out, ",\"statistics\":");
	if (!vm->has_stats) {
		fprintf(out, "null}");
		return;
	}
	for (i = 0; i < NR_STATS; i++)
		fprintf(out, "%c\"%s\":%llu", i ? ',' : '{', stat_names[i], vm->stats[i]);
	fprintf(out, "}}");
}

void show_json(FILE *out, const struct report *report)
{
	static const char * const mode[] = { "null", "false", "true" };
	struct timespec ts;
	unsigned int i;

	clock_gettime(CLOCK_REALTIME, &ts);
	fprintf(out, "{\"time\":%lld.%03ld,\"seconds\":%.3f,\"in_place_conversion\":%s,\"events_lost\":%llu,\"vms\":[",
		(long long)ts.tv_sec, ts.tv_nsec / 1000000, report->seconds,
		mode[report->in_place + 1], report->lost);
	for (i = 0; i < report->nr_vms; i++) {
		if (i)
			fputc(',', out);
		vm(out, &report->vms[i]);
	}
	fprintf(out, "],\"files\":[");
	for (i = 0; i < report->nr_files; i++) {
		if (i)
			fputc(',', out);
		file(out, report, &report->files[i]);
	}
	if (report->with_map)
		other_files(out, report);
	fprintf(out, "],\"not_visible\":[");
	for (i = 0; i < report->nr_notes; i++) {
		if (i)
			fputc(',', out);
		string(out, report->notes[i]);
	}
	fprintf(out, "]}\n");
}

// SPDX-License-Identifier: GPL-2.0-only
/*
 * Where the memory of a file is private and allocated, from <tid>-<fd>/gmem_map
 * in KVM's debugfs directory.  The kernel gathers this while gmem_map is being
 * read, so read it only on request.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "top.h"

/* Read events each time this many lines of a map have been read. */
#define LINES_AT_ONCE	1024

static struct map *map_of(struct report *report, u64 ino)
{
	struct map *map;

	/* All lines of a file are consecutive. */
	if (report->nr_maps && report->maps[report->nr_maps - 1].ino == ino)
		return &report->maps[report->nr_maps - 1];
	report->maps = grow(report->maps, report->nr_maps, sizeof(*map));
	map = &report->maps[report->nr_maps++];
	map->ino = ino;
	return map;
}

/* Check whether all pages of both runs are adjacent and in the same state. */
static bool same(const struct run *a, const struct run *b)
{
	return a->start + a->nr == b->start && a->private == b->private &&
	       !a->poisoned && !b->poisoned &&
	       ((!a->allocated && !b->allocated) ||
		(a->allocated == a->nr && b->allocated == b->nr));
}

static void add_run(struct map *map, const struct run *run)
{
	struct run *last = map->nr_runs ? &map->runs[map->nr_runs - 1] : NULL;

	map->nr_pages = run->start + run->nr;
	if (last && same(last, run)) {
		last->nr += run->nr;
		last->allocated += run->allocated;
		return;
	}
	map->runs = grow(map->runs, map->nr_runs, sizeof(*run));
	map->runs[map->nr_runs++] = *run;
}

static void parse(struct report *report, const char *line)
{
	struct run run = { };
	char attribute[8];
	u64 ino;

	if (sscanf(line, "ino %llu start %llx nr_pages %llx %7s allocated %llu poisoned %llu",
		   &ino, &run.start, &run.nr, attribute, &run.allocated, &run.poisoned) != 6)
		return;
	run.private = attribute[0] == 'p';
	add_run(map_of(report, ino), &run);
}

/* Return 0 or the errno with which opening gmem_map failed. */
static int read_map(struct report *report, int dir_fd, const char *name)
{
	unsigned int nr = 0;
	char path[300];
	char line[256];
	FILE *file;
	int fd;

	snprintf(path, sizeof(path), "%s/gmem_map", name);
	fd = openat(dir_fd, path, O_RDONLY | O_CLOEXEC);
	file = fd < 0 ? NULL : fdopen(fd, "r");
	if (!file)
		return errno;
	while (fgets(line, sizeof(line), file)) {
		parse(report, line);
		if (!(++nr % LINES_AT_ONCE))
			trace_read();
	}
	fclose(file);
	return 0;
}

const struct map *map_find(const struct report *report, u64 ino)
{
	unsigned int i;

	for (i = 0; i < report->nr_maps; i++)
		if (report->maps[i].ino == ino)
			return &report->maps[i];
	return NULL;
}

void map_read(struct report *report)
{
	DIR *dir = opendir(KVM_DEBUGFS);
	unsigned int i, missing = 0;
	int tid, fd, r, err = 0;
	struct dirent *entry;

	if (!dir) {
		if (report->nr_files)
			note(report, "map of files: %s: %s; %s", KVM_DEBUGFS, strerror(errno),
			     debugfs_hint(errno));
		return;
	}
	while ((entry = readdir(dir))) {
		if (sscanf(entry->d_name, "%d-%d", &tid, &fd) != 2)
			continue;
		r = read_map(report, dirfd(dir), entry->d_name);
		/* The VM may be gone. */
		if (r && r != ENOENT)
			err = r;
	}
	closedir(dir);
	for (i = 0; i < report->nr_files; i++)
		missing += !map_find(report, report->files[i].ino);
	if (missing)
		note(report, "map of %u file%s: %s/<tid>-<fd>/gmem_map: %s", missing,
		     missing == 1 ? "" : "s", KVM_DEBUGFS,
		     err ? strerror(err) : "not provided by this kernel");
}

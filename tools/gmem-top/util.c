// SPDX-License-Identifier: GPL-2.0-only
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "top.h"

void die(const char *fmt, ...)
{
	va_list ap;

	fputs("gmem-top: ", stderr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	exit(EXIT_FAILED);
}

/* Make room for element @nr, and clear it. */
void *grow(void *array, unsigned int nr, size_t size)
{
	/* Double the array whenever @nr is a power of 2. */
	if (!(nr & (nr - 1))) {
		array = reallocarray(array, nr ? 2 * (size_t)nr : 1, size);
		if (!array)
			die("out of memory");
	}
	memset((char *)array + nr * size, 0, size);
	return array;
}

/* Read a small file in procfs, sysfs or debugfs; @fmt is its path. */
bool read_text(char *text, size_t size, const char *fmt, ...)
{
	char path[PATH_MAX];
	va_list ap;
	ssize_t len;
	int fd, err;

	va_start(ap, fmt);
	vsnprintf(path, sizeof(path), fmt, ap);
	va_end(ap);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	len = read(fd, text, size - 1);
	err = errno;
	close(fd);
	errno = err;
	if (len < 0)
		return false;
	text[len] = '\0';
	return true;
}

void note(struct report *report, const char *fmt, ...)
{
	char *text;
	va_list ap;

	va_start(ap, fmt);
	if (vasprintf(&text, fmt, ap) < 0)
		die("out of memory");
	va_end(ap);
	report->notes = grow(report->notes, report->nr_notes, sizeof(*report->notes));
	report->notes[report->nr_notes++] = text;
}

bool report_has(const struct report *report, u64 ino)
{
	unsigned int i;

	for (i = 0; i < report->nr_files; i++)
		if (report->files[i].ino == ino)
			return true;
	return false;
}

void report_free(struct report *report)
{
	while (report->nr_notes)
		free(report->notes[--report->nr_notes]);
	free(report->notes);
	while (report->nr_maps)
		free(report->maps[--report->nr_maps].runs);
	free(report->maps);
	free(report->files);
	free(report->vms);
}

double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

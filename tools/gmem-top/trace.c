// SPDX-License-Identifier: GPL-2.0-only
/*
 * Conversions as they happen, from the tracepoint kvm:kvm_gmem_convert.
 *
 * The event is enabled in a separate tracefs instance, so neither its buffer
 * nor its settings are shared with other users of tracing.  The instance is
 * called gmem-top.<pid>.  If that process is gone, e.g. because it was killed,
 * the next gmem-top removes the instance.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "top.h"

#define EVENT		"events/kvm/kvm_gmem_convert"
#define NAME		"gmem-top."
#define BUFFER_KIB	"1024"		/* for each CPU */

static const char * const tracefs[] = { "/sys/kernel/tracing", "/sys/kernel/debug/tracing" };

static char instance[128];	/* path of the tracefs instance, or empty */
static int pipe_fd = -1;
static char why_not[512];	/* the reason if conversions are not watched */

static struct activity *activities;
static unsigned int nr_activities;
static u64 lost;

static bool not_watched(const char *path, const char *why)
{
	int err = errno;

	if (!why)
		why = err == EACCES || err == EPERM ? "only root can access tracefs" : "";
	snprintf(why_not, sizeof(why_not), "%s: %s%s%s", path, strerror(err), *why ? "; " : "", why);
	trace_close();
	return false;
}

static bool write_file(const char *name, const char *value)
{
	char path[PATH_MAX];
	ssize_t len;
	int fd, err;

	snprintf(path, sizeof(path), "%s/%s", instance, name);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	len = write(fd, value, strlen(value));
	err = errno;
	close(fd);
	errno = err;
	return len >= 0;
}

/* Removing an instance that is in use fails with EBUSY. */
static void remove_stale(const char *instances)
{
	DIR *dir = opendir(instances);
	struct dirent *entry;
	pid_t pid;

	while (dir && (entry = readdir(dir))) {
		if (strncmp(entry->d_name, NAME, strlen(NAME)))
			continue;
		pid = atoi(entry->d_name + strlen(NAME));
		if (pid > 0 && kill(pid, 0) && errno == ESRCH)
			unlinkat(dirfd(dir), entry->d_name, AT_REMOVEDIR);
	}
	if (dir)
		closedir(dir);
}

static const char *find_tracefs(void)
{
	char path[PATH_MAX];
	struct stat st;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(tracefs); i++) {
		snprintf(path, sizeof(path), "%s/instances", tracefs[i]);
		if (!stat(path, &st) || errno != ENOENT)
			return tracefs[i];
	}
	return NULL;
}

/*
 * Start watching, or make sure that it continues: the event comes and goes with
 * KVM's module.
 */
bool trace_open(void)
{
	const char *dir = find_tracefs();
	char path[PATH_MAX];
	struct stat st;

	if (pipe_fd >= 0 && write_file(EVENT "/enable", "1"))
		return true;
	trace_close();

	if (!dir)
		return not_watched(tracefs[0], "tracefs has to be mounted there");
	snprintf(path, sizeof(path), "%s/" EVENT, dir);
	if (stat(path, &st))
		return not_watched(path, errno == ENOENT ?
				   "KVM is not loaded, or does not have this tracepoint" : NULL);

	snprintf(path, sizeof(path), "%s/instances", dir);
	remove_stale(path);
	snprintf(instance, sizeof(instance), "%s/instances/" NAME "%d", dir, getpid());
	if (mkdir(instance, 0700)) {
		instance[0] = '\0';
		return not_watched(path, NULL);
	}
	snprintf(path, sizeof(path), "%s/trace_pipe", instance);
	pipe_fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	if (pipe_fd < 0)
		return not_watched(path, NULL);
	if (!write_file("buffer_size_kb", BUFFER_KIB) || !write_file(EVENT "/enable", "1"))
		return not_watched(instance, NULL);
	return true;
}

/* Close the pipe first, as it keeps the instance busy. */
void trace_close(void)
{
	int err = errno;

	if (pipe_fd >= 0)
		close(pipe_fd);
	pipe_fd = -1;
	if (instance[0] && rmdir(instance))
		fprintf(stderr, "gmem-top: cannot remove %s: %s\n", instance, strerror(errno));
	instance[0] = '\0';
	errno = err;
}

void trace_note(struct report *report)
{
	if (pipe_fd < 0)
		note(report, "conversions: %s", why_not);
}

static struct activity *activity_of(u64 ino)
{
	unsigned int i;

	for (i = 0; i < nr_activities; i++)
		if (activities[i].ino == ino)
			return &activities[i];
	activities = grow(activities, nr_activities, sizeof(*activities));
	activities[nr_activities].ino = ino;
	return &activities[nr_activities++];
}

const struct activity *trace_activity(u64 ino)
{
	static const struct activity none;
	unsigned int i;

	for (i = 0; i < nr_activities; i++)
		if (activities[i].ino == ino)
			return &activities[i];
	return &none;
}

const struct activity *trace_nth(unsigned int i)
{
	return i < nr_activities ? &activities[i] : NULL;
}

static void count(struct conversions *c, bool to_private, u64 changed, u64 waited, int error)
{
	c->requests++;
	if (to_private)
		c->pages_to_private += changed;
	else
		c->pages_to_shared += changed;
	c->waited_ns += waited;
	c->refused += error == EAGAIN || error == EHWPOISON;
}

/* The line of an event, or of a gap: "CPU:0 [LOST 123 EVENTS]". */
static void parse(const char *line)
{
	u64 ino, start, nr, changed, waited, offender;
	const char *text = strstr(line, "kvm_gmem_convert: ino ");
	struct activity *a;
	char to[8];
	int ret, nr_fields;

	if (!text) {
		text = strstr(line, "[LOST ");
		/* If there is no number, at least one event was lost. */
		if (text)
			lost += strtoull(text + strlen("[LOST "), NULL, 10) ?: 1;
		return;
	}
	nr_fields = sscanf(text, "kvm_gmem_convert: ino %llu start %llx nr_pages %llx to %7s changed %llu drains %*u waited %llu ns ret %d error_index %llx",
			   &ino, &start, &nr, to, &changed, &waited, &ret, &offender);
	if (nr_fields < 7)
		return;

	a = activity_of(ino);
	count(&a->interval, to[0] == 'p', changed, waited, -ret);
	count(&a->total, to[0] == 'p', changed, waited, -ret);
	if (-ret == EAGAIN || -ret == EHWPOISON) {
		a->last = (struct refusal) {
			.error = -ret,
			.offset = start * PAGE_BYTES,
			.size = nr * PAGE_BYTES,
			.has_offender = nr_fields == 8,
			.offender = nr_fields == 8 ? offender * PAGE_BYTES : 0,
		};
	}
}

/* The kernel returns whole lines. */
void trace_read(void)
{
	static char buf[1 << 16];
	char *line, *end;
	ssize_t len;

	while (pipe_fd >= 0 && (len = read(pipe_fd, buf, sizeof(buf) - 1)) > 0) {
		buf[len] = '\0';
		for (line = buf; (end = strchr(line, '\n')); line = end + 1) {
			*end = '\0';
			parse(line);
		}
	}
}

u64 trace_lost(void)
{
	return lost;
}

/* Reset the counts of the interval after a report, and forget files that are gone. */
void trace_next_interval(const struct report *report)
{
	unsigned int i, nr = 0;

	for (i = 0; i < nr_activities; i++) {
		if (!activities[i].interval.requests && !report_has(report, activities[i].ino))
			continue;
		activities[nr] = activities[i];
		memset(&activities[nr].interval, 0, sizeof(activities[nr].interval));
		nr++;
	}
	nr_activities = nr;
	lost = 0;
}

// SPDX-License-Identifier: GPL-2.0
/*
 * PID 1 of a workbench machine: executes /plan line by line, and powers off.
 * Fields are separated by tabs:
 *
 *	env	NAME=VALUE
 *	avoid	CPU
 *	insmod	MODULE	[PARAMETER=VALUE]...
 *	rmmod	MODULE
 *	run	NAME	SECONDS	PROGRAM	[ARGUMENT]...
 *	tty	NAME	SECONDS	PROGRAM	[ARGUMENT]...
 *	kunit	NAME	MODULE
 *	mark	NAME
 *
 * Programs run on all CPUs except the one to avoid, and in /disk, an ordinary
 * file system on a virtual disk.  A test's output goes to the virtio-serial port
 * "output", separated by marks; a tty's goes to the virtio console.  (A port for
 * each test would be simpler, but with twenty of them, writers sometimes hung
 * forever.)  SECONDS 0 sets no limit.  Results go to the port "verdict", which
 * is free of console noise:
 *
 *	exit NAME STATUS MILLISECONDS	(128 + signal, or 124 on timeout)
 *	splat NAME MESSAGE		(a warning of the kernel)
 *	fatal MESSAGE			(the plan could not be carried out)
 *	end
 *
 * If there is neither "end" nor "fatal", the machine died or ran out of time.
 */

#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define MAX_FIELDS	64
#define STATUS_TIMEOUT	124
#define STATUS_NO_EXEC	127

#define ARRAY_SIZE(array)	(sizeof(array) / sizeof((array)[0]))

static int verdict_fd = -1;
static int kmsg_fd = -1;

static _Noreturn void power_off(void)
{
	sync();
	/* QEMU runs with -no-reboot: restarting needs no ACPI. */
	reboot(RB_AUTOBOOT);
	for (;;)
		pause();
}

static void __attribute__((format(gnu_printf, 1, 2))) verdict(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vdprintf(verdict_fd, fmt, ap);
	va_end(ap);
}

static _Noreturn void die(const char *what, const char *which)
{
	verdict("fatal %s %s: %s\n", what, which, strerror(errno));
	fprintf(stderr, "init: %s %s: %s\n", what, which, strerror(errno));
	power_off();
}

static void mount_one(const char *type, const char *dir)
{
	mkdir(dir, 0755);
	if (mount("none", dir, type, 0, NULL))
		die("cannot mount", dir);
}

static void mount_all(void)
{
	mount_one("devtmpfs", "/dev");
	mount_one("proc", "/proc");
	mount_one("sysfs", "/sys");
	mount_one("tmpfs", "/tmp");
	mount_one("tmpfs", "/dev/shm");
	mount_one("debugfs", "/sys/kernel/debug");
	if (mount("none", "/sys/kernel/tracing", "tracefs", 0, NULL) && errno != ENOENT)
		die("cannot mount", "tracefs");
	if (mount("none", "/sys/fs/cgroup", "cgroup2", 0, NULL) && errno != ENOENT)
		die("cannot mount", "cgroup2");
	if (symlink("/proc/self/fd", "/dev/fd"))
		die("cannot link", "/dev/fd");
	/* Without this directory there is no driver for the disk. */
	if (!access("/disk", F_OK) && (mount("/dev/vda", "/disk", "ext2", 0, NULL) || chdir("/disk")))
		die("cannot mount", "/dev/vda");
}

static ssize_t read_file(const char *path, char *buf, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t len;

	if (fd < 0)
		return -1;
	len = read(fd, buf, size - 1);
	close(fd);
	if (len >= 0)
		buf[len] = '\0';
	return len;
}

/*
 * Open the virtio-serial port with this name.  The host announces its ports
 * after the driver has bound, so the port may not be there yet.
 */
static int port_open(const char *name)
{
	char path[PATH_MAX], label[128];
	struct dirent *entry;
	int tries, fd = -1;
	DIR *dir;

	for (tries = 0; fd < 0 && tries < 500; tries++) {
		if (tries)
			usleep(10000);
		dir = opendir("/sys/class/virtio-ports");
		while (dir && fd < 0 && (entry = readdir(dir))) {
			snprintf(path, sizeof(path), "/sys/class/virtio-ports/%s/name",
				 entry->d_name);
			if (read_file(path, label, sizeof(label)) <= 0)
				continue;
			label[strcspn(label, "\n")] = '\0';
			if (strcmp(label, name))
				continue;
			snprintf(path, sizeof(path), "/dev/%s", entry->d_name);
			fd = open(path, O_WRONLY | O_CLOEXEC);
		}
		if (dir)
			closedir(dir);
	}
	return fd;
}

static long long now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000LL + ts.tv_nsec / 1000000;
}

/* Programs started later inherit the mask. */
static void avoid(const char *cpu)
{
	cpu_set_t cpus;

	if (sched_getaffinity(0, sizeof(cpus), &cpus))
		die("cannot get the CPU mask, to avoid CPU", cpu);
	CPU_CLR(atoi(cpu), &cpus);
	if (sched_setaffinity(0, sizeof(cpus), &cpus))
		die("cannot avoid CPU", cpu);
}

static void insmod(const char *module, char **param)
{
	char path[PATH_MAX], params[1024] = "", file[PATH_MAX];
	int fd, i;

	for (i = 0; param[i]; i++) {
		strncat(params, param[i], sizeof(params) - strlen(params) - 2);
		strcat(params, " ");
	}
	snprintf(path, sizeof(path), "/modules/%s.ko", module);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		die("cannot open module", module);
	if (syscall(SYS_finit_module, fd, params, 0))
		die("cannot load module", module);
	close(fd);

	/* The kernel ignores unknown parameters, so check that they exist. */
	for (i = 0; param[i]; i++) {
		snprintf(file, sizeof(file), "/sys/module/%s/parameters/%.*s", module,
			 (int)strcspn(param[i], "="), param[i]);
		for (char *c = file; *c; c++)
			if (*c == '-')
				*c = '_';
		if (access(file, F_OK))
			die("no such module parameter:", param[i]);
	}
}

/* The module in the file kvm-amd.ko is called kvm_amd. */
static void rmmod(const char *module)
{
	char name[64];

	snprintf(name, sizeof(name), "%s", module);
	for (char *c = name; *c; c++)
		if (*c == '-')
			*c = '_';
	if (syscall(SYS_delete_module, name, O_NONBLOCK))
		die("cannot unload module", name);
}

/*
 * All warnings that can panic are configured to.  Lockdep and "sleeping
 * function called" only print, so look for their messages among those of the
 * kernel itself (facility 0) since the last call.
 */
static bool report_splats(const char *name)
{
	static const char * const words[] = {
		"WARNING:", "BUG:", "INFO: possible", "INFO: rcu", "INFO: task",
		"INFO: trying", "rcu: INFO:",
	};
	bool found = false;
	char record[8192];
	unsigned int i;
	ssize_t len;
	char *text;

	for (;;) {
		len = read(kmsg_fd, record, sizeof(record) - 1);
		if (len < 0 && errno == EPIPE)	/* overwritten: continue with the oldest */
			continue;
		if (len <= 0)
			return found;
		record[len] = '\0';
		text = strchr(record, ';');
		if (!text || atoi(record) >= 8)
			continue;
		text++;
		text[strcspn(text, "\n")] = '\0';
		for (i = 0; i < ARRAY_SIZE(words); i++) {
			if (!strncmp(text, words[i], strlen(words[i]))) {
				verdict("splat %s %s\n", name, text);
				found = true;
			}
		}
	}
}

static void set_tty(int fd)
{
	const char *lines = getenv("LINES"), *columns = getenv("COLUMNS");
	struct winsize size = {
		.ws_row = lines ? atoi(lines) : 24,
		.ws_col = columns ? atoi(columns) : 80,
	};

	setsid();
	ioctl(fd, TIOCSCTTY, 0);
	ioctl(fd, TIOCSWINSZ, &size);
}

/* Print the stacks of all CPUs and of all tasks to the console. */
static void show_all_tasks(void)
{
	int fd = open("/proc/sysrq-trigger", O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, "l", 1) != 1 || write(fd, "t", 1) != 1)
		perror("init: sysrq-trigger");
	close(fd);
}

/* Wait for the child for at most @seconds, and kill processes that it leaves running. */
static int reap(pid_t pid, int seconds)
{
	long long deadline = now_ms() + seconds * 1000LL;
	bool timeout = false;
	int status = 0;
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	while (waitpid(pid, &status, WNOHANG) != pid) {
		struct timespec ts = { .tv_nsec = 200000000 };

		if (seconds && !timeout && now_ms() > deadline) {
			show_all_tasks();
			timeout = true;
			kill(-1, SIGKILL);
		}
		sigtimedwait(&set, NULL, &ts);
	}
	kill(-1, SIGKILL);
	while (waitpid(-1, NULL, 0) > 0)
		;
	if (timeout)
		return STATUS_TIMEOUT;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void run(char **field, bool tty)
{
	int in = open(tty ? "/dev/hvc0" : "/dev/null", O_RDWR | O_NOCTTY | O_CLOEXEC);
	int out = tty ? in : port_open("output");
	long long start = now_ms();
	int status;
	pid_t pid;

	if (in < 0 || out < 0)
		die("no port for", field[1]);
	pid = fork();
	if (pid < 0)
		die("cannot fork for", field[1]);
	if (!pid) {
		sigset_t none;

		sigemptyset(&none);
		sigprocmask(SIG_SETMASK, &none, NULL);
		if (tty)
			set_tty(in);
		dup2(in, 0);
		dup2(out, 1);
		dup2(out, 2);
		execv(field[3], field + 3);
		dprintf(2, "%s: %s\n", field[3], strerror(errno));
		_exit(STATUS_NO_EXEC);
	}
	status = reap(pid, atoi(field[2]));
	if (tty)
		tcdrain(in);
	else
		close(out);
	close(in);
	report_splats(field[1]);
	verdict("exit %s %d %lld\n", field[1], status, now_ms() - start);
}

/* A KUnit module runs its suites while it loads; debugfs has their results. */
static void run_kunit(char **field)
{
	long long start = now_ms();
	char path[PATH_MAX], buf[4096];
	int out = port_open("output");
	struct dirent *entry;
	bool failed = false;
	int suites = 0, fd;
	ssize_t len;
	DIR *dir;

	if (out < 0)
		die("no port for", field[1]);
	insmod(field[2], field + 3);
	dir = opendir("/sys/kernel/debug/kunit");
	while (dir && (entry = readdir(dir))) {
		if (entry->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "/sys/kernel/debug/kunit/%s/results", entry->d_name);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0)
			continue;
		suites++;
		while ((len = read(fd, buf, sizeof(buf))) > 0)
			if (write(out, buf, len) != len)
				failed = true;
		close(fd);
	}
	if (dir)
		closedir(dir);
	close(out);
	report_splats(field[1]);
	verdict("exit %s %d %lld\n", field[1], failed || !suites, now_ms() - start);
	rmmod(field[2]);
}

static void mark(const char *name)
{
	int out = port_open("output");

	if (out < 0)
		die("no port for", name);
	dprintf(out, "\n\036%s\n", name);
	close(out);
}

static void do_line(char *line)
{
	char *field[MAX_FIELDS + 1] = { NULL };
	int n = 0;

	line[strcspn(line, "\n")] = '\0';
	while (n < MAX_FIELDS && (field[n] = strsep(&line, "\t")))
		n++;

	if (!strcmp(field[0], "env") && n == 2)
		putenv(strdup(field[1]));
	else if (!strcmp(field[0], "avoid") && n == 2)
		avoid(field[1]);
	else if (!strcmp(field[0], "insmod") && n >= 2)
		insmod(field[1], field + 2);
	else if (!strcmp(field[0], "rmmod") && n == 2)
		rmmod(field[1]);
	else if (!strcmp(field[0], "run") && n >= 4)
		run(field, false);
	else if (!strcmp(field[0], "tty") && n >= 4)
		run(field, true);
	else if (!strcmp(field[0], "kunit") && n == 3)
		run_kunit(field);
	else if (!strcmp(field[0], "mark") && n == 2)
		mark(field[1]);
	else
		die("plan line not understood:", field[0]);
}

int main(void)
{
	char line[8192];
	sigset_t set;
	FILE *plan;

	/* Block SIGCHLD, as reap() waits for it with sigtimedwait(). */
	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigprocmask(SIG_BLOCK, &set, NULL);

	mount_all();
	verdict_fd = port_open("verdict");
	if (verdict_fd < 0)
		die("no port", "verdict");
	kmsg_fd = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	if (kmsg_fd < 0)
		die("cannot open", "/dev/kmsg");
	plan = fopen("/plan", "re");
	if (!plan)
		die("cannot open", "/plan");
	report_splats("boot");
	while (fgets(line, sizeof(line), plan))
		do_line(line);
	report_splats("shutdown");
	verdict("end\n");
	power_off();
}

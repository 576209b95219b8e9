// SPDX-License-Identifier: GPL-2.0-only
/*
 * The guest's only program: loads the driver, writes files and reads them back
 * in the meantime, and resets the machine.  Parameters of the driver are given
 * on the kernel's command line, e.g. as gmem_seconds=10 and gmem_percent=75.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define DRIVER		"/gmem_guest.ko"
#define FILE_WORDS	(64 * 1024)

static volatile sig_atomic_t done;

static void is_done(int sig)
{
	(void)sig;
	done = 1;
}

/* Work that the guest does besides converting memory, until SIGTERM. */
static int write_files(void)
{
	static unsigned int out[FILE_WORDS], in[FILE_WORDS];
	unsigned int i, files = 0;
	int fd;

	while (!done) {
		for (i = 0; i < FILE_WORDS; i++)
			out[i] = (files << 16) + i * 2654435761U;
		fd = open("/tmp/file", O_RDWR | O_CREAT | O_TRUNC, 0600);
		if (fd < 0 || write(fd, out, sizeof(out)) != sizeof(out) ||
		    pread(fd, in, sizeof(in), 0) != sizeof(in) || memcmp(in, out, sizeof(in))) {
			printf("init: a file could not be written and read back unchanged (last error: %s)\n",
			       strerror(errno));
			return 1;
		}
		close(fd);
		files++;
	}
	printf("init: %u files written in the meantime, and read back unchanged\n", files);
	return 0;
}

static void load_driver(void)
{
	const char *seconds = getenv("gmem_seconds"), *percent = getenv("gmem_percent");
	char parameters[80] = "";
	int fd = open(DRIVER, O_RDONLY);

	if (seconds)
		snprintf(parameters, sizeof(parameters), "seconds=%s ", seconds);
	if (percent)
		snprintf(parameters + strlen(parameters), sizeof(parameters) - strlen(parameters),
			 "percent=%s", percent);
	if (syscall(SYS_finit_module, fd, parameters, 0))
		printf("init: cannot load " DRIVER ": %s\n", strerror(errno));
}

int main(void)
{
	int status;
	pid_t pid;

	mount("dev", "/dev", "devtmpfs", 0, NULL);
	mount("tmp", "/tmp", "tmpfs", 0, NULL);
	/* The kernel has opened the console, unless there was no /dev yet. */
	if (fcntl(STDOUT_FILENO, F_GETFD) < 0) {
		open("/dev/console", O_RDWR);
		dup(0);
		dup(0);
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	signal(SIGTERM, is_done);
	pid = fork();
	if (!pid)
		return write_files();
	load_driver();
	if (pid < 0 || kill(pid, SIGTERM) || waitpid(pid, &status, 0) != pid || status)
		printf("init: the process that writes files failed\n");
	sync();
	reboot(RB_AUTOBOOT);
	return 1;
}

// SPDX-License-Identifier: GPL-2.0-only
/*
 * Run gmem-top, which has to be in the same directory, alongside a VM with
 * known memory and conversions, and check its output.
 */
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <stdnoreturn.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include <gmem.h>

#define ARRAY_SIZE(array)	(sizeof(array) / sizeof((array)[0]))
#define PAGE		4096
#define NR_PAGES	64
#define PINNED_PAGE	12
#define NOBODY		65534
#define INSTANCES	"/sys/kernel/tracing/instances"
#define MAX_ARGS	8

static char top[512];		/* path of gmem-top */
static char output[1 << 16];
static int kvm_fd, vm_fd, gmem_fd;
static char *mem;
static int nr_results, nr_failed;

static noreturn void die(const char *what)
{
	printf("Bail out! %s: %s\n", what, strerror(errno));
	exit(1);
}

static void result(bool ok, const char *fmt, ...)
{
	va_list ap;

	printf("%sok %d ", ok ? "" : "not ", ++nr_results);
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	printf("\n");
	if (!ok && *output)
		printf("# output: %s\n", output);
	nr_failed += !ok;
	fflush(stdout);
}

static __attribute__((format(printf, 1, 2))) bool says(const char *fmt, ...)
{
	char text[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (strstr(output, text))
		return true;
	printf("# missing: %s\n", text);
	return false;
}

static void create_vm(void)
{
	int i;

	kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (kvm_fd < 0)
		die("/dev/kvm");
	vm_fd = ioctl(kvm_fd, KVM_CREATE_VM, KVM_X86_SW_PROTECTED_VM);
	if (vm_fd < 0)
		die("KVM_CREATE_VM");
	gmem_fd = gmem_create(vm_fd, NR_PAGES * PAGE, GMEM_FLAGS);
	if (gmem_fd < 0)
		die("KVM_CREATE_GUEST_MEMFD");
	/* gmem-top must not inherit the file. */
	fcntl(gmem_fd, F_SETFD, FD_CLOEXEC);
	mem = gmem_map(gmem_fd, NR_PAGES * PAGE);
	if (!mem)
		die("mmap");
	for (i = 0; i < 16; i++)
		mem[i * PAGE] = 1;
}

static void destroy_vm(void)
{
	munmap(mem, NR_PAGES * PAGE);
	close(gmem_fd);
	close(vm_fd);
	close(kvm_fd);
}

static int convert(__u64 page, __u64 nr, bool private)
{
	return gmem_try_convert(gmem_fd, page * PAGE, nr * PAGE,
				private ? KVM_MEMORY_ATTRIBUTE_PRIVATE : 0, NULL);
}

/* Start gmem-top with these arguments, as this user; its output can be read from *@from. */
static pid_t start(int *from, uid_t uid, const char *args)
{
	char *argv[MAX_ARGS] = { top }, *copy = strdup(args);
	int pipe_fd[2], i = 1;
	pid_t pid;

	if (pipe2(pipe_fd, O_CLOEXEC))
		die("pipe");
	pid = fork();
	if (pid < 0)
		die("fork");
	if (!pid) {
		dup2(pipe_fd[1], STDOUT_FILENO);
		dup2(pipe_fd[1], STDERR_FILENO);
		for (argv[i] = strtok(copy, " "); argv[i]; argv[++i] = strtok(NULL, " "))
			;
		if (uid && (setgid(uid) || setuid(uid)))
			_exit(125);
		execv(top, argv);
		_exit(126);
	}
	free(copy);
	close(pipe_fd[1]);
	*from = pipe_fd[0];
	return pid;
}

/* Read all output; return the exit status, or 128 plus the signal. */
static int finish(pid_t pid, int from)
{
	size_t len = 0;
	ssize_t got;
	int status;

	while ((got = read(from, output + len, sizeof(output) - 1 - len)) > 0)
		len += got;
	output[len] = '\0';
	close(from);
	if (waitpid(pid, &status, 0) != pid)
		die("waitpid");
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static int run(uid_t uid, const char *args)
{
	int from;
	pid_t pid = start(&from, uid, args);

	return finish(pid, from);
}

static bool has_instance(pid_t pid)
{
	char path[128];

	snprintf(path, sizeof(path), INSTANCES "/gmem-top.%d", pid);
	return !access(path, F_OK);
}

static void wait_until_watching(pid_t pid)
{
	char path[128], on = '0';
	int i, fd;

	snprintf(path, sizeof(path), INSTANCES "/gmem-top.%d/events/kvm/kvm_gmem_convert/enable", pid);
	for (i = 0; i < 2000; i++) {
		fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd >= 0 && read(fd, &on, 1) != 1)
			on = '0';
		close(fd);
		if (on == '1')
			return;
		usleep(10000);
	}
	errno = ETIMEDOUT;
	die("gmem-top does not watch conversions");
}

/* A page in a pipe is in use until it is read, or the pipe is closed. */
static void use_page(int pipe_fd[2])
{
	struct iovec iov = { mem + PINNED_PAGE * PAGE, PAGE };

	if (pipe2(pipe_fd, O_CLOEXEC) || vmsplice(pipe_fd[1], &iov, 1, 0) != PAGE)
		die("vmsplice");
}

/* Add up all numbers that follow @key in the output. */
static long sum_of(const char *key)
{
	const char *text = output;
	long sum = 0;

	while ((text = strstr(text, key))) {
		text += strlen(key);
		sum += atol(text);
	}
	return sum;
}

/* Read up to a line with @text, and keep that line.  Add up the numbers after @key in all lines. */
static bool read_until(int from, const char *text, long *sum, const char *key)
{
	size_t len = 0;
	ssize_t got;
	char *end;

	*sum = 0;
	while ((got = read(from, output + len, sizeof(output) - 1 - len)) > 0) {
		len += got;
		output[len] = '\0';
		while ((end = strchr(output, '\n'))) {
			*end = '\0';
			*sum += sum_of(key);
			if (strstr(output, text))
				return true;
			len -= end + 1 - output;
			memmove(output, end + 1, len + 1);
		}
	}
	return false;
}

static void check_numbers(void)
{
	int pipe_fd[2], from, i, status;
	struct stat st;
	bool found;
	pid_t pid;
	long sum;

	fstat(gmem_fd, &st);
	if (convert(2, 4, true))
		die("conversion");
	use_page(pipe_fd);
	pid = start(&from, 0, "--json --interval 0.5");
	wait_until_watching(pid);
	for (i = 0; i < 10; i++)
		if (convert(20, 2, true) || convert(20, 2, false))
			die("conversion");
	if (convert(8, 8, true) != -EAGAIN)
		die("conversion of a page that is in use");
	found = read_until(from, "\"total\":{\"requests\":21,", &sum, "\"interval\":{\"requests\":");
	close(pipe_fd[0]);
	close(pipe_fd[1]);

	result(found, "--json: all requests are reported");
	result(sum == 21, "--json: the intervals add up to %ld of 21 requests", sum);
	result(says("\"files\":[{\"pid\":%d,\"fd\":%d,\"ino\":%lu,\"command\":\"gmem-top-test\",\"size\":%d,\"flags\":3,\"shared\":%d,\"private\":%d,\"ranges\":3,\"allocated\":%d,\"pages_poisoned\":0,",
		    getpid(), gmem_fd, st.st_ino, NR_PAGES * PAGE, (NR_PAGES - 4) * PAGE, 4 * PAGE,
		    16 * PAGE), "memory of the file");
	result(says("\"total\":{\"requests\":21,\"pages_to_private\":20,\"pages_to_shared\":20,\"waited_ns\":") &&
	       says("\"refused\":1}"), "conversions");
	result(says("\"last_refusal\":{\"error\":\"EAGAIN\",\"offset\":%d,\"size\":%d,", 8 * PAGE, 8 * PAGE),
	       "request that was refused");
	result(says("\"error_offset\":%d}", PINNED_PAGE * PAGE), "page that was in use");
	result(says("\"vms\":[{\"pid\":%d,\"fd\":%d,", getpid(), vm_fd) &&
	       says("\"gmem_to_private\":11,\"gmem_pages_to_private\":24,\"gmem_to_shared\":10,\"gmem_pages_to_shared\":20,\"gmem_busy\":1,\"gmem_poisoned\":0"),
	       "statistics of the VM");
	result(says("\"not_visible\":[]"), "root sees everything");
	result(says("\"in_place_conversion\":true"), "module parameter");
	kill(pid, SIGTERM);
	status = finish(pid, from);
	result(status == 128 + SIGTERM && !has_instance(pid), "no tracing instance is left");
}

static void check_text(void)
{
	int status = run(0, "--once --interval 0.5");

	result(!status && says("1 VM, 1 guest_memfd; in-place conversion is on") &&
	       says("%7d %4d gmem-top-test       256K     240K      16K       3      64K      0\n", getpid(), gmem_fd),
	       "--once: memory as text");
}

static void check_map(void)
{
	__u64 size = 1ull << 30, half = size / 2;
	char row[65], *other;
	int fd, status;

	fd = gmem_create(vm_fd, size, GMEM_FLAGS);
	if (fd < 0)
		die("KVM_CREATE_GUEST_MEMFD");
	fcntl(fd, F_SETFD, FD_CLOEXEC);
	/* In pieces of 16 MiB.  The second half of the file is private, except for one page. */
	other = gmem_map(fd, size);
	if (!other || gmem_try_convert(fd, half, half, KVM_MEMORY_ATTRIBUTE_PRIVATE, NULL) ||
	    gmem_try_convert(fd, half + PAGE, PAGE, 0, NULL))
		die("conversion");
	other[0] = 1;
	other[half + PAGE] = 1;
	memset(row, '.', 32);
	memset(row + 32, '-', 32);
	row[0] = 's';
	row[32] = 'm';
	row[64] = '\0';

	status = run(0, "--once --map --interval 0.1");
	result(!status && says("%7d %4d %-15s     256K, 4K for each character\nSSPPPP", getpid(),
			       gmem_fd, "gmem-top-test") &&
	       says("%7d %4d %-15s       1G, 16M for each character\n%s\n", getpid(), fd,
		    "gmem-top-test", row) &&
	       says("shared . s S, private - p P, both ~ m M (none, some, all allocated), ! poisoned\n"),
	       "--map: map as text");

	status = run(0, "--once --map --json --interval 0.1");
	result(!status &&
	       says("\"map\":[{\"offset\":0,\"size\":%d,\"private\":false,\"allocated\":%d,\"pages_poisoned\":0},{\"offset\":%d,\"size\":%d,\"private\":true,\"allocated\":%d,\"pages_poisoned\":0},{\"offset\":%d,\"size\":%d,\"private\":false,\"allocated\":%d,\"pages_poisoned\":0}]}",
		    2 * PAGE, 2 * PAGE, 2 * PAGE, 4 * PAGE, 4 * PAGE, 6 * PAGE,
		    (NR_PAGES - 6) * PAGE, 10 * PAGE) &&
	       says("\"map\":[{\"offset\":0,\"size\":%d,\"private\":false,\"allocated\":%d,", 2 << 20, PAGE) &&
	       says("{\"offset\":%llu,\"size\":%d,\"private\":false,\"allocated\":%d,", half + PAGE, PAGE, PAGE) &&
	       says("\"other_files\":[]"), "--map: map as JSON");

	status = run(0, "--once --json --interval 0.1");
	result(!status && !strstr(output, "map"), "no map unless it is asked for");

	close(fd);
	status = run(0, "--once --map --interval 0.1");
	result(!status && says("1 guest_memfd;") &&
	       says("%7s %4s %-15s       1G, 16M for each character\n%s\n", "?", "?", "?", row),
	       "--map: file that is only mapped");
	munmap(other, size);
}

/* Each event is either read or counted as lost.  Record all of them on one CPU, so that its buffer overflows. */
static void check_lost(void)
{
	cpu_set_t all, one;
	const char *requests, *lost;
	int from, i, status;
	long sum;
	pid_t pid;

	sched_getaffinity(0, sizeof(all), &all);
	pid = start(&from, 0, "--once --json --interval 5");
	wait_until_watching(pid);
	CPU_ZERO(&one);
	CPU_SET(sched_getcpu(), &one);
	sched_setaffinity(0, sizeof(one), &one);
	kill(pid, SIGSTOP);
	for (i = 0; i < 20000; i++)
		if (convert(20, 1, !(i & 1)))
			die("conversion");
	sched_setaffinity(0, sizeof(all), &all);
	kill(pid, SIGCONT);
	status = finish(pid, from);
	requests = strstr(output, "\"interval\":{\"requests\":");
	lost = strstr(output, "\"events_lost\":");
	sum = requests && lost ? atol(requests + 23) + atol(lost + 14) : 0;
	printf("# %ld of 20000 events read or lost, %ld lost\n", sum, lost ? atol(lost + 14) : 0);
	result(!status && lost && atol(lost + 14) > 0 && sum == 20000, "events that were lost are reported");
}

static void check_cleanup(void)
{
	static const int signals[] = { SIGINT, SIGTERM, SIGHUP };
	static const int expected[] = { 0, 128 + SIGTERM, 128 + SIGHUP };
	unsigned int i;
	pid_t pid;
	int from, status;

	for (i = 0; i < ARRAY_SIZE(signals); i++) {
		pid = start(&from, 0, "--interval 60");
		wait_until_watching(pid);
		kill(pid, signals[i]);
		status = finish(pid, from);
		result(status == expected[i] && !has_instance(pid), "%s: status %d, no instance left",
		       strsignal(signals[i]), status);
	}

	/* The reader of its output goes away. */
	pid = start(&from, 0, "--interval 0.2");
	wait_until_watching(pid);
	close(from);
	from = open("/dev/null", O_RDONLY | O_CLOEXEC);
	status = finish(pid, from);
	result(status == 1 && !has_instance(pid), "closed pipe: status %d, no instance left", status);

	pid = start(&from, 0, "--interval 60");
	wait_until_watching(pid);
	kill(pid, SIGKILL);
	finish(pid, from);
	result(has_instance(pid), "SIGKILL leaves an instance");
	run(0, "--once --interval 0.1");
	result(!has_instance(pid), "the next gmem-top removes the instance that SIGKILL left");
}

static int open_terminal(unsigned int rows, unsigned int columns)
{
	struct winsize size = { .ws_row = rows, .ws_col = columns };
	int fd;

	/* The test machine may not have devpts mounted. */
	if (access("/dev/pts/ptmx", F_OK)) {
		mkdir("/dev/pts", 0755);
		if (mount("devpts", "/dev/pts", "devpts", 0, "ptmxmode=666"))
			die("devpts");
	}
	fd = open("/dev/pts/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (fd < 0 || grantpt(fd) || unlockpt(fd) || ioctl(fd, TIOCSWINSZ, &size))
		die("pseudoterminal");
	return fd;
}

static pid_t start_on_terminal(int fd)
{
	pid_t pid = fork();

	if (!pid) {
		setsid();
		close(STDIN_FILENO);
		/* The first terminal that a session opens becomes its controlling terminal. */
		if (open(ptsname(fd), O_RDWR) != STDIN_FILENO)
			_exit(125);
		dup2(STDIN_FILENO, STDOUT_FILENO);
		execl(top, top, "--interval", "0.3", NULL);
		_exit(126);
	}
	wait_until_watching(pid);
	return pid;
}

static int quit_on_terminal(pid_t pid, int fd)
{
	int status;

	if (write(fd, "q", 1) != 1)
		die("terminal");
	waitpid(pid, &status, 0);
	close(fd);
	return status;
}

/* Read up to @text, and leave the end of what was read in output[]. */
static bool terminal_shows(int fd, const char *text)
{
	struct pollfd ready = { .fd = fd, .events = POLLIN };
	size_t len = 0, half = sizeof(output) / 2;
	ssize_t got;
	int i;

	output[0] = '\0';
	for (i = 0; i < 1200; i++) {
		if (poll(&ready, 1, 100) <= 0)
			continue;
		got = read(fd, output + len, half - 1);
		if (got <= 0)
			break;
		len += got;
		output[len] = '\0';
		if (strstr(output, text))
			return true;
		if (len > half) {
			memmove(output, output + len - half, half + 1);
			len = half;
		}
	}
	return false;
}

/* Wait for a screen that does not show @text before @end. */
static bool terminal_hides(int fd, const char *text, const char *end)
{
	const char *home;
	int i;

	for (i = 0; i < 20 && terminal_shows(fd, end); i++) {
		home = strstr(output, "\033[H");
		if (home && !strstr(home, text))
			return true;
	}
	return false;
}

static bool lines_fit(int columns)
{
	const char *begin, *line;

	for (line = output; (line = strstr(line, "\033[K")); line++) {
		begin = line;
		while (begin > output && begin[-1] != '\n' && begin[-1] != 'H')
			begin--;
		if (line - begin > columns)
			return false;
	}
	return true;
}

static void check_terminal(void)
{
	static const char more[] = "(more than fits on the terminal)";
	int fd = open_terminal(6, 40), status;
	pid_t pid = start_on_terminal(fd);

	result(terminal_shows(fd, more) && says("\033[2J\033[H") && lines_fit(40) &&
	       terminal_shows(fd, more) && lines_fit(40),
	       "terminal: the report fits into 40 columns and 6 lines");
	status = quit_on_terminal(pid, fd);
	result(WIFEXITED(status) && !WEXITSTATUS(status), "terminal: q quits");
	result(!has_instance(pid), "terminal: no instance left");
}

/* With 40 columns, a character stands for two pages. */
static void check_terminal_map(void)
{
	int fd = open_terminal(50, 40);
	pid_t pid = start_on_terminal(fd);
	char row[64] = "\nSPP";

	memset(row + 4, 's', NR_PAGES / 2 - 3);
	strcpy(row + 1 + NR_PAGES / 2, "\033[K");

	result(write(fd, "m", 1) == 1 && terminal_shows(fd, row) && lines_fit(40),
	       "terminal: m shows the map, in 40 columns");
	result(write(fd, "m", 1) == 1 && terminal_hides(fd, "SPP", "VMs, since"),
	       "terminal: m hides the map");
	quit_on_terminal(pid, fd);
}

static void check_user(void)
{
	int status = run(NOBODY, "--once");

	result(!status && says("0 VMs, 0 guest_memfds") && says("Not visible") &&
	       says("CAP_SYS_PTRACE") && says("only root can access tracefs"),
	       "another user sees no VM, and is told why");
	status = run(NOBODY, "--once --json");
	result(!status && says("\"vms\":[],\"files\":[],\"not_visible\":[\"VMs and files of "),
	       "another user, JSON");
}

/* Call this in a separate process, as it gives up root's privileges. */
static void own_vm(void)
{
	int status;

	destroy_vm();
	if (setgid(NOBODY) || setuid(NOBODY) || prctl(PR_SET_DUMPABLE, 1))
		die("setuid");
	create_vm();
	status = run(0, "--once --map --json");
	if (status || !says("\"files\":[{\"pid\":%d,\"fd\":%d,", getpid(), gmem_fd) ||
	    !says("\"private\":0,\"ranges\":1,\"allocated\":%d,\"pages_poisoned\":0,\"conversions\":null,\"map\":null}", 16 * PAGE) ||
	    !says("\"other_files\":[]") || !says("map of files: /sys/kernel/debug/kvm: ") ||
	    !says("\"vms\":[{\"pid\":%d,\"fd\":%d,\"command\":\"gmem-top-test\",\"statistics\":null}", getpid(), vm_fd) ||
	    !says("only root can access debugfs") || !says("only root can access tracefs")) {
		printf("# output: %s\n", output);
		fflush(stdout);
		_exit(1);
	}
	_exit(0);
}

static void check_owner(void)
{
	pid_t pid;
	int status;

	if (chmod("/dev/kvm", 0666))
		die("chmod of /dev/kvm");
	fflush(stdout);
	pid = fork();
	if (!pid)
		own_vm();
	waitpid(pid, &status, 0);
	output[0] = '\0';
	result(!status, "the owner sees memory, but neither statistics nor conversions, and is told why");
}

static void check_usage(void)
{
	static const struct {
		const char *args, *says;
	} bad[] = {
		{ "--no-such", "unknown option --no-such" },
		{ "-x", "unknown option -x" },
		{ "--interval", "missing value for --interval" },
		{ "--interval 0", "--interval takes 0.1 to 86400 seconds, not '0'" },
		{ "--interval -1", "--interval takes 0.1 to 86400 seconds, not '-1'" },
		{ "--interval nan", "--interval takes 0.1 to 86400 seconds, not 'nan'" },
		{ "--interval 2x", "--interval takes 0.1 to 86400 seconds, not '2x'" },
		{ "--once=1", "--once" },
		{ "4711", "unexpected argument 4711" },
	};
	unsigned int i;
	int status;

	for (i = 0; i < ARRAY_SIZE(bad); i++) {
		status = run(0, bad[i].args);
		result(status == 2 && says("gmem-top: ") && says("%s", bad[i].says), "gmem-top %s: status %d",
		       bad[i].args, status);
	}
	result(!run(0, "--help") && says("Usage: gmem-top"), "gmem-top --help");
}

int main(int argc, char **argv)
{
	char *slash;

	(void)argc;
	snprintf(top, sizeof(top), "%s", argv[0]);
	slash = strrchr(top, '/');
	snprintf(slash ? slash + 1 : top, 16, "gmem-top");

	printf("TAP version 13\n");
	result(!run(0, "--once --interval 0.1") && says("0 VMs, 0 guest_memfds"), "without a VM");
	create_vm();
	check_numbers();
	check_text();
	check_map();
	check_lost();
	check_cleanup();
	check_terminal();
	check_terminal_map();
	check_user();
	check_owner();
	destroy_vm();
	check_usage();
	printf("1..%d\n", nr_results);
	return nr_failed ? 1 : 0;
}

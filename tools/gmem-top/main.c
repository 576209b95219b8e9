// SPDX-License-Identifier: GPL-2.0-only
/* gmem-top - watch guest_memfds, and their conversions between shared and private */
#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include "top.h"

#define DEFAULT_INTERVAL	2.0
#define MIN_INTERVAL		0.1
#define MAX_INTERVAL		86400.0

/* Ignore the reported size of a terminal with fewer columns than this. */
#define MIN_WIDTH		20

/* Read events this often, so that the buffer rarely overflows. */
#define READ_MS			100

static volatile sig_atomic_t ended_by;
static volatile sig_atomic_t resized;
static bool screen;		/* redraw in place, on a terminal */
static struct termios terminal;
static bool raw;
static bool with_map;		/* toggled by the key m */

static void usage(FILE *to)
{
	fputs("Usage: gmem-top [--once] [--interval SECONDS] [--map] [--json]\n"
	      "\n"
	      "Shows the guest_memfds of all VMs, how much of each is shared, private and\n"
	      "allocated, and their conversions as they happen.\n"
	      "\n"
	      "  --once              write a single report of one interval, and exit\n"
	      "  --interval SECONDS  time between reports, 0.1 to 86400 (default: 2)\n"
	      "  --map               show where memory is shared, private and allocated\n"
	      "  --json              write each report as a line of JSON\n"
	      "  --help              this text\n"
	      "\n"
	      "On a terminal the report is redrawn in place; m shows or hides the map, and q or\n"
	      "^C quits.  Information that is not available is listed with the reason; root can\n"
	      "see everything.\n",
	      to);
}

static noreturn void bad_usage(const char *what, const char *which)
{
	fprintf(stderr, "gmem-top: %s%s; gmem-top --help lists the options\n", what, which);
	exit(EXIT_USAGE);
}

static double parse_interval(const char *text)
{
	char *end;
	double value = strtod(text, &end);

	if (end == text || *end || !(value >= MIN_INTERVAL && value <= MAX_INTERVAL)) {
		fprintf(stderr, "gmem-top: --interval takes %g to %g seconds, not '%s'\n",
			MIN_INTERVAL, MAX_INTERVAL, text);
		exit(EXIT_USAGE);
	}
	return value;
}

static void on_signal(int signal)
{
	ended_by = signal;
}

static void on_resize(int signal)
{
	(void)signal;
	resized = true;
}

static void catch_signals(void)
{
	static const int ends[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT };
	struct sigaction action = { .sa_handler = on_signal };
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(ends); i++)
		sigaction(ends[i], &action, NULL);
	action.sa_handler = on_resize;
	sigaction(SIGWINCH, &action, NULL);
	/* If the reader of the output is gone, let writing fail. */
	signal(SIGPIPE, SIG_IGN);
}

static void terminal_restore(void)
{
	if (raw)
		tcsetattr(STDIN_FILENO, TCSANOW, &terminal);
	raw = false;
}

static void terminal_setup(void)
{
	struct termios new;

	if (!screen || !isatty(STDIN_FILENO) || tcgetattr(STDIN_FILENO, &terminal) ||
	    tcgetpgrp(STDIN_FILENO) != getpgrp())
		return;
	new = terminal;
	new.c_lflag &= ~(ICANON | ECHO);
	new.c_cc[VMIN] = 0;
	new.c_cc[VTIME] = 0;
	raw = !tcsetattr(STDIN_FILENO, TCSANOW, &new);
}

static char read_key(void)
{
	char key;

	return raw && read(STDIN_FILENO, &key, 1) == 1 ? tolower((unsigned char)key) : 0;
}

static struct winsize terminal_size(void)
{
	struct winsize size;

	if (!screen || ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) || size.ws_row < 2 ||
	    size.ws_col < MIN_WIDTH)
		size = (struct winsize) { .ws_row = 24, .ws_col = 80 };
	return size;
}

/* Cut off everything that does not fit, so that nothing scrolls. */
static void draw(const char *text)
{
	struct winsize size = terminal_size();
	unsigned int row = 0;
	int len;

	fputs("\033[H", stdout);
	while (*text && row < size.ws_row - 1u) {
		len = strcspn(text, "\n");
		printf("%.*s\033[K\n", len < size.ws_col ? len : size.ws_col, text);
		text += len + (text[len] == '\n');
		row++;
	}
	if (*text)
		fputs("(more than fits on the terminal)\033[K", stdout);
	else
		fputs("\033[J", stdout);
}

static void print(const struct report *report, bool json, bool first)
{
	size_t size;
	char *text;
	FILE *out = open_memstream(&text, &size);

	if (!out)
		die("out of memory");
	if (json)
		show_json(out, report);
	else
		show_text(out, report);
	if (fclose(out))
		die("out of memory");
	if (screen)
		draw(text);
	else
		printf("%s%s", json || first ? "" : "\n", text);
	free(text);
	if (fflush(stdout))
		die("cannot write the report: %s", strerror(errno));
}

static void make_report(double seconds, bool json, bool first)
{
	struct report report = {
		.seconds = seconds,
		.with_map = with_map,
		.width = terminal_size().ws_col,
	};

	proc_scan(&report);
	stats_read(&report);
	if (with_map)
		map_read(&report);
	report.lost = trace_lost();
	trace_note(&report);
	print(&report, json, first);
	trace_next_interval(&report);
	report_free(&report);
}

/*
 * Wait for the end of the interval, which the key m and a new size of the
 * terminal bring forward.  Return false to quit.
 */
static bool watch(double until)
{
	struct pollfd key = { .fd = raw ? STDIN_FILENO : -1, .events = POLLIN };
	double left;
	char c;

	for (;;) {
		trace_read();
		left = until - now();
		/* Check for a key even if the last report took longer than the interval. */
		poll(&key, 1, left <= 0 ? 0 : left * 1000 < READ_MS ? left * 1000 + 1 : READ_MS);
		c = read_key();
		if (ended_by || c == 'q')
			return false;
		if (c == 'm')
			with_map = !with_map;
		if (c == 'm' || resized || left <= 0) {
			resized = false;
			return true;
		}
	}
}

static void run(bool once, bool json, double interval)
{
	bool watched = trace_open(), first = true;
	double start = now(), end;

	/* Don't leave the screen empty, and don't wait if there are no events. */
	if (screen || (once && !watched)) {
		make_report(0, json, first);
		first = false;
	}
	while (!(once && !watched) && watch(start + interval)) {
		end = now();
		make_report(watched ? end - start : 0, json, first);
		if (once)
			return;
		first = false;
		watched = trace_open();
		start = end;
	}
}

/* For short options, getopt() reports a single letter of the argument. */
static const char *bad_option(const char *arg)
{
	static char name[3] = "-?";

	if (!optopt || !strncmp(arg, "--", 2))
		return arg;
	name[1] = optopt;
	return name;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "once", no_argument, NULL, 'o' },
		{ "interval", required_argument, NULL, 'i' },
		{ "map", no_argument, NULL, 'm' },
		{ "json", no_argument, NULL, 'j' },
		{ "help", no_argument, NULL, 'h' },
		{ }
	};
	double interval = DEFAULT_INTERVAL;
	bool once = false, json = false;
	int option;

	opterr = 0;
	while ((option = getopt_long(argc, argv, ":", options, NULL)) != -1) {
		switch (option) {
		case 'o':
			once = true;
			break;
		case 'i':
			interval = parse_interval(optarg);
			break;
		case 'm':
			with_map = true;
			break;
		case 'j':
			json = true;
			break;
		case 'h':
			usage(stdout);
			return 0;
		case ':':
			bad_usage("missing value for ", argv[optind - 1]);
		default:
			bad_usage("unknown option ", bad_option(argv[optind - 1]));
		}
	}
	if (optind != argc)
		bad_usage("unexpected argument ", argv[optind]);

	screen = !once && !json && isatty(STDOUT_FILENO);
	catch_signals();
	atexit(trace_close);
	atexit(terminal_restore);
	terminal_setup();
	if (screen)
		fputs("\033[2J", stdout);
	run(once, json, interval);
	if (screen)
		fputs("\n", stdout);
	return ended_by && ended_by != SIGINT ? 128 + ended_by : 0;
}

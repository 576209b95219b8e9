// SPDX-License-Identifier: GPL-2.0
/*
 * gmem-vmm - an example VMM for guest_memfd with in-place conversion
 */
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "demo/demo.h"
#include "vmm/die.h"

static void usage(FILE *to)
{
	fputs("Usage: gmem-vmm [--on-busy=retry|fail] [--quiet]\n"
	      "\n"
	      "Runs a small guest on one guest_memfd, lets it make pages of its own memory\n"
	      "private and shared again, and shows and checks what that does.\n"
	      "\n"
	      "  --on-busy=retry  a page that is still in use: ask again until it is free\n"
	      "                   (default)\n"
	      "  --on-busy=fail   a page that is still in use: stop the VM\n"
	      "  --quiet          only say what goes wrong (an injected memory error does)\n"
	      "  --help           this text\n"
	      "\n"
	      "Exit status:\n"
	      "  0  all that was claimed was seen to be true\n"
	      "  1  something was not, and is named\n"
	      "  2  it cannot run here; the reason and the remedy are named\n"
	      "  3  stopped by --on-busy=fail, all claims up to then were true\n",
	      to);
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "on-busy", required_argument, NULL, 'b' },
		{ "quiet", no_argument, NULL, 'q' },
		{ "help", no_argument, NULL, 'h' },
		{ }
	};
	enum on_busy on_busy = BUSY_RETRY;
	bool quiet = false;
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (option) {
		case 'b':
			if (!strcmp(optarg, "retry")) {
				on_busy = BUSY_RETRY;
				break;
			}
			if (!strcmp(optarg, "fail")) {
				on_busy = BUSY_FAIL;
				break;
			}
			usage(stderr);
			return EXIT_CANNOT_RUN;
		case 'q':
			quiet = true;
			break;
		case 'h':
			usage(stdout);
			return 0;
		default:
			usage(stderr);
			return EXIT_CANNOT_RUN;
		}
	}
	if (optind != argc) {
		usage(stderr);
		return EXIT_CANNOT_RUN;
	}

	demo_run(on_busy, quiet);
	return 0;
}

// SPDX-License-Identifier: GPL-2.0
/*
 * gmem-vmm - an example VMM for guest_memfd with in-place conversion
 */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "demo/demo.h"
#include "linux-guest/linux.h"
#include "vmm/die.h"

#define DEFAULT_MIB	256
#define DEFAULT_CMDLINE	"console=ttyS0 nokaslr no-kvmclock no-steal-acc no-kvmapf noxsave tsc=unstable panic=-1"

static void usage(FILE *to)
{
	fputs("Usage: gmem-vmm [--on-busy=retry|fail] [--quiet]\n"
	      "       gmem-vmm --kernel BZIMAGE [--initrd FILE] [--cmdline TEXT] [--memory MIB]\n"
	      "                [--cpus 1|2] [--on-busy=retry|fail]\n"
	      "\n"
	      "Runs a small guest on one guest_memfd, lets it make pages of its own memory\n"
	      "private and shared again, and shows and checks the effects.\n"
	      "With --kernel, runs a Linux guest.  The terminal is its serial console, and ^C\n"
	      "ends the guest.\n"
	      "\n"
	      "  --on-busy=retry  if a page is still in use, retry until it no longer is\n"
	      "                   (default)\n"
	      "  --on-busy=fail   if a page is still in use, stop the VM; with --kernel,\n"
	      "                   refuse the guest's request\n"
	      "  --quiet          print only errors, including those that injected memory\n"
	      "                   errors cause\n"
	      "  --kernel BZIMAGE a Linux kernel for x86-64\n"
	      "  --initrd FILE    an initramfs; the one of tools/gmem-guest converts memory\n"
	      "  --cmdline TEXT   the kernel's command line, instead of\n"
	      "                   " DEFAULT_CMDLINE "\n"
	      "  --memory MIB     the guest's memory, 64 to 3072 MiB (default: 256)\n"
	      "  --cpus N         the guest's CPUs, 1 or 2 (default: 1)\n"
	      "  --help           this text\n"
	      "\n"
	      "Exit status:\n"
	      "  0  all claims were checked and are true\n"
	      "  1  a claim was not true, or something else failed; the output says what\n"
	      "  2  the options are wrong, or it cannot run here; the output says why\n"
	      "  3  stopped by --on-busy=fail; all claims up to then were true\n",
	      to);
}

static noreturn void bad_usage(void)
{
	usage(stderr);
	exit(EXIT_CANNOT_RUN);
}

static enum on_busy parse_on_busy(const char *text)
{
	if (!strcmp(text, "retry"))
		return BUSY_RETRY;
	if (strcmp(text, "fail"))
		cannot_run("--on-busy takes retry or fail, not '%s'", text);
	return BUSY_FAIL;
}

static unsigned int parse_number(const char *option, const char *text, unsigned int min,
				 unsigned int max)
{
	char *end;
	unsigned long value = strtoul(text, &end, 10);

	if (end == text || *end || *text == '-' || value < min || value > max)
		cannot_run("%s takes a number from %u to %u, not '%s'", option, min, max, text);
	return value;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "on-busy", required_argument, NULL, 'b' },
		{ "quiet", no_argument, NULL, 'q' },
		{ "kernel", required_argument, NULL, 'k' },
		{ "initrd", required_argument, NULL, 'i' },
		{ "cmdline", required_argument, NULL, 'c' },
		{ "memory", required_argument, NULL, 'm' },
		{ "cpus", required_argument, NULL, 'n' },
		{ "help", no_argument, NULL, 'h' },
		{ }
	};
	struct boot boot = { .cmdline = DEFAULT_CMDLINE, .nr_cpus = 1 };
	enum on_busy on_busy = BUSY_RETRY;
	unsigned int mib = DEFAULT_MIB;
	bool quiet = false, is_linux = false;
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		is_linux |= option == 'i' || option == 'c' || option == 'm' || option == 'n';
		switch (option) {
		case 'b':
			on_busy = parse_on_busy(optarg);
			break;
		case 'q':
			quiet = true;
			break;
		case 'k':
			boot.kernel = optarg;
			break;
		case 'i':
			boot.initrd = optarg;
			break;
		case 'c':
			boot.cmdline = optarg;
			break;
		case 'm':
			mib = parse_number("--memory (in MiB)", optarg, LINUX_MIN_MIB,
					   LINUX_MAX_MIB);
			break;
		case 'n':
			boot.nr_cpus = parse_number("--cpus", optarg, 1, LINUX_MAX_CPUS);
			break;
		case 'h':
			usage(stdout);
			return 0;
		default:
			bad_usage();
		}
	}
	if (optind != argc)
		cannot_run("unexpected argument '%s'; see --help", argv[optind]);
	if (is_linux && !boot.kernel)
		cannot_run("--initrd, --cmdline, --memory and --cpus are for a Linux guest: they\n"
			   "require --kernel");
	if (quiet && boot.kernel)
		cannot_run("--quiet cannot be used with --kernel: the guest's console would be lost");
	if (boot.kernel)
		return linux_run(&boot, mib, on_busy);
	demo_run(on_busy, quiet);
	return 0;
}

// SPDX-License-Identifier: GPL-2.0
/*
 * Error messages, and the end of the program.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "die.h"

static void vcomplain(const char *fmt, va_list args)
{
	fflush(stdout);
	/* Each vCPU has its own thread, and any of them may print messages. */
	flockfile(stderr);
	fputs("gmem-vmm: ", stderr);
	vfprintf(stderr, fmt, args);
	fputc('\n', stderr);
	funlockfile(stderr);
}

void complain(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vcomplain(fmt, args);
	va_end(args);
}

void die(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vcomplain(fmt, args);
	va_end(args);
	exit(EXIT_BROKEN);
}

void cannot_run(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vcomplain(fmt, args);
	va_end(args);
	exit(EXIT_CANNOT_RUN);
}

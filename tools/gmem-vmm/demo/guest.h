/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Shared by the guest program (guest.S) and the VMM: the layout of the memory,
 * the ports, the steps of the demonstration, and the texts.
 */
#ifndef GMEM_VMM_GUEST_H
#define GMEM_VMM_GUEST_H

#include "../vmm/x86.h"

/*
 * Offset 0 of the file is not guest physical address 0, so that mixing them up
 * gets noticed: KVM_SET_MEMORY_ATTRIBUTES2 takes file offsets, while guests use
 * guest physical addresses.
 */
#define MEM_GPA		0x1000000
#define GPA(page)	(MEM_GPA + ((page) << PAGE_SHIFT))

/* The file, in pages. */
#define CODE_PAGE	0	/* code and stack */
#define STACK_END_PAGE	3
#define NOTE_PAGE	8	/* always shared: notes for CPUs and host */
#define DATA_PAGE	16
#define DATA_PAGES	4
#define COUNT_PAGE	32
#define BUSY_PAGE	48
#define BUSY_PAGES	8
#define PINNED_PAGE	51	/* the one that the host has pinned */
#define ERROR_PAGE	56
#define ERROR_PAGES	4
#define LOST_PAGE	57	/* fails while it is private */
#define LOST_PAGE2	58	/* fails while it is shared */
#define BULK_PAGE	4096
#define BULK_PAGES	4096
#define CHUNK_PAGES	512	/* in a chunk of 2 MiB */
#define HUGE_CHUNK	(BULK_PAGE + CHUNK_PAGES)
#define HUGE_PAGE	(HUGE_CHUNK + 100)
#define LAST_PAGE	8191
#define FILE_PAGES	(LAST_PAGE + 1)

/* 32-bit words in the note page. */
#define NOTE_STOP	(GPA(NOTE_PAGE) + 0)	/* second CPU: stop counting */
#define NOTE_AMD	(GPA(NOTE_PAGE) + 4)	/* hypercalls use VMMCALL */
#define NOTE_ERRORS	(GPA(NOTE_PAGE) + 8)	/* the host can inject memory errors */
#define NOTE_LOST	(GPA(NOTE_PAGE) + 12)	/* address reported by a machine check */
#define NOTE_HUGE	(GPA(NOTE_PAGE) + 16)	/* memory is mapped with huge pages */

#define PORT_CHAR	0x10	/* AL: next character of a message */
#define PORT_STEP	0x11	/* AL: number of the step that is done */
#define PORT_COUNT	0x12	/* EAX: the final count of the second CPU */
#define PORT_FAIL	0x13	/* failed; the last message has the reason */

#define STEP_SHARED	1
#define STEP_PRIVATE	2
#define STEP_BACK	3
#define STEP_BULK	4
#define STEP_BULK_FULL	5
#define STEP_BULK_BACK	6
#define STEP_BULK_DONE	7
#define STEP_HUGE	8
#define STEP_HUGE_ONE	9
#define STEP_HUGE_READ	10
#define STEP_HUGE_BACK	11
#define STEP_LIVE	12
#define STEP_LIVE_DONE	13
#define STEP_REFUSED	14
#define STEP_BUSY	15
#define STEP_BUSY_DONE	16
#define STEP_ERROR	17
#define STEP_STRIKE	18
#define STEP_REPLACED	19
#define STEP_STRIKE2	20
#define STEP_ERROR_DONE	21
#define STEP_END	22

#define LIVE_ROUNDS	50	/* to private and back, while counting */

/* The offset of each text in its page, and the texts. */
#define AT_HOST		0x000
#define AT_GUEST	0x100
#define AT_PRIVATE	0x200
#define AT_ANSWER	0x300
#define AT_TOUCH	0xfff	/* a byte that the host tries to access */

#define TEXT_HOST	"host, page shared"
#define TEXT_GUEST	"guest, page shared"
#define TEXT_PRIVATE	"guest, page private"
#define TEXT_ANSWER	"host, page shared again"
#define TEXT_FRESH	"guest, page fresh"

#endif /* GMEM_VMM_GUEST_H */

/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The guest: flat 32-bit protected mode, no paging, no interrupts.  It is
 * position independent except for addresses based on guest.h, so it can be
 * stored in the VMM's read-only data and copied to CODE_PAGE unchanged.
 *
 * The code stays in shared memory.  On CPUs that do not save the address of the
 * next instruction, KVM has to decode a hypercall to skip it, and reads the
 * instruction through the memslot's userspace_addr, which does not work for
 * private pages.
 */
#include "guest.h"

/* <linux/kvm_para.h> and <asm/kvm_para.h> are not for assembly. */
#define KVM_CPUID_SIGNATURE		0x40000000
#define KVM_CPUID_FEATURES		0x40000001
#define KVM_FEATURE_HC_MAP_GPA_RANGE	16
#define KVM_HC_MAP_GPA_RANGE		12
#define PRIVATE				0x10	/* KVM_MAP_GPA_RANGE_ENCRYPTED */
#define SHARED				0	/* KVM_MAP_GPA_RANGE_DECRYPTED */

#define CPUID_KVM	0x4b4d564b	/* "KVMK"VMKVM */

#define CR4_MCE			(1 << 6)
#define MC_VECTOR		18
#define MSR_MCG_CAP		0x179	/* AL: how many banks */
#define MSR_MCG_STATUS		0x17a
#define MSR_MC0_STATUS		0x401	/* bit 63: valid; one bank every 4 MSRs */
#define MSR_MC0_ADDR		0x402

/* The address of a label in the copy at CODE_PAGE. */
#define LOADED(label)		(GPA(CODE_PAGE) + label - guest_image)

/* Call \func with %esi pointing to \text. */
.macro with_text func, text
	call	.Lbehind\@
	.asciz	"\text"
.Lbehind\@:
	pop	%esi
	call	\func
.endm

.macro say text
	with_text print, "\text\n"
.endm

.macro fail text
	with_text give_up, "\text\n"
.endm

.macro put page, at, text
	mov	$(GPA(\page) + \at), %edi
	with_text copy_text, "\text"
.endm

.macro expect page, at, text
	mov	$(GPA(\page) + \at), %edi
	with_text check_text, "\text"
.endm

.macro step number
	mov	$\number, %al
	out	%al, $PORT_STEP
.endm

/* Ask the VMM for a conversion.  The result of the hypercall is in %eax. */
.macro ask page, pages, attributes
	mov	$GPA(\page), %ebx
	mov	$\pages, %ecx
	mov	$\attributes, %edx
	call	map_gpa_range
.endm

.macro expect_lost page
	mov	$GPA(\page), %ebx
	call	must_be_lost
.endm

.macro convert page, pages, attributes
	ask	\page, \pages, \attributes
	call	must_be_done
.endm

	.section .rodata.guest, "a", @progbits
	.code32
	.globl	guest_image, guest_counter, guest_image_end
guest_image:
	mov	$GPA(STACK_END_PAGE), %esp
	call	find_hypercall
	call	expect_machine_checks
	say	"running, and KVM offers me conversions"

	/* Both sides write to the same page; conversions keep both texts. */
	expect	DATA_PAGE, AT_HOST, TEXT_HOST
	put	DATA_PAGE, AT_GUEST, TEXT_GUEST
	step	STEP_SHARED
	convert	DATA_PAGE, DATA_PAGES, PRIVATE
	expect	DATA_PAGE, AT_HOST, TEXT_HOST
	expect	DATA_PAGE, AT_GUEST, TEXT_GUEST
	put	DATA_PAGE, AT_PRIVATE, TEXT_PRIVATE
	say	"both texts are still there, and I added a third"
	step	STEP_PRIVATE
	convert	DATA_PAGE, DATA_PAGES, SHARED
	step	STEP_BACK
	expect	DATA_PAGE, AT_ANSWER, TEXT_ANSWER
	say	"I can read the host's answer"

	/* A lot of memory, first touched while it is private. */
	step	STEP_BULK
	convert	BULK_PAGE, BULK_PAGES, PRIVATE
	call	fill_bulk
	say	"all of it was zero, and now has my marks"
	step	STEP_BULK_FULL
	convert	BULK_PAGE, BULK_PAGES, SHARED
	step	STEP_BULK_BACK
	convert	BULK_PAGE, BULK_PAGES, PRIVATE
	call	check_bulk
	say	"my marks are still there, and so are the host's"
	step	STEP_BULK_DONE

	/* Convert one page of memory that is mapped with huge pages, and back. */
	step	STEP_HUGE
	cmpl	$0, NOTE_HUGE
	je	5f
	convert	HUGE_PAGE, 1, SHARED
	step	STEP_HUGE_ONE
	call	read_chunk
	step	STEP_HUGE_READ
	convert	HUGE_PAGE, 1, PRIVATE
	call	check_bulk
	say	"all marks are still there"
	step	STEP_HUGE_BACK
5:

	/* Convert a page that the second CPU keeps writing to. */
	step	STEP_LIVE
	mov	$LIVE_ROUNDS, %ebp
1:	convert	COUNT_PAGE, 1, PRIVATE
	call	wait_for_count
	convert	COUNT_PAGE, 1, SHARED
	call	wait_for_count
	dec	%ebp
	jnz	1b
	movl	$1, NOTE_STOP
	step	STEP_LIVE_DONE

	/*
	 * The second page is beyond the end of memory: the VMM has to refuse
	 * the request.
	 */
	ask	LAST_PAGE, 2, PRIVATE
	test	%eax, %eax
	jz	1f
	say	"refused, as it should be"
	step	STEP_REFUSED
	jmp	2f
1:	fail	"the VMM agreed to convert memory that is not there"
2:

	/* The host pins one of these pages before they are converted. */
	put	BUSY_PAGE, AT_GUEST, TEXT_GUEST
	put	PINNED_PAGE, AT_GUEST, TEXT_GUEST
	step	STEP_BUSY
	convert	BUSY_PAGE, BUSY_PAGES, PRIVATE
	expect	BUSY_PAGE, AT_GUEST, TEXT_GUEST
	expect	PINNED_PAGE, AT_GUEST, TEXT_GUEST
	say	"they are private, and my texts are still there"
	step	STEP_BUSY_DONE

	/* The memory of a page fails while the page is private. */
	put	ERROR_PAGE, AT_GUEST, TEXT_GUEST
	put	LOST_PAGE, AT_GUEST, TEXT_GUEST
	put	LOST_PAGE2, AT_GUEST, TEXT_GUEST
	step	STEP_ERROR
	cmpl	$0, NOTE_ERRORS
	je	4f
	convert	ERROR_PAGE, ERROR_PAGES, PRIVATE
	step	STEP_STRIKE
	expect_lost LOST_PAGE
	expect	ERROR_PAGE, AT_GUEST, TEXT_GUEST
	expect	LOST_PAGE2, AT_GUEST, TEXT_GUEST
	say	"a machine check! That page is zero now, and the others are unchanged"
	put	LOST_PAGE, AT_PRIVATE, TEXT_FRESH
	step	STEP_REPLACED
	convert	ERROR_PAGE, ERROR_PAGES, SHARED

	/* The memory of another page fails while that page is shared. */
	step	STEP_STRIKE2
	ask	ERROR_PAGE, ERROR_PAGES, PRIVATE
	test	%eax, %eax
	jz	3f
	say	"refused? Then I'll look at that memory"
	expect_lost LOST_PAGE2
	say	"a machine check! Now that I know, I ask again"
	convert	ERROR_PAGE, ERROR_PAGES, PRIVATE
	expect	LOST_PAGE, AT_PRIVATE, TEXT_FRESH
	step	STEP_ERROR_DONE
	jmp	4f
3:	fail	"a page without contents was converted"
4:

	step	STEP_END
	hlt

/* The second CPU counts both in memory and in a register. */
guest_counter:
	xor	%eax, %eax
1:	lock incl GPA(COUNT_PAGE)
	inc	%eax
	cmpl	$0, NOTE_STOP
	je	1b
	out	%eax, $PORT_COUNT
	hlt

/*
 * Check CPUID before making hypercalls: is this KVM, does it offer
 * KVM_HC_MAP_GPA_RANGE, and which instruction does this CPU use for hypercalls?
 * KVM can patch in the right one, but only if it may write to the code.
 */
find_hypercall:
	xor	%eax, %eax
	cpuid
	cmp	$CPUID_AMD, %ebx
	sete	NOTE_AMD
	cmp	$CPUID_HYGON, %ebx
	sete	%al
	or	%al, NOTE_AMD
	mov	$KVM_CPUID_SIGNATURE, %eax
	cpuid
	cmp	$CPUID_KVM, %ebx
	jne	1f
	mov	$KVM_CPUID_FEATURES, %eax
	cpuid
	bt	$KVM_FEATURE_HC_MAP_GPA_RANGE, %eax
	jnc	1f
	ret
1:	fail	"CPUID does not offer KVM_HC_MAP_GPA_RANGE"

map_gpa_range:
	mov	$KVM_HC_MAP_GPA_RANGE, %eax
	cmpb	$0, NOTE_AMD
	je	1f
	vmmcall
	ret
1:	vmcall
	ret

must_be_done:
	test	%eax, %eax
	jnz	1f
	ret
1:	fail	"my request was refused"

/* Check that each page is zero, and mark it with its own address. */
fill_bulk:
	mov	$GPA(BULK_PAGE), %ebx
1:	mov	%ebx, %edi
	call	must_be_zero
	mov	%ebx, (%ebx)
	add	$(1 << PAGE_SHIFT), %ebx
	cmp	$GPA(BULK_PAGE + BULK_PAGES), %ebx
	jb	1b
	ret

/* %edi is the page. */
must_be_zero:
	mov	$(1 << PAGE_SHIFT) / 4, %ecx
	xor	%eax, %eax
	repe scasl
	jne	1f
	ret
1:	fail	"new memory is not zero"

/* The host has added the complement of each mark. */
check_bulk:
	mov	$GPA(BULK_PAGE), %ebx
1:	cmp	%ebx, (%ebx)
	jne	2f
	mov	%ebx, %eax
	not	%eax
	cmp	%eax, 4(%ebx)
	jne	2f
	add	$(1 << PAGE_SHIFT), %ebx
	cmp	$GPA(BULK_PAGE + BULK_PAGES), %ebx
	jb	1b
	ret
2:	fail	"a mark is missing"

read_chunk:
	mov	$GPA(HUGE_CHUNK), %ebx
1:	mov	(%ebx), %eax
	add	$(1 << PAGE_SHIFT), %ebx
	cmp	$GPA(HUGE_CHUNK + CHUNK_PAGES), %ebx
	jb	1b
	ret

/* Wait until the second CPU has written to the page in its current state. */
wait_for_count:
	mov	GPA(COUNT_PAGE), %eax
1:	pause
	cmp	GPA(COUNT_PAGE), %eax
	je	1b
	ret

/*
 * Without CR4.MCE a machine check shuts down the guest.  With it, the CPU finds
 * the handler in the IDT, and the handler's segment in the GDT.
 */
expect_machine_checks:
	lgdt	LOADED(gdt_pointer)
	lidt	LOADED(idt_pointer)
	mov	%cr4, %eax
	or	$CR4_MCE, %eax
	mov	%eax, %cr4
	ret

/*
 * %ebx is the page.  The machine check is raised before the first access to it
 * completes.  The access is repeated afterwards, and finds a new page.
 */
must_be_lost:
	movl	$0, NOTE_LOST
	mov	(%ebx), %eax
	cmp	%ebx, NOTE_LOST
	jne	1f
	mov	%ebx, %edi
	call	must_be_zero
	ret
1:	fail	"no machine check told me that my memory is lost"

/*
 * One of the banks has the address of the lost memory.  Clear the banks, and
 * MCG_STATUS last: until then, another machine check would shut down the guest.
 */
machine_check:
	pusha
	mov	$MSR_MCG_CAP, %ecx
	rdmsr
	movzbl	%al, %ebx
	mov	$MSR_MC0_STATUS, %ecx
1:	rdmsr
	test	%edx, %edx
	jns	2f
	add	$MSR_MC0_ADDR - MSR_MC0_STATUS, %ecx
	rdmsr
	mov	%eax, NOTE_LOST
	sub	$MSR_MC0_ADDR - MSR_MC0_STATUS, %ecx
	call	clear_msr
2:	add	$4, %ecx
	dec	%ebx
	jnz	1b
	mov	$MSR_MCG_STATUS, %ecx
	call	clear_msr
	popa
	iret

clear_msr:
	xor	%eax, %eax
	xor	%edx, %edx
	wrmsr
	ret

copy_text:
	lodsb
	stosb
	test	%al, %al
	jnz	copy_text
	ret

check_text:
	lodsb
	scasb
	jne	1f
	test	%al, %al
	jnz	check_text
	ret
1:	fail	"the text has changed"

/* Print character by character, as KVM has to emulate string I/O. */
print:
	lodsb
	test	%al, %al
	jz	1f
	out	%al, $PORT_CHAR
	jmp	print
1:	ret

give_up:
	call	print
	out	%al, $PORT_FAIL
	hlt

	.balign	8
gdt:
	.quad	0
	.quad	0x00cf9b000000ffff	/* the code segment as set by the VMM */
	.quad	0x00cf93000000ffff	/* and the data segment */
idt:
	.fill	MC_VECTOR, 8, 0
	/* The lower 16 bits of GPA(CODE_PAGE) are 0. */
	.word	machine_check - guest_image, 0x8, 0x8e00, GPA(CODE_PAGE) >> 16
gdt_pointer:
	.word	idt - gdt - 1
	.long	LOADED(gdt)
idt_pointer:
	.word	gdt_pointer - idt - 1
	.long	LOADED(idt)
guest_image_end:

	.section .note.GNU-stack, "", @progbits

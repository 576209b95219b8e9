// SPDX-License-Identifier: GPL-2.0-only
/*
 * A guest that writes to each of its pages, to populate its memory.  Its own
 * code and page tables are in an ordinary memslot.
 */
#include <err.h>
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "bench.h"

#define SLOT		1
#define PML4_GPA	0x0000
#define PDPT_GPA	0x1000
#define CODE_GPA	0x2000
#define GUEST_BYTES	0x3000
#define MAX_CPUID	256

#define PTE_TABLE	0x003	/* present, writable */
#define PTE_1G		0x083	/* present, writable, a huge page */
#define CR0_PE_PG	0x80000001ULL
#define CR4_PAE		0x20
#define EFER_LME_LMA	0x500

/* Write to the pages from RDI up to, but not including, RSI. */
static const __u8 code[] = {
	0x48, 0x39, 0xf7,				/* again: cmp %rsi, %rdi */
	0x73, 0x0c,					/* jae done */
	0xc6, 0x07, 0x01,				/* movb $1, (%rdi) */
	0x48, 0x81, 0xc7, 0x00, 0x10, 0x00, 0x00,	/* add $4096, %rdi */
	0xeb, 0xef,					/* jmp again */
	0xf4,						/* done: hlt */
};

/* The guest's CPUID has to include long mode. */
static void set_cpuid(struct vm *vm)
{
	static union {
		struct kvm_cpuid2 head;
		__u8 room[sizeof(struct kvm_cpuid2) +
			  MAX_CPUID * sizeof(struct kvm_cpuid_entry2)];
	} cpuid;

	cpuid.head.nent = MAX_CPUID;
	if (ioctl(vm->kvm_fd, KVM_GET_SUPPORTED_CPUID, &cpuid) ||
	    ioctl(vm->vcpu_fd, KVM_SET_CPUID2, &cpuid))
		err(1, "the guest's CPUID");
}

static void set_sregs(struct vm *vm)
{
	const struct kvm_segment cs = {
		.limit = ~0, .selector = 8, .type = 11, .present = 1, .s = 1,
		.l = 1, .g = 1,
	};
	const struct kvm_segment data = {
		.limit = ~0, .selector = 16, .type = 3, .present = 1, .s = 1,
		.db = 1, .g = 1,
	};
	struct kvm_sregs sregs;

	if (ioctl(vm->vcpu_fd, KVM_GET_SREGS, &sregs))
		err(1, "KVM_GET_SREGS");
	sregs.cs = cs;
	sregs.ds = data;
	sregs.es = data;
	sregs.ss = data;
	sregs.cr0 = CR0_PE_PG;
	sregs.cr3 = PML4_GPA;
	sregs.cr4 = CR4_PAE;
	sregs.efer = EFER_LME_LMA;
	if (ioctl(vm->vcpu_fd, KVM_SET_SREGS, &sregs))
		err(1, "KVM_SET_SREGS");
}

static void run(struct vm *vm, __u64 first, __u64 end)
{
	struct kvm_regs regs = {
		.rip = CODE_GPA, .rflags = 2, .rdi = first, .rsi = end,
	};

	if (ioctl(vm->vcpu_fd, KVM_SET_REGS, &regs))
		err(1, "KVM_SET_REGS");
	do {
		if (ioctl(vm->vcpu_fd, KVM_RUN, NULL) && errno != EINTR)
			err(1, "KVM_RUN");
	} while (vm->run->exit_reason == KVM_EXIT_INTR);
	if (vm->run->exit_reason != KVM_EXIT_HLT)
		errx(1, "the guest stopped with exit reason %u", vm->run->exit_reason);
}

static int run_bytes(struct vm *vm)
{
	return ioctl(vm->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, NULL);
}

/* Set up the guest, and run its code once, so that later runs fault only on vm->mem. */
void vm_guest_start(struct vm *vm)
{
	struct kvm_userspace_memory_region region = {
		.slot = SLOT,
		.memory_size = GUEST_BYTES,
	};
	__u64 *mem = mmap(NULL, GUEST_BYTES, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	vm->guest_mem = mem;
	vm->run = mmap(NULL, run_bytes(vm), PROT_READ | PROT_WRITE, MAP_SHARED, vm->vcpu_fd, 0);
	if (mem == MAP_FAILED || vm->run == MAP_FAILED)
		err(1, "mmap for the guest");
	mem[PML4_GPA / sizeof(*mem)] = PDPT_GPA | PTE_TABLE;
	mem[PDPT_GPA / sizeof(*mem)] = PTE_1G;
	mem[PDPT_GPA / sizeof(*mem) + MEM_GPA / GIB] = MEM_GPA | PTE_1G;
	memcpy((__u8 *)mem + CODE_GPA, code, sizeof(code));
	region.userspace_addr = (unsigned long)mem;
	if (ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION, &region))
		err(1, "KVM_SET_USER_MEMORY_REGION");
	set_cpuid(vm);
	set_sregs(vm);
	run(vm, MEM_GPA, MEM_GPA);
}

void vm_guest_touch(struct vm *vm)
{
	run(vm, MEM_GPA, MEM_GPA + vm->size);
}

/* A mapped vCPU keeps the VM alive, and the VM's MMU notifier would slow down later cases. */
void vm_guest_stop(struct vm *vm)
{
	munmap(vm->run, run_bytes(vm));
	munmap(vm->guest_mem, GUEST_BYTES);
}

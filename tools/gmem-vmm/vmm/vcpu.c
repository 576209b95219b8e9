// SPDX-License-Identifier: GPL-2.0
/*
 * Creating vCPUs.
 */
#include <errno.h>
#include <linux/kvm_para.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "die.h"
#include "vm.h"

#define MAX_CPUID	256

#define CPUID_AMD_RAS		0x80000007
#define CPUID_AMD_RAS_RECOVERY	3	/* overflow recovery, SUCCOR */
#define CPUID_AMD_TOPOLOGY	0x8000001e

/*
 * Use the CPUID that KVM supports, plus two features that depend on the VMM: it
 * handles KVM_HC_MAP_GPA_RANGE, and a guest can recover from machine checks.
 * On AMD, guests do not try to recover unless this is announced.
 */
static void vcpu_set_cpuid(struct vcpu *vcpu)
{
	struct kvm_cpuid_entry2 *entry;
	struct kvm_cpuid2 *cpuid;

	cpuid = calloc(1, sizeof(*cpuid) + MAX_CPUID * sizeof(cpuid->entries[0]));
	if (!cpuid)
		die("out of memory");
	cpuid->nent = MAX_CPUID;
	if (ioctl(vcpu->vm->kvm_fd, KVM_GET_SUPPORTED_CPUID, cpuid))
		die("KVM_GET_SUPPORTED_CPUID: %s", strerror(errno));
	for (entry = cpuid->entries; entry < cpuid->entries + cpuid->nent; entry++) {
		if (entry->function == 0)
			vcpu->amd = entry->ebx == CPUID_AMD || entry->ebx == CPUID_HYGON;
		if (entry->function == KVM_CPUID_FEATURES)
			entry->eax |= 1U << KVM_FEATURE_HC_MAP_GPA_RANGE;
		/* The APIC ID is the number of the vCPU. */
		if (entry->function == 1)
			entry->ebx = (entry->ebx & 0xffffff) | (__u32)vcpu->id << 24;
		if (entry->function == 0xb || entry->function == 0x1f)
			entry->edx = vcpu->id;
		if (vcpu->amd && entry->function == CPUID_AMD_TOPOLOGY)
			entry->eax = vcpu->id;
		if (vcpu->amd && entry->function == CPUID_AMD_RAS)
			entry->ebx |= CPUID_AMD_RAS_RECOVERY;
	}
	if (ioctl(vcpu->fd, KVM_SET_CPUID2, cpuid))
		die("KVM_SET_CPUID2: %s", strerror(errno));
	free(cpuid);
}

static void flat_segment(struct kvm_segment *segment, __u16 selector, __u8 type)
{
	*segment = (struct kvm_segment) {
		.limit = 0xffffffff,
		.selector = selector,
		.type = type,
		.present = 1,
		.db = 1,
		.s = 1,
		.g = 1,
	};
}

/*
 * Set up 32-bit protected mode without paging: no page tables, and no
 * descriptor tables until the guest loads its own.
 */
void vcpu_set_flat32(struct vcpu *vcpu, __u32 eip)
{
	struct kvm_regs regs = {
		.rip = eip,
		.rflags = 2,	/* the bit that is always set */
	};
	struct kvm_sregs sregs;

	if (ioctl(vcpu->fd, KVM_GET_SREGS, &sregs))
		die("KVM_GET_SREGS: %s", strerror(errno));
	flat_segment(&sregs.cs, 0x8, 0xb);	/* execute, read, accessed */
	flat_segment(&sregs.ds, 0x10, 0x3);	/* read, write, accessed */
	sregs.es = sregs.ds;
	sregs.fs = sregs.ds;
	sregs.gs = sregs.ds;
	sregs.ss = sregs.ds;
	sregs.cr0 |= 1;				/* protection enabled */
	if (ioctl(vcpu->fd, KVM_SET_SREGS, &sregs))
		die("KVM_SET_SREGS: %s", strerror(errno));
	if (ioctl(vcpu->fd, KVM_SET_REGS, &regs))
		die("KVM_SET_REGS: %s", strerror(errno));
}

void vcpu_create(struct vcpu *vcpu, struct vm *vm, int id)
{
	int size = ioctl(vm->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);

	vcpu->vm = vm;
	vcpu->id = id;
	vcpu->fd = ioctl(vm->fd, KVM_CREATE_VCPU, (long)id);
	if (vcpu->fd < 0)
		die("KVM_CREATE_VCPU: %s", strerror(errno));
	vcpu->run = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
	if (vcpu->run == MAP_FAILED)
		die("mmap of the vCPU: %s", strerror(errno));
	vcpu_set_cpuid(vcpu);
	vcpu_setup_mce(vcpu);
}

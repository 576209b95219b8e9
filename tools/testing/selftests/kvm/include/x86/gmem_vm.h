/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A VM with one guest_memfd, by default a software-protected one for tests of
 * in-place conversion.
 */
#ifndef SELFTEST_KVM_GMEM_VM_H
#define SELFTEST_KVM_GMEM_VM_H

#include "kvm_util.h"

#define GMEM_VM_SLOT	10
#define GMEM_VM_GPA	((gpa_t)1 << 32)

/**
 * struct gmem_vm - A VM whose guest reads and writes memory as it is told
 * @vm: the VM
 * @vcpu: its only vCPU
 * @fd: guest_memfd, bound to GMEM_VM_SLOT at GMEM_VM_GPA from offset 0
 * @mem: the host's mapping of all of it
 * @nr_pages: size of the guest_memfd, in pages
 * @start: the vCPU's registers before it ran
 */
struct gmem_vm {
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpu;
	int fd;
	char *mem;
	int nr_pages;
	struct kvm_regs start;
};

/*
 * Why there can be no such VM here: a reason for a test to be skipped, or NULL
 * if there can be one.
 */
const char *gmem_vm_unsupported(void);

/* All memory is shared, and none of it allocated yet. */
void gmem_vm_create(struct gmem_vm *g, int nr_pages);

/*
 * The same with a type of VM and flags of the guest_memfd that work together.
 * If the host can't map it, @mem is memory that has nothing to do with it.
 */
void __gmem_vm_create(struct gmem_vm *g, unsigned long type, u64 flags,
		      int nr_pages);
void gmem_vm_free(struct gmem_vm *g);

/*
 * Have the guest access the first 8 bytes of a page.  Writing returns what the
 * guest then reads back.
 */
u64 gmem_vm_read(struct gmem_vm *g, int page);
u64 gmem_vm_write(struct gmem_vm *g, int page, u64 value);

/*
 * The same, but return what KVM_RUN does, for accesses that can fail.  The
 * guest forgets about an access that failed.
 */
int __gmem_vm_read(struct gmem_vm *g, int page, u64 *value);

/* The first 8 bytes of a page, for the host. */
static inline u64 *gmem_vm_hva(struct gmem_vm *g, int page)
{
	return (u64 *)(g->mem + (u64)page * g->vm->page_size);
}

/* Whether the host may access a page, without SIGBUS if it may not. */
bool gmem_vm_host_can_access(struct gmem_vm *g, int page);

/* The host's frame number of a shared page; needs CAP_SYS_ADMIN. */
u64 gmem_vm_host_pfn(struct gmem_vm *g, int page);

/*
 * Hold a lasting pin on pages of a mapping.  Returns a file descriptor, which
 * unpins them when it is closed, or -errno.
 */
int gmem_vm_pin(struct gmem_vm *g, int page, int nr_pages);
bool gmem_vm_can_pin(void);

#endif /* SELFTEST_KVM_GMEM_VM_H */

/* SPDX-License-Identifier: GPL-2.0 */
#ifndef GMEM_VMM_VM_H
#define GMEM_VMM_VM_H

#include <pthread.h>
#include <stdbool.h>

#include "gmem.h"
#include "x86.h"

#define PAGE_BYTES	(1UL << PAGE_SHIFT)

enum on_busy {
	BUSY_RETRY,	/* repeat the request until no page is in use */
	BUSY_FAIL,	/* refuse the request; vm_ops.after() may stop the VM */
};

struct vm;
struct vcpu;

/*
 * The VMM's own devices, and callbacks to follow conversions.  Any of these may
 * be NULL.  They are called in the thread of the vCPU.
 */
struct vm_ops {
	/* The guest accesses a port.  Return true to make vcpu_run() return. */
	bool (*port)(struct vcpu *vcpu, bool write, __u16 port, void *data,
		     unsigned int size);
	/* The guest accesses an address where it has no memory. */
	void (*mmio)(struct vcpu *vcpu, bool write, __u64 gpa, void *data,
		     unsigned int size);

	/* Called around a conversion that the guest has requested. */
	void (*before)(struct vm *vm, __u64 offset, __u64 size, bool private);
	void (*after)(struct vm *vm, __u64 offset, __u64 size, int err);
	/* The guest's request is invalid. */
	void (*refused)(struct vm *vm, __u64 gpa, __u64 npages);
	/* A request has failed with EAGAIN for the first time. */
	void (*busy)(struct vm *vm, __u64 error_offset);
	/* A request has failed with EHWPOISON. */
	void (*poisoned)(struct vm *vm, __u64 error_offset);
	/* The guest has accessed a lost page, which has been replaced. */
	void (*lost_page)(struct vm *vm, __u64 gpa, bool private);
};

struct vm {
	/* Set these before vm_create(). */
	const struct vm_ops *ops;
	__u64 size;		/* in bytes */
	__u64 gpa;		/* where the guest sees offset 0 of the file */
	enum on_busy on_busy;

	int kvm_fd;
	int fd;
	int gmem_fd;		/* the guest_memfd: all of the guest's memory */
	__u8 *mem;		/* the host's mapping of the guest_memfd */

	/*
	 * There is no ioctl to read attributes, so the VMM has to keep track of
	 * them.  is_private has one byte per page, and is changed together with
	 * the file, under convert_lock.
	 */
	pthread_mutex_t convert_lock;
	__u8 *is_private;
	unsigned long conversions;	/* number of requests */
	unsigned long refusals;		/* of the last request, with EAGAIN */

	/*
	 * See vcpu_lost_page(); changed under convert_lock, too.  For each
	 * page, replaced has the value of replacements right after the page was
	 * last replaced, or 0.
	 */
	unsigned long replacements;	/* number of lost pages replaced */
	unsigned long *replaced;
};

struct vcpu {
	struct vm *vm;
	int id;
	int fd;
	struct kvm_run *run;
	bool amd;			/* or a compatible vendor */
	unsigned long entered;		/* replacements before KVM_RUN */
	__u64 fault_gpa;		/* see vcpu_wrong_kind() */
	unsigned long fault_conversions;
	unsigned long overtaken;
};

/* vm.c: from /dev/kvm to a VM with memory */
void vm_create(struct vm *vm);

/* vcpu.c: vCPUs that are ready to run */
void vcpu_create(struct vcpu *vcpu, struct vm *vm, int id);
void vcpu_set_flat32(struct vcpu *vcpu, __u32 eip);

/* run.c: the vCPU loop; returns when vm_ops.port() returns true */
void vcpu_run(struct vcpu *vcpu);

/* convert.c: conversions, and their results */
int vm_convert(struct vm *vm, __u64 offset, __u64 size, bool private);
bool vm_range_ok(const struct vm *vm, __u64 gpa, __u64 npages);

/* memfail.c: pages whose contents the hardware has lost */
void vcpu_setup_mce(struct vcpu *vcpu);
void vcpu_lost_page(struct vcpu *vcpu, __u64 gpa);

#endif /* GMEM_VMM_VM_H */

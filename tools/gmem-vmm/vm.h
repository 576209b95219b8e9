/* SPDX-License-Identifier: GPL-2.0 */
#ifndef GMEM_VMM_VM_H
#define GMEM_VMM_VM_H

#include <pthread.h>
#include <stdbool.h>

#include "gmem-uapi.h"
#include "guest.h"

#define PAGE_BYTES	0x1000UL

/* Exit statuses. */
#define EXIT_BROKEN	1	/* something is not as it has to be */
#define EXIT_CANNOT_RUN	2	/* not on this machine, and the reason is told */
#define EXIT_BUSY	3	/* stopped by --on-busy=fail */

enum on_busy {
	BUSY_RETRY,
	BUSY_FAIL,
};

struct vm {
	int kvm_fd;
	int fd;
	int gmem_fd;		/* the guest_memfd: all of the guest's memory */
	__u8 *mem;		/* the same file, as the host sees it */
	__u64 size;
	__u64 gpa;		/* where the guest sees offset 0 of the file */
	enum on_busy on_busy;

	/*
	 * There is no ioctl to read attributes back: the VMM knows what it
	 * asked for.  One byte per page, changed together with the file.
	 */
	pthread_mutex_t convert_lock;
	__u8 *is_private;
	unsigned long conversions;	/* that were asked for */
	unsigned long refusals;		/* of the last one, with EAGAIN */

	/* See vcpu_lost_page(); changed under convert_lock, too. */
	unsigned long replacements;	/* of lost pages, so far */
	unsigned long *replaced;	/* per page: which was its last */
};

struct vcpu {
	struct vm *vm;
	int id;
	int fd;
	struct kvm_run *run;
	bool amd;			/* or one that does as AMD's CPUs do */
	unsigned long entered;		/* replacements before KVM_RUN */
	__u64 fault_gpa;		/* see vcpu_wrong_kind() */
	unsigned long fault_conversions;
	unsigned long overtaken;
};

extern const __u8 guest_image[], guest_counter[], guest_image_end[];

/* vm.c: from /dev/kvm to a VM that is ready to run */
void vm_create(struct vm *vm);
void vcpu_create(struct vcpu *vcpu, struct vm *vm, int id, __u32 eip);
void vm_load_guest(struct vm *vm);
__u32 guest_counter_eip(void);

/* run.c: the vCPU loop; returns when demo_port() wants it to */
void vcpu_run(struct vcpu *vcpu);

/* convert.c: conversions, and what can come of them */
int gmem_set_attributes(int gmem_fd, __u64 offset, __u64 size, __u64 attributes,
			__u64 *error_offset);
int vm_convert(struct vm *vm, __u64 offset, __u64 size, bool private);
bool vm_range_ok(const struct vm *vm, __u64 gpa, __u64 npages);
const char *convert_strerror(int err);

/* memfail.c: pages whose contents the hardware has lost */
void vcpu_setup_mce(struct vcpu *vcpu);
void vcpu_lost_page(struct vcpu *vcpu, __u64 gpa);

/*
 * demo.c and steps.c: what makes this a demonstration.  A real VMM has its
 * devices in place of demo_port(), and nothing in place of the others.
 */
void demo_start(struct vm *vm);
void demo_end(void);
bool demo_port(struct vcpu *vcpu, __u16 port, __u32 value);
void demo_before(struct vm *vm, __u64 offset, __u64 size, bool private);
void demo_after(struct vm *vm, __u64 offset, __u64 size, int err);
void demo_busy(struct vm *vm, __u64 error_offset);
void demo_poisoned(struct vm *vm, __u64 error_offset);
void demo_lost_page(struct vm *vm, __u64 gpa, bool private);

#endif /* GMEM_VMM_VM_H */

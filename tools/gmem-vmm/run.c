// SPDX-License-Identifier: GPL-2.0
/*
 * The vCPU loop: conversions that the guest asks for, and memory faults.
 */
#include <errno.h>
#include <linux/kvm_para.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "show.h"

#define MAP_GPA_RANGE_BITS	(KVM_MAP_GPA_RANGE_ENCRYPTED | 0xf)

/*
 * The guest asks to have a range of its memory shared or private.  What it
 * gets back is hypercall.ret: 0, or EINVAL for a request that is refused.
 */
static void vcpu_hypercall(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;
	__u64 gpa = run->hypercall.args[0];
	__u64 npages = run->hypercall.args[1];
	__u64 attributes = run->hypercall.args[2];
	/* Bits 0 to 3 are a preferred page size, a hint that may be ignored. */
	bool private = attributes & KVM_MAP_GPA_RANGE_ENCRYPTED;
	struct vm *vm = vcpu->vm;
	__u64 offset, size;
	int err;

	/* The guest is not to be trusted: KVM has checked hardly any of it. */
	if (run->hypercall.nr != KVM_HC_MAP_GPA_RANGE ||
	    attributes & ~(__u64)MAP_GPA_RANGE_BITS ||
	    !vm_range_ok(vm, gpa, npages)) {
		say("   the guest asks for %llu pages at %#llx: refused, not all its memory",
		    npages, gpa);
		run->hypercall.ret = EINVAL;
		return;
	}

	/*
	 * One memslot here.  A VMM with several splits the range, and takes
	 * guest_memfd_offset of each slot into account.
	 */
	offset = gpa - vm->gpa;
	size = npages * PAGE_BYTES;
	demo_before(vm, offset, size, private);
	err = vm_convert(vm, offset, size, private);
	demo_after(vm, offset, size, err);
	if (err == -EAGAIN) {
		complain("--on-busy=fail: the VM is stopped; its memory is what it was\n"
			 "  (%u claims were checked up to here and are true)", checks_done());
		exit(EXIT_BUSY);
	}

	/*
	 * Of a page that the hardware has lost (EHWPOISON) the guest hears when
	 * it touches it, and may ask again then; see vcpu_memory_fault().  With
	 * SNP and TDX, where conversion takes the contents anyway, a VMM can
	 * as well replace the page here and try again.
	 *
	 * The guest goes on behind its hypercall when it is entered again.
	 */
	run->hypercall.ret = err ? EINVAL : 0;
}

/*
 * Conversions so far, the one under way included: waits for that one to end.
 */
static unsigned long conversions_so_far(struct vm *vm)
{
	unsigned long ret;

	pthread_mutex_lock(&vm->convert_lock);
	ret = vm->conversions;
	pthread_mutex_unlock(&vm->convert_lock);
	return ret;
}

/*
 * The kind of the access was not the kind of the page.  A guest with hardware
 * behind its private memory (SNP, TDX) chooses the kind with each access: for
 * such a VM this is an implicit request, answered by vm_convert() to the kind
 * of the access.  A software-protected VM has no choice: KVM takes the kind
 * from the attribute, and if the two differ, another vCPU's conversion came
 * between.  Converting would undo it; the right thing is to enter again.
 * Once for each conversion, that is, or a fault for any other reason would
 * come back for ever.
 */
static bool vcpu_wrong_kind(struct vcpu *vcpu, __u64 gpa)
{
	unsigned long conversions = conversions_so_far(vcpu->vm);

	if (vcpu->fault_gpa == gpa && vcpu->fault_conversions == conversions)
		return false;
	vcpu->fault_gpa = gpa;
	vcpu->fault_conversions = conversions;
	vcpu->overtaken++;
	return true;
}

/*
 * KVM_RUN has failed because of memory.  Returns whether the vCPU can be
 * entered again.
 */
static bool vcpu_memory_fault(struct vcpu *vcpu, int err)
{
	struct kvm_run *run = vcpu->run;
	bool private = run->memory_fault.flags & KVM_MEMORY_EXIT_FLAG_PRIVATE;
	__u64 gpa = run->memory_fault.gpa;
	bool ours = vm_range_ok(vcpu->vm, gpa, 1);
	const char *why;

	if (ours && err == EFAULT && vcpu_wrong_kind(vcpu, gpa))
		return true;
	if (ours && err == EHWPOISON) {
		vcpu_lost_page(vcpu, gpa);
		demo_lost_page(vcpu->vm, gpa, private);
		return true;
	}

	why = ours ? "the guest_memfd cannot serve it" : "the guest has no memory there";
	complain("vCPU %d: KVM_EXIT_MEMORY_FAULT, %s access at guest address %#llx: %s",
		 vcpu->id, private ? "private" : "shared", gpa, why);
	return false;
}

void vcpu_run(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;

	for (;;) {
		/* For vcpu_lost_page(): what happens later is news to this vCPU. */
		vcpu->entered = __atomic_load_n(&vcpu->vm->replacements, __ATOMIC_ACQUIRE);
		if (ioctl(vcpu->fd, KVM_RUN, 0)) {
			int err = errno;

			if (err == EINTR)
				continue;
			/*
			 * The only exit that comes together with an error, and
			 * with these two only: with any other, exit_reason is
			 * that of an exit before.
			 */
			if ((err != EFAULT && err != EHWPOISON) ||
			    run->exit_reason != KVM_EXIT_MEMORY_FAULT)
				die("KVM_RUN: %s", strerror(err));
			if (!vcpu_memory_fault(vcpu, err))
				die("the guest cannot go on");
			continue;
		}

		switch (run->exit_reason) {
		case KVM_EXIT_HYPERCALL:
			vcpu_hypercall(vcpu);
			break;
		case KVM_EXIT_IO: {
			__u32 value = 0;

			if (run->io.direction != KVM_EXIT_IO_OUT || run->io.count != 1)
				die("the guest uses a port in a way that it should not");
			memcpy(&value, (__u8 *)run + run->io.data_offset, run->io.size);
			if (demo_port(vcpu, run->io.port, value))
				return;
			break;
		}
		case KVM_EXIT_MMIO:
			die("the guest touches %#llx, where it has no memory",
			    run->mmio.phys_addr);
		case KVM_EXIT_SHUTDOWN:
			die("the guest has crashed (triple fault)");
		case KVM_EXIT_FAIL_ENTRY:
			die("the CPU refuses to enter the guest: reason %#llx",
			    run->fail_entry.hardware_entry_failure_reason);
		case KVM_EXIT_INTERNAL_ERROR:
			die("KVM cannot emulate what the guest does: suberror %u",
			    run->internal.suberror);
		default:
			die("unexpected exit %u from KVM_RUN", run->exit_reason);
		}
	}
}

// SPDX-License-Identifier: GPL-2.0
/*
 * The vCPU loop: conversions that the guest asks for, and memory faults.
 */
#include <errno.h>
#include <linux/kvm_para.h>
#include <sys/ioctl.h>

#include "die.h"
#include "vm.h"

#define MAP_GPA_RANGE_BITS	(KVM_MAP_GPA_RANGE_ENCRYPTED | 0xf)

/*
 * The guest asks to make a range of its memory shared or private.  The result
 * is returned in hypercall.ret: 0, or EINVAL if the request is refused.
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

	/* Do not trust the guest: KVM has checked hardly any of the arguments. */
	if (run->hypercall.nr != KVM_HC_MAP_GPA_RANGE ||
	    attributes & ~(__u64)MAP_GPA_RANGE_BITS ||
	    !vm_range_ok(vm, gpa, npages)) {
		if (vm->ops->refused)
			vm->ops->refused(vm, gpa, npages);
		run->hypercall.ret = EINVAL;
		return;
	}

	/*
	 * There is only one memslot here.  A VMM with several has to split
	 * the range, and to take each slot's guest_memfd_offset into account.
	 */
	offset = gpa - vm->gpa;
	size = npages * PAGE_BYTES;
	if (vm->ops->before)
		vm->ops->before(vm, offset, size, private);
	err = vm_convert(vm, offset, size, private);
	if (vm->ops->after)
		vm->ops->after(vm, offset, size, err);
	if (gmem_next(err) == GMEM_NEXT_STOP)
		die("the guest cannot continue");

	/*
	 * If the hardware has lost a page (EHWPOISON), the guest is notified
	 * when it touches the page, and may ask again then; see
	 * vcpu_memory_fault().  With SNP and TDX, where conversion destroys the
	 * contents anyway, a VMM may also replace the page here and try again.
	 *
	 * When the guest is entered again, it continues after its hypercall.
	 */
	run->hypercall.ret = err ? EINVAL : 0;
}

/* Wait for a conversion in progress, so that the number includes it. */
static unsigned long conversions_so_far(struct vm *vm)
{
	unsigned long ret;

	pthread_mutex_lock(&vm->convert_lock);
	ret = vm->conversions;
	pthread_mutex_unlock(&vm->convert_lock);
	return ret;
}

/*
 * The memory is private although the vCPU's access was shared, or vice versa.
 * If hardware supports private memory (SNP, TDX), the guest chooses the type of
 * each access: there, this is an implicit request to convert the memory to that
 * type.  A software-protected VM has no choice: the attribute determines the
 * type of the access.  KVM with this series never reports a difference.  Other
 * kernels may, if another vCPU has converted the memory in between.  Converting
 * would undo that; enter the guest again instead.  But do so only once for each
 * conversion, or a fault for any other reason would repeat itself forever.
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
 * KVM_RUN has failed with a memory fault.  Return true if the vCPU can be
 * entered again.
 */
static bool vcpu_memory_fault(struct vcpu *vcpu, int err)
{
	struct gmem_fault fault = gmem_get_fault(vcpu->run);
	bool private = fault.flags & KVM_MEMORY_EXIT_FLAG_PRIVATE;
	bool ours = vm_range_ok(vcpu->vm, fault.gpa, 1);
	struct vm *vm = vcpu->vm;
	const char *why;

	if (ours && err == EFAULT && vcpu_wrong_kind(vcpu, fault.gpa))
		return true;
	if (ours && err == EHWPOISON) {
		vcpu_lost_page(vcpu, fault.gpa);
		if (vm->ops->lost_page)
			vm->ops->lost_page(vm, fault.gpa, private);
		return true;
	}

	why = ours ? "the guest_memfd cannot serve it" : "the guest has no memory there";
	complain("vCPU %d: KVM_EXIT_MEMORY_FAULT, %s access at guest address %#llx: %s",
		 vcpu->id, private ? "private" : "shared", fault.gpa, why);
	return false;
}

/* String instructions make several accesses, one after the other. */
static bool vcpu_port(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;
	bool write = run->io.direction == KVM_EXIT_IO_OUT;
	__u8 *data = (__u8 *)run + run->io.data_offset;
	bool done = false;
	__u32 i;

	if (!vcpu->vm->ops->port)
		die("the guest uses port %#x, which does not exist", run->io.port);
	for (i = 0; i < run->io.count; i++)
		done |= vcpu->vm->ops->port(vcpu, write, run->io.port,
					    data + i * run->io.size, run->io.size);
	return done;
}

static void vcpu_mmio(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;

	if (!vcpu->vm->ops->mmio)
		die("the guest accesses %#llx, where it has no memory",
		    run->mmio.phys_addr);
	vcpu->vm->ops->mmio(vcpu, run->mmio.is_write, run->mmio.phys_addr,
			    run->mmio.data, run->mmio.len);
}

void vcpu_run(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;

	for (;;) {
		/* For vcpu_lost_page(): how many pages were replaced before this entry. */
		vcpu->entered = __atomic_load_n(&vcpu->vm->replacements, __ATOMIC_ACQUIRE);
		if (ioctl(vcpu->fd, KVM_RUN, 0)) {
			int err = errno;

			/* EAGAIN: an AP has been started, see KVM_MP_STATE_*. */
			if (err == EINTR || err == EAGAIN)
				continue;
			/*
			 * KVM_EXIT_MEMORY_FAULT is the only exit that comes
			 * with an error: EFAULT or EHWPOISON.  With any other
			 * error, exit_reason is stale or undefined.
			 */
			if ((err != EFAULT && err != EHWPOISON) ||
			    run->exit_reason != KVM_EXIT_MEMORY_FAULT)
				die("KVM_RUN: %s", strerror(err));
			if (!vcpu_memory_fault(vcpu, err))
				die("the guest cannot continue");
			continue;
		}

		switch (run->exit_reason) {
		case KVM_EXIT_HYPERCALL:
			vcpu_hypercall(vcpu);
			break;
		case KVM_EXIT_IO:
			if (vcpu_port(vcpu))
				return;
			break;
		case KVM_EXIT_MMIO:
			vcpu_mmio(vcpu);
			break;
		case KVM_EXIT_SHUTDOWN:
			die("the guest has crashed (triple fault)");
		case KVM_EXIT_FAIL_ENTRY:
			die("the CPU refuses to enter the guest: reason %#llx",
			    run->fail_entry.hardware_entry_failure_reason);
		case KVM_EXIT_INTERNAL_ERROR:
			die("KVM reports an internal error: suberror %u",
			    run->internal.suberror);
		default:
			die("unexpected exit %u from KVM_RUN", run->exit_reason);
		}
	}
}

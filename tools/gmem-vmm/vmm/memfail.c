// SPDX-License-Identifier: GPL-2.0
/*
 * Memory errors in guest memory: how to lose no more than the affected page.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>

#include "die.h"
#include "vm.h"

/*
 * Bits of the machine check registers, as defined by Intel's and AMD's manuals.
 * They are not in the installed headers.
 */
#define MCG_CAP_CTL_P		(1ULL << 8)	/* MCG_CTL exists */
#define MCG_CAP_SER_P		(1ULL << 24)	/* software error recovery */

#define MCG_STATUS_RIPV		(1ULL << 0)	/* the guest can restart at the saved RIP */
#define MCG_STATUS_EIPV		(1ULL << 1)	/* the error was hit at the saved RIP */
#define MCG_STATUS_MCIP		(1ULL << 2)	/* in progress, until the guest clears it */

#define MCI_STATUS_VAL		(1ULL << 63)
#define MCI_STATUS_UC		(1ULL << 61)	/* uncorrected */
#define MCI_STATUS_EN		(1ULL << 60)
#define MCI_STATUS_MISCV	(1ULL << 59)
#define MCI_STATUS_ADDRV	(1ULL << 58)
#define MCI_STATUS_S		(1ULL << 56)	/* Intel: signaled */
#define MCI_STATUS_AR		(1ULL << 55)	/* Intel: action is required */
#define MCI_STATUS_POISON	(1ULL << 43)	/* AMD: poison was consumed */
#define MCACOD_DATA_LOAD	0x134
#define MCI_MISC_ADDR_PHYS	(2 << 6)	/* bits 0-5: lowest valid address bit */

/* On some CPUs, guests treat the first banks specially: use a later one. */
#define MCE_BANKS	10
#define MCE_BANK	9

/* Provide the machine check registers that vcpu_machine_check() fills. */
void vcpu_setup_mce(struct vcpu *vcpu)
{
	__u64 cap;

	if (ioctl(vcpu->vm->kvm_fd, KVM_X86_GET_MCE_CAP_SUPPORTED, &cap))
		die("KVM_X86_GET_MCE_CAP_SUPPORTED: %s", strerror(errno));
	cap &= MCG_CAP_CTL_P | MCG_CAP_SER_P;
	cap |= MCE_BANKS;
	if (ioctl(vcpu->fd, KVM_X86_SETUP_MCE, &cap))
		die("KVM_X86_SETUP_MCE: %s", strerror(errno));
}

/*
 * Report to the guest what hardware would report: an uncorrected error, hit by
 * the access that the vCPU is about to repeat.  Like hardware, KVM shuts down a
 * guest that does not handle machine checks, or is still handling the previous
 * one.
 *
 * Intel CPUs report the error to all CPUs of the machine, unless the guest has
 * enabled LMCE: a VMM with more than one running vCPU has to report it to all
 * of them, too.
 */
static void vcpu_machine_check(struct vcpu *vcpu, __u64 gpa)
{
	struct kvm_x86_mce mce = {
		.bank = MCE_BANK,
		.status = MCI_STATUS_VAL | MCI_STATUS_UC | MCI_STATUS_EN | MCI_STATUS_ADDRV,
		.addr = gpa,
		.mcg_status = MCG_STATUS_MCIP | MCG_STATUS_RIPV | MCG_STATUS_EIPV,
	};

	if (vcpu->amd) {
		mce.status |= MCI_STATUS_POISON;
	} else {
		mce.status |= MCI_STATUS_MISCV | MCI_STATUS_S | MCI_STATUS_AR | MCACOD_DATA_LOAD;
		mce.misc = MCI_MISC_ADDR_PHYS | PAGE_SHIFT;
	}
	if (ioctl(vcpu->fd, KVM_X86_SET_MCE, &mce))
		die("KVM_X86_SET_MCE: %s", strerror(errno));
}

/*
 * Replace a lost page with a new one: the next access, by guest or host, finds
 * zeros.  The page stays private or shared, as it was.
 *
 * This is for guests that continue to use the page right away, like the one of
 * the demonstration.  Other vCPUs of a guest could read zeros before the vCPU
 * that gets the machine check has told them.  A guest that takes lost pages out
 * of use, as Linux does, needs no new page until it is reset: until then, every
 * access can fail like the first one.
 */
static void vm_replace_page(struct vm *vm, __u64 offset)
{
	if (fallocate(vm->gmem_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset,
		      PAGE_BYTES))
		die("no hole could be punched at offset %#llx: %s", offset, strerror(errno));
}

/*
 * The guest's access to @gpa ended KVM_RUN with EHWPOISON.
 *
 * Several vCPUs may access the same lost page, and get here one after the
 * other.  Only the first may punch the hole: the others, i.e. vCPUs that were
 * entered before the page was replaced, would punch the new page, which may
 * contain new data by then.  Inject a machine check into each of them
 * nevertheless: each is about to repeat its access, and would mistake the zeros
 * for its data.
 */
void vcpu_lost_page(struct vcpu *vcpu, __u64 gpa)
{
	struct vm *vm = vcpu->vm;
	__u64 offset = gpa - vm->gpa;
	unsigned long *replaced = &vm->replaced[offset / PAGE_BYTES];

	pthread_mutex_lock(&vm->convert_lock);
	if (*replaced <= vcpu->entered) {
		vm_replace_page(vm, offset);
		*replaced = vm->replacements + 1;
		/* Pairs with the load in vcpu_run(): the hole comes before the count. */
		__atomic_store_n(&vm->replacements, *replaced, __ATOMIC_RELEASE);
	}
	pthread_mutex_unlock(&vm->convert_lock);
	vcpu_machine_check(vcpu, gpa);
}

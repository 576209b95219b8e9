// SPDX-License-Identifier: GPL-2.0
/*
 * Memory that fails under the guest: what it takes to lose no more than the
 * page that is lost.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>

#include "die.h"
#include "vm.h"

/*
 * Bits of the machine check registers, as Intel's and AMD's manuals define
 * them: no installed header has them.
 */
#define MCG_CAP_CTL_P		(1ULL << 8)	/* there is an MCG_CTL */
#define MCG_CAP_SER_P		(1ULL << 24)	/* errors to recover from */

#define MCG_STATUS_RIPV		(1ULL << 0)	/* can go on where it was ... */
#define MCG_STATUS_EIPV		(1ULL << 1)	/* ... which is where it was hit */
#define MCG_STATUS_MCIP		(1ULL << 2)	/* until the guest clears it */

#define MCI_STATUS_VAL		(1ULL << 63)
#define MCI_STATUS_UC		(1ULL << 61)	/* uncorrected */
#define MCI_STATUS_EN		(1ULL << 60)
#define MCI_STATUS_MISCV	(1ULL << 59)
#define MCI_STATUS_ADDRV	(1ULL << 58)
#define MCI_STATUS_S		(1ULL << 56)	/* Intel: signaled, ... */
#define MCI_STATUS_AR		(1ULL << 55)	/* ... and action is required */
#define MCI_STATUS_POISON	(1ULL << 43)	/* AMD: poison was consumed */
#define MCACOD_DATA_LOAD	0x134
#define MCI_MISC_ADDR_PHYS	(2 << 6)	/* plus the lowest valid bit */

/* Not one of the first: on some CPUs those have a meaning of their own to guests. */
#define MCE_BANKS	10
#define MCE_BANK	9

/* Machine check registers that can hold what vcpu_machine_check() tells. */
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
 * Tells the guest what hardware would have told it: an uncorrected error, hit
 * by the access that the vCPU is about to repeat.  A guest that does not handle
 * machine checks, or has not finished handling the one before, is shut down by
 * KVM, as by hardware.
 *
 * Intel's CPUs tell all CPUs of the machine, unless the guest has chosen
 * otherwise (LMCE): a VMM with more than one vCPU running has to do so too.
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
 * A new page in the place of a lost one: the next touch, by guest or host, finds
 * zeros.  Whether it is private or shared stays as it is.
 *
 * For a guest that goes on using its page at once, as ours does.  Its other vCPUs
 * could read zeros there before the one that is told has told them.  A guest that
 * takes lost pages out of use, as Linux does, needs no new one before it is reset:
 * until then every access can be left to end like the first.
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
 * Several vCPUs may run into the same page, and come here one after the other.
 * Only the first may punch the hole: the others would punch the new page, which
 * may have new data by then.  They are those that were entered before the page
 * was replaced.  But each of them has to be told, as each is about to repeat its
 * access, and would take the zeros for what had been there.
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
		/* Who sees the count has seen the hole. */
		__atomic_store_n(&vm->replacements, *replaced, __ATOMIC_RELEASE);
	}
	pthread_mutex_unlock(&vm->convert_lock);
	vcpu_machine_check(vcpu, gpa);
}

// SPDX-License-Identifier: GPL-2.0
/*
 * Creating a VM whose memory, all of it, is one guest_memfd that both the
 * guest and the host can use, and that can be converted page by page.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm_para.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "show.h"

#define PARAM		"/sys/module/kvm/parameters/gmem_in_place_conversion"
#define GMEM_FLAGS	(GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED)
#define MAX_CPUID	256

#define CPUID_AMD_RAS		0x80000007
#define CPUID_AMD_RAS_RECOVERY	3	/* overflow recovery, SUCCOR */

static const __u32 exit_hypercalls = 1U << KVM_HC_MAP_GPA_RANGE;

static int extension(int fd, long cap)
{
	int ret = ioctl(fd, KVM_CHECK_EXTENSION, cap);

	return ret < 0 ? 0 : ret;
}

static noreturn void no_conversion(void)
{
	char on = 0;
	int fd = open(PARAM, O_RDONLY | O_CLOEXEC);

	if (fd >= 0) {
		if (read(fd, &on, 1) != 1)
			on = 0;
		close(fd);
	}

	if (on == 'N')
		cannot_run("in-place conversion is switched off:\n"
			   PARAM " says N.\n"
			   "To turn it on:\n"
			   "  KVM built into the kernel: boot with kvm.gmem_in_place_conversion=1\n"
			   "  KVM as modules:  modprobe -r kvm_amd kvm  (or kvm_intel; stop all VMs first)\n"
			   "                   modprobe kvm gmem_in_place_conversion=1\n"
			   "                   modprobe kvm_amd");
	if (on == 'Y')
		cannot_run("in-place conversion is on (" PARAM " says Y), but there is no VM type\n"
			   "with private memory on this machine.");
	cannot_run("this kernel's KVM cannot convert guest_memfd memory in place: no\n"
		   "KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES, and no " PARAM ".\n"
		   "A kernel with this patch series is needed.");
}

/*
 * Asked on /dev/kvm first, so that a VMM can decide before it creates
 * anything, and on the VM after, because it depends on the type of the VM.
 */
static void open_kvm(struct vm *vm)
{
	vm->kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (vm->kvm_fd < 0)
		cannot_run("/dev/kvm: %s.\n%s", strerror(errno),
			   errno == EACCES || errno == EPERM ?
			   "Try again as root, or as a member of its group." :
			   "KVM is needed: its modules loaded, and svm or vmx among the CPU's flags.");
	if (ioctl(vm->kvm_fd, KVM_GET_API_VERSION, 0) != KVM_API_VERSION)
		cannot_run("/dev/kvm is not the KVM of this kernel's headers.");

	/* A mask of attributes, not a yes or no. */
	if (!(extension(vm->kvm_fd, KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES) &
	      KVM_MEMORY_ATTRIBUTE_PRIVATE))
		no_conversion();
	if (!(extension(vm->kvm_fd, KVM_CAP_VM_TYPES) & (1 << KVM_X86_SW_PROTECTED_VM)))
		cannot_run("no software-protected VMs.  They take CONFIG_KVM_SW_PROTECTED_VM and\n"
			   "nested paging (kvm_amd.npt=1 or kvm_intel.ept=1, and kvm.tdp_mmu=1).");
}

static void create_memory(struct vm *vm)
{
	struct kvm_create_guest_memfd gmem = {
		.size = vm->size,
		.flags = GMEM_FLAGS,
	};
	struct kvm_userspace_memory_region2 region = {
		.slot = 0,
		.flags = KVM_MEM_GUEST_MEMFD,
		.guest_phys_addr = vm->gpa,
		.memory_size = vm->size,
		.guest_memfd_offset = 0,
	};

	if ((extension(vm->fd, KVM_CAP_GUEST_MEMFD_FLAGS) & GMEM_FLAGS) != GMEM_FLAGS)
		cannot_run("KVM_CAP_GUEST_MEMFD_FLAGS lacks MMAP or INIT_SHARED for this VM type.");

	/*
	 * INIT_SHARED: every page starts as shared, so that the host can load
	 * the guest.  MMAP: the host may map the file, and use what is shared.
	 */
	vm->gmem_fd = ioctl(vm->fd, KVM_CREATE_GUEST_MEMFD, &gmem);
	if (vm->gmem_fd < 0)
		die("KVM_CREATE_GUEST_MEMFD: %s", strerror(errno));

	/*
	 * One mapping for the life of the VM.  Conversions do not invalidate
	 * it: page by page it follows the attributes, and touching a page
	 * that is private at the moment is SIGBUS.
	 */
	vm->mem = mmap(NULL, vm->size, PROT_READ | PROT_WRITE, MAP_SHARED, vm->gmem_fd, 0);
	if (vm->mem == MAP_FAILED)
		die("mmap of the guest_memfd: %s", strerror(errno));

	/*
	 * All guest faults are served from the file, shared ones too.
	 * userspace_addr is for KVM itself, where it reads or writes guest
	 * memory on the guest's behalf; it has to be the same memory.
	 */
	region.guest_memfd = vm->gmem_fd;
	region.userspace_addr = (unsigned long)vm->mem;
	if (ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION2, &region))
		die("KVM_SET_USER_MEMORY_REGION2: %s", strerror(errno));
}

void vm_create(struct vm *vm)
{
	struct kvm_enable_cap exits = {
		.cap = KVM_CAP_EXIT_HYPERCALL,
		.args[0] = exit_hypercalls,
	};

	open_kvm(vm);
	vm->fd = ioctl(vm->kvm_fd, KVM_CREATE_VM, KVM_X86_SW_PROTECTED_VM);
	if (vm->fd < 0)
		die("KVM_CREATE_VM: %s", strerror(errno));
	if (!(extension(vm->fd, KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES) &
	      KVM_MEMORY_ATTRIBUTE_PRIVATE))
		no_conversion();

	pthread_mutex_init(&vm->convert_lock, NULL);
	vm->size = FILE_PAGES * PAGE_BYTES;
	vm->gpa = MEM_GPA;
	vm->is_private = calloc(FILE_PAGES, sizeof(*vm->is_private));
	vm->replaced = calloc(FILE_PAGES, sizeof(*vm->replaced));
	if (!vm->is_private || !vm->replaced)
		die("out of memory");
	create_memory(vm);

	/* The guest's requests have to reach us, or KVM answers ENOSYS. */
	if ((extension(vm->fd, KVM_CAP_EXIT_HYPERCALL) & exit_hypercalls) != exit_hypercalls)
		cannot_run("KVM_CAP_EXIT_HYPERCALL lacks KVM_HC_MAP_GPA_RANGE.");
	if (ioctl(vm->fd, KVM_ENABLE_CAP, &exits))
		die("KVM_CAP_EXIT_HYPERCALL: %s", strerror(errno));
}

/* Shared memory is loaded like any other memory: by writing to it. */
void vm_load_guest(struct vm *vm)
{
	memcpy(vm->mem + CODE_PAGE * PAGE_BYTES, guest_image, guest_image_end - guest_image);
}

__u32 guest_counter_eip(void)
{
	return GPA(CODE_PAGE) + (guest_counter - guest_image);
}

/*
 * The host's CPUID, plus two promises that are the VMM's to make: that we handle
 * KVM_HC_MAP_GPA_RANGE, and that a machine check need not be the end.  On AMD a
 * guest that is not told so will not try to recover from one.
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
 * 32-bit protected mode without paging: no page tables, and no descriptor tables
 * until the guest has loaded its own.
 */
static void vcpu_set_registers(struct vcpu *vcpu, __u32 eip)
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

void vcpu_create(struct vcpu *vcpu, struct vm *vm, int id, __u32 eip)
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
	vcpu_set_registers(vcpu, eip);
}

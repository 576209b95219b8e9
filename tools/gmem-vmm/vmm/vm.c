// SPDX-License-Identifier: GPL-2.0
/*
 * Creating a VM whose entire memory is one guest_memfd that both guest and host
 * can use, and that can be converted page by page.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm_para.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "die.h"
#include "vm.h"

static const __u32 exit_hypercalls = 1U << KVM_HC_MAP_GPA_RANGE;

static int extension(int fd, long cap)
{
	int ret = ioctl(fd, KVM_CHECK_EXTENSION, cap);

	return ret < 0 ? 0 : ret;
}

static noreturn void no_conversion(void)
{
	switch (gmem_parameter()) {
	case 0:
		cannot_run("in-place conversion is switched off:\n"
			   GMEM_PARAMETER " says N.\n"
			   "To turn it on:\n"
			   "  KVM built into the kernel: boot with kvm.gmem_in_place_conversion=1\n"
			   "  KVM as modules:  modprobe -r kvm_amd kvm  (or kvm_intel; stop all VMs first)\n"
			   "                   modprobe kvm gmem_in_place_conversion=1\n"
			   "                   modprobe kvm_amd");
	case 1:
		cannot_run("in-place conversion is on (" GMEM_PARAMETER " says Y), but there is no VM type\n"
			   "with private memory on this machine.");
	default:
		cannot_run("this kernel's KVM cannot convert guest_memfd memory in place: no\n"
			   "KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES, and no " GMEM_PARAMETER ".\n"
			   "A kernel with this patch series is needed.");
	}
}

/*
 * Probe /dev/kvm first, so that a VMM can decide before it creates anything,
 * and the VM later, because support depends on the type of the VM.
 */
static void open_kvm(struct vm *vm)
{
	struct gmem_support support;

	vm->kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (vm->kvm_fd < 0)
		cannot_run("/dev/kvm: %s.\n%s", strerror(errno),
			   errno == EACCES || errno == EPERM ?
			   "Try again as root, or as a member of the device's group." :
			   "KVM is required: load its modules, and check the CPU's flags for svm or vmx.");
	if (ioctl(vm->kvm_fd, KVM_GET_API_VERSION, 0) != KVM_API_VERSION)
		cannot_run("/dev/kvm has an unexpected API version.");

	if (gmem_probe(vm->kvm_fd, &support))
		no_conversion();
	if (!(extension(vm->kvm_fd, KVM_CAP_VM_TYPES) & (1 << KVM_X86_SW_PROTECTED_VM)))
		cannot_run("KVM offers no software-protected VMs.  They require\n"
			   "CONFIG_KVM_SW_PROTECTED_VM and nested paging (kvm_amd.npt=1 or\n"
			   "kvm_intel.ept=1, and kvm.tdp_mmu=1).");
}

static void create_memory(struct vm *vm)
{
	struct kvm_userspace_memory_region2 region = {
		.slot = 0,
		.flags = KVM_MEM_GUEST_MEMFD,
		.guest_phys_addr = vm->gpa,
		.memory_size = vm->size,
		.guest_memfd_offset = 0,
	};

	/*
	 * INIT_SHARED: every page starts as shared, so that the host can load
	 * the guest.  MMAP: the host may map the file, and access shared pages.
	 */
	vm->gmem_fd = gmem_create(vm->fd, vm->size, GMEM_FLAGS);
	if (vm->gmem_fd < 0)
		die("KVM_CREATE_GUEST_MEMFD: %s", strerror(-vm->gmem_fd));

	/*
	 * One mapping is enough for the lifetime of the VM.  Conversions do not
	 * invalidate it: each page follows its attribute, and touching a page
	 * while it is private raises SIGBUS.
	 */
	vm->mem = gmem_map(vm->gmem_fd, vm->size);
	if (!vm->mem)
		die("mmap of the guest_memfd: %s", strerror(errno));

	/*
	 * All guest faults are served from the file, including shared ones.
	 * KVM uses userspace_addr when it accesses guest memory on the guest's
	 * behalf, so the same memory has to be mapped there.
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
	__u64 npages = vm->size / PAGE_BYTES;
	struct gmem_support support;

	open_kvm(vm);
	vm->fd = ioctl(vm->kvm_fd, KVM_CREATE_VM, KVM_X86_SW_PROTECTED_VM);
	if (vm->fd < 0)
		die("KVM_CREATE_VM: %s", strerror(errno));
	if (gmem_probe(vm->fd, &support))
		no_conversion();
	if ((support.flags & GMEM_FLAGS) != GMEM_FLAGS)
		cannot_run("KVM_CAP_GUEST_MEMFD_FLAGS lacks MMAP or INIT_SHARED for this VM type.");

	pthread_mutex_init(&vm->convert_lock, NULL);
	vm->is_private = calloc(npages, sizeof(*vm->is_private));
	vm->replaced = calloc(npages, sizeof(*vm->replaced));
	if (!vm->is_private || !vm->replaced)
		die("out of memory");
	create_memory(vm);

	/* Let the guest's requests exit to the VMM.  By default, they fail. */
	if ((extension(vm->fd, KVM_CAP_EXIT_HYPERCALL) & exit_hypercalls) != exit_hypercalls)
		cannot_run("KVM_CAP_EXIT_HYPERCALL lacks KVM_HC_MAP_GPA_RANGE.");
	if (ioctl(vm->fd, KVM_ENABLE_CAP, &exits))
		die("KVM_CAP_EXIT_HYPERCALL: %s", strerror(errno));
}

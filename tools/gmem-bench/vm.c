// SPDX-License-Identifier: GPL-2.0-only
/* VMs to measure, and operations on their memory. */
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <stdnoreturn.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "bench.h"

/* The size of huge pages. */
#define ALIGNMENT	(2 * MIB)

/* Other kernels may need several attempts if a page was used recently. */
#define MAX_TRIES	100

static noreturn void cannot_run(const char *why)
{
	fprintf(stderr, "gmem-bench: cannot run: %s\n", why);
	exit(EXIT_CANNOT_RUN);
}

static int open_kvm(void)
{
	int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	if (fd < 0)
		cannot_run(errno == ENOENT ? "no /dev/kvm: load KVM's modules" :
					     "no access to /dev/kvm: run this as root");
	return fd;
}

bool has_in_place_conversion(void)
{
	int fd = open_kvm();
	int attributes = ioctl(fd, KVM_CHECK_EXTENSION,
			       KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES);

	close(fd);
	return attributes > 0 && (attributes & KVM_MEMORY_ATTRIBUTE_PRIVATE);
}

static void create_vm(struct vm *vm, __u64 size, __u64 flags)
{
	struct kvm_create_guest_memfd gmem = {
		.size = size,
		.flags = flags,
	};

	vm->size = size;
	vm->kvm_fd = open_kvm();
	if (!(ioctl(vm->kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_VM_TYPES) &
	      (1 << KVM_X86_SW_PROTECTED_VM)))
		cannot_run("no software-protected VMs: they require CONFIG_KVM_SW_PROTECTED_VM and nested paging");
	vm->fd = ioctl(vm->kvm_fd, KVM_CREATE_VM, KVM_X86_SW_PROTECTED_VM);
	if (vm->fd < 0)
		err(1, "KVM_CREATE_VM");
	/* In most cases, the vCPU never runs, and only maps memory for the guest. */
	vm->vcpu_fd = ioctl(vm->fd, KVM_CREATE_VCPU, 0);
	if (vm->vcpu_fd < 0)
		err(1, "KVM_CREATE_VCPU");
	vm->gmem_fd = ioctl(vm->fd, KVM_CREATE_GUEST_MEMFD, &gmem);
	if (vm->gmem_fd < 0)
		err(1, "KVM_CREATE_GUEST_MEMFD");
}

static void create_memslot(struct vm *vm)
{
	struct kvm_userspace_memory_region2 region = {
		.flags = KVM_MEM_GUEST_MEMFD,
		.guest_phys_addr = MEM_GPA,
		.memory_size = vm->size,
		.userspace_addr = (unsigned long)vm->mem,
		.guest_memfd = vm->gmem_fd,
	};

	if (ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION2, &region))
		err(1, "KVM_SET_USER_MEMORY_REGION2");
}

/* A file that is all shared, in no memslot and not mapped. */
void vm_open_unbound(struct vm *vm, __u64 size)
{
	create_vm(vm, size, GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED);
	vm->mem = NULL;
}

/* All memory is in one guest_memfd, and shared at first. */
void vm_open(struct vm *vm, __u64 size)
{
	vm_open_unbound(vm, size);
	vm->mem = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED,
		       vm->gmem_fd, 0);
	if (vm->mem == MAP_FAILED)
		err(1, "mmap of the guest_memfd");
	create_memslot(vm);
}

/* Shared memory is anonymous, and private memory is in a guest_memfd. */
void vm_open_per_vm(struct vm *vm, __u64 size)
{
	create_vm(vm, size, 0);
	vm->mem = mmap(NULL, size, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (vm->mem == MAP_FAILED)
		err(1, "mmap of anonymous memory");
	create_memslot(vm);
}

/* An ordinary VM: all memory is anonymous, and aligned to a huge page, like MEM_GPA. */
void vm_open_ordinary(struct vm *vm, __u64 size)
{
	struct kvm_userspace_memory_region region = {
		.guest_phys_addr = MEM_GPA,
		.memory_size = size,
	};
	__u8 *mem;

	vm->size = size;
	vm->kvm_fd = open_kvm();
	vm->gmem_fd = -1;
	vm->fd = ioctl(vm->kvm_fd, KVM_CREATE_VM, 0);
	if (vm->fd < 0)
		err(1, "KVM_CREATE_VM");
	vm->vcpu_fd = ioctl(vm->fd, KVM_CREATE_VCPU, 0);
	if (vm->vcpu_fd < 0)
		err(1, "KVM_CREATE_VCPU");
	mem = mmap(NULL, size + ALIGNMENT, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (mem == MAP_FAILED)
		err(1, "mmap of anonymous memory");
	vm->mem = mem + ALIGNMENT - (unsigned long)mem % ALIGNMENT;
	munmap(mem, vm->mem - mem);
	munmap(vm->mem + size, ALIGNMENT - (vm->mem - mem));
	region.userspace_addr = (unsigned long)vm->mem;
	if (ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION, &region))
		err(1, "KVM_SET_USER_MEMORY_REGION");
}

/* One of KVM's statistics of the VM. */
__u64 vm_stat(struct vm *vm, const char *name)
{
	int fd = ioctl(vm->fd, KVM_GET_STATS_FD, NULL);
	struct kvm_stats_header header;
	struct kvm_stats_desc *desc;
	__u64 value;
	size_t size;
	__u32 i;

	if (fd < 0 || pread(fd, &header, sizeof(header), 0) != sizeof(header))
		err(1, "KVM_GET_STATS_FD");
	size = sizeof(*desc) + header.name_size;
	desc = malloc(size);
	if (!desc)
		err(1, "malloc");
	for (i = 0; i < header.num_desc; i++) {
		if (pread(fd, desc, size, header.desc_offset + i * size) != (ssize_t)size)
			err(1, "descriptors of statistics");
		if (!strcmp(desc->name, name))
			break;
	}
	if (i == header.num_desc)
		errx(1, "no statistic %s", name);
	if (pread(fd, &value, sizeof(value), header.data_offset + desc->offset) != sizeof(value))
		err(1, "statistic %s", name);
	free(desc);
	close(fd);
	return value;
}

void vm_close(struct vm *vm)
{
	close(vm->vcpu_fd);
	close(vm->fd);
	if (vm->mem)
		munmap(vm->mem, vm->size);
	close(vm->gmem_fd);
	close(vm->kvm_fd);
}

/* Host faults: allocate if necessary, and map. */
void vm_touch(struct vm *vm, __u64 first, __u64 end, __u64 step)
{
	__u64 offset;

	for (offset = first; offset < end; offset += step)
		*(volatile __u8 *)(vm->mem + offset) = 1;
}

/* Allocate without mapping. */
void vm_populate(struct vm *vm)
{
	if (fallocate(vm->gmem_fd, FALLOC_FL_KEEP_SIZE, 0, vm->size))
		err(1, "fallocate of the guest_memfd");
}

void vm_punch_range(struct vm *vm, __u64 offset, __u64 size)
{
	if (fallocate(vm->gmem_fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE,
		      offset, size))
		err(1, "punching a hole in the guest_memfd");
}

void vm_punch(struct vm *vm)
{
	vm_punch_range(vm, 0, vm->size);
}

/* Guest faults, without running the guest: allocate if necessary, and map. */
void vm_prefault_range(struct vm *vm, __u64 offset, __u64 size)
{
	struct kvm_pre_fault_memory range = {
		.gpa = MEM_GPA + offset,
		.size = size,
	};

	while (range.size)
		if (ioctl(vm->vcpu_fd, KVM_PRE_FAULT_MEMORY, &range) &&
		    errno != EINTR && errno != EAGAIN)
			err(1, "KVM_PRE_FAULT_MEMORY");
}

void vm_prefault(struct vm *vm)
{
	vm_prefault_range(vm, 0, vm->size);
}

/* Return 0 or an errno. */
int vm_try_convert(struct vm *vm, __u64 offset, __u64 size, __u64 attributes,
		   __u64 *error_offset)
{
	struct kvm_memory_attributes2 attrs = {
		.offset = offset,
		.size = size,
		.attributes = attributes,
	};

	if (!ioctl(vm->gmem_fd, KVM_SET_MEMORY_ATTRIBUTES2, &attrs))
		return 0;
	if (error_offset)
		*error_offset = attrs.error_offset;
	return errno;
}

/* Convert, with retries if a page is in use.  Return how long that took. */
__u64 vm_convert(struct vm *vm, __u64 offset, __u64 size, __u64 attributes)
{
	struct kvm_memory_attributes2 attrs = {
		.offset = offset,
		.size = size,
		.attributes = attributes,
	};
	int ret, tries = 0;
	__u64 start;

	start = now();
	do {
		ret = ioctl(vm->gmem_fd, KVM_SET_MEMORY_ATTRIBUTES2, &attrs);
	} while (ret && errno == EAGAIN && ++tries < MAX_TRIES);
	start = now() - start;
	if (ret)
		err(1, "KVM_SET_MEMORY_ATTRIBUTES2 of %#llx+%#llx to %#llx",
		    offset, size, attributes);
	return start;
}

/* A conversion that --profile covers, unlike those by vm_convert(). */
__u64 vm_measure(struct vm *vm, __u64 offset, __u64 size, __u64 attributes)
{
	__u64 time;

	profile_begin();
	time = vm_convert(vm, offset, size, attributes);
	profile_end();
	return time;
}

/* Convert all memory of a VM from vm_open_per_vm().  Return how long it took. */
__u64 vm_set_attributes(struct vm *vm, __u64 attributes)
{
	struct kvm_memory_attributes attrs = {
		.address = MEM_GPA,
		.size = vm->size,
		.attributes = attributes,
	};
	__u64 start = now();

	if (ioctl(vm->fd, KVM_SET_MEMORY_ATTRIBUTES, &attrs))
		err(1, "KVM_SET_MEMORY_ATTRIBUTES");
	return now() - start;
}

/*
 * Page cache and anonymous memory, which includes any VM's memory.  The amount
 * of free memory is less precise, as each CPU caches many megabytes of free
 * pages.
 */
long mem_used_kib(void)
{
	FILE *file = fopen("/proc/meminfo", "re");
	long kib, sum = 0;
	char line[128];

	if (!file)
		err(1, "/proc/meminfo");
	while (fgets(line, sizeof(line), file))
		if (sscanf(line, "Cached: %ld kB", &kib) == 1 ||
		    sscanf(line, "AnonPages: %ld kB", &kib) == 1)
			sum += kib;
	fclose(file);
	return sum;
}

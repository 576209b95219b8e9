// SPDX-License-Identifier: GPL-2.0
/*
 * Load Linux with the 64-bit boot protocol, see
 * Documentation/arch/x86/boot.rst.
 */
#include <asm/bootparam.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include "../vmm/die.h"
#include "acpi.h"
#include "boot.h"

/* The memory layout, in guest physical addresses. */
#define GDT_GPA		0x0500
#define PARAMS_GPA	0x7000
#define PML4_GPA	0x9000
#define PDPT_GPA	0xa000
#define PD_GPA		0xb000		/* and the three pages after it */
#define CMDLINE_GPA	0x20000
#define LOW_END_GPA	0x9f000
#define HIGH_GPA	0x100000

#define IDENTITY_GIB	4
#define PTE_TABLE	0x3		/* present, writable */
#define PTE_2M		0x83

#define BOOT_CS		0x10
#define BOOT_DS		0x18

#define E820_RAM	1
#define ENTRY_64	0x200
#define SECTOR		512

#define CR0_PE		(1U << 0)
#define CR0_PG		(1U << 31)
#define CR4_PAE		(1U << 5)
#define EFER_LME	(1U << 8)
#define EFER_LMA	(1U << 10)

static __u64 entry;

static void *read_file(const char *path, size_t *size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	size_t done = 0;
	ssize_t got;
	char *data;

	if (fd < 0)
		cannot_run("%s: %s", path, strerror(errno));
	if (fstat(fd, &st) || !S_ISREG(st.st_mode))
		cannot_run("%s is not a regular file", path);
	*size = st.st_size;
	data = malloc(*size + 1);
	if (!data)
		cannot_run("%s does not fit into the host's memory", path);
	while (done < *size) {
		got = read(fd, data + done, *size - done);
		if (got <= 0)
			cannot_run("%s: %s", path, got ? strerror(errno) : "the file was truncated");
		done += got;
	}
	close(fd);
	return data;
}

static void check_header(const char *path, const struct setup_header *hdr, size_t size)
{
	if (size < 0x400 || hdr->boot_flag != 0xaa55 || memcmp(&hdr->header, "HdrS", 4))
		cannot_run("%s is not a Linux kernel for x86 (bzImage)", path);
	if (hdr->version < 0x20c || !(hdr->xloadflags & XLF_KERNEL_64))
		cannot_run("%s has no 64-bit entry point: it has to be a 64-bit kernel, 3.8 or later",
			   path);
}

/* Return the end of the memory that the kernel needs to start. */
static __u64 load_kernel(struct vm *vm, const char *path, struct boot_params *params)
{
	struct setup_header *hdr = &params->hdr;
	size_t size, skip;
	__u64 end;
	char *image;

	image = read_file(path, &size);
	memcpy(hdr, image + offsetof(struct boot_params, hdr),
	       size < 0x400 ? 0 : sizeof(*hdr));
	check_header(path, hdr, size);

	skip = ((hdr->setup_sects ? hdr->setup_sects : 4) + 1) * SECTOR;
	if (skip >= size || size - skip < hdr->syssize * 16ULL)
		cannot_run("%s is incomplete", path);
	end = hdr->pref_address + hdr->init_size;
	if (hdr->pref_address < HIGH_GPA || end > vm->size ||
	    size - skip > vm->size - hdr->pref_address)
		cannot_run("%s does not fit into %llu MiB: it needs %llu MiB to start, and more to run;\n"
			   "use a larger --memory",
			   path, vm->size >> 20, (end >> 20) + 1);
	memcpy(vm->mem + hdr->pref_address, image + skip, size - skip);
	free(image);
	entry = hdr->pref_address + ENTRY_64;
	return end;
}

/* Load the initramfs at the end of memory, to leave the kernel as much as possible. */
static void load_initrd(struct vm *vm, const char *path, struct boot_params *params,
			__u64 kernel_end)
{
	__u64 limit = (__u64)params->hdr.initrd_addr_max + 1, where;
	size_t size;
	void *data = read_file(path, &size);

	if (limit > vm->size)
		limit = vm->size;
	if (!size)
		cannot_run("%s is empty", path);
	if (kernel_end + size > limit - PAGE_BYTES)
		cannot_run("%s does not fit into %llu MiB together with the kernel;\n"
			   "use a larger --memory", path,
			   vm->size >> 20);
	where = (limit - size) & ~(PAGE_BYTES - 1);
	memcpy(vm->mem + where, data, size);
	free(data);
	params->hdr.ramdisk_image = where;
	params->hdr.ramdisk_size = size;
}

static void load_cmdline(struct vm *vm, const char *cmdline, struct boot_params *params)
{
	size_t size = strlen(cmdline);

	if (size > params->hdr.cmdline_size)
		cannot_run("the command line is too long: this kernel accepts %u characters, not %zu",
			   params->hdr.cmdline_size, size);
	memcpy(vm->mem + CMDLINE_GPA, cmdline, size + 1);
	params->hdr.cmd_line_ptr = CMDLINE_GPA;
}

static void add_ram(struct boot_params *params, __u64 start, __u64 end)
{
	params->e820_table[params->e820_entries].addr = start;
	params->e820_table[params->e820_entries].size = end - start;
	params->e820_table[params->e820_entries++].type = E820_RAM;
}

/* Identity-map the first 4 GiB. */
static void make_page_tables(struct vm *vm)
{
	__u64 *pml4 = (__u64 *)(vm->mem + PML4_GPA);
	__u64 *pdpt = (__u64 *)(vm->mem + PDPT_GPA);
	__u64 *pd = (__u64 *)(vm->mem + PD_GPA);
	__u64 i;

	pml4[0] = PDPT_GPA | PTE_TABLE;
	for (i = 0; i < IDENTITY_GIB; i++)
		pdpt[i] = (PD_GPA + i * PAGE_BYTES) | PTE_TABLE;
	for (i = 0; i < IDENTITY_GIB * 512; i++)
		pd[i] = (i << 21) | PTE_2M;
}

static void make_gdt(struct vm *vm)
{
	__u64 *gdt = (__u64 *)(vm->mem + GDT_GPA);

	gdt[BOOT_CS / 8] = 0x00af9b000000ffff;
	gdt[BOOT_DS / 8] = 0x00cf93000000ffff;
}

void boot_load(struct vm *vm, const struct boot *boot)
{
	struct boot_params params = { };
	__u64 kernel_end;

	kernel_end = load_kernel(vm, boot->kernel, &params);
	if (boot->initrd)
		load_initrd(vm, boot->initrd, &params, kernel_end);
	if (boot->cmdline)
		load_cmdline(vm, boot->cmdline, &params);
	params.hdr.type_of_loader = 0xff;	/* undefined, i.e. no assigned ID */
	add_ram(&params, 0, LOW_END_GPA);
	add_ram(&params, HIGH_GPA, vm->size);
	acpi_make(vm->mem + ACPI_GPA, boot->nr_cpus);
	make_page_tables(vm);
	make_gdt(vm);
	memcpy(vm->mem + PARAMS_GPA, &params, sizeof(params));
}

void boot_start(struct vcpu *vcpu)
{
	struct kvm_segment code = {
		.limit = 0xffffffff, .selector = BOOT_CS, .type = 0xb,
		.present = 1, .s = 1, .l = 1, .g = 1,
	};
	struct kvm_segment data = {
		.limit = 0xffffffff, .selector = BOOT_DS, .type = 0x3,
		.present = 1, .s = 1, .db = 1, .g = 1,
	};
	struct kvm_regs regs = {
		.rip = entry,
		.rsi = PARAMS_GPA,
		.rflags = 2,
	};
	struct kvm_sregs sregs;

	if (ioctl(vcpu->fd, KVM_GET_SREGS, &sregs))
		die("KVM_GET_SREGS: %s", strerror(errno));
	sregs.cs = code;
	sregs.ds = data;
	sregs.es = data;
	sregs.fs = data;
	sregs.gs = data;
	sregs.ss = data;
	sregs.gdt.base = GDT_GPA;
	sregs.gdt.limit = BOOT_DS + 7;
	sregs.cr0 |= CR0_PE | CR0_PG;
	sregs.cr3 = PML4_GPA;
	sregs.cr4 |= CR4_PAE;
	sregs.efer |= EFER_LME | EFER_LMA;
	if (ioctl(vcpu->fd, KVM_SET_SREGS, &sregs))
		die("KVM_SET_SREGS: %s", strerror(errno));
	if (ioctl(vcpu->fd, KVM_SET_REGS, &regs))
		die("KVM_SET_REGS: %s", strerror(errno));
}

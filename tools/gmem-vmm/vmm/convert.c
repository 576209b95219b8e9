// SPDX-License-Identifier: GPL-2.0
/*
 * Converting memory between shared and private, and handling the results.
 */
#include <errno.h>
#include <string.h>

#include "die.h"
#include "vm.h"

/* Report the first refusal of a request, not each of its repetitions. */
static bool page_is_busy(void *data, __u64 error_offset)
{
	struct vm *vm = data;

	if (!vm->refusals++ && vm->ops->busy)
		vm->ops->busy(vm, error_offset);
	return true;
}

/*
 * Convert a range of the file.  Return 0 or a negative errno, which is -EAGAIN
 * only with BUSY_FAIL.
 *
 * Existing VMMs treat busy pages in one of two ways.  A VMM that repeats the
 * request indefinitely relies on every user of the page to stop eventually.  A
 * VMM that expects no user of guest memory to block a conversion considers
 * EAGAIN a bug, and stops the VM.
 *
 * KVM itself can be such a user: it keeps the GHCB of a vCPU (SEV-ES, SNP)
 * mapped until that vCPU runs again.  A VMM for such VMs has to run the vCPU
 * between attempts, and cannot loop as this one does.
 */
int vm_convert(struct vm *vm, __u64 offset, __u64 size, bool private)
{
	struct gmem_retry retry = {
		.deadline = vm->on_busy == BUSY_FAIL ? GMEM_ONCE : GMEM_FOREVER,
		.busy = page_is_busy,
		.data = vm,
	};
	__u64 error_offset = 0;
	int err;

	/* Two vCPUs may ask at the same time: change the file and is_private together. */
	pthread_mutex_lock(&vm->convert_lock);
	vm->conversions++;
	vm->refusals = 0;
	err = gmem_convert(vm->gmem_fd, offset, size,
			   private ? KVM_MEMORY_ATTRIBUTE_PRIVATE : 0, &retry,
			   &error_offset);
	if (err == -EHWPOISON && vm->ops->poisoned)
		vm->ops->poisoned(vm, error_offset);
	if (!err)
		memset(vm->is_private + offset / PAGE_BYTES, private, size / PAGE_BYTES);
	pthread_mutex_unlock(&vm->convert_lock);

	if (gmem_names_page(err))
		complain("file offsets [%#llx, %#llx) were not converted;\n"
			 "  error_offset is %#llx",
			 offset, offset + size, error_offset);
	else if (err)
		complain("file offsets [%#llx, %#llx) were not converted", offset, offset + size);
	if (err)
		complain("%s", gmem_strerror(err));
	return err;
}

/* Avoid overflows, whatever values the guest passes. */
bool vm_range_ok(const struct vm *vm, __u64 gpa, __u64 npages)
{
	if (gpa < vm->gpa || gpa - vm->gpa >= vm->size || gpa % PAGE_BYTES)
		return false;
	return npages && npages <= (vm->size - (gpa - vm->gpa)) / PAGE_BYTES;
}

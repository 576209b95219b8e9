// SPDX-License-Identifier: GPL-2.0
/*
 * Converting memory between shared and private, and what can come of it.
 */
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#include "show.h"

/*
 * Only these three say which page stood in the way.  That is for the log: what
 * has to be repeated is the whole range.
 */
static bool names_page(int err)
{
	return err == -EAGAIN || err == -EHWPOISON || err == -ENOMEM;
}

/*
 * One attempt.  Goes to the guest_memfd, not to the VM, and takes offsets in
 * the file.  Returns 0 or a negative errno; in every case but 0 the range is
 * what it was before: there is no partial success to clean up after.
 */
int gmem_set_attributes(int gmem_fd, __u64 offset, __u64 size, __u64 attributes,
			__u64 *error_offset)
{
	/* What is not named here has to be 0, the reserved fields too. */
	struct kvm_memory_attributes2 attrs = {
		.offset = offset,
		.size = size,
		.attributes = attributes,
	};
	int err;

	if (!ioctl(gmem_fd, KVM_SET_MEMORY_ATTRIBUTES2, &attrs))
		return 0;
	err = -errno;
	if (names_page(err))
		*error_offset = attrs.error_offset;
	return err;
}

const char *convert_strerror(int err)
{
	switch (-err) {
	case 0:
		return "converted, or it was so already";
	case EAGAIN:
		return "EAGAIN: someone other than the guest is still using that page,\n"
		       "  such as a device with a pin on it.  When that user lets go,\n"
		       "  the same request, repeated, works";
	case EHWPOISON:
		return "EHWPOISON: the hardware has lost the contents of that page.\n"
		       "  Repeating the request cannot help.  Punch a hole over the page to\n"
		       "  get a fresh one, and let the guest know that the data are gone";
	case ENOMEM:
		return "ENOMEM: the kernel has no memory to note the new state.\n"
		       "  The request can be repeated when the host has some";
	case EIO:
		return "EIO: KVM has given the VM up after an internal error.\n"
		       "  The kernel's log has the reason";
	case EINVAL:
		return "EINVAL: the kernel does not take this request: not page aligned,\n"
		       "  empty or beyond the end of the file, an attribute it does not know,\n"
		       "  a field that must be 0 and is not, or a VM without private memory";
	case ENOTTY:
		return "ENOTTY: this is not a guest_memfd, or in-place conversion is off\n"
		       "  (see kvm.gmem_in_place_conversion)";
	case EFAULT:
		return "EFAULT: the kernel cannot read the request from our memory";
	}
	return strerror(-err);
}

/*
 * Converts a range of the file, in the way of --on-busy.  Returns 0 or a
 * negative errno, which is -EAGAIN only with --on-busy=fail.
 */
int vm_convert(struct vm *vm, __u64 offset, __u64 size, bool private)
{
	__u64 attributes = private ? KVM_MEMORY_ATTRIBUTE_PRIVATE : 0;
	__u64 error_offset = 0;
	int err;

	/* Two vCPUs may ask at once: the file and our notes change together. */
	pthread_mutex_lock(&vm->convert_lock);
	vm->conversions++;
	vm->refusals = 0;
	for (;;) {
		err = gmem_set_attributes(vm->gmem_fd, offset, size, attributes,
					  &error_offset);
		if (err == -EHWPOISON)
			demo_poisoned(vm, error_offset);
		if (err != -EAGAIN)
			break;
		if (!vm->refusals++)
			demo_busy(vm, error_offset);
		/*
		 * Both answers are in use.  A VMM that repeats at once, and
		 * for ever, relies on every user of the page letting go in
		 * the end.  A VMM that knows of no user of guest memory that
		 * could be in the way takes it for a fault, and stops the VM.
		 *
		 * KVM can be such a user: it has the GHCB of a vCPU (SEV-ES,
		 * SNP) mapped until that vCPU runs again.  A VMM for these has
		 * to run its vCPUs in between, not loop as we do.
		 */
		if (vm->on_busy == BUSY_FAIL)
			break;
	}
	if (!err)
		memset(vm->is_private + offset / PAGE_BYTES, private, size / PAGE_BYTES);
	pthread_mutex_unlock(&vm->convert_lock);

	if (names_page(err))
		complain("no conversion of %#llx to %#llx,\n"
			 "  because of the page at offset %#llx",
			 offset, offset + size, error_offset);
	else if (err)
		complain("no conversion of %#llx to %#llx", offset, offset + size);
	if (err)
		complain("%s", convert_strerror(err));
	return err;
}

/* Written so that no value that a guest may come up with can overflow. */
bool vm_range_ok(const struct vm *vm, __u64 gpa, __u64 npages)
{
	if (gpa < vm->gpa || gpa - vm->gpa >= vm->size || gpa % PAGE_BYTES)
		return false;
	return npages && npages <= (vm->size - (gpa - vm->gpa)) / PAGE_BYTES;
}

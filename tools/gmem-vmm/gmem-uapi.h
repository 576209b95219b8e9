/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * The userspace ABI of in-place conversion, for kernel headers that do not
 * have it yet.  Numbers and layout are those of the patched kernel's
 * <linux/kvm.h>, which wins when it is there.
 */
#ifndef GMEM_VMM_UAPI_H
#define GMEM_VMM_UAPI_H

#include <assert.h>
#include <linux/kvm.h>

#ifndef GUEST_MEMFD_FLAG_INIT_SHARED
#error "<linux/kvm.h> is too old: KHDR has to name the headers of a 7.3 kernel"
#endif

#ifndef KVM_SET_MEMORY_ATTRIBUTES2

#define KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES	252

struct kvm_memory_attributes2 {
	union {
		__u64 address;
		__u64 offset;
	};
	__u64 size;
	__u64 attributes;
	__u64 flags;
	__u64 error_offset;
	__u64 reserved[11];
};

#define KVM_SET_MEMORY_ATTRIBUTES2 \
	_IOWR(KVMIO, 0xd2, struct kvm_memory_attributes2)

#endif /* KVM_SET_MEMORY_ATTRIBUTES2 */

static_assert(sizeof(struct kvm_memory_attributes2) == 128,
	      "struct kvm_memory_attributes2 is 128 bytes, without holes");

#endif /* GMEM_VMM_UAPI_H */

/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * In-place conversion of guest_memfd memory, for VMMs: find out whether it is
 * available, create a file, convert ranges of it, and find out what to do about
 * each error.  Just include this file; there is nothing to link with.
 *
 * It builds as C11, C++11 or later, and needs the declarations of POSIX.1-2008.
 * They are visible by default.  With e.g. -std=c11, define _GNU_SOURCE or
 * _POSIX_C_SOURCE=200809L.  Any version of the kernel headers will do: missing
 * definitions are provided here.  Unless noted otherwise, functions return 0 or
 * a negative errno.  They keep no state, and may be called from several threads
 * concurrently.
 *
 * The ABI is specified in Documentation/virt/kvm/api.rst, and the duties of a
 * VMM in Documentation/virt/kvm/guest_memfd.rst.
 */
#ifndef GMEM_H
#define GMEM_H

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <linux/types.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

/*
 * Definitions that kernel headers without this series may lack.  Values and
 * layouts are part of the ABI and the same on all architectures.
 */
#ifndef KVM_CAP_MEMORY_FAULT_INFO
#define KVM_CAP_MEMORY_FAULT_INFO	232
#define KVM_EXIT_MEMORY_FAULT		39
#define KVM_MEMORY_EXIT_FLAG_PRIVATE	0x8ULL
#endif

#ifndef KVM_CAP_VM_TYPES
#define KVM_CAP_VM_TYPES		235
#endif

#ifndef KVM_X86_SW_PROTECTED_VM
#define KVM_X86_SW_PROTECTED_VM		1
#endif

#ifndef KVM_MEMORY_ATTRIBUTE_PRIVATE
#define KVM_MEMORY_ATTRIBUTE_PRIVATE	0x8ULL
#endif

#ifndef KVM_SET_USER_MEMORY_REGION2
#define KVM_MEM_GUEST_MEMFD		0x4UL

struct kvm_userspace_memory_region2 {
	__u32 slot;
	__u32 flags;
	__u64 guest_phys_addr;
	__u64 memory_size;
	__u64 userspace_addr;
	__u64 guest_memfd_offset;
	__u32 guest_memfd;
	__u32 pad1;
	__u64 pad2[14];
};

#define KVM_SET_USER_MEMORY_REGION2 \
	_IOW(KVMIO, 0x49, struct kvm_userspace_memory_region2)
#endif

#ifndef KVM_CREATE_GUEST_MEMFD
struct kvm_create_guest_memfd {
	__u64 size;
	__u64 flags;
	__u64 reserved[6];
};

#define KVM_CREATE_GUEST_MEMFD \
	_IOWR(KVMIO, 0xd4, struct kvm_create_guest_memfd)
#endif

#ifndef GUEST_MEMFD_FLAG_MMAP
#define GUEST_MEMFD_FLAG_MMAP		0x1ULL
#endif

#ifndef GUEST_MEMFD_FLAG_INIT_SHARED
#define GUEST_MEMFD_FLAG_INIT_SHARED	0x2ULL
#endif

#ifndef KVM_CAP_GUEST_MEMFD_FLAGS
#define KVM_CAP_GUEST_MEMFD_FLAGS	244
#endif

#ifndef KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES
#define KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES	252
#endif

#ifndef KVM_SET_MEMORY_ATTRIBUTES2
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
#endif

static_assert(sizeof(struct kvm_memory_attributes2) == 128,
	      "struct kvm_memory_attributes2 is 128 bytes, without holes");

/**
 * struct gmem_support - Features supported by KVM
 * @attributes: attributes that KVM_SET_MEMORY_ATTRIBUTES2 accepts, a mask of
 *		KVM_MEMORY_ATTRIBUTE_*; 0 if memory cannot be converted in place
 * @flags: flags that KVM_CREATE_GUEST_MEMFD accepts, a mask of
 *	   GUEST_MEMFD_FLAG_*
 *
 * gmem_probe() reads these from KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES and
 * KVM_CAP_GUEST_MEMFD_FLAGS.
 */
struct gmem_support {
	__u64 attributes;
	__u64 flags;
};

/**
 * gmem_probe() - Find out whether memory can be converted in place
 * @fd: /dev/kvm, to decide before there is a VM; or a VM, as not all types of
 *	VM have private memory
 * @support: always filled in, with zeros for capabilities that KVM does not know
 *
 * Return: 0 if KVM can convert memory between shared and private in place,
 * %-EOPNOTSUPP if it cannot; gmem_parameter() may tell why.
 */
static inline int gmem_probe(int fd, struct gmem_support *support)
{
	int attributes = ioctl(fd, KVM_CHECK_EXTENSION,
			       KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES);
	int flags = ioctl(fd, KVM_CHECK_EXTENSION, KVM_CAP_GUEST_MEMFD_FLAGS);

	support->attributes = attributes > 0 ? (__u64)attributes : 0;
	support->flags = flags > 0 ? (__u64)flags : 0;
	return support->attributes & KVM_MEMORY_ATTRIBUTE_PRIVATE ? 0 : -EOPNOTSUPP;
}

#define GMEM_PARAMETER	"/sys/module/kvm/parameters/gmem_in_place_conversion"

/**
 * gmem_parameter() - Read KVM's module parameter for in-place conversion
 *
 * Use this only to explain why gmem_probe() failed.  The capability is
 * decisive: there is no parameter on kernels whose only mode is in-place
 * conversion.
 *
 * Return: 1 if the parameter is on, 0 if it is off, %-ENOENT if KVM has no such
 * parameter or is not loaded, or another negative errno if reading it failed.
 */
static inline int gmem_parameter(void)
{
	int fd = open(GMEM_PARAMETER, O_RDONLY | O_CLOEXEC);
	char value = 0;
	ssize_t got;

	if (fd < 0)
		return -errno;
	got = read(fd, &value, 1);
	close(fd);
	if (got != 1)
		return -EIO;
	return value == 'Y';
}

/* One file for shared and private memory, all of it shared at first. */
#define GMEM_FLAGS	(GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED)

/**
 * gmem_create() - Create a guest_memfd
 * @vm_fd: the VM that will use the memory; no other VM can use it
 * @size: size of the file in bytes, a multiple of the page size and not 0; it
 *	  cannot be changed later
 * @flags: GUEST_MEMFD_FLAG_*, e.g. GMEM_FLAGS.  Without
 *	   GUEST_MEMFD_FLAG_INIT_SHARED all pages are private at first; without
 *	   GUEST_MEMFD_FLAG_MMAP the host cannot map even shared ones.
 *
 * Pages are allocated when guest or host first touches them, or by fallocate(),
 * and read as zeros until written.
 *
 * The file and its memory exist until the last file descriptor and the last
 * mapping are gone.  A memslot does not keep them alive: after that, guest
 * accesses to the memslot fail.  exec() does not close the file descriptor
 * unless FD_CLOEXEC is set.
 *
 * Return: a file descriptor; %-EINVAL if @size is not valid or a flag is not
 * supported, see struct gmem_support; or another negative errno, e.g. %-EMFILE.
 */
static inline int gmem_create(int vm_fd, __u64 size, __u64 flags)
{
	struct kvm_create_guest_memfd request;
	int fd;

	memset(&request, 0, sizeof(request));
	request.size = size;
	request.flags = flags;
	fd = ioctl(vm_fd, KVM_CREATE_GUEST_MEMFD, &request);
	return fd < 0 ? -errno : fd;
}

/**
 * gmem_map() - Map a whole guest_memfd
 * @gmem_fd: the file, created with GUEST_MEMFD_FLAG_MMAP
 * @size: size of the file, in bytes
 *
 * The mapping stays valid across conversions until munmap().  Only shared pages
 * can be accessed: touching a page while it is private raises SIGBUS
 * (BUS_ADRERR), and system calls that access it fail with EFAULT.
 *
 * Return: the address, or NULL with the reason in errno.
 */
static inline void *gmem_map(int gmem_fd, __u64 size)
{
	void *mem = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, gmem_fd, 0);

	return mem == MAP_FAILED ? NULL : mem;
}

/**
 * gmem_names_page() - Find out whether error_offset is valid
 * @err: 0 or the negative errno of a conversion
 *
 * Return: true if the kernel has set error_offset: to the offset of the page
 * that blocks the conversion, or, with ENOMEM, to the start of the range.
 */
static inline bool gmem_names_page(int err)
{
	return err == -EAGAIN || err == -EHWPOISON || err == -ENOMEM;
}

/**
 * gmem_try_convert() - Convert a range of a guest_memfd, in one attempt
 * @gmem_fd: the file
 * @offset: start of the range, as an offset in the file in bytes, not a guest
 *	    physical address; a multiple of the page size
 * @size: length of the range in bytes, a multiple of the page size and not 0;
 *	  the range ends before @offset + @size
 * @attributes: KVM_MEMORY_ATTRIBUTE_PRIVATE, or 0 for shared
 * @error_offset: may be NULL.  If gmem_names_page() is true for the result, set
 *		  to the offset, in bytes, of a page that blocks the conversion,
 *		  or to @offset if there is no memory; otherwise left alone.
 *		  Use it only for the log, or to find the user of the page, and
 *		  always repeat the whole range.
 *
 * Either the whole range is converted or nothing is.  Nothing is done if the
 * range already has the attribute.  KVM neither copies nor clears contents, but
 * the hardware of confidential VMs may.
 *
 * This may take about 100 ms if a page stays in use, about 2 s if users come
 * and go, and longer on a busy machine.  Only a fatal signal interrupts it, so
 * there is no EINTR to handle.
 *
 * Return: 0 or one of the errors that gmem_strerror() describes, and for which
 * gmem_next() returns what to do.
 */
static inline int gmem_try_convert(int gmem_fd, __u64 offset, __u64 size,
				   __u64 attributes, __u64 *error_offset)
{
	struct kvm_memory_attributes2 request;
	int err;

	/* The reserved fields have to be 0. */
	memset(&request, 0, sizeof(request));
	request.offset = offset;
	request.size = size;
	request.attributes = attributes;
	if (!ioctl(gmem_fd, KVM_SET_MEMORY_ATTRIBUTES2, &request))
		return 0;
	err = -errno;
	if (error_offset && gmem_names_page(err))
		*error_offset = request.error_offset;
	return err;
}

/* Special values for the deadline in struct gmem_retry. */
#define GMEM_ONCE	0ULL		/* do not repeat the request */
#define GMEM_FOREVER	(~0ULL)		/* repeat while a page is in use */

/**
 * struct gmem_retry - How to treat a page that is in use
 * @deadline: when to give up: CLOCK_MONOTONIC in nanoseconds, see
 *	      gmem_deadline(), or GMEM_ONCE or GMEM_FOREVER.  Versions of KVM
 *	      without EHWPOISON return EAGAIN for a poisoned page each time, so
 *	      that with GMEM_FOREVER only @busy can end the loop.
 * @pause: time between attempts, in nanoseconds.  0 is fine if KVM waits for
 *	   short-lived users by itself.  Not all versions do; for those that
 *	   don't, 1 ms avoids busy looping.
 * @busy: called after each attempt that failed with EAGAIN, with the offset of
 *	  the page in bytes; may be NULL.  Return false to give up.  This is the
 *	  place to stop using the page, e.g. to cancel I/O or to unpin it.
 * @data: first argument of @busy
 */
struct gmem_retry {
	__u64 deadline;
	__u64 pause;
	bool (*busy)(void *data, __u64 error_offset);
	void *data;
};

/**
 * gmem_now() - Read the clock that deadlines refer to
 *
 * Return: CLOCK_MONOTONIC in nanoseconds.
 */
static inline __u64 gmem_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000ULL + now.tv_nsec;
}

/**
 * gmem_deadline() - Calculate a deadline for struct gmem_retry
 * @ms: milliseconds from now
 *
 * Return: the deadline, a time of CLOCK_MONOTONIC in nanoseconds.
 */
static inline __u64 gmem_deadline(unsigned int ms)
{
	return gmem_now() + ms * 1000000ULL;
}

/**
 * gmem_convert() - Convert a range, and retry while a page of it is in use
 * @gmem_fd: the file
 * @offset: see gmem_try_convert()
 * @size: see gmem_try_convert()
 * @attributes: see gmem_try_convert()
 * @retry: what to do if a page is in use
 * @error_offset: see gmem_try_convert()
 *
 * There is at least one attempt, and at most one attempt ends after the
 * deadline.
 *
 * In the thread of a vCPU of an SEV-ES or SEV-SNP VM, use GMEM_ONCE: KVM itself
 * uses the page of the vCPU's GHCB until that vCPU is entered again.  Repeat
 * the request after the next KVM_RUN.  As that completes the vCPU's hypercall,
 * set hypercall.ret to EAGAIN or EINVAL beforehand.
 *
 * Return: see gmem_try_convert(); %-EAGAIN only if a page was still in use
 * after the deadline, or when @retry->busy returned false.
 */
static inline int gmem_convert(int gmem_fd, __u64 offset, __u64 size,
			       __u64 attributes, const struct gmem_retry *retry,
			       __u64 *error_offset)
{
	__u64 now, pause, page = 0;
	struct timespec ts;
	int err;

	for (;;) {
		err = gmem_try_convert(gmem_fd, offset, size, attributes, &page);
		if (error_offset && gmem_names_page(err))
			*error_offset = page;
		if (err != -EAGAIN)
			return err;
		if (retry->busy && !retry->busy(retry->data, page))
			return err;

		now = gmem_now();
		if (now >= retry->deadline)
			return err;
		pause = retry->deadline - now;
		if (retry->pause < pause)
			pause = retry->pause;
		if (!pause)
			continue;
		ts.tv_sec = pause / 1000000000ULL;
		ts.tv_nsec = pause % 1000000000ULL;
		/* A signal only makes the pause shorter. */
		clock_nanosleep(CLOCK_MONOTONIC, 0, &ts, NULL);
	}
}

/**
 * enum gmem_next - What to do after a conversion
 * @GMEM_NEXT_GUEST: success: report it to the guest, and enter the guest again
 * @GMEM_NEXT_RETRY: a page is in use.  Stop using it if possible, and repeat
 *		     the request; or stop the VM if no user is known
 * @GMEM_NEXT_REPLACE: a page is poisoned, and will stay so.  Punch a hole over
 *		       it with fallocate(), inject a machine check into the
 *		       guest, and then repeat the request; or refuse it
 * @GMEM_NEXT_FREE_MEMORY: the host is out of memory, or the limit of the
 *			   memory cgroup is reached: repeat the request when
 *			   memory is available, or refuse it
 * @GMEM_NEXT_STOP: KVM has marked the VM as dead: save the kernel's log, and
 *		    stop the VM
 * @GMEM_NEXT_FIX: the VMM has a bug: the request can never succeed
 */
enum gmem_next {
	GMEM_NEXT_GUEST,
	GMEM_NEXT_RETRY,
	GMEM_NEXT_REPLACE,
	GMEM_NEXT_FREE_MEMORY,
	GMEM_NEXT_STOP,
	GMEM_NEXT_FIX,
};

/**
 * gmem_next() - Decide what to do after a conversion
 * @err: 0 or a negative errno
 *
 * Return: the one thing to do next.
 */
static inline enum gmem_next gmem_next(int err)
{
	switch (-err) {
	case 0:
		return GMEM_NEXT_GUEST;
	case EAGAIN:
		return GMEM_NEXT_RETRY;
	case EHWPOISON:
		return GMEM_NEXT_REPLACE;
	case ENOMEM:
		return GMEM_NEXT_FREE_MEMORY;
	case EIO:
		return GMEM_NEXT_STOP;
	default:
		return GMEM_NEXT_FIX;
	}
}

/**
 * gmem_strerror() - Describe the result of a conversion
 * @err: 0 or a negative errno
 *
 * Return: one to three lines of text, without a newline at the end.  The text
 * is constant, except for errors that a conversion never returns.
 */
static inline const char *gmem_strerror(int err)
{
	switch (-err) {
	case 0:
		return "success: the range has the attribute";
	case EAGAIN:
		return "EAGAIN: the page at error_offset is still in use on the host, e.g. pinned.\n"
		       "  Repeat the request; it can succeed once the page is no longer in use";
	case EHWPOISON:
		return "EHWPOISON: the hardware has lost the contents of the page at error_offset.\n"
		       "  Repeating the request cannot help.  Punch a hole over the page to\n"
		       "  get a new one, and notify the guest that the data are lost";
	case ENOMEM:
		return "ENOMEM: no memory to store the new attributes, or the memory cgroup is\n"
		       "  at its limit.  Repeat the request when memory is available";
	case EIO:
		return "EIO: KVM has marked the VM as dead after an internal error.\n"
		       "  The kernel's log has the reason";
	case EINVAL:
		return "EINVAL: the request is not valid: not page aligned, empty or beyond the\n"
		       "  end of the file, an unknown attribute, a field that has to be 0\n"
		       "  but is not, or a VM without private memory";
	case ENOTTY:
		return "ENOTTY: not a guest_memfd, or in-place conversion is off or not supported\n"
		       "  (see kvm.gmem_in_place_conversion)";
	case EFAULT:
		return "EFAULT: the kernel cannot access the request in the VMM's memory";
	default:
		return strerror(-err);
	}
}

/**
 * struct gmem_fault - A guest access that KVM could not handle
 * @flags: KVM_MEMORY_EXIT_FLAG_PRIVATE if it was a private access
 * @gpa: guest physical address of the start of the range, in bytes
 * @size: length of the range, in bytes
 */
struct gmem_fault {
	__u64 flags;
	__u64 gpa;
	__u64 size;
};

/**
 * gmem_get_fault() - Read KVM_EXIT_MEMORY_FAULT from a vCPU's struct kvm_run
 * @run: the struct of a vCPU whose KVM_RUN has just failed with EFAULT or
 *	 EHWPOISON, with exit_reason KVM_EXIT_MEMORY_FAULT
 *
 * This is the same as run->memory_fault, which older kernel headers lack.
 *
 * Return: a copy, which stays valid when the vCPU is entered again.
 */
static inline struct gmem_fault gmem_get_fault(const struct kvm_run *run)
{
	struct gmem_fault fault;

	/* All exit reasons share a union. */
	memcpy(&fault, &run->hw, sizeof(fault));
	return fault;
}

#endif /* GMEM_H */

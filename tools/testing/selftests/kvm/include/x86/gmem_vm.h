/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A VM with one guest_memfd, for tests of in-place conversion.  The VM is
 * software-protected by default.
 */
#ifndef SELFTEST_KVM_GMEM_VM_H
#define SELFTEST_KVM_GMEM_VM_H

#include <pthread.h>

#include "kvm_syscalls.h"
#include "kvm_util.h"
#include "processor.h"

#define GMEM_SLOT	10
#define GMEM_GPA	((gpa_t)1 << 32)

/* A VM whose guest reads and writes memory on request. */
struct gmem_vm {
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpu;	/* for requests; hammers have vCPUs of their own */
	int fd;			/* bound to GMEM_SLOT at GMEM_GPA from offset 0 */
	char *mem;		/* the host's mapping of the whole file */
	int nr_pages;
	s64 error_page;		/* reported by the last gmem_convert(), or -1 */
	struct kvm_regs start;	/* the vCPU's initial registers */
};

/* Return the reason to skip a test if there can't be such a VM, or NULL. */
const char *gmem_vm_unsupported(void);

/* Create a VM whose memory is shared, and not allocated yet. */
void gmem_vm_create(struct gmem_vm *g, int nr_pages);

/* Set kvm.gmem_hugepages, which applies to new files.  Return the old value. */
bool gmem_set_hugepages(bool on);
const char *gmem_hugepages_unsupported(void);

#define GMEM_CHUNK_PAGES	512

/* Create a VM with memory in chunks, regardless of kvm.gmem_hugepages. */
void gmem_vm_create_huge(struct gmem_vm *g, int nr_pages);

/*
 * Create a VM of a given type, and a guest_memfd with @flags, which must be
 * valid for the type.  If the host can't map the file, @g->mem is unrelated
 * anonymous memory.
 */
void __gmem_vm_create(struct gmem_vm *g, unsigned long type, u64 flags,
		      int nr_pages);
void gmem_vm_free(struct gmem_vm *g);

/* Create a file that the host can map, and that starts out shared. */
int gmem_create_shared(struct gmem_vm *g, u64 size);

/*
 * Bind @nr pages of the file, starting with @page, at the guest's page @gpage,
 * counted from GMEM_GPA.  Remove the slot if @nr is 0.
 */
void gmem_set_slot(struct gmem_vm *g, int slot, int gpage, int nr, int page);

/*
 * Have the guest access the first 8 bytes of a page.  gmem_write() returns the
 * value that the guest reads back.
 */
u64 gmem_read(struct gmem_vm *g, int page);
u64 gmem_write(struct gmem_vm *g, int page, u64 value);

/*
 * Like gmem_read(), but return the result of KVM_RUN, for accesses that can
 * fail.  The guest doesn't repeat an access that failed.
 */
int __gmem_read(struct gmem_vm *g, int page, u64 *value);

/*
 * Like __gmem_read(), but in two steps, for accesses that need the VMM's help
 * in between: gmem_start_read() returns on any exit, and gmem_continue() gets
 * the value.
 */
int gmem_start_read(struct gmem_vm *g, int page);
int gmem_continue(struct gmem_vm *g, u64 *value);

/* Return the value of a vCPU's ucall.  Fail the test if it isn't a @cmd. */
u64 gmem_get_ucall(struct kvm_vcpu *vcpu, u64 cmd);

static inline u64 gmem_pattern(int page)
{
	return 0xabcd00000000ull + page;
}

/* Have the guest write its pattern to each page, or check that it is there. */
void gmem_fill(struct gmem_vm *g, int page, int nr);
void gmem_check(struct gmem_vm *g, int page, int nr);

/* Have the guest read pages.  Return the number of faults. */
u64 gmem_count_faults(struct gmem_vm *g, int page, int nr);

/* Return the host's address of the first 8 bytes of a page. */
static inline u64 *gmem_hva(struct gmem_vm *g, int page)
{
	return (u64 *)(g->mem + (u64)page * PAGE_SIZE);
}

/* Convert pages.  Return the errno, or 0 on success. */
int gmem_convert(struct gmem_vm *g, int page, int nr, u64 attributes);

/* Convert pages.  Fail the test if that isn't possible. */
static inline void gmem_make_attributes(struct gmem_vm *g, int page, int nr, u64 attributes)
{
	gmem_set_attributes(g->fd, (u64)page * PAGE_SIZE, (u64)nr * PAGE_SIZE,
			    attributes);
}

static inline void gmem_make_private(struct gmem_vm *g, int page, int nr)
{
	gmem_make_attributes(g, page, nr, KVM_MEMORY_ATTRIBUTE_PRIVATE);
}

static inline void gmem_make_shared(struct gmem_vm *g, int page, int nr)
{
	gmem_make_attributes(g, page, nr, 0);
}

void gmem_allocate(struct gmem_vm *g, int page, int nr);
void gmem_punch_hole(struct gmem_vm *g, int page, int nr);

/* Fault in pages for writing.  Return true if the host may access all of them. */
bool gmem_host_can_access(struct gmem_vm *g, int page, int nr);

/* Return true if the host may access all pages except these, and none of these. */
bool gmem_host_can_access_all_but(struct gmem_vm *g, int page, int nr);

/* Return the pfn of a shared page, see hwpoison_pfn_unsupported(). */
u64 gmem_host_pfn(struct gmem_vm *g, int page);

/*
 * Take a long-term pin on pages of a mapping.  Return a file descriptor that
 * unpins them when it is closed.  On failure, __gmem_pin() returns -errno, and
 * gmem_pin() fails the test.
 */
int __gmem_pin(struct gmem_vm *g, int page, int nr);
int gmem_pin(struct gmem_vm *g, int page, int nr);
const char *gmem_pin_unsupported(void);

/*
 * Hold references to pages for @us microseconds, as an I/O request does, and
 * read the pages.  Return true if that worked for at least one page.
 */
bool gmem_splice(struct gmem_vm *g, int page, int nr, int us);

/*
 * Inject an uncorrectable error into a shared page, as if the host accessed it.
 * Return 0 or -errno.  See hwpoison_unpoison_all().
 */
int gmem_poison(struct gmem_vm *g, int page);

/*
 * Return true if KVM_RUN failed with @err because the page is poisoned.
 * gmem_refuses() has the guest read the page first.
 */
bool gmem_is_refused(struct gmem_vm *g, int page, bool private, int err);
bool gmem_refuses(struct gmem_vm *g, int page, bool private);

/* How to treat accesses that fail. */
enum gmem_hammer_mode {
	HAMMER_LOSSLESS,	/* fail the test; a lost write fails it, too */
	HAMMER_ONCE,		/* end the thread at the first failure */
	HAMMER_RETRY,		/* try again, for memory that comes and goes */
	HAMMER_MMIO,		/* missing memory reads as all ones */
};

#define GMEM_HAMMER_PAGES	16

/* A vCPU that accesses memory as fast as it can, in a thread of its own. */
struct gmem_hammer {
	struct gmem_vm *g;
	struct kvm_vcpu *vcpu;
	enum gmem_hammer_mode mode;
	pthread_t thread;
	int err;		/* errno of the last KVM_RUN, or 0 */
	u64 nr_failures;	/* of KVM_RUN, and exits due to missing memory */
};

/*
 * Start vCPUs that access at most the first GMEM_HAMMER_PAGES pages, but not
 * the first 8 bytes of each.  gmem_hammer_stop() waits for the vCPUs to finish;
 * if one doesn't, dump its state and fail the test.
 */
void gmem_hammer_start(struct gmem_vm *g, struct gmem_hammer *hammers, int nr,
		       enum gmem_hammer_mode mode);
void gmem_hammer_stop(struct gmem_vm *g, struct gmem_hammer *hammers, int nr);

/*
 * Likewise, with other guest code, which gets its hammer's index as its
 * argument, and has to end when gmem_hammer_stopped() returns true.
 */
void __gmem_hammer_start(struct gmem_vm *g, struct gmem_hammer *hammers, int nr,
			 enum gmem_hammer_mode mode, void *code);
bool gmem_hammer_stopped(void);

/* Wait for hammers that end by themselves. */
void gmem_hammer_join(struct gmem_hammer *hammers, int nr);

/* Resume a hammer that has ended: its guest code continues where it stopped. */
void gmem_hammer_resume(struct gmem_hammer *h);

#endif /* SELFTEST_KVM_GMEM_VM_H */

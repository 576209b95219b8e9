/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A VM with one guest_memfd, by default a software-protected one for tests of
 * in-place conversion.
 */
#ifndef SELFTEST_KVM_GMEM_VM_H
#define SELFTEST_KVM_GMEM_VM_H

#include <pthread.h>

#include "kvm_syscalls.h"
#include "kvm_util.h"
#include "processor.h"

#define GMEM_SLOT	10
#define GMEM_GPA	((gpa_t)1 << 32)

/**
 * struct gmem_vm - A VM whose guest reads and writes memory as it is told
 * @vm: the VM
 * @vcpu: its only vCPU
 * @fd: guest_memfd, bound to GMEM_SLOT at GMEM_GPA from offset 0
 * @mem: the host's mapping of all of it
 * @nr_pages: size of the guest_memfd, in pages
 * @error_page: what the last conversion reported, -1 if the kernel wrote nothing
 * @start: the vCPU's registers before it ran
 */
struct gmem_vm {
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpu;
	int fd;
	char *mem;
	int nr_pages;
	s64 error_page;
	struct kvm_regs start;
};

/*
 * Why there can be no such VM here: a reason to skip a test, or NULL if there
 * can be one.
 */
const char *gmem_vm_unsupported(void);

/* All memory is shared, and none of it allocated yet. */
void gmem_vm_create(struct gmem_vm *g, int nr_pages);

/* The parameter kvm.gmem_hugepages, for files created from now on. */
bool gmem_hugepages(void);
void gmem_set_hugepages(bool on);

#define GMEM_CHUNK_PAGES	512

/* With memory that is allocated in chunks, whatever the parameter says. */
void gmem_vm_create_huge(struct gmem_vm *g, int nr_pages);

/*
 * The same with a type of VM and flags of the guest_memfd that work together.
 * If the host can't map it, @mem is memory that has nothing to do with it.
 */
void __gmem_vm_create(struct gmem_vm *g, unsigned long type, u64 flags,
		      int nr_pages);
void gmem_vm_free(struct gmem_vm *g);

/* A file that the host can map, and that starts out as shared. */
int gmem_create_shared(struct gmem_vm *g, u64 size);

/* Bind @nr pages of the file from @page on to @gpage; remove the slot if 0. */
void gmem_set_slot(struct gmem_vm *g, int slot, int gpage, int nr, int page);

/*
 * Have the guest access the first 8 bytes of a page.  Writing returns what the
 * guest then reads back.
 */
u64 gmem_read(struct gmem_vm *g, int page);
u64 gmem_write(struct gmem_vm *g, int page, u64 value);

/*
 * The same, but return what KVM_RUN does, for accesses that can fail.  The
 * guest forgets about an access that failed.
 */
int __gmem_read(struct gmem_vm *g, int page, u64 *value);

/*
 * The same in two steps, for accesses that need the VMM's help in between:
 * starting returns with any exit, continuing gives the value.
 */
int gmem_start_read(struct gmem_vm *g, int page);
int gmem_continue(struct gmem_vm *g, u64 *value);

/* Have the guest write what tells pages apart, and check that it is there. */
static inline u64 gmem_pattern(int page)
{
	return 0xabcd00000000ull + page;
}

void gmem_fill(struct gmem_vm *g, int page, int nr);
void gmem_check(struct gmem_vm *g, int page, int nr);

/* Have the guest read pages.  Return how many faults that takes. */
u64 gmem_count_faults(struct gmem_vm *g, int page, int nr);

/* The first 8 bytes of a page, for the host. */
static inline u64 *gmem_hva(struct gmem_vm *g, int page)
{
	return (u64 *)(g->mem + (u64)page * PAGE_SIZE);
}

/* Convert pages.  Return the errno, 0 for success. */
int gmem_convert(struct gmem_vm *g, int page, int nr, u64 attributes);

static inline void gmem_make_private(struct gmem_vm *g, int page, int nr)
{
	gmem_set_private(g->fd, (u64)page * PAGE_SIZE, (u64)nr * PAGE_SIZE);
}

static inline void gmem_make_shared(struct gmem_vm *g, int page, int nr)
{
	gmem_set_shared(g->fd, (u64)page * PAGE_SIZE, (u64)nr * PAGE_SIZE);
}

void gmem_allocate(struct gmem_vm *g, int page, int nr);
void gmem_punch_hole(struct gmem_vm *g, int page, int nr);

/* Map pages, write to them.  Return true if the host may access all of them. */
bool gmem_host_can_access(struct gmem_vm *g, int page, int nr);

/* Return true if the host may access all pages but these, i.e. no more and no less. */
bool gmem_host_can_access_all_but(struct gmem_vm *g, int page, int nr);

/* The host's frame number of a shared page; needs CAP_SYS_ADMIN. */
u64 gmem_host_pfn(struct gmem_vm *g, int page);

/*
 * Hold a lasting pin on pages of a mapping.  Return a file descriptor, which
 * unpins them when it is closed, or -errno.
 */
int __gmem_pin(struct gmem_vm *g, int page, int nr);
int gmem_pin(struct gmem_vm *g, int page, int nr);
bool gmem_can_pin(void);

/* Pin pages for @us, as direct I/O does, and read them.  Return true if that worked. */
bool gmem_splice(struct gmem_vm *g, int page, int nr, int us);

/*
 * Have an uncorrectable error strike a shared page as the host accesses it.
 * Return 0 or -errno.  See hwpoison_unpoison_all().
 */
int gmem_poison(struct gmem_vm *g, int page);

/*
 * Return true if KVM_RUN, which failed with @err, was ended by a poisoned page, or
 * if that is how a read of that page ends it.
 */
bool gmem_is_refused(struct gmem_vm *g, int page, bool private, int err);
bool gmem_refuses(struct gmem_vm *g, int page, bool private);

/**
 * enum gmem_hammer_mode - What to make of accesses that fail
 * @HAMMER_LOSSLESS: they must not, and what was written must be there
 * @HAMMER_ONCE: the first one ends the thread
 * @HAMMER_RETRY: try again, for memory that comes and goes
 */
enum gmem_hammer_mode {
	HAMMER_LOSSLESS,
	HAMMER_ONCE,
	HAMMER_RETRY,
};

#define GMEM_HAMMER_PAGES	16

/**
 * struct gmem_hammer - A vCPU that accesses memory as fast as it can
 * @vcpu: the vCPU
 * @mode: see enum gmem_hammer_mode
 * @thread: the thread that runs the vCPU
 * @err: errno of the last KVM_RUN, 0 if it didn't fail
 * @nr_failures: how often KVM_RUN failed or exited for want of memory
 */
struct gmem_hammer {
	struct kvm_vcpu *vcpu;
	enum gmem_hammer_mode mode;
	pthread_t thread;
	int err;
	u64 nr_failures;
};

/*
 * Start vCPUs that write and read the first GMEM_HAMMER_PAGES pages, at most,
 * leaving alone their first 8 bytes.  Stopping waits for them to end; if one
 * doesn't, the test fails and shows where that vCPU is.
 */
void gmem_hammer_start(struct gmem_vm *g, struct gmem_hammer *hammers, int nr,
		       enum gmem_hammer_mode mode);
void gmem_hammer_stop(struct gmem_vm *g, struct gmem_hammer *hammers, int nr);

#endif /* SELFTEST_KVM_GMEM_VM_H */

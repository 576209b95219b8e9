/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef GMEM_BENCH_H
#define GMEM_BENCH_H

#include <pthread.h>
#include <stdbool.h>

#include "gmem.h"

#define PAGE_BYTES	0x1000ULL
#define KIB		(1ULL << 10)
#define MIB		(1ULL << 20)
#define GIB		(1ULL << 30)
#define TIB		(1ULL << 40)

#define SHARED		0
#define PRIVATE		KVM_MEMORY_ATTRIBUTE_PRIVATE

#define MAX_ROUNDS	32

#define EXIT_CANNOT_RUN	4	/* like KSFT_SKIP of the kernel's selftests */

#define ARRAY_SIZE(array)	(sizeof(array) / sizeof((array)[0]))

/* A software-protected VM with a guest_memfd, or an ordinary VM. */
struct vm {
	int kvm_fd;
	int fd;
	int vcpu_fd;
	int gmem_fd;
	__u8 *mem;		/* the host's view of the shared pages */
	__u64 size;
	/* Valid from vm_guest_start() to vm_guest_stop(). */
	struct kvm_run *run;
	__u64 *guest_mem;	/* the guest's code and page tables */
};

/* The guest physical address of the memory at vm->mem. */
#define MEM_GPA		(4 * GIB)

/* main.c: the clock and the rows of the table */
__u64 now(void);
void pause_ns(long ns);
/* Start a thread with a higher priority than the rest of the benchmark. */
void start_fifo_thread(pthread_t *thread, void *(*run)(void *), void *arg);
__u64 median(__u64 *sample, unsigned int nr);
const char *size_name(__u64 size);
void row(double value, const char *unit, const char *fmt, ...)
	__attribute__((format(gnu_printf, 3, 4)));

/* vm.c: set-up, and the operations that are measured or prepare measurements */
bool has_in_place_conversion(void);
void vm_open_unbound(struct vm *vm, __u64 size);
void vm_open(struct vm *vm, __u64 size);
void vm_open_per_vm(struct vm *vm, __u64 size);
void vm_open_ordinary(struct vm *vm, __u64 size);
void vm_close(struct vm *vm);
void vm_touch(struct vm *vm, __u64 first, __u64 end, __u64 step);
void vm_populate(struct vm *vm);
void vm_punch(struct vm *vm);
void vm_punch_range(struct vm *vm, __u64 offset, __u64 size);
void vm_prefault(struct vm *vm);
void vm_prefault_range(struct vm *vm, __u64 offset, __u64 size);
int vm_try_convert(struct vm *vm, __u64 offset, __u64 size, __u64 attributes,
		   __u64 *error_offset);
__u64 vm_convert(struct vm *vm, __u64 offset, __u64 size, __u64 attributes);
__u64 vm_measure(struct vm *vm, __u64 offset, __u64 size, __u64 attributes);
__u64 vm_set_attributes(struct vm *vm, __u64 attributes);
long mem_used_kib(void);
__u64 vm_stat(struct vm *vm, const char *name);

/* guest.c: code that runs in the guest */
void vm_guest_start(struct vm *vm);
void vm_guest_touch(struct vm *vm);
void vm_guest_stop(struct vm *vm);

/* profile.c: do nothing unless profile_open() was called */
void profile_open(void);
void profile_begin(void);
void profile_end(void);
void profile_print(void);

/* The cases. */
void bench_references(void);
void bench_states(void);
void bench_empty(void);
void bench_no_change(void);
void bench_fragments(void);
void bench_busy(void);
void bench_wait(void);
void bench_in_place(void);
void bench_huge(void);
void bench_per_vm(void);

#endif /* GMEM_BENCH_H */

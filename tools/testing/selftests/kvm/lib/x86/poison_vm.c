// SPDX-License-Identifier: GPL-2.0-only
#include <errno.h>
#include <sys/prctl.h>

#include <linux/falloc.h>

#include "hwpoison.h"
#include "kselftest.h"
#include "poison_vm.h"
#include "processor.h"
#include "test_util.h"

void poison_vm_create(struct poison_vm *p, unsigned long type, u64 flags)
{
	int r;

	/* Nobody here wants to hear of errors before they matter. */
	r = prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_LATE, 0, 0);
	TEST_ASSERT(!r, __KVM_SYSCALL_ERROR("prctl(PR_MCE_KILL)", r));

	p->nr_pfns = 0;
	p->nr_busy = 0;
	p->lost = hwpoison_lost_memory();
	__gmem_vm_create(&p->g, type, flags, POISON_VM_PAGES);
}

/* Were any count of invalidations not balanced, no page could be mapped anew. */
void poison_vm_free(struct poison_vm *p)
{
	int i;

	poison_vm_punch_hole(p, 0, POISON_VM_PAGES);
	for (i = 0; i < POISON_VM_PAGES; i++)
		TEST_ASSERT_EQ(gmem_vm_read(&p->g, i), 0);

	TEST_ASSERT_EQ(poison_vm_unpoison(p), 0);
	TEST_ASSERT_EQ(hwpoison_lost_memory(), p->lost);
	gmem_vm_free(&p->g);
}

void poison_vm_punch_hole(struct poison_vm *p, int page, int nr_pages)
{
	kvm_fallocate(p->g.fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE,
		      page * PAGE_SIZE, nr_pages * PAGE_SIZE);
}

u64 poison_vm_alloc(struct poison_vm *p, int page)
{
	return hwpoison_alloc_gmem_page(p->g.fd, page * PAGE_SIZE);
}

int poison_vm_strike(struct poison_vm *p, u64 pfn)
{
	TEST_ASSERT(p->nr_pfns < ARRAY_SIZE(p->pfns), "Too many errors");
	p->pfns[p->nr_pfns++] = pfn;
	return hwpoison_inject(pfn);
}

bool poison_vm_strike_in_race(struct poison_vm *p, u64 pfn)
{
	int r = poison_vm_strike(p, pfn);

	p->nr_busy += r == -EBUSY;
	return !r || r == -EBUSY;
}

int poison_vm_unpoison(struct poison_vm *p)
{
	int failed = 0;

	while (p->nr_pfns)
		failed += !!hwpoison_unpoison(p->pfns[--p->nr_pfns]);
	return failed;
}

bool poison_vm_is_exit(struct poison_vm *p, int page, bool private, int r, int err)
{
	struct kvm_run *run = p->g.vcpu->run;

	if (r == -1 && err == EHWPOISON &&
	    run->exit_reason == KVM_EXIT_MEMORY_FAULT &&
	    run->memory_fault.gpa == GMEM_VM_GPA + page * PAGE_SIZE &&
	    run->memory_fault.size == PAGE_SIZE &&
	    run->memory_fault.flags == (private ? KVM_MEMORY_EXIT_FLAG_PRIVATE : 0))
		return true;

	ksft_print_msg("KVM_RUN: %d, errno %d, exit_reason %u, gpa 0x%llx, flags 0x%llx\n",
		       r, r ? err : 0, run->exit_reason, run->memory_fault.gpa,
		       run->memory_fault.flags);
	return false;
}

bool poison_vm_refuses(struct poison_vm *p, int page, bool private)
{
	u64 value = 0;
	int r = __gmem_vm_read(&p->g, page, &value);

	return poison_vm_is_exit(p, page, private, r, errno);
}

void racer_start(struct racer *racer, void *(*fn)(void *arg))
{
	int r;

	racer->stop = false;
	racer->nr_done = 0;
	racer->r = 0;
	racer->err = 0;
	pthread_barrier_init(&racer->barrier, NULL, 2);
	r = pthread_create(&racer->thread, NULL, fn, racer);
	TEST_ASSERT(!r, "pthread_create() failed: %d", r);
	racer_ready(racer);
}

void racer_join(struct racer *racer)
{
	WRITE_ONCE(racer->stop, true);
	pthread_join(racer->thread, NULL);
	pthread_barrier_destroy(&racer->barrier);
}

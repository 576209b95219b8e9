// SPDX-License-Identifier: GPL-2.0-only
/*
 * A driver for Linux guests that makes memory private and shared again while
 * the guest is running, and checks that no data are lost.
 *
 * It allocates most of the free memory and makes it private.  The rest of the
 * guest stays shared: on a CPU emulated by QEMU, KVM has to read the guest's
 * code and page tables to emulate instructions that exit, and it cannot read
 * private memory.  Hardware that supports private memory does not have this
 * restriction.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/atomic.h>
#include <linux/delay.h>
#include <linux/io.h>
#include <linux/kthread.h>
#include <linux/list.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/random.h>
#include <linux/slab.h>
#include <linux/kvm_para.h>
#include <asm/processor.h>
#if __has_include(<asm/cpuid/api.h>)
#include <asm/cpuid/api.h>
#endif

#include "gmem-guest.h"

#define CHUNK_ORDER	6
#define CHUNK_PAGES	(1 << CHUNK_ORDER)
#define MAX_REFUSALS	1000
#define NO_ANSWER	0xffffffff

static unsigned int seconds = 10;
module_param(seconds, uint, 0444);
MODULE_PARM_DESC(seconds, "how long to convert memory (default: 10)");

static unsigned int percent = 75;
module_param(percent, uint, 0444);
MODULE_PARM_DESC(percent, "how much of the free memory to take, at most 95 (default: 75)");

struct chunk {
	struct list_head list;
	struct mutex lock;		/* state and contents of the pages */
	unsigned long pfn;
	u32 generation[CHUNK_PAGES];
};

/* A thread, and its pages in the pool: always shared, for requests and for the disk. */
struct worker {
	struct task_struct *task;
	struct gmem_guest_request *request;
	u64 *io;
	u32 block;
};

static LIST_HEAD(chunks);
static struct chunk **chunk_of;
static unsigned int nr_chunks;

/* A page that is converted while another task writes to it.  Leak it if it stays private. */
static u64 *hot;
static bool hot_is_private;
static u64 hot_writes;

static struct worker *workers;
static unsigned int nr_workers;
static int failed;

static atomic64_t to_private, to_shared, pages_to_private, pages_to_shared;
static atomic64_t now_private, peak, checked, blocks, refused, wrong;

static bool can_convert(void)
{
	u32 eax, ebx, ecx, edx;

	if (!boot_cpu_has(X86_FEATURE_HYPERVISOR))
		return false;
	cpuid(KVM_CPUID_SIGNATURE, &eax, &ebx, &ecx, &edx);
	if (ebx != 0x4b4d564b || ecx != 0x564b4d56 || edx != 0x4d)
		return false;
	return cpuid_eax(KVM_CPUID_FEATURES) & BIT(KVM_FEATURE_HC_MAP_GPA_RANGE);
}

static void fail(int err)
{
	cmpxchg(&failed, 0, err);
}

static bool convert(unsigned long pfn, unsigned int npages, bool private)
{
	unsigned long attributes = private ? KVM_MAP_GPA_RANGE_ENCRYPTED :
					     KVM_MAP_GPA_RANGE_DECRYPTED;
	unsigned int tries;
	long ret;

	for (tries = 0; tries < MAX_REFUSALS; tries++) {
		atomic64_inc(private ? &to_private : &to_shared);
		ret = kvm_hypercall3(KVM_HC_MAP_GPA_RANGE, PFN_PHYS(pfn), npages,
				     attributes | KVM_MAP_GPA_RANGE_PAGE_SZ_4K);
		if (!ret)
			break;
		atomic64_inc(&refused);
		msleep(1);
	}
	if (ret) {
		pr_err("conversion of %u pages at pfn %#lx refused with error %ld\n", npages, pfn, ret);
		fail(-EBUSY);
		return false;
	}

	if (private) {
		s64 sum = atomic64_add_return(npages, &now_private), old = atomic64_read(&peak);

		atomic64_add(npages, &pages_to_private);
		while (sum > old && !atomic64_try_cmpxchg(&peak, &old, sum))
			;
	} else {
		atomic64_add(npages, &pages_to_shared);
		atomic64_sub(npages, &now_private);
	}
	return true;
}

static u64 *page_of(struct chunk *c, unsigned int i)
{
	return pfn_to_kaddr(c->pfn + i);
}

static bool check(struct chunk *c, unsigned int i, int side)
{
	atomic64_inc(&checked);
	if (gmem_guest_same(page_of(c, i), c->pfn + i, c->generation[i], side))
		return true;
	pr_err("the contents of the page at pfn %#lx have changed\n", c->pfn + i);
	atomic64_inc(&wrong);
	fail(-EIO);
	return false;
}

static void rewrite(struct chunk *c, unsigned int i)
{
	gmem_guest_fill(page_of(c, i), c->pfn + i, ++c->generation[i], GMEM_GUEST_SIDE);
}

static bool ask(struct worker *w, enum gmem_guest_command command)
{
	w->request->command = command;
	w->request->error = NO_ANSWER;
	/* Writing to the port exits to the VMM, which reads and answers the request. */
	mb();
	outl(PHYS_PFN(virt_to_phys(w->request)), GMEM_GUEST_PORT);
	mb();
	if (!READ_ONCE(w->request->error))
		return true;
	if (w->request->error == NO_ANSWER)
		pr_err("no answer from the VMM\n");
	else
		pr_err("the VMM refused command %u with error %u\n", command, w->request->error);
	fail(-EIO);
	return false;
}

/* The pages are shared: let the VMM check and replace their contents. */
static bool exchange(struct worker *w, struct chunk *c, unsigned int first, unsigned int nr)
{
	unsigned int i;

	w->request->pfn = c->pfn + first;
	w->request->npages = nr;
	for (i = 0; i < nr; i++)
		w->request->generation[i] = c->generation[first + i];
	return ask(w, GMEM_GUEST_EXCHANGE);
}

static bool check_all(struct chunk *c, unsigned int first, unsigned int nr, int side)
{
	unsigned int i;

	for (i = first; i < first + nr; i++) {
		if (!check(c, i, side))
			return false;
		cond_resched();
	}
	return true;
}

/* Convert to shared and back: each side checks the contents written by the other. */
static void convert_some(struct worker *w, struct chunk *c)
{
	unsigned int first = get_random_u32() % CHUNK_PAGES;
	unsigned int nr = 1 + get_random_u32() % min(GMEM_GUEST_RUN, CHUNK_PAGES - (int)first);
	unsigned int i;
	bool answered;

	mutex_lock(&c->lock);
	if (!check_all(c, first, nr, GMEM_GUEST_SIDE) || !convert(c->pfn + first, nr, false))
		goto out;
	answered = exchange(w, c, first, nr);
	if (convert(c->pfn + first, nr, true) && answered &&
	    check_all(c, first, nr, GMEM_HOST_SIDE)) {
		for (i = first; i < first + nr; i++)
			rewrite(c, i);
	}
out:
	mutex_unlock(&c->lock);
}

/* A device cannot access private memory: copy its data through the pool. */
static void use_disk(struct worker *w, struct chunk *c)
{
	unsigned int i = get_random_u32() % CHUNK_PAGES;

	mutex_lock(&c->lock);
	if (!check(c, i, GMEM_GUEST_SIDE))
		goto out;
	memcpy(w->io, page_of(c, i), PAGE_SIZE);
	w->request->pfn = PHYS_PFN(virt_to_phys(w->io));
	w->request->block = w->block;
	if (!ask(w, GMEM_GUEST_WRITE))
		goto out;
	memset(w->io, 0, PAGE_SIZE);
	memset(page_of(c, i), 0, PAGE_SIZE);
	if (!ask(w, GMEM_GUEST_READ))
		goto out;
	memcpy(page_of(c, i), w->io, PAGE_SIZE);
	if (!check(c, i, GMEM_GUEST_SIDE))
		goto out;
	atomic64_add(2, &blocks);
	rewrite(c, i);
out:
	mutex_unlock(&c->lock);
}

static int work(void *data)
{
	struct worker *w = data;

	while (!kthread_should_stop()) {
		if (READ_ONCE(failed)) {
			msleep(10);
			continue;
		}
		convert_some(w, chunk_of[get_random_u32() % nr_chunks]);
		use_disk(w, chunk_of[get_random_u32() % nr_chunks]);
		cond_resched();
	}
	return 0;
}

static int write_hot(void *unused)
{
	while (!kthread_should_stop()) {
		WRITE_ONCE(*hot, *hot + 1);
		hot_writes++;
		if (!(hot_writes % 1024))
			cond_resched();
	}
	return 0;
}

static int convert_hot(void *unused)
{
	unsigned long pfn = PHYS_PFN(virt_to_phys(hot));

	while (!kthread_should_stop() && !READ_ONCE(failed)) {
		if (!convert(pfn, 1, true))
			break;
		hot_is_private = true;
		msleep(1);
		if (!convert(pfn, 1, false))
			break;
		hot_is_private = false;
		msleep(1);
	}
	while (!kthread_should_stop())
		msleep(10);
	return 0;
}

static void free_chunk(struct chunk *c)
{
	free_pages((unsigned long)pfn_to_kaddr(c->pfn), CHUNK_ORDER);
	kfree(c);
}

/* Allocate part of the free memory, and make it private. */
static int take_memory(void)
{
	struct sysinfo info;
	unsigned long pages;
	struct chunk *c;
	unsigned int i;

	si_meminfo(&info);
	pages = info.freeram / 100 * min(percent, 95U);
	chunk_of = kvcalloc(pages / CHUNK_PAGES + 1, sizeof(*chunk_of), GFP_KERNEL);
	if (!chunk_of)
		return -ENOMEM;
	while (pages >= CHUNK_PAGES) {
		void *mem = (void *)__get_free_pages(GFP_KERNEL | __GFP_NORETRY | __GFP_NOWARN,
						     CHUNK_ORDER);

		c = mem ? kzalloc(sizeof(*c), GFP_KERNEL) : NULL;
		if (!c) {
			free_pages((unsigned long)mem, CHUNK_ORDER);
			break;
		}
		mutex_init(&c->lock);
		c->pfn = PHYS_PFN(virt_to_phys(mem));
		if (!convert(c->pfn, CHUNK_PAGES, true)) {
			free_chunk(c);
			return -EBUSY;
		}
		list_add(&c->list, &chunks);
		chunk_of[nr_chunks++] = c;
		for (i = 0; i < CHUNK_PAGES; i++)
			rewrite(c, i);
		pages -= CHUNK_PAGES;
		cond_resched();
	}
	if (!nr_chunks)
		return -ENOMEM;
	pr_info("%u MiB of %lu MiB of free memory are private now\n",
		nr_chunks * CHUNK_PAGES >> (20 - PAGE_SHIFT),
		info.freeram >> (20 - PAGE_SHIFT));
	return 0;
}

/* Check each page on both sides once more.  Do not free pages that stay private. */
static void give_back_memory(struct worker *w)
{
	struct chunk *c, *next;
	unsigned int i;

	list_for_each_entry_safe(c, next, &chunks, list) {
		if (!failed)
			check_all(c, 0, CHUNK_PAGES, GMEM_GUEST_SIDE);
		if (!convert(c->pfn, CHUNK_PAGES, false))
			continue;
		for (i = 0; i < CHUNK_PAGES && !failed; i += GMEM_GUEST_RUN)
			if (exchange(w, c, i, GMEM_GUEST_RUN))
				check_all(c, i, GMEM_GUEST_RUN, GMEM_HOST_SIDE);
		list_del(&c->list);
		free_chunk(c);
		cond_resched();
	}
	kvfree(chunk_of);
}

static int make_pool(void)
{
	unsigned int i;

	nr_workers = num_online_cpus();
	workers = kcalloc(nr_workers, sizeof(*workers), GFP_KERNEL);
	hot = (u64 *)get_zeroed_page(GFP_KERNEL);
	if (!workers || !hot)
		return -ENOMEM;
	for (i = 0; i < nr_workers; i++) {
		workers[i].request = (void *)get_zeroed_page(GFP_KERNEL);
		workers[i].io = (void *)get_zeroed_page(GFP_KERNEL);
		workers[i].block = i;
		if (!workers[i].request || !workers[i].io)
			return -ENOMEM;
	}
	return 0;
}

static void free_pool(void)
{
	unsigned int i;

	for (i = 0; workers && i < nr_workers; i++) {
		free_page((unsigned long)workers[i].request);
		free_page((unsigned long)workers[i].io);
	}
	kfree(workers);
	if (!hot_is_private)
		free_page((unsigned long)hot);
}

static void stop(struct task_struct *task)
{
	if (!IS_ERR_OR_NULL(task))
		kthread_stop(task);
}

static void run(void)
{
	struct task_struct *writer, *converter;
	unsigned int i;

	writer = kthread_run(write_hot, NULL, "gmem_hot_write");
	converter = kthread_run(convert_hot, NULL, "gmem_hot_convert");
	for (i = 0; i < nr_workers; i++)
		workers[i].task = kthread_run(work, &workers[i], "gmem_work/%u", i);
	for (i = 0; i < seconds && !READ_ONCE(failed); i++)
		msleep_interruptible(1000);
	for (i = 0; i < nr_workers; i++) {
		if (IS_ERR(workers[i].task))
			fail(PTR_ERR(workers[i].task));
		stop(workers[i].task);
	}
	if (IS_ERR(writer) || IS_ERR(converter))
		fail(-ENOMEM);
	stop(writer);
	stop(converter);

	if (*hot != hot_writes) {
		pr_err("a page that was converted while being written has lost writes: %llu of %llu are there\n",
		       *hot, hot_writes);
		atomic64_inc(&wrong);
		fail(-EIO);
	}
}

static void report(struct worker *w)
{
	struct gmem_guest_request *r = w->request;

	r->to_private = atomic64_read(&to_private);
	r->to_shared = atomic64_read(&to_shared);
	r->pages_to_private = atomic64_read(&pages_to_private);
	r->pages_to_shared = atomic64_read(&pages_to_shared);
	r->peak = atomic64_read(&peak);
	r->checked = atomic64_read(&checked);
	r->blocks = atomic64_read(&blocks);
	r->refused = atomic64_read(&refused);
	r->wrong = atomic64_read(&wrong);
	ask(w, GMEM_GUEST_END);
}

static int __init gmem_guest_init(void)
{
	int err;

	BUILD_BUG_ON(GMEM_GUEST_WORDS * sizeof(u64) != PAGE_SIZE);
	if (!can_convert()) {
		pr_err("CPUID does not offer KVM_HC_MAP_GPA_RANGE\n");
		return -ENODEV;
	}
	err = make_pool();
	if (!err && !ask(&workers[0], GMEM_GUEST_START))
		err = -ENODEV;
	if (!err) {
		err = take_memory();
		if (!err)
			run();
		give_back_memory(&workers[0]);
		report(&workers[0]);
		pr_info("%llu pages made private, %llu shared, %llu checked, %llu wrong; a page was written %llu times meanwhile\n",
			atomic64_read(&pages_to_private), atomic64_read(&pages_to_shared),
			atomic64_read(&checked), atomic64_read(&wrong), hot_writes);
	}
	free_pool();
	return err ?: failed;
}

/* All work is done at initialization. */
static void __exit gmem_guest_exit(void)
{
}

module_init(gmem_guest_init);
module_exit(gmem_guest_exit);
MODULE_DESCRIPTION("Converts guest memory between private and shared, and checks it");
MODULE_LICENSE("GPL");

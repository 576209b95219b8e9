// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test, without hardware, how guest_memfd uses the hooks for confidential VMs.
 *
 * Emulate SNP's RMP: assign private pages of a software-protected VM to the
 * guest when it first maps them, and require their release before the host
 * touches them again.  Warn if a hook is called when hardware would not allow
 * it, or if a call that hardware needs is missing.  Assigning, releasing and
 * zapping pages can be made to fail.
 */
#include <linux/debugfs.h>
#include <linux/fault-inject.h>
#include <linux/kvm_host.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/slab.h>
#include <linux/xarray.h>

#include "gmem_test_hooks.h"
#include "../../../virt/kvm/guest_memfd.h"

struct kvm_gmem_test_page {
	pgoff_t index;
	/* The number of TLB flushes of the VM when the page was assigned. */
	u64 nr_flushes;
};

/* Pages assigned to guests, by pfn. */
static DEFINE_XARRAY(kvm_gmem_test_pages);

static atomic_t kvm_gmem_test_nr_assigned = ATOMIC_INIT(0);
static atomic_t kvm_gmem_test_nr_released = ATOMIC_INIT(0);
static atomic_t kvm_gmem_test_nr_unflushed = ATOMIC_INIT(0);
static atomic_t kvm_gmem_test_nr_leaked = ATOMIC_INIT(0);

/* Calls to assign or release all pages of a chunk, successful or not. */
static atomic_t kvm_gmem_test_nr_assigned_chunks = ATOMIC_INIT(0);
static atomic_t kvm_gmem_test_nr_released_chunks = ATOMIC_INIT(0);

static DECLARE_FAULT_ATTR(kvm_gmem_test_fail_alloc);
static DECLARE_FAULT_ATTR(kvm_gmem_test_fail_make_private);
static DECLARE_FAULT_ATTR(kvm_gmem_test_fail_release);
static DECLARE_FAULT_ATTR(kvm_gmem_test_fail_zap);

static struct dentry *kvm_gmem_test_dir;

static bool kvm_gmem_test_folio_is_private(struct folio *folio)
{
	return kvm_gmem_attrs_is_private(&GMEM_I(folio->mapping->host)->attrs,
					 folio->index);
}

static int kvm_gmem_test_make_page_private(struct kvm *kvm, kvm_pfn_t pfn)
{
	struct folio *folio = pfn_folio(pfn);
	struct kvm_gmem_test_page *page;
	int r;

	WARN_ON_ONCE(folio_mapped(folio));
	WARN_ON_ONCE(!kvm_gmem_test_folio_is_private(folio));

	page = xa_load(&kvm_gmem_test_pages, pfn);
	if (page) {
		/* The page must not have been freed without having been released. */
		WARN_ON_ONCE(page->index != folio->index);
		return 0;
	}

	if (should_fail(&kvm_gmem_test_fail_make_private, 1))
		return -EINVAL;

	if (should_fail(&kvm_gmem_test_fail_alloc, 1))
		return -ENOMEM;

	page = kmalloc_obj(*page, GFP_KERNEL_ACCOUNT);
	if (!page)
		return -ENOMEM;

	page->index = folio->index;
	page->nr_flushes = READ_ONCE(kvm->stat.generic.remote_tlb_flush_requests);

	r = xa_insert(&kvm_gmem_test_pages, pfn, page, GFP_KERNEL_ACCOUNT);
	if (r)
		kfree(page);
	else
		atomic_inc(&kvm_gmem_test_nr_assigned);
	return r;
}

int kvm_gmem_test_make_private(struct kvm *kvm, kvm_pfn_t pfn, kvm_pfn_t nr_pages)
{
	kvm_pfn_t end;
	int r = 0;

	if (kvm->arch.vm_type != KVM_X86_SW_PROTECTED_VM)
		return 0;

	/* In a chunk, only the page that the guest touches is locked. */
	WARN_ON_ONCE(!folio_test_locked(pfn_folio(pfn)));

	if (nr_pages > 1)
		atomic_inc(&kvm_gmem_test_nr_assigned_chunks);

	pfn = round_down(pfn, nr_pages);
	for (end = pfn + nr_pages; pfn < end && !r; pfn++)
		r = kvm_gmem_test_make_page_private(kvm, pfn);
	return r;
}

static void kvm_gmem_test_check_zapped(struct kvm *kvm, struct kvm_memory_slot *slot,
				       struct kvm_gmem_test_page *page)
{
	gfn_t gfn = slot->base_gfn + page->index - slot->gmem.pgoff;
	struct kvm_gfn_range range = {
		.start = gfn,
		.end = gfn + 1,
		.slot = slot,
		.attr_filter = KVM_FILTER_PRIVATE,
	};

	guard(write_lock)(&kvm->mmu_lock);

	/* The guest must not be able to map the page again. */
	if (WARN_ON_ONCE(!mmu_invalidate_retry_gfn(kvm, kvm->mmu_invalidate_seq, gfn)))
		return;

	/* Zap once more: there must be nothing left. */
	if (WARN_ON_ONCE(kvm_unmap_gfn_range(kvm, &range)))
		kvm_flush_remote_tlbs(kvm);

	/* A missing flush is no error if the guest never mapped the page. */
	if (page->nr_flushes == READ_ONCE(kvm->stat.generic.remote_tlb_flush_requests))
		atomic_inc(&kvm_gmem_test_nr_unflushed);
}

/* Check a page that becomes shared, i.e. is not removed from the file. */
static void kvm_gmem_test_check_conversion(struct folio *folio,
					   struct kvm_gmem_test_page *page)
{
	struct inode *inode = folio->mapping->host;
	struct kvm_memory_slot *slot;
	struct gmem_file *f;

	lockdep_assert_held_write(&inode->i_mapping->invalidate_lock);

	WARN_ON_ONCE(folio_mapped(folio));
	WARN_ON_ONCE(!kvm_gmem_test_folio_is_private(folio));

	kvm_gmem_for_each_file(f, inode) {
		slot = xa_load(&f->bindings, folio->index);
		if (slot)
			kvm_gmem_test_check_zapped(f->kvm, slot, page);
	}
}

static int kvm_gmem_test_release_page(kvm_pfn_t pfn)
{
	struct kvm_gmem_test_page *page = xa_load(&kvm_gmem_test_pages, pfn);
	struct folio *folio = pfn_folio(pfn);

	/* The guest may never have touched the page. */
	if (!page)
		return 0;

	if (folio->mapping)
		kvm_gmem_test_check_conversion(folio, page);

	if (should_fail(&kvm_gmem_test_fail_release, 1)) {
		if (!folio->mapping)
			atomic_inc(&kvm_gmem_test_nr_leaked);
		return -EINVAL;
	}

	kfree(xa_erase(&kvm_gmem_test_pages, pfn));
	atomic_dec(&kvm_gmem_test_nr_assigned);
	atomic_inc(&kvm_gmem_test_nr_released);
	return 0;
}

int kvm_gmem_test_reclaim(kvm_pfn_t pfn, kvm_pfn_t nr_pages)
{
	kvm_pfn_t end;
	int r = 0;

	/*
	 * To exclude memory_failure(), a page in the file has to be locked.
	 * For chunks, kvm_gmem_reclaim_chunk() takes bindings_lock instead.
	 */
	if (nr_pages == 1)
		WARN_ON_ONCE(pfn_folio(pfn)->mapping && !folio_test_locked(pfn_folio(pfn)));
	else
		atomic_inc(&kvm_gmem_test_nr_released_chunks);

	for (end = pfn + nr_pages; pfn < end && !r; pfn++)
		r = kvm_gmem_test_release_page(pfn);
	return r;
}

/* Pretend that zapping failed, if a failure is injected. */
void kvm_gmem_test_invalidate(struct kvm *kvm)
{
	if (kvm->arch.vm_type == KVM_X86_SW_PROTECTED_VM &&
	    should_fail(&kvm_gmem_test_fail_zap, 1))
		kvm_vm_bugged(kvm);
}

void kvm_arch_gmem_check_host_fault(kvm_pfn_t pfn)
{
	WARN_ON_ONCE(xa_load(&kvm_gmem_test_pages, pfn));
}

void kvm_gmem_test_hooks_init(void)
{
	struct dentry *dir = debugfs_create_dir("kvm_gmem_test_hooks", NULL);

	debugfs_create_atomic_t("assigned", 0444, dir, &kvm_gmem_test_nr_assigned);
	debugfs_create_atomic_t("released", 0444, dir, &kvm_gmem_test_nr_released);
	debugfs_create_atomic_t("unflushed", 0444, dir, &kvm_gmem_test_nr_unflushed);
	debugfs_create_atomic_t("leaked", 0444, dir, &kvm_gmem_test_nr_leaked);
	debugfs_create_atomic_t("assigned_chunks", 0444, dir,
				&kvm_gmem_test_nr_assigned_chunks);
	debugfs_create_atomic_t("released_chunks", 0444, dir,
				&kvm_gmem_test_nr_released_chunks);

	fault_create_debugfs_attr("fail_alloc", dir, &kvm_gmem_test_fail_alloc);
	fault_create_debugfs_attr("fail_make_private", dir,
				  &kvm_gmem_test_fail_make_private);
	fault_create_debugfs_attr("fail_release", dir, &kvm_gmem_test_fail_release);
	fault_create_debugfs_attr("fail_zap", dir, &kvm_gmem_test_fail_zap);

	kvm_gmem_test_dir = dir;
}

void kvm_gmem_test_hooks_exit(void)
{
	struct kvm_gmem_test_page *page;
	unsigned long pfn;

	debugfs_remove(kvm_gmem_test_dir);

	/* Leaked pages stay assigned. */
	WARN_ON_ONCE(atomic_read(&kvm_gmem_test_nr_assigned) !=
		     atomic_read(&kvm_gmem_test_nr_leaked));

	xa_for_each(&kvm_gmem_test_pages, pfn, page)
		kfree(page);
	xa_destroy(&kvm_gmem_test_pages);
}

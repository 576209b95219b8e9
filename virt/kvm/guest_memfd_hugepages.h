/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef __KVM_GUEST_MEMFD_HUGEPAGES_H__
#define __KVM_GUEST_MEMFD_HUGEPAGES_H__

#include <linux/bits.h>
#include <linux/fs.h>
#include <linux/kvm_host.h>
#include <linux/pgtable.h>

struct seq_file;

/*
 * A chunk is an aligned piece of a file, of the size that a PMD maps.  A guest
 * can map it with a single huge page.
 */
#define KVM_GMEM_CHUNK_ORDER	(PMD_SHIFT - PAGE_SHIFT)
#define KVM_GMEM_CHUNK_PAGES	BIT(KVM_GMEM_CHUNK_ORDER)
#define KVM_GMEM_CHUNK_MASK	(KVM_GMEM_CHUNK_PAGES - 1)

#ifdef CONFIG_KVM_GENERIC_MEMORY_ATTRIBUTES
void kvm_gmem_hugepages_init(void);
bool kvm_gmem_use_hugepages(void);

struct folio *kvm_gmem_alloc_chunk(struct inode *inode, pgoff_t index);
void kvm_gmem_lock_chunk(struct inode *inode, pgoff_t index);
void kvm_gmem_unlock_chunk(struct inode *inode, pgoff_t index);
int kvm_gmem_reclaim_chunk(struct inode *inode, struct folio *folio, pgoff_t last);
void kvm_gmem_punch_chunks(struct inode *inode, pgoff_t start, pgoff_t end);
int kvm_gmem_max_order(struct inode *inode, const struct kvm_memory_slot *slot,
		       pgoff_t index, kvm_pfn_t pfn);
void kvm_gmem_announce_chunks(struct kvm *kvm, const struct kvm_gfn_range *range);
void kvm_gmem_split_edges(struct inode *inode, pgoff_t start, pgoff_t end);
void kvm_gmem_show_hugepages(struct seq_file *m, struct inode *inode);
#else
static inline void kvm_gmem_hugepages_init(void) { }

static inline bool kvm_gmem_use_hugepages(void)
{
	return false;
}

static inline struct folio *kvm_gmem_alloc_chunk(struct inode *inode, pgoff_t index)
{
	return ERR_PTR(-ENOENT);
}

static inline void kvm_gmem_lock_chunk(struct inode *inode, pgoff_t index) { }
static inline void kvm_gmem_unlock_chunk(struct inode *inode, pgoff_t index) { }

static inline int kvm_gmem_reclaim_chunk(struct inode *inode, struct folio *folio,
					 pgoff_t last)
{
	return 0;
}

static inline void kvm_gmem_punch_chunks(struct inode *inode, pgoff_t start,
					 pgoff_t end) { }

static inline int kvm_gmem_max_order(struct inode *inode,
				     const struct kvm_memory_slot *slot,
				     pgoff_t index, kvm_pfn_t pfn)
{
	return 0;
}

static inline void kvm_gmem_announce_chunks(struct kvm *kvm,
					    const struct kvm_gfn_range *range) { }

static inline void kvm_gmem_split_edges(struct inode *inode, pgoff_t start,
					pgoff_t end) { }

static inline void kvm_gmem_show_hugepages(struct seq_file *m,
					   struct inode *inode) { }
#endif /* CONFIG_KVM_GENERIC_MEMORY_ATTRIBUTES */

#if defined(CONFIG_KVM_PROVE_MMU) && defined(CONFIG_KVM_GENERIC_MEMORY_ATTRIBUTES)
void kvm_gmem_prove_announced(struct inode *inode, pgoff_t start, pgoff_t end);
#else
static inline void kvm_gmem_prove_announced(struct inode *inode, pgoff_t start,
					    pgoff_t end) { }
#endif

#endif /* __KVM_GUEST_MEMFD_HUGEPAGES_H__ */

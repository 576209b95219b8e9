/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef __KVM_X86_GMEM_TEST_HOOKS_H
#define __KVM_X86_GMEM_TEST_HOOKS_H

#include <linux/kvm_host.h>

#ifdef CONFIG_KVM_GMEM_TEST_HOOKS
void kvm_gmem_test_hooks_init(void);
void kvm_gmem_test_hooks_exit(void);

int kvm_gmem_test_make_private(struct kvm *kvm, kvm_pfn_t pfn, kvm_pfn_t nr_pages);
int kvm_gmem_test_reclaim(kvm_pfn_t pfn, kvm_pfn_t nr_pages);
void kvm_gmem_test_invalidate(struct kvm *kvm);

static inline bool kvm_gmem_test_needs_reclaim(struct kvm *kvm)
{
	return kvm->arch.vm_type == KVM_X86_SW_PROTECTED_VM;
}
#else
static inline void kvm_gmem_test_hooks_init(void) { }
static inline void kvm_gmem_test_hooks_exit(void) { }

static inline int kvm_gmem_test_make_private(struct kvm *kvm, kvm_pfn_t pfn,
					     kvm_pfn_t nr_pages)
{
	return 0;
}

static inline int kvm_gmem_test_reclaim(kvm_pfn_t pfn, kvm_pfn_t nr_pages)
{
	return 0;
}

static inline void kvm_gmem_test_invalidate(struct kvm *kvm) { }

static inline bool kvm_gmem_test_needs_reclaim(struct kvm *kvm)
{
	return false;
}
#endif /* CONFIG_KVM_GMEM_TEST_HOOKS */

#endif /* __KVM_X86_GMEM_TEST_HOOKS_H */

# SPDX-License-Identifier: GPL-2.0-only
#
# The head of arch/x86/kvm/Makefile in a copy that is built out of tree. The copied headers take precedence over the
# kernel's own, and options that the kernel's configuration lacks are set here.
#
#   SW_PROTECTED_VM=y   with KVM_X86_SW_PROTECTED_VM, which is for tests and development

gmem := $(src)/../../..
LINUXINCLUDE := -I$(gmem)/arch/x86/include -I$(gmem)/include -I$(gmem)/include/uapi $(LINUXINCLUDE)

# The kernel lacks the functions that the series adds to mm/, and does not export those that the series exports.
CFLAGS_../../../virt/kvm/guest_memfd.o := -include $(gmem)/mm.h
CFLAGS_../../../virt/kvm/guest_memfd_refs.o := -include $(gmem)/mm.h
CFLAGS_../../../virt/kvm/guest_memfd_hugepages.o := -include $(gmem)/mm.h

# The Kconfig default of the series.
ccflags-y += -DCONFIG_KVM_VM_MEMORY_ATTRIBUTES=1
ifeq ($(SW_PROTECTED_VM)$(CONFIG_KVM_SW_PROTECTED_VM),y)
ccflags-y += -DCONFIG_KVM_SW_PROTECTED_VM=1
endif


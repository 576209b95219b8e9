# SPDX-License-Identifier: GPL-2.0-only
#
# The head of arch/x86/kvm/Makefile in a copy that is built out of tree. The copied headers precede the kernel's own, and
# options that the kernel's configuration does not have are set here.
#
#   SW_PROTECTED_VM=y   with KVM_X86_SW_PROTECTED_VM, which is for tests and development

gmem := $(src)/../../..
LINUXINCLUDE := -I$(gmem)/arch/x86/include -I$(gmem)/include -I$(gmem)/include/uapi $(LINUXINCLUDE)

# Without the series' function in mm/, the policy of the task decides from which node a chunk of 2 MiB comes.
ccflags-y += '-Dmpol_alloc_pages(gfp,order,pol,ilx,nid)=alloc_pages(gfp,order)'

# The Kconfig default of the series.
ccflags-y += -DCONFIG_KVM_VM_MEMORY_ATTRIBUTES=1
ifeq ($(SW_PROTECTED_VM)$(CONFIG_KVM_SW_PROTECTED_VM),y)
ccflags-y += -DCONFIG_KVM_SW_PROTECTED_VM=1
endif


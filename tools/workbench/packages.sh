# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=dash
#
# Debian packages of a whole kernel with the series, made by the kernel's own bindeb-pkg.
#
# In build/packages: the packages; work, where they are built, with objects in work/out and the name of their source
# tree in the file work/tree; and test, the packages of wb packages --test, and their unpacked contents.
#
# Sets PACKAGES and PACKAGES_PARAM. cmd_packages, packages_test and packages_boot set KTREE or OUT, see kernel_take;
# packages_build sets PACKAGES_DATE and PACKAGES_VERSION, the time of the build and the version of the packages.

PACKAGES=$BUILD/packages
PACKAGES_PARAM=gmem_in_place_conversion

# packages_config_default: print the path of the distribution's configuration. A container or a VM may run a foreign
# kernel, so use the newest installed configuration if there is none for the running kernel.
packages_config_default()
{
	local file

	file=/boot/config-$(uname -r)
	[ -e "$file" ] || file=$(find /boot -maxdepth 1 -name 'config-*' 2> /dev/null | sort -V | tail -n 1)
	[ -n "$file" ] ||
		file=$(find /usr/src -path '*/linux-config-*/config.amd64_none_amd64.xz' 2> /dev/null | sort -V | tail -n 1)
	echo "$file"
}

packages_config_read()
{
	case $1 in
	*.gz)	gzip -dc "$1" ;;
	*.xz)	xz -dc "$1" ;;
	*)	cat "$1" ;;
	esac
}

# packages_config_check FILE: refuse a file that kconfig would silently replace with defaults.
packages_config_check()
{
	[ -f "$1" ] || die "packages: no file $1"
	case $1 in *.xz)
		command -v xz > /dev/null || die "packages: xz is needed to read $1: apt-get install xz-utils" ;;
	esac
	packages_config_read "$1" 2> /dev/null | grep -q '^CONFIG_[A-Z0-9_]*=' ||
		die "packages: $1 is not the configuration of a kernel, i.e. a .config"
	packages_config_read "$1" | grep -qx CONFIG_X86_64=y ||
		die "packages: $1 is the configuration of another architecture; the packages are for x86-64"
}

# packages_series DIR: print whether DIR has all, some or none of the files that the series adds.
packages_series()
{
	local file has=0 lacks=0

	for file in $(apply_new_files); do
		if [ -e "$1/$file" ]; then has=1; else lacks=1; fi
	done
	case $has$lacks in
	10)	echo all ;;
	01)	echo none ;;
	*)	echo some ;;
	esac
}

# packages_tree DIR APPLY: refuse a tree from which packages cannot be built.
packages_tree()
{
	apply_is_7_3 "$1" packages
	case $1 in *[\ :]*)
		die "packages: the kernel does not build in a directory with a space or a colon in its name: rename $1" ;;
	esac
	if [ -e "$1/.config" ] || [ -e "$1/include/config" ] || [ -e "$1/arch/x86/include/generated" ]; then
		die "packages: a kernel was built in $1 itself, so kbuild refuses to build elsewhere: save its .config, and run 'make mrproper' there"
	fi
	case $(packages_series "$1") in
	all)	;;
	none)	[ -n "$2" ] ||
			die "packages: $1 does not have the series: apply it with 'wb apply $1', or use --apply" ;;
	*)	die "packages: $1 has only some of the files that the series adds, i.e. another version: revert that one first" ;;
	esac
}

# packages_kbuild TARGET...: keep date and build number the same, or the kernel would be linked again for the packages.
# An empty LOCALVERSION keeps "+" off the release of a git tree.
packages_kbuild()
{
	make -C "$KTREE" O="$OUT" ARCH=x86_64 LOCALVERSION= KBUILD_BUILD_VERSION=1 KBUILD_BUILD_TIMESTAMP="$PACKAGES_DATE" \
		-j "$JOBS" "$@"
}

# packages_configure FILE DEBUG SW: start from FILE. Keep debug information if DEBUG is not empty, and add
# software-protected VMs if SW is not empty.
packages_configure()
{
	mkdir -p "$OUT" && packages_config_read "$1" > "$OUT/wb.config" || return 1
	{
		cat "$WB/configs/packages.config"
		[ -n "$2" ] || echo CONFIG_DEBUG_INFO_NONE=y
		[ -z "$3" ] || echo CONFIG_KVM_SW_PROTECTED_VM=y
	} >> "$OUT/wb.config"
	packages_kbuild KCONFIG_CONFIG=wb.config olddefconfig && mv "$OUT/wb.config" "$OUT/.config" || return 1
	[ -n "$2" ] || ! grep -qx CONFIG_DEBUG_INFO=y "$OUT/.config" ||
		{ echo "debug information is still enabled: another option selects it"; return 1; }
	[ -z "$3" ] || grep -x CONFIG_KVM_SW_PROTECTED_VM=y "$OUT/.config" ||
		{ echo "software-protected VMs are not enabled: the configuration lacks KVM, or an option that they depend on"; return 1; }
	grep -x CONFIG_KVM_GUEST_MEMFD=y "$OUT/.config" || {
		echo "the configuration has no guest_memfd: that needs KVM, and KVM_AMD_SEV, KVM_INTEL_TDX or KVM_SW_PROTECTED_VM"
		return 1
	}
}

# Estimate disk space in MiB: 1000, and one for each option that is set, or five with debug information.
packages_disk()
{
	packages_config_read "$1" | grep -c '=[my]$' |
		awk -v each="${2:+5}" '{ print 1000 + $1 * (each ? each : 1) }'
}

# dpkg-buildpackage leaves packages next to the directory of objects.
packages_made()
{
	find "${OUT%/*}" -maxdepth 1 -name "linux-*_${PACKAGES_VERSION}_*"
}

packages_collect()
{
	local file

	mkdir -p "$1" && rm -f "$1"/linux-*_*_* || return 1
	for file in $(packages_made); do
		mv "$file" "$1" || return 1
	done
}

# packages_build FILE DEBUG SW DIR: build packages of KTREE, with objects in OUT, and move them to DIR.
packages_build()
{
	PACKAGES_DATE=$(date)
	PACKAGES_VERSION=$(apply_version "$KTREE")+gmem$(date -u +%Y%m%d.%H%M%S)-1
	step packages-config "configuration" 0 packages_configure "$1" "$2" "$3" || die "the kernel configuration failed"
	[ ! -e "$OUT/copied" ] || step packages-objtool "objtool" 0 objtool_keep || die "objtool does not build"
	step packages-kernel "kernel" - packages_kbuild headers all || die "the kernel does not build"
	trap 'packages_made | xargs -r rm -f' EXIT
	step packages "packages" 0 packages_kbuild bindeb-pkg KDEB_PKGVERSION="$PACKAGES_VERSION" \
		KDEB_CHANGELOG_DIST=unstable || die "the packages cannot be made"
	packages_made | grep -q '/linux-image-.*\.deb$' || die "no kernel package was made; see $LOGS/packages.log"
	packages_collect "$4" || die "cannot move the packages to $4"
	trap - EXIT
	note "in ${4#"$TOP"/}:"
	(cd "$4" && ls -sh1 -- *.deb) | sed 's/^/      /'
}

# packages_file NAME DIR: print the path of the package of that name in DIR.
packages_file()
{
	find "$2" -maxdepth 1 -name "$1_${PACKAGES_VERSION}_*.deb"
}

# packages_explain DIR
packages_explain()
{
	local release dir="${1#"$TOP"/}"

	release=$(cat "$OUT/include/config/kernel.release")
	say "Next steps, as root, in $TOP"
	note "install     apt install ./$dir/linux-image-${release}_*.deb ./$dir/linux-headers-${release}_*.deb"
	note "            linux-libc-dev is for building programs; it replaces the distribution's"
	if grep -qx CONFIG_KVM=y "$OUT/.config"; then
		note "turn it on  add kvm.$PACKAGES_PARAM=1 to the kernel's command line"
	else
		note "turn it on  echo options kvm $PACKAGES_PARAM=1 > /etc/modprobe.d/gmem.conf"
	fi
	note "boot        restart, with Secure Boot off, and choose Linux $release in the boot loader's menu"
	note "check       cat /sys/module/kvm/parameters/$PACKAGES_PARAM    # Y"
	note "remove      apt purge linux-image-$release linux-headers-$release; rm -f /etc/modprobe.d/gmem.conf"
}

# packages_unpack DIR: unpack the three packages, and lay them out like a build directory.
packages_unpack()
{
	local release name

	release=$(cat "$OUT/include/config/kernel.release")
	rm -rf "$1"
	mkdir -p "$1/arch/x86/boot" "$1/virt" "$1/usr"
	for name in "linux-image-$release" "linux-headers-$release" linux-libc-dev; do
		dpkg-deb -x "$(packages_file "$name" "$PACKAGES/test")" "$1" || return 1
	done
	cp "$1/boot/vmlinuz-$release" "$1/arch/x86/boot/bzImage" &&
		cp "$(arch_out)/usr/gen_init_cpio" "$1/usr" || return 1
	grep -q KVM_SET_MEMORY_ATTRIBUTES2 "$1/usr/include/linux/kvm.h" ||
		{ echo "linux-libc-dev lacks the series' ioctl"; return 1; }
	make -C "$TOP/tools/gmem-guest" OUT="$1/gmem-guest" KDIR="$1/usr/src/linux-headers-$release" \
		GEN_INIT_CPIO="$1/usr/gen_init_cpio"
}

# packages_boot: boot the packaged kernel and modules, with the parameter on. Run the example VMM, a test of
# conversions, and a Linux guest, which is the same kernel with a module that was built against the packaged headers.
packages_boot()
{
	local release ended=0

	release=$(cat "$OUT/include/config/kernel.release")
	OUT=$PACKAGES/test/run
	vm_new
	vm_kvm $PACKAGES_PARAM=1
	vm_file "$(command -v busybox)" busybox
	vm_file "$(arch_out)/gmem-vmm/gmem-vmm"
	vm_file "$(arch_out)/selftests/$MODULES_TEST"
	vm_file "$(kernel_image)" guest-kernel
	vm_file "$OUT/gmem-guest/initrd" guest-initrd
	vm_plan run release 60 /bin/busybox grep -qxF "$release" /proc/sys/kernel/osrelease
	vm_plan run parameter 60 /bin/busybox grep -qx Y /sys/module/kvm/parameters/$PACKAGES_PARAM
	vm_plan run gmem-vmm 300 /bin/gmem-vmm
	vm_plan run test 900 "/bin/$(basename $MODULES_TEST)"
	vm_plan run gmem-linux 900 /bin/gmem-vmm --kernel /bin/guest-kernel --initrd /bin/guest-initrd --memory 128
	vm_kvm_unload
	VM_TIME=2400
	step packages-boot "booting $release" 0 vm_run || ended=$?
	vm_ended "$VM" && [ $ended -eq 0 ] || die "packages: the machine with the packaged kernel failed; see $VM"
	awk '$1 == "exit" && $3 != 0 { print "    " $2 " failed, exit status " $3; bad = 1 }
		$1 == "exit" { n++ } END { exit bad || n != 5 }' "$VM/verdict" ||
		die "packages: the packages were built, but do not work; see $VM/output"
	grep '^ *ok ' "$VM/output" | tail -n 5 | sed 's/^/    | /'
	rm -rf "$VM" "$OUT"
	note "the packaged kernel boots and converts memory; a module built against its headers works"
}

# packages_test: use the configuration of the workbench's own kernel, and a copy of its objects.
packages_test()
{
	cmd_deps packages
	kernel_take x86_64
	[ -e "$(kernel_image)" ] && [ -x "$OUT/gmem-vmm/gmem-vmm" ] && [ -x "$OUT/pid1" ] || cmd_build x86_64
	say "Building packages with the workbench's configuration"
	hold build
	need_disk "$BUILD" 2000 "the packages"
	OUT=$TREE/wb-packages
	[ -e "$OUT" ] || step packages-copy "copy of an existing build" 0 kernel_copy || die "cannot copy a kernel"
	packages_build "$(arch_out)/.config" '' '' "$PACKAGES/test"
	release
	step packages-unpack "unpacking, and a module for them" 0 packages_unpack "$PACKAGES/test/run" ||
		die "the packages cannot be unpacked, or a module does not build against their headers"
	packages_boot
}

# cmd_packages --test|[--config FILE] [--apply] [--debug-info] [--sw-protected] [DIR]
cmd_packages()
{
	local config='' apply='' debug='' sw='' dir="$TREE"

	if [ "${1:-}" = --test ]; then
		[ $# -eq 1 ] || die "packages: --test takes no other arguments"
		have_tree
		packages_test
		return
	fi
	while [ $# -gt 0 ]; do
		case $1 in
		--config)
			[ $# -ge 2 ] || die "packages: --config needs a file"
			config=$2
			shift ;;
		--apply)	apply=1 ;;
		--debug-info)	debug=1 ;;
		--sw-protected)	sw=1 ;;
		-*)	die "packages: no option '$1'; see 'wb help'" ;;
		*)	break ;;
		esac
		shift
	done
	[ $# -le 1 ] || die "packages: name one kernel tree"
	[ "$(uname -m)" = x86_64 ] || die "packages: this machine is $(uname -m); the packages are built on x86-64 only"
	command -v dpkg-deb > /dev/null || die "packages: this needs Debian, or a distribution derived from it"
	[ $# -eq 0 ] || [ -d "$1" ] || die "packages: no directory $1"
	[ -n "$config" ] || config=$(packages_config_default)
	[ -n "$config" ] ||
		die "packages: no configuration of a distribution's kernel in /boot or /usr/src: install Debian's linux-config-7.3, or name one with --config FILE"
	packages_config_check "$config"
	if [ $# -eq 1 ]; then
		dir=$(cd "$1" && pwd -P)
		packages_tree "$dir" "$apply"
	fi
	cmd_deps packages
	mkdir -p "$BUILD"
	need_disk "$BUILD" "$(packages_disk "$config" "$debug")" "the packages"
	if [ $# -eq 0 ]; then
		have_tree
	elif [ "$(packages_series "$dir")" = none ]; then
		cmd_apply "$dir"
	fi

	hold packages
	KTREE=$dir OUT=$PACKAGES/work/out
	say "Building packages of Linux $(apply_version "$dir") in $dir, with $config"
	[ -n "$debug" ] || note "without debug information, which takes several times the time and disk space: --debug-info keeps it"
	if [ "$(cat "$PACKAGES/work/tree" 2> /dev/null)" != "$dir" ]; then
		rm -rf "$PACKAGES/work"
		mkdir -p "$OUT"
		echo "$dir" > "$PACKAGES/work/tree"
	fi
	packages_build "$config" "$debug" "$sw" "$PACKAGES"
	packages_explain "$PACKAGES"
	release
}

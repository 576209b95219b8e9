# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=dash
#
# KVM's modules with the series, built out of tree for an installed kernel, against its headers.
#
# In build/modules: source has the sources; RELEASE the modules for that kernel; RELEASE.stock the kernel itself, from
# Debian's packages, laid out like a build directory. Sets MODULES, MODULES_NAMES and MODULES_TEST, once. modules_test
# sets APT, see cmd_fetch; modules_boot sets OUT, see kernel_take, and MODULES_OK.

MODULES=$BUILD/modules
MODULES_NAMES="kvm kvm-amd kvm-intel"
MODULES_TEST=kvm/x86/guest_memfd_conversion_test

# List the files that the series changes outside of KVM, where modules cannot help.
modules_left_out()
{
	series_touched AM | grep '^mm/\|^lib/\|^kernel/\|^fs/' | tr '\n' ' '
}

# List KVM's headers that the series changes. Changes to other headers are left out of the modules.
modules_headers()
{
	series_touched "$1" | grep '^include/.*/kvm[^/]*$\|^arch/x86/include/'
}

# modules_source DIR: copy all of KVM, its headers that the series changes, and the makefiles, mm.h and check of
# tools/gmem-modules.
modules_source()
{
	local kvm="$1/arch/x86/kvm" file

	rm -rf "$1"
	mkdir -p "$1"
	# shellcheck disable=SC2046 # a list of files
	tgit -c tar.umask=022 archive HEAD -- arch/x86/kvm virt/kvm $(modules_headers AM) |
		tar -C "$1" -xf - || return 1
	# shellcheck disable=SC2016 # make's variables
	sed -e 's,\$(srctree)/arch/x86/kvm,$(src),g; s,\$(srctree)/virt/kvm,$(gmem)/virt/kvm,g' "$kvm/Makefile" |
		cat "$TOP/tools/gmem-modules/gmem.mk" - > "$1/makefile" &&
		mv "$1/makefile" "$kvm/Makefile" &&
		cp "$TOP/tools/gmem-modules/Makefile" "$TOP/tools/gmem-modules/check" "$TOP/tools/gmem-modules/mm.h" "$1" ||
		return 1
	modules_version > "$1/base-version"
	for file in $(modules_headers M); do
		tgit show "base:$file" | sha256sum | sed "s,-$,$file,"
	done > "$1/base-headers"
}

# Print the version of Linux that the modules are based on.
modules_version()
{
	apply_version "$TREE"
}

# modules_build y|n DIR: build against the headers in DIR, with software-protected VMs (y) or without.
modules_build()
{
	local name release

	need_disk "$BUILD" 1000 "the modules"
	step modules-source "sources of KVM with the series" 0 modules_source "$MODULES/source" || die "cannot copy the sources"
	sh "$MODULES/source/check" "$2" || exit 1
	release=$(cat "$2/include/config/kernel.release")
	step modules "modules for $release" 72 make -C "$MODULES/source" KDIR="$2" SW_PROTECTED_VM="$1" -j "$JOBS" ||
		die "the modules do not build"
	rm -rf "${MODULES:?}/$release"
	mkdir "$MODULES/$release"
	for name in $MODULES_NAMES; do
		strip -g -o "$MODULES/$release/$name.ko" "$MODULES/source/arch/x86/kvm/$name.ko" || die "no $name.ko was built"
	done
	rm -rf "$MODULES/source"
	note "in build/modules/$release: $MODULES_NAMES"
	note "without the changes of the series to $(modules_left_out)"
}

# modules_package DIR VERSION: make a package that has DKMS build the modules on the machine where it is installed.
modules_package()
{
	local source="$1/usr/src/kvm-gmem-$2" base file

	base=$(modules_version)
	modules_source "$source" || return 1
	mkdir -p "$1/DEBIAN" "$1/usr/share/doc/kvm-gmem-dkms"
	cp "$TOP/COPYING" "$1/usr/share/doc/kvm-gmem-dkms/copyright"
	for file in control postinst prerm dkms.conf; do
		sed "s/@VERSION@/$2/g; s/@BASE@/$base/g" "$TOP/tools/gmem-modules/$file" > "$1/DEBIAN/$file" || return 1
	done
	mv "$1/DEBIAN/dkms.conf" "$source"
	chmod 755 "$1/DEBIAN/postinst" "$1/DEBIAN/prerm"
	dpkg-deb --root-owner-group --build "$1" "$MODULES/kvm-gmem-dkms_$2_all.deb"
}

modules_dkms()
{
	local version dir="$MODULES/package"

	# Derive the version from the newest commit of build/linux or, in a git checkout, of tools/gmem-modules.
	version=$(modules_version).$({
		tgit log --format=%cd --date=format:%Y%m%d.%H%M base..HEAD
		git -C "$TOP" log --format=%cd --date=format:%Y%m%d.%H%M -n 1 -- tools/gmem-modules 2> /dev/null
	} | sort | tail -n 1)
	rm -rf "$dir"
	step modules-package "the package" 0 modules_package "$dir" "$version" || die "the package cannot be made"
	rm -rf "$dir"
	note "build/modules/kvm-gmem-dkms_${version}_all.deb"
}

# modules_stock RELEASE: fetch Debian's kernel, its KVM modules and those that they need.
modules_stock()
{
	local stock="$MODULES/$1.stock" package path

	mkdir -p "$stock.new/deb" "$APT/lists/partial" "$APT/cache/archives/partial" "$APT/parts" && apt_update || return 1
	for package in linux-binary linux-modules; do
		(cd "$APT" && apt_private apt-get download "$package-$1" &&
			dpkg-deb -x "$package-$1"_*.deb "$stock.new/deb") || return 1
	done
	mkdir -p "$stock.new/arch/x86/boot" "$stock.new/lib" "$stock.new/virt" "$stock.new/usr"
	cp "$stock.new/deb/usr/lib/modules/$1/vmlinuz" "$stock.new/arch/x86/boot/bzImage" || return 1
	for path in arch/x86/kvm/kvm arch/x86/kvm/kvm-amd arch/x86/kvm/kvm-intel virt/lib/irqbypass drivers/crypto/ccp/ccp; do
		xz -dc "$stock.new/deb/usr/lib/modules/$1/kernel/$path.ko.xz" > "$stock.new/lib/$(basename $path).ko" || return 1
	done
	rm -rf "$stock.new/deb"
	mv "$stock.new" "$stock"
}

# modules_boot DIR TEXT RELEASE [PARAMETER...]: boot Debian's kernel with the modules of this directory, and run the
# example VMM and a test of conversions. Return 125 if the machine failed; otherwise set MODULES_OK to how many of the
# two succeed.
modules_boot()
{
	local dir="$1" text="$2" name

	kernel_take x86_64
	OUT=$MODULES/run
	rm -rf "$OUT"
	cp -a "$MODULES/$3.stock" "$OUT"
	cp "$(arch_out)/usr/gen_init_cpio" "$OUT/usr"
	for name in $MODULES_NAMES; do
		cp "$dir/$name.ko" "$OUT/lib"
	done
	shift 3
	vm_new
	# Unlike the workbench's kernels, Debian's patches its own code for static keys. With several emulated CPUs this
	# once caused an oops, "int3", in schedule(): apparently a CPU hit a breakpoint that another one had already
	# replaced. With a single CPU there is no such race.
	VM_CPUS=1
	# Debian's drivers for disks are modules, so do without the disk.
	sed -i '/^dir \/disk /d' "$VM/cpio"
	vm_module ccp
	vm_kvm "$@"
	vm_file "$(arch_out)/gmem-vmm/gmem-vmm"
	vm_file "$(arch_out)/selftests/$MODULES_TEST"
	vm_plan run gmem-vmm 120 /bin/gmem-vmm
	vm_plan run test 240 "/bin/$(basename $MODULES_TEST)"
	vm_kvm_unload
	VM_TIME=500
	step modules-boot "$text" 0 vm_run || { vm_ended "$VM"; return 125; }
	vm_ended "$VM" || return 125
	sed 's/^/    | /' "$VM/output" | tail -n 16
	MODULES_OK=$(awk '$1 == "exit" && $3 == 0 { n++ } END { print n + 0 }' "$VM/verdict")
}

modules_ready()
{
	cmd_deps tree
	have_tree
	mkdir -p "$MODULES"
}

# modules_test RELEASE
modules_test()
{
	[ -e "$MODULES/$1/kvm.ko" ] || die "modules: none built for $1 yet: run 'wb modules --sw-protected HEADERS'"
	cmd_deps demo
	[ -x "$(arch_out)/gmem-vmm/gmem-vmm" ] && [ -x "$(arch_out)/pid1" ] || cmd_build x86_64
	if [ ! -e "$MODULES/$1.stock" ]; then
		APT=$CACHE/apt.$$
		trap 'rm -rf "$APT"' EXIT
		step modules-fetch "Debian's kernel $1" 0 modules_stock "$1" || die "cannot get the kernel $1"
		rm -rf "$APT"
		trap - EXIT
	fi
	modules_boot "$MODULES/$1" "Debian's kernel $1 with the modules" "$1" gmem_in_place_conversion=1 gmem_hugepages=1 &&
		[ "$MODULES_OK" -eq 2 ] || die "modules: the example VMM or the test fails; see $VM"
	rm -rf "$VM"
	modules_boot "$MODULES/$1.stock/lib" "Debian's kernel $1 with its own modules" "$1" &&
		[ "$MODULES_OK" -eq 0 ] || die "modules: the example VMM and the test should have failed without the modules; see $VM"
	rm -rf "$VM" "$MODULES/run"
	note "example VMM and test: they work with the modules, and fail without them"
}

cmd_modules()
{
	local sw=n

	case ${1:-} in
	--test)	[ $# -eq 2 ] || die "modules: --test needs the release of a Debian kernel, e.g. 7.3.4+deb13-amd64"
		modules_ready
		modules_test "$2"
		return ;;
	--dkms)	[ $# -eq 1 ] || die "modules: --dkms takes no arguments"
		modules_ready
		modules_dkms
		return ;;
	--sw-protected)
		sw=y
		shift ;;
	-*)	die "modules: no option '$1'; see 'wb help'" ;;
	esac
	[ $# -le 1 ] || die "modules: name one directory with headers"
	[ -d "${1:-/lib/modules/$(uname -r)/build}" ] ||
		die "modules: no directory ${1:-/lib/modules/$(uname -r)/build}: install linux-headers-$(uname -r), or name another one"
	modules_ready
	modules_build $sw "$(cd "${1:-/lib/modules/$(uname -r)/build}" && pwd -P)"
}

# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=sh
#
# Building: the kernels of the file `kernels`, their modules, the selftests, PID 1, the example VMM and the benchmark.

kernel_names()
{
	awk '/^[^#]/ { print $1 }' "$WB/kernels"
}

# kernel_take NAME: the kernel that what follows is about.
kernel_take()
{
	# shellcheck disable=SC2046 # the fields of the line
	set -- "$1" $(awk -v name="$1" '$1 == name' "$WB/kernels")
	[ $# -gt 1 ] || die "no kernel '$1': there are $(kernel_names | tr '\n' ' ')"
	KERNEL=$2 KTREE=$BUILD/$3 KARCH=$4 KSTEPS=$5
	# kbuild uses relative paths, then, and the results may be copied.
	OUT=$KTREE/wb-$KERNEL
	# What runs on all kernels of an architecture is built once.
	ARCH_OUT=$TREE/wb-$KARCH
	shift 5
	KCONFIGS=$*
	case $KARCH in
	arm64)	IMAGE=arch/arm64/boot/Image ;;
	*)	IMAGE=arch/x86/boot/bzImage ;;
	esac
}

kernel_make()
{
	make -f "$WB/Makefile" -j "$JOBS" TREE="$KTREE" OUT="$OUT" ARCH="$KARCH" CONFIGS="$KCONFIGS" "$@"
}

vmm_make()
{
	make -C "$TOP/tools/gmem-vmm" OUT="$OUT/gmem-vmm" KHDR="$OUT/usr/include"
}

bench_make()
{
	make -C "$TOP/tools/gmem-bench" OUT="$OUT/gmem-bench" KHDR="$ARCH_OUT/usr/include"
}

have_kernel()
{
	[ -e "$OUT/$IMAGE" ] || die "no kernel built yet: 'wb build $KERNEL' does that"
}

# What is built already need not be compiled once more: another tree starts as a copy with all its times, another set of
# options as a copy of what is built.
kernel_copy()
{
	if [ ! -e "$KTREE" ]; then
		rm -rf "$KTREE.new"
		mkdir "$KTREE.new"
		tar -C "$TREE" --format=posix -cf - --exclude='./wb-*' . | tar -C "$KTREE.new" -xf - || return 1
		# Or else git takes all files of the copy for changed, and writes them anew.
		git -C "$KTREE.new" update-index -q --refresh || return 1
		git -C "$KTREE.new" checkout -q --detach base || return 1
		mv "$KTREE.new" "$KTREE"
	fi
	rm -rf "$OUT.new"
	mkdir "$OUT.new"
	tar -C "$ARCH_OUT" --format=posix -cf - --exclude=./selftests --exclude=./gmem-vmm --exclude=./.config . |
		tar -C "$OUT.new" -xf - || return 1
	touch "$OUT.new/copied"
	mv "$OUT.new" "$OUT"
}

# objtool's makefile uses absolute paths, so objtool is made anew in a copy, which is no reason to make anew all that it
# has had its hands on.
objtool_keep()
{
	make -C "$KTREE" O="$OUT" ARCH="$KARCH" -j "$JOBS" prepare || return 1
	find "$OUT/tools/objtool" -exec touch -r "$ARCH_OUT/tools/objtool/objtool" {} +
	rm "$OUT/copied"
}

# kernel_build NAME [SELFTEST...]
kernel_build()
{
	kernel_take "$1"
	shift
	hold build
	say "Building the kernel $KERNEL"
	if [ ! -e "$OUT" ]; then
		need_disk "$BUILD" 4000 "the kernel build"
		if [ "$KERNEL" != "$KARCH" ]; then
			[ -e "$KTREE" ] || tree_clean ||
				die "build/linux has edits or new files that are not committed: the kernel $KERNEL starts as a copy of it"
			step "copy-$KERNEL" "copy of what is built" 0 kernel_copy || die "cannot copy a kernel"
		fi
	fi
	[ ! -e "$OUT/$IMAGE" ] || KSTEPS=0
	step "config-$KERNEL" "config" 0 kernel_make config || die "the kernel configuration failed"
	[ ! -e "$OUT/copied" ] || step "objtool-$KERNEL" "objtool" 0 objtool_keep || die "objtool does not build"
	step "kernel-$KERNEL" "kernel" "$KSTEPS" kernel_make kernel || die "the kernel does not build"
	if [ "$KERNEL" = "$KARCH" ]; then
		step "selftests-$KARCH" "selftests" 0 kernel_make selftests init TESTS="$*" ||
			die "the selftests do not build"
	fi
	if [ "$KERNEL" = x86_64 ]; then
		step gmem-vmm "example VMM" 0 vmm_make || die "the example VMM does not build"
	fi
	if [ "$KERNEL" = $BENCH_KERNEL ]; then
		step gmem-bench "benchmark" 0 bench_make || die "the benchmark does not build"
	fi
	release
}

cmd_build()
{
	have_tree
	[ $# -gt 0 ] || set -- x86_64
	for _kernel; do
		kernel_take "$_kernel"
		# shellcheck disable=SC2046 # a list of tests
		kernel_build "$_kernel" $(test_programs "$KARCH")
	done
}

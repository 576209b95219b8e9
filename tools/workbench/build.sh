# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=dash
#
# Building: the kernels of the file `kernels`, their modules, the selftests, PID 1, the example VMM and its Linux guest,
# gmem-top, the test of the header for VMM authors, and the benchmark.
#
# kernel_take selects the kernel that all other functions here work on. It sets KERNEL, its name in the file `kernels`;
# KARCH, its architecture; KTREE, its source; and OUT, its build directory.

kernel_names()
{
	awk '/^[^#]/ { print $1 }' "$WB/kernels"
}

# kernel_fields NAME: print TREE ARCH STEPS CONFIG...
kernel_fields()
{
	awk -v name="$1" '$1 == name { $1 = ""; print }' "$WB/kernels"
}

# kernel_take NAME: select a kernel.
kernel_take()
{
	local name="$1"

	# shellcheck disable=SC2046 # the fields of the line
	set -- $(kernel_fields "$name")
	[ $# -gt 0 ] || die "no kernel '$name'; the kernels are $(kernel_names | tr '\n' ' ')"
	KERNEL=$name KTREE=$BUILD/$1 KARCH=$2
	# With the output below the source, kbuild uses relative paths, so that the results can be copied.
	OUT=$KTREE/wb-$KERNEL
}

# Print the build directory for programs that run on all kernels of an architecture; they are built only once.
arch_out()
{
	echo "$TREE/wb-$KARCH"
}

kernel_image()
{
	case $KARCH in
	arm64)	echo "$OUT/arch/arm64/boot/Image" ;;
	*)	echo "$OUT/arch/x86/boot/bzImage" ;;
	esac
}

# Print the number of lines to expect from kbuild for a full build, or 0, i.e. show no count, for an incremental one.
kernel_steps()
{
	if [ -e "$(kernel_image)" ]; then
		echo 0
	else
		kernel_fields "$KERNEL" | awk '{ print $3 }'
	fi
}

kernel_make()
{
	make -f "$WB/Makefile" -j "$JOBS" TREE="$KTREE" OUT="$OUT" ARCH="$KARCH" \
		CONFIGS="$(kernel_fields "$KERNEL" | cut -d ' ' -f 5-)" "$@"
}

vmm_make()
{
	make -C "$TOP/tools/gmem-vmm" OUT="$OUT/gmem-vmm" KHDR="$OUT/usr/include"
}

# Build the driver and the initramfs of a Linux guest that runs this kernel.
guest_make()
{
	make -C "$TOP/tools/gmem-guest" OUT="$OUT/gmem-guest" KDIR="$OUT"
}

top_make()
{
	make -C "$TOP/tools/gmem-top" OUT="$OUT/gmem-top" KHDR="$OUT/usr/include"
}

header_make()
{
	make -C "$TOP/tools/gmem-header" OUT="$OUT/gmem-header" KHDR="$OUT/usr/include"
}

bench_make()
{
	make -C "$TOP/tools/gmem-bench" OUT="$OUT/gmem-bench" KHDR="$(arch_out)/usr/include"
}

have_kernel()
{
	[ -e "$(kernel_image)" ] || die "the kernel $KERNEL has not been built yet: run 'wb build $KERNEL'"
}

# Do not compile anything twice: another tree starts as a copy with the same file times, another configuration as a copy
# of existing build output.
kernel_copy()
{
	if [ ! -e "$KTREE" ]; then
		rm -rf "$KTREE.new"
		mkdir "$KTREE.new"
		tar -C "$TREE" --format=posix -cf - --exclude='./wb-*' . | tar -C "$KTREE.new" -xf - || return 1
		# Otherwise git considers all files of the copy changed, and rewrites them.
		git -C "$KTREE.new" update-index -q --refresh || return 1
		git -C "$KTREE.new" checkout -q --detach base || return 1
		mv "$KTREE.new" "$KTREE"
	fi
	rm -rf "$OUT.new"
	mkdir "$OUT.new"
	tar -C "$(arch_out)" --format=posix -cf - --exclude=./selftests --exclude=./gmem-vmm --exclude=./gmem-top \
		--exclude=./gmem-header --exclude=./gmem-guest --exclude=./.config . |
		tar -C "$OUT.new" -xf - || return 1
	touch "$OUT.new/copied"
	mv "$OUT.new" "$OUT"
}

# objtool's makefile uses absolute paths, so objtool is rebuilt in a copy. Do not rebuild every object that it has
# checked.
objtool_keep()
{
	make -C "$KTREE" O="$OUT" ARCH="$KARCH" -j "$JOBS" prepare || return 1
	find "$OUT/tools/objtool" -exec touch -r "$(arch_out)/tools/objtool/objtool" {} +
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
		# The kernel `stock` needs a second tree as well.
		need_disk "$BUILD" "$([ -e "$KTREE" ] && echo 1000 || echo 3000)" "the kernel build"
		if [ "$KERNEL" != "$KARCH" ]; then
			[ -e "$(arch_out)" ] ||
				die "the kernel $KERNEL starts as a copy of $KARCH; build that first: wb build $KARCH $KERNEL"
			[ -e "$KTREE" ] || tree_clean ||
				die "build/linux has uncommitted edits or new files: commit them, then build $KERNEL"
			step "copy-$KERNEL" "copy of an existing build" 0 kernel_copy || die "cannot copy a kernel"
		fi
	fi
	step "config-$KERNEL" "config" 0 kernel_make config || die "the kernel configuration failed"
	[ ! -e "$OUT/copied" ] || step "objtool-$KERNEL" "objtool" 0 objtool_keep || die "objtool does not build"
	step "kernel-$KERNEL" "kernel" "$(kernel_steps)" kernel_make kernel || die "the kernel does not build"
	if [ "$KERNEL" = "$KARCH" ]; then
		step "selftests-$KARCH" "selftests" 0 kernel_make selftests init TESTS="$*" ||
			die "the selftests do not build"
	fi
	if [ "$KERNEL" = x86_64 ]; then
		step gmem-vmm "example VMM" 0 vmm_make || die "the example VMM does not build"
		step gmem-top "gmem-top" 0 top_make || die "gmem-top does not build"
		step gmem-header "test of the header" 0 header_make || die "the test of include/gmem.h does not build"
	fi
	case $KERNEL in
	x86_64|"$BENCH_KERNEL")
		step "gmem-guest-$KERNEL" "Linux guest" 0 guest_make ||
			die "the Linux guest of the example VMM does not build" ;;
	esac
	if [ "$KERNEL" = $BENCH_KERNEL ]; then
		step gmem-bench "benchmark" 0 bench_make || die "the benchmark does not build"
	fi
	release
}

cmd_build()
{
	local kernel

	have_tree
	[ $# -gt 0 ] || set -- x86_64
	for kernel; do
		kernel_take "$kernel"
		# shellcheck disable=SC2046 # a list of tests
		kernel_build "$kernel" $(test_programs "$KARCH")
	done
}

# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=sh
#
# Building: kernel, modules, selftests, PID 1 and the example VMM.

# How many lines kbuild prints for a whole build, for the progress line.
KBUILD_LINES=2250

# The series' own options exist only where the series is applied.
config_fragments()
{
	if [ "$(tgit rev-parse HEAD)" != "$(tgit rev-parse base)" ]; then
		echo base x86_64 debug series
	else
		echo base x86_64 debug
	fi
}

# wb_make TARGET...
wb_make()
{
	make -f "$WB/Makefile" -j "$JOBS" TREE="$TREE" OUT="$OUT" ARCH=x86_64 CONFIGS="$(config_fragments)" "$@"
}

vmm_make()
{
	make -C "$TOP/tools/gmem-vmm" OUT="$OUT/gmem-vmm" KHDR="$OUT/usr/include"
}

have_kernel()
{
	[ -e "$OUT/arch/x86/boot/bzImage" ] || die "no kernel built yet: 'wb build' does that"
}

# cmd_build [SELFTEST...]: all selftests of the table unless one is named.
cmd_build()
{
	have_tree
	hold build
	say "Building the kernel, its modules and its selftests"
	_lines=0
	if [ ! -e "$OUT/arch/x86/boot/bzImage" ]; then
		need_disk "$BUILD" 2500 "the kernel build"
		_lines=$KBUILD_LINES
	fi
	step config "config" 0 wb_make config || die "the kernel configuration failed"
	step kernel "kernel" $_lines wb_make kernel || die "the kernel does not build"
	step selftests "selftests" 0 wb_make selftests init TESTS="${*:-$(test_programs)}" ||
		die "the selftests do not build"
	if [ -e "$TOP/tools/gmem-vmm/Makefile" ]; then
		step gmem-vmm "example VMM" 0 vmm_make || die "the example VMM does not build"
	fi
	release
}

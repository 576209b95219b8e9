# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=dash
#
# The benchmark: tools/gmem-bench on a kernel without debug checks, in a machine whose clock counts instructions. The
# results depend on the kernel, the compiler and the emulated CPU, but neither on the host nor on its load.
#
#	bench.goals	the goals of the series, by row
#	bench.expected	ratios recorded by 'wb bench --record', see there
#	bench.awk	makes tables from rows
#
# Sets BENCH_KERNEL and BENCH_PERCENT, once.

BENCH_KERNEL=plain
# A row fails if it exceeds its recorded value by more than this many percent.
BENCH_PERCENT=10

# bench_vm DIR: make a machine whose clock counts instructions, with the program, and in-place conversion on.
bench_vm()
{
	have_kernel
	vm_new "$1"
	vm_counted
	VM_MEM=2560 VM_TIME=900
	vm_file "$OUT/gmem-bench/gmem-bench"
	vm_kvm gmem_in_place_conversion=1
}

# bench_boot DIR: run the program with in-place conversion, reload KVM, and run it with per-VM tracking. Leave its
# output in DIR/rows.
bench_boot()
{
	kernel_take $BENCH_KERNEL
	bench_vm "$1"
	vm_plan run in-place 0 /bin/gmem-bench
	vm_kvm_unload
	vm_kvm gmem_in_place_conversion=0
	vm_plan run per-vm 0 /bin/gmem-bench per-vm
	vm_kvm_unload
	# Make rows look like kbuild's output, for the progress line.
	vm_run stdio | tee "$1/rows" | sed -u 's/^row/  ROW/'
	vm_ended "$1" || return 1
	! awk '$1 == "exit" && $3 != 0 { print "gmem-bench, " $2 ": exit status " $3; bad = 1 } END { exit !bad }' \
		"$1/verdict"
}

# bench_profile DIR [CASE...]: print the kernel functions that conversions spend their time in, after each row.
bench_profile()
{
	local dir="$1"

	shift
	bench_vm "$dir"
	vm_plan run profile 0 /bin/gmem-bench --profile "$@"
	vm_run stdio
	vm_ended "$dir"
}

# bench_print MODE DIR: print the rows of a run in one of bench.awk's modes.
bench_print()
{
	local config="$OUT/.config"

	awk -f "$WB/bench.awk" -v mode="$1" -v percent=$BENCH_PERCENT \
		-v kernel="$(cat "$OUT/include/config/kernel.release")" \
		-v compiler="$(sed -n 's/^CONFIG_CC_VERSION_TEXT="\(.*\)"/\1/p' "$config")" \
		-v emulator="$(qemu-system-x86_64 --version | head -n 1)" \
		what=goal "$WB/bench.goals" what=recorded "$WB/bench.expected" what=row "$2/rows"
}

bench_step()
{
	step bench "benchmark" "$(grep -vc '^#' "$WB/bench.expected")" bench_boot "$1"
}

# bench_run DIR: boot the benchmark's machine as one of those of a run, possibly alongside others.
bench_run()
{
	bench_boot "$1" > "$1/log" 2>&1 && touch "$1/done"
}

# bench_judge: add each row of the benchmark in this run to its summary, as a result.
bench_judge()
{
	local dir="$RUN/bench"

	if [ ! -e "$dir/done" ]; then
		record fail "bench: $(grep -v '^  ROW' "$dir/log" | head -n 1)"
		return
	fi
	kernel_take $BENCH_KERNEL
	bench_print judge "$dir" > "$dir/results"
	cat "$dir/results" >> "$RUN/summary"
	bench_print table "$dir" > "$dir/table"
	bench_print json "$dir" > "$dir/bench.json"
}

cmd_bench()
{
	local mode=table dir="$BUILD/bench"

	case ${1:-} in
	'')	;;
	--profile)
		mode=profile dir="$BUILD/bench-profile"
		shift ;;
	--json|--rst|--record)
		mode=${1#--} ;;
	*)	die "bench: no option '$1'; see 'wb help'" ;;
	esac
	# Only the requested format goes to standard output.
	exec 3>&1
	[ "$mode" = table ] || [ "$mode" = profile ] || exec 1>&2

	cmd_deps demo
	have_tree
	kernel_take $BENCH_KERNEL
	[ -e "$(arch_out)/pid1" ] || cmd_build x86_64
	cmd_build $BENCH_KERNEL
	say "Counting instructions in an emulated machine"
	rm -rf "$dir"
	mkdir -p "$dir"
	if [ "$mode" = profile ]; then
		bench_profile "$dir" "$@"
		return
	fi
	bench_step "$dir" || die "the benchmark failed"
	bench_print json "$dir" > "$dir/bench.json"
	bench_print table "$dir" > "$dir/table"
	case $mode in
	json)	cat "$dir/bench.json" >&3 ;;
	rst)	bench_print rst "$dir" >&3 ;;
	record)	bench_print record "$dir" > "$dir/expected"
		cp "$dir/expected" "$WB/bench.expected" ;;
	*)	cat "$dir/table" >&3 ;;
	esac
	bench_print judge "$dir" | sed -n 's/^fail bench: /    /p' > "$dir/failed"
	if [ -s "$dir/failed" ]; then
		say "Not as recorded in tools/workbench/bench.expected"
		cat "$dir/failed"
	fi
	note "in build/bench: table, bench.json, and rows, the program's output"
}

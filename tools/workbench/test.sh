# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=sh
#
# The whole run: static checks, build, and the booted matrix that the file `tests` describes.

RESULTS=$BUILD/results

# The selftests that the table needs.
test_programs()
{
	awk '$1 == "test" && $7 ~ /\// && !seen[$7]++ { print $7 }' "$WB/tests"
}

# test_lines IPC NPT: the table's lines for a machine.
test_lines()
{
	awk -v ipc="$1" -v npt="$2" '($1 == "test" || $1 == "kunit") && index($3, ipc) && index($4, npt)' "$WB/tests"
}

kvm_has_parameter()
{
	grep -q gmem_in_place_conversion "$OUT/arch/x86/kvm/kvm.ko"
}

# A run gathers its results in a folder of its own; at its end that becomes build/results.
run_new()
{
	mkdir -p "$BUILD"
	RUN=$(mktemp -d "$BUILD/results.XXXXXX")
	chmod 755 "$RUN"
	trap 'rm -rf "$RUN"' EXIT
	: > "$RUN/summary"
}

run_end()
{
	rm -rf "$RESULTS"
	mv "$RUN" "$RESULTS"
	trap - EXIT
	say "Results, in build/results"
	sed -n 's/^fail /    FAILED  /p; s/^skip /    skipped /p' "$RESULTS/summary"
	awk '{ n[$1]++ } END { printf "%d passed, %d failed, %d skipped\n", n["pass"], n["fail"], n["skip"]
		exit n["fail"] > 0 || !n["pass"] }' "$RESULTS/summary"
}

# record pass|fail|skip TEXT
record()
{
	printf '%s %s\n' "$1" "$2" >> "$RUN/summary"
}

# stage NAME COMMAND...: a check that is one result.
stage()
{
	_name=$1
	shift
	if ("$@"); then
		record pass "$_name"
	else
		record fail "$_name"
		return 1
	fi
}

# matrix_boot IPC NPT: plan and boot one machine; everything it needs comes from the table.
matrix_boot()
{
	if kvm_has_parameter; then
		vm_kvm "$2" "kvm.gmem_in_place_conversion=$1"
	else
		vm_kvm "$2"
	fi
	test_lines "$1" "$2" > "$VM/tests"
	vm_mem=$(awk '$5 > max { max = $5 } END { print max }' "$VM/tests")
	vm_time=$(awk '{ sum += $6 } END { print sum + 60 }' "$VM/tests")
	while read -r _kind _name _ipc _npt _mib _secs _program _args; do
		vm_plan mark "$_name"
		case $_kind:$_program in
		kunit:*)
			vm_module_file "$_program"
			vm_plan kunit "$_name" "$_program"
			continue ;;
		*:gmem-vmm)
			_file=$OUT/gmem-vmm/gmem-vmm ;;
		*)	_file=$OUT/selftests/$_program ;;
		esac
		vm_file "$_file"
		# shellcheck disable=SC2086 # a list of arguments
		vm_plan run "$_name" "$_secs" "/bin/$(basename "$_program")" $_args
	done < "$VM/tests"
	vm_kvm_unload
	vm_run
}

# test_judge MACHINE IPC NPT NAME: a test's results to the summary, and its KTAP file.
test_judge()
{
	_status=$(awk -v name="$4" '$1 == "exit" && $2 == name { print $3 }' "$VM/verdict")
	_splat=$(sed -n "s/^splat $4 //p" "$VM/verdict" | head -n 1)
	awk -f "$WB/ktap.awk" -v machine="$1" -v ipc="$2" -v npt="$3" -v test="$4" -v status="$_status" \
		-v splat="$_splat" "$WB/tests" "$VM/$4" > "$VM/results"
	cat "$VM/results" >> "$RUN/summary"
	_ok='ok' _skip=''
	! grep -q '^fail ' "$VM/results" || _ok='not ok'
	grep -q '^pass ' "$VM/results" || [ "$_ok" != ok ] || _skip=' # SKIP'
	{
		printf 'KTAP version 1\n1..1\n'
		sed 's/^/# /' "$VM/$4"
		sed 's/^/# result: /' "$VM/results"
		echo "$_ok 1 $4$_skip"
	} > "$VM/$4.ktap"
	printf '      %-32s %s\n' "$4" "$(awk '{ n[$1]++ } END {
		printf "%d passed, %d failed, %d skipped", n["pass"], n["fail"], n["skip"] }' "$VM/results")"
}

# matrix_judge MACHINE IPC NPT
matrix_judge()
{
	while read -r _kind _name _rest; do
		: > "$VM/$_name"
	done < "$VM/tests"
	awk -v dir="$VM" '/^\036/ { file = dir "/" substr($0, 2); next } file != "" { print > file }' "$VM/output" || :
	while read -r _kind _name _rest; do
		test_judge "$1" "$2" "$3" "$_name"
	done < "$VM/tests"
	_ended=$(vm_ended "$RESULTS/$1") || {
		record fail "$1: $(echo "$_ended" | head -n 1)"
		echo "$_ended" | sed 's/^/      | /'
	}
}

run_matrix()
{
	for _ipc in 0 1; do
		[ $_ipc -eq 0 ] || kvm_has_parameter || continue
		for _npt in 1 0; do
			_machine=ipc$_ipc-npt$_npt
			vm_new
			step boot-$_machine "machine with gmem_in_place_conversion=$_ipc, nested paging $_npt" 0 \
				matrix_boot $_ipc $_npt || :
			matrix_judge $_machine $_ipc $_npt
			mv "$VM" "$RUN/$_machine"
		done
	done
}

cmd_matrix()
{
	have_kernel
	run_new
	run_matrix
	run_end
}

cmd_test()
{
	_began=$(date +%s)
	cmd_deps
	cmd_tree
	run_new
	say "Checking the series"
	stage "series: patches, top-level files and tree agree" cmd_check || :
	stage "series: checkpatch --strict" cmd_checkpatch || :
	if stage "build" cmd_build; then
		stage "series: sparse and W=1" cmd_lint || :
		say "Booting"
		run_matrix
	fi
	note "the whole run took $(elapsed "$_began")"
	run_end
}

cmd_selftest()
{
	_params=''
	while [ "${1:-}" = --param ] && [ $# -ge 2 ]; do
		_params="$_params --param $2"
		shift 2
	done
	[ $# -ge 1 ] || die "selftest: name one of the kernel's selftests"
	have_tree
	_test=
	for _dir in '' kvm/ kvm/x86/; do
		[ ! -e "$TREE/tools/testing/selftests/$_dir$1.c" ] || _test=$_dir$1
	done
	[ -n "$_test" ] || die "selftest: no $1.c in tools/testing/selftests, kvm/ or kvm/x86/ there"
	shift
	cmd_build "$_test"
	# shellcheck disable=SC2086 # a list of options
	cmd_boot $_params "$OUT/selftests/$_test" "$@"
}

cmd_demo()
{
	cmd_deps
	cmd_tree
	cmd_build
	[ -x "$OUT/gmem-vmm/gmem-vmm" ] || die "there is no example VMM in tools/gmem-vmm yet"
	say "Booting, with kvm.gmem_in_place_conversion=1, to run the example VMM"
	cmd_boot --param kvm.gmem_in_place_conversion=1 "$OUT/gmem-vmm/gmem-vmm" "$@"
}

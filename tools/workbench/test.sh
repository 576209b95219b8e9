# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=sh
#
# The whole run: static checks, build, and the booted matrix that the file `tests` describes.

RESULTS=$BUILD/results
SUMMARY=$RESULTS/summary

# The selftests that the table needs, as make targets.
test_programs()
{
	awk '$1 == "test" && $7 != "gmem-vmm" && !seen[$7]++ { print $7 }' "$WB/tests"
}

# test_lines KINDS IPC NPT: the table's lines for a machine.
test_lines()
{
	awk -v ipc="$1" -v npt="$2" '($1 == "test" || $1 == "kunit") && index($3, ipc) && index($4, npt)' "$WB/tests"
}

kvm_has_parameter()
{
	grep -q gmem_in_place_conversion "$OUT/arch/x86/kvm/kvm.ko"
}

# record pass|fail|skip TEXT
record()
{
	printf '%s %s\n' "$1" "$2" >> "$SUMMARY"
}

# stage NAME TEXT COMMAND...: a check that is one result.
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

# Plan and boot one machine; everything it needs comes from the table.
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
		vm_port "$_name"
		if [ "$_kind" = kunit ]; then
			vm_module_file "$_program"
			vm_plan kunit "$_name" "$_program"
			continue
		fi
		_file=$OUT/selftests/$_program
		[ "$_program" != gmem-vmm ] || _file=$OUT/gmem-vmm/gmem-vmm
		vm_file "$_file"
		# shellcheck disable=SC2086 # a list of arguments
		vm_plan run "$_name" "$_secs" "/bin/$(basename "$_program")" $_args
	done < "$VM/tests"
	vm_kvm_unload
	vm_run
}

# matrix_judge MACHINE IPC NPT: from verdict and outputs to results, and a KTAP file for each test.
matrix_judge()
{
	while read -r _kind _name _rest; do
		_status=$(awk -v name="$_name" '$1 == "exit" && $2 == name { print $3 }' "$VM/verdict")
		_splat=$(sed -n "s/^splat $_name //p" "$VM/verdict" | head -n 1)
		awk -f "$WB/ktap.awk" -v test="$_name" -v status="$_status" -v splat="$_splat" "$VM/$_name" > "$VM/$_name.results"
		{
			echo "KTAP version 1"
			echo "1..1"
			sed 's/^/# /' "$VM/$_name"
			sed 's/^/# result: /' "$VM/$_name.results"
			if grep -q '^fail ' "$VM/$_name.results"; then
				echo "not ok 1 $_name"
			elif [ "$_status" = 4 ]; then
				echo "ok 1 $_name # SKIP"
			else
				echo "ok 1 $_name"
			fi
		} > "$VM/$_name.ktap"
		# Not every skip is a good one.
		awk -v ipc="$2" -v npt="$3" -v name="$_name" -v machine="$1" '
			NR == FNR {
				if ($1 == "skip" && $2 == name && index($3, ipc) && index($4, npt)) {
					sub(/^[^\t]*\t+[^\t]*\t+[^\t]*\t+[^\t]*\t+/, "")
					expected[++n] = $0
				}
				next
			}
			{
				kind = $1
				$1 = ""
				if (kind == "skip") {
					kind = "fail"
					why = ": unexpected skip"
					for (i = 1; i <= n; i++)
						if (index($0, expected[i])) {
							kind = "skip"
							why = ""
						}
					$0 = $0 why
				}
				print kind " " machine "/" substr($0, 2)
			}' "$WB/tests" "$VM/$_name.results" >> "$SUMMARY"
		printf '      %-32s %s\n' "$_name" "$(awk '{ n[$1]++ } END {
			printf "%d passed, %d failed, %d skipped", n["pass"], n["fail"], n["skip"] }' "$VM/$_name.results")"
	done < "$VM/tests"
	_ended=$(vm_ended) || {
		record fail "$1: $(echo "$_ended" | head -n 1)"
		echo "$_ended" | sed 's/^/      | /'
	}
}

cmd_matrix()
{
	for _ipc in 0 1; do
		[ $_ipc -eq 0 ] || kvm_has_parameter || continue
		for _npt in 1 0; do
			_machine=ipc$_ipc-npt$_npt
			vm_new "$RESULTS/$_machine"
			step boot-$_machine "machine with gmem_in_place_conversion=$_ipc, nested paging $_npt" 0 \
				matrix_boot $_ipc $_npt || :
			matrix_judge $_machine $_ipc $_npt
		done
	done
}

summarize()
{
	say "Results, in build/results"
	sed -n 's/^fail /    FAILED  /p; s/^skip /    skipped /p' "$SUMMARY"
	awk '{ n[$1]++ } END { printf "%d passed, %d failed, %d skipped\n", n["pass"], n["fail"], n["skip"]
		exit n["fail"] > 0 || !n["pass"] }' "$SUMMARY"
}

cmd_test()
{
	_began=$(date +%s)
	cmd_deps
	mkdir -p "$RESULTS"
	: > "$SUMMARY"
	cmd_tree
	say "Checking the series"
	stage "series: patches, top-level files and tree agree" cmd_check || :
	stage "series: checkpatch --strict" cmd_checkpatch || :
	if stage "build" cmd_build; then
		stage "series: sparse and W=1" cmd_lint || :
		say "Booting"
		cmd_matrix
	fi
	note "the whole run took $(elapsed "$_began")"
	summarize
}

cmd_selftest()
{
	_params=''
	while [ "${1:-}" = --param ] && [ $# -ge 2 ]; do
		_params="$_params --param $2"
		shift 2
	done
	[ $# -ge 1 ] || die "selftest: name one of the kernel's KVM selftests"
	cmd_build
	_test=$1
	[ ! -e "$TREE/tools/testing/selftests/kvm/x86/$_test.c" ] || _test=x86/$_test
	step selftest "$_test" 0 wb_make selftests TESTS="$_test" || die "$1 does not build"
	shift
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

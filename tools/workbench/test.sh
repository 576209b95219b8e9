# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=dash
#
# The whole run: static checks, build, and the matrix of machines and tests that the file `tests` describes.
#
# Sets TESTS, the table; RUN, the directory of the run; and RESULTS, which RUN is renamed to at the end. Selects kernels
# (see build.sh), and sets VM to the machine being judged.

TESTS=$WB/tests
RESULTS=$BUILD/results

# machines [long]: list the machines of `wb test`, or those that take too long for it.
machines()
{
	awk -v kind="${1:-machine}" '$1 == kind { print $2 }' "$TESTS"
}

# machine_fields MACHINE: print its kernel and parameters.
machine_fields()
{
	awk -v name="$1" '$1 ~ /^(machine|long)$/ && $2 == name { $1 = $2 = ""; print }' "$TESTS"
}

# tests_of MACHINE: print its lines of the table, without the field MACHINES.
tests_of()
{
	awk -v machine="$1" '
		function fits(list,	part, n, i) {
			n = split(list, part, ",")
			for (i = 1; i <= n; i++) {
				gsub(/[*]/, ".*", part[i])
				gsub(/[?]/, ".", part[i])
				if (machine ~ "^" part[i] "$")
					return 1
			}
			return 0
		}
		/^(test|kunit|skip|gives|shows)/ && fits($3) {
			kind = $1
			name = $2
			sub(/^[^ \t]+[ \t]+[^ \t]+[ \t]+[^ \t]+[ \t]+/, "")
			print kind, name, $0
		}' "$TESTS"
}

# machine_kernel MACHINE: select its kernel.
machine_kernel()
{
	# shellcheck disable=SC2046 # the fields of the line
	set -- "$1" $(machine_fields "$1")
	[ $# -gt 1 ] || die "no machine '$1'; the machines are $( (machines; machines long) | tr '\n' ' ')"
	kernel_take "$2"
}

# List the kernels of the machines of `wb test` and of the benchmark, in the order in which they are built.
test_kernels()
{
	awk -v bench=$BENCH_KERNEL 'BEGIN { has[bench] = 1 }
		NR == FNR { if ($1 == "machine") has[$3] = 1; next } $1 in has { print $1 }' "$TESTS" "$WB/kernels"
}

# List the selftests that the machines of an architecture need.
test_programs()
{
	local machine

	for machine in $(machines; machines long); do
		if [ "$(machine_kernel "$machine"; echo "$KARCH")" = "$1" ]; then
			tests_of "$machine"
		fi
	done | awk '$1 == "test" && $5 ~ /\// && !seen[$5]++ { print $5 }'
}

# A run collects its results in a temporary directory, RUN, which is renamed to RESULTS at the end.
run_new()
{
	mkdir -p "$BUILD" "$LOGS"
	: > "$LOGS/failures"
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
	say "Results, in ${RESULTS#"$TOP"/}"
	# Print one line for all cases that a program skipped for the same reason.
	awk -F '\t' '
		/^skip / && !($1 in nr) { line[++lines] = $1 }
		/^skip / { nr[$1] += $2 != "" }
		END {
			for (i = 1; i <= lines; i++)
				print "    skipped " substr(line[i], 6) (nr[line[i]] ? " (cases: " nr[line[i]] ")" : "")
		}' "$RESULTS/summary"
	tail -n 30 "$LOGS/failures"
	awk -v dir="$RESULTS" -f "$WB/failures.awk" "$RESULTS/summary"
	sed -n 's/^fail /    FAILED  /p' "$RESULTS/summary"
	awk '{ n[$1]++ } END { printf "%d passed, %d failed, %d skipped\n", n["pass"], n["fail"], n["skip"]
		exit n["fail"] > 0 || !n["pass"] }' "$RESULTS/summary"
}

# record pass|fail TEXT
record()
{
	printf '%s %s\n' "$1" "$2" >> "$RUN/summary"
}

# stage NAME COMMAND...: run a check, and record it as one result.
stage()
{
	local name="$1"

	shift
	if ("$@"); then
		record pass "$name"
	else
		record fail "$name"
		return 1
	fi
}

# machine_boot MACHINE DIR [TEST]: plan and boot it in DIR, as the table says, with all its tests or just one.
machine_boot()
{
	local kind name secs program args file

	machine_kernel "$1"
	have_kernel
	tests_of "$1" > "$2/table"
	awk -v only="${3:-}" '($1 == "test" || $1 == "kunit") && (only == "" || $2 == only)' "$2/table" > "$2/tests"
	vm_new "$2"
	# shellcheck disable=SC2046 # the fields of the line
	set -- $(machine_fields "$1")
	shift
	vm_kvm "$@"
	VM_MEM=$(awk '$3 > max { max = $3 } END { print max }' "$VM/tests")
	VM_TIME=$(awk '{ sum += $4 } END { print sum + 120 }' "$VM/tests")
	while read -r kind name _ secs program args; do
		vm_plan mark "$name"
		case $kind:$program in
		kunit:*)
			vm_module_file "$program"
			vm_plan kunit "$name" "$program"
			continue ;;
		*:gmem-vmm)
			file=$(arch_out)/gmem-vmm/gmem-vmm
			case $args in
			*--kernel*)
				vm_file "$(kernel_image)" guest-kernel
				vm_file "$OUT/gmem-guest/initrd" guest-initrd ;;
			esac ;;
		*:gmem-top-test)
			vm_file "$(arch_out)/gmem-top/gmem-top"
			file=$(arch_out)/gmem-top/gmem-top-test ;;
		*:gmem-header-test)
			file=$(arch_out)/gmem-header/gmem-header-test ;;
		*)	file=$(arch_out)/selftests/$program ;;
		esac
		vm_file "$file"
		# shellcheck disable=SC2086 # a list of arguments
		vm_plan run "$name" "$secs" "/bin/$(basename "$program")" $args
	done < "$VM/tests"
	vm_kvm_unload
	vm_run
}

# test_judge MACHINE NAME: add a test's results to the summary, and write its KTAP file.
test_judge()
{
	local status splat ok='ok' skip='' shows

	status=$(awk -v name="$2" '$1 == "exit" && $2 == name { print $3 }' "$VM/verdict")
	splat=$(sed -n "s/^splat $2 //p" "$VM/verdict" | head -n 1)
	awk -f "$WB/ktap.awk" -v machine="$1" -v test="$2" -v status="$status" -v splat="$splat" \
		"$VM/table" "$VM/$2" > "$VM/results"
	cat "$VM/results" >> "$RUN/summary"
	! grep -q '^fail ' "$VM/results" || ok='not ok'
	grep -q '^pass ' "$VM/results" || [ "$ok" != ok ] || skip=' # SKIP'
	{
		printf 'KTAP version 1\n1..1\n'
		sed 's/^/# /' "$VM/$2"
		sed 's/^/# result: /' "$VM/results"
		echo "$ok 1 $2$skip"
	} > "$VM/$2.ktap"
	printf '      %-36s %s\n' "$2" "$(awk '{ n[$1]++ } END {
		printf "%d passed, %d failed, %d skipped", n["pass"], n["fail"], n["skip"] }' "$VM/results")"
	shows=$(sed -n "s/^shows $2 //p" "$VM/table")
	[ -z "$shows" ] || awk -v shows="$shows" '$0 ~ shows { print "        " $0 }' "$VM/$2"
}

# machine_judge MACHINE: collect its results, from its directory in the run.
machine_judge()
{
	local kind name rest ended

	VM=$RUN/$1
	note "machine $1"
	touch "$VM/verdict" "$VM/output"
	while read -r kind name rest; do
		: > "$VM/$name"
	done < "$VM/tests"
	awk -v dir="$VM" '/^\036/ { file = dir "/" substr($0, 2); next } file != "" { print > file }' "$VM/output"
	while read -r kind name rest; do
		test_judge "$1" "$name"
	done < "$VM/tests"
	ended=$(vm_ended "$RESULTS/$1") || {
		record fail "$1: $(echo "$ended" | head -n 1)"
		echo "$ended" | sed 's/^/      | /'
	}
}

# machines_boot MACHINE...: boot as many at a time as there are processors; each lane takes the next one that is left.
# `bench` is the benchmark's machine.
machines_boot()
{
	local lane=0 machine

	while [ $((lane += 1)) -le "$JOBS" ]; do
		for machine; do
			mkdir "$RUN/$machine" 2> /dev/null || continue
			if [ "$machine" = bench ]; then
				(bench_run "$RUN/bench")
			else
				(machine_boot "$machine" "$RUN/$machine")
			fi || echo "$machine: exit status $?"
			echo "  ENDED $machine"
		done &
	done
	wait
}

run_machines()
{
	local judged

	# Run the probe now, or several machines would run it at the same time.
	vm_accel > /dev/null
	step machines "$# machines" $# machines_boot "$@"
	for judged; do
		if [ "$judged" = bench ]; then
			bench_judge
		else
			machine_judge "$judged"
		fi
	done
}

cmd_matrix()
{
	local machine kernel needed=' '

	# shellcheck disable=SC2046 # a list of machines
	[ $# -gt 0 ] || set -- $(machines)
	# The selftests come from the kernel that is named after its architecture.
	for machine; do
		machine_kernel "$machine"
		needed="$needed$KERNEL $KARCH "
	done
	for kernel in $(kernel_names); do
		case $needed in *" $kernel "*) cmd_build "$kernel" ;; esac
	done
	run_new
	run_machines "$@"
	run_end
}

# was_built KERNEL: check whether it was built in this run.
was_built()
{
	grep -qx "pass build $1" "$RUN/summary"
}

cmd_test()
{
	local booting='' began kernel machine

	began=$(date +%s)
	cmd_deps
	cmd_tree
	run_new
	say "Checking the series"
	stage "series: patches, top-level files and tree agree" cmd_check || :
	stage "series: checkpatch --strict" cmd_checkpatch || :
	stage "series: apply and undo" apply_check || :
	stage "mutants apply" cmd_mutants --check || :
	for kernel in $(test_kernels); do
		stage "build $kernel" cmd_build "$kernel" || :
	done
	stage "sparse, W=1 and shellcheck" cmd_lint || :
	say "Booting"
	for machine in $(machines); do
		machine_kernel "$machine"
		# The selftests come from the kernel that is named after its architecture.
		if was_built "$KERNEL" && was_built "$KARCH"; then
			booting="$booting $machine"
		else
			record fail "$machine: its kernel was not built"
		fi
	done
	if was_built $BENCH_KERNEL && was_built x86_64; then
		# First, as it takes minutes on one processor: started last, it would leave the others idle.
		booting="bench $booting"
	else
		record fail "bench: its kernel was not built"
	fi
	# shellcheck disable=SC2086 # a list of machines
	[ -z "$booting" ] || run_machines $booting
	note "the whole run took $(elapsed "$began")"
	run_end
}

cmd_selftest()
{
	local params='' test='' dir

	while [ "${1:-}" = --param ] && [ $# -ge 2 ]; do
		params="$params --param $2"
		shift 2
	done
	[ $# -ge 1 ] || die "selftest: name one of the kernel's selftests"
	have_tree
	for dir in '' kvm/ kvm/x86/; do
		[ ! -e "$TREE/tools/testing/selftests/$dir$1.c" ] || test=$dir$1
	done
	[ -n "$test" ] || die "selftest: no $1.c in tools/testing/selftests, kvm/ or kvm/x86/ there"
	shift
	kernel_build x86_64 "$test"
	# shellcheck disable=SC2086 # a list of options
	cmd_boot $params "$OUT/selftests/$test" "$@"
}

cmd_demo()
{
	cmd_deps demo
	cmd_tree
	cmd_build
	[ -x "$OUT/gmem-vmm/gmem-vmm" ] || die "the example VMM was not built"
	say "Booting, with kvm.gmem_in_place_conversion=1, to run the example VMM"
	# Run it in a subshell, as cmd_boot exits.
	(cmd_boot --param kvm.gmem_in_place_conversion=1 "$OUT/gmem-vmm/gmem-vmm" "$@") || exit
	say "Booting again, for a Linux guest that converts its own memory"
	cp -f "$(kernel_image)" "$OUT/gmem-guest/guest-kernel"
	cmd_boot --param kvm.gmem_in_place_conversion=1 --file "$OUT/gmem-guest/guest-kernel" \
		--file "$OUT/gmem-guest/initrd" "$OUT/gmem-vmm/gmem-vmm" --kernel /bin/guest-kernel --initrd /bin/initrd \
		--memory 128
}

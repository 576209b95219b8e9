# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=dash
#
# Mutants: each entry of the table `mutants` breaks one of the kernel's rules, and names the test that has to fail then
# and the machine to run it in. A mutant that survives shows a rule that no test guards.
#
#	mutants		the table, see there
#	mutants.awk	reads the table
#	function.awk	finds a function in a C file
#
# Sets MUTANTS, a directory with the parsed table, MUTANTS_KILLED, a file that remembers which were killed, MUTANT_FILES,
# files of build/linux that differ from HEAD, MUTANT_MACHINES, the processes that boot machines, MUTATED, the kernels
# built with a mutant, and RUN and RESULTS for test.sh.

MUTANTS=$BUILD/mutants.table
MUTANTS_KILLED=$BUILD/mutants.killed
MUTANT_FILES=''
MUTANT_MACHINES=''
MUTATED=''

# mutants_read: write the table as lines "NAME TEST MACHINE FILE:FUNCTION..." to a file `index`, and the edits next to
# it.
mutants_read()
{
	rm -rf "$MUTANTS"
	mkdir -p "$MUTANTS"
	awk -v dir="$MUTANTS" -f "$WB/mutants.awk" "$WB/mutants" > "$MUTANTS/index"
}

# mutant_edit NAME N FILE:FUNCTION: write the edited file to `file`, or print why that is not possible and fail.
mutant_edit()
{
	local dir="$MUTANTS" name="$1" nr="$2" file="$TREE/${3%:*}" function="${3#*:}" range first last

	[ -e "$file" ] || { echo "mutant $name: no file ${3%:*}"; return 1; }
	range=$(awk -v name="$function" -f "$WB/function.awk" "$file")
	[ -n "$range" ] || { echo "mutant $name: no $function in ${3%:*}"; return 1; }
	first=${range%,*} last=${range#*,}
	sed -n "${range}p" "$file" > "$dir/old"
	sed -f "$dir/$name.$nr.sed" "$dir/old" > "$dir/new" 2> "$dir/sed.err" ||
		{ echo "mutant $name: $(head -n 1 "$dir/sed.err")"; return 1; }
	if diff -u "$dir/old" "$dir/new" > "$dir/diff"; then
		echo "mutant $name: the edit changes nothing in $function"
		return 1
	fi
	if [ "$(grep -c '^@@' "$dir/diff")" -ne 1 ]; then
		echo "mutant $name: the edit changes $function in more than one place"
		return 1
	fi
	if grep -q '^-[[:space:]]*[/ ][*]' "$dir/diff"; then
		echo "mutant $name: the edit changes a comment of $function"
		return 1
	fi
	{ head -n $((first - 1)) "$file"; cat "$dir/new"; tail -n +$((last + 1)) "$file"; } > "$dir/file"
}

# mutant_apply NAME FILE:FUNCTION...: apply it to build/linux.
mutant_apply()
{
	local name="$1" nr=0 place

	shift
	for place; do
		nr=$((nr + 1))
		mutant_edit "$name" $nr "$place" || return 1
		MUTANT_FILES="$MUTANT_FILES ${place%:*}"
		cat "$MUTANTS/file" > "$TREE/${place%:*}"
	done
}

mutant_restore()
{
	# shellcheck disable=SC2086 # a list of files
	[ -z "$MUTANT_FILES" ] || tgit checkout -q -- $MUTANT_FILES
	MUTANT_FILES=''
}

# mutants_check: check that every mutant applies to the current build/linux, and that its test exists.
mutants_check()
{
	local dir="$BUILD/mutants.check" name test machine places place nr bad=0

	# Don't touch the table of a run that may be in progress.
	MUTANTS=$dir
	mutants_read || return 1
	for machine in $(machines); do
		tests_of "$machine" | awk -v machine="$machine" '$1 == "test" || $1 == "kunit" { print $2, machine }'
	done > "$dir/tests"
	echo "bench $BENCH_KERNEL" >> "$dir/tests"
	while read -r name test machine places; do
		grep -qx "$test $machine" "$dir/tests" || { echo "mutant $name: no test $test in $machine"; bad=1; }
		nr=0
		for place in $places; do
			nr=$((nr + 1))
			mutant_edit "$name" $nr "$place" || bad=1
		done
	done < "$dir/index"
	return $bad
}

# mutant_kernel TEST MACHINE: select the kernel that the test runs on.
mutant_kernel()
{
	if [ "$1" = bench ]; then
		kernel_take "$2"
	else
		machine_kernel "$2"
	fi
}

# mutant_until_failure TEST MACHINE: boot the machine to run the test, and stop it once a case has failed.
mutant_until_failure()
{
	local dir="$RUN/$2" pid

	machine_boot "$2" "$dir" "$1" &
	pid=$!
	while kill -0 $pid 2> /dev/null; do
		if grep -v '# SKIP' "$dir/output" 2> /dev/null | grep -q '^not ok '; then
			kill_tree $pid
		fi
		sleep 0.2
	done
	wait $pid || :
	vm_discard "$dir"
}

# mutant_boot NAME TEST MACHINE: run the test, with its results in a separate RUN.
mutant_boot()
{
	RUN=$RUN/$1
	mkdir -p "$RUN/$3"
	: > "$RUN/summary"
	if [ "$2" = bench ]; then
		mkdir "$RUN/bench"
		(bench_run "$RUN/bench") || :
		bench_judge
		return
	fi
	mutant_until_failure "$2" "$3" > "$RUN/boot.log" 2>&1
	machine_judge "$3" > "$RUN/judge.log" 2>&1
}

# mutant_key NAME: print the line of MUTANTS_KILLED which says that this mutant was killed with the present sources of
# the kernel and of the test.
mutant_key()
{
	local name test machine places program

	read -r name test machine places <<-END
		$(grep "^$1 " "$MUTANTS/index")
	END
	program=$(tests_of "$machine" | awk -v test="$test" '$1 == "test" && $2 == test { print $5 }')
	# shellcheck disable=SC2046 # a list of files
	echo "$name $({
		echo "$test $machine $places $(machine_fields "$machine")"
		tests_of "$machine" | awk -v test="$test" '$2 == test'
		cat "$MUTANTS/$name".*.sed
		tgit ls-tree -r HEAD -- $(lint_files)
		case $test:$program in
		bench:*)	cat "$TOP"/tools/gmem-bench/*.[ch] "$WB/bench.expected" ;;
		*:gmem-vmm)	cat "$TOP"/include/gmem.h "$TOP"/tools/gmem-vmm/*.c "$TOP"/tools/gmem-vmm/*/*.[ch] ;;
		*:*/*)		(cd "$TREE/tools/testing/selftests" && cat "$program.c" kvm/lib/*.c kvm/lib/x86/*.c \
					kvm/include/*.h kvm/include/x86/*.h) ;;
		esac
	} | sha256sum | cut -d ' ' -f 1)"
}

# mutant_machine NAME TEST MACHINE BEGAN: boot it, and record whether the test kills it.
mutant_machine()
{
	local name="$1" test="$2" machine="$3" verdict=fail text

	(mutant_boot "$name" "$test" "$machine")
	# Don't mistake a failure of the workbench for a kill.
	if grep -q '^wb: ' "$RUN/$name/boot.log"; then
		text="mutant $name: $(sed -n 's/^wb: //p' "$RUN/$name/boot.log")"
	elif grep -q '^fail ' "$RUN/$name/summary"; then
		verdict=pass
		mutant_key "$name" >> "$MUTANTS_KILLED"
		text="mutant $name: killed: $(sed -n 's/^fail //p' "$RUN/$name/summary" | head -n 1)"
	else
		text="mutant $name: survived $test in $machine"
	fi
	record $verdict "$text"
	note "$text ($(elapsed "$4"))"
}

# mutants_wait NR: wait until no more than that many machines run.
mutants_wait()
{
	local pid left nr

	while :; do
		left='' nr=0
		for pid in $MUTANT_MACHINES; do
			! kill -0 "$pid" 2> /dev/null || left="$left $pid" nr=$((nr + 1))
		done
		MUTANT_MACHINES=$left
		[ $nr -gt "$1" ] || return 0
		sleep 0.2
	done
}

# Print what to build: if only KVM differs, its modules, which takes a third of the time.
mutant_target()
{
	local file

	for file in $MUTANT_FILES; do
		case $file in
		virt/kvm/*|arch/x86/kvm/*|include/*/kvm*) ;;
		*)	echo kernel
			return ;;
		esac
	done
	echo modules
}

# mutant_build NAME TEST MACHINE FILE:FUNCTION...: apply it, and build its kernel. On failure, print the reason last.
mutant_build()
{
	local name="$1" test="$2" machine="$3" rc=0

	shift 3
	mutant_kernel "$test" "$machine"
	[ -e "$(kernel_image)" ] ||
		{ echo "mutant $name: the kernel $KERNEL has not been built yet: run 'wb build $KERNEL'"; return 1; }
	mutant_apply "$name" "$@" || return 1
	case " $MUTATED " in
	*" $KERNEL "*) ;;
	*)	MUTATED="$MUTATED $KERNEL" ;;
	esac
	hold build
	kernel_make "$(mutant_target)" > "$LOGS/mutant-build.log" 2>&1 || rc=$?
	release
	[ $rc -eq 0 ] || echo "mutant $name: does not build: $(grep -m 1 -i 'error' "$LOGS/mutant-build.log")"
	return $rc
}

# mutant_run NAME TEST MACHINE FILE:FUNCTION...: build it, and boot it while the next ones are built.
mutant_run()
{
	local built=0 target began pid

	began=$(date +%s)
	mutant_build "$@" > "$LOGS/mutant.log" 2>&1 || built=$?
	target=$(mutant_target)
	mutant_restore
	if [ $built -ne 0 ]; then
		record fail "$(tail -n 1 "$LOGS/mutant.log")"
		note "$(tail -n 1 "$LOGS/mutant.log")"
		return
	fi
	mutants_wait $((JOBS - 1))
	mutant_machine "$1" "$2" "$3" "$began" &
	pid=$!
	MUTANT_MACHINES="$MUTANT_MACHINES $pid"
	# The next mutant replaces the files that this machine is made from.
	while kill -0 $pid 2> /dev/null && [ ! -e "$RUN/$1/$3/packed" ]; do
		sleep 0.1
	done
	# Rebuild the image without the mutant, as the next ones may rebuild only modules.
	[ "$target" != kernel ] || kernel_make kernel > "$LOGS/mutant-build.log" 2>&1 ||
		die "the kernel does not build without mutant $1"
}

# Rebuild, or the kernels in build/linux would be left with the last mutant.
mutants_undo()
{
	local kernel

	for kernel in $MUTATED; do
		kernel_take "$kernel"
		kernel_make kernel || return 1
	done
}

mutants_end()
{
	local pid

	for pid in $MUTANT_MACHINES; do
		kill_tree "$pid"
	done
	mutant_restore
	rm -rf "$RUN"
}

# mutants_all [NAME...]: build one after the other, and boot as many at a time as there are processors.
mutants_all()
{
	local name named="$*"

	have_kernel
	tree_clean || die "build/linux has uncommitted edits or new files: commit them first"
	mutants_read || die "the table of mutants cannot be read"
	# shellcheck disable=SC2046 # a list of mutants
	[ $# -gt 0 ] || set -- $(cut -d ' ' -f 1 "$MUTANTS/index")
	for name; do
		grep -q "^$name " "$MUTANTS/index" || die "no mutant '$name'; see 'wb mutants --list'"
	done
	# The tests may have changed as well.
	# shellcheck disable=SC2046 # a list of tests
	kernel_build x86_64 $(test_programs x86_64)
	run_new
	trap mutants_end EXIT
	trap 'note "a mutant is still built in; to rebuild: wb build$MUTATED"; exit 130' INT TERM
	say "Mutants: $#"
	mkdir -p "$LOGS"
	for name; do
		if [ -z "$named" ] && grep -qsx "$(mutant_key "$name")" "$MUTANTS_KILLED"; then
			record pass "mutant $name: killed in an earlier run"
			continue
		fi
		# shellcheck disable=SC2046 # the fields of the line
		mutant_run $(awk -v name="$name" '$1 == name' "$MUTANTS/index")
	done
	mutants_wait 0
	step mutants-undo "rebuild without mutants" 0 mutants_undo ||
		record fail "a mutant is still built in; to rebuild: wb build$MUTATED"
	RESULTS=$BUILD/mutants
	run_end
}

cmd_mutants()
{
	case ${1:-} in
	--list)	awk -v list=1 -f "$WB/mutants.awk" "$WB/mutants"
		return ;;
	--check)
		have_tree
		step mutants-check "mutants apply" 0 mutants_check
		return ;;
	-*)	die "mutants: no option '$1'; see 'wb help'" ;;
	esac
	have_tree
	mutants_all "$@"
}

# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=sh
#
# Mutants: each patch in mutants/ removes one guard of the kernel's, and names the test that has to fail then and the
# machine that it fails in. A mutant that survives shows a guard that no test guards.

# mutant_field NAME FIELD: from the words before the patch.
mutant_field()
{
	sed -n "s/^$2: //p; /^diff /q" "$WB/mutants/$1.patch"
}

mutant_restore()
{
	[ -z "$MUTANT" ] || tgit apply -R "$WB/mutants/$MUTANT.patch"
	MUTANT=
}

# mutant_boot TEST MACHINE: sets RUN apart, and the test's results in it.
mutant_boot()
{
	RUN=$RUN/$MUTANT
	mkdir -p "$RUN/$2"
	: > "$RUN/summary"
	(machine_boot "$2" "$RUN/$2" "$1") > "$RUN/boot.log" 2>&1 || :
	machine_judge "$2" > "$RUN/judge.log" 2>&1
}

# mutant_run NAME TEST MACHINE
mutant_run()
{
	_began=$(date +%s)
	tgit apply "$WB/mutants/$1.patch" || { record fail "mutant $1: does not apply"; return; }
	MUTANT=$1
	machine_kernel "$3"
	case " $MUTATED " in
	*" $KERNEL "*) ;;
	*)	MUTATED="$MUTATED $KERNEL" ;;
	esac
	hold build
	_built=0
	kernel_make kernel > "$LOGS/mutant.log" 2>&1 || _built=$?
	release
	if [ $_built -eq 0 ]; then
		(mutant_boot "$2" "$3")
		if grep -q '^fail ' "$RUN/$1/summary"; then
			record pass "mutant $1: killed: $(sed -n 's/^fail //p' "$RUN/$1/summary" | head -n 1)"
		else
			record fail "mutant $1: survived $2 in $3"
		fi
	else
		record fail "mutant $1: does not build: $(grep -m 1 'error:' "$LOGS/mutant.log")"
	fi
	mutant_restore
	note "$(tail -n 1 "$RUN/summary" | cut -d' ' -f2-) ($(elapsed "$_began"))"
}

# What is built is the last mutant otherwise.
mutants_undo()
{
	for _kernel in $MUTATED; do
		kernel_take "$_kernel"
		kernel_make kernel || return 1
	done
}

cmd_mutants()
{
	have_tree
	have_kernel
	tree_clean || die "build/linux has edits or new files that are not committed"
	# shellcheck disable=SC2046 # a list of mutants
	[ $# -gt 0 ] || set -- $(cd "$WB/mutants" && printf '%s\n' *.patch | sed 's/\.patch$//')
	MUTANT='' MUTATED=''
	run_new
	trap 'mutant_restore; rm -rf "$RUN"' EXIT
	trap 'note "build what was a mutant again: wb build$MUTATED"; exit 130' INT TERM
	say "Mutants: $#"
	mkdir -p "$LOGS"
	for _mutant; do
		[ -e "$WB/mutants/$_mutant.patch" ] || die "no mutants/$_mutant.patch"
		# shellcheck disable=SC2046 # test and machine
		mutant_run "$_mutant" $(mutant_field "$_mutant" Test)
	done
	step mutants-undo "kernels without mutants again" 0 mutants_undo || die "the kernels are mutants: run 'wb build'"
	RESULTS=$BUILD/mutants
	run_end
}

# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=dash
#
# Checks that take too long for `wb test`, and the selftests of each part of the series at the end of that part.
#
# Sets RESULTS for test.sh. In subshells, sets BUILD and TREE to a directory and a tree for parts, and RUN and TESTS for
# test.sh.

# The steps of `wb long`, one wb command per line.
long_steps()
{
	echo build stock
	echo "matrix $(machines long | tr '\n' ' ')"
	echo mutants
	echo each
	echo parts
	echo packages --test
}

# long_step [STEP...]: print these steps, or all of them.
long_step()
{
	local step

	long_steps | while read -r step; do
		case " $* " in
		"  "|*" ${step%% *} "*)	echo "$step" ;;
		esac
	done
}

cmd_long()
{
	local step began

	for step; do
		long_steps | cut -d ' ' -f 1 | grep -qx -e "$step" ||
			die "long: no step '$step'; the steps are $(long_steps | cut -d ' ' -f 1 | tr '\n' ' ')"
	done
	have_tree
	long_step "$@" > "$BUILD/long.steps"
	run_new
	# Leave standard input to the commands.
	while read -r step <&7; do
		began=$(date +%s)
		say "wb $step"
		# shellcheck disable=SC2086 # a command and its arguments
		stage "wb $step" "$WB/wb" $step 7<&- || :
		note "wb $step took $(elapsed "$began")"
	done 7< "$BUILD/long.steps"
	RESULTS=$BUILD/long
	run_end
}

# series_parts: print lines "PART PATCHES": the number of patches up to the end of that part.
series_parts()
{
	awk '
		/^# [A-Z]\. / { if (part) print part, nr; part = substr($2, 1, 1) }
		/^[^#]/ { nr++ }
		END { print part, nr }' "$PATCHES/series"
}

# part_knows TEXT FILE...: check whether the text occurs in these files at the end of the part.
part_knows()
{
	local text="$1"

	shift
	tgit grep -q "$text" HEAD -- "$@"
}

# part_tests: print the table `tests` without tests that do not exist yet at the end of the part, machines whose
# parameters do not exist yet, machines of kernels other than x86_64, and tests of programs that are not selftests.
part_tests()
{
	local kind name rest

	while read -r kind name rest; do
		# shellcheck disable=SC2086 # the fields of the line
		case $kind in
		machine)
			case $rest in
			"x86_64"*)	;;
			*)		continue ;;
			esac
			case $rest in
			*gmem_*)	part_knows 'module_param.*(gmem_in_place_conversion' virt/kvm || continue ;;
			esac
			case $rest in
			*gmem_hugepages*) part_knows 'module_param.*(gmem_hugepages' virt/kvm || continue ;;
			esac ;;
		test)
			set -- $rest
			[ -e "$TREE/tools/testing/selftests/$4.c" ] || continue ;;
		kunit)
			set -- $rest
			part_knows "$4" virt/kvm arch/x86/kvm || continue ;;
		esac
		printf '%s\t%s\t%s\n' "$kind" "$name" "$rest"
	done < "$WB/tests"
}

# part_build: build the kernel and the selftests.
part_build()
{
	local configs

	configs=$(kernel_fields "$KERNEL" | cut -d ' ' -f 5-)
	part_knows KVM_GMEM_KUNIT_TEST arch/x86/kvm/Kconfig || configs=${configs% series}
	# shellcheck disable=SC2046 # a list of tests
	kernel_make CONFIGS="$configs" kernel &&
		kernel_make CONFIGS="$configs" selftests init TESTS="$(test_programs "$KARCH" | tr '\n' ' ')"
}

# part_test PART PATCHES: run the selftests that exist at the end of the part, on the kernel x86_64, in a separate tree.
part_test()
{
	local series="$TREE" commit machine

	commit=$(tgit rev-list --reverse base..HEAD | sed -n "${2}p")
	BUILD=$BUILD/parts
	TREE=$BUILD/linux
	mkdir -p "$BUILD"
	[ -e "$TREE" ] || step parts-tree "a tree for parts" 0 git clone -q --shared --no-tags "$series" "$TREE" ||
		return 1
	{ tgit fetch -q "$series" "$commit" && tgit checkout -q -f --detach "$commit"; } || return 1
	kernel_take x86_64
	part_tests > "$BUILD/tests"
	TESTS=$BUILD/tests
	step "part-$1" "kernel and selftests at the end of part $1" - part_build || return 1
	RUN=$RUN/part-$1
	mkdir -p "$RUN"
	: > "$RUN/summary"
	# shellcheck disable=SC2046 # a list of machines
	run_machines $(machines)
	! grep -q '^fail ' "$RUN/summary" && grep -q '^pass ' "$RUN/summary"
}

cmd_parts()
{
	local part nr

	have_tree
	tree_clean || die "build/linux has uncommitted edits or new files: commit them first"
	series_parts > "$BUILD/parts.list"
	for part; do
		grep -q "^$part " "$BUILD/parts.list" ||
			die "parts: no part '$part'; the parts are $(cut -d ' ' -f 1 "$BUILD/parts.list" | tr '\n' ' ')"
	done
	run_new
	while read -r part nr; do
		case " $* " in
		"  "|*" $part "*) ;;
		*)	continue ;;
		esac
		say "Part $part: the first $nr patches of the series"
		(part_test "$part" "$nr") || :
		if [ -s "$RUN/part-$part/summary" ]; then
			sed "s/ / part $part: /" "$RUN/part-$part/summary" >> "$RUN/summary"
		else
			record fail "part $part: nothing was run"
		fi
	done < "$BUILD/parts.list"
	RESULTS=$BUILD/parts.results
	run_end
}

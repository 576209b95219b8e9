# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=sh
#
# W=1 and sparse over what the series touches, commit by commit, in a tree and a build folder of their own.

STEPS=$BUILD/steps
STEPS_OUT=$BUILD/steps.out

# What to build: all of KVM, which is one folder to kbuild, and each other source file the series touches.
lint_targets()
{
	echo arch/x86/kvm/
	series_touched AM | awk '
		/^(virt|arch\/x86)\/kvm\// || /^(tools|Documentation|samples)\// || !/\.c$/ { next }
		/^arch\// && !/^arch\/x86\// { next }
		{ sub(/c$/, "o"); print }'
}

lint_tree()
{
	[ -e "$STEPS" ] || git clone -q --shared --no-tags "$TREE" "$STEPS" || return 1
	git -C "$STEPS" fetch -q "$TREE" "$1" && git -C "$STEPS" checkout -q -f --detach "$1"
}

# lint_build COMMIT FRAGMENT...: build it with all warnings on.
lint_build()
{
	lint_tree "$1" || return 1
	shift
	make -f "$WB/Makefile" TREE="$STEPS" OUT="$STEPS_OUT" ARCH=x86_64 CONFIGS="$*" config || return 1
	# Warnings count in the files that the series touches: make sure that these are compiled now.
	series_touched AM | sed -n 's/\.c$/.o/p' | (cd "$STEPS_OUT" && xargs rm -f)
	# shellcheck disable=SC2046 # a list of targets
	make -C "$STEPS" O="$STEPS_OUT" ARCH=x86_64 -j "$JOBS" W=1 C=1 prepare $(lint_targets_at)
}

# A file that a later patch adds is not there yet.
lint_targets_at()
{
	for _target in $(lint_targets); do
		[ ! -e "$STEPS/$_target" ] && [ ! -e "$STEPS/${_target%.o}.c" ] || echo "$_target"
	done
}

# lint_warnings LOG: the warnings in files of the series, without line numbers, which any patch shifts.
lint_warnings()
{
	series_touched AM > "$STEPS_OUT/touched"
	sed -n 's,^\(\.\./\)*\([^ :]*\):[0-9:]* \(warning\|error\): ,\2: ,p' "$1" | sed "s,^$STEPS/,,; s,^arch/x86/kvm/\(\.\./\)*virt,virt," |
		awk -F : 'NR == FNR { touched[$1]; next } $1 in touched' "$STEPS_OUT/touched" - | sort
}

# lint_commit COMMIT NAME FRAGMENT...: its warnings, in $STEPS_OUT/warnings-COMMIT; nothing is done twice.
lint_commit()
{
	_commit=$(tgit rev-parse "$1") _lint_name=$2
	# The base's warnings are looked at in the files of the whole series.
	_key=$_commit-$(series_touched AM | cksum | cut -d' ' -f1)
	WARNINGS=$STEPS_OUT/warnings-$_key
	[ ! -e "$WARNINGS" ] || return 0
	shift 2
	_expect=$KBUILD_LINES
	[ ! -e "$STEPS_OUT/.config" ] || _expect=0
	step "lint-$_lint_name" "$_lint_name: W=1 and sparse" $_expect lint_build "$_commit" "$@" lint || return 1
	lint_warnings "$LOGS/lint-$_lint_name.log" > "$WARNINGS.new"
	mv "$WARNINGS.new" "$WARNINGS"
}

# lint_commits COMMIT...: none of them has a warning that the base does not have.
lint_commits()
{
	have_tree
	series_exists || { note "patches/ is empty: nothing to check"; return 0; }
	[ -e "$STEPS" ] || need_disk "$BUILD" 4000 "a second tree and build for the warnings"
	mkdir -p "$STEPS_OUT"
	_bad=0
	lint_commit base base base x86_64 debug || return 1
	_base_warnings=$WARNINGS
	for _step; do
		_subject=$(tgit log -1 --format=%f "$_step")
		lint_commit "$_step" "$_subject" base x86_64 debug || { _bad=1; continue; }
		# A second warning of a kind that the base has once is new too.
		if awk 'FILENAME == ARGV[1] { base[$0]++; next } ++n[$0] > base[$0] { print; new++ } END { exit !new }' \
			"$_base_warnings" "$WARNINGS"; then
			note "$_subject: warnings that the base does not have (log: $LOGS/lint-$_subject.log)"
			_bad=1
		fi
	done
	return $_bad
}

cmd_lint()
{
	lint_commits "$(tgit rev-parse HEAD)"
}

cmd_each()
{
	# shellcheck disable=SC2046 # a list of commits
	lint_commits $(tgit rev-list --reverse base..HEAD)
}

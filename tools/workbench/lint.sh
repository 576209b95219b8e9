# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=dash
#
# Run W=1 and sparse on the files that the series touches, in a separate tree and build directory: a warning that the
# base does not have is an error.
#
# Sets STEPS and STEPS_OUT, that tree and directory, and WARNINGS, a file with the warnings of the last commit checked.
# each_build sets KTREE and OUT, see kernel_take, in a subshell.

STEPS=$BUILD/steps
STEPS_OUT=$BUILD/steps.out

# List the files of the kernel proper that the series changes.
lint_files()
{
	series_touched AMD | grep -v '^tools/\|^Documentation/\|^MAINTAINERS$'
}

# lint_objects [FILE...]: print the objects of the C files that the series touches, or of these files, if they exist in
# this commit. Objects of KVM are built from the architecture's KVM directory.
lint_objects()
{
	local file

	if [ $# -eq 0 ]; then
		series_touched AM
	else
		printf '%s\n' "$@"
	fi | while read -r file; do
		[ -e "$STEPS/$file" ] || continue
		case $file in
		tools/*|samples/*)	;;
		virt/kvm/*.c)		echo "arch/x86/kvm/../../../${file%c}o" ;;
		arch/x86/*.c)		echo "${file%c}o" ;;
		arch/*)			;;
		*.c)			echo "${file%c}o" ;;
		esac
	done
}

lint_make()
{
	make -C "$STEPS" O="$STEPS_OUT" ARCH=x86_64 -j "$JOBS" W=1 "$@"
}

# lint_build COMMIT TARGET [FILE...]: print all warnings of the touched files, or of these. If TARGET is not empty, it
# has to build as well, and only differences from the last build are compiled, which suffices for consecutive commits.
lint_build()
{
	local commit="$1" target="$2" partly="$STEPS_OUT/partly"

	shift 2
	[ -e "$STEPS" ] || git clone -q --shared --no-tags "$TREE" "$STEPS" || return 1
	git -C "$STEPS" fetch -q "$TREE" "$commit" && git -C "$STEPS" checkout -q -f --detach "$commit" || return 1
	make -f "$WB/Makefile" TREE="$STEPS" OUT="$STEPS_OUT" ARCH=x86_64 \
		CONFIGS="base memcg x86_64 debug confidential lint" config || return 1
	# Commits without this option ignore it; in the others, gmem_test_hooks.c compiles only with it.
	"$STEPS/scripts/config" --file "$STEPS_OUT/.config" --enable KVM_GMEM_TEST_HOOKS
	lint_make olddefconfig || return 1
	lint_objects "$@" > "$STEPS_OUT/objects"
	# Recompile: a file that is up to date gives no warnings, and those of an interrupted build are lost.
	[ -n "$target" ] && [ ! -e "$partly" ] || (cd "$STEPS_OUT" && xargs rm -f < objects)
	touch "$partly"
	lint_make prepare || return 1
	# shellcheck disable=SC2046 # a list of objects
	[ ! -s "$STEPS_OUT/objects" ] || lint_make C=1 CHECK="$WB/sparse" $(cat "$STEPS_OUT/objects") || return 1
	[ -z "$target" ] || lint_make "$target" || return 1
	rm "$partly"
}

# lint_warnings LOG: print the warnings in files of the series, without line numbers, as any patch shifts those.
lint_warnings()
{
	series_touched AM > "$STEPS_OUT/touched"
	sed -n 's,^\([^ :]*\):[0-9:]* \(warning\|error\): ,\1: ,p; s,^[Ww]arning: \([^ :]*\):[0-9]*:* ,\1: ,p' "$1" |
		sed "s,^$STEPS/,,; s,^\(\.\./\)*,,; s,^arch/x86/kvm/\(\.\./\)*virt,virt," |
		awk -F : 'NR == FNR { touched[$1]; next } $1 in touched' "$STEPS_OUT/touched" - | sort
}

# lint_commit COMMIT NAME TARGET [FILE...]: set WARNINGS; compile only if that has not been done before.
lint_commit()
{
	local commit name="$2" target="$3"

	commit=$(tgit rev-parse "$1")
	shift 3
	# Name it after the compiled files, so that a reworded commit need not be compiled again.
	# shellcheck disable=SC2046 # a list of files
	WARNINGS=$STEPS_OUT/warnings-$({ tgit ls-tree -r "$commit" -- $(lint_files); echo "$*"; } |
		cksum | cut -d' ' -f1)${target:+-built}
	[ ! -e "$WARNINGS" ] || return 0
	step "lint-$name" "$name" 0 lint_build "$commit" "$target" "$@" || return 1
	lint_warnings "$LOGS/lint-$name.log" > "$WARNINGS.new"
	mv "$WARNINGS.new" "$WARNINGS"
}

# lint_base: set WARNINGS to the warnings of the base, for the files that currently have some in WARNINGS.
lint_base()
{
	# shellcheck disable=SC2046 # a list of files
	set -- $(cut -d : -f 1 "$WARNINGS" | sort -u)
	# Only the compiler knows which files include a header, so compile all that the series touches.
	case " $*" in *.h*) set -- ;; esac
	lint_commit base base '' "$@"
}

# lint_commits TARGET COMMIT...: check that none of them has a warning that the base does not have.
lint_commits()
{
	local target="$1" bad=0 step subject warnings

	shift
	[ -e "$STEPS" ] || need_disk "$BUILD" 3000 "a second tree and build for the warnings"
	mkdir -p "$STEPS_OUT"
	hold lint
	for step; do
		subject=$(tgit log -1 --format=%f "$step")
		lint_commit "$step" "$subject" "$target" || { bad=1; continue; }
		warnings=$WARNINGS
		[ -s "$warnings" ] || continue
		lint_base || return 1
		# If the base has a warning once, a second one is new, too.
		if awk 'FILENAME == ARGV[1] { base[$0]++; next } ++n[$0] > base[$0] { print; new++ } END { exit !new }' \
			"$WARNINGS" "$warnings" > "$STEPS_OUT/new"; then
			{
				cat "$STEPS_OUT/new"
				note "$subject: warnings that the base does not have (log: $LOGS/lint-$subject.log)"
			} | tee -a "$LOGS/failures"
			bad=1
		fi
	done
	release
	return $bad
}

# Check the workbench's own scripts. Ignore A && B || C, which they use only where C handles a failure of either, and
# functions called without their optional arguments.
lint_shell()
{
	step shellcheck "shellcheck" 0 shellcheck -x -a -e SC2015,SC2119 "$WB/wb" "$TOP/tools/gmem-modules/check" \
		"$TOP/tools/gmem-modules/postinst" "$TOP/.ci/run"
}

cmd_lint()
{
	local failed=0

	cmd_deps
	have_tree
	say "Sparse and W=1 on the files that the series touches, and shellcheck on the workbench"
	lint_shell || failed=1
	if series_exists; then
		lint_commits '' "$(tgit rev-parse HEAD)" || failed=1
	fi
	return $failed
}

# each_build COMMIT KERNEL: build KVM and all other C files that the series touches, with that kernel's configuration.
# Pass and print "not offered" if the commit does not have or offer the configuration.
each_build()
{
	git -C "$STEPS" checkout -q -f --detach "$1" || return 1
	kernel_take "$2"
	KTREE=$STEPS OUT=$STEPS.$2
	if ! kernel_make config; then
		! awk -f "$WB/survived.awk" "$OUT/wb.config" "$OUT/wb.fragments" || return 1
		echo "not offered"
		return 0
	fi
	# Without memory cgroups mm/memcontrol.c does not compile.
	kernel_make objects OBJECTS="arch/${KARCH%_64}/kvm/ $(lint_objects | grep -v '^arch/' |
		if grep -qx CONFIG_MEMCG=y "$OUT/.config"; then cat; else grep -vx mm/memcontrol.o; fi | tr '\n' ' ')"
}

# each_kernel KERNEL COMMIT...: check that each of these commits that has the configuration builds with it, and that the
# last one does.
each_kernel()
{
	local kernel="$1" bad=0 count=0 offered='' commit subject

	shift
	hold lint
	for commit; do
		subject=$(tgit log -1 --format=%f "$commit")
		step "each-$kernel-$subject" "$kernel: $subject" 0 each_build "$commit" "$kernel" || { bad=1; continue; }
		offered=1
		! grep -qx 'not offered' "$LOGS/each-$kernel-$subject.log" || offered=
		count=$((count + ${offered:-0}))
	done
	release
	note "$kernel: $count of $# patches have this configuration"
	[ -n "$offered" ] || { note "$kernel: the whole series does not build with it"; bad=1; }
	return $bad
}

# cmd_each [KERNEL...]: x86_64 stands for the checks of lint, with its own configuration.
cmd_each()
{
	local began steps failed=0 kernel

	have_tree
	series_exists || { note "patches/ is empty: nothing to check"; return 0; }
	# Only commits that change kernel code.
	steps=$(tgit rev-list --reverse base..HEAD -- ':!tools' ':!Documentation' ':!MAINTAINERS')
	# shellcheck disable=SC2046 # names, one a line
	[ $# -gt 0 ] || set -- $(awk '/^[^#]/ && $2 == "linux" { print $1 }' "$WB/kernels")
	for kernel; do
		kernel_take "$kernel"
		[ "$KTREE" = "$TREE" ] || die "the kernel $kernel has none of the patches"
	done
	say "Each patch on its own, in the configurations of: $*"
	began=$(date +%s)
	for kernel; do
		# shellcheck disable=SC2086 # a list of commits
		case $kernel in
		x86_64)	lint_commits arch/x86/kvm/ $steps ;;
		*)	each_kernel "$kernel" $steps ;;
		esac || failed=1
	done
	note "$(echo "$steps" | wc -l) patches of kernel code, in $(elapsed "$began")"
	return $failed
}

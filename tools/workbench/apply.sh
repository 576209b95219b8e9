# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=dash
#
# Apply the series to a kernel tree of your own, a git checkout or plain files.
#
# All patches are tried in a scratch repository first, so the tree itself changes either in one go or not at all. A git
# tree is fast-forwarded to the commits made there; refs/worktree/gmem-before and refs/worktree/gmem-after point to its
# HEAD before and after that. In a plain tree the files are replaced; old and new ones are kept in .gmem-apply/.
#
# Sets APPLY_UNDO, the name of that directory, once. cmd_apply sets SCRATCH, the repository; apply_trials sets TRIAL, a
# directory with trees to try wb apply on.

APPLY_UNDO=.gmem-apply

# Succeed at the top of a git tree, but not for a plain tree inside some other repository.
apply_is_git()
{
	[ "$(git -C "$1" rev-parse --show-cdup 2> /dev/null || echo none)" = "" ]
}

# apply_version DIR: print the version in its Makefile, or nothing.
apply_version()
{
	awk '$2 == "=" && $1 ~ /^(VERSION|PATCHLEVEL|SUBLEVEL|EXTRAVERSION)$/ { v[$1] = $3 }
		END { if ("PATCHLEVEL" in v) print v["VERSION"] "." v["PATCHLEVEL"] "." v["SUBLEVEL"] v["EXTRAVERSION"] }' \
		"$1/Makefile" 2> /dev/null || :
}

apply_new_files()
{
	sed -n '/^--- \/dev\/null$/ { n; s,^+++ b/,,p; }' "$PATCHES"/*.patch | sort -u
}

# apply_is_7_3 DIR COMMAND: fail that command unless DIR is a 7.3 tree.
apply_is_7_3()
{
	local version

	version=$(apply_version "$1")
	[ -n "$version" ] && [ -e "$1/Kbuild" ] && [ -d "$1/virt/kvm" ] ||
		die "$2: $1 is not a kernel tree"
	base_is_7_3 "$1" || die "$2: $1 is Linux $version, the series is for 7.3"
}

# apply_fits DIR: refuse a tree if it is obvious without a trial that the series does not fit.
apply_fits()
{
	local file

	apply_is_7_3 "$1" apply
	[ ! -e "$1/$APPLY_UNDO" ] ||
		die "apply: the series has been applied to $1 already ('wb apply --undo $1' reverts it)"
	for file in $(apply_new_files); do
		[ ! -e "$1/$file" ] ||
			die "apply: $1 has $file, which the series adds: it has been applied already, in this or another version"
	done
}

apply_clean()
{
	local state

	for state in rebase-apply rebase-merge MERGE_HEAD CHERRY_PICK_HEAD; do
		[ ! -e "$(cd "$1" && git rev-parse --git-path $state | sed "s,^[^/],$PWD/&,")" ] ||
			die "apply: $1 is in the middle of a git am, rebase, merge or cherry-pick: finish that first"
	done
	[ -z "$(git -C "$1" status --porcelain -uno)" ] ||
		die "apply: $1 has changes that are not committed: commit or stash them"
}

# Check out HEAD of a git tree in a repository that shares its objects. Write only the files that the series touches.
apply_scratch_git()
{
	local objects shallow head

	head=$(git -C "$1" rev-parse -q --verify HEAD) || { echo "$1 has no commit"; return 1; }
	objects=$(cd "$1" && cd "$(git rev-parse --git-path objects)" && pwd -P) || return 1
	shallow=$(cd "$1" && git rev-parse --git-path shallow) || return 1
	git init -q "$SCRATCH" && echo "$objects" > "$SCRATCH/.git/objects/info/alternates" || return 1
	(cd "$1" && if [ -e "$shallow" ]; then cp "$shallow" "$SCRATCH/.git/shallow"; fi) || return 1
	series_files | sed 's,^,/,' | git -C "$SCRATCH" sparse-checkout set --no-cone --stdin &&
		git -C "$SCRATCH" checkout -q --detach "$head"
}

# apply_some FROM TO: copy the files listed on standard input, if they exist. Remove old ones first, as they may be hard
# links, and do not preserve file times, so that make sees the new ones as new.
apply_some()
{
	local file

	while read -r file; do
		[ -e "$1/$file" ] || continue
		mkdir -p "$2/$(dirname "$file")" && cp --remove-destination --preserve=mode "$1/$file" "$2/$file" || return 1
	done
}

apply_scratch_plain()
{
	git init -q "$SCRATCH" && series_files | apply_some "$1" "$SCRATCH" || return 1
	git -C "$SCRATCH" add -A -f . && git -C "$SCRATCH" -c user.name="$SERIES_NAME" -c user.email="$SERIES_EMAIL" \
		commit -q --allow-empty -m "a plain tree"
}

# apply_try DIR: apply all patches in the scratch repository.
apply_try()
{
	if apply_is_git "$1"; then
		apply_scratch_git "$1"
	else
		apply_scratch_plain "$1"
	fi || return 1
	git -C "$SCRATCH" config gc.auto 0
	git -C "$SCRATCH" tag before || return 1
	series_am "$SCRATCH"
}

# apply_git DIR: fast-forward. If git refuses, e.g. because an untracked file is in the way, nothing has been written.
apply_git()
{
	git -C "$1" fetch -q --no-tags --no-write-fetch-head "$SCRATCH" \
		+refs/tags/before:refs/worktree/gmem-before +HEAD:refs/worktree/gmem-after &&
		git -C "$1" -c core.hooksPath=/dev/null merge -q --ff-only refs/worktree/gmem-after && return 0
	apply_forget "$1"
	return 1
}

apply_forget()
{
	git -C "$1" update-ref -d refs/worktree/gmem-before
	git -C "$1" update-ref -d refs/worktree/gmem-after
}

# apply_plain DIR: replace the files. If that is interrupted, .gmem-apply/ has everything needed to go back.
apply_plain()
{
	local undo="$1/$APPLY_UNDO"

	rm -rf "$undo.new"
	mkdir -p "$undo.new/old" "$undo.new/new" || return 1
	git -C "$SCRATCH" diff --no-renames --name-only before HEAD > "$undo.new/files" &&
		apply_some "$1" "$undo.new/old" < "$undo.new/files" &&
		apply_some "$SCRATCH" "$undo.new/new" < "$undo.new/files" ||
		{ rm -rf "$undo.new"; return 1; }
	mv "$undo.new" "$undo" || return 1
	apply_some "$undo/new" "$1" < "$undo/files" || { undo_plain "$1"; return 1; }
}

undo_git()
{
	local before after

	before=$(git -C "$1" rev-parse -q --verify refs/worktree/gmem-before) &&
		after=$(git -C "$1" rev-parse -q --verify refs/worktree/gmem-after) &&
		git -C "$1" merge-base --is-ancestor "$after" HEAD ||
		die "apply: nothing to undo: the series has not been applied to $1 by 'wb apply'"
	[ "$after" = "$(git -C "$1" rev-parse HEAD)" ] ||
		die "apply: $1 has commits on top of the series; to undo only the series, run 'git rebase --onto refs/worktree/gmem-before refs/worktree/gmem-after' there"
	apply_clean "$1"
	git -C "$1" -c core.hooksPath=/dev/null reset -q --keep "$before" ||
		die "apply: nothing was changed in $1: git refused, see above"
	apply_forget "$1"
}

# undo_plain DIR: each file must be the old or the new one; anything else has been edited since.
undo_plain()
{
	local undo="$1/$APPLY_UNDO" file

	[ -d "$undo" ] || die "apply: nothing to undo: the series has not been applied to $1 by 'wb apply'"
	while read -r file; do
		cmp -s "$undo/new/$file" "$1/$file" || cmp -s "$undo/old/$file" "$1/$file" ||
			{ [ ! -e "$undo/old/$file" ] && [ ! -e "$1/$file" ]; } ||
			die "apply: $1/$file has been changed since the series was applied: undo that change first"
	done < "$undo/files"
	while read -r file; do
		[ ! -e "$undo/old/$file" ] || continue
		rm -f "$1/$file" || die "apply: cannot remove $1/$file"
		(cd "$1" && rmdir -p --ignore-fail-on-non-empty "$(dirname "$file")" 2> /dev/null) || :
	done < "$undo/files"
	apply_some "$undo/old" "$1" < "$undo/files" ||
		die "apply: cannot write to $1; the original files are in $undo/old"
	rm -rf "$undo"
}

# cmd_apply [--dry-run|--undo] DIR
cmd_apply()
{
	local mode='' dir said

	case ${1:-} in
	--dry-run|--undo) mode=$1; shift ;;
	-*)	die "apply: no option '$1'; see 'wb help'" ;;
	esac
	[ $# -eq 1 ] || die "apply: name one kernel tree"
	[ -d "$1" ] || die "apply: no directory $1"
	dir=$(cd "$1" && pwd -P)
	command -v git > /dev/null || die "apply: git is needed, even for a plain tree: apt-get install git"
	if [ "$mode" = --undo ]; then
		if apply_is_git "$dir"; then undo_git "$dir"; else undo_plain "$dir"; fi
		note "$dir is as it was before the series"
		return
	fi
	[ -w "$dir" ] || [ "$mode" = --dry-run ] || die "apply: $dir is not writable"
	apply_fits "$dir"
	! apply_is_git "$dir" || apply_clean "$dir"

	mkdir -p "$BUILD"
	SCRATCH=$(mktemp -d "$BUILD/apply.XXXXXX")/tree
	trap 'rm -rf "${SCRATCH%/tree}"' EXIT
	said=$(apply_try "$dir" 2>&1) || die "apply: nothing was changed in $dir: $said"
	said="$(series_patches | wc -l) patches on Linux $(apply_version "$dir") in $dir"
	if [ "$mode" = --dry-run ]; then
		note "can be applied: $said"
	elif apply_is_git "$dir"; then
		apply_git "$dir" || die "apply: nothing was changed in $dir: git refused, see above"
		note "applied as commits: $said"
	else
		apply_plain "$dir" || die "apply: nothing was changed in $dir: it cannot be written to"
		note "applied: $said"
	fi
	rm -rf "${SCRATCH%/tree}"
	trap - EXIT
}

# apply_refused TEXT ARGUMENT...: check that wb apply fails with this message.
apply_refused()
{
	local text="$1" said

	shift
	if said=$( (cmd_apply "$@") 2>&1); then
		echo "'wb apply $*' should have failed: $text"
		return 1
	fi
	case $said in *"$text"*) ;; *)
		echo "'wb apply $*' should have said '$text', not: $said"
		return 1 ;;
	esac
}

# trial_files DIR COMMIT: extract the files of that commit that wb apply looks at.
trial_files()
{
	rm -rf "$1"
	mkdir "$1"
	# shellcheck disable=SC2046 # a list of files
	tgit archive "$2" -- Makefile Kbuild $(tgit ls-tree -r --name-only "$2" -- $(series_files)) | tar -C "$1" -xf -
}

# trial_same DIR COMMIT: check that DIR has exactly the files that trial_files extracts from COMMIT.
trial_same()
{
	trial_files "$TRIAL/expected" "$2" && diff -r "$1" "$TRIAL/expected"
}

trial_plain()
{
	local dir="$TRIAL/plain" file=arch/x86/kvm/mmu/mmu.c

	trial_files "$dir" base || return 1
	apply_refused "nothing to undo" --undo "$dir" || return 1
	(cmd_apply --dry-run "$dir") && trial_same "$dir" base || return 1
	(cmd_apply "$dir") || return 1
	apply_refused "applied to $dir already" "$dir" || return 1
	echo >> "$dir/$file"
	apply_refused "$file has been changed since" --undo "$dir" || return 1
	sed -i '$d' "$dir/$file"
	mv "$dir/$APPLY_UNDO" "$TRIAL/undo"
	trial_same "$dir" refs/wb/next || return 1
	apply_refused "it has been applied already" "$dir" || return 1
	mv "$TRIAL/undo" "$dir/$APPLY_UNDO"
	# As if wb apply had been interrupted half-way.
	cp "$dir/$APPLY_UNDO/old/$file" "$dir/$file"
	(cmd_apply --undo "$dir") && trial_same "$dir" base || return 1

	# Now no change to this file applies.
	sed -i 's/$/ /' "$dir/$file"
	cp -a "$dir" "$TRIAL/before"
	apply_refused ".patch does not apply: $file" "$dir" || return 1
	apply_refused ".patch does not apply: $file" --dry-run "$dir" || return 1
	diff -r "$dir" "$TRIAL/before" || return 1
	rm "$dir/$file"
	apply_refused ".patch does not apply: $file" "$dir" || return 1
	sed -i 's/^PATCHLEVEL = .*/PATCHLEVEL = 2/' "$dir/Makefile"
	apply_refused "is Linux 7.2.4, the series is for 7.3" "$dir" || return 1
	rm "$dir/Makefile"
	apply_refused "is not a kernel tree" "$dir"
}

trial_git()
{
	local dir="$TRIAL/git" file=arch/x86/kvm/mmu/mmu.c base

	series_clone "$dir" || return 1
	printf '/%s\n' Makefile Kbuild | git -C "$dir" sparse-checkout add --stdin || return 1
	git -C "$dir" config user.name "$SERIES_NAME" && git -C "$dir" config user.email "$SERIES_EMAIL" || return 1
	base=$(tgit rev-parse base)
	apply_refused "nothing to undo" --undo "$dir" || return 1
	(cmd_apply "$dir") || return 1
	[ "$(git -C "$dir" rev-parse 'HEAD^{tree}')" = "$(tgit rev-parse 'refs/wb/next^{tree}')" ] ||
		{ echo "wb apply and wb tree give different trees"; return 1; }
	apply_refused "it has been applied already" "$dir" || return 1
	git -C "$dir" commit -q --allow-empty -m later || return 1
	apply_refused "commits on top" --undo "$dir" || return 1
	git -C "$dir" reset -q --hard HEAD^
	(cmd_apply --undo "$dir") || return 1
	[ "$(git -C "$dir" rev-parse HEAD)" = "$base" ] && [ -z "$(git -C "$dir" for-each-ref refs/tags refs/worktree)" ] ||
		{ echo "--undo does not lead back to the base"; return 1; }

	sed -i 's/$/ /' "$dir/$file"
	apply_refused "changes that are not committed" "$dir" || return 1
	git -C "$dir" commit -q -a -m "mine" || return 1
	base=$(git -C "$dir" rev-parse HEAD)
	apply_refused ".patch does not apply: $file" "$dir" || return 1
	[ "$(git -C "$dir" rev-parse HEAD)" = "$base" ] && [ -z "$(git -C "$dir" status --porcelain)" ] ||
		{ echo "a refused wb apply has changed the git tree"; return 1; }
}

apply_trials()
{
	series_lay || return 1
	TRIAL=$BUILD/check/apply
	rm -rf "$TRIAL"
	mkdir -p "$TRIAL"
	trial_plain && trial_git || return 1
	apply_refused "no directory" "$TRIAL/none" || return 1
	rm -rf "$TRIAL"
}

# For `wb test`: apply, refuse and undo, on the base's versions of the files that the series touches.
apply_check()
{
	have_tree
	mkdir -p "$BUILD/check"
	step apply "wb apply on plain and git trees" 0 apply_trials
}

# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=dash
#
# Convert between the two forms of the series: mails in patches/ plus new files at the top level, and commits in
# build/linux.
#
# Sets SERIES_NAME, SERIES_EMAIL, BASE_DATE, PATCHES and SERIES_DIRS, once, and git's environment.

SERIES_NAME="guest_memfd workbench"
SERIES_EMAIL=gmem@localhost
BASE_DATE="2026-11-15 00:00:00 +0000"
PATCHES=$TOP/patches
# The top-level directories for the new files of the series, which have the kernel's layout.
SERIES_DIRS="arch Documentation fs kernel lib mm tools/testing virt"

# Ignore the user's git configuration, as it could change the result. The working tree may belong to another user
# (sudo).
export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1
export GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=safe.directory GIT_CONFIG_VALUE_0='*'
export GIT_COMMITTER_NAME="$SERIES_NAME" GIT_COMMITTER_EMAIL="$SERIES_EMAIL"

tgit()
{
	git -C "$TREE" "$@"
}

series_exists()
{
	[ -s "$PATCHES/series" ]
}

# List the mails in order. Comment lines in patches/series name the parts of the series.
series_patches()
{
	sed '/^#/d; /^$/d' "$PATCHES/series"
}

# List every file that a mail names. A false match in a commit message does no harm.
series_files()
{
	sed -n 's,^\(+++ b\|--- a\)/\([^	]*\).*,\2,p' "$PATCHES"/*.patch | sort -u
}

# List files that the commits of build/linux touch, limited to some kinds of change (as in git diff --diff-filter).
series_touched()
{
	tgit diff --no-renames --name-only --diff-filter="$1" base HEAD
}

# series_clone DIR: make a repository that shares build/linux's objects, at the base, with only the files that the
# series touches: git am and quilt need no others, and this takes a second instead of a minute.
series_clone()
{
	rm -rf "$1" &&
	git clone -q --shared --no-checkout --no-tags "$TREE" "$1" &&
	git -C "$1" config gc.auto 0 &&
	series_files | sed 's,^,/,' | git -C "$1" sparse-checkout set --no-cone --stdin &&
	git -C "$1" checkout -q --detach "$(tgit rev-parse base)"
}

# series_am DIR: apply patches/ with git am in such a clone; on failure, name the patch and the file.
series_am()
{
	local patch file

	series_patches | while read -r patch; do
		[ -e "$PATCHES/$patch" ] || { echo "patches/series names $patch, which is not there"; return 1; }
		git -C "$1" am -q --committer-date-is-author-date "$PATCHES/$patch" > "$1.err" 2>&1 && continue
		file=$(sed -n 's/^error: patch failed: //p; s/^error: \(.*: does not exist in index\)/\1/p' "$1.err" |
			head -n 1)
		[ -n "$file" ] || file=$(sed -n 's/^\(error\|fatal\): //p' "$1.err" | head -n 1)
		echo "$patch does not apply: $file"
		return 1
	done
}

# series_sum [FILE]: print a checksum of the patches, the base and FILE.
series_sum()
{
	# shellcheck disable=SC2046 # a list of files
	cd "$PATCHES" && cat series $(series_patches) "$@" | sha256sum && tgit rev-parse base
}

# Apply patches/ to the base in a clone of build/linux. The result becomes refs/wb/next of build/linux, which is valid
# until a patch changes.
series_lay()
{
	local sum

	sum=$(series_sum) || return 1
	if [ "$(cat "$BUILD/check/am.sum" 2> /dev/null)" = "$sum" ] && tgit rev-parse -q --verify refs/wb/next > /dev/null; then
		return 0
	fi
	series_clone "$BUILD/check/am" || return 1
	series_am "$BUILD/check/am" || return 1
	tgit fetch -q "$BUILD/check/am" +HEAD:refs/wb/next || return 1
	echo "$sum" > "$BUILD/check/am.sum"
}

tree_base()
{
	local name

	cmd_fetch
	mkdir -p "$BUILD"
	need_disk "$BUILD" 3000 "the kernel's source tree"
	if [ -n "${KERNEL_SRC:-}" ]; then
		[ -d "$KERNEL_SRC" ] || die "KERNEL_SRC: no directory $KERNEL_SRC"
		base_is_7_3 "$KERNEL_SRC" || die "KERNEL_SRC: $KERNEL_SRC is not a 7.3 kernel tree with guest_memfd"
		name="a 7.3 tree given as KERNEL_SRC"
	else
		name="$BASE_PACKAGE $VERSION"
	fi
	say "Making the kernel tree build/linux from $name"
	rm -rf "$TREE.new"
	step unpack "unpack" 0 base_unpack "$TREE.new" || die "cannot unpack the base kernel"
	base_is_7_3 "$TREE.new" ||
		die "the unpacked base (HEAD of KERNEL_SRC, if that is a git tree) is not a 7.3 kernel tree"
	step commit "commit the base" 0 base_commit "$TREE.new" "$name" || die "cannot commit the base kernel"
	mv "$TREE.new" "$TREE"
}

have_tree()
{
	[ -e "$TREE" ] || cmd_tree
}

# Debian's .gitignore hides every new file from git status, so list untracked files separately, except for build output
# in wb-*, and for files that the selftests' makefiles leave in the source.
tree_clean()
{
	[ -z "$(tgit status --porcelain -uno; tgit ls-files --others -x '/wb-*' -x '/tools/arch/*/include/generated/' \
		-x local_config.h_gen -x local_config.mk)" ]
}

# shellcheck disable=SC2120 # wb passes arguments
cmd_tree()
{
	[ -e "$TREE" ] || [ -n "${KERNEL_SRC:-}" ] || cmd_deps tree
	[ -e "$TREE" ] || tree_base
	if [ -n "${KERNEL_SRC:-}" ]; then
		case $(tgit log -1 --format=%s base) in
		$BASE_PACKAGE*) die "build/linux was made from Debian's package: remove build/ to use KERNEL_SRC" ;;
		esac
	fi
	if ! series_exists; then
		note "patches/ is empty: build/linux is left as it is"
		return 0
	fi
	mkdir -p "$BUILD/check"
	step am "git am" 0 series_lay || die "the series does not apply: $(tail -n 1 "$LOGS/am.log")"

	# Do not overwrite work that has not been exported yet.
	if [ "${1:-}" != --reset ]; then
		tree_clean || die "build/linux has uncommitted edits or new files ('wb tree --reset' drops them)"
		if [ "$(tgit rev-parse 'HEAD^{tree}')" = "$(tgit rev-parse 'refs/wb/next^{tree}')" ]; then
			tgit update-ref refs/wb/laid HEAD
			return 0
		fi
		case $(tgit rev-parse HEAD) in
		"$(tgit rev-parse base)"|"$(tgit rev-parse -q --verify refs/wb/laid)") ;;
		*) die "build/linux has commits that are not in patches/ ('wb export' adds them, 'wb tree --reset' drops them)" ;;
		esac
	fi
	# This writes only files that differ, so that the next build is incremental.
	tgit checkout -q -f -B series refs/wb/next
	tgit clean -q -f -d -x -e '/wb-*'
	tgit update-ref refs/wb/laid HEAD
	note "build/linux: $(tgit rev-list --count base..HEAD) patches on $(tgit log -1 --format=%s base)"
}

# Print the cover letter as git's branch description, subject first: the text of patches/cover-letter up to the lines
# that pin the base, which are generated.
cover_text()
{
	if [ -e "$PATCHES/cover-letter" ]; then
		awk '
			body && /^base-version: / { exit }
			body { print; next }
			/^Subject: / { sub(/^Subject: \[[^]]*\] */, ""); subject = $0; folding = 1; next }
			folding && /^ / { subject = subject $0; next }
			{ folding = 0 }
			/^$/ { print subject "\n"; body = 1 }' "$PATCHES/cover-letter"
	else
		printf 'KVM: guest_memfd: In-place conversion\n\nTo be written.\n\n'
	fi
	echo "base-version: $BASE_PACKAGE $BASE_VERSION"
	echo "base-sha256: $BASE_SHA256"
}

# Add the comments of patches/series to a list of mails, each before the mail that follows it there. Mails are
# identified by their subject.
series_comments()
{
	[ -e "$PATCHES/series" ] || { cat; return; }
	awk '
		function key(name) { sub(/^[0-9]+-/, "", name); return name }
		NR == FNR && /^(#|$)/ { block = block $0 "\n"; next }
		NR == FNR { if (block != "") comment[key($0)] = block; block = ""; next }
		{ printf "%s%s\n", comment[key($0)], $0; delete comment[key($0)] }
		END {
			for (name in comment)
				printf "%spatches/series: these lines were before %s, which is gone: put them back\n",
					comment[name], name > "/dev/stderr"
		}' "$PATCHES/series" -
}

# export_to DIR: export everything from the commits of build/linux: DIR/patches, the new files, and the series' lines in
# MAINTAINERS. Dates and hash lengths are pinned, and git's version is left out, so that the result does not depend on
# the machine or the day. Subjects have no numbers, as each new patch would change all mails otherwise.
export_to()
{
	rm -rf "$1"
	mkdir -p "$1/patches"
	GIT_COMMITTER_DATE=$(tgit log -1 --format=%aI HEAD) \
	tgit -c "branch.series.description=$(cover_text)" format-patch -q --no-numbered --zero-commit --no-signature --full-index \
		--no-renames --no-base --no-thread --diff-algorithm=myers --cover-letter --cover-from-description=subject \
		-o "$1/patches" base..series || return 1
	# Don't name it *.patch: git am refuses a mail without a patch.
	mv "$1/patches/0000-cover-letter.patch" "$1/patches/cover-letter"
	(cd "$1/patches" && printf '%s\n' [0-9]*.patch) | series_comments > "$1/patches/series"
	# shellcheck disable=SC2046 # a list of paths
	tgit archive HEAD --format=tar -- $(series_touched A) | tar -C "$1" -xf - || return 1
	tgit diff -U0 base HEAD -- MAINTAINERS | sed -n '/^+++/d; s/^+//p' |
		awk 'NF { if (blank && n) print ""; print; n++; blank = 0 } !NF { blank = 1 }' > "$1/MAINTAINERS"
	[ -s "$1/MAINTAINERS" ] || rm "$1/MAINTAINERS"
}

# export_list DIR: list the exported files, in an export or at the top level.
export_list()
{
	# shellcheck disable=SC2086 # a list of directories
	(cd "$1" && find MAINTAINERS patches $SERIES_DIRS -type f 2> /dev/null | sort)
}

tree_linear()
{
	tgit symbolic-ref -q HEAD | grep -qx refs/heads/series || die "build/linux is not on its branch 'series'"
	tree_clean || die "build/linux has uncommitted edits or new files (new files: git add -f)"
	[ "$(tgit rev-list --count base..HEAD)" -gt 0 ] || die "build/linux has no commits on top of the base"
	[ "$(tgit rev-list --count --merges base..HEAD)" -eq 0 ] || die "build/linux has merge commits"
}

cmd_export()
{
	local file

	[ -e "$TREE" ] || die "no build/linux yet: 'wb tree' makes it"
	tree_linear
	mkdir -p "$BUILD/check"
	export_to "$BUILD/check/export" || die "export failed"
	export_list "$BUILD/check/export" > "$BUILD/check/new"
	for file in $(export_list "$TOP" | grep -vxF -f "$BUILD/check/new"); do
		rm -f "$TOP/$file"
	done
	(cd "$BUILD/check/export" && tar -cf - .) | (cd "$TOP" && tar -xf - --no-same-owner)
	tgit update-ref refs/wb/laid HEAD
	note "exported $(series_patches | wc -l) patches and $(series_touched A | wc -l) new files"
}

# series_quilt DIR: apply patches/ with quilt, also in a clone made by series_clone. Fail if the resulting tree is not
# that of git am.
series_quilt()
{
	series_clone "$1" || return 1
	(cd "$1" && QUILT_PATCHES=$PATCHES QUILT_PC=.pc quilt --quiltrc /dev/null push -a -q) || return 1
	rm -rf "$1/.pc"
	git -C "$1" add -A -f . || return 1
	[ "$(git -C "$1" write-tree)" = "$(tgit rev-parse 'refs/wb/next^{tree}')" ] ||
		{ echo "quilt push -a and git am give different trees"; return 1; }
}

series_agree()
{
	local rc=0 file

	(cd "$PATCHES" && printf '%s\n' [0-9]*.patch) | series_comments | cmp -s - "$PATCHES/series" ||
		{ echo "patches/series does not list the mails of patches/ in order"; rc=1; }
	series_lay || return 1
	series_quilt "$BUILD/check/quilt" || return 1
	[ "$(tgit rev-parse 'HEAD^{tree}')" = "$(tgit rev-parse 'refs/wb/next^{tree}')" ] ||
		{ echo "build/linux and patches/ differ: 'wb export' changes the latter, 'wb tree' the former"; rc=1; }
	export_to "$BUILD/check/export" && export_to "$BUILD/check/again" || return 1
	diff -r "$BUILD/check/export" "$BUILD/check/again" || { echo "two exports differ"; rc=1; }
	export_list "$BUILD/check/export" > "$BUILD/check/new"
	export_list "$TOP" > "$BUILD/check/old"
	diff "$BUILD/check/old" "$BUILD/check/new" ||
		{ echo "files at the top level (<) differ from those of the series (>)"; rc=1; }
	while read -r file; do
		cmp "$TOP/$file" "$BUILD/check/export/$file" || rc=1
	done < "$BUILD/check/new"
	return $rc
}

cmd_check()
{
	have_tree
	series_exists || { note "patches/ is empty: nothing to check"; return 0; }
	tree_linear
	mkdir -p "$BUILD/check"
	step check "patches, top-level files and tree agree" 0 series_agree
}

# checkpatch_these: check the patches whose names are on standard input.
checkpatch_these()
{
	local rc=0 patch ignore said

	while read -r patch; do
		# The mails have no Signed-off-by, and one patch of the series changes MAINTAINERS for all.
		ignore=FILE_PATH_CHANGES
		# checkpatch doesn't know the layout of TRACE_EVENT().
		! grep -q '^+++ b/include/trace/' "$PATCHES/$patch" ||
			ignore=$ignore,PARENTHESIS_ALIGNMENT,OPEN_ENDED_LINE
		# Nor does it know kselftest_harness.h, whose macros define functions and return from them.
		! grep -q '^+++ b/tools/testing/selftests/' "$PATCHES/$patch" ||
			ignore=$ignore,MULTISTATEMENT_MACRO_USE_DO_WHILE,MACRO_WITH_FLOW_CONTROL,MACRO_ARG_REUSE,SPACING
		# Debian's python3 has the modules that checkpatch's helpers need; another one may not.
		said=$(cd "$TREE" && PATH=/usr/bin:$PATH perl scripts/checkpatch.pl -q --strict --no-signoff \
			--ignore $ignore "$PATCHES/$patch" 2>&1) || { rc=1; printf '%s\n' "$said" "checkpatch: $patch"; }
	done
	return $rc
}

# Check as many at a time as there are processors, and only if something changed since the last time.
series_checkpatch()
{
	local sum lane=0 pids='' failed=0 pid

	sum=$(series_sum "$WB/series.sh") || return 1
	[ "$(cat "$BUILD/check/checkpatch.sum" 2> /dev/null)" != "$sum" ] || return 0
	series_patches > "$BUILD/check/patches"
	while [ $((lane += 1)) -le "$JOBS" ]; do
		awk -v lane="$lane" -v lanes="$JOBS" 'NR % lanes == lane % lanes' "$BUILD/check/patches" |
			checkpatch_these &
		pids="$pids $!"
	done
	for pid in $pids; do
		wait "$pid" || failed=1
	done
	[ $failed -ne 0 ] || echo "$sum" > "$BUILD/check/checkpatch.sum"
	return $failed
}

cmd_checkpatch()
{
	have_tree
	series_exists || { note "patches/ is empty: nothing to check"; return 0; }
	mkdir -p "$BUILD/check"
	step checkpatch "checkpatch --strict" 0 series_checkpatch
}

# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=dash
#
# Prerequisites: Debian packages, and the source of the base kernel.
#
# Sets BASE_PACKAGE, BASE_VERSION, BASE_SHA256 and BASE_SUITE, which pin the base, once. cmd_fetch sets VERSION and
# BASE_TAR, the version of the base and its tarball, and APT, a temporary directory.

BASE_PACKAGE=linux-source-7.3
BASE_VERSION=7.3.4-1~bpo13+1
BASE_SHA256=76df1affb19f24926949369be1d74b60071c963c598ce8780bddd4bbf0fc3bc4
BASE_SUITE=trixie-backports

# deps_missing tree|demo|test|docs|packages: print packages to install. Each line of the list has the first command that
# needs the package, the package, and a file or program that it provides. Only that file or program is checked, so it may
# come from anywhere else, e.g. a gcc in /usr/local/bin.
deps_missing()
{
	local command package thing file

	while read -r command package thing; do
		case $command:$1 in
		demo:tree) continue ;;
		tree:*|demo:*|test:test|docs:docs|packages:packages) ;;
		*) continue ;;
		esac
		case $thing in
		/*)	for file in $thing; do
				[ ! -e "$file" ] || continue 2
			done ;;
		*)	! command -v "$thing" > /dev/null 2>&1 || continue ;;
		esac
		echo "$package"
	done <<-'END'
		demo gcc gcc
		demo libc6-dev /usr/include/stdio.h
		tree make make
		tree git git
		demo flex flex
		demo bison bison
		demo bc bc
		tree xz-utils xz
		demo perl perl
		demo python3 python3
		test python3-ply /usr/lib/python3*/dist-packages/ply/lex.py
		test python3-git /usr/lib/python3*/dist-packages/git/__init__.py
		test quilt quilt
		test patch patch
		test sparse sparse
		test shellcheck shellcheck
		demo libelf-dev /usr/include/libelf.h
		demo libssl-dev /usr/include/openssl/ssl.h
		demo uuid-dev /usr/include/uuid/uuid.h
		demo busybox busybox
		demo e2fsprogs mke2fs
		demo qemu-system-x86 qemu-system-x86_64
		test qemu-system-arm qemu-system-aarch64
		test gcc-aarch64-linux-gnu aarch64-linux-gnu-gcc
		test libc6-dev-arm64-cross /usr/aarch64-linux-gnu/include/stdio.h
		docs python3-sphinx /usr/bin/sphinx-build
		docs python3-yaml /usr/lib/python3*/dist-packages/yaml/__init__.py
		docs gnuplot-nox gnuplot
		packages debhelper dh
		packages dpkg-dev dpkg-buildpackage
		packages rsync rsync
		packages kmod depmod
		packages openssl openssl
		packages zstd zstd
		packages libdw-dev /usr/include/dwarf.h
		packages dwarves pahole
		tree debian-archive-keyring /usr/share/keyrings/debian-archive-keyring.*
		tree ca-certificates /etc/ssl/certs/ca-certificates.crt
	END
}

# cmd_deps [tree|demo|test|docs|packages]: install what the command needs. All need what tree needs, and all but tree
# what demo needs.
cmd_deps()
{
	local command="${1:-test}" missing sudo=''

	case $command in
	tree|demo|test|docs|packages) ;;
	*)	die "deps: expected 'tree', 'demo', 'test', 'docs' or 'packages', not '$command'" ;;
	esac
	missing=$(deps_missing "$command" | tr '\n' ' ')
	[ -n "$missing" ] || return 0

	say "Installing Debian packages: $missing"
	need_disk / 2000 "the packages"
	if [ "$(id -u)" -ne 0 ]; then
		command -v sudo > /dev/null ||
			die "not root, and no sudo; as root, run: apt-get install $missing"
		sudo=sudo
		# Ask for the password now, as a progress line would hide the prompt.
		sudo -v || die "sudo refused"
	fi
	step apt-update "package lists" 0 $sudo apt-get update ||
		die "apt-get update failed: is there a network?"
	# shellcheck disable=SC2086 # a list of package names
	step apt-install "installing" 0 $sudo env DEBIAN_FRONTEND=noninteractive \
		apt-get install -y --no-install-recommends $missing ||
		die "apt-get install failed"
	missing=$(deps_missing "$command" | tr '\n' ' ')
	[ -z "$missing" ] || die "still missing after installing: $missing"
}

# Print the mirrors in this machine's apt configuration that serve Debian.
apt_mirrors()
{
	# shellcheck disable=SC2016 # apt's own variables
	apt-get indextargets --format '$(RELEASE) $(REPO_URI)' 'Created-By: Packages' |
	awk '$1 ~ /^(bookworm|trixie|forky|sid|stable|testing|unstable)(-updates|-backports)?$/ && !seen[$2]++ { print $2 }'
}

# Run apt with its own lists, cache and sources, to leave the system's alone.
apt_private()
{
	local tool="$1"

	shift
	"$tool" -q \
		-o Dir::State::Lists="$APT/lists" -o Dir::State::status=/dev/null -o Dir::Cache="$APT/cache" \
		-o Dir::Etc::sourcelist="$APT/sources.list" -o Dir::Etc::sourceparts="$APT/parts" \
		-o APT::Sandbox::User="$(id -un)" -o Acquire::Languages=none -o Acquire::Retries=2 \
		-o APT::Update::Error-Mode=any "$@"
}

apt_update()
{
	local keys mirror

	for keys in /usr/share/keyrings/debian-archive-keyring.gpg /usr/share/keyrings/debian-archive-keyring.pgp; do
		[ ! -e $keys ] || break
	done
	for mirror in $(apt_mirrors); do
		echo "deb [signed-by=$keys] $mirror $BASE_SUITE main" > "$APT/sources.list"
		apt_private apt-get update && return 0
	done
	echo "no mirror in this machine's apt configuration serves $BASE_SUITE"
	return 1
}

# Print the pinned version, or the newest 7.3.y if that is no longer there.
apt_version()
{
	apt_private apt-cache madison $BASE_PACKAGE | awk -F ' *[|] *' -v pin=$BASE_VERSION '
		$2 ~ /^7\.3\./ && (best == "" || $2 == pin) { best = $2 } END { print best }'
}

apt_download()
{
	cd "$APT" && apt_private apt-get download "$BASE_PACKAGE=$1" &&
		dpkg-deb --fsys-tarfile "$BASE_PACKAGE"_*.deb |
		tar -xO ./usr/src/$BASE_PACKAGE.tar.xz > tarball
}

sha256_of()
{
	sha256sum "$1" | cut -d' ' -f1
}

tarball_of()
{
	echo "$CACHE/${BASE_PACKAGE}_$1.tar.xz"
}

# With KERNEL_SRC there is nothing to do.
cmd_fetch()
{
	local sum

	[ -z "${KERNEL_SRC:-}" ] || return 0

	VERSION=$BASE_VERSION
	BASE_TAR=$(tarball_of "$VERSION")
	if [ -e "$BASE_TAR" ]; then
		[ "$(sha256_of "$BASE_TAR")" != $BASE_SHA256 ] || return 0
		note "$BASE_TAR is damaged: fetching it again"
		rm -f "$BASE_TAR"
	fi

	say "Fetching the base kernel, Debian's $BASE_PACKAGE $BASE_VERSION (167 MB)"
	mkdir -p "$CACHE"
	need_disk "$CACHE" 600 "the base kernel's package"
	APT=$CACHE/apt.$$
	trap 'rm -rf "$APT"' EXIT
	mkdir -p "$APT/lists/partial" "$APT/cache/archives/partial" "$APT/parts"
	step fetch-lists "package lists of $BASE_SUITE" 0 apt_update ||
		die "cannot reach the package lists of $BASE_SUITE: is there a network?"
	VERSION=$(apt_version)
	[ -n "$VERSION" ] || die "$BASE_SUITE no longer has $BASE_PACKAGE; set KERNEL_SRC to a 7.3 source tree"
	BASE_TAR=$(tarball_of "$VERSION")
	if [ "$VERSION" != $BASE_VERSION ]; then
		note "NOTICE: $BASE_PACKAGE $BASE_VERSION, which this series was made for, is no longer available."
		note "NOTICE: using $VERSION instead."
	fi
	if [ ! -e "$BASE_TAR" ]; then
		step fetch "download" 0 apt_download "$VERSION" || die "the download failed"
		sum=$(sha256_of "$APT/tarball")
		if [ "$VERSION" = $BASE_VERSION ] && [ "$sum" != $BASE_SHA256 ]; then
			die "wrong checksum of $BASE_PACKAGE $VERSION's tarball: $sum, expected $BASE_SHA256"
		fi
		mv "$APT/tarball" "$BASE_TAR"
	fi
	rm -rf "$APT"
	trap - EXIT
}

# base_unpack DIR: unpack the base, from the tarball or from KERNEL_SRC. If that is a git checkout, take its last
# commit, without object files and local edits.
base_unpack()
{
	mkdir -p "$1" || return 1
	if [ -z "${KERNEL_SRC:-}" ]; then
		tar -C "$1" --strip-components=1 -xf "$BASE_TAR"
	elif git -C "$KERNEL_SRC" rev-parse -q --verify HEAD > /dev/null 2>&1 &&
	     [ "$(git -C "$KERNEL_SRC" rev-parse --show-cdup)" = "" ]; then
		git -C "$KERNEL_SRC" archive HEAD | tar -C "$1" -xf -
	else
		cp -a "$KERNEL_SRC/." "$1" && make -C "$1" -s mrproper
	fi
}

# base_is_7_3 DIR
base_is_7_3()
{
	[ -e "$1/Makefile" ] && [ -e "$1/virt/kvm/guest_memfd.c" ] &&
		grep -qx 'VERSION = 7' "$1/Makefile" && grep -qx 'PATCHLEVEL = 3' "$1/Makefile"
}

# base_commit DIR NAME: make a git repository with the one commit that the series starts from. Names and dates are
# fixed, so that the same files give the same commit everywhere. Git adds big files to a pack directly, so declare all
# files big, to get one pack instead of 95000 objects.
base_commit()
{
	cd "$1" &&
	git init -q -b series . &&
	git config gc.auto 0 && git config core.fsync none &&
	git config user.name "$SERIES_NAME" && git config user.email "$SERIES_EMAIL" &&
	git -c core.bigFileThreshold=1 -c core.compression=1 add -A -f . &&
	GIT_AUTHOR_DATE="$BASE_DATE" GIT_COMMITTER_DATE="$BASE_DATE" git commit -q -m "$2" &&
	git tag base
}

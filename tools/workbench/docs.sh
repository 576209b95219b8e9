# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=dash
#
# Render the kernel's documentation of virtual machines, including the additions of the series, as HTML, and plot the
# cost of conversions.
#
# Sets DOCS, the output directory.

DOCS=$BUILD/docs

# Fail on any warning about a page that the series adds or changes. Start from scratch, as Sphinx warns only about files
# that it reads again.
docs_render()
{
	local file rc=0

	rm -rf "$DOCS"
	# Debian's python3 has the required modules; another one may not.
	PATH=/usr/bin:$PATH PYTHONDONTWRITEBYTECODE=1 make -C "$TREE" O="$DOCS/make" BUILDDIR="$DOCS" \
		SPHINXDIRS=virt/kvm htmldocs > "$DOCS.log" 2>&1 || rc=1
	cat "$DOCS.log"
	for file in $(series_files | grep '^Documentation/virt/kvm/.*\.rst$'); do
		! grep "$file:.*\(WARNING\|ERROR\|CRITICAL\|SEVERE\)" "$DOCS.log" || rc=1
		file=${file#Documentation/}
		[ -s "$DOCS/${file%.rst}.html" ] || { echo "no page was made from $file"; rc=1; }
	done
	rm -f "$DOCS.log"
	return $rc
}

# docs_rows FILE: make the two tables for cost.gnuplot from the rows of the benchmark, in $DOCS/make.
docs_rows()
{
	awk -F '\t' -v sizes="$DOCS/make/sizes" -v trips="$DOCS/make/trips" '
		BEGIN { kib["KiB"] = 1; kib["MiB"] = 1024 }
		$1 == "row" { value[$4] = $2 }
		$1 == "row" && $4 ~ /^populated, [0-9]+ .iB, to private$/ {
			split($4, part, ", ")
			list[++n] = part[2]
		}
		function trip(what,	huge) {
			huge = "round trip by copying huge pages, " what
			if (!(("round trip in place, " what) in value) || !(huge in value))
				exit 1
			print "\"" what "\"", value["round trip in place, " what], value["round trip by copying, " what],
				value[huge] > trips
		}
		END {
			for (i = 1; i <= n; i++) {
				split(list[i], part, " ")
				print part[1] * kib[part[2]], value["populated, " list[i] ", to private"],
					value["populated, " list[i] ", to shared"] > sizes
			}
			trip("populated")
			trip("in use")
		}' "$1"
}

# docs_plot ROWS
docs_plot()
{
	docs_rows "$1" || { echo "$1 lacks rows that are needed for the plot"; return 1; }
	gnuplot -e "sizes='$DOCS/make/sizes'; trips='$DOCS/make/trips'; out='$DOCS/virt/kvm/guest_memfd_cost.svg'" \
		"$WB/cost.gnuplot"
}

cmd_docs()
{
	local rows

	[ $# -eq 0 ] || die "docs: takes no arguments"
	cmd_deps docs
	have_tree
	step docs "rendering Documentation/virt/kvm" 0 docs_render || die "the documentation does not render without warnings"
	for rows in "$BUILD/bench/rows" "$RESULTS/bench/rows"; do
		[ ! -s "$rows" ] || break
	done
	if [ -s "$rows" ]; then
		step docs-plot "plotting ${rows#"$TOP"/}" 0 docs_plot "$rows" || die "the plot failed"
		echo "$DOCS/virt/kvm/guest_memfd_cost.svg"
	else
		note "no plot: 'wb bench' has not been run"
	fi
	echo "$DOCS/virt/kvm/guest_memfd.html"
}

# SPDX-License-Identifier: GPL-2.0-only
#
# Plot the cost of conversions from the output of the benchmark: docs.sh sets `sizes`, `trips` and `out`.
#
#	sizes	KIB TO_PRIVATE TO_SHARED	per page, populated memory, by the size of the request
#	trips	"WHAT" IN_PLACE COPYING HUGE	per page, to private and back

set terminal svg size 1000,460 font "sans-serif,13" background rgb "white"
set output out
set multiplot layout 1,2
set logscale y
set ylabel "instructions per page"
set grid ytics lc rgb "#d0d0d0"
set key top right
set border 3
set tics nomirror

set title "One conversion in place, pages populated"
set xlabel "size of the request"
set logscale x 4
set xrange [2:131072]
set yrange [0.1:20000]
set xtics ("4 KiB" 4, "64 KiB" 64, "1 MiB" 1024, "16 MiB" 16384, "64 MiB" 65536) rotate by -30
plot sizes using 1:2 with linespoints lw 2 pt 7 lc rgb "#b03060" title "to private", \
	sizes using 1:3 with linespoints lw 2 pt 5 lc rgb "#2060a0" title "to shared"

set title "To private and back, 64 MiB"
unset xlabel
unset logscale x
unset xtics
set xtics norotate nomirror
set xrange [-0.6:1.6]
set yrange [10:500000]
set style data histograms
set style histogram clustered gap 1
set style fill solid 0.85 noborder
plot trips using 3:xtic(1) lc rgb "#909090" title "stock: two copies", \
	trips using 4 lc rgb "#c8c8c8" title "stock: two copies, huge pages", \
	trips using 2 lc rgb "#2060a0" title "in place"

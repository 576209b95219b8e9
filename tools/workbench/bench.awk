# SPDX-License-Identifier: GPL-2.0-only
#
# awk -f bench.awk -v mode=MODE -v percent=N -v kernel=.. -v compiler=.. -v emulator=.. \
#	what=goal GOALS what=recorded EXPECTED what=row ROWS
#
# Print the rows of gmem-bench as a table to read (MODE table), for the documentation (rst) or for programs (json), as
# results of a test run (judge), or as ratios to record (record).

BEGIN {
	FS = "\t"
	CALL = "reference per call: a hole in an empty memfd"
	PAGE = "reference per page: map and unmap a memfd"
}

# Notes follow the head of EXPECTED, and stay there when it is recorded anew.
what == "recorded" && /^# - / {
	notes = notes $0 "\n"
}

/^#/ || /^$/ {
	next
}

what == "goal" {
	goal[$2] = $1
}

what == "recorded" {
	recorded[$3] = $1
	names[++nr_recorded] = $3
}

what == "row" && $1 == "row" {
	add($4, $3, $2)
}

function add(name, u, v)
{
	row[++rows] = name
	value[name] = v + 0
	unit[name] = u
}

# The cost of another way, relative to in-place conversion.
function against(way, what,	mine, other)
{
	mine = "round trip in place, " what
	other = "round trip " way ", " what
	if (value[mine] > 0 && other in value)
		add(way " / in place, " what, "x", value[other] / value[mine])
}

# The value that a row is divided by when it is recorded: 1 if it does not depend on the compiler, and 0 if it is not
# recorded at all, i.e. for references, quotients of other rows, rows that do not measure conversions, and rows whose
# value is a matter of chance.
function reference(name)
{
	if (name ~ /^reference|^reading the clock|^a system call|no conversions$/ || unit[name] == "x" ||
	    name ~ /off: longest|longest fault beside/)
		return 0
	if (unit[name] == "ms" || unit[name] == "KiB" || unit[name] == "count")
		return 1
	return unit[name] == "call" ? value[CALL] : value[PAGE]
}

function commas(n,	s, out)
{
	s = sprintf("%.0f", n)
	while (length(s) > 3) {
		out = "," substr(s, length(s) - 2) out
		s = substr(s, 1, length(s) - 3)
	}
	return s out
}

function shown(n, u)
{
	if (u == "x")
		return sprintf(n < 9.95 ? "%.1fx" : "%.0fx", n)
	return u != "count" && n < 99.95 ? sprintf("%.1f", n) : commas(n)
}

function unit_name(u)
{
	return u == "x" ? "ratio" : u == "ms" || u == "KiB" || u == "count" ? u : "per " u
}

function target(name)
{
	return name in goal ? shown(goal[name], unit[name]) : ""
}

function line(a, b, c, d,	text)
{
	text = sprintf("%s%-" w1 "s  %-9s  %12s  %8s", indent, a, b, c, d)
	sub(/ +$/, "", text)
	print text
}

function dashes(n,	s)
{
	while (n--)
		s = s "="
	return s
}

function border()
{
	line(dashes(w1), dashes(9), dashes(12), dashes(8))
}

function table(	i, name)
{
	w1 = 3
	for (i = 1; i <= rows; i++)
		if (length(row[i]) > w1)
			w1 = length(row[i])
	indent = mode == "rst" ? "" : "    "
	if (mode == "rst") {
		print ".. Made by tools/workbench/wb bench --rst:"
		print "   Linux " kernel ", " compiler ","
		print "   " emulator
		print ""
		border()
	}
	line("row", "unit", "measured", "to reach")
	if (mode == "rst")
		border()
	for (i = 1; i <= rows; i++) {
		name = row[i]
		line(name, unit_name(unit[name]), shown(value[name], unit[name]), target(name))
	}
	if (mode == "rst")
		border()
	else
		print indent "Linux " kernel ", " compiler ", " emulator
}

function json(	i, name, ref)
{
	printf "{\n  \"kernel\": \"%s\",\n  \"compiler\": \"%s\",\n  \"emulator\": \"%s\",\n  \"rows\": [", kernel, compiler, emulator
	for (i = 1; i <= rows; i++) {
		name = row[i]
		ref = reference(name)
		printf "%s\n    { \"name\": \"%s\", \"unit\": \"%s\", \"value\": %.10g", (i > 1 ? "," : ""), name, unit[name], value[name]
		if (name in goal)
			printf ", \"goal\": %s", goal[name]
		if (name in recorded && ref)
			printf ", \"recorded\": %.3f", recorded[name] * ref
		printf " }"
	}
	print "\n  ]\n}"
}

function judge(	i, name, ref, was, what)
{
	for (i = 1; i <= rows; i++) {
		name = row[i]
		ref = reference(name)
		if (!ref)
			continue
		if (!(name in recorded)) {
			print "fail bench: " name ": not recorded yet: run 'wb bench --record'"
			continue
		}
		was = recorded[name] * ref
		what = unit_name(unit[name])
		if (what ~ /^per /)
			what = "instructions " what
		if (value[name] > was * (1 + percent / 100))
			printf "fail bench: %s: %s %s, recorded: %s%s\n", name, shown(value[name]), what, shown(was),
				was ? sprintf(" (%.0f%% more)", (value[name] / was - 1) * 100) : ""
		else
			print "pass bench: " name
	}
	for (i = 1; i <= nr_recorded; i++)
		if (!(names[i] in value))
			print "fail bench: " names[i] ": recorded, but not measured: if it was removed, " \
				"run 'wb bench --record'"
}

function record(	i, name)
{
	print "# SPDX-License-Identifier: GPL-2.0-only"
	print "#"
	print "# Recorded by 'wb bench --record'; 'wb test' fails if a row exceeds its value by more than " percent " percent. Instructions"
	print "# per call, page or fault are ratios to a reference row of the same run, and hardly depend on the compiler;"
	print "# ms, KiB and counts are absolute values. Made with " compiler "."
	print "#"
	print "#\tRATIO UNIT ROW"
	printf "%s\n", notes ? "#\n" notes : ""
	for (i = 1; i <= rows; i++) {
		name = row[i]
		if (reference(name))
			printf "%.5g\t%s\t%s\n", value[name] / reference(name), unit[name], name
	}
}

END {
	against("by copying", "populated")
	against("by copying", "in use")
	against("by copying", "in use: peak memory")
	against("by copying huge pages", "populated")
	against("by copying huge pages", "in use")
	thp = "huge, ordinary VM, THP: populate 1 GiB"
	if (value[thp] > 0)
		add("huge, on / THP: populate 1 GiB", "x", value["huge, on: populate 1 GiB"] / value[thp])
	if (mode == "json")
		json()
	else if (mode == "judge")
		judge()
	else if (mode == "record")
		record()
	else
		table()
}

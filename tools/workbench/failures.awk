# SPDX-License-Identifier: GPL-2.0-only
#
# awk -v dir=RESULTS -f failures.awk SUMMARY
#
# Print an excerpt of the output of each program that failed, and of the kernel's warnings: a few lines of each, limited
# so that all of them are among the last 200 lines of a run's output. Name the files that have the rest.

BEGIN {
	budget = 150
	max_cases = 3
	max_lines = 15
}

function show(line)
{
	if (budget-- <= 0)
		return
	gsub(/[\001-\010\013-\037]/, "", line)
	print "      | " substr(line, 1, 200)
}

# Show a case from the failed assertion on, or its last lines if there is none.
function show_case(lines, nr,	first, i)
{
	first = nr > max_lines ? nr - max_lines + 1 : 1
	for (i = 1; i <= nr; i++) {
		if (lines[i] ~ /Test Assertion Failure|:Expected |: EXPECTATION FAILED/) {
			first = i
			break
		}
	}
	for (i = first; i <= nr && i < first + max_lines; i++)
		show(lines[i])
}

function show_program(path,	line, lines, nr, cases)
{
	while ((getline line < path) > 0) {
		if (line ~ /# +RUN /)
			nr = 0
		lines[++nr] = line
		if (line ~ /^ *(not )?ok [0-9]/) {
			if (line ~ /^ *not ok / && cases++ < max_cases)
				show_case(lines, nr)
			nr = 0
		}
	}
	close(path)
	# The program died, timed out, or does not write KTAP.
	if (!cases)
		show_case(lines, nr)
}

function show_console(path,	line, nr)
{
	while (nr < max_lines && (getline line < path) > 0) {
		if (nr || line ~ /WARNING:|BUG:|Oops|INFO: |Kernel panic|general protection/) {
			show(line)
			nr++
		}
	}
	close(path)
}

/^fail [^ :]+/ {
	what = $2
	sub(/:$/, "", what)
	path = dir "/" what (what ~ /\// ? "" : "/console")
	# Checks that did not run in a machine have their log in build/log.
	there = (getline line < path) >= 0
	close(path)
	if (!there || seen[what]++)
		next

	print "    " what " failed: " path
	if (what ~ /\//)
		show_program(path)
	else
		show_console(path)
}

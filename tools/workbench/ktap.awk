# SPDX-License-Identifier: GPL-2.0-only
#
# awk -f ktap.awk -v machine=NAME -v test=NAME -v status=N -v splat=TEXT TABLE OUTPUT
#
# Judge a test's output and exit status, using the machine's lines of the file `tests`. Print a line for each result:
# "pass MACHINE/TEST: NAME", "fail MACHINE/TEST: NAME: WHY" or "skip MACHINE/TEST: REASON<tab>NAME". Output that is not
# KTAP is a single result. A result line that closes a group of indented ones sums them up, and is not counted.

# Return the text after the first n fields.
function after(n,	text)
{
	text = $0
	while (n--)
		sub(/^[^ \t]+[ \t]+/, "", text)
	return text
}

function expected(reason,	i)
{
	for (i = 1; i <= skips; i++)
		if (index(reason, skip[i]))
			return 1
	return 0
}

function result(kind, what, why)
{
	if (kind == "skip" && !expected(what ": " why)) {
		kind = "fail"
		why = why ": unexpected skip"
	}
	if (kind == "skip")
		print kind " " machine "/" test ": " why "\t" what
	else
		print kind " " machine "/" test (what == "" ? "" : ": " what) (why == "" ? "" : ": " why)
	if (kind == "fail")
		failures++
	results++
}

FILENAME == ARGV[1] {
	if ($1 == "skip" && $2 == test)
		skip[++skips] = after(2)
	if ($1 == "gives" && $2 == test) {
		due = $3
		text = after(3)
	}
	next
}

text != "" && index($0, text) {
	said = 1
}

/^1\.\.[0-9]+/ {
	planned += substr($1, 4)
	if (planned == 0 && match($0, /# *SKIP */))
		reason = substr($0, RSTART + RLENGTH)
}

/^ *(not )?ok [0-9]+/ {
	match($0, /^ */)
	indent = RLENGTH
	if (indent == 0)
		seen++
	sum = indent < previous
	previous = indent
	ok = $1 == "ok"
	what = $0
	sub(/^ *(not )?ok [0-9]+ *-? */, "", what)
	why = ""
	if (match(what, /# *SKIP */)) {
		why = substr(what, RSTART + RLENGTH)
		what = substr(what, 1, RSTART - 1)
		sub(/ *$/, "", what)
		kind = "skip"
	} else {
		kind = ok ? "pass" : "fail"
	}
	# If the table has a `gives` line for the test, lines of KTAP do not count.
	if (due == "" && (!sum || (kind == "fail" && !failures)))
		result(kind, what, why)
}

# A test without a reason in KTAP may have printed one as text.
/SKIP|[Rr]equirement not met/ && reason == "" {
	reason = $0
}

END {
	if (splat != "")
		result("fail", "", splat)
	if (status == "")
		result("fail", "", "did not run to completion")
	else if (status == 124)
		result("fail", "", "timeout")
	else if (due != "" && status != due)
		result("fail", "", "exit status " status ", not " due)
	else if (due != "" && !said)
		result("fail", "", "does not say: " text)
	else if (due != "")
		result("pass", "exits with " due)
	else if (status == 4)
		result("skip", "", reason == "" ? "no reason given" : reason)
	else if (status != 0 && !failures)
		result("fail", "", "exit status " status)
	else if (status == 0 && planned + 0 != seen + 0)
		result("fail", "", "planned " planned + 0 " results, gave " seen + 0)
	else if (!results)
		result("pass")
}

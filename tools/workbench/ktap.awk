# SPDX-License-Identifier: GPL-2.0-only
#
# awk -f ktap.awk -v test=NAME -v status=N -v splat=TEXT OUTPUT: what a test's output and exit status amount to, as
# lines "pass NAME", "fail NAME: WHY" and "skip NAME: REASON", one for each result. Output that is not KTAP is one
# result. A line of results that closes a group of indented ones is their sum, not another.

function result(kind, what, why)
{
	print kind " " test (what == "" ? "" : ": " what) (why == "" ? "" : ": " why)
	if (kind == "fail")
		failures++
	results++
}

/^1\.\.[0-9]+/ {
	planned = substr($1, 4) + 0
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
	if (!sum || (kind == "fail" && !failures))
		result(kind, what, why)
}

# A test that gave no reason in KTAP may have said one in words.
/SKIP|[Rr]equirement not met/ && reason == "" {
	reason = $0
}

END {
	if (splat != "")
		result("fail", "", splat)
	if (status == "") {
		result("fail", "", "did not run to its end")
	} else if (status == 4) {
		result("skip", "", reason == "" ? "no reason given" : reason)
	} else if (status == 124) {
		result("fail", "", "timeout")
	} else if (status != 0) {
		if (!failures)
			result("fail", "", "exit status " status)
	} else if (planned != seen + 0) {
		result("fail", "", "planned " planned " results, gave " seen + 0)
	} else if (!results) {
		result("pass")
	}
}

# SPDX-License-Identifier: GPL-2.0-only
#
# Read the table `mutants`, in one of two ways:
#
#	awk -v list=1 -f mutants.awk TABLE	print headings and rules
#	awk -v dir=DIR -f mutants.awk TABLE	print lines "NAME TEST MACHINE FILE:FUNCTION...", and write
#						the edits to DIR/NAME.1.sed ...

function complain(what)
{
	print FILENAME ":" FNR ": " what > "/dev/stderr"
	bad = 1
}

# A mutant is complete when the next one begins.
function finish()
{
	if (name != "" && !edits)
		complain("mutant " name " is not complete")
	if (name != "" && !list)
		print name, where
	name = ""
}

/^#/ || /^$/ {
	next
}

/^== / {
	finish()
	if (list)
		print (headings++ ? "\n" : "") substr($0, 4)
	next
}

/^[a-z0-9-]+: / {
	finish()
	name = $1
	sub(/:$/, "", name)
	if (seen[name]++)
		complain("there are two mutants " name)
	if (list)
		printf "  %-40s %s\n", name, substr($0, length(name) + 3)
	where = ""
	places = 0
	edits = 0
	next
}

/^\t/ && name != "" && !places {
	if (NF != 3)
		complain("expected a test, a machine and a function: " $0)
	where = $1 " " $2 " " $3
	places++
	next
}

/^\tand [^ ]+:[^ ]+$/ && edits {
	where = where " " $2
	places++
	edits = 0
	next
}

/^\t/ && name != "" {
	if (!list)
		print substr($0, 2) > (dir "/" name "." places ".sed")
	edits++
	next
}

{
	complain("cannot parse: " $0)
}

END {
	finish()
	exit bad
}

# SPDX-License-Identifier: GPL-2.0-only
#
# awk -f function.awk -v name=NAME FILE.c: print the numbers of the first and the last line of a definition, as
# "FIRST,LAST", or nothing if there is no definition.
#
# NAME is the name of a function, a variable, a struct or a #define, or the first argument of a macro that defines
# something, e.g. TRACE_EVENT(). Definitions begin in column 0. If they are longer than a line, they end with a brace or
# parenthesis in column 0; a #define ends with the first line without a backslash at its end. Declarations of functions,
# and those with extern, do not count.

function begin()
{
	first = NR
	define = /^#/
	# This may turn out to be only the declaration of a function.
	function_like = index($0, name "(") > 0
}

function end()
{
	print first "," NR
	exit
}

!first && /^[A-Za-z_#]/ && !/^extern / && (!/^#/ || /^#define /) && $0 ~ "(^|[^A-Za-z0-9_])" name "([^A-Za-z0-9_]|$)" {
	begin()
	if (!define && !function_like && /;$/)
		end()
}

first && define && !/\\$/ {
	end()
}

first && /^[{]/ {
	function_like = 0
}

first && function_like && /;$/ {
	first = 0
}

first && NR > first && /^[})]/ {
	end()
}

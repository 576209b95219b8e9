# SPDX-License-Identifier: GPL-2.0-only
#
# awk -f survived.awk CONFIG FRAGMENTS: list the options that the fragments ask for but that differ in CONFIG, and fail
# if there are any. A later line of the fragments overrides an earlier one.

/^CONFIG_/ {
	name = $0
	sub(/=.*/, "", name)
	if (FILENAME == ARGV[1])
		have[name] = $0
	else
		want[name] = $0
}

END {
	for (name in want) {
		is = name in have ? have[name] : name " is not set"
		if (want[name] == name "=n" ? name in have : is != want[name]) {
			printf "config: %s did not survive olddefconfig: %s\n", want[name], is
			lost++
		}
	}
	exit lost > 0
}

#!/bin/sh
# check-static.sh FILE MAX_MIB: fails unless FILE needs nothing of the host (no interpreter, no shared library), has no
# symbols left in it, and is at most MAX_MIB mebibytes.
set -eu
file=$1
limit=$(($2 * 1024 * 1024))
fail() { printf '%s: %s\n' "$file" "$*" >&2; exit 1; }

# Read into variables first: a readelf that fails must not look like one that found nothing.
segments=$(readelf --program-headers --wide "$file")
dynamic=$(readelf --dynamic --wide "$file")
sections=$(readelf --section-headers --wide "$file")

case $segments in *INTERP*) fail "wants a dynamic loader (INTERP): not static" ;; esac
case $dynamic in *'(NEEDED)'*) fail "wants shared libraries (NEEDED): not static" ;; esac
case $sections in *.symtab*) fail "has a symbol table: not stripped" ;; esac

size=$(wc -c <"$file")
mib=$(awk -v b="$size" 'BEGIN { printf "%.1f", b / 1048576 }')
[ "$size" -le "$limit" ] || fail "$mib MiB, over the limit of $2 MiB"
printf '%s: static, stripped, %s MiB (limit %s MiB)\n' "$file" "$mib" "$2"

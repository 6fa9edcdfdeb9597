#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# Writes 1, 2, 3, … to FILE, each flushed before the next, until STOP exists. Then prints the last number and
# how many milliseconds the longest write took.
# usage: writer FILE STOP
set -eu
file=$1 stop=$2 number=0 longest=0
while [ ! -e "$stop" ]; do
    number=$((number + 1))
    start=$(date +%s%3N)
    printf '%08d\n' "$number" | dd of="$file" conv=fsync,notrunc status=none
    took=$(($(date +%s%3N) - start))
    if [ "$took" -gt "$longest" ]; then
        longest=$took
    fi
done
echo "$number $longest"

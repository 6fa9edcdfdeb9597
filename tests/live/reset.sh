#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# Puts the virtual machine back to what it was after its boot, whatever a test left behind, and wipes the
# disks with the given serial numbers: reset DPSR SERIAL... ends every process that runs the program DPSR,
# every mount below /run/dpsr-live, every device-mapper and loop device. Says what stays, and then fails.
# Everything has a deadline of its own, because the device below may hang.
set -u

dpsr=$(readlink --canonicalize "$1")
shift
mounts=/run/dpsr-live

within() {
    timeout --kill-after=2 20 "$@"
}

devices() {
    dmsetup info --columns --noheadings --options name 2>/dev/null | grep -v '^No devices found'
}

node() {
    grep --line-regexp --files-with-matches --no-messages "$1" /sys/block/*/serial |
        sed 's,^/sys/block/,/dev/,; s,/serial$,,'
}

running=$(find /proc -maxdepth 2 -path '/proc/[0-9]*/exe' -lname "$dpsr" 2>/dev/null)
for exe in $running; do
    pid=${exe#/proc/}
    kill -KILL "${pid%/exe}"
done

# What is suspended or frozen would hold up every step that follows.
for name in $(devices); do
    within dmsetup resume --noudevsync "$name" 2>/dev/null
done
swapoff --all
for mount in $(awk -v below="$mounts/" 'index($2, below) == 1 { print $2 }' /proc/self/mounts | tac); do
    within fsfreeze --unfreeze "$mount" 2>/dev/null
    within umount "$mount" 2>/dev/null || umount --lazy "$mount"
done
rm -rf "$mounts"

# One pass takes what nothing stands on any more, hence as many as the tallest stack is high.
for how in "" "" "" "" "" "" --force --force --force; do
    names=$(devices)
    [ -n "$names" ] || break
    for name in $names; do
        # shellcheck disable=SC2086 # no option at all where it is empty
        within dmsetup remove $how --noudevsync "$name" 2>/dev/null
    done
done
losetup --detach-all

for serial in "$@"; do
    disk=$(node "$serial")
    # The file behind it turns sparse again, and a hole reads as zeros.
    within blkdiscard --force "$disk"
    within blockdev --flushbufs "$disk"
    within blockdev --rereadpt "$disk"
done
udevadm settle --timeout=60

left=$(devices)
for serial in "$@"; do
    left="$left$(lsblk --noheadings --list --output NAME "$(node "$serial")" | tail -n +2)"
done
if [ -n "$left" ]; then
    echo "stays: $left"
    exit 1
fi

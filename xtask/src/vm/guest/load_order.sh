#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# Snapshots 16 MiB of the disk $1 and overwrites them through the origin in large writes. $2 says what is
# live first, `origin` or `snapshot`. Prints `exact` or `lost`: whether the snapshot still has the old bytes.
set -eu

disk=$1 first=$2 sectors=32768 chunk=16
modprobe dm-snapshot

clean() {
    for name in origin snapshot cow below; do
        dmsetup remove --retry "$name" 2>/dev/null || :
    done
}
trap clean EXIT

bytes() {
    dd if="/dev/mapper/$1" iflag=direct bs=1M status=none | sha256sum
}

live() {
    case $1 in
        origin) dmsetup create origin --table "0 $sectors snapshot-origin /dev/mapper/below" ;;
        snapshot)
            dmsetup create snapshot --table "0 $sectors snapshot /dev/mapper/below /dev/mapper/cow P $chunk"
            ;;
    esac
}

dmsetup create below --table "0 $sectors linear $disk 0"
dmsetup create cow --table "0 $((2 * sectors)) linear $disk $sectors"
dd if=/dev/urandom of=/dev/mapper/below oflag=direct bs=1M count=16 status=none
dd if=/dev/zero of=/dev/mapper/cow oflag=direct bs=1M count=1 status=none
before=$(bytes below)
case $first in
    origin) live origin && live snapshot ;;
    snapshot) live snapshot && live origin ;;
esac
dd if=/dev/zero of=/dev/mapper/origin oflag=direct bs=1M count=16 status=none
if [ "$(bytes snapshot)" = "$before" ]; then echo exact; else echo lost; fi

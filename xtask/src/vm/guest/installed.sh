#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# Run on the host in a mount namespace of its own, with the tree $1 in which dpsr was just installed and the
# directory $2 for what does not belong into it: makes its initramfs anew, and the image its BIOS loader is
# read from.
set -eu

root=$1 beside=$2
mount --make-rprivate /
mount --bind /dev "$root/dev"
mount -t proc proc "$root/proc"
mount -t tmpfs tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/tmp"

# What drives no virtual machine: all of it is copied, hashed and loaded in emulation.
rm -rf "$root"/usr/share/doc "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*
for kernel in "$root"/usr/lib/modules/*; do
    for what in sound drivers/gpu drivers/media drivers/infiniband drivers/net/wireless drivers/iio \
        drivers/net/ethernet drivers/staging drivers/isdn drivers/comedi; do
        rm -rf "$kernel/kernel/$what"
    done
    version=${kernel##*/}
    chroot "$root" depmod "$version"
    # No pair is recorded yet, so dpsr's part has to be asked for.
    chroot "$root" dracut --quiet --force --add dpsr "/boot/initrd.img-$version" "$version"
done

cp "$beside/early.cfg" "$root/tmp/early.cfg"
chroot "$root" grub-mkimage --format=i386-pc --prefix=/boot/grub --config=/tmp/early.cfg --output=/tmp/core.img \
    biosdisk part_gpt ext2 search search_fs_uuid normal configfile linux echo serial terminal
cp "$root/tmp/core.img" "$beside/core.img"
cp "$root/usr/lib/grub/i386-pc/boot.img" "$beside/boot.img"

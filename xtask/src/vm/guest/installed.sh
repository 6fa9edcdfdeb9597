#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# Run on the host in a mount namespace of its own, with the tree $1 in which dpsr was just installed and the
# directory $2 for what does not belong into it: makes its initramfs anew, by $3, and the image its BIOS loader is
# read from.
set -eu

root=$1 beside=$2 generator=$3
mount --make-rprivate /
mount --bind /dev "$root/dev"
mount -t proc proc "$root/proc"
mount -t tmpfs tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/tmp"

# Leaves of directory $1 what is named besides it.
keep() {
    for entry in "$1"/*; do
        case " $* " in
        *" ${entry##*/} "*) ;;
        *) rm -rf "$entry" ;;
        esac
    done
}

# What a machine of the tests needs for nothing: all of it is copied, hashed and loaded in emulation.
rm -rf "$root"/usr/share/doc "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/* "$root"/usr/share/perl \
    "$root"/usr/lib/python3* "$root"/usr/bin/python3* "$root"/usr/share/python3 "$root"/usr/bin/fio \
    "$root"/usr/lib/udev/hwdb.bin "$root"/usr/lib/udev/hwdb.d \
    "$root"/usr/lib/x86_64-linux-gnu/perl "$root"/usr/lib/x86_64-linux-gnu/ceph "$root"/usr/lib/x86_64-linux-gnu/gconv
for library in libicu libxml2 librados librbd libgf libgluster; do
    rm -rf "$root/usr/lib/x86_64-linux-gnu/$library"*
done
keep "$root/usr/lib/grub/x86_64-efi-signed" grubx64.efi.signed
for kernel in "$root"/usr/lib/modules/*; do
    keep "$kernel/kernel" arch block crypto drivers fs lib mm net
    keep "$kernel/kernel/net" packet
    keep "$kernel/kernel/drivers" ata block cdrom char crypto dax firmware input md nvme pci rtc scsi tty virtio watchdog
    keep "$kernel/kernel/drivers/scsi" scsi_mod.ko scsi_common.ko sd_mod.ko sr_mod.ko sg.ko virtio_scsi.ko \
        scsi_mod.ko.xz scsi_common.ko.xz sd_mod.ko.xz sr_mod.ko.xz sg.ko.xz virtio_scsi.ko.xz
    keep "$kernel/kernel/fs" autofs binfmt_misc.ko binfmt_misc.ko.xz btrfs configfs efivarfs ext4 fat fuse isofs jbd2 \
        mbcache.ko mbcache.ko.xz nls overlayfs pstore squashfs xfs
    chroot "$root" depmod "${kernel##*/}"
done

# A loader reads slowly in emulation, and what either generator calls by itself packs slowly.
sed -i 's/^compress=.*/compress="zstd -1 -q"/' "$root/etc/dracut.conf.d/vm.conf"
if [ "$generator" = initramfs-tools ]; then
    # A guest has no network; what there is to install lies in its own tree.
    rm -rf "$root"/etc/apt/sources.list.d/*
    echo 'deb [trusted=yes] file:/opt/debs ./' >"$root/etc/apt/sources.list"
    echo 'APT::Sandbox::User "root";' >"$root/etc/apt/apt.conf.d/90here"
    mkdir -p "$root/etc/initramfs-tools/conf.d"
    printf '%s\n' COMPRESS=zstd COMPRESSLEVEL=1 >"$root/etc/initramfs-tools/conf.d/vm"
    chroot "$root" apt-get --quiet --quiet update
    DEBIAN_FRONTEND=noninteractive chroot "$root" apt-get --quiet --quiet --yes --no-install-recommends \
        install initramfs-tools dracut- dracut-core- </dev/null
else
    # What tells systemd-boot that a system came up, without the hooks that make its menu.
    for deb in "$root"/opt/debs/systemd-boot*.deb; do
        dpkg-deb --fsys-tarfile "$deb" >"$beside/deb.tar"
        if tar --list --file "$beside/deb.tar" | grep -q 'systemd/systemd-bless-boot$'; then
            tar --extract --file "$beside/deb.tar" --directory "$root" --keep-directory-symlink --wildcards '*/systemd*bless-boot*'
        fi
    done
    rm -f "$beside/deb.tar"
    rm -rf "$root/opt/debs"
fi
for kernel in "$root"/usr/lib/modules/*; do
    version=${kernel##*/}
    if [ "$generator" = initramfs-tools ]; then
        chroot "$root" update-initramfs -u -k "$version"
        continue
    fi
    # No pair is recorded yet, so dpsr's part has to be asked for.
    chroot "$root" dracut --quiet --force --add dpsr "/boot/initrd.img-$version" "$version"
done

chroot "$root" systemctl --quiet enable dpsr-came-up.service
chroot "$root" grub-editenv /boot/grub/grubenv create
cp "$beside/early.cfg" "$root/tmp/early.cfg"
chroot "$root" grub-mkimage --format=i386-pc --prefix=/boot/grub --config=/tmp/early.cfg --output=/tmp/core.img \
    biosdisk part_gpt ext2 search search_fs_uuid normal configfile linux echo serial terminal
cp "$root/tmp/core.img" "$beside/core.img"
cp "$root/usr/lib/grub/i386-pc/boot.img" "$beside/boot.img"

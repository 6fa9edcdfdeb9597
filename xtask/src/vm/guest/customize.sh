#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# Run by mmdebstrap with the new root directory and the directory of these files, after the packages.
set -eu

root=$1 here=$2
install -D -m 644 "$here/agent.sh" "$root/usr/local/lib/dpsr-agent.sh"
install -D -m 644 "$here/dpsr-agent.service" "$root/etc/systemd/system/dpsr-agent.service"
chroot "$root" systemctl --quiet enable dpsr-agent.service
# What wakes by itself would write, and take processor time, in the middle of a test.
chroot "$root" systemctl --quiet mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer \
    e2scrub_all.timer fstrim.timer systemd-tmpfiles-clean.timer
# It makes an initramfs at every shutdown, which takes longer in emulation than all else of it; what restores dracut's
# own is there as well.
chroot "$root" systemctl --quiet mask mdadm-shutdown.service
chroot "$root" passwd --quiet --delete root
echo dpsr-vm >"$root/etc/hostname"
printf '%s\n' \
    'LABEL=dpsr-root / ext4 errors=remount-ro 0 1' \
    'LABEL=VM-ESP /boot/efi vfat umask=0077 0 2' >"$root/etc/fstab"
mkdir -p "$root/boot/efi"
# A repository for guests, which have no network: what a switch between initramfs generators takes. The last one only for
# what it has beside its loader.
debs=$root/opt/debs
mkdir -p "$debs/partial"
for words in 'install initramfs-tools' '--reinstall install dracut dracut-core' 'install systemd-boot'; do
    # Several words.
    # shellcheck disable=SC2086
    APT_CONFIG=$MMDEBSTRAP_APT_CONFIG apt-get --quiet --quiet --yes --no-install-recommends --download-only \
        -o Dir::Cache::archives="$debs" $words
done
rm -rf "$debs/partial" "$debs/lock"
for deb in "$debs"/*.deb; do
    dpkg-deb --field "$deb"
    printf 'Filename: ./%s\nSize: %s\nSHA256: %s\n\n' \
        "${deb##*/}" "$(stat --format=%s "$deb")" "$(sha256sum "$deb" | cut -d' ' -f1)"
done >"$debs/Packages"
# The kernel and its initramfs are handed to QEMU, and so leave the archive by names that do not change.
cp "$root"/boot/vmlinuz-* "$here/vmlinuz"
cp "$root"/boot/initrd.img-* "$here/initrd.img"

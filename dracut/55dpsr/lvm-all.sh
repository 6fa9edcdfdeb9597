#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# Run by dracut before it leaves the initramfs. LVM's devices file (lvmdevices(8)) names the disks on which volumes are
# looked for; a volume that lies on a device of dpsr is found by nobody after the initramfs, which has no such file. So
# all of these are activated here, and not only the root's; no other disk is looked at, hidden or not.

if [ -s "${NEWROOT:-/sysroot}/etc/lvm/devices/system.devices" ]; then
    for dpsr_part in /dev/mapper/dpsr-*-part*; do
        [ -e "$dpsr_part" ] || continue
        lvm vgchange --activate ay --activationmode complete --sysinit \
            --config 'devices { use_devicesfile=0 filter=["a!^/dev/mapper/dpsr-[^/]*-part!","r!.*!"] }' 2>&1 |
            while read -r dpsr_line; do info "dpsr: activating all volumes: $dpsr_line"; done
        break
    done
fi

#!/bin/bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# Puts into an initramfs what wraps the primary at boot, and what starts the machine from the DPSR disk.
# Called by dracut(8), which defines the functions and variables that are used here.
# What it defines is not assigned here.
# shellcheck disable=SC2154

# Only where a pair is recorded; nothing is changed for a machine without one.
check() {
    require_binaries /usr/lib/dpsr/dpsr-initrd || return 1
    compgen -G "$dracutsysrootdir/etc/dpsr/*.toml" >/dev/null || return 255
    return 0
}

depends() {
    echo dm
}

installkernel() {
    # Also for a copy that boots on another machine.
    hostonly='' instmods dm_mod dm_snapshot loop
}

install() {
    local record
    inst_binary /usr/lib/dpsr/dpsr-initrd
    for record in "$dracutsysrootdir"/etc/dpsr/*.toml; do
        # None is there where the module was asked for before there was a pair.
        [[ -e $record ]] && inst_simple "${record#"$dracutsysrootdir"}"
    done
    inst_rules 60-dpsr.rules
    inst_simple "$moddir/59-dpsr-hide.rules" /usr/lib/udev/rules.d/59-dpsr-hide.rules
    inst_simple "$moddir/dpsr-failover.service" "$systemdsystemunitdir/dpsr-failover.service"
    $SYSTEMCTL -q --root "$initdir" add-wants initrd.target dpsr-failover.service
    # Before systemd 255 each swap space to resume from has an instance of a template.
    mkdir -p "$initdir$systemdsystemconfdir/systemd-hibernate-resume@.service.d"
    printf '[Unit]\nAfter=dpsr-failover.service\n' \
        >"$initdir$systemdsystemconfdir/systemd-hibernate-resume@.service.d/dpsr.conf"
    inst_simple "$moddir/61-dpsr-wrap.rules" /usr/lib/udev/rules.d/61-dpsr-wrap.rules
    inst_hook pre-pivot 50 "$moddir/lvm-all.sh"
    inst_hook initqueue/settled 01 "$moddir/at-work.sh"
    note
}

# Tells 'dpsr boot' what the system's own image is: one that boots any machine need not be made twice. It is
# written before the image, which counts only if it is newer than all it is made of.
note() {
    local notes=$dracutsysrootdir/var/lib/dpsr/initramfs
    [[ $outfile == "$dracutsysrootdir"/boot/* ]] || return 0
    mkdir -p "$notes"
    # dpsr itself lets it be made under this name, and then puts it in its place.
    local image=${outfile%.dpsr-new}
    printf 'image=%s\nhostonly=%s\n' "${image#"$dracutsysrootdir"}" "$hostonly" >"$notes/${kernel:?}"
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! The same for whatever the root stands on: the disk is pulled, the machine comes back from the copy, and goes back.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use super::failover::{
    back, made_bootable, mark, marked, on, restarted, root_by_partuuid, stands_on_dpsr, startup, swaps,
    two_generations,
};
use super::{PATIENCE, Rig, booted, dpsr_json, init, is_the_primary, say};
use crate::Result;
use crate::vm::image::Image;
use crate::vm::installed::{Layout, PASSPHRASE, ROOT_PARTUUID, SYSTEM};
use crate::vm::machine::{Machine, Start};
use crate::vm::typist::Answer;
use crate::vm::{DPSR, must};

/// Nobody writes this by chance, and nobody but root may ever read it.
const CANARY: &str = "plaintext-canary-9b1f0c5e5d2f7a07";

/// Longer than the record lets a primary be waited for.
const LATE: Duration = Duration::from_secs(60);

pub(super) fn by_bios(rig: &Rig) -> Result<()> {
    gone_and_back(rig, Start::Bios)
}

pub(super) fn by_uefi(rig: &Rig) -> Result<()> {
    gone_and_back(rig, Start::Uefi)
}

/// Volumes of LVM on disks that are all named in LVM's devices file, as dpsr's devices are not.
pub(super) fn by_devices_file(rig: &Rig) -> Result<()> {
    let both = [&rig.primary, &rig.dpsr];
    let mut machine = on(rig, Start::Uefi, &both, "the primary, to get a devices file")?;
    devices_file(&mut machine)?;
    machine.shut_down()?;
    gone_and_back(rig, Start::Uefi)
}

/// Lets LVM look only at the disks there are.
pub(super) fn devices_file(machine: &mut Machine) -> Result<()> {
    let named = machine.run_within(
        PATIENCE,
        "sed -i -e 's/^[# \t]*use_devicesfile = .*/use_devicesfile = 1/' \
         -e 's/^[# \t]*search_for_devnames = .*/search_for_devnames = \"none\"/' /etc/lvm/lvm.conf && \
         lvm vgimportdevices --all && grep PVID /etc/lvm/devices/system.devices && \
         lvm lvmconfig devices/use_devicesfile && sync",
    )?;
    let known = named.code == 0 && named.output.contains("PVID=") && named.output.contains("file=1");
    must(known, || format!("the devices file: {named:?}"))
}

/// Where there is a devices file, the volumes that are not the root's were activated before the initramfs was left.
pub(super) fn activated(machine: &mut Machine) -> Result<()> {
    let told = "! test -s /etc/lvm/devices/system.devices || \
                journalctl --boot --output cat --grep 'activating all volumes.*active'";
    machine.guest()?.ok(told).map(drop)
}

/// The root on a plain partition, by every firmware and by every name of it.
pub(super) fn bios_uuid(rig: &Rig) -> Result<()> {
    gone(rig, Start::Bios, Start::Bios, false)
}

pub(super) fn bios_partuuid(rig: &Rig) -> Result<()> {
    gone(rig, Start::Bios, Start::Bios, true)
}

pub(super) fn uefi_uuid(rig: &Rig) -> Result<()> {
    gone(rig, Start::Uefi, Start::Uefi, false)
}

pub(super) fn uefi_partuuid(rig: &Rig) -> Result<()> {
    gone(rig, Start::Uefi, Start::Uefi, true)
}

/// The old primary is there again: the copy has what is newer, and goes back to it.
fn gone_and_back(rig: &Rig, start: Start) -> Result<()> {
    gone(rig, Start::Uefi, start, false)?;
    if rig.brief {
        return Ok(());
    }
    back(rig, [&rig.primary, &rig.dpsr])?;
    if rig.layout.is_locked() {
        stays_ciphertext(&rig.dpsr.file)?;
    }
    Ok(())
}

/// Two generations, the disk is pulled, and the same firmware starts the newer of them.
fn gone(rig: &Rig, first: Start, start: Start, by_partuuid: bool) -> Result<()> {
    let both = [&rig.primary, &rig.dpsr];
    // Where the firmware has a list, dpsr's entry in it is made by a system that was started by such firmware.
    let mut machine = on(rig, first, &both, "the primary, not wrapped")?;
    is_the_primary(&mut machine)?;
    init(&mut machine)?;
    if rig.layout.filesystem() == "xfs" {
        // mkfs.xfs(8) made each file anew, those in /boot first: the image is to be newer than what it is made of.
        machine.guest()?.ok("touch /boot/initrd.img-*")?;
    }
    made_bootable(&mut machine)?;
    if by_partuuid {
        root_by_partuuid(&mut machine)?;
    }
    restarted(&mut machine, "the primary, wrapped")?;
    is_the_primary(&mut machine)?;
    activated(&mut machine)?;
    stands_on_dpsr(&mut machine)?;
    if rig.layout == Layout::Lvm {
        spread(&mut machine)?;
    }
    machine.guest()?.ok(&format!("for n in $(seq 500); do echo {CANARY}; done >/root/canary; sync"))?;
    two_generations(&mut machine)?;
    machine.power_cut();
    if rig.layout == Layout::Luks {
        opened_late(rig)?;
    }
    if rig.layout.is_locked() {
        stays_ciphertext(&rig.dpsr.file)?;
    }
    if !rig.layout.is_plain() && (!rig.brief || rig.layout.is_locked()) {
        by_the_card(rig)?;
    }

    let mut machine = on(rig, start, &[&rig.dpsr], "from the copy, the primary missing")?;
    is_the_primary(&mut machine)?;
    stands_on_dpsr(&mut machine)?;
    swaps(&mut machine)?;
    marked(&mut machine, "second")?;
    // The DPSR disk has followed what the primary's menu says.
    let word = if by_partuuid { format!(" root=PARTUUID={ROOT_PARTUUID} ") } else { " root=".to_owned() };
    let line = machine.guest()?.ok("cat /proc/cmdline")?;
    must(line.contains(&word), || format!("the command line of the copy: {line}"))?;
    let status = dpsr_json(&mut machine, "status")?;
    must(status.text("state")? == "live", || format!("{status:?}"))?;
    let (_, all) = startup(&mut machine)?;
    say(format_args!("from the kernel to multi-user: {all:.1} s"));
    mark(&mut machine, "fifth")?;
    machine.shut_down()
}

/// The root's group has a second disk for a while, on which the root has nothing: without it nobody activates the rest.
fn spread(machine: &mut Machine) -> Result<()> {
    let found = |machine: &mut Machine| -> Result<Vec<String>> {
        let status = dpsr_json(machine, "boot status")?;
        status.list("findings")?.iter().map(|it| it.text("what").map(str::to_owned)).collect()
    };
    let spread = format!("modprobe brd rd_nr=1 rd_size=65536 && lvm vgextend {SYSTEM} /dev/ram0 2>&1");
    let done = machine.run_within(PATIENCE, &spread)?;
    must(done.code == 0, || format!("{done:?}"))?;
    let told = found(machine)?;
    let named = told.iter().any(|it| it.contains("disks besides the primary") && it.contains("ram0"));
    must(named, || format!("found in the way: {told:?}"))?;
    let back = format!("lvm vgreduce {SYSTEM} /dev/ram0 && lvm pvremove /dev/ram0 && rmmod brd && sync");
    let done = machine.run_within(PATIENCE, &back)?;
    must(done.code == 0, || format!("{done:?}"))?;
    let told = found(machine)?;
    must(told.is_empty(), || format!("found in the way: {told:?}"))
}

/// On another machine, with nothing of dpsr, the card on the disk leads to the files of the root; nothing is written to the
/// disk.
fn by_the_card(rig: &Rig) -> Result<()> {
    let folder = rig.folder.join("rescue");
    fs::create_dir_all(&folder).map_err(|error| format!("making {}: {error}", folder.display()))?;
    let mut machine = Machine::new(&Image::of(rig.debian)?, vec![rig.dpsr.clone()], &folder)?;
    booted(&mut machine, "another machine")?;
    let guest = machine.guest()?;
    let card = guest
        .ok("mount -o ro /dev/disk/by-label/DPSR-ESP /mnt && cat /mnt/DPSR-RECOVERY.txt && umount /mnt")?;
    let after = |before: &str, words: &str| {
        let mut lines = card.lines().map(str::trim).skip_while(|line| !line.contains(before));
        let line = lines.find_map(|line| line.find(words).map(|at| line[at..].to_owned()));
        line.ok_or_else(|| format!("the card does not say {words:?}: {card}"))
    };
    let attach =
        after("\"root\"", "losetup")?.replace("/dev/THIS-DISK", &format!("/dev/disk/by-id/virtio-{DPSR}"));
    let mut device = guest.ok(&attach)?.trim().to_owned();
    if rig.layout.is_locked() {
        let open = after("LUKS", "cryptsetup open")?.replace("LOOP", &device);
        guest.ok(&format!("printf '{PASSPHRASE}' | {open} --key-file -"))?;
        device = "/dev/mapper/dpsr-opened".to_owned();
    }
    if rig.layout.has_volumes() {
        let group = guest.ok(&after("LVM", "vgs")?.replace("LOOP", &device))?;
        must(group.contains(SYSTEM), || format!("the group on {device}: {group}"))?;
        let activate = after("LVM", "vgchange")?.replace("LOOP", &device).replace("GROUP", SYSTEM);
        guest.ok(&activate)?;
        device = format!("/dev/{SYSTEM}/root");
    }
    let mount = after(&format!("{} ", rig.layout.filesystem()), "mount")?.replace("LOOP", &device);
    let found = guest.ok(&format!("{mount} && cat /mnt/root/marker"))?;
    must(found == "second\n", || format!("by the card there was {found:?}"))?;
    let written = machine.written(DPSR)?;
    must(written == 0, || format!("{written} bytes were written to the DPSR disk"))?;
    machine.power_cut();
    Ok(())
}

/// A disk that nobody has unlocked yet is not a missing one.
fn opened_late(rig: &Rig) -> Result<()> {
    let late = Answer { after: LATE, ..Answer::passphrase(PASSPHRASE) };
    let mut machine = rig.machine(Start::Uefi, &[&rig.primary, &rig.dpsr])?.answered(Some(late));
    booted(&mut machine, "the primary, whose passphrase came late")?;
    is_the_primary(&mut machine)?;
    stands_on_dpsr(&mut machine)?;
    marked(&mut machine, "third")?;
    machine.shut_down()
}

/// No sector of the DPSR disk holds what was encrypted.
fn stays_ciphertext(disk: &Path) -> Result<()> {
    let failed = |error| format!("reading {}: {error}", disk.display());
    let mut file = File::open(disk).map_err(failed)?;
    let canary = CANARY.as_bytes();
    let mut buffer = vec![0; 4 << 20];
    let mut kept = 0;
    loop {
        let read = file.read(&mut buffer[kept..]).map_err(failed)?;
        if read == 0 {
            return Ok(());
        }
        let there = &buffer[..kept + read];
        let zeros = there.iter().all(|byte| *byte == 0);
        let found = !zeros && there.windows(canary.len()).any(|part| part[0] == canary[0] && part == canary);
        must(!found, || format!("{}: plaintext of an encrypted disk", disk.display()))?;
        // What stands across two reads counts, too.
        let (end, rest) = (kept + read, canary.len().min(kept + read));
        buffer.copy_within(end - rest..end, 0);
        kept = rest;
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! The ways in which a primary is lost, each in the middle of a sync: pulled, overwritten, answering with errors.

use std::fs;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::failover::{marked, on, stands_on_dpsr, swaps, two_generations, wrapped};
use super::unwrapped::tells;
use super::{PATIENCE, Rig, dpsr_json, is_the_primary, say};
use crate::Result;
use crate::dpsr::text;
use crate::json::Json;
use crate::process::output;
use crate::vm::installed::ROOT_UUID;
use crate::vm::machine::{Disk, Machine, Start};
use crate::vm::{DPSR, PRIMARY, faults, must};

/// How much changes before the sync that is cut off, in MiB.
const CHANGED: u64 = 96;

/// A sync that has written so much has saved what it overwrites, and is overwriting it.
const CUT: u64 = (CHANGED + CHANGED / 4) << 20;

/// What the kernel says first.
pub(super) const KERNEL: &str = "] Linux version ";

/// From the same state of both disks, the copy of the last committed generation starts in each of them.
pub(super) fn lost_in_other_ways(rig: &Rig) -> Result<()> {
    cut_in_a_sync(rig)?;
    pulled(rig)?;
    let primary = rig.primary.flattened(&rig.folder)?;
    for (name, loss) in
        [("zeroed", Loss::Zeroed), ("failing", Loss::Fails), ("dying", Loss::Dies), ("dead", Loss::Dead)]
    {
        let folder = rig.folder.join(name);
        fs::create_dir(&folder).map_err(|error| format!("making {}: {error}", folder.display()))?;
        lost(rig, loss, &primary.tried_out_raw(&folder)?, &rig.dpsr.tried_out(&folder)?)?;
    }
    Ok(())
}

/// Two generations; the power fails while the third is written.
fn cut_in_a_sync(rig: &Rig) -> Result<()> {
    let mut machine = wrapped(rig, [&rig.primary, &rig.dpsr])?;
    // Room in which the third generation differs everywhere.
    machine.guest()?.ok(&format!("head -c {CHANGED}M /dev/urandom >/root/large; sync"))?;
    two_generations(&mut machine)?;
    let other = format!("head -c {CHANGED}M /dev/urandom | dd of=/root/large conv=notrunc status=none; sync");
    machine.run_within(PATIENCE, &other)?;
    let before = machine.written(DPSR)?;
    machine.guest()?.ok("(dpsr sync >/dev/null 2>&1 &)")?;
    let start = Instant::now();
    while machine.written(DPSR)? < before + CUT {
        must(start.elapsed() < PATIENCE, || "the sync writes nothing".to_owned())?;
        sleep(Duration::from_millis(50));
    }
    machine.power_cut();
    say("the power failed in a sync");
    Ok(())
}

/// Nothing is left of it. The system that runs instead is kept up to date as any other.
fn pulled(rig: &Rig) -> Result<()> {
    let folder = rig.folder.join("pulled");
    fs::create_dir(&folder).map_err(|error| format!("making {}: {error}", folder.display()))?;
    let dpsr = rig.dpsr.tried_out(&folder)?;
    let mut machine = on(rig, Start::Uefi, &[&dpsr], "from the copy, the primary missing")?;
    is_last_generation(&mut machine)?;
    card_is_true(&mut machine)?;
    kernel_installed(&mut machine)?;
    machine.shut_down()
}

/// What the card says for a day without dpsr leads to the root's filesystem. It is another one to the kernel, which has it
/// mounted: only looked at.
fn card_is_true(machine: &mut Machine) -> Result<()> {
    let script = "mount -o ro /dev/disk/by-label/DPSR-ESP /mnt && cat /mnt/DPSR-RECOVERY.txt; umount /mnt";
    let card = machine.guest()?.ok(script)?;
    for words in ["DO NOT format it", "serial primary", "GPT disk GUID", "dpsr mount N /mnt"] {
        must(card.contains(words), || format!("the card does not say {words:?}: {card}"))?;
    }
    let lines = card.lines().map(str::trim);
    let root = lines.skip_while(|line| !line.contains("\"root\"")).find(|line| line.starts_with("losetup"));
    let attach = root.ok_or_else(|| format!("the card does not lead to the root: {card}"))?;
    let attach = attach.replace("/dev/THIS-DISK", "/dev/disk/by-id/virtio-dpsr");
    let told = machine.guest()?.ok(&format!(
        "loop=$({attach}) && blkid -p -s UUID -o value $loop; dumpe2fs -h $loop >/dev/null; losetup -d $loop"
    ))?;
    must(told.contains(ROOT_UUID), || format!("`{attach}` leads to {told:?}"))
}

/// What a package of another kernel does while the system runs from its copy, and what a menu is made anew by. It is the
/// same kernel under another name, and so finds none of its modules: it is not started.
fn kernel_installed(machine: &mut Machine) -> Result<()> {
    let version = "$(uname -r | sed s/-[0-9]*-/-999-/)";
    let install = format!(
        "rm /root/large && cp -al /usr/lib/modules/$(uname -r) /usr/lib/modules/{version} && \
         cp /boot/vmlinuz-$(uname -r) /boot/vmlinuz-{version} && \
         DEB_MAINT_PARAMS=\"'configure' ''\" run-parts --verbose --exit-on-error --arg={version} \
         --arg=/boot/vmlinuz-{version} /etc/kernel/postinst.d && update-grub"
    );
    let start = Instant::now();
    let done = machine.run_within(PATIENCE, &install)?;
    must(done.code == 0, || format!("installing a kernel: {}", done.output))?;
    say(format_args!("a kernel installed: {:.1} s", start.elapsed().as_secs_f64()));
    let status = dpsr_json(machine, "boot status")?;
    let newer = status.text("kernel")?.contains("-999-");
    let current = status.find("current") == Some(&Json::Bool(true));
    must(newer && current, || format!("the DPSR disk starts {status:?}"))?;
    older_has_its_own(machine)
}

/// The generation from before that starts with the kernel from before.
fn older_has_its_own(machine: &mut Machine) -> Result<()> {
    let menu = "mount -o ro /dev/disk/by-label/DPSR-ESP /mnt && grep '^ *linux ' /mnt/dpsr/grub.cfg && \
                cd /mnt && ls dpsr/*/vmlinuz; cd / && umount /mnt";
    let told = machine.guest()?.ok(menu)?;
    let kernel = |words: &str| {
        let line = told.lines().find(|line| line.contains(words) && line.contains("linux /"));
        line.and_then(|line| line.split('/').nth(2)).map(str::to_owned)
    };
    let (newest, older) = (kernel(" dpsr.boot=auto "), kernel(" dpsr.generation=1 "));
    let there = |set: &Option<String>| {
        set.as_ref().is_some_and(|set| told.lines().any(|line| line == format!("dpsr/{set}/vmlinuz")))
    };
    must(newest != older && there(&newest) && there(&older), || format!("the menu: {told}"))
}

/// How a primary that is there is lost.
#[derive(Clone, Copy)]
enum Loss {
    /// Its first MiB is zeros.
    Zeroed,
    /// It answers with errors, and the DPSR disk's loader starts.
    Fails,
    /// Its own loader has started its own kernel, and then it answers with errors.
    Dies,
    /// It answers with errors, to the firmware already, which tries it first. QEMU's BIOS tries no other disk then.
    Dead,
}

fn lost(rig: &Rig, loss: Loss, primary: &Disk, dpsr: &Disk) -> Result<()> {
    let (start, disks, what) = match loss {
        Loss::Zeroed => (Start::Bios, [dpsr, primary], "from the copy, the primary's first MiB zeros"),
        Loss::Fails => (Start::Bios, [dpsr, primary], "from the copy, the primary failing"),
        Loss::Dies => (Start::Uefi, [primary, dpsr], "from the copy, by the primary's initramfs"),
        Loss::Dead => {
            (Start::Uefi, [primary, dpsr], "from the copy, the primary dead when the firmware tries it")
        }
    };
    let mut machine = rig.machine(start, &disks)?;
    let took = match loss {
        Loss::Zeroed => {
            let mut zero = Command::new("dd");
            let file = format!("of={}", text(&primary.file)?);
            output(zero.args(["if=/dev/zero", &file, "bs=1M", "count=1", "conv=notrunc", "status=none"]))?;
            machine.boot()?
        }
        Loss::Dead => machine.boot_with(faults::fail, PRIMARY, None)?,
        Loss::Fails | Loss::Dies => machine.boot_with(faults::fail, PRIMARY, Some(KERNEL))?,
    };
    say(format_args!("{what}: {:.1} s", took.as_secs_f64()));
    is_last_generation(&mut machine)?;
    machine.shut_down()
}

/// It is the DPSR disk that answers with errors: the primary starts.
pub(super) fn dpsr_disk_fails(rig: &Rig) -> Result<()> {
    let mut machine = wrapped(rig, [&rig.primary, &rig.dpsr])?;
    two_generations(&mut machine)?;
    machine.shut_down()?;
    let mut machine = rig.machine(Start::Uefi, &[&rig.primary, &rig.dpsr])?;
    let took = machine.boot_with(faults::fail, DPSR, Some(KERNEL))?;
    say(format_args!("the primary, the DPSR disk failing: {:.1} s", took.as_secs_f64()));
    marked(&mut machine, "third")?;
    let told = machine.guest()?.run("cat /run/motd.d/10-dpsr")?.output;
    must(!told.contains("RUNS FROM ITS COPY"), || told.clone())?;
    is_the_primary(&mut machine)?;
    stands_on_dpsr(&mut machine)?;
    tells(&mut machine, "started without a DPSR disk")?;
    machine.guest()?.ok("grep 'what was written then is not here' /run/motd.d/11-dpsr")?;
    given_up(&mut machine)?;
    machine.power_cut();
    Ok(())
}

/// Nobody can take away what is on that disk; the machine need not wait for it any more.
fn given_up(machine: &mut Machine) -> Result<()> {
    let refused = machine.guest()?.run("dpsr boot uninstall")?;
    let told = refused.code != 0 && refused.output.contains("--dpsr-lost");
    must(told, || format!("{}: {}", refused.code, refused.output))?;
    let menu = "/boot/grub/grub.cfg";
    machine.guest()?.ok(&format!("/etc/grub.d/42_dpsr >>{menu} && grep dpsr-recover {menu}"))?;
    let words = format!(
        "dpsr boot uninstall --dpsr-lost && ! efibootmgr | grep DPSR && ! grep '^boot = true' /etc/dpsr/*.toml && \
         ! grep dpsr-recover {menu} && grep -q '^menuentry ' {menu} && ! ls /boot/grub/*dpsr-new"
    );
    let done = machine.run_within(PATIENCE, &words)?;
    must(done.code == 0, || format!("giving the DPSR disk up: {done:?}"))?;
    machine.shut_down()?;
    let took = machine.boot_with(faults::fail, DPSR, None)?;
    say(format_args!("the primary, by a menu made anew: {:.1} s", took.as_secs_f64()));
    is_the_primary(machine)
}

/// The machine runs, and what was cut off is as if it had not been.
fn is_last_generation(machine: &mut Machine) -> Result<()> {
    is_the_primary(machine)?;
    stands_on_dpsr(machine)?;
    swaps(machine)?;
    marked(machine, "second")?;
    let told = machine.guest()?.ok("cat /run/motd.d/*")?;
    for words in
        ["RUNS FROM ITS COPY", "the primary is missing", "A sync that had been cut off was rolled back first"]
    {
        must(told.contains(words), || format!("nobody was told {words:?}: {told}"))?;
    }
    let status = dpsr_json(machine, "status")?;
    must(status.text("state")? == "live", || format!("{status:?}"))
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! The disk is pulled, the machine comes back by itself, and goes back to its disk.

use std::env;
use std::time::Instant;

use super::{PATIENCE, Rig, booted, dpsr, dpsr_json, init, is_the_primary, say};
use crate::Result;
use crate::json::Json;
use crate::vm::installed::{ARRAY_UUID, PASSPHRASE, ROOT_PARTUUID, ROOT_UUID, SWAP_UUID};
use crate::vm::machine::{Disk, Machine, Start};
use crate::vm::{PRIMARY, must};

/// The device on which everything of the primary lies where it is wrapped, or where the copy stands for it.
const ROOT: &str = "/dev/mapper/dpsr-";

/// Everything once, in the order in which it happens to somebody: by UEFI and by BIOS.
pub(super) fn gone_and_back(rig: &Rig) -> Result<()> {
    let mut times = prepared(rig)?.to_vec();
    times.push(failed_over(rig, Start::Bios)?);
    for (what, (initramfs, all)) in ["normal", "wrapped", "failover"].into_iter().zip(times) {
        say(format_args!(
            "| {what:<8} | initramfs {initramfs:5.1} s | from the kernel to multi-user {all:5.1} s |"
        ));
    }
    went_on(rig, Start::Uefi)?;
    let order = if rig.brief {
        // One start for both.
        [&rig.primary, &rig.dpsr]
    } else {
        old_primary_first(rig)?;
        [&rig.dpsr, &rig.primary]
    };
    let forgotten = back_to(rig, order)?;
    must(forgotten, || "the firmware had no entry of the primary to lose".to_owned())
}

pub(super) fn on(rig: &Rig, start: Start, disks: &[&Disk], what: &str) -> Result<Machine> {
    let mut machine = rig.machine(start, disks)?;
    booted(&mut machine, what)?;
    Ok(machine)
}

/// A wrapped primary whose own initramfs knows that the DPSR disk boots: only then it starts a copy, or waits for one.
pub(super) fn wrapped(rig: &Rig, both: [&Disk; 2]) -> Result<Machine> {
    let mut machine = on(rig, Start::Uefi, &both, "the primary, not wrapped")?;
    init(&mut machine)?;
    made_bootable(&mut machine)?;
    restarted(&mut machine, "the primary, wrapped")?;
    Ok(machine)
}

/// Back to the old primary, whatever it holds; its system runs afterwards.
pub(super) fn back_over_it(machine: &mut Machine) -> Result<()> {
    let disk = machine.guest()?.ok(&format!("grep -l {PRIMARY} /sys/block/vd*/serial | cut -d/ -f4"))?;
    let to = format!("failback --to /dev/{} --discard-primary --confirm {PRIMARY}", disk.trim());
    dpsr_json(machine, &to)?;
    restarted(machine, "the rest copied, and the primary started")?;
    is_the_primary(machine)
}

/// Paired, wrapped from the next start on, two generations, and something newer than both.
fn prepared(rig: &Rig) -> Result<[Startup; 2]> {
    let mut machine = on(rig, Start::Uefi, &[&rig.primary, &rig.dpsr], "the primary, not wrapped")?;
    is_the_primary(&mut machine)?;
    let normal = startup(&mut machine)?;
    init(&mut machine)?;
    made_bootable(&mut machine)?;
    directly_after_the_primary(&mut machine)?;
    root_by_partuuid(&mut machine)?;
    entry_of_its_own(&mut machine)?;
    restarted(&mut machine, "the primary, wrapped")?;
    is_the_primary(&mut machine)?;
    let wrapped = startup(&mut machine)?;
    stands_on_dpsr(&mut machine)?;
    swaps(&mut machine)?;
    mark(&mut machine, "first")?;
    dpsr(&mut machine, "sync")?;
    directly_after_the_primary_itself(&mut machine)?;
    mark(&mut machine, "second")?;
    let synced = dpsr_json(&mut machine, "sync")?;
    must(synced.number("generation")? == 2, || format!("{synced:?}"))?;
    say(format_args!("the primary waited {} ms for the moment", synced.number("pause_ms")?));
    mark(&mut machine, "third")?;
    machine.power_cut();
    Ok([normal, wrapped])
}

/// Seconds in the initramfs, and from the kernel's first to when the system was up, as systemd counts them.
pub(super) type Startup = (f64, f64);

pub(super) fn startup(machine: &mut Machine) -> Result<Startup> {
    let ask = "systemctl show --property InitRDTimestampMonotonic --property UserspaceTimestampMonotonic \
               --property FinishTimestampMonotonic";
    let told = machine.guest()?.ok(ask)?;
    let seconds = |name: &str| {
        let value = told.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        let micros: Option<f64> = value.and_then(|value| value.parse().ok());
        micros.map(|micros| micros / 1e6).ok_or_else(|| format!("no {name} in {told}"))
    };
    let begun = seconds("InitRDTimestampMonotonic")?;
    Ok((seconds("UserspaceTimestampMonotonic")? - begun, seconds("FinishTimestampMonotonic")?))
}

/// What an installer writes into the firmware's list, which has but the paths of devices by itself.
fn entry_of_its_own(machine: &mut Machine) -> Result<()> {
    let part =
        "$(cat /sys/class/block/$(basename $(findmnt --noheadings --output SOURCE /boot/efi))/partition)";
    let make = format!("efibootmgr -q -c -d /dev/vda -p {part} -L {OWN} -l '\\EFI\\BOOT\\BOOTX64.EFI'");
    machine.guest()?.ok(&make).map(drop)
}

/// The firmware forgets the primary, where it knew it by name: whether it did.
fn forgotten(machine: &mut Machine) -> Result<bool> {
    let numbers = format!("efibootmgr | sed -n 's/^Boot\\([0-9A-F]*\\)[*] {OWN}.*/\\1/p'");
    let script = format!("all=$({numbers}); echo $all; for it in $all; do efibootmgr -q -B -b $it; done");
    let gone = machine.guest()?.ok(&script)?;
    Ok(!gone.trim().is_empty())
}

/// What the firmware calls the primary.
const OWN: &str = "installed";

/// The same where the primary has an entry, which has just started it.
fn directly_after_the_primary_itself(machine: &mut Machine) -> Result<()> {
    let list = machine.guest()?.ok("efibootmgr")?;
    let current = list.lines().find_map(|line| line.strip_prefix("BootCurrent: ")).unwrap_or_default();
    must(list.contains(&format!("Boot{current}* {OWN}")), || format!("the firmware's list: {list}"))?;
    directly_after_the_primary(machine)
}

/// In the firmware's order the DPSR disk follows what has just started the primary.
fn directly_after_the_primary(machine: &mut Machine) -> Result<()> {
    let list = machine.guest()?.ok("efibootmgr")?;
    let value = |name: &str| list.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let current = value("BootCurrent:").unwrap_or_default();
    let order: Vec<&str> = value("BootOrder:").unwrap_or_default().split(',').collect();
    let next = order.windows(2).find(|pair| pair[0] == current).map(|pair| pair[1]);
    let ours = next.is_some_and(|number| list.contains(&format!("Boot{number}* DPSR system")));
    must(ours, || format!("the firmware's list: {list}"))
}

/// From the next start on the kernel is told another name of the root; everything else goes by UUID. The DPSR disk
/// follows with the next sync.
pub(super) fn root_by_partuuid(machine: &mut Machine) -> Result<()> {
    let change = format!("s/root=UUID={ROOT_UUID}/root=PARTUUID={ROOT_PARTUUID}/");
    machine.guest()?.ok(&format!("sed --in-place {change} /boot/grub/grub.cfg && sync")).map(drop)
}

/// Makes the DPSR disk bootable; what was done. The primary's own initramfs, which has dpsr in it, knows of it then.
pub(super) fn made_bootable(machine: &mut Machine) -> Result<Json> {
    let done = dpsr_json(machine, "boot install")?;
    must(done.find("primary_told") == Some(&Json::Bool(true)), || format!("{done:?}"))?;
    Ok(done)
}

/// The initramfs of the primary.
pub(super) const OWN_IMAGE: &str = "/boot/initrd.img-$(uname -r)";

/// Adds files below the current directory to an initramfs: an archive begins at a multiple of four, and one that is
/// compressed ends anywhere. (`buffer-format.rst`)
pub(super) fn appended(files: &str, image: &str) -> String {
    format!(
        "truncate --size=%512 {image} && find {files} | cpio --quiet --create --format=newc >>{image} && sync"
    )
}

/// Puts the record of the pair into the primary's initramfs, as `dracut --force` does: that takes minutes in
/// emulation, so that it is done only where there is time (`DPSR_VM_LONG=1`). Elsewhere the record is added to
/// the image there is, which the kernel unpacks as well. (`buffer-format.rst`)
pub(super) fn record_in_initramfs(machine: &mut Machine) -> Result<()> {
    let long = env::var("DPSR_VM_LONG").is_ok_and(|it| it == "1");
    let add = format!("cd / && {}", appended("etc/dpsr", OWN_IMAGE));
    let start = Instant::now();
    let made = machine.run_within(PATIENCE, if long { "dracut --force --quiet" } else { &add })?;
    say(format_args!("the record put into the initramfs: {:.1} s", start.elapsed().as_secs_f64()));
    must(made.code == 0, || format!("the initramfs: {}", made.output))
}

/// The primary is not there: the machine is as it was at the last generation, and says so.
fn failed_over(rig: &Rig, start: Start) -> Result<Startup> {
    let mut machine = on(rig, start, &[&rig.dpsr], "from the copy, the primary missing")?;
    is_the_primary(&mut machine)?;
    machine.guest()?.ok("grep 'root=PARTUUID=' /proc/cmdline")?;
    let startup = startup(&mut machine)?;
    swaps(&mut machine)?;
    stands_on_dpsr(&mut machine)?;
    marked(&mut machine, "second")?;
    let told = machine
        .guest()?
        .ok("cat /run/motd.d/*; journalctl --boot --grep 'runs from its copy' --output cat")?;
    for words in [
        "RUNS FROM ITS COPY",
        "the primary is missing",
        "generation 2 of",
        " before this boot",
        "it runs from its copy on",
        " since 20",
    ] {
        must(told.contains(words), || format!("nobody was told {words:?}: {told}"))?;
    }
    let status = dpsr_json(&mut machine, "status")?;
    must(status.text("state")? == "live", || format!("{status:?}"))?;
    for refused in ["sync", "export 1 -", "drop 1", "scrub"] {
        let done = machine.guest()?.run(&format!("dpsr {refused} >/dev/null"))?;
        must(done.code == 3, || format!("dpsr {refused} ended with {}: {}", done.code, done.output))?;
    }
    mark(&mut machine, "fourth")?;
    machine.power_cut();
    Ok(startup)
}

/// The next start goes on with what was written.
fn went_on(rig: &Rig, start: Start) -> Result<()> {
    let mut machine = rig.machine(start, &[&rig.dpsr])?.expecting(rig.primary.clone());
    booted(&mut machine, "from the copy again")?;
    is_the_primary(&mut machine)?;
    swaps(&mut machine)?;
    marked(&mut machine, "fourth")?;
    let told = machine.guest()?.ok("cat /run/motd.d/*")?;
    let year = machine.guest()?.ok("date --utc +' since %Y-'")?;
    must(told.contains(year.trim_end()), || format!("nobody was told since when: {told}"))?;
    // Somebody puts the old disk in meanwhile.
    machine.replug(PRIMARY)?;
    let there = format!("until grep -q {PRIMARY} /sys/block/vd*/serial; do sleep 0.1; done; udevadm settle");
    machine.guest()?.ok(&there)?;
    old_primary_is_nobodys(&mut machine)?;
    mark(&mut machine, "fifth")?;
    machine.shut_down()
}

/// The old primary is there again, and its own loader starts: the copy has what is newer.
fn old_primary_first(rig: &Rig) -> Result<()> {
    let both = [&rig.primary, &rig.dpsr];
    let mut machine = on(rig, Start::Bios, &both, "with the old primary first")?;
    marked(&mut machine, "fifth")?;
    old_primary_is_nobodys(&mut machine)?;
    machine.shut_down()
}

/// The root is the copy's, and no name leads to the old primary.
fn old_primary_is_nobodys(machine: &mut Machine) -> Result<()> {
    let root = machine.guest()?.ok("findmnt --noheadings --output SOURCE /; findfs PARTLABEL=root")?;
    must(root.lines().all(|line| line.starts_with(ROOT)), || format!("the root is {root}"))?;
    let links = machine.guest()?.ok("readlink --canonicalize /dev/disk/by-uuid/* /dev/disk/by-partuuid/*")?;
    let raw = machine.guest()?.ok(&format!("grep -l {PRIMARY} /sys/block/vd*/serial | cut -d/ -f4"))?;
    must(!links.contains(&format!("/dev/{}", raw.trim())), || format!("links to {raw}: {links}"))
}

/// Back to the old primary's disk: refused while it may hold something, then copied, finished by the next
/// start, and synced as if nothing had been. By UEFI: this BIOS tries the first disk alone, which cannot be
/// booted from until all is copied.
pub(super) fn back(rig: &Rig, disks: [&Disk; 2]) -> Result<()> {
    back_to(rig, disks).map(drop)
}

/// The same; whether the firmware had an entry of the primary, which it lost on the way.
fn back_to(rig: &Rig, disks: [&Disk; 2]) -> Result<bool> {
    let mut machine = on(rig, Start::Uefi, &disks, "to go back")?;
    marked(&mut machine, "fifth")?;
    stands_on_dpsr(&mut machine)?;
    if rig.layout.is_plain() {
        old_primary_is_nobodys(&mut machine)?;
    }
    let (disk, id) = old_primary(rig, &mut machine)?;
    let to = format!("failback --to /dev/{disk}");
    let refused = machine.guest()?.run(&format!("dpsr {to}"))?;
    let words = ["--discard-primary", "dpsr salvage"];
    let when = if rig.layout.is_plain() { " ago" } else { "" };
    let told = words.iter().chain([&when]).all(|it| refused.output.contains(it));
    let warned = refused.code == 3 && told;
    must(warned, || format!("{}: {}", refused.code, refused.output))?;
    looked_into(&mut machine, &disk)?;
    let begun = dpsr_json(&mut machine, &format!("{to} --discard-primary --confirm {id}"))?;
    say(format_args!("the last pass found {} bytes that differ", begun.number("last_pass")?));
    let forgotten = forgotten(&mut machine)?;
    mark(&mut machine, "sixth")?;
    restarted(&mut machine, "the rest copied, and the primary started")?;
    is_the_primary(&mut machine)?;
    stands_on_dpsr(&mut machine)?;
    swaps(&mut machine)?;
    marked(&mut machine, "sixth")?;
    let status = dpsr_json(&mut machine, "status")?;
    let clean = status.text("state")? == "clean" && status.number("generation")? == 2;
    must(clean, || format!("{status:?}"))?;
    let told = machine.guest()?.run("cat /run/motd.d/10-dpsr")?;
    must(told.code != 0, || format!("a login is told: {}", told.output))?;
    let synced = dpsr_json(&mut machine, "sync")?;
    must(synced.number("generation")? == 3, || format!("{synced:?}"))?;
    if forgotten {
        let list = machine.guest()?.ok("efibootmgr")?;
        must(list.contains(&format!("* {OWN}")), || {
            format!("the firmware does not know the primary: {list}")
        })?;
    }
    let scrubbed = dpsr_json(&mut machine, "scrub")?;
    must(scrubbed.number("found")? == 0, || format!("{scrubbed:?}"))?;
    uninstalled(&mut machine)?;
    if !rig.layout.is_plain() {
        restarted(&mut machine, "the primary, from which nothing leads to the copy")?;
        is_the_primary(&mut machine)?;
        marked(&mut machine, "sixth")?;
        machine.shut_down()?;
        return Ok(forgotten);
    }
    // It neither waits for the DPSR disk nor says that there is none.
    machine.shut_down()?;
    let mut machine = on(rig, Start::Uefi, &[&rig.primary], "the primary alone, which expects no copy")?;
    is_the_primary(&mut machine)?;
    marked(&mut machine, "sixth")?;
    let told = machine.guest()?.run("cat /run/motd.d/11-dpsr; dmesg | grep -i 'unpacking failed'")?;
    must(told.code != 0 && !told.output.contains("DPSR"), || told.output.clone())?;
    machine.shut_down()?;
    Ok(forgotten)
}

/// The kernel's name of the old primary, which has no others now, and what it reports.
fn old_primary(rig: &Rig, machine: &mut Machine) -> Result<(String, &'static str)> {
    let (script, id) = match rig.mirror {
        None => (format!("grep -l {PRIMARY} /sys/block/vd*/serial | cut -d/ -f4"), PRIMARY),
        Some(_) => ("basename /sys/block/md*".to_owned(), ARRAY_UUID),
    };
    let name = machine.guest()?.ok(&script)?.trim().to_owned();
    must(!name.is_empty() && !name.contains(['*', '\n']), || format!("the old primary: {name:?}"))?;
    Ok((name, id))
}

/// What was written to the old primary after the last generation can be read, and nothing is written to it, as the
/// kernel counts it. Volumes are found as those of a generation are.
fn looked_into(machine: &mut Machine, disk: &str) -> Result<()> {
    let volume = format!(
        "$(partx --show --noheadings --output NR,NAME /dev/{disk} | awk '$2 == \"root\" {{ print $1 }}')"
    );
    let key = format!("printf '{PASSPHRASE}' >/run/key");
    let lv = "$(test -e /dev/mapper/system-root && echo --lv=root)";
    // Sectors that were written. (`Documentation/block/stat.rst`)
    let written = format!("awk '{{ print $7 }}' /sys/block/{disk}/stat");
    let script = format!(
        "{key}; before=$({written}) && mkdir -p /run/old && \
         dpsr salvage /dev/{disk} /run/old --volume {volume} --key-file /run/key {lv} >/dev/null && \
         cat /run/old/root/marker; dpsr umount /run/old >/dev/null && sync && test \"$before\" = \"$({written})\""
    );
    let found = machine.run_within(PATIENCE, &script)?;
    must(found.code == 0 && found.output == "third\n", || {
        format!("in the old primary there was {:?} (exit code {})", found.output, found.code)
    })
}

/// The DPSR disk boots nothing any more, and its store is as it was.
fn uninstalled(machine: &mut Machine) -> Result<()> {
    let told = dpsr(machine, "boot uninstall")?;
    must(!told.contains("dracut --force"), || told.clone())?;
    let status = dpsr_json(machine, "boot status")?;
    must(status.find("current") == Some(&Json::Bool(false)), || format!("{status:?}"))?;
    let left = "efibootmgr | grep DPSR; mount -o ro /dev/disk/by-label/DPSR-ESP /mnt && find /mnt -mindepth 1 && \
                umount /mnt; dd if=/dev/disk/by-id/virtio-dpsr bs=440 count=1 status=none | tr -d '\\000'";
    let left = machine.guest()?.run(left)?;
    must(left.code == 0 && left.output.is_empty(), || format!("left of what boots: {}", left.output))?;
    let again = machine.guest()?.run("dpsr boot update")?;
    must(again.code != 0, || format!("an update made it again: {}", again.output))?;
    let status = dpsr_json(machine, "status")?;
    must(status.number("generation")? == 3, || format!("{status:?}"))
}

pub(super) fn restarted(machine: &mut Machine, what: &str) -> Result<()> {
    let start = Instant::now();
    machine.restart(PATIENCE)?;
    say(format_args!("{what}: {:.1} s", start.elapsed().as_secs_f64()));
    Ok(())
}

/// There is swap under the UUID that fstab names, though none was copied.
pub(super) fn swaps(machine: &mut Machine) -> Result<()> {
    let swap = machine.guest()?.ok("swapon --noheadings --show=UUID,SIZE --bytes")?;
    must(swap.starts_with(SWAP_UUID), || format!("the swap space is {swap:?}"))
}

/// What nobody but the test writes.
/// Two generations, each with a word of its own, and a third word that is in none.
pub(super) fn two_generations(machine: &mut Machine) -> Result<()> {
    for word in ["first", "second"] {
        mark(machine, word)?;
        dpsr(machine, "sync")?;
    }
    mark(machine, "third")
}

pub(super) fn mark(machine: &mut Machine, word: &str) -> Result<()> {
    machine.guest()?.ok(&format!("echo {word} >/root/marker; sync")).map(drop)
}

pub(super) fn marked(machine: &mut Machine, word: &str) -> Result<()> {
    let found = machine.guest()?.ok("cat /root/marker")?;
    must(found.trim() == word, || format!("the marker is {:?}, not {word:?}", found.trim()))
}

pub(super) fn stands_on_dpsr(machine: &mut Machine) -> Result<()> {
    let below = "lsblk --noheadings --inverse --list --output NAME $(findmnt --noheadings --output SOURCE /)";
    let below = machine.guest()?.ok(below)?;
    must(below.lines().any(|name| name.starts_with("dpsr-")), || format!("the root stands on {below}"))
}

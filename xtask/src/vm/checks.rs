// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the machine itself must show: that the harness does what tests ask of it.

use super::guest::Done;
use super::machine::Machine;
use super::runner::Steps;
use super::{DPSR as SECOND, must};
use crate::Result;
use crate::data::Noise;

/// Where the guest sees the disk that these checks use.
const SECOND_LINK: &str = "/dev/disk/by-id/virtio-dpsr";

/// In the order in which they build upon each other.
pub const CHECKS: [Steps; 7] = [
    ("commands", commands),
    ("files", files),
    ("power_cut", power_cut),
    ("unplug", unplug),
    ("hang", hang),
    ("fail", fail),
    ("device_mapper", device_mapper),
];

/// Code and both outputs come back; an empty answer and a long one do.
fn commands(machine: &mut Machine) -> Result<()> {
    let guest = machine.guest()?;
    let done = guest.run("echo out; echo err >&2; exit 7")?;
    must(done == Done { code: 7, output: "out\nerr\n".to_owned() }, || format!("{done:?}"))?;
    let done = guest.run("exit 0")?;
    must(done == Done { code: 0, output: String::new() }, || format!("{done:?}"))?;
    let long = guest.ok("seq 100000")?;
    must(long.lines().count() == 100_000 && long.ends_with("\n100000\n"), || "seq 100000".to_owned())
}

fn files(machine: &mut Machine) -> Result<()> {
    let guest = machine.guest()?;
    let mut bytes = vec![0; 300_001];
    Noise::new(7).fill(&mut bytes);
    guest.put(&bytes, "/root/there/and back")?;
    must(guest.get("/root/there/and back")? == bytes, || "the bytes differ".to_owned())?;
    must(guest.get("/root/nowhere").is_err(), || "a file that is not there was read".to_owned())
}

/// What was flushed is there after a power cut; the machine comes up again, as another boot.
fn power_cut(machine: &mut Machine) -> Result<()> {
    const BOOT: &str = "cat /proc/sys/kernel/random/boot_id";
    let before = machine.guest()?.ok(BOOT)?;
    machine.guest()?.ok("echo here >/root/marker; sync")?;
    machine.power_cut();
    must(machine.guest().is_err(), || "the machine is still on".to_owned())?;
    machine.boot()?;
    let guest = machine.guest()?;
    must(guest.ok(BOOT)? != before, || "it is the same boot".to_owned())?;
    let marker = guest.ok("cat /root/marker")?;
    must(marker == "here\n", || format!("the marker reads {marker:?}"))
}

fn unplug(machine: &mut Machine) -> Result<()> {
    let listed = |machine: &mut Machine| -> Result<bool> {
        Ok(machine.guest()?.ok("lsblk --noheadings --nodeps --output SERIAL")?.lines().any(|it| it == SECOND))
    };
    must(listed(machine)?, || "lsblk does not show the second disk".to_owned())?;
    machine.unplug(SECOND)?;
    machine.guest()?.ok(&format!("udevadm wait --removed --timeout=30 {SECOND_LINK}"))?;
    must(!listed(machine)?, || "lsblk still shows the disk that was unplugged".to_owned())?;
    machine.replug(SECOND)?;
    machine.guest()?.ok(&format!("udevadm wait --timeout=30 {SECOND_LINK}"))?;
    must(listed(machine)?, || "lsblk does not show the disk that was put back".to_owned())
}

/// A read of a disk that hangs does not end, and ends well once the disk is healed.
fn hang(machine: &mut Machine) -> Result<()> {
    const READ: &str = "rm -f /run/ended; { dd if=LINK of=/dev/null bs=64k count=4 \
        iflag=direct status=none && echo ok || echo failed; } >/run/reading 2>&1 && mv /run/reading /run/ended";
    const ENDED: &str = "cat /run/ended 2>/dev/null || echo not yet";
    machine.hang(SECOND)?;
    let read = READ.replace("LINK", SECOND_LINK);
    machine.guest()?.ok(&format!("({read}) >/dev/null 2>&1 & sleep 4"))?;
    let said = machine.guest()?.ok(ENDED)?;
    must(said == "not yet\n", || format!("reading from a disk that hangs: {said}"))?;
    machine.heal(SECOND)?;
    let wait = format!("timeout 60 sh -c 'until [ -e /run/ended ]; do sleep 0.1; done'; {ENDED}");
    let said = machine.guest()?.ok(&wait)?;
    must(said == "ok\n", || format!("reading from a disk that was healed: {said}"))
}

/// Reads and writes of a disk that fails are errors, and none any more once it is healed.
fn fail(machine: &mut Machine) -> Result<()> {
    let read = format!("dd if={SECOND_LINK} of=/dev/null bs=4k count=1 iflag=direct");
    let write = format!("dd if=/dev/zero of={SECOND_LINK} bs=4k count=1 oflag=direct");
    machine.fail(SECOND)?;
    for command in [&read, &write] {
        let Done { code, output } = machine.guest()?.run(command)?;
        must(code != 0 && output.contains("Input/output error"), || format!("{command}: {output}"))?;
    }
    machine.heal(SECOND)?;
    machine.guest()?.ok(&read)?;
    machine.guest()?.ok(&write).map(drop)
}

/// The targets dpsr needs, and the trap in their order: an origin that was live before its first snapshot
/// does not split writes at chunk borders (`origin_resume` in the kernel's dm-snap.c), and so loses
/// pre-images silently.
fn device_mapper(machine: &mut Machine) -> Result<()> {
    let guest = machine.guest()?;
    let listed = guest.ok("modprobe -a dm-snapshot dm-zero dm-flakey dm-era && dmsetup targets")?;
    let targets: Vec<&str> = listed.lines().filter_map(|line| line.split_whitespace().next()).collect();
    let wanted =
        ["linear", "error", "zero", "snapshot", "snapshot-origin", "snapshot-merge", "flakey", "era"];
    let missing: Vec<&str> = wanted.into_iter().filter(|target| !targets.contains(target)).collect();
    must(missing.is_empty(), || format!("targets that the kernel lacks: {missing:?}"))?;

    guest.put(include_bytes!("guest/load_order.sh"), "/root/load_order")?;
    for (first, outcome) in [("snapshot", "exact"), ("origin", "lost")] {
        let said = guest.ok(&format!("/root/load_order {SECOND_LINK} {first}"))?;
        must(said.trim() == outcome, || format!("{first} live first: {outcome} expected, found {said}"))?;
    }
    Ok(())
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a fresh machine is asked to show, in one boot as far as that goes.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use super::guest::Done;
use super::machine::Machine;
use crate::Result;
use crate::cargo;
use crate::data::Noise;
use crate::dpsr::text;
use crate::process::output;
use crate::scratch::Scratch;

/// The name of the second disk, 64 MiB that nothing is on.
pub const SECOND: &str = "second";

/// Where the guest sees the second disk.
const SECOND_LINK: &str = "/dev/disk/by-id/virtio-second";

/// How long the tests on loop devices may take in emulation.
const LOOPDEV: Duration = Duration::from_secs(1800);

type Check = (&'static str, fn(&mut Machine) -> Result<()>);

const CHECKS: [Check; 6] = [
    ("commands", commands),
    ("files", files),
    ("power cut", power_cut),
    ("unplug and replug", unplug),
    ("device-mapper", device_mapper),
    ("tests on loop devices", loopdev),
];

/// Runs all of them; a failed one ends the run, for it may have left the machine in any state.
pub fn run(machine: &mut Machine) -> Result<()> {
    for (name, check) in CHECKS {
        let start = Instant::now();
        check(machine).map_err(|why| format!("{name}: {why}"))?;
        println!("{name}: ok, {:.1} s", start.elapsed().as_secs_f64());
    }
    Ok(())
}

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
    println!("booted again in {:.1} s", machine.boot()?.as_secs_f64());
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

/// The tests that the host runs on its loop devices, here beside device-mapper, udev and partition nodes.
fn loopdev(machine: &mut Machine) -> Result<()> {
    let built = cargo::test_binaries("loopdev")?;
    let scratch = Scratch::new(&std::env::temp_dir(), "vm-loopdev")?;
    for binary in [&built.dpsr, &built.test] {
        machine.guest()?.put(&stripped(binary, scratch.path())?, text(binary)?)?;
    }
    let command = format!("DPSR_TEST_LOOP=1 '{}' --include-ignored", text(&built.test)?);
    let Done { code, output } = machine.guest()?.run_within(LOOPDEV, &command)?;
    println!(
        "{}",
        output.lines().filter(|line| line.starts_with("test result")).collect::<Vec<_>>().join("\n")
    );
    must(code == 0, || format!("exit code {code}:\n{output}"))
}

/// The binary without what only a debugger reads, most of its size.
fn stripped(binary: &Path, folder: &Path) -> Result<Vec<u8>> {
    let small = folder.join("stripped");
    output(Command::new("strip").arg("-o").arg(&small).arg(binary))?;
    fs::read(&small).map_err(|error| format!("reading {}: {error}", small.display()))
}

fn must(holds: bool, why: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(why()) }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Syncs of a primary in use, while the power goes or the DPSR disk hangs.

use std::thread;
use std::time::{Duration, Instant};

use super::{CONFIG, PATIENCE, dpsr, fresh, keep, must_be_as_kept};
use crate::Result;
use crate::data::Noise;
use crate::vm::machine::Machine;
use crate::vm::{DPSR, PRIMARY, must};

/// Where the guest mounts the filesystem of the primary.
pub(super) const MOUNT: &str = "/run/dpsr-live/story";

/// How many milliseconds longer a write may take while the DPSR disk hangs than it does without a sync. A
/// second is the promise; the rest is what emulation takes from a guest now and then on a busy machine.
const STALL: u64 = 1000 + 1500;

/// A pair with an ext4 on the primary, wrapped and mounted, and one generation.
pub(super) fn live_pair(machine: &mut Machine) -> Result<()> {
    fresh(machine)?;
    let disks = format!("--primary /dev/disk/by-id/virtio-{PRIMARY} --dpsr /dev/disk/by-id/virtio-{DPSR}");
    let guest = machine.guest()?;
    guest.put(include_bytes!("../guest/writer.sh"), "/root/writer")?;
    let disk = format!("/dev/disk/by-id/virtio-{PRIMARY}");
    guest.ok(&format!(
        "printf 'label: gpt\\nsize=128M, type=L\\n' | sfdisk --quiet --wipe always {disk}; \
         udevadm settle; udevadm wait --settle --timeout=60 {disk}-part1; mkfs.ext4 -q -L story {disk}-part1"
    ))?;
    dpsr(machine, &format!("init --no-boot {disks} --confirm {DPSR}"))?;
    let record = "printf '\\n[live]\\nquiet = 5\\nquiet_limit = 0\\n' >>/root/pair/system.toml; sync";
    machine.guest()?.ok(record)?;
    mount(machine)?;
    machine
        .guest()?
        .ok(&format!("dd if=/dev/urandom of={MOUNT}/noise bs=1M count=24 conv=fsync status=none"))?;
    dpsr(machine, "sync").map(drop)
}

fn mount(machine: &mut Machine) -> Result<()> {
    dpsr(machine, "wrap")?;
    let mount = format!(
        "mkdir -p {MOUNT} /run/dpsr-live/look; udevadm settle --timeout=30; mount LABEL=story {MOUNT}"
    );
    machine.guest()?.ok(&mount).map(drop)
}

/// The power goes once, at another moment in each run.
pub fn power_cut_in_a_live_sync(machine: &mut Machine) -> Result<()> {
    power_cuts(machine, 1)
}

/// The power goes twenty times.
pub fn twenty_power_cuts_in_live_syncs(machine: &mut Machine) -> Result<()> {
    power_cuts(machine, 20)
}

/// After each cut the disk is whole, its history reads as it did, the next sync is exact.
fn power_cuts(machine: &mut Machine, cuts: u64) -> Result<()> {
    live_pair(machine)?;
    let seed = u64::from(std::process::id());
    let mut noise = Noise::new(seed);
    println!("{cuts} cuts, seed {seed}");
    for cut in 1..=cuts {
        let newest = dpsr(machine, "status")?.number("generation")?;
        keep(machine, newest)?;
        let overwrite =
            format!("dd if=/dev/urandom of={MOUNT}/noise bs=1M count=24 conv=fsync,notrunc status=none");
        machine.guest()?.ok(&overwrite)?;
        machine.guest()?.ok(&format!("dpsr sync {CONFIG} >/run/sync 2>&1 &"))?;
        let mut random = [0; 2];
        noise.fill(&mut random);
        let wait = Duration::from_millis(u64::from(u16::from_le_bytes(random)) % 6000);
        thread::sleep(wait);
        machine.power_cut();
        machine.boot()?;
        let after = dpsr(machine, "status")?;
        let (state, generation) = (after.text("state")?.to_owned(), after.number("generation")?);
        println!("cut {cut} after {} ms: {state}, generation {generation}", wait.as_millis());
        let whole = generation == newest || generation == newest + 1;
        must(whole, || format!("generation {newest} became {generation}, {state}"))?;
        mount(machine)?;
        let next = dpsr(machine, "sync")?.number("generation")?;
        must(next == generation + 1, || format!("after generation {generation} came {next}"))?;
        dpsr(machine, "scrub")?;
        must_be_as_kept(machine, newest)?;
    }
    the_last_generation_is_clean(machine)
}

/// The DPSR disk hangs in the middle of a sync, and then fails: the writer on the primary notices nothing,
/// and once the disk is there again a sync makes the next generation.
pub fn a_dpsr_disk_that_hangs(machine: &mut Machine) -> Result<()> {
    live_pair(machine)?;
    let overwrite =
        format!("dd if=/dev/urandom of={MOUNT}/noise bs=1M count=24 conv=fsync,notrunc status=none");
    machine.guest()?.ok(&overwrite)?;
    let alone = machine.guest()?.ok(&format!(
        "rm -f /run/stop; (sleep 5; touch /run/stop) & /root/writer {MOUNT}/counter /run/stop"
    ))?;
    let limit = STALL + longest(&alone).ok_or_else(|| format!("the writer said {alone:?}"))?;
    machine.guest()?.ok(&format!(
        "rm -f /run/stop /run/code; setsid /root/writer {MOUNT}/counter /run/stop >/run/written 2>&1 & \
         ( setsid dpsr sync {CONFIG} >/run/sync 2>&1; echo $? >/run/code ) &"
    ))?;
    let start = machine.written(DPSR)?;
    let deadline = Instant::now() + PATIENCE;
    while machine.written(DPSR)? == start {
        must(Instant::now() < deadline, || "the sync wrote nothing".to_owned())?;
        thread::sleep(Duration::from_millis(20));
    }
    machine.hang(DPSR)?;
    thread::sleep(Duration::from_secs(60));
    machine.fail(DPSR)?;
    machine.slow(DPSR, 0)?;
    let code = machine.run_within(PATIENCE, "while [ ! -s /run/code ]; do sleep 1; done; cat /run/code")?;
    let said = machine.guest()?.ok("cat /run/sync")?;
    must(code.output.trim() != "0", || format!("the sync said success: {said}"))?;
    let written = machine.guest()?.ok("touch /run/stop; sleep 5; cat /run/written")?;
    println!("the sync ended with {}: {}", code.output.trim(), said.lines().last().unwrap_or_default());
    println!("written, and the longest write in ms: {}", written.trim());
    must(longest(&written).is_some_and(|it| it < limit), || {
        format!("the writer was held up: {written}, {alone} without a sync")
    })?;
    machine.heal(DPSR)?;
    let next = dpsr(machine, "sync")?.number("generation")?;
    must(next == 2 || next == 3, || format!("the next generation is {next}"))?;
    dpsr(machine, "scrub")?;
    the_last_generation_is_clean(machine)
}

/// What a writer says of its longest write.
fn longest(written: &str) -> Option<u64> {
    written.split_whitespace().nth(1)?.parse().ok()
}

/// The last generation's filesystem needs no repair.
fn the_last_generation_is_clean(machine: &mut Machine) -> Result<()> {
    let generation = dpsr(machine, "status")?.number("generation")?;
    let attached = dpsr(machine, &format!("attach {generation}"))?;
    let node = attached.list("devices")?.get(1).ok_or("no volume is attached")?.text("node")?.to_owned();
    let check = format!("e2fsck -fn {node}; code=$?; dpsr detach {generation} {CONFIG}; exit $code");
    let done = machine.run_within(PATIENCE, &check)?;
    must(done.code == 0, || format!("generation {generation} is not clean: {}", done.output))
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! What only the host can do to a machine in the middle of its work. A story begins with the disks as good
//! as new, and may leave them in any state; a new one is a function here and a line in [`STORIES`]
//! or, where it takes long, in [`LONG`].

mod live;
mod shown;

use std::thread;
use std::time::{Duration, Instant};

use super::guest::Done;
use super::machine::Machine;
use super::runner::Steps;
use super::{DPSR, PRIMARY, must};
use crate::Result;
use crate::data::MIB;
use crate::json::Json;

/// Those of every run, in the order they run in.
pub const STORIES: [Steps; 2] = [
    ("power_cut_in_a_live_sync", live::power_cut_in_a_live_sync),
    ("a_dpsr_disk_that_hangs", live::a_dpsr_disk_that_hangs),
];

/// Those that take too long for every run.
pub const LONG: [Steps; 3] = [
    ("power_cut_in_a_sync", power_cut_in_a_sync),
    ("twenty_power_cuts_in_live_syncs", live::twenty_power_cuts_in_live_syncs),
    ("two_moments", shown::two_moments),
];

pub use shown::two_moments;

/// How often the host looks at what goes on in the guest.
const GLANCE: Duration = Duration::from_millis(50);

/// How long anything in a story may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// Where the guest records the pair.
const CONFIG: &str = "--config-dir /root/pair";

/// An empty pair of disks: nothing of another test is on them, or in the guest.
fn fresh(machine: &mut Machine) -> Result<()> {
    let guest = machine.guest()?;
    guest.put(include_bytes!("../../../tests/live/reset.sh"), "/root/reset")?;
    guest.ok(&format!(
        "rm -rf /root/pair /run/dpsr-live-clean; /root/reset /usr/local/bin/dpsr {PRIMARY} {DPSR}"
    ))?;
    Ok(())
}

/// `dpsr VERB --json` in the guest, which must succeed.
fn dpsr(machine: &mut Machine, verb: &str) -> Result<Json> {
    let command = format!("dpsr {verb} {CONFIG} --json");
    let Done { code, output } = in_time(machine, PATIENCE, &command)?;
    must(code == 0, || format!("`{command}` (exit code {code}): {output}"))?;
    // Both outputs come back together; progress and notes stand before the document.
    let start = output.find('{').ok_or_else(|| format!("`{command}` printed no document: {output}"))?;
    Json::parse(&output[start..]).map_err(|why| format!("`{command}` printed {why}: {output}"))
}

/// What a sync says whose freeze window took too long.
const LATE: &str = "longer than the primary may wait";

/// Runs a command in the guest; again, three times at most, where the machine was too slow for the freeze window:
/// that costs the sync and nothing else, and what has to be done is to run it again.
pub(super) fn in_time(machine: &mut Machine, patience: Duration, command: &str) -> Result<Done> {
    let mut done = machine.run_within(patience, command)?;
    for _ in 0..2 {
        if done.code == 0 || !done.output.contains(LATE) {
            break;
        }
        println!("    `{command}` came too late for its moment, and is run again");
        done = machine.run_within(patience, command)?;
    }
    Ok(done)
}

/// Where the guest keeps what a generation read as. Comparing is many times faster there than hashing.
fn kept(generation: u64) -> String {
    format!("/var/tmp/generation-{generation}")
}

/// Keeps what a generation reads as, also over a power cut.
fn keep(machine: &mut Machine, generation: u64) -> Result<()> {
    let to = kept(generation);
    let command = format!(
        "dpsr export {generation} - {CONFIG} 2>/run/export | \
         dd of={to} bs=64k iflag=fullblock conv=sparse,fsync status=none && \
         truncate -s $(blockdev --getsize64 /dev/disk/by-id/virtio-{PRIMARY}) {to}; sync {to}"
    );
    let Done { code, output } = machine.run_within(PATIENCE, &command)?;
    must(code == 0, || format!("keeping generation {generation}: {output}"))
}

/// That a generation still reads as what was kept of it, to the last byte.
fn must_be_as_kept(machine: &mut Machine, generation: u64) -> Result<()> {
    let same = format!("dpsr export {generation} - {CONFIG} 2>/run/export | cmp - {}", kept(generation));
    let Done { code, output } = machine.run_within(PATIENCE, &same)?;
    must(code == 0, || format!("generation {generation} does not read as it did: {output}"))
}

/// New bytes over 16 MiB of the primary.
fn change(machine: &mut Machine) -> Result<()> {
    let at = "bs=1M count=16 seek=64 conv=fsync status=none";
    machine.guest()?.ok(&format!("dd if=/dev/urandom of=/dev/disk/by-id/virtio-{PRIMARY} {at}")).map(drop)
}

/// The power goes while a sync overwrites the image: afterwards the disk is whole, its history reads as it
/// did, and the next sync takes the torn one back.
fn power_cut_in_a_sync(machine: &mut Machine) -> Result<()> {
    fresh(machine)?;
    let disks = format!("--primary /dev/disk/by-id/virtio-{PRIMARY} --dpsr /dev/disk/by-id/virtio-{DPSR}");
    change(machine)?;
    dpsr(machine, &format!("init --no-boot {disks} --confirm {DPSR}"))?;
    dpsr(machine, "sync --offline")?;
    change(machine)?;
    let before = machine.written(DPSR)?;
    dpsr(machine, "sync --offline")?;
    // The next sync writes as much: about half of it pre-images, then the new bytes.
    let cut = (machine.written(DPSR)? - before) * 7 / 10;
    keep(machine, 1)?;
    keep(machine, 2)?;

    change(machine)?;
    machine.guest()?.ok("sync")?;
    machine.slow(DPSR, 4 * MIB)?;
    let start = machine.written(DPSR)?;
    machine.guest()?.ok(&format!("dpsr sync --offline {CONFIG} >/run/sync 2>&1 &"))?;
    let deadline = Instant::now() + PATIENCE;
    while machine.written(DPSR)? < start + cut {
        must(Instant::now() < deadline, || "the slow sync wrote nothing".to_owned())?;
        thread::sleep(GLANCE);
    }
    machine.power_cut();
    machine.boot()?;

    let status = dpsr(machine, "status")?;
    let (state, generation) = (status.text("state")?, status.number("generation")?);
    must((state, generation) == ("updating", 2), || format!("state {state}, generation {generation}"))?;
    let done = dpsr(machine, "sync --offline")?.number("generation")?;
    must(done == 3, || format!("the next sync made generation {done}"))?;
    dpsr(machine, "scrub")?;
    must_be_as_kept(machine, 1)?;
    must_be_as_kept(machine, 2)?;
    let same = format!("dpsr export 3 - {CONFIG} | cmp - /dev/disk/by-id/virtio-{PRIMARY}");
    let Done { code, output } = machine.run_within(PATIENCE, &same)?;
    must(code == 0, || format!("generation 3 is not the primary: {output}"))
}

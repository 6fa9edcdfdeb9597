// SPDX-License-Identifier: MIT OR Apache-2.0
//! The end of the demonstration: two moments of a disk that is written to all the while.

use super::live::{MOUNT, live_pair};
use super::{CONFIG, dpsr};
use crate::Result;
use crate::vm::machine::Machine;
use crate::vm::must;

/// Where a generation is looked into.
const LOOK: &str = "/run/dpsr-live/look";

/// A generation, and the numbers the writer was at just before and just after its sync.
struct Moment {
    generation: u64,
    before: u64,
    after: u64,
}

/// Two syncs under a writer; each generation is shown to hold a number the writer was at during that sync.
pub fn two_moments(machine: &mut Machine) -> Result<()> {
    live_pair(machine)?;
    println!("An ext4 on a wrapped disk is mounted; generation 1 is the first copy of it.");
    machine.guest()?.ok(&format!(
        "rm -f /run/stop; setsid /root/writer {MOUNT}/counter /run/stop >/run/written 2>&1 & \
         while [ ! -s {MOUNT}/counter ]; do sleep 0.1; done"
    ))?;
    println!("A program writes 1, 2, 3, … to a file of it, each number flushed before the next.");
    let mut moments = Vec::new();
    for _ in 0..2 {
        let before = number(machine, &format!("{MOUNT}/counter"))?;
        let report = dpsr(machine, "sync")?;
        let after = number(machine, &format!("{MOUNT}/counter"))?;
        let (generation, pause) = (report.number("generation")?, report.number("pause_ms")?);
        println!("Synced while it wrote {before} … {after}: generation {generation}, a pause of {pause} ms.");
        moments.push(Moment { generation, before, after });
    }
    machine.guest()?.ok("touch /run/stop; while [ ! -s /run/written ]; do sleep 0.1; done")?;
    for Moment { generation, before, after } in moments {
        machine.guest()?.ok(&format!("dpsr mount {generation} {LOOK} --volume 1 {CONFIG}"))?;
        let held = number(machine, &format!("{LOOK}/counter"))?;
        let check = format!("e2fsck -fn $(findmnt --noheadings --output SOURCE {LOOK})");
        let clean = machine.guest()?.run(&check)?;
        machine.guest()?.ok(&format!("dpsr umount {LOOK} {CONFIG}"))?;
        must((before..=after).contains(&held), || {
            format!("generation {generation} holds {held}, and was taken between {before} and {after}")
        })?;
        must(clean.code == 0, || format!("generation {generation} is not clean: {}", clean.output))?;
        println!(
            "Generation {generation}, mounted beside the disk it is of, holds {held}, and its ext4 is clean."
        );
    }
    Ok(())
}

/// The number in a file.
fn number(machine: &mut Machine, file: &str) -> Result<u64> {
    let text = machine.guest()?.ok(&format!("cat {file}"))?;
    text.trim().parse().map_err(|_| format!("{file} holds {text:?}"))
}

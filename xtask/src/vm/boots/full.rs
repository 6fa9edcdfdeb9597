// SPDX-License-Identifier: MIT OR Apache-2.0
//! A DPSR disk with little room: what a machine overwrites that runs from its copy does not fit, and that costs history,
//! never the system.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::failover::{back_over_it, mark, marked, on, restarted, stands_on_dpsr, two_generations, wrapped};
use super::{Rig, dpsr_json, is_the_primary, say};
use crate::Result;
use crate::data::{MIB, make_sparse};
use crate::json::Json;
use crate::vm::machine::{Disk, Format, Machine, Start};
use crate::vm::{DPSR, must};

/// How long it may take until somebody looks how full it is.
const LOOK: Duration = Duration::from_secs(120);

/// Everything that was written is there.
const SUMS: &str = "sha256sum --quiet --check /root/sums";

pub(super) fn copy_fills_up(rig: &Rig) -> Result<()> {
    let file = rig.folder.join("small.img");
    make_sparse(&file, 1720 * MIB)?;
    let dpsr = Disk { name: DPSR, file, format: Format::Raw };
    let both = [&rig.primary, &dpsr];
    let mut machine = wrapped(rig, both)?;
    two_generations(&mut machine)?;
    machine.power_cut();

    let mut machine = on(rig, Start::Uefi, &[&dpsr], "from the copy, the primary missing")?;
    marked(&mut machine, "second")?;
    warned(&mut machine)?;
    overflown(&mut machine)?;
    restarted(&mut machine, "from the copy, its history lost")?;
    goes_on(&mut machine, "live-without-history")?;
    machine.shut_down()?;

    let mut machine = on(rig, Start::Uefi, &both, "to go back")?;
    goes_on(&mut machine, "live-without-history")?;
    back_over_it(&mut machine)?;
    marked(&mut machine, "fourth")?;
    machine.guest()?.ok(SUMS)?;
    dpsr_json(&mut machine, "sync")?;
    let scrubbed = dpsr_json(&mut machine, "scrub")?;
    must(scrubbed.number("found")? == 0, || format!("{scrubbed:?}"))?;
    machine.shut_down()
}

/// Somebody is told before it is full: at the console, and by whoever asks.
fn warned(machine: &mut Machine) -> Result<()> {
    let mut percent = 0;
    while percent < 90 {
        more(machine, 2)?;
        let status = dpsr_json(machine, "status")?;
        let Some(live) = status.find("live") else { return Err(format!("it ran full at once: {status:?}")) };
        percent = live.number("used")? * 100 / live.number("size")?;
        say(format_args!("{percent} % taken"));
    }
    let status = dpsr_json(machine, "status")?;
    must(format!("{status:?}").contains("nearly full"), || format!("{status:?}"))?;
    let start = Instant::now();
    let told = |machine: &Machine| {
        let said = fs::read(machine.console()).unwrap_or_default();
        String::from_utf8_lossy(&said).contains("% of the room for what it changes is taken")
    };
    while !told(machine) {
        must(start.elapsed() < LOOK, || "nobody was told at the console".to_owned())?;
        sleep(Duration::from_secs(1));
    }
    Ok(())
}

/// What does not fit any more.
fn overflown(machine: &mut Machine) -> Result<()> {
    more(machine, 48)?;
    mark(machine, "fourth")?;
    let status = dpsr_json(machine, "status")?;
    must(matches!(status.find("live"), None | Some(Json::Null)), || format!("there is room: {status:?}"))?;
    goes_on(machine, "live")
}

/// The system is as it was, but for what can be told of the past.
fn goes_on(machine: &mut Machine, state: &str) -> Result<()> {
    is_the_primary(machine)?;
    stands_on_dpsr(machine)?;
    marked(machine, "fourth")?;
    machine.guest()?.ok(SUMS)?;
    let status = dpsr_json(machine, "status")?;
    must(status.text("state")? == state, || format!("{status:?}"))
}

/// So many MiB that were not there before, and what they are.
fn more(machine: &mut Machine, size: u64) -> Result<()> {
    let script = format!(
        "file=/root/more-$(ls /root | wc -l) && head -c {size}M /dev/urandom >$file && \
         sha256sum $file >>/root/sums && sync"
    );
    machine.guest()?.ok(&script).map(drop)
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! What being wrapped costs a start, and how long a machine takes to come back from its copy, on a processor that takes a
//! nanosecond for an instruction ([`Clock`]): emulation by the real clock takes a minute for what a server does in
//! seconds, and never twice the same one. The first start of a new system is not like later ones, so that plain and
//! wrapped ones take turns here, after the same past.

use super::failover::{Startup, on, restarted, stands_on_dpsr, startup, wrapped};
use super::unwrapped::{PLAIN, stands_on, with_words};
use super::{Rig, dpsr, say};
use crate::Result;
use crate::vm::machine::{Clock, Machine, Start};

/// How often each way.
const ROUNDS: usize = 3;

/// A table of medians: seconds in the initramfs, and from the kernel's first to multi-user. Of the starts from the copy
/// the first one waits for the primary; the others go on, and wait for nothing.
pub(super) fn boot_times(rig: &Rig) -> Result<()> {
    let rig = &Rig { clock: Clock::Instructions, ..rig.clone() };
    let mut machine = wrapped(rig, [&rig.primary, &rig.dpsr])?;
    dpsr(&mut machine, "sync")?;
    let mut taken: [Vec<Startup>; 3] = Default::default();
    for _ in 0..ROUNDS {
        with_words(&mut machine, "dpsr.boot=off")?;
        restarted(&mut machine, "plain")?;
        stands_on(&mut machine, PLAIN)?;
        is_up(&mut machine)?;
        taken[0].push(startup(&mut machine)?);
        with_words(&mut machine, "")?;
        restarted(&mut machine, "wrapped")?;
        stands_on_dpsr(&mut machine)?;
        is_up(&mut machine)?;
        taken[1].push(startup(&mut machine)?);
    }
    machine.power_cut();

    let mut machine = on(rig, Start::Uefi, &[&rig.dpsr], "from the copy, the primary missing")?;
    stands_on_dpsr(&mut machine)?;
    is_up(&mut machine)?;
    let first = startup(&mut machine)?;
    for _ in 0..ROUNDS {
        restarted(&mut machine, "from the copy again")?;
        stands_on_dpsr(&mut machine)?;
        is_up(&mut machine)?;
        taken[2].push(startup(&mut machine)?);
    }
    for (what, taken) in ["plain", "wrapped", "copy"].into_iter().zip(&taken) {
        row(what, (median(taken, |it| it.0), median(taken, |it| it.1)), &format!("median of {ROUNDS}"));
    }
    row("failover", first, "once; the wait for the primary is in it");
    machine.shut_down()
}

fn row(what: &str, (initramfs, all): Startup, how: &str) {
    say(format_args!(
        "| {what:<8} | initramfs {initramfs:5.2} s | from the kernel to multi-user {all:5.2} s | {how} |"
    ));
}

/// The agent answers before everything is started.
fn is_up(machine: &mut Machine) -> Result<()> {
    machine.guest()?.ok("systemctl is-system-running --wait").map(drop)
}

fn median(taken: &[Startup], part: impl Fn(&Startup) -> f64) -> f64 {
    let mut all: Vec<f64> = taken.iter().map(part).collect();
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

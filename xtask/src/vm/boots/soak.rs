// SPDX-License-Identifier: MIT OR Apache-2.0
//! The same moment of the same system again and again: what is wrong once in fifty times is seen here.

use super::failover::{on, record_in_initramfs, restarted};
use super::{Rig, dpsr, dpsr_json, init, say};
use crate::Result;
use crate::vm::machine::Start;
use crate::vm::must;

/// How many generations are made.
const SYNCS: u64 = 40;

/// The root is written to all the while, by whoever writes to a root, and by somebody in a hurry.
pub(super) fn synced_many_times(rig: &Rig) -> Result<()> {
    let mut machine = on(rig, Start::Uefi, &[&rig.primary, &rig.dpsr], "the primary, not wrapped")?;
    init(&mut machine)?;
    record_in_initramfs(&mut machine)?;
    restarted(&mut machine, "the primary, wrapped")?;
    machine.guest()?.ok(
        "(while :; do dd if=/dev/urandom of=/root/busy bs=64k count=4 conv=fsync status=none; sleep 0.3; done) \
         >/dev/null 2>&1 &",
    )?;
    let mut longest = 0;
    for number in 1..=SYNCS {
        let synced = dpsr_json(&mut machine, "sync")?;
        must(synced.number("generation")? == number, || format!("{synced:?}"))?;
        longest = longest.max(synced.number("pause_ms")?);
    }
    say(format_args!("the primary waited {longest} ms for a moment at most"));
    dpsr(&mut machine, "scrub")?;
    machine.shut_down()
}

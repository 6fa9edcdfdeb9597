// SPDX-License-Identifier: MIT OR Apache-2.0
//! Disks that are slow, hang, fail or are healed, while the guest uses them. QEMU does it, so that the guest
//! sees the disk itself: same node, same serial number, no layer of its own.
//!
//! * slow and hanging: the throttle of the device (`block_set_io_throttle`). At one byte a second the first
//!   request is let through, and the next waits for as many seconds as that one had bytes. Requests that
//!   wait go on when the throttle is lifted. A flush is not held up, but there is none before its writes.
//! * failing: `blockdev-reopen` puts a `blkdebug` node, which answers requests with EIO, between the node of
//!   the disk and its file. Flushes succeed, because QEMU flushes when it takes that node out again.
//! * late: the device of the disk is added to the running machine (`device_add`).
//!
//! A machine that is switched off and on has healthy disks.

use std::thread::sleep;
use std::time::Duration;

use super::machine::{Machine, device};
use super::qmp::Qmp;
use crate::Result;

/// How long the controller of a late disk takes to find it.
const LATE: Duration = Duration::from_secs(10);

/// What happens to a disk.
pub type Fault = fn(&mut Qmp, &str) -> Result<()>;

impl Machine {
    /// From now on the disk moves this many bytes a second, reads and writes together.
    pub fn slow(&mut self, disk: &str, bytes: u64) -> Result<()> {
        slow(self.qmp()?, disk, bytes)
    }

    /// From now on the disk answers one more request, and then none.
    pub fn hang(&mut self, disk: &str) -> Result<()> {
        hang(self.qmp()?, disk)
    }

    /// From now on every read, write and discard of the disk is an I/O error.
    pub fn fail(&mut self, disk: &str) -> Result<()> {
        fail(self.qmp()?, disk)
    }

    /// Ends whatever one of these made of the disk.
    pub fn heal(&mut self, disk: &str) -> Result<()> {
        self.slow(disk, 0)?;
        let nodes = self.qmp()?.ask("query-named-block-nodes", "{\"flat\":true}")?;
        let broken = format!("{disk}-broken");
        if !nodes.list("return")?.iter().any(|node| node.text("node-name") == Ok(&broken)) {
            return Ok(());
        }
        stand_on(self.qmp()?, disk, "file")?;
        self.qmp()?.execute("blockdev-del", &format!("{{\"node-name\":\"{broken}\"}}"))
    }

    /// How many bytes the guest has written to the disk since it was switched on.
    pub fn written(&mut self, disk: &str) -> Result<u64> {
        let stats = self.qmp()?.ask("query-blockstats", "{}")?;
        let ours = stats.list("return")?.iter().find(|one| one.text("qdev") == Ok(&backend(disk)));
        ours.ok_or_else(|| format!("QEMU counts nothing of {disk}"))?.number("wr_bytes")
    }
}

fn slow(qmp: &mut Qmp, disk: &str, bytes: u64) -> Result<()> {
    let others = "\"bps_rd\":0,\"bps_wr\":0,\"iops\":0,\"iops_rd\":0,\"iops_wr\":0";
    let arguments = format!("{{\"id\":\"{}\",\"bps\":{bytes},{others}}}", backend(disk));
    qmp.execute("block_set_io_throttle", &arguments)
}

/// One more request to the disk is answered, and then none.
pub(super) fn hang(qmp: &mut Qmp, disk: &str) -> Result<()> {
    slow(qmp, disk, 1)
}

/// Every request to the disk, which must be a raw one, is an I/O error from now on.
pub(super) fn fail(qmp: &mut Qmp, disk: &str) -> Result<()> {
    let rule = |kind| format!("{{\"event\":\"none\",\"iotype\":\"{kind}\",\"errno\":5}}");
    let rules = ["read", "write", "write-zeroes", "discard"].map(rule).join(",");
    let broken = format!(
        "{{\"driver\":\"blkdebug\",\"node-name\":\"{disk}-broken\",\"image\":\"{disk}-file\",\
         \"inject-error\":[{rules}]}}"
    );
    qmp.execute("blockdev-add", &broken)?;
    stand_on(qmp, disk, "broken")
}

/// A disk that the machine [expects](Machine::expecting) comes, after ten seconds.
pub(super) fn come_late(qmp: &mut Qmp, disk: &str) -> Result<()> {
    sleep(LATE);
    qmp.plug(disk, &device(disk))
}

/// Puts the node of the disk over another one.
fn stand_on(qmp: &mut Qmp, disk: &str, node: &str) -> Result<()> {
    let options = format!(
        "{{\"options\":[{{\"driver\":\"raw\",\"node-name\":\"{disk}\",\"discard\":\"unmap\",\
         \"file\":\"{disk}-{node}\"}}]}}"
    );
    qmp.execute("blockdev-reopen", &options)
}

/// What QEMU calls the part of the device that moves the data.
fn backend(disk: &str) -> String {
    format!("/machine/peripheral/{}/virtio-backend", device(disk))
}

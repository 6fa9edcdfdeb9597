// SPDX-License-Identifier: MIT OR Apache-2.0
//! The `dpsr` command over a real kernel: device-mapper, partition nodes, udev, serial numbers, mounts.
//!
//! These tests wipe disks, and so run only inside the virtual machine of `cargo xtask vm`, as root, one at a
//! time, with `DPSR_TEST_LIVE=1`. Elsewhere they say loudly that they did not run; `cargo xtask test` boots
//! the machine, and in CI fails where it cannot.
//!
//! * [`world`]: the two disks as good as new, the command, and the end of whatever a test leaves.
//! * [`disk`]: one of the disks: its partitions, its links, its bytes.
//! * [`writer`]: writes in the background, and how long the longest of them took.
//! * [`wrapped`]: a primary with device-mapper under it. [`holder`]: a process that holds a snapshot of it.
//! * [`sync`]: also a primary that dpsr wrapped, mounted.
//! * [`said`]: what a run says, to be there at a moment of it.
//! * [`shell`]: other programs, none of them for ever.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod attach;
mod disk;
mod holder;
mod latency;
mod mount;
mod overflow;
mod pre_images;
mod reserve;
mod said;
mod shell;
mod silent;
mod smoke;
mod snapshot;
mod stacked;
mod sync;
mod window;
mod world;
mod wrap;
mod wrapped;
mod writer;

// SPDX-License-Identifier: MIT OR Apache-2.0
//! The `dpsr` command itself on loop devices, and on plain image files where that makes a difference.
//!
//! Loop devices need root and a kernel that has them. Where they cannot be had, the part that needs them is
//! skipped loudly; with `CI=true` or `DPSR_TEST_LOOP=1` that is a failure. Every backing file carries the
//! suffix `_dpsr_test_delme`.
//!
//! * [`loops`]: disks for one test, and their end.
//! * [`world`]: a pair made by the command, and a model of what each generation must read as.
//! * [`tables`]: partition tables, written by sfdisk and read back by it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod blocks;
mod disk;
mod dropping;
mod engines;
mod filesystems;
mod identity;
mod left_out;
mod loops;
mod mbr;
mod mounted;
mod own_table;
mod repartition;
mod reserve;
mod rotten;
mod sizes;
mod sparse;
mod tables;
mod volumes;
mod world;

// SPDX-License-Identifier: MIT OR Apache-2.0
//! dpsr keeps a hidden second disk that holds exactly one recorded point in time of the system disk, and
//! many older ones behind it.
//!
//! The rooms stand in the order the data flows and depend downwards only; `docs/ARCHITECTURE.md` has the
//! map, `docs/FORMAT.md` the bytes on the disk.

pub mod attach;
pub mod boot;
pub mod changes;
pub mod cli;
pub mod config;
pub mod copy;
pub mod disk;
pub mod dm;
pub mod engine;
pub mod error;
pub mod export;
pub mod failback;
pub mod failover;
pub mod failures;
pub mod format;
pub mod history;
pub mod init;
pub mod initrd;
pub mod keep;
pub mod live;
pub mod mount;
pub mod open;
pub mod pair;
pub mod progress;
pub mod reserve;
pub mod restore;
pub mod scrub;
pub mod snapshot;
pub mod status;
pub mod store;
pub mod swap;
pub mod sync;
pub mod sys;
pub mod time;
pub mod units;
pub mod view;
pub mod wrap;

// SPDX-License-Identifier: MIT OR Apache-2.0
//! dpsr keeps a hidden second disk that holds exactly one recorded point in time of the system disk, and
//! many older ones behind it.
//!
//! The rooms stand in the order the data flows and depend downwards only; `docs/ARCHITECTURE.md` has the
//! map, `docs/FORMAT.md` the bytes on the disk.

pub mod changes;
pub mod cli;
pub mod config;
pub mod copy;
pub mod disk;
pub mod engine;
pub mod error;
pub mod export;
pub mod format;
pub mod init;
pub mod open;
pub mod pair;
pub mod progress;
pub mod restore;
pub mod scrub;
pub mod status;
pub mod store;
pub mod sync;
pub mod sys;
pub mod units;
pub mod view;

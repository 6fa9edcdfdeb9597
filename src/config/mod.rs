// SPDX-License-Identifier: MIT OR Apache-2.0
//! The record of a pair: `<config-dir>/<pair>.toml`.
//!
//! It says which two disks belong together and how to prove it, and what the user decided. It is written
//! by `init` and may be edited by hand; unknown keys are errors, so that a typing mistake is not ignored.

mod choose;
mod failover;
mod live;
mod record;
#[cfg(test)]
pub(crate) mod testing;

pub use choose::{Draft, choose, file_name, list, load, save, valid_name};
pub use failover::{FailoverConfig, Policy};
pub use live::{ChunkSize, CowPlace, LiveConfig};
pub use record::{DEFAULT_PAIR, DpsrRecord, PairConfig, PrimaryRecord};

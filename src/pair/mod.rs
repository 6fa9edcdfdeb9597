// SPDX-License-Identifier: MIT OR Apache-2.0
//! Two disks and the proof that they belong together.
//!
//! The words: an **endpoint** is a block device or a plain image file; a [`Probe`](probe::Probe) is what is
//! known of one through its open descriptor; a [`Table`](table::Table) says how the primary is divided;
//! [`Volumes`](volumes::Volumes) which parts of it are kept; a [`DpsrLayout`](layout::DpsrLayout) how the
//! DPSR disk is divided. [`InitPlan`](plan::InitPlan) shows all of it before anything is written, and
//! [`discover`](open::discover) turns a recorded pair into two proven, locked descriptors.

pub mod attached;
pub mod blocks;
pub mod chain;
pub mod content;
pub mod copies;
pub mod empty;
mod forward;
mod gpt;
pub mod holder;
pub mod inuse;
pub mod larger;
pub mod layout;
pub mod lock;
mod mbr;
pub mod mounts;
pub mod open;
pub mod plan;
pub mod probe;
mod proof;
pub mod refuse;
mod roles;
pub mod run;
mod scan;
pub mod serial;
pub mod show;
pub mod sysfs;
pub mod table;
pub mod target;
#[cfg(test)]
pub(crate) mod testing;
pub mod volumes;
pub mod wipe;

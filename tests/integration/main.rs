// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tests that need neither root nor a special kernel.
#![allow(clippy::unwrap_used)] // A test stops where an expectation fails, in its helpers too.

mod aside;
mod attached;
mod cli;
mod crafted;
mod cut_targets;
mod cuts;
mod digests;
mod dropping;
mod failover;
mod faults;
mod flips;
mod generations;
mod large;
mod live;
mod model;
mod oracle;
mod powercut;
mod pre_images;
mod repartition;
mod scrub;
mod unsound;
mod world;

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tests that need neither root nor a special kernel.

mod cuts;
mod digests;
mod faults;
mod flips;
mod generations;
mod model;
mod oracle;
mod powercut;
mod repartition;
mod scrub;
mod world;

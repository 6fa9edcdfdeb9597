// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tests that need neither root nor a special kernel.

mod cuts;
mod faults;
mod flips;
mod generations;
mod model;
mod powercut;
mod repartition;
mod digests;
mod generations;
mod oracle;
mod world;

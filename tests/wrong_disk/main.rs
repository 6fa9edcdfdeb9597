// SPDX-License-Identifier: MIT OR Apache-2.0
//! Situations in which the wrong disk stands where the right one should. Whatever dpsr answers, not one
//! byte of any decoy may change: each is hashed whole, and its write counters are compared.
//!
//! Tests named `root_` attach loop devices, mount or swap on; they use only devices of their own.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod at_work;
mod files;
mod loops;
mod meanwhile;
mod world;

// SPDX-License-Identifier: MIT OR Apache-2.0
//! The window: the moment in which the primary waits.
//!
//! Three processes, so that none of them dying leaves anything suspended:
//!
//! * the **parent** prepares everything, asks for the window and reads the snapshot ([`Link`] is its end);
//! * the [`keeper`] is the [`watchdog`] of the window, and takes the snapshot down when the parent is gone;
//! * the [`freezer`] does the [`steps`] and notes each on the [`board`].
//!
//! The latter two touch no filesystem in the window, for the root may be one that waits: what they need is
//! open and locked in memory before. To stop both at once takes two kills within one window.

mod acts;
mod board;
pub mod freezer;
pub mod keeper;
mod link;
mod plan;
mod steps;
mod watchdog;

pub use link::Link;
pub use plan::{Outcome, Plan, Why};
pub use steps::Step;

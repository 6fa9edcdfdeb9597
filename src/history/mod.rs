// SPDX-License-Identifier: MIT OR Apache-2.0
//! Generations after they were made: pinned, and dropped wherever they stand.
//!
//! * **run**: generations that follow each other and go together.
//! * **merging**: the undo stores of a run and of the generation before it become one, which leads from the
//!   generation behind the run straight to the one before it. Nothing else of the store changes.
//! * **step**: one run goes. The merged store is written into free extents and flushed; then one flip makes
//!   the index without the run what is, and only then are the old extents free.

mod merge;
pub mod room;
mod steps;
mod verbs;

pub use steps::{Shortage, Step, after, steps, take};
pub use verbs::{Dropped, Pinned, drop, pin, prune, simulate};

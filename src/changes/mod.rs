// SPDX-License-Identifier: MIT OR Apache-2.0
//! Finding what changed since the last generation: the whole set first, before anything is copied.
//!
//! * [`source`]: what each byte of the next generation is made of.
//! * [`walk`]: the order in which its chunks are visited.
//! * [`scan`]: digest or compare, from the walk to the set.
//! * [`find`]: the whole search.
//! * [`set`]: the chunks that changed.

pub mod find;
pub mod scan;
pub mod set;
pub mod source;
pub mod walk;

pub use find::Mode;
pub use set::ChangeSet;
pub use source::Source;

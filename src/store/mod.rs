// SPDX-License-Identifier: MIT OR Apache-2.0
//! The store on the DPSR disk: it is always exactly one recorded generation.
//!
//! * **flip**: overwriting the superblock; the only commit point. One copy is written and flushed, then the
//!   other two identically; only then is an image write allowed or a freed extent reused.
//! * **index**: copy-on-write; the slot the superblock does not name is free to be written.
//! * **undo**: pre-images of everything a sync overwrites, durable before the first overwrite. Only
//!   `Updating` is ever rolled back; a mismatch there is damage and is refused, not guessed.

pub mod contents;
pub mod create;
pub mod free;
pub mod map;
pub mod placement;
pub mod recover;
pub mod room;
pub mod space;
pub mod table;
pub mod undo;
pub mod write;

pub use contents::Contents;
pub use write::Store;

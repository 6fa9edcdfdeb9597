// SPDX-License-Identifier: MIT OR Apache-2.0
//! The bytes on the DPSR disk, and nothing else: no I/O happens in this room.
//!
//! `docs/FORMAT.md` is the specification; a stranger can write a reader from it. All integers are
//! little-endian. Every metadata block carries a magic number, its format version, its own location and a
//! CRC-32C over itself, so that a stray, stale or misplaced block never passes for a good one. Parsing
//! answers one of three things ([`Parsed`]); damaged is never mistaken for blank.

pub mod block;
pub mod digests;
pub mod geometry;
pub mod index;
pub mod moment;
pub mod packer;
pub mod superblock;
pub mod undo;

/// The on-disk format this code reads and writes.
pub const VERSION: u32 = 1;

/// What a stretch of bytes turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed<T> {
    /// No trace of dpsr.
    NotOurs,
    /// Carries dpsr's magic number, but does not check out; the text says why.
    Damaged(String),
    /// Valid.
    Ours(T),
}

impl<T> Parsed<T> {
    /// The valid value, if it is one.
    pub fn ours(self) -> Option<T> {
        match self {
            Self::Ours(value) => Some(value),
            Self::NotOurs | Self::Damaged(_) => None,
        }
    }
}

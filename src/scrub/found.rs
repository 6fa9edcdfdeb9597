// SPDX-License-Identifier: MIT OR Apache-2.0
//! One damaged chunk, page or block, as the check meets it.

use std::fmt;

use serde::Serialize;

use super::report::Affected;
use crate::engine::digest::Digest;
use crate::units::Bytes;

/// Kinds of things that can be damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// A copy of the disk's partition table.
    PartitionTable,
    /// The first sector, which keeps whoever does not know that table off it.
    ProtectiveMbr,
    /// A copy of the superblock.
    Superblock,
    /// A block of one copy of the index.
    IndexBlock,
    /// A page of the digest table.
    DigestPage,
    /// A chunk of the image.
    Image,
    /// The header of an undo store.
    UndoHeader,
    /// The closing area of zeros of an undo store.
    UndoEnd,
    /// An area of an undo store: which chunks it saved.
    UndoArea,
    /// The companion of an area: the checksums of what it saved.
    UndoCompanion,
    /// A saved chunk of the image.
    UndoImage,
    /// A saved chunk of the digest table.
    UndoDigests,
    /// A saved chunk of which the damaged area does not tell any more whose it is.
    UndoEntry,
    /// The whole digest table of a generation: its pages are sound, but not what was recorded.
    Digests,
}

impl What {
    /// Whether it is part of one generation's undo store or digests.
    pub fn is_of_generation(self) -> bool {
        !matches!(
            self,
            Self::PartitionTable
                | Self::ProtectiveMbr
                | Self::Superblock
                | Self::IndexBlock
                | Self::DigestPage
                | Self::Image
        )
    }

    /// Whether there is only one of it, so that its number says nothing.
    pub(super) fn is_one(self) -> bool {
        matches!(self, Self::ProtectiveMbr | Self::UndoHeader | Self::UndoEnd | Self::Digests)
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PartitionTable => "partition table",
            Self::ProtectiveMbr => "protective MBR",
            Self::Superblock => "superblock copy",
            Self::IndexBlock => "index block",
            Self::DigestPage => "digest page",
            Self::Image => "image",
            Self::UndoHeader => "undo header",
            Self::UndoEnd => "undo closing area",
            Self::UndoArea => "undo area",
            Self::UndoCompanion => "undo companion",
            Self::UndoImage => "saved image",
            Self::UndoDigests => "saved digest chunk",
            Self::UndoEntry => "saved chunk",
            Self::Digests => "digest sum",
        })
    }
}

/// Why something is damaged: the disk does not give it back.
pub(super) const UNREADABLE: &str = "it cannot be read";

/// Where a chunk of the image stands, and what it must contain, where that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) at: Bytes,
    pub(super) digest: Option<Digest>,
}

/// What became of an attempt to repair it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attempt {
    None,
    /// The primary could not be opened: it is in use, or not there.
    NoPrimary,
    /// The primary holds something else by now.
    MovedOn,
    /// It was written, and still reads back wrong.
    Failed,
    /// The disk did not take it.
    Unwritten,
    /// What it would be made of is damaged, too.
    Refused,
    /// It is in order, but for the boot code, of which there is no second copy.
    NoCode,
}

/// One damaged chunk, page or block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub(super) what: What,
    /// Copy, map or generation it belongs to; zero for the digest table.
    pub(super) owner: u64,
    pub(super) number: u64,
    pub(super) affected: Option<Affected>,
    pub(super) why: &'static str,
    pub(super) repaired: bool,
    pub(super) attempt: Attempt,
    /// Of a chunk of the image.
    pub(super) place: Option<Place>,
    /// Whether it is of the newest generation too.
    pub(super) newest: bool,
}

impl Found {
    pub(super) fn new(what: What, owner: u64, number: u64, why: &'static str) -> Self {
        let (affected, place, attempt) = (None, None, Attempt::None);
        Self { what, owner, number, affected, why, repaired: false, attempt, place, newest: false }
    }

    /// Whether `next` can be told in one sentence with this one.
    pub(super) fn continues(&self, next: &Self) -> bool {
        let same = |one: &Self| (one.what, one.owner, one.affected, one.why, one.repaired, one.attempt);
        same(self) == same(next) && self.number + 1 == next.number
    }

    /// Whether `other` is about the same chunk, page or block.
    pub(super) fn same_place(&self, other: &Self) -> bool {
        let place = |one: &Self| (one.what, one.owner, one.number);
        place(self) == place(other)
    }

    /// It was written, and is still wrong.
    pub(super) fn failed(&mut self) {
        (self.repaired, self.attempt) = (false, Attempt::Failed);
    }

    /// What helps where a repair had no primary to take it from. One that a machine runs on is read by a sync, which
    /// makes good what it can read itself.
    fn without_primary(&self, repair: &str) -> String {
        let offline = format!("{repair} replaces it while nothing uses the primary, where that still has it");
        let sync = self.newest && self.why != UNREADABLE;
        let sync =
            if sync { "; in the newest generation 'dpsr sync --compare' does so at any time" } else { "" };
        format!("the primary could not be read: {offline}{sync}")
    }

    /// What to do about it, where it is not repaired.
    pub(super) fn remedy(&self) -> Option<String> {
        if self.repaired {
            let code =
                "its boot code is empty: where the disk boots by BIOS, run 'dpsr boot update', or sync";
            return (self.attempt == Attempt::NoCode).then(|| code.into());
        }
        let repair = "'dpsr scrub --repair'";
        Some(match (self.what, self.attempt) {
            (_, Attempt::Failed) => "it still reads back wrong after a repair: replace the disk".into(),
            (_, Attempt::Unwritten) => "it could not be written: replace the disk".into(),
            (_, Attempt::Refused) => "the other copy does not help: repair it with sgdisk or gdisk".into(),
            (What::ProtectiveMbr, _) => format!("{repair} makes it anew"),
            (What::PartitionTable, _) => format!("{repair} rewrites it from the other copy"),
            (What::Superblock | What::IndexBlock, _) => format!("{repair} rewrites it from a good copy"),
            (What::DigestPage, _) => format!("{repair} rebuilds it from the image"),
            (What::UndoHeader | What::UndoEnd, _) => format!("{repair} rewrites it"),
            (What::Image, Attempt::None) => format!("{repair} replaces it where the primary still has it"),
            (What::Image, Attempt::NoPrimary) => self.without_primary(repair),
            (What::Image, _) if self.newest && self.why == UNREADABLE => {
                "no sync can save it: replace the disk, or copy afresh with 'dpsr sync --full --no-undo'"
                    .into()
            }
            (What::Image | What::Digests, _) if self.newest => {
                "the next 'dpsr sync --compare' replaces it; older generations keep the damage".into()
            }
            _ => {
                return self
                    .affected
                    .map(|affected| format!("it cannot be repaired: drop {affected} to be rid of it"));
            }
        })
    }
}

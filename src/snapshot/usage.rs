// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the kernel says of a snapshot (`snapshot_status` in its dm-snap.c). Pure.

use crate::units::{Bytes, SECTOR};

/// How much of the room for pre-images is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CowUse {
    /// Taken.
    pub used: Bytes,
    /// There is.
    pub total: Bytes,
}

/// The state of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It stands.
    Stands(CowUse),
    /// Pre-images were lost: the room was full, or could not be written. It cannot be read any more.
    Lost,
    /// Words that no kernel known to dpsr says.
    Unknown,
}

impl State {
    /// From the parameters of the status line.
    pub fn parse(words: &str) -> Self {
        if matches!(words.trim(), "Invalid" | "Overflow" | "Merge failed") {
            return Self::Lost;
        }
        let sectors = |text: &str| Some(Bytes(text.parse::<u64>().ok()?.checked_mul(SECTOR)?));
        let first = words.split_whitespace().next().and_then(|first| first.split_once('/'));
        let both = first.and_then(|(used, total)| sectors(used).zip(sectors(total)));
        both.map_or(Self::Unknown, |(used, total)| Self::Stands(CowUse { used, total }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_the_kernel_words_it() {
        let stands = |used, total| State::Stands(CowUse { used: Bytes(used), total: Bytes(total) });
        assert_eq!(State::parse("16/131072 0"), stands(8192, 64 << 20));
        assert_eq!(State::parse("0/8 0 "), stands(0, 4096));
        for lost in ["Invalid", "Overflow", "Merge failed"] {
            assert_eq!(State::parse(lost), State::Lost);
        }
        for odd in ["", "Unknown", "16", "x/16 0", "1/99999999999999999999 0"] {
            assert_eq!(State::parse(odd), State::Unknown, "{odd}");
        }
    }
}

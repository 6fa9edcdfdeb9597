// SPDX-License-Identifier: MIT OR Apache-2.0
//! How a primary in use is read: the `[live]` part of a pair's record.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::units::{Bytes, MIB, PAGE};

/// The least that makes sense for pre-images.
const LEAST: Bytes = Bytes(64 * MIB);
/// What is taken at most where nobody said how much.
const MOST: Bytes = Bytes(1024 * MIB);

/// Where the primary's pre-images go while its snapshot is read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CowPlace {
    /// Locked memory: nothing that fails or hangs can stand between the primary and its writes.
    #[default]
    Memory,
    /// A file on a third disk.
    Path(PathBuf),
    /// The DPSR disk itself. If it hangs, writes to the primary hang with it.
    Dpsr,
}

/// What the administrator decided about live syncs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LiveConfig {
    /// Where pre-images go.
    pub cow: CowPlace,
    /// How many bytes they may take; a sixteenth of the memory, but 64 MiB to 1 GiB, if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cow_size: Option<Bytes>,
    /// The unit in which they are kept, and in which device-mapper splits what is read of the moment; 4 KiB if not
    /// given. A larger one reads faster, and takes more room for scattered writes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chunk: Option<ChunkSize>,
    /// How many seconds without a write make a moment quiet.
    pub quiet: u64,
    /// After how many seconds the moment is taken, quiet or not.
    pub quiet_limit: u64,
}

/// A unit for pre-images: 4096, 8192 or 16384 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct ChunkSize(u64);

impl TryFrom<u64> for ChunkSize {
    type Error = String;

    fn try_from(bytes: u64) -> Result<Self, String> {
        match bytes {
            4096 | 8192 | 16384 => Ok(Self(bytes)),
            _ => Err(format!("chunk must be 4096, 8192 or 16384, not {bytes}")),
        }
    }
}

impl From<ChunkSize> for u64 {
    fn from(chunk: ChunkSize) -> Self {
        chunk.0
    }
}

impl From<ChunkSize> for Bytes {
    fn from(chunk: ChunkSize) -> Self {
        Self(chunk.0)
    }
}

impl Default for LiveConfig {
    fn default() -> Self {
        Self { cow: CowPlace::default(), cow_size: None, chunk: None, quiet: 5, quiet_limit: 30 }
    }
}

impl LiveConfig {
    /// Whether nothing was decided, so that the record need not mention it.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// How many bytes pre-images may take on a machine with so much memory: whole units of them.
    pub fn cow_size(&self, memory: Bytes) -> Bytes {
        let usual = || Bytes(memory.0 / 16).clamp(LEAST, MOST).round_down(MIB);
        let unit = self.chunk.map_or(Bytes(PAGE), Bytes::from);
        self.cow_size.map_or_else(usual, |size| size.round_down(unit.0).max(unit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::GIB;

    #[test]
    fn a_sixteenth_of_the_memory_within_bounds() {
        let live = LiveConfig::default();
        assert_eq!(live.cow_size(Bytes(GIB / 2)), LEAST);
        assert_eq!(live.cow_size(Bytes(8 * GIB)), Bytes(GIB / 2));
        assert_eq!(live.cow_size(Bytes(512 * GIB)), MOST);
        let sized = |size, chunk| {
            LiveConfig { cow_size: Some(Bytes(size)), chunk, ..live.clone() }.cow_size(Bytes(GIB))
        };
        assert_eq!(sized(7, None), Bytes(4096));
        assert_eq!(sized(20480, None), Bytes(20480));
        assert_eq!(sized(20480, Some(ChunkSize(16384))), Bytes(16384), "whole units");
    }

    #[test]
    fn as_written_by_hand() {
        let read = |text: &str| toml::from_str::<LiveConfig>(text);
        assert_eq!(read("").unwrap(), LiveConfig::default());
        assert_eq!(read("cow = 'memory'\nquiet = 1").unwrap().quiet, 1);
        assert_eq!(read("chunk = 16384").unwrap().chunk, Some(ChunkSize(16384)));
        assert!(read("chunk = 65536").unwrap_err().to_string().contains("chunk must be 4096, 8192 or 16384"));
        let path = read("cow = { path = '/var/cow' }\ncow_size = 1073741824").unwrap();
        assert_eq!((path.cow, path.cow_size), (CowPlace::Path("/var/cow".into()), Some(Bytes(GIB))));
        assert_eq!(read("cow = 'dpsr'").unwrap().cow, CowPlace::Dpsr);
        assert!(read("cows = 'memory'").is_err());
    }
}

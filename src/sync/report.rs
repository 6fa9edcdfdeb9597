// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a sync did.

use serde::Serialize;

use crate::format::moment::Moment;
use crate::units::{Bytes, Generation};

/// What a sync did, or, as a dry run, would do.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The new generation.
    pub generation: Generation,
    /// `full`, `digest` or `compare`.
    pub mode: &'static str,
    /// Whether nothing was written.
    pub dry_run: bool,
    /// Bytes read to find what changed.
    pub bytes_read: Bytes,
    /// Bytes in chunks that changed.
    pub bytes_changed: Bytes,
    /// Bytes written to the image.
    pub bytes_written_image: Bytes,
    /// Bytes written to the undo store.
    pub bytes_written_undo: Bytes,
    /// How long it took.
    pub seconds: f64,
    /// How long the primary waited for its moment, in milliseconds; absent where nobody used it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pause_ms: Option<u64>,
    /// What is known of the moment: `quiet` and `one_instant`.
    #[serde(flatten)]
    pub moment: Moment,
    /// The generation an interrupted sync was rolled back to, before this one began.
    pub rolled_back: Option<Generation>,
    /// Generations dropped to make room.
    pub dropped: Vec<Generation>,
    /// Generations dropped afterwards, because no rule of the pair keeps them.
    pub pruned: Vec<Generation>,
    /// Why the rules of the pair could not be followed, if they could not.
    pub not_pruned: Option<String>,
    /// Whether the DPSR disk does not answer any more, now that the generation is there.
    #[serde(skip)]
    pub silent: bool,
    /// Chunks that did not match their recorded digest, because they or it had rotted on the DPSR disk, and were put
    /// right; generations before this one keep them damaged.
    pub rotten_chunks: u64,
    /// Whether the digests on the DPSR disk, as a whole, were not those that the last generation recorded: then both
    /// disks were read, however changes were to be found.
    pub stale_digests: bool,
    /// Each volume and the time it stands at.
    pub volumes: Vec<VolumeReport>,
}

/// One volume in a [`Report`].
#[derive(Clone, Debug, Serialize)]
pub struct VolumeReport {
    /// Its identity.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its label.
    pub label: String,
    /// Whether it is left out.
    pub left_out: bool,
    /// The time it stands at: seconds since 1970, UTC.
    pub time: u64,
    /// Bytes in its chunks that changed.
    pub bytes_changed: Bytes,
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the next generation starts from: the digests of the last one, and what stays of its image in chunks that
//! change. Both are held against what was recorded before they become part of it: damage would be called sound.

use super::Session;
use super::next::Draft;
use crate::changes::source::Moving;
use crate::changes::{ChangeSet, Mode, Source};
use crate::disk::whole::read_exact_at;
use crate::engine::digest::{Digest, DigestRoot};
use crate::error::{Error, Kind, Result};
use crate::format::index::{Map, Run, Volume};
use crate::store::contents::buffer;
use crate::store::placement::Placement;
use crate::store::table::{self, TableReader};
use crate::units::{CHUNK, Chunk, Generation};

/// The digests that the next generation starts from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Base {
    /// What they add up to, of all chunks that keep their place.
    pub(super) root: DigestRoot,
    /// Whether they are not those that the last generation recorded: part of the table got lost on its way to the
    /// disk, or was rebuilt over what had rotted.
    pub(super) stale: bool,
    /// How changes are found.
    pub(super) mode: Mode,
}

impl Session<'_> {
    /// The digests of `from`, whose map is `old` and of which `kept` keeps its place. Stale ones hide what went back to
    /// what they say, so both disks are read then; of a volume that stays nobody could say whether it is sound.
    pub(super) fn base(&self, from: Generation, old: &Map, kept: &[Run]) -> Result<Base> {
        let contents = &self.store.contents;
        let whole = self.sum(old, &contents.image(old))?;
        let stale = whole.to_bytes() != contents.record(from)?.root;
        if stale && self.request.moving != Moving::All {
            let why = format!(
                "its digests do not add up to what generation {from} recorded, and do not tell whether what would \
                 stay is sound"
            );
            return Err(Error::new(Kind::Damaged, "moving single volumes to", why)
                .on(self.disks.dpsr.name())
                .next("sync once without --volume, which reads both disks and puts them right"));
        }
        if stale {
            // Before it costs time, which in a moment that is held may be too long.
            tracing::warn!(
                "the digests on {} do not add up to what generation {from} recorded, ignoring: both disks are read \
                 instead, as 'dpsr sync --offline' does best where that fails",
                self.disks.dpsr.name()
            );
        }
        let mode = match self.request.mode {
            Mode::Digest if stale => Mode::Compare,
            asked => asked,
        };
        let root = if kept == old.runs { whole } else { self.sum(old, &self.space(kept).image)? };
        Ok(Base { root, stale, mode })
    }

    fn sum(&self, map: &Map, image: &Placement) -> Result<DigestRoot> {
        let mut table = TableReader::new(self.store.contents.table(), map.chunks())?;
        table::sum(self.store.reader(), &mut table, image.placed(map.chunks()), &self.key)
    }

    /// Refuses to build chunks of `set` around parts that stay where the image does not hold what was recorded: their
    /// new digests would be those of the damage.
    pub(super) fn check_kept(&self, draft: &Draft, source: &Source, set: &ChangeSet) -> Result<()> {
        let mut table = TableReader::new(draft.space.table.clone(), draft.map.chunks())?;
        let mut bytes = buffer(CHUNK as usize)?;
        for chunk in source.ends_of_kept().filter(|chunk| set.contains(*chunk)) {
            let at = draft.space.image.chunk(chunk).expect("only chunks that have a place change");
            read_exact_at(self.store.reader(), at, &mut bytes)?;
            let seen = self.key.digest(bytes.first_chunk().expect("the buffer is one chunk"));
            if seen != Digest(table.get(self.store.reader(), chunk)?) {
                return Err(self.unsound(&draft.map, chunk));
            }
        }
        Ok(())
    }

    /// Part of `chunk` would stay, and the image does not hold there what was recorded.
    pub(super) fn unsound(&self, map: &Map, chunk: Chunk) -> Error {
        let (start, end) = (chunk.start(), Chunk(chunk.0 + 1).start());
        let stays = |volume: &&Volume| !volume.left_out && !self.request.moving.includes(volume);
        let within = |volume: &&Volume| volume.start < end && volume.start + volume.size > start;
        let names: Vec<&str> =
            map.volumes.iter().filter(stays).filter(within).map(|volume| volume.name.as_str()).collect();
        let whose = if names.is_empty() { String::new() } else { format!(" of volume {}", names.join(", ")) };
        let why = format!(
            "64 KiB at {} do not match their digest, and part of them{whose} would stay as it is",
            start.0
        );
        Error::new(Kind::Damaged, "moving single volumes to", why).on(self.disks.dpsr.name()).next(
            "run 'dpsr scrub --repair'; or 'dpsr scrub', and then 'dpsr sync --compare' without --volume",
        )
    }
}

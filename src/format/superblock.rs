// SPDX-License-Identifier: MIT OR Apache-2.0
//! The superblock: which state the store is in and where its index stands. 4 KiB, three copies.
//!
//! It is the only thing in the store that is overwritten in place to change the state, and so the only
//! commit point. Of valid copies the highest sequence wins.

use uuid::Uuid;

use crate::format::Parsed;
use crate::format::block::{self, HEADER, Magic};
use crate::format::geometry::Geometry;
use crate::format::packer::{Packer, Unpacker};
use crate::units::{Bytes, Generation, PAGE};

/// Magic number of a superblock.
pub const MAGIC: Magic = Magic(*b"DPsb");
/// Size of a superblock copy.
pub const SIZE: usize = PAGE as usize;

/// Points to one version of the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexRoot {
    /// Which of the two slots holds it.
    pub slot: u32,
    /// Its version; also the tag of each of its blocks.
    pub version: u64,
    /// Payload bytes.
    pub len: u64,
    /// CRC-32C of the payload.
    pub crc: u32,
}

/// What the image holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The first copy is under way; chunks below `done` are copied and their digests recorded.
    Filling {
        /// First chunk not yet copied.
        done: u64,
    },
    /// The image is exactly this generation.
    Clean(Generation),
    /// The image is being overwritten; the undo of `from` turns it back.
    Updating {
        /// What a roll-back leads to.
        from: Generation,
        /// What a commit leads to.
        to: Generation,
        /// Ties the undo store to this very sync.
        nonce: u64,
        /// The index to return to on roll-back.
        before: IndexRoot,
    },
    /// A copy without undo is under way; there is no valid generation until it ends.
    NoValid {
        /// First chunk not yet copied.
        done: u64,
        /// The number the copy will get.
        to: Generation,
    },
    /// A machine runs, or ran, from the image: it is this generation with that machine's writes in it. What
    /// they overwrote is in the live store.
    Live(Generation),
    /// The same, and the live store has overflowed: no generation can be read any more.
    LiveNoHistory(Generation),
    /// A machine runs, or ran, from an older generation. The image is still this generation, exactly; what the
    /// machine wrote is in the live store.
    Aside(Generation),
    /// The machine has a disk of its own again, with everything on it. The image is a mix; the live store
    /// makes it this generation.
    Returning(Generation),
}

impl State {
    /// The word for it in reports.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Filling { .. } => "filling",
            Self::Clean(_) => "clean",
            Self::Updating { .. } => "updating",
            Self::NoValid { .. } => "no-valid-generation",
            Self::Live(_) => "live",
            Self::LiveNoHistory(_) => "live-without-history",
            Self::Returning(_) => "returning",
            Self::Aside(_) => "live-aside",
        }
    }
}

/// Who flipped the superblock last; told to a person, never relied upon.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// Host name, at most 64 bytes.
    pub host: String,
    /// Boot id of the running kernel.
    pub boot: Uuid,
    /// Process id.
    pub pid: u32,
}

/// One superblock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// Features a writer must know before it may write: see [`Self::is_writable`].
    pub writer_features: u64,
    /// Identity of this store.
    pub store: Uuid,
    /// Identity of the pair it belongs to.
    pub pair: Uuid,
    /// Where everything stands.
    pub geometry: Geometry,
    /// Grows by one with each flip.
    pub sequence: u64,
    /// What the image holds.
    pub state: State,
    /// The current index.
    pub index: IndexRoot,
    /// Who flipped it.
    pub owner: Owner,
}

/// Features a reader must know to read at all; none yet.
const INCOMPATIBLE: u64 = 0;
/// Features a writer must know to write; none yet.
const READ_ONLY_COMPATIBLE: u64 = 0;
/// The longest host name, in bytes.
const HOST_MAX: usize = 64;

impl Superblock {
    /// The copy that stands at `location`.
    pub fn pack(&self, location: Bytes) -> [u8; SIZE] {
        let mut packer = Packer(vec![0; HEADER]);
        packer.u64(INCOMPATIBLE).u64(self.writer_features);
        packer.bytes(self.store.as_bytes()).bytes(self.pair.as_bytes());
        packer.u64(self.geometry.store.0).u64(self.geometry.extent.0).u64(self.geometry.index_slot.0);
        pack_state(&mut packer, &self.state);
        pack_root(&mut packer, &self.index);
        packer.bytes(self.owner.boot.as_bytes()).u32(self.owner.pid).text(cut(&self.owner.host));
        let mut block = packer.0;
        block.resize(SIZE, 0);
        block::seal(&mut block, MAGIC, location, self.sequence);
        block.try_into().expect("resized to SIZE above")
    }

    /// Whether this version may write the store: it knows every feature that changes how one writes.
    pub fn is_writable(&self) -> bool {
        self.writer_features & !READ_ONLY_COMPATIBLE == 0
    }

    /// The sequence of a copy whose checksum holds, whether or not this version understands the rest.
    pub fn sequence_of(bytes: &[u8], location: Bytes) -> Option<u64> {
        block::open(bytes, MAGIC, location).ours().map(|(sequence, _)| sequence)
    }

    fn roots_fit(&self) -> bool {
        let before = match self.state {
            State::Updating { before, .. } => before.len,
            _ => 0,
        };
        let room = self.geometry.index_slot.0 / PAGE * (PAGE - HEADER as u64);
        self.index.len.max(before) <= room
    }

    /// Parses the copy read from `location`.
    pub fn unpack(bytes: &[u8], location: Bytes) -> Parsed<Self> {
        let (sequence, payload) = match block::open(bytes, MAGIC, location) {
            Parsed::Ours(opened) => opened,
            Parsed::Damaged(why) => return Parsed::Damaged(why),
            Parsed::NotOurs => return Parsed::NotOurs,
        };
        let mut unpacker = Unpacker(payload);
        match unpacker.u64() {
            Some(INCOMPATIBLE) => {}
            _ => return Parsed::Damaged("it uses features this dpsr does not know".into()),
        }
        match Self::unpack_fields(&mut unpacker, sequence) {
            Some(found) if found.geometry.is_sound() && found.roots_fit() => Parsed::Ours(found),
            _ => Parsed::Damaged("its fields do not make sense".into()),
        }
    }

    fn unpack_fields(unpacker: &mut Unpacker<'_>, sequence: u64) -> Option<Self> {
        let writer_features = unpacker.u64()?;
        let store = Uuid::from_bytes(unpacker.array()?);
        let pair = Uuid::from_bytes(unpacker.array()?);
        let geometry = Geometry {
            store: Bytes(unpacker.u64()?),
            extent: Bytes(unpacker.u64()?),
            index_slot: Bytes(unpacker.u64()?),
        };
        let state = unpack_state(unpacker)?;
        let index = unpack_root(unpacker)?;
        let boot = Uuid::from_bytes(unpacker.array()?);
        let owner = Owner { boot, pid: unpacker.u32()?, host: unpacker.text()? };
        unpacker.rest_is_zero()?;
        Some(Self { writer_features, store, pair, geometry, sequence, state, index, owner })
    }
}

/// As much of a host name as has room.
fn cut(host: &str) -> &str {
    let end = (0..=host.len().min(HOST_MAX)).rev().find(|&end| host.is_char_boundary(end));
    &host[..end.unwrap_or(0)]
}

/// A state is a 32-bit kind and four 64-bit words, then a second index root.
fn pack_state(packer: &mut Packer, state: &State) {
    let none = IndexRoot { slot: 0, version: 0, len: 0, crc: 0 };
    let (kind, words, before) = match *state {
        State::Filling { done } => (1, [done, 0, 0, 0], none),
        State::Clean(generation) => (2, [generation.0, 0, 0, 0], none),
        State::Updating { from, to, nonce, before } => (3, [from.0, to.0, nonce, 0], before),
        State::NoValid { done, to } => (4, [done, to.0, 0, 0], none),
        State::Live(from) => (5, [from.0, 0, 0, 0], none),
        State::LiveNoHistory(from) => (6, [from.0, 0, 0, 0], none),
        State::Returning(from) => (7, [from.0, 0, 0, 0], none),
        State::Aside(newest) => (8, [newest.0, 0, 0, 0], none),
    };
    packer.u32(kind);
    for word in words {
        packer.u64(word);
    }
    pack_root(packer, &before);
}

fn unpack_state(unpacker: &mut Unpacker<'_>) -> Option<State> {
    let kind = unpacker.u32()?;
    let words = [unpacker.u64()?, unpacker.u64()?, unpacker.u64()?, unpacker.u64()?];
    let before = unpack_root(unpacker)?;
    Some(match kind {
        1 => State::Filling { done: words[0] },
        2 => State::Clean(Generation(words[0])),
        3 => {
            State::Updating { from: Generation(words[0]), to: Generation(words[1]), nonce: words[2], before }
        }
        4 => State::NoValid { done: words[0], to: Generation(words[1]) },
        5 => State::Live(Generation(words[0])),
        6 => State::LiveNoHistory(Generation(words[0])),
        7 => State::Returning(Generation(words[0])),
        8 => State::Aside(Generation(words[0])),
        _ => return None,
    })
}

fn pack_root(packer: &mut Packer, root: &IndexRoot) {
    packer.u32(root.slot).u64(root.version).u64(root.len).u32(root.crc);
}

fn unpack_root(unpacker: &mut Unpacker<'_>) -> Option<IndexRoot> {
    let root = IndexRoot {
        slot: unpacker.u32()?,
        version: unpacker.u64()?,
        len: unpacker.u64()?,
        crc: unpacker.u32()?,
    };
    (root.slot < 2).then_some(root)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::MIB;

    fn sample(state: State) -> Superblock {
        Superblock {
            writer_features: 0,
            store: Uuid::from_u128(1),
            pair: Uuid::from_u128(2),
            geometry: Geometry::choose(Bytes(64 * MIB)).unwrap(),
            sequence: 7,
            state,
            index: IndexRoot { slot: 1, version: 9, len: 100, crc: 3 },
            owner: Owner { host: "srv".into(), boot: Uuid::from_u128(3), pid: 42 },
        }
    }

    #[test]
    fn states_survive_the_disk() {
        let before = IndexRoot { slot: 0, version: 8, len: 90, crc: 4 };
        let (from, to) = (Generation(4), Generation(5));
        for state in [
            State::Filling { done: 17 },
            State::Clean(from),
            State::Updating { from, to, nonce: 99, before },
            State::NoValid { done: 3, to },
            State::Live(from),
            State::LiveNoHistory(from),
            State::Returning(from),
            State::Aside(from),
        ] {
            let packed = sample(state).pack(Bytes(MIB));
            assert_eq!(Superblock::unpack(&packed, Bytes(MIB)), Parsed::Ours(sample(state)));
            assert_ne!(packed[510..512], [0x55, 0xaa]);
        }
    }

    #[test]
    fn what_would_not_fit_is_cut_or_refused() {
        let mut long = sample(State::Clean(Generation(1)));
        long.owner.host = "ä".repeat(5000);
        let read = Superblock::unpack(&long.pack(Bytes(MIB)), Bytes(MIB)).ours().unwrap();
        assert_eq!(read.owner.host, "ä".repeat(32));
        long.index.len = u64::MAX;
        assert!(Superblock::unpack(&long.pack(Bytes(MIB)), Bytes(MIB)).ours().is_none());
    }

    #[test]
    fn features_of_later_versions_are_kept_and_bar_writing() {
        let later = Superblock { writer_features: 1 << 40, ..sample(State::Clean(Generation(1))) };
        let read = Superblock::unpack(&later.pack(Bytes(MIB)), Bytes(MIB)).ours().unwrap();
        assert_eq!(read, later);
        assert!(!read.is_writable() && sample(State::Clean(Generation(1))).is_writable());
    }

    #[test]
    fn every_flipped_byte_is_seen() {
        let good = sample(State::Clean(Generation(1))).pack(Bytes(MIB));
        for at in 0..good.len() {
            let mut bad = good;
            bad[at] ^= 0x40;
            assert!(Superblock::unpack(&bad, Bytes(MIB)).ours().is_none(), "byte {at}");
        }
    }
}

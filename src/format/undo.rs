// SPDX-License-Identifier: MIT OR Apache-2.0
//! The undo store of one generation: kernel dm-snapshot's persistent format, and behind it a companion
//! with what that format has no room for.
//!
//! The kernel part (`drivers/md/dm-snap-persistent.c`) is a sequence of 64 KiB chunks: chunk 0 the header,
//! then areas of [`PER_AREA`] exceptions `{old chunk, new chunk}`, each followed by the data chunks of its
//! exceptions. Area `k` stands at chunk `1 + k * (PER_AREA + 1)`. Exceptions are sorted by old chunk and
//! their data stands in the same order, so the new chunk of an exception follows from its number. An area
//! of zeros follows a full last one, because the kernel reads areas until it finds a zero entry.
//!
//! The companion holds one sealed block for each area: checksums of the area and of each saved chunk, a
//! checksum of what the sync will write instead, and which pages it will write.

use std::ops::Range;

use crate::format::Parsed;
use crate::format::block::{self, HEADER, Magic};
use crate::format::packer::{Packer, Unpacker};
use crate::units::{Bytes, CHUNK, Chunk, PAGE, PageMask, SECTOR};

/// Exceptions in one area.
pub const PER_AREA: u64 = CHUNK / 16;
/// Size of one companion block.
pub const COMPANION: Bytes = Bytes(13 * PAGE);
/// The largest exception number: bounds every count read from a disk.
pub const MAX_ENTRIES: u64 = 1 << 40;

const COMPANION_MAGIC: Magic = Magic(*b"DPun");
const RECORD: usize = 12;
const SNAP_MAGIC: u32 = 0x7041_6e53;

const _: () = assert!(HEADER + 16 + PER_AREA as usize * RECORD <= COMPANION.0 as usize);

/// Where the parts of an undo store with this many exceptions stand, counted from its own start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Number of exceptions.
    pub entries: u64,
}

impl Layout {
    /// Areas that hold exceptions.
    pub fn areas(self) -> u64 {
        self.entries.div_ceil(PER_AREA)
    }

    /// The exceptions in area `area`.
    pub fn entries_in(self, area: u64) -> Range<u64> {
        area * PER_AREA..((area + 1) * PER_AREA).min(self.entries)
    }

    /// Where area `area` stands.
    pub fn area(area: u64) -> Bytes {
        Chunk(1 + area * (PER_AREA + 1)).start()
    }

    /// The chunk that holds the data of exception `entry`.
    pub fn data_chunk(entry: u64) -> u64 {
        2 + entry + entry / PER_AREA
    }

    /// Where the data of exception `entry` stands.
    pub fn data(entry: u64) -> Bytes {
        Chunk(Self::data_chunk(entry)).start()
    }

    /// Whether an area of zeros must end the kernel part: the last area is full, or there is none.
    pub fn has_zero_area(self) -> bool {
        self.entries.is_multiple_of(PER_AREA)
    }

    /// Size of the kernel part: header, areas, data, and the closing area of zeros where one is needed.
    pub fn kernel_part(self) -> Bytes {
        Chunk(1 + self.areas() + self.entries + u64::from(self.has_zero_area())).start()
    }

    /// Where the companion block of area `area` stands.
    pub fn companion(self, area: u64) -> Bytes {
        self.kernel_part() + Bytes(area * COMPANION.0)
    }

    /// Size of everything.
    pub fn size(self) -> Bytes {
        self.companion(self.areas())
    }
}

/// The header chunk, as the kernel wants it: magic, valid, version, chunk size in sectors.
pub fn pack_header(chunk: &mut [u8]) {
    chunk.fill(0);
    for (i, word) in [SNAP_MAGIC, 1, 1, (CHUNK / SECTOR) as u32].into_iter().enumerate() {
        chunk[i * 4..i * 4 + 4].copy_from_slice(&word.to_le_bytes());
    }
}

/// Checks the header chunk to the last byte.
pub fn check_header(chunk: &[u8]) -> Parsed<()> {
    let mut good = vec![0; chunk.len()];
    pack_header(&mut good);
    if chunk == good { Parsed::Ours(()) } else { Parsed::Damaged("its header is not as written".into()) }
}

/// Puts exception number `entry`, of chunk `old`, into the chunk of its area.
pub fn pack_entry(area: &mut [u8], entry: u64, old: Chunk) {
    pack_exception(area, entry, old, Layout::data_chunk(entry));
}

/// The same where the saved chunk stands elsewhere: `new`, counted like `old` in chunks, is its place.
pub fn pack_exception(area: &mut [u8], entry: u64, old: Chunk, new: u64) {
    let at = (entry % PER_AREA) as usize * 16;
    area[at..at + 8].copy_from_slice(&old.0.to_le_bytes());
    area[at + 8..at + 16].copy_from_slice(&new.to_le_bytes());
}

/// The old chunk of exception number `entry`; `None` if it does not point where it must.
pub fn unpack_entry(area: &[u8], entry: u64) -> Option<Chunk> {
    let at = (entry % PER_AREA) as usize * 16;
    let mut fields = Unpacker(&area[at..at + 16]);
    let (old, new) = (fields.u64()?, fields.u64()?);
    (new == Layout::data_chunk(entry)).then_some(Chunk(old))
}

/// What the companion knows of one saved chunk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// CRC-32C of the saved chunk.
    pub old_crc: u32,
    /// CRC-32C of the chunk the sync was about to write; zero for chunks of the digest table.
    pub new_crc: u32,
    /// Which pages the sync overwrites.
    pub mask: PageMask,
}

/// The companion of one area.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Companion {
    /// Number of the area.
    pub area: u64,
    /// CRC-32C of the area's chunk.
    pub area_crc: u32,
    /// One for each exception of the area, in order.
    pub records: Vec<Record>,
}

impl Companion {
    /// The block that stands at `location`, tied to the sync by `nonce`. `block` is [`COMPANION`] long.
    pub fn pack(&self, block: &mut [u8], location: Bytes, nonce: u64) {
        let mut packer = Packer(Vec::with_capacity(block.len()));
        packer.u64(self.area).u32(self.area_crc).u32(self.records.len() as u32);
        for record in &self.records {
            packer.u32(record.old_crc).u32(record.new_crc).u16(record.mask.0).u16(0);
        }
        block.fill(0);
        block[HEADER..HEADER + packer.0.len()].copy_from_slice(&packer.0);
        block::seal(block, COMPANION_MAGIC, location, nonce);
    }

    /// Parses the block read from `location`, which must be of the sync with `nonce`.
    pub fn unpack(bytes: &[u8], location: Bytes, nonce: u64) -> Parsed<Self> {
        let payload = match block::open(bytes, COMPANION_MAGIC, location) {
            Parsed::Ours((tag, payload)) if tag == nonce => payload,
            Parsed::Ours(_) => return Parsed::Damaged("it belongs to another sync".into()),
            Parsed::Damaged(why) => return Parsed::Damaged(why),
            Parsed::NotOurs => return Parsed::NotOurs,
        };
        Self::unpack_fields(&mut Unpacker(payload))
            .map_or_else(|| Parsed::Damaged("its fields do not make sense".into()), Parsed::Ours)
    }

    fn unpack_fields(unpacker: &mut Unpacker<'_>) -> Option<Self> {
        let (area, area_crc, count) = (unpacker.u64()?, unpacker.u32()?, unpacker.u32()?);
        if u64::from(count) > PER_AREA {
            return None;
        }
        let mut records = Vec::with_capacity(count as usize);
        for _ in 0..count {
            let (old_crc, new_crc, mask) = (unpacker.u32()?, unpacker.u32()?, PageMask(unpacker.u16()?));
            let _zero = unpacker.u16()?;
            records.push(Record { old_crc, new_crc, mask });
        }
        unpacker.rest_is_zero()?;
        Some(Self { area, area_crc, records })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_arithmetic() {
        // Area k at 1 + k(E+1), its data right behind it.
        assert_eq!(Layout::area(0), Bytes(CHUNK));
        assert_eq!(Layout::area(1), Bytes(4098 * CHUNK));
        assert_eq!(Layout::data_chunk(0), 2);
        assert_eq!(Layout::data_chunk(4095), 4097);
        assert_eq!(Layout::data_chunk(4096), 4099);
        for entries in [0, 1, 4095, 4096, 4097, 8192] {
            let layout = Layout { entries };
            let last = entries.checked_sub(1).map_or(0, Layout::data_chunk);
            assert!(layout.kernel_part() >= Chunk(last + 1).start());
            assert_eq!(layout.has_zero_area(), entries % 4096 == 0);
            if layout.has_zero_area() {
                assert_eq!(layout.kernel_part(), Layout::area(layout.areas()) + Bytes(CHUNK));
            }
        }
    }

    #[test]
    fn companions_survive_and_show_every_flip() {
        let record = |i: u32| Record { old_crc: i, new_crc: !i, mask: PageMask(i as u16) };
        let companion = Companion { area: 2, area_crc: 77, records: (0..4096).map(record).collect() };
        let mut block = vec![0; COMPANION.usize()];
        companion.pack(&mut block, Bytes(4096), 5);
        assert_eq!(Companion::unpack(&block, Bytes(4096), 5), Parsed::Ours(companion));
        assert!(matches!(Companion::unpack(&block, Bytes(4096), 6), Parsed::Damaged(_)));
        for at in 0..block.len() {
            block[at] ^= 1;
            assert!(Companion::unpack(&block, Bytes(4096), 5).ours().is_none(), "byte {at}");
            block[at] ^= 1;
        }
    }

    #[test]
    fn entries_must_point_in_order() {
        let mut area = vec![0; CHUNK as usize];
        pack_entry(&mut area, 4097, Chunk(123));
        assert_eq!(unpack_entry(&area, 4097), Some(Chunk(123)));
        assert_eq!(unpack_entry(&area, 1), None);
    }
}

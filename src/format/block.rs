// SPDX-License-Identifier: MIT OR Apache-2.0
//! The frame around every metadata block: a 32-byte header, then the payload.
//!
//! ```text
//! offset size field
//!      0    4 magic: what kind of block this is
//!      4    4 format version
//!      8    8 location: byte offset of this block in the store
//!     16    8 tag: sequence or nonce of what the block belongs to
//!     24    4 zero
//!     28    4 CRC-32C of the whole block with this field zero
//!     32    … payload
//! ```

use crate::format::{Parsed, VERSION};
use crate::units::Bytes;

/// Bytes before the payload.
pub const HEADER: usize = 32;
const CRC: std::ops::Range<usize> = 28..32;

/// The kind of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Magic(pub [u8; 4]);

/// Fills in the header of `block`, whose payload stands at [`HEADER`] already.
pub fn seal(block: &mut [u8], magic: Magic, location: Bytes, tag: u64) {
    block[..4].copy_from_slice(&magic.0);
    block[4..8].copy_from_slice(&VERSION.to_le_bytes());
    block[8..16].copy_from_slice(&location.0.to_le_bytes());
    block[16..24].copy_from_slice(&tag.to_le_bytes());
    block[24..32].fill(0);
    let crc = crc32c::crc32c(block);
    block[CRC].copy_from_slice(&crc.to_le_bytes());
}

/// Checks the header of `block`, which was read from `location`, and returns its tag and payload.
pub fn open(block: &[u8], magic: Magic, location: Bytes) -> Parsed<(u64, &[u8])> {
    let word = |at: usize| u32::from_le_bytes(block[at..at + 4].try_into().expect("four bytes"));
    let long = |at: usize| u64::from_le_bytes(block[at..at + 8].try_into().expect("eight bytes"));
    if block.len() < HEADER || block[..4] != magic.0 {
        return Parsed::NotOurs;
    }
    let crc = [&block[..CRC.start], &[0; 4], &block[CRC.end..]]
        .iter()
        .fold(0, |crc, part| crc32c::crc32c_append(crc, part));
    if crc != word(CRC.start) {
        return Parsed::Damaged("its checksum does not match".into());
    }
    if word(4) != VERSION {
        return Parsed::Damaged(format!("it has format version {}, this dpsr reads {VERSION}", word(4)));
    }
    if long(8) != location.0 {
        return Parsed::Damaged(format!("it belongs at offset {}, not at {}", long(8), location.0));
    }
    Parsed::Ours((long(16), &block[HEADER..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAGIC: Magic = Magic(*b"TEST");

    #[test]
    fn every_flipped_bit_shows() {
        let mut block = vec![7; 4096];
        seal(&mut block, MAGIC, Bytes(8192), 5);
        assert!(
            matches!(open(&block, MAGIC, Bytes(8192)), Parsed::Ours((5, payload)) if payload.len() == 4064)
        );
        for bit in 0..block.len() * 8 {
            block[bit / 8] ^= 1 << (bit % 8);
            assert!(!matches!(open(&block, MAGIC, Bytes(8192)), Parsed::Ours(_)), "bit {bit}");
            block[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn a_misplaced_block_is_damaged() {
        let mut block = vec![7; 4096];
        seal(&mut block, MAGIC, Bytes(8192), 5);
        assert!(matches!(open(&block, MAGIC, Bytes(4096)), Parsed::Damaged(_)));
        assert_eq!(open(&[0; 4096], MAGIC, Bytes(0)), Parsed::NotOurs);
    }
}

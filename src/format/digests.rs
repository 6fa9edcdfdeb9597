// SPDX-License-Identifier: MIT OR Apache-2.0
//! The digest table: 16 bytes for each chunk of the image, in 4 KiB pages of 255 digests.
//!
//! ```text
//! offset size field
//!      0    4 magic "DPdg"
//!      4    4 CRC-32C of the whole page with this field zero
//!      8    8 page number
//!     16 4080 digests of chunks 255 * page … 255 * page + 254
//! ```
//!
//! A page of zeros means that its 255 chunks all hold zeros, so the table of a sparse disk is sparse too.
//! The table lies in the same undo-protected address space as the image, from chunk [`BASE`] on, sixteen
//! pages to a chunk: a roll-back takes it along.

use crate::format::Parsed;
use crate::units::{Bytes, CHUNK, Chunk, PAGE};

/// Digests in a page.
pub const PER_PAGE: u64 = 255;
/// Bytes of one digest.
pub const DIGEST: usize = 16;
/// Chunks of the image whose digests fill one chunk of the table.
pub const PER_CHUNK: u64 = PER_PAGE * (CHUNK / PAGE);
/// Where the table starts in the protected address space: far behind any image.
pub const BASE: Chunk = Chunk(1 << 40);

const MAGIC: [u8; 4] = *b"DPdg";
const HEADER: usize = 16;

/// Stands for a digest that is not known: while a copy without undo is under way, and of chunks that have no
/// place. No chunk has it, because digests are keyed.
pub const UNKNOWN: Raw = [0xff; DIGEST];

/// A digest as it stands in the table.
pub type Raw = [u8; DIGEST];

/// Size of the table for an image of `chunks` chunks: whole chunks of the protected address space.
pub fn table_size(chunks: u64) -> Bytes {
    Bytes(chunks.div_ceil(PER_CHUNK) * CHUNK)
}

/// Which page of the table holds the digest of `chunk`.
pub fn page_of(chunk: Chunk) -> u64 {
    chunk.0 / PER_PAGE
}

/// Where in its page the digest of `chunk` stands.
pub fn slot_of(chunk: Chunk) -> std::ops::Range<usize> {
    let at = HEADER + (chunk.0 % PER_PAGE) as usize * DIGEST;
    at..at + DIGEST
}

/// Fills in the header of page number `number`; a page without any digest becomes all zeros.
pub fn seal(page: &mut [u8], number: u64) {
    page[..HEADER].fill(0);
    if is_zero(page) {
        return;
    }
    page[..4].copy_from_slice(&MAGIC);
    page[8..16].copy_from_slice(&number.to_le_bytes());
    let crc = crc32c::crc32c(page);
    page[4..8].copy_from_slice(&crc.to_le_bytes());
}

/// Checks page number `number`.
pub fn check(page: &[u8], number: u64) -> Parsed<()> {
    if is_zero(page) {
        return Parsed::Ours(());
    }
    if page[..4] != MAGIC {
        return Parsed::Damaged("it is not a digest page".into());
    }
    let crc = [&page[..4], &[0; 4], &page[8..]].iter().fold(0, |crc, part| crc32c::crc32c_append(crc, part));
    if page[4..8] != crc.to_le_bytes() {
        return Parsed::Damaged("its checksum does not match".into());
    }
    if page[8..16] != number.to_le_bytes() {
        return Parsed::Damaged("it is another page of the table".into());
    }
    Parsed::Ours(())
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(64).all(|part| part.iter().fold(0, |or, byte| or | byte) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_of_a_page_shows() {
        let mut page = [0u8; PAGE as usize];
        page[slot_of(Chunk(255 * 3 + 254))].fill(9);
        seal(&mut page, 3);
        assert_eq!(check(&page, 3), Parsed::Ours(()));
        assert!(matches!(check(&page, 4), Parsed::Damaged(_)));
        for bit in 0..page.len() * 8 {
            page[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(check(&page, 3), Parsed::Damaged(_)), "bit {bit}");
            page[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn a_page_of_zero_chunks_is_zero_and_any_flip_in_it_shows() {
        let mut page = [0u8; PAGE as usize];
        seal(&mut page, 3);
        assert_eq!(page, [0; PAGE as usize]);
        page[77] = 1;
        assert!(matches!(check(&page, 3), Parsed::Damaged(_)));
    }
}

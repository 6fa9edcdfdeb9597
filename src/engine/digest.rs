// SPDX-License-Identifier: MIT OR Apache-2.0
//! The digest that says whether a chunk changed: 128 bits, keyed, as fast as memory.
//!
//! Each page of the chunk is multiplied with two secret keys, carry-less (see [`crate::sys::clmul`]); the
//! products, 512 bytes for a chunk, go through keyed BLAKE3, cut to 16 bytes. Whoever knows neither the keys
//! nor any digest can choose two chunks that differ and have the same one with a chance of about 2^-127.
//! Sixteen zero bytes stand for the chunk of zeros and for no other.

use std::fmt;

use crate::sys::clmul::{Keys, Multiplier};
use crate::units::{CHUNK, Chunk, PAGE};

/// Bytes of one chunk.
pub const CHUNK_LEN: usize = CHUNK as usize;

/// Contexts of BLAKE3's key derivation; part of the format.
const CHUNK_CONTEXT: &str = "dpsr 1 chunk digest";
const ROOT_CONTEXT: &str = "dpsr 1 digest root";

/// The digest of one chunk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Digest(pub [u8; 16]);

impl Digest {
    /// The digest of the chunk of zeros.
    pub const ZERO: Self = Self([0; 16]);

    /// Whether the chunk is all zeros.
    pub fn is_zero(self) -> bool {
        self == Self::ZERO
    }
}

/// The secret of one pair, expanded.
pub struct DigestKey {
    keys: Box<Keys>,
    chunk: [u8; 32],
    root: [u8; 32],
    multiplier: Multiplier,
}

impl fmt::Debug for DigestKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DigestKey").field("multiplier", &self.multiplier).finish_non_exhaustive()
    }
}

impl DigestKey {
    /// Expands `secret`: first page key, second page key, then the key of the final hash, from one
    /// BLAKE3 output stream; the key of the root from another.
    pub fn new(secret: [u8; 32]) -> Self {
        Self::with(secret, Multiplier::best())
    }

    fn with(secret: [u8; 32], multiplier: Multiplier) -> Self {
        let mut stream = blake3::Hasher::new_derive_key(CHUNK_CONTEXT).update(&secret).finalize_xof();
        let mut keys = Box::new(Keys([[0; PAGE as usize]; 2]));
        keys.0.iter_mut().for_each(|key| stream.fill(key));
        let mut chunk = [0; 32];
        stream.fill(&mut chunk);
        Self { keys, chunk, root: blake3::derive_key(ROOT_CONTEXT, &secret), multiplier }
    }

    /// The digest of a whole chunk; past the end of the disk a chunk continues with zeros.
    pub fn digest(&self, chunk: &[u8; CHUNK_LEN]) -> Digest {
        if is_zero(chunk) {
            return Digest::ZERO;
        }
        let products = self.multiplier.products(chunk, &self.keys);
        let hash = blake3::keyed_hash(&self.chunk, &products);
        not_zero(*hash.as_bytes().first_chunk().expect("a hash is 32 bytes"))
    }
}

/// Sixteen zero bytes are taken; the next number stands in for them.
fn not_zero(digest: [u8; 16]) -> Digest {
    if digest == [0; 16] { Digest(1u128.to_le_bytes()) } else { Digest(digest) }
}

/// Looks at 256 bytes at a time, so that a chunk with data near its start costs nothing.
fn is_zero(chunk: &[u8; CHUNK_LEN]) -> bool {
    let (blocks, _) = chunk.as_chunks::<256>();
    blocks.iter().all(|block| block.iter().fold(0, |any, byte| any | byte) == 0)
}

/// The sum of keyed hashes of all chunk numbers with their digests; it says whether a whole table of
/// digests is the right one, and follows each change without reading the rest. Zero chunks add nothing,
/// so the sum does not depend on how far the table reaches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DigestRoot(pub [u64; 4]);

impl DigestRoot {
    /// The sum as it stands on the disk: four 64-bit numbers, little-endian.
    pub fn to_bytes(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        bytes.as_chunks_mut().0.iter_mut().zip(self.0).for_each(|(part, sum)| *part = sum.to_le_bytes());
        bytes
    }

    /// The sum that stands in `bytes`.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        let mut sums = [0; 4];
        sums.iter_mut().zip(bytes.as_chunks().0).for_each(|(sum, &part)| *sum = u64::from_le_bytes(part));
        Self(sums)
    }

    /// Adds the term of `chunk`.
    pub fn add(&mut self, key: &DigestKey, chunk: Chunk, digest: Digest) {
        self.each(key, chunk, digest, u64::wrapping_add);
    }

    /// Takes the term of `chunk` away, as before its digest changes.
    pub fn remove(&mut self, key: &DigestKey, chunk: Chunk, digest: Digest) {
        self.each(key, chunk, digest, u64::wrapping_sub);
    }

    /// Adds a sum over other chunks.
    pub fn join(&mut self, other: Self) {
        self.0.iter_mut().zip(other.0).for_each(|(sum, part)| *sum = sum.wrapping_add(part));
    }

    /// Takes a sum over some of the chunks away.
    pub fn part(&mut self, other: Self) {
        self.0.iter_mut().zip(other.0).for_each(|(sum, part)| *sum = sum.wrapping_sub(part));
    }

    fn each(&mut self, key: &DigestKey, chunk: Chunk, digest: Digest, change: fn(u64, u64) -> u64) {
        if digest.is_zero() {
            return;
        }
        let mut input = [0; 24];
        input[..8].copy_from_slice(&chunk.0.to_le_bytes());
        input[8..].copy_from_slice(&digest.0);
        let hash = blake3::keyed_hash(&key.root, &input);
        let (terms, _) = hash.as_bytes().as_chunks();
        for (sum, &term) in self.0.iter_mut().zip(terms) {
            *sum = change(*sum, u64::from_le_bytes(term));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn chunk(seed: &[u8]) -> Box<[u8; CHUNK_LEN]> {
        let mut bytes = Box::new([0; CHUNK_LEN]);
        blake3::Hasher::new().update(seed).finalize_xof().fill(&mut bytes[..]);
        bytes
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn forms_agree_and_every_bit_counts(secret: [u8; 32], seed: [u8; 8], bit in 0..CHUNK_LEN * 8) {
            let mut chunk = chunk(&seed);
            let forms: Vec<_> = Multiplier::all().into_iter().map(|m| DigestKey::with(secret, m)).collect();
            let before = forms[0].digest(&chunk);
            chunk[bit / 8] ^= 1 << (bit % 8);
            let after = forms[0].digest(&chunk);
            prop_assert_ne!(before, after);
            for form in &forms {
                prop_assert_eq!(form.digest(&chunk), after, "{:?}", form);
            }
        }

        #[test]
        fn the_root_follows_changes(parts: Vec<(u64, [u8; 16])>, at: prop::sample::Index, new: [u8; 16]) {
            prop_assume!(!parts.is_empty());
            let key = DigestKey::new([7; 32]);
            let sum = |parts: &[(u64, [u8; 16])]| {
                let mut root = DigestRoot::default();
                parts.iter().for_each(|&(chunk, digest)| root.add(&key, Chunk(chunk), Digest(digest)));
                root
            };
            let (mut root, mut parts) = (sum(&parts), parts);
            let part = at.get_mut(&mut parts);
            root.remove(&key, Chunk(part.0), Digest(part.1));
            part.1 = new;
            root.add(&key, Chunk(part.0), Digest(part.1));
            parts.reverse();
            prop_assert_eq!(root, sum(&parts));
        }
    }

    #[test]
    fn zeros_have_the_zero_digest_and_nothing_else_has() {
        let key = DigestKey::new([1; 32]);
        let mut chunk = Box::new([0; CHUNK_LEN]);
        assert!(key.digest(&chunk).is_zero());
        for at in [0, 255, 256, 40_000, CHUNK_LEN - 1] {
            chunk[at] = 1;
            assert!(!key.digest(&chunk).is_zero());
            chunk[at] = 0;
        }
        assert_eq!(not_zero([0; 16]).0, [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let mut root = DigestRoot::default();
        root.add(&key, Chunk(3), Digest::ZERO);
        assert_eq!(root, DigestRoot::default());
    }

    #[test]
    fn the_digest_is_part_of_the_format() {
        let key = DigestKey::new([42; 32]);
        let digest = key.digest(&chunk(b"format"));
        let mut root = DigestRoot::default();
        root.add(&key, Chunk(5), digest);
        assert_eq!(u128::from_be_bytes(digest.0), 86_686_684_243_517_624_555_920_021_457_470_730_120);
        let lanes = [
            7_887_799_232_667_360_354,
            13_114_797_447_404_589_068,
            1_626_021_814_445_218_824,
            2_148_870_160_176_797_123,
        ];
        assert_eq!(root.0, lanes);
    }

    #[test]
    fn equal_chunks_differ_between_secrets_and_places_in_the_chunk() {
        let (one, two) = (DigestKey::new([1; 32]), DigestKey::new([2; 32]));
        let chunk = chunk(b"some chunk");
        assert_ne!(one.digest(&chunk), two.digest(&chunk));
        let mut swapped = chunk.clone();
        swapped[..2 * PAGE as usize].rotate_left(PAGE as usize);
        assert_ne!(one.digest(&chunk), one.digest(&swapped));
    }
}

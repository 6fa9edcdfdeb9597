// SPDX-License-Identifier: MIT OR Apache-2.0
//! The AArch64 form: 16 bytes at a time with PMULL.

use std::arch::aarch64::vmull_p64;

use super::{CHUNK_LEN, Keys, PAGE_LEN, Products};

/// # Safety
/// The processor must have PMULL.
#[target_feature(enable = "neon,aes")]
pub(super) unsafe fn pmull(chunk: &[u8; CHUNK_LEN], keys: &Keys, products: &mut Products) {
    for (page, out) in chunk.chunks_exact(PAGE_LEN).zip(products.chunks_exact_mut(32)) {
        let mut sums = [0u128; 2];
        for (at, block) in page.chunks_exact(16).enumerate() {
            for (sum, key) in sums.iter_mut().zip(&keys.0) {
                let x = little_endian(block) ^ little_endian(&key[at * 16..at * 16 + 16]);
                *sum ^= vmull_p64(x as u64, (x >> 64) as u64);
            }
        }
        for (sum, out) in sums.into_iter().zip(out.chunks_exact_mut(16)) {
            out.copy_from_slice(&sum.to_le_bytes());
        }
    }
}

fn little_endian(bytes: &[u8]) -> u128 {
    u128::from_le_bytes(bytes.try_into().expect("a block is 16 bytes"))
}

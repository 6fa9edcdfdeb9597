// SPDX-License-Identifier: MIT OR Apache-2.0
//! Carry-less products with ordinary multiplications, in constant time.
//!
//! Each factor is cut into four with three zero bits after every kept bit, so that no carry reaches the
//! next kept bit; the method of BearSSL's `ghash_ctmul64.c`.

use super::{CHUNK_LEN, Keys, PAGE_LEN, Products};

pub(super) fn multiply(chunk: &[u8; CHUNK_LEN], keys: &Keys, products: &mut Products) {
    for (page, out) in chunk.chunks_exact(PAGE_LEN).zip(products.chunks_exact_mut(32)) {
        for (key, out) in keys.0.iter().zip(out.chunks_exact_mut(16)) {
            out.copy_from_slice(&page_product(page, key).to_le_bytes());
        }
    }
}

fn page_product(page: &[u8], key: &[u8]) -> u128 {
    page.chunks_exact(16).zip(key.chunks_exact(16)).fold(0, |sum, (m, k)| {
        let block = little_endian(m) ^ little_endian(k);
        sum ^ product(block as u64, (block >> 64) as u64)
    })
}

fn little_endian(bytes: &[u8]) -> u128 {
    u128::from_le_bytes(bytes.try_into().expect("a block is 16 bytes"))
}

/// The upper half is the lower half of the product of the mirrored factors, mirrored.
fn product(a: u64, b: u64) -> u128 {
    let upper = lower_half(a.reverse_bits(), b.reverse_bits()).reverse_bits() >> 1;
    u128::from(upper) << 64 | u128::from(lower_half(a, b))
}

fn lower_half(a: u64, b: u64) -> u64 {
    const KEPT: u64 = 0x1111_1111_1111_1111;
    let a: [u64; 4] = std::array::from_fn(|i| a & KEPT << i);
    let b: [u64; 4] = std::array::from_fn(|i| b & KEPT << i);
    (0..4).fold(0, |sum, i| {
        let terms = (0..4).fold(0, |terms, j| terms ^ a[j].wrapping_mul(b[(4 + i - j) % 4]));
        sum | terms & KEPT << i
    })
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! The x86-64 forms: 64, 32 or 16 bytes of the page at a time against both keys.
//!
//! `0x10` as the selector multiplies the low half of the first operand by the high half of the second.

use std::arch::x86_64::{
    __m128i, __m256i, _mm_clmulepi64_si128, _mm_loadu_si128, _mm_setzero_si128, _mm_storeu_si128,
    _mm_xor_si128, _mm256_castsi256_si128, _mm256_clmulepi64_epi128, _mm256_extracti128_si256,
    _mm256_loadu_si256, _mm256_setzero_si256, _mm256_xor_si256, _mm512_castsi512_si256,
    _mm512_clmulepi64_epi128, _mm512_extracti64x4_epi64, _mm512_loadu_si512, _mm512_setzero_si512,
    _mm512_xor_si512,
};

use super::{CHUNK_LEN, Keys, PAGE_LEN, Products};

/// # Safety
/// The processor must have AVX-512F and VPCLMULQDQ.
#[target_feature(enable = "avx512f,vpclmulqdq")]
pub(super) unsafe fn avx512(chunk: &[u8; CHUNK_LEN], keys: &Keys, products: &mut Products) {
    let (first, second) = (keys.0[0].as_ptr(), keys.0[1].as_ptr());
    for (page, out) in chunk.chunks_exact(PAGE_LEN).zip(products.chunks_exact_mut(32)) {
        let mut sums = [_mm512_setzero_si512(); 2];
        for at in (0..PAGE_LEN).step_by(64) {
            // SAFETY: page and both keys are PAGE_LEN bytes, and at + 64 does not pass that.
            let (m, k0, k1) = unsafe {
                (
                    _mm512_loadu_si512(page.as_ptr().add(at).cast()),
                    _mm512_loadu_si512(first.add(at).cast()),
                    _mm512_loadu_si512(second.add(at).cast()),
                )
            };
            let (x, y) = (_mm512_xor_si512(m, k0), _mm512_xor_si512(m, k1));
            sums[0] = _mm512_xor_si512(sums[0], _mm512_clmulepi64_epi128::<0x10>(x, x));
            sums[1] = _mm512_xor_si512(sums[1], _mm512_clmulepi64_epi128::<0x10>(y, y));
        }
        for (sum, out) in sums.into_iter().zip(out.chunks_exact_mut(16)) {
            let half = _mm256_xor_si256(_mm512_castsi512_si256(sum), _mm512_extracti64x4_epi64::<1>(sum));
            store(_mm_xor_si128(_mm256_castsi256_si128(half), _mm256_extracti128_si256::<1>(half)), out);
        }
    }
}

/// # Safety
/// The processor must have AVX2 and VPCLMULQDQ.
#[target_feature(enable = "avx2,vpclmulqdq")]
pub(super) unsafe fn avx2(chunk: &[u8; CHUNK_LEN], keys: &Keys, products: &mut Products) {
    for (page, out) in chunk.chunks_exact(PAGE_LEN).zip(products.chunks_exact_mut(32)) {
        let mut sums = [[_mm256_setzero_si256(); 2]; 2];
        for at in (0..PAGE_LEN).step_by(64) {
            for (lane, at) in [at, at + 32].into_iter().enumerate() {
                let m = load256(page, at);
                for (sums, key) in sums.iter_mut().zip(&keys.0) {
                    let x = _mm256_xor_si256(m, load256(key, at));
                    sums[lane] = _mm256_xor_si256(sums[lane], _mm256_clmulepi64_epi128::<0x10>(x, x));
                }
            }
        }
        for (sums, out) in sums.into_iter().zip(out.chunks_exact_mut(16)) {
            let sum = _mm256_xor_si256(sums[0], sums[1]);
            store(_mm_xor_si128(_mm256_castsi256_si128(sum), _mm256_extracti128_si256::<1>(sum)), out);
        }
    }
}

/// # Safety
/// The processor must have PCLMULQDQ.
#[target_feature(enable = "sse2,pclmulqdq")]
pub(super) unsafe fn pclmul(chunk: &[u8; CHUNK_LEN], keys: &Keys, products: &mut Products) {
    for (page, out) in chunk.chunks_exact(PAGE_LEN).zip(products.chunks_exact_mut(32)) {
        let mut sums = [[_mm_setzero_si128(); 2]; 2];
        for at in (0..PAGE_LEN).step_by(32) {
            for (lane, at) in [at, at + 16].into_iter().enumerate() {
                let m = load128(page, at);
                for (sums, key) in sums.iter_mut().zip(&keys.0) {
                    let x = _mm_xor_si128(m, load128(key, at));
                    sums[lane] = _mm_xor_si128(sums[lane], _mm_clmulepi64_si128::<0x10>(x, x));
                }
            }
        }
        for (sums, out) in sums.into_iter().zip(out.chunks_exact_mut(16)) {
            store(_mm_xor_si128(sums[0], sums[1]), out);
        }
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn load256(page: &[u8], at: usize) -> __m256i {
    let block = &page[at..at + 32];
    // SAFETY: the block is 32 bytes long, and the load needs no alignment.
    unsafe { _mm256_loadu_si256(block.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "sse2")]
fn load128(page: &[u8], at: usize) -> __m128i {
    let block = &page[at..at + 16];
    // SAFETY: the block is 16 bytes long, and the load needs no alignment.
    unsafe { _mm_loadu_si128(block.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "sse2")]
fn store(product: __m128i, out: &mut [u8]) {
    let out = &mut out[..16];
    // SAFETY: the target is 16 bytes long, and the store needs no alignment.
    unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), product) }
}

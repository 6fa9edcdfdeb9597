// SPDX-License-Identifier: MIT OR Apache-2.0
//! Carry-less products of the pages of a chunk with two keys, in the form that is the fastest on this processor.
//!
//! For each page of 256 blocks `m` of 16 bytes and each of the two keys `k` of the same length, the
//! product is the exclusive or over all blocks of `(low(m) ^ low(k)) * (high(m) ^ high(k))`, a carry-less
//! product of two 64-bit halves, 127 bits long, stored little-endian. All forms give the same bytes.

use std::hint::black_box;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::units::{CHUNK, PAGE, PAGES_PER_CHUNK};

#[cfg(target_arch = "aarch64")]
mod arm;
mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

/// Bytes of one page.
const PAGE_LEN: usize = PAGE as usize;
/// Bytes of one chunk.
const CHUNK_LEN: usize = CHUNK as usize;
/// Bytes of the products of one chunk: two of 16 bytes for each page.
pub const PRODUCTS_LEN: usize = PAGES_PER_CHUNK as usize * 32;

/// Two keys of a page each, aligned for the widest loads.
#[repr(C, align(64))]
pub struct Keys(pub [[u8; PAGE_LEN]; 2]);

/// The products of all pages of a chunk, page by page, first key before second.
pub type Products = [u8; PRODUCTS_LEN];

/// How often each form is tried at least and at most; the first time is for what is not in any cache yet.
const LEAST: u32 = 3;
const MOST: u32 = 1000;
/// How long it is tried at least: the wide parts of a processor wake up within tens of microseconds.
const TRIAL: Duration = Duration::from_micros(200);

/// One way to multiply. It can only be had where the processor has the instructions it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Multiplier(Form);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Pclmul,
    #[cfg(target_arch = "aarch64")]
    Pmull,
    Portable,
}

impl Multiplier {
    /// The fastest form; found once, by trying.
    ///
    /// What a processor says that it has is no promise of speed: QEMU 7.2 emulates PCLMULQDQ at a quarter of the speed
    /// at which it runs the portable form.
    pub fn best() -> Self {
        static BEST: OnceLock<Multiplier> = OnceLock::new();
        *BEST.get_or_init(|| {
            let (mut keys, mut chunk) = (Box::new(Keys([[0; PAGE_LEN]; 2])), Box::new([0; CHUNK_LEN]));
            // An emulator multiplies bit by bit, with branches that are guessed well where all bits are alike.
            let mut noise = blake3::Hasher::new().finalize_xof();
            keys.0.iter_mut().for_each(|key| noise.fill(key));
            noise.fill(&mut *chunk);
            fastest(&Self::all(), |form| {
                let start = Instant::now();
                black_box(form.products(black_box(&chunk), &keys));
                start.elapsed()
            })
        })
    }

    /// Every form this processor can run, the one that should be fastest first.
    pub fn all() -> Vec<Self> {
        Form::available().into_iter().map(Self).collect()
    }

    /// The products of `chunk` with `keys`.
    pub fn products(self, chunk: &[u8; CHUNK_LEN], keys: &Keys) -> Products {
        let mut products = [0; PRODUCTS_LEN];
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a Multiplier of this form exists only where its instructions were found.
            Form::Avx512 => unsafe { x86::avx512(chunk, keys, &mut products) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Form::Avx2 => unsafe { x86::avx2(chunk, keys, &mut products) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Form::Pclmul => unsafe { x86::pclmul(chunk, keys, &mut products) },
            #[cfg(target_arch = "aarch64")]
            // SAFETY: as above.
            Form::Pmull => unsafe { arm::pmull(chunk, keys, &mut products) },
            Form::Portable => portable::multiply(chunk, keys, &mut products),
        }
        products
    }
}

/// The first of `forms`; a later one in its place if that is faster by a quarter, also than the best so far once more:
/// a processor may only begin to run fast.
///
/// Of each the fastest of a few turns counts: being interrupted makes a turn longer, nothing makes it shorter.
fn fastest(forms: &[Multiplier], mut turn: impl FnMut(Multiplier) -> Duration) -> Multiplier {
    let Some((first, others)) = forms.split_first() else { return Multiplier(Form::Portable) };
    let mut time = |form| {
        let (mut turns, mut all, mut least) = (0, Duration::ZERO, Duration::MAX);
        while turns < LEAST || (all < TRIAL && turns < MOST) {
            let took = turn(form);
            (turns, all, least) = (turns + 1, all + took, least.min(took));
        }
        least
    };
    let mut best = (*first, time(*first));
    let faster = |took: Duration, best: Duration| took * 5 < best * 4;
    for form in others {
        let took = time(*form);
        if faster(took, best.1) {
            best.1 = time(best.0);
        }
        if faster(took, best.1) {
            best = (*form, took);
        }
    }
    tracing::debug!("digests are made by {:?}: {:?} for {CHUNK} bytes", best.0, best.1);
    best.0
}

impl Form {
    #[cfg(target_arch = "x86_64")]
    fn available() -> Vec<Self> {
        let wide = is_x86_feature_detected!("vpclmulqdq");
        let found = [
            (Self::Avx512, wide && is_x86_feature_detected!("avx512f")),
            (Self::Avx2, wide && is_x86_feature_detected!("avx2")),
            (Self::Pclmul, is_x86_feature_detected!("pclmulqdq") && is_x86_feature_detected!("sse2")),
            (Self::Portable, true),
        ];
        found.into_iter().filter_map(|(form, has)| has.then_some(form)).collect()
    }

    #[cfg(target_arch = "aarch64")]
    fn available() -> Vec<Self> {
        let pmull = std::arch::is_aarch64_feature_detected!("pmull")
            && std::arch::is_aarch64_feature_detected!("aes");
        pmull.then_some(Self::Pmull).into_iter().chain([Self::Portable]).collect()
    }

    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    fn available() -> Vec<Self> {
        vec![Self::Portable]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stretch<const N: usize>(seed: &[u8]) -> Box<[u8; N]> {
        let mut bytes = vec![0; N].into_boxed_slice();
        blake3::Hasher::new().update(seed).finalize_xof().fill(&mut bytes);
        bytes.try_into().unwrap()
    }

    /// The definition, bit by bit.
    fn product(a: u64, b: u64) -> u128 {
        (0..64).filter(|bit| b >> bit & 1 == 1).fold(0, |sum, bit| sum ^ u128::from(a) << bit)
    }

    fn by_definition(chunk: &[u8; CHUNK_LEN], keys: &Keys) -> Vec<u8> {
        let half = |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        let page_product = |page: &[u8], key: &[u8]| {
            (0..PAGE_LEN).step_by(16).fold(0, |sum, at| {
                sum ^ product(half(page, at) ^ half(key, at), half(page, at + 8) ^ half(key, at + 8))
            })
        };
        let pages = chunk.chunks(PAGE_LEN).flat_map(|page| keys.0.iter().map(move |key| (page, key)));
        pages.flat_map(|(page, key)| page_product(page, key).to_le_bytes()).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn every_form_follows_the_definition(seed: [u8; 32], key: [u8; 32]) {
            let chunk = stretch::<CHUNK_LEN>(&seed);
            let keys = Keys([*stretch::<PAGE_LEN>(&key), *stretch::<PAGE_LEN>(&[key, seed].concat())]);
            let expected = by_definition(&chunk, &keys);
            for form in Multiplier::all() {
                prop_assert_eq!(&form.products(&chunk, &keys)[..], &expected[..], "{:?}", form);
            }
        }
    }

    #[test]
    fn the_first_form_is_used_unless_another_is_faster_by_a_quarter() {
        let forms = Multiplier::all();
        let last = forms.len() - 1;
        let chosen = |last_takes: u64| {
            let mut turns = 0;
            fastest(&forms, |form| {
                turns += 1;
                // A turn in between is interrupted.
                let noise = if turns % 3 == 0 { 900 } else { 0 };
                Duration::from_micros(noise + if form == forms[last] { last_takes } else { 100 })
            })
        };
        assert_eq!(chosen(70), forms[last]);
        assert_eq!(chosen(90), forms[0]);
        assert_eq!(chosen(1000), forms[0]);
        for (micros, expected) in [(1, 200), (1000, 3)] {
            let mut turns = 0;
            let even = |_| {
                turns += 1;
                Duration::from_micros(micros)
            };
            assert_eq!(fastest(&forms, even), forms[0]);
            assert_eq!(turns, expected * forms.len(), "of {micros} µs");
        }
        let mut began = 0;
        let cold = |_| {
            began += 1;
            Duration::from_micros(if began <= 4 { 200 } else { 100 })
        };
        assert_eq!(fastest(&forms, cold), forms[0], "a processor that only begins to run fast");
        assert_eq!(fastest(&forms, |_| Duration::ZERO), forms[0], "a clock that stands still");
    }

    #[test]
    fn extremes_agree() {
        let keys = Keys([[0xff; PAGE_LEN], [0; PAGE_LEN]]);
        for byte in [0, 0xff, 0x80, 1] {
            let chunk = Box::new([byte; CHUNK_LEN]);
            let expected = by_definition(&chunk, &keys);
            for form in Multiplier::all() {
                assert_eq!(form.products(&chunk, &keys)[..], expected[..], "{form:?}");
            }
        }
    }
}

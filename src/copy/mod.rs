// SPDX-License-Identifier: MIT OR Apache-2.0
//! Moving the changed chunks: first every pre-image into the undo store, then, after a flip, the new data
//! into the image. Where there is no generation to protect, [`fill`] copies without undo.
//!
//! A digest is always computed from the very buffer that is written, never from the scan's read.

pub mod fill;
pub mod overwrite;
pub mod save;

// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel and the processor, one call per function; the only room with `unsafe`.
#![allow(unsafe_code)]

pub mod buffer;
pub mod clmul;
pub mod dm;
pub mod fiemap;
pub mod freeze;
pub mod ioctl;
pub mod loops;
pub mod memory;
pub mod partition;
pub mod process;
pub mod signal;
pub mod statx;
pub mod uring;

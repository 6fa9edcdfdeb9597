// SPDX-License-Identifier: MIT OR Apache-2.0
//! Builds, tests, demonstrates and measures dpsr.

fn main() {}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! The `dpsr` command.

fn main() {}

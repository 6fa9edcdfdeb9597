// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tests that need neither root nor a special kernel.

mod cli;
mod generations;
mod world;

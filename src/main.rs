// SPDX-License-Identifier: MIT OR Apache-2.0
//! The `dpsr` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    dpsr::cli::main()
}

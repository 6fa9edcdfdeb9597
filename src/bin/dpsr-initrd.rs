// SPDX-License-Identifier: MIT OR Apache-2.0
//! What dpsr does before there is a root filesystem.

use std::process::ExitCode;

fn main() -> ExitCode {
    dpsr::initrd::main()
}

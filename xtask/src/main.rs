// SPDX-License-Identifier: MIT OR Apache-2.0
//! Builds, tests, demonstrates and measures dpsr.
//!
//! Depends on the standard library only, so that it compiles on a machine that still lacks what dpsr
//! itself needs to build, and can then say what that is.

mod args;
mod bench;
mod cargo;
mod data;
mod demo;
mod dpsr;
mod install;
mod json;
mod packages;
mod process;
mod scratch;
mod sources;
mod test;
mod vm;

use std::process::ExitCode;

use args::Args;

/// Every failure here is one sentence for the person at the terminal.
type Result<T> = std::result::Result<T, String>;

const USAGE: &str = "\
cargo xtask test  [--yes] [--all]       check, lint and test everything; --yes installs what is missing,
                                        --all runs the slow (ignored) tests too
cargo xtask demo  [--yes] [--dir DIR] [--dpsr FILE]
                                        a full round on two image files, no root needed
cargo xtask bench [--size GIB] [--rounds N] [--dir DIR]... [--tool NAME]... [--dpsr FILE] [--yes]
                                        speed against the best fio reaches, and against other tools (root)
cargo xtask bench --huge [TIB] [--dir DIR]...
                                        time and memory on a sparse image, 10 TiB unless told
cargo xtask vm    [--debian 12|13] [--all] [--test NAME]... [--shell-command CMD] [--keep] [--yes]
                                        boots a virtual machine and tests there what needs device-mapper
                                        (root): --all also what else can run there, --test only what has
                                        NAME in its name, --shell-command runs just that; --keep leaves
                                        the console and the disks; with DPSR_VM_KVM=1 in the environment
                                        the processor is not emulated
cargo xtask vm    --boot [--debian 12|13] [--test NAME]... [--keep] [--yes]
                                        machines with dpsr installed that boot from their own disks, by BIOS
                                        and UEFI (root); of a case that fails the console is kept
cargo xtask install --root DIR [--release] [--yes]
                                        builds dpsr and puts all of it below DIR: programs, udev rules and
                                        whatever else a machine needs";

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let verb = words.next().unwrap_or_default();
    let args = Args::new(words);
    let done = match verb.as_str() {
        "test" => test::run(args),
        "demo" => demo::run(args),
        "bench" => bench::run(args),
        "vm" => vm::run(args),
        "install" => install::run(args),
        "help" | "--help" | "-h" => {
            println!("{USAGE}");
            Ok(())
        }
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("xtask {verb}: {why}");
            ExitCode::FAILURE
        }
    }
}

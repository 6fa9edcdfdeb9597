// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command line: one file for each verb. Only this room prints.

mod args;
mod attach;
mod boot;
mod confirm;
mod detach;
mod drop;
mod export;
mod failback;
mod generations;
mod init;
mod internal;
mod mount;
mod pin;
mod progress;
mod prune;
mod restore;
mod scrub;
mod status;
mod store;
mod sync;
mod wrap;

use std::process::ExitCode;

use clap::Parser;
use serde::Serialize;

pub use args::{Args, Common, Verb};

use crate::error::{Error, Kind, Result};
use crate::sys::signal;

/// Parses the command line, does what it says, and returns the exit code.
pub fn main() -> ExitCode {
    let args = Args::parse();
    let filter = tracing_subscriber::EnvFilter::builder()
        .with_default_directive(tracing::Level::WARN.into())
        .with_env_var("DPSR_LOG")
        .from_env_lossy();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).without_time().init();
    match run(&args.verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell_aside(format_args!("dpsr: {error}"));
            ExitCode::from(error.kind().exit_code())
        }
    }
}

fn run(verb: &Verb) -> Result<()> {
    // What makes no sense is told before it looks like the fault of a disk.
    crate::disk::deadline()?;
    match verb {
        Verb::Init(args) => init::run(args),
        Verb::Sync(args) => sync::run(args),
        Verb::Wrap(args) => wrap::run(args),
        Verb::Unwrap(args) => wrap::run_unwrap(args),
        Verb::Generations(args) => generations::run(args),
        Verb::Pin(args) => pin::run(args, true),
        Verb::Unpin(args) => pin::run(args, false),
        Verb::Drop(args) => drop::run(args),
        Verb::Prune(args) => prune::run(args),
        Verb::Export(args) => export::run(args),
        Verb::Restore(args) => restore::run(args),
        Verb::Failback(args) => failback::run(args),
        Verb::Attach(args) => attach::run(args),
        Verb::Detach(args) => detach::run(args),
        Verb::Mount(args) => mount::run(args),
        Verb::Umount(args) => mount::undo(args),
        Verb::Salvage(args) => mount::salvaged(args),
        Verb::Scrub(args) => scrub::run(args),
        Verb::Status(args) => status::run(args),
        Verb::Boot(args) => boot::run(args),
        Verb::Internal(args) => internal::run(args),
    }
}

/// Prints a line; a reader that went away is no error of ours.
fn say(text: impl std::fmt::Display) {
    use std::io::Write;
    let _gone = writeln!(std::io::stdout(), "{text}");
}

/// Prints a line to standard error; whether anybody reads it decides nothing.
fn tell_aside(text: impl std::fmt::Display) {
    use std::io::Write;
    let _gone = writeln!(std::io::stderr(), "{text}");
}

/// From now on a signal lets the work end in order. Until then, at a prompt above all, it ends dpsr at once:
/// nothing was begun.
fn end_in_order() -> Result<()> {
    signal::install()
        .map_err(|error| Error::new(Kind::Internal, "installing signal handlers", error.to_string()))
}

/// Prints one JSON document.
fn say_json(document: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(document)
        .map_err(|error| Error::new(Kind::Internal, "writing JSON", error.to_string()))?;
    say(text);
    Ok(())
}

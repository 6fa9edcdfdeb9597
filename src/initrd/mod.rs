// SPDX-License-Identifier: MIT OR Apache-2.0
//! What runs before there is a root filesystem: the primary is wrapped, or the machine is started from its
//! copy. Nothing here may keep a machine from booting that would boot without it.
//!
//! * [`wrap`]: in the udev event of each disk. [`boot`]: beside all of them, which system is to be started; [`pick`]: and
//!   which generation.
//! * [`choose`]: looks until that is clear; [`quiet`]: for how long nothing has appeared.
//! * [`array`]: an array of which only a part is there.
//! * [`hide`]: of two disks of one identity, one is nobody's. [`cmdline`]: what the kernel is told for dpsr.
//! * [`told`]: how people are told, when there is nobody yet to tell.

mod array;
mod ask;
mod boot;
mod choose;
pub mod cmdline;
mod hide;
mod pick;
mod quiet;
mod steps;
pub mod told;
mod upon;
mod wrap;

use std::env;
use std::path::Path;
use std::process::ExitCode;

use crate::failover::fill::Fill;
use crate::failover::hold;
use crate::sys::process::apart;
use told::{Level, Log, say};

/// The records of pairs in the initramfs.
const RECORDS: &str = "/etc/dpsr";

/// Does what the first word says; there is nobody who could read a usage text.
pub fn main() -> ExitCode {
    // What rooms below warn of: the journal has what a unit says.
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::WARN)
        .with_writer(std::io::stderr)
        .without_time()
        .init();
    let dir = Path::new(RECORDS);
    let words: Vec<String> = env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        // udev takes a program that fails for a rule that does not match, and goes on as without it.
        ["wrap"] => wrap::event(dir),
        ["hold", node, name] => {
            // The root of the initramfs, with its names, goes away under this process.
            let mut log = Log::open();
            if let Err(error) = hold::forever(Path::new(node), name, |fill| filling(log.as_mut(), fill)) {
                say(Level::Warning, &error.to_string());
            }
        }
        // A disk that does not answer keeps the thread that waits for it, and so the process, for as long; the system
        // need not wait for it once all is decided.
        ["boot"] => apart(|| boot::run(dir)),
        ["hide"] => hide::event(dir).into_iter().for_each(told::to_udev),
        ["wrap-now", pair] => {
            return wrap::now(dir, pair).map_or_else(ExitCode::from, |()| ExitCode::SUCCESS);
        }
        ["unwrap-now", pair] => {
            return wrap::undo(dir, pair).map_or_else(ExitCode::from, |()| ExitCode::SUCCESS);
        }
        _ => {
            say(Level::Warning, "dpsr-initrd was called with words it does not know");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

/// The room of a machine that runs from its copy is running out.
fn filling(log: Option<&mut Log>, fill: Fill) {
    let (used, size, percent) = (fill.used, fill.size, fill.percent());
    let Some(log) = log else { return };
    log.say(
        Level::Warning,
        &format!(
            "this system runs from its copy, and {percent} % of the room for what it changes is taken: {used} of \
             {size}; go back to a disk with 'dpsr failback' before it is full: 'dpsr status' tells what is lost then"
        ),
    );
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask bench`: how close dpsr comes to the fastest the devices can be driven.
//!
//! A rate on its own says more about the machine than about the tool. So every round first lets fio find
//! the setting with which it is the fastest on these very devices; then that and dpsr run by turns, and what counts
//! is the ratio of their medians. Against the single best run of fio's sweep everything is shown, too.

mod fio;
mod huge;
mod measured;
mod peers;
mod rig;
mod round;
mod table;

use std::env;
use std::path::PathBuf;

use crate::Result;
use crate::args::Args;
use crate::cargo;
use crate::data::{GIB, TIB};
use crate::packages;
use crate::process::is_root;

use rig::Rig;
use round::Bench;
use table::Table;

pub fn run(mut args: Args) -> Result<()> {
    let size = args.value::<u64>("--size")?.unwrap_or(2) * GIB;
    let rounds = args.value::<u64>("--rounds")?.unwrap_or(5);
    let folders = args.values("--dir")?.into_iter().map(PathBuf::from).collect();
    let tools = args.values("--tool")?;
    let binary = args.value("--dpsr")?;
    let huge = args.flag_or_value::<u64>("--huge");
    let yes = args.flag("--yes");
    args.finish()?;
    if size == 0 || rounds == 0 || huge == Some(Some(0)) {
        return Err("a size or a number of rounds of 0 measures nothing".to_owned());
    }
    let folders = places(folders);
    if let Some(tib) = huge {
        packages::ensure(&["time"], yes)?;
        return huge::run(cargo::dpsr(binary, yes)?, &folders, tib.unwrap_or(10) * TIB);
    }

    packages::ensure(packages::BENCH, yes)?;
    if !is_root() {
        return Err("loop devices and cold caches need root; nothing was measured".to_owned());
    }
    let dpsr = if round::wants(&tools, "dpsr") { Some(cargo::dpsr(binary, yes)?) } else { None };
    let mut table = Table::default();
    for folder in folders {
        let rig = Rig::build(&folder, size)?;
        println!("\n{}, {} GiB", rig.place, size / GIB);
        let mut bench = Bench::new(&rig, dpsr.clone(), &tools)?;
        for number in 1..=rounds {
            println!("round {number} of {rounds}");
            bench.round(number, &mut table)?;
        }
    }
    println!("\n{}\n\n{table}", table::machine());
    Ok(())
}

/// Memory first, then a disk, unless told otherwise.
fn places(given: Vec<PathBuf>) -> Vec<PathBuf> {
    if !given.is_empty() {
        return given;
    }
    let disk = PathBuf::from("/var/tmp");
    let disk = if disk.is_dir() { disk } else { env::temp_dir() };
    vec![PathBuf::from("/dev/shm"), disk]
}

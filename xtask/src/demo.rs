// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask demo`: a full round on two image files, told as a story, every sentence of it checked.

mod primary;
mod story;

use std::env;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::Result;
use crate::args::Args;
use crate::cargo;
use crate::dpsr::Dpsr;
use crate::scratch::Scratch;
use crate::vm;

use primary::Primary;
use story::Story;

pub fn run(mut args: Args) -> Result<()> {
    let folder = args.value::<PathBuf>("--dir")?.unwrap_or_else(env::temp_dir);
    let binary = args.value("--dpsr")?;
    let yes = args.flag("--yes");
    args.finish()?;
    let binary = cargo::dpsr(binary, yes)?;

    on_files(binary, &folder)?;
    if let Err(why) = vm::usable() {
        println!("\nA disk in use is shown in a virtual machine, which cannot run here: {why}.");
        return Ok(());
    }
    println!("\nNow a disk in use, in a virtual machine (the first time, building it takes some minutes):\n");
    vm::demonstrate()?;
    println!(
        "\nAll of that was as told, too. Last, a machine with dpsr installed, for some minutes: it is synced, its disk \
         is pulled, it comes back by itself from the copy, goes on, and is brought back to its disk:\n"
    );
    vm::demonstrate_failover()?;
    println!("\nThat is the whole story.");
    Ok(())
}

/// The part that needs neither root nor a machine: the program `binary`, on files below `folder`.
pub fn on_files(binary: PathBuf, folder: &Path) -> Result<()> {
    let start = Instant::now();
    let scratch = Scratch::new(folder, "demo")?;
    let primary = Primary::make(scratch.path())?;
    let dpsr = Dpsr { binary, config: scratch.path().join("config") };
    let mut story = Story::begin(dpsr, primary, scratch.path())?;
    story.pair()?;
    story.first_copy()?;
    story.small_change()?;
    story.kill_in_the_middle()?;
    story.roll_back_and_go_on()?;
    story.scrub()?;
    story.export_all()?;
    story.restore_first()?;
    println!("\nAll of it was as told, in {:.1} s.", start.elapsed().as_secs_f64());
    Ok(())
}

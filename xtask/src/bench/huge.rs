// SPDX-License-Identifier: MIT OR Apache-2.0
//! The size no test machine has: a sparse image of many TiB, to show that memory does not grow with it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::measured::{self, Cost, Running};
use super::rig::free_space;
use super::table;
use crate::Result;
use crate::data::{self, MIB, Noise, TIB};
use crate::dpsr::Dpsr;
use crate::json::Json;
use crate::scratch::Scratch;

/// The memory bar of the design, at any size of the disk.
const RSS_KIB: u64 = 64 * 1024;

pub fn run(binary: PathBuf, folders: &[PathBuf], size: u64) -> Result<()> {
    let (scratch, primary, disk, disk_size) = make(folders, size)?;
    let dpsr = Dpsr { binary, config: scratch.path().join("config") };
    fs::create_dir(&dpsr.config).map_err(|error| format!("making the configuration directory: {error}"))?;
    let confirm = disk_size.to_string();
    let folder = scratch.path();
    let watched = |words: &[&str]| guarded(&dpsr, words, folder, &disk);
    let mut rows = vec![("init", watched(&Dpsr::init_words(&primary, &disk, &confirm)?)?)];
    rows.push(("sync, first copy", watched(&["sync", "--offline", "--json"])?));
    let file = data::open(&primary)?;
    data::change_blocks(&file, size / 2, 64 * MIB, 16, &mut Noise::new(2))?;
    rows.push(("sync, 4 MiB changed", watched(&["sync", "--offline", "--json"])?));

    println!("\n{}\n\n| sparse {} TiB | s | RSS MiB | MiB on the disk |", table::machine(), size / TIB);
    println!("| --- | ---: | ---: | ---: |");
    for (step, (cost, allocated)) in &rows {
        let (rss, allocated) = (cost.rss_kib as f64 / 1024.0, allocated / MIB);
        println!("| {step} | {:.2} | {rss:.0} | {allocated} |", cost.seconds);
    }
    match rows.iter().find(|(_, (cost, _))| cost.rss_kib > RSS_KIB) {
        None => Ok(()),
        Some((step, (cost, _))) => {
            Err(format!("{step} took {} KiB of memory, the bar is {RSS_KIB} KiB at any size", cost.rss_kib))
        }
    }
}

/// The two images, in the first folder whose filesystem takes files so long.
fn make(folders: &[PathBuf], size: u64) -> Result<(Scratch, PathBuf, PathBuf, u64)> {
    let disk_size = size + size / 4;
    let mut refusals = Vec::new();
    for folder in folders {
        let scratch = Scratch::new(folder, "huge")?;
        let (primary, disk) = (scratch.path().join("primary.img"), scratch.path().join("dpsr.img"));
        let made = data::make_sparse(&primary, size).and_then(|file| {
            data::make_sparse(&disk, disk_size)?;
            // A little data at both ends and in the middle, so that not all of it is a hole.
            let mut noise = Noise::new(1);
            [0, size / 2, size - MIB].iter().try_for_each(|at| data::write_noise(&file, *at, MIB, &mut noise))
        });
        match made {
            Ok(()) => {
                println!(
                    "{}: {} TiB primary, {} TiB DPSR disk",
                    folder.display(),
                    size / TIB,
                    disk_size / TIB
                );
                return Ok((scratch, primary, disk, disk_size));
            }
            Err(why) => refusals.push(why),
        }
    }
    Err(format!("no directory takes images so long: {}", refusals.join("; ")))
}

/// Runs dpsr, measured. A tool that wrote out what should stay a hole would fill the machine's disk:
/// it is killed at half of the room there is.
fn guarded(dpsr: &Dpsr, words: &[&str], folder: &Path, disk: &Path) -> Result<(Cost, u64)> {
    println!("dpsr {} …", words.join(" "));
    let most = allocated(disk)? + free_space(folder)? / 2;
    let (done, grew) = (AtomicBool::new(false), AtomicBool::new(false));
    let running = Running::start(&dpsr.command(words), folder)?;
    let time = running.id();
    let ran = thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                if allocated(disk).is_ok_and(|bytes| bytes > most) {
                    grew.store(true, Ordering::Relaxed);
                    measured::kill_child_of(time);
                }
                thread::sleep(Duration::from_millis(100));
            }
        });
        let ran = running.finish();
        done.store(true, Ordering::Relaxed);
        ran
    });
    if grew.load(Ordering::Relaxed) {
        return Err(format!(
            "dpsr {} fills the holes of the DPSR image; killed at {} MiB",
            words[0],
            most / MIB
        ));
    }
    let (cost, printed) = ran?;
    if words.contains(&"--json") {
        Json::parse(&printed)?.number("generation")?;
    }
    Ok((cost, allocated(disk)?))
}

fn allocated(file: &Path) -> Result<u64> {
    let metadata = fs::metadata(file).map_err(|error| format!("reading {}: {error}", file.display()))?;
    Ok(metadata.blocks() * 512)
}

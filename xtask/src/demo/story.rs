// SPDX-License-Identifier: MIT OR Apache-2.0
//! The steps of the demonstration. Each does one thing with dpsr, checks what dpsr says about it against
//! what this program knows, and tells it with its rate.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use super::primary::{Primary, SIZE};
use crate::Result;
use crate::data::{self, GIB, MIB};
use crate::dpsr::{Dpsr, text};
use crate::json::Json;
use crate::process::checked;

/// Attempts to kill a sync while it updates the image, before the demonstration gives up.
const ATTEMPTS: u32 = 60;
/// Size of the DPSR disk: room for every sync that a kill came too late for.
const DISK: u64 = 8 * GIB;

/// A generation, and a copy of the primary as it was then.
struct Kept {
    generation: u64,
    copy: PathBuf,
}

/// One demonstration under way.
pub struct Story {
    dpsr: Dpsr,
    primary: Primary,
    folder: PathBuf,
    disk: PathBuf,
    kept: Vec<Kept>,
    chapter: u32,
}

impl Story {
    /// Makes the second, empty disk.
    pub fn begin(dpsr: Dpsr, primary: Primary, folder: &Path) -> Result<Self> {
        let disk = folder.join("dpsr.img");
        data::make_sparse(&disk, DISK)?;
        let failed = |error| format!("making the configuration directory: {error}");
        fs::create_dir(&dpsr.config).map_err(failed)?;
        println!(
            "\nprimary.img: {} MiB ({}). dpsr.img: {} GiB, empty.",
            SIZE / MIB,
            primary.described,
            DISK / GIB
        );
        Ok(Self { dpsr, primary, folder: folder.to_owned(), disk, kept: Vec::new(), chapter: 0 })
    }

    pub fn pair(&mut self) -> Result<()> {
        self.chapter("Pair the two disks. First only shown, nothing is written:");
        let confirm = DISK.to_string();
        let primary = self.primary.path.clone();
        let disk = self.disk.clone();
        let mut words = Dpsr::init_words(&primary, &disk, &confirm)?;
        words.push("--dry-run");
        self.dpsr.run(&words)?;
        let blank = is_untouched(&disk)?;
        ensure(blank, || "init --dry-run wrote to the DPSR disk".to_owned())?;
        told("the DPSR disk is still blank");
        words.pop();
        let start = Instant::now();
        self.dpsr.run(&words)?;
        told(&format!("paired in {:.2} s", start.elapsed().as_secs_f64()));
        Ok(())
    }

    pub fn first_copy(&mut self) -> Result<()> {
        self.chapter("First sync: the full copy.");
        let done = self.sync()?;
        ensure(done.text("mode")? == "full", || format!("the first sync was not full: {done:?}"))?;
        Ok(())
    }

    pub fn small_change(&mut self) -> Result<()> {
        self.chapter("Change one 64 KiB block in a hundred, sync again: only what differs is written.");
        let changed = self.primary.change(100)?;
        let done = self.sync()?;
        let said = done.number("bytes_changed")?;
        // A block of noise over other noise can, in theory, agree in a 4 KiB page; not in any run seen.
        ensure(said == changed, || format!("{changed} bytes were changed, dpsr says {said}"))?;
        ensure(done.text("mode")? != "full", || "the second sync copied everything again".to_owned())?;
        told(&format!("exactly the {changed} bytes that were changed"));
        self.chapter("Ask for a sync that compares both disks byte by byte: nothing differs.");
        let start = Instant::now();
        let done = self.dpsr.json(&["sync", "--offline", "--compare", "--dry-run"])?;
        rate("compared", SIZE, start);
        let said = done.number("bytes_changed")?;
        ensure(said == 0, || format!("{said} bytes differ between the disks"))
    }

    /// Kills a sync while it overwrites the image. When that is cannot be known beforehand: the delay is
    /// searched between "too early" (the disk is still clean) and "too late" (the sync had committed).
    pub fn kill_in_the_middle(&mut self) -> Result<()> {
        self.chapter("Change a third of the disk, start a sync, kill -9 it while it overwrites the image.");
        self.primary.change(3)?;
        let (mut early, mut late) = (Duration::ZERO, Duration::from_secs(4));
        for attempt in 1..=ATTEMPTS {
            let delay = (early + late) / 2;
            let finished = self.killed_sync(delay)?;
            let state = self.state()?;
            let when = format!("attempt {attempt}, killed after {} ms: state {state}", delay.as_millis());
            told(&when);
            if state == "updating" && !finished {
                return Ok(());
            }
            if self.newest()? > self.last().generation {
                // It had committed: a generation like any other. Change again, kill sooner.
                self.keep(self.newest()?)?;
                self.primary.change(3)?;
                late = delay;
            } else {
                early = delay;
            }
            // Runs differ in speed: when the window has closed without a hit, open it again.
            if late.saturating_sub(early) < Duration::from_millis(2) {
                early = early.mul_f64(0.6);
                late = late.mul_f64(1.5) + Duration::from_millis(5);
            }
        }
        Err(format!("no kill landed while a sync was updating, in {ATTEMPTS} attempts"))
    }

    pub fn roll_back_and_go_on(&mut self) -> Result<()> {
        self.chapter("The next sync first rolls the torn update back, then copies.");
        let before = self.last().generation;
        let done = self.sync()?;
        let generation = done.number("generation")?;
        ensure(generation == before + 1, || format!("{before} was followed by {generation}"))?;
        let state = self.state()?;
        ensure(state == "clean", || format!("after the sync the state is {state}, not clean"))
    }

    pub fn scrub(&mut self) -> Result<()> {
        self.chapter("Scrub: read everything on the DPSR disk and check it against its checksums.");
        let start = Instant::now();
        self.dpsr.json(&["scrub"])?;
        rate("no mismatch,", SIZE, start);
        Ok(())
    }

    pub fn export_all(&mut self) -> Result<()> {
        self.chapter("Export every generation and compare it with the copy kept when it was made.");
        let listed = self.dpsr.json(&["generations"])?;
        for Kept { generation, copy } in &self.kept {
            let known =
                listed.list("generations")?.iter().any(|one| one.number("generation") == Ok(*generation));
            ensure(known, || format!("generation {generation} is not listed"))?;
            let file = self.folder.join("export.img");
            let start = Instant::now();
            self.dpsr.run(&["export", &generation.to_string(), text(&file)?])?;
            rate(&format!("generation {generation} exported"), SIZE, start);
            data::files_must_equal(&format!("generation {generation}"), &file, copy, SIZE)?;
            told("  byte for byte what the primary was then");
            fs::remove_file(&file).map_err(|error| format!("removing the export: {error}"))?;
        }
        Ok(())
    }

    pub fn restore_first(&mut self) -> Result<()> {
        self.chapter("Lose the primary, restore the first generation onto a new disk.");
        let target = self.folder.join("new.img");
        data::make_sparse(&target, SIZE)?;
        let Kept { generation, copy } = &self.kept[0];
        let (number, size) = (generation.to_string(), SIZE.to_string());
        let start = Instant::now();
        self.dpsr.run(&["restore", &number, "--to", text(&target)?, "--confirm", &size])?;
        rate("restored", SIZE, start);
        data::files_must_equal("the restored disk", &target, copy, SIZE)?;
        told("  byte for byte the first generation");
        Ok(())
    }

    /// A complete sync of what the primary holds now; the new generation is kept for comparison.
    fn sync(&mut self) -> Result<Json> {
        let start = Instant::now();
        let done = self.dpsr.json(&["sync", "--offline"])?;
        let generation = done.number("generation")?;
        let mode = done.text("mode")?;
        rate(&format!("generation {generation} ({mode}), {}", amounts(&done)?), SIZE, start);
        self.keep(generation)?;
        Ok(done)
    }

    /// Starts a sync and kills it after `delay`; whether it had ended by itself before.
    fn killed_sync(&self, delay: Duration) -> Result<bool> {
        let mut command = self.dpsr.command(&["sync", "--offline", "--json"]);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let failed = |error| format!("running a sync to be killed: {error}");
        let mut child = command.spawn().map_err(failed)?;
        thread::sleep(delay);
        if child.try_wait().map_err(failed)?.is_some() {
            checked("dpsr sync", child.wait_with_output().map_err(failed)?)?;
            return Ok(true);
        }
        child.kill().map_err(failed)?;
        child.wait().map_err(failed)?;
        Ok(false)
    }

    fn state(&self) -> Result<String> {
        self.dpsr.json(&["status"])?.text("state").map(str::to_owned)
    }

    fn newest(&self) -> Result<u64> {
        let listed = self.dpsr.json(&["generations"])?;
        let numbers: Result<Vec<u64>> =
            listed.list("generations")?.iter().map(|one| one.number("generation")).collect();
        numbers?.into_iter().max().ok_or_else(|| "dpsr lists no generation".to_owned())
    }

    fn last(&self) -> &Kept {
        self.kept.last().expect("the first copy made a generation before anything asks for the last")
    }

    fn keep(&mut self, generation: u64) -> Result<()> {
        if self.kept.iter().any(|kept| kept.generation == generation) {
            return Err(format!("a sync of changed data made no new generation after {generation}"));
        }
        let copy = self.folder.join(format!("kept-{generation}.img"));
        data::copy_sparse(&self.primary.path, &copy)?;
        self.kept.push(Kept { generation, copy });
        Ok(())
    }

    fn chapter(&mut self, what: &str) {
        self.chapter += 1;
        println!("\n{}. {what}", self.chapter);
    }
}

fn told(what: &str) {
    println!("   {what}");
}

fn rate(what: &str, bytes: u64, start: Instant) {
    let seconds = start.elapsed().as_secs_f64();
    told(&format!("{what} in {seconds:.2} s: {:.0} MB/s", bytes as f64 / 1e6 / seconds));
}

fn amounts(sync: &Json) -> Result<String> {
    let mib = |key| sync.number(key).map(|bytes| bytes as f64 / MIB as f64);
    Ok(format!(
        "read {:.1} MiB, changed {:.1}, wrote {:.1} to the image and {:.1} to the history,",
        mib("bytes_read")?,
        mib("bytes_changed")?,
        mib("bytes_written_image")?,
        mib("bytes_written_undo")?,
    ))
}

fn ensure(holds: bool, why: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(why()) }
}

/// Whether the sparse image still has no block allocated: nothing was ever written to it.
fn is_untouched(image: &Path) -> Result<bool> {
    let metadata = fs::metadata(image).map_err(|error| format!("reading {}: {error}", image.display()))?;
    Ok(metadata.blocks() == 0)
}

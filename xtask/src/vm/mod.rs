// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask vm`: virtual machines with device-mapper, partition nodes and udev, which a build machine
//! may lack, and everything that is tested in them.
//!
//! * [`image`]: a Debian disk, built once for each recipe.
//! * [`machine`]: one QEMU from each start to the next reset: on, off without warning, disks in and out. [`ending`]:
//!   why it ended. [`qmp`]: its control socket. [`faults`]: disks that hang or fail.
//! * [`guest`]: commands and files in the running system.
//! * [`runner`]: all cases of a release, in one or more of these; [`lane`]: in one of them. The cases are [`suite`]: the tests of `tests/live` and
//!   `tests/loopdev`, run inside; [`story`]: what only the host can do to a machine, such as a power cut;
//!   [`checks`]: what the harness itself must show.
//! * [`boots`]: machines that start from their own disks, by BIOS or UEFI; each case has its own.
//!   [`installed`]: the disk they begin with. [`loader`]: GRUB on it. [`typist`]: who knows the passphrase.

mod boots;
mod checks;
mod ending;
mod faults;
mod guest;
mod image;
mod installed;
mod lane;
mod loader;
mod machine;
mod qmp;
mod runner;
mod story;
mod suite;
mod tasks;
mod typist;

use std::env;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::Result;
use crate::args::Args;
use crate::data::{MIB, make_sparse};
use crate::packages;
use crate::process;
use crate::scratch::Scratch;

use guest::Done;
use image::Image;
use machine::{Disk, Format, Machine};

pub use image::Debian;
pub use runner::Choice;

/// The releases that `cargo xtask test --all` boots.
pub const ALL: [Debian; 2] = [Debian::Bookworm, Debian::Trixie];

/// Serial number of the disk to be copied, 256 MiB: every sync, scrub and export of a test reads all of it.
const PRIMARY: &str = "primary";
/// The name of another disk that says it has that serial number.
const TWIN: &str = "twin";

/// Serial number of the disk to take the copy, 1536 MiB.
const DPSR: &str = "dpsr";

/// How long the command of `--shell-command` may take.
const SHELL: Duration = Duration::from_secs(3600);

pub fn run(mut args: Args) -> Result<()> {
    let chosen = args.value("--debian")?;
    let (keep, yes) = (args.flag("--keep"), args.flag("--yes"));
    let choice = Choice { all: args.flag("--all"), names: args.values("--test")? };
    let command: Option<String> = args.value("--shell-command")?;
    let boot = args.flag("--boot");
    args.finish()?;
    packages::ensure(&[packages::BUILD, packages::TEST, packages::VM].concat(), yes)?;
    if boot {
        return boots::run(chosen.as_slice(), &choice, keep);
    }
    let debian = chosen.unwrap_or(Debian::Bookworm);
    if !keep {
        let scratch = Scratch::new(&env::temp_dir(), &format!("vm-{}", debian.number()))?;
        return run_in(debian, &choice, command.as_deref(), scratch.path());
    }
    let folder = image::store().join(format!("kept-debian-{}", debian.number()));
    let failed = |error| format!("preparing {}: {error}", folder.display());
    if folder.exists() {
        fs::remove_dir_all(&folder).map_err(failed)?;
    }
    fs::create_dir_all(&folder).map_err(failed)?;
    println!("console, root overlay and disks stay in {}", folder.display());
    run_in(debian, &choice, command.as_deref(), &folder)
}

/// Boots a machine and runs the chosen cases in it.
pub fn test(debian: Debian, choice: &Choice) -> Result<()> {
    let scratch = Scratch::new(&env::temp_dir(), &format!("vm-{}", debian.number()))?;
    run_in(debian, choice, None, scratch.path())
}

/// Runs the chosen cases that begin before any system runs, on every release.
pub fn test_boots(choice: &Choice) -> Result<()> {
    boots::run(&[], choice, false)
}

/// Whether machines can be built and run here, and if not, why.
pub fn usable() -> Result<()> {
    if !process::is_root() {
        return Err("not root".to_owned());
    }
    match ["mmdebstrap", "qemu-system-x86_64", "qemu-img"].into_iter().find(|it| process::find(it).is_none())
    {
        Some(program) => Err(format!("{program} is missing; --yes installs it")),
        None => Ok(()),
    }
}

/// The part of the demonstration that needs device-mapper.
pub fn demonstrate() -> Result<()> {
    let scratch = Scratch::new(&env::temp_dir(), "vm-demo")?;
    let mut machine = off(Debian::Bookworm, scratch.path())?;
    machine.boot()?;
    suite::LIVE.build(scratch.path())?.install(machine.guest()?)?;
    story::two_moments(&mut machine)
}

/// The story told whole: the disk of a machine is pulled, it comes back by itself, and goes back to its disk.
pub fn demonstrate_failover() -> Result<()> {
    let names = vec!["gone_and_back".to_owned()];
    boots::run(&ALL[..1], &Choice { all: false, names }, false)
}

/// A machine with two empty disks, its files in `folder`.
fn off(debian: Debian, folder: &Path) -> Result<Machine> {
    let image = Image::of(debian)?;
    let disk = |name: &'static str, size| {
        let file = folder.join(name).with_extension("img");
        make_sparse(&file, size).map(|_| Disk { name, file, format: Format::Raw })
    };
    let disks = vec![disk(PRIMARY, 256 * MIB)?, disk(DPSR, 1536 * MIB)?];
    Machine::new(&image, disks, folder)
}

fn run_in(debian: Debian, choice: &Choice, command: Option<&str>, folder: &Path) -> Result<()> {
    println!("{}", machine::emulator()?);
    let start = Instant::now();
    let done = match command {
        None => runner::run(debian, choice, folder),
        Some(command) => shell(debian, command, folder),
    };
    println!("{:.0} s in all", start.elapsed().as_secs_f64());
    done
}

/// One command in a machine, beside dpsr.
fn shell(debian: Debian, command: &str, folder: &Path) -> Result<()> {
    let mut machine = off(debian, folder)?;
    let seconds = machine.boot()?.as_secs_f64();
    println!("Debian {} booted in {seconds:.1} s", debian.number());
    suite::LIVE.build(folder)?.install(machine.guest()?)?;
    let Done { code, output } = machine.run_within(SHELL, command)?;
    print!("{output}");
    must(code == 0, || format!("`{command}` ended in the guest with exit code {code}"))
}

fn must(holds: bool, why: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(why()) }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask vm`: virtual machines with device-mapper, partition nodes and udev, which a build machine
//! may lack, and the proof that they do what tests ask of them.
//!
//! * [`image`]: a Debian disk, built once for each recipe. [`sources`]: where its packages come from.
//! * [`machine`]: one QEMU: on, off without warning, disks in and out. [`qmp`]: its control socket.
//! * [`guest`]: commands and files in the running system.
//! * [`checks`]: what a fresh machine is asked to show.

mod checks;
mod guest;
mod image;
mod machine;
mod qmp;
mod sources;

use std::env;
use std::fs;
use std::path::Path;
use std::time::Instant;

use crate::Result;
use crate::args::Args;
use crate::data::{MIB, make_sparse};
use crate::packages;
use crate::scratch::Scratch;

use image::{Debian, Image};
use machine::{Disk, Machine};

pub fn run(mut args: Args) -> Result<()> {
    let debian = args.value("--debian")?.unwrap_or(Debian::Bookworm);
    let (keep, yes) = (args.flag("--keep"), args.flag("--yes"));
    args.finish()?;
    packages::ensure(&[packages::BUILD, packages::TEST, packages::VM].concat(), yes)?;
    if !keep {
        return check(debian);
    }
    let folder = image::store().join(format!("kept-debian-{}", debian.number()));
    let failed = |error| format!("preparing {}: {error}", folder.display());
    if folder.exists() {
        fs::remove_dir_all(&folder).map_err(failed)?;
    }
    fs::create_dir_all(&folder).map_err(failed)?;
    println!("console, root overlay and disks stay in {}", folder.display());
    check_in(debian, &folder)
}

/// Boots a machine and runs every check in it.
pub fn check(debian: Debian) -> Result<()> {
    let scratch = Scratch::new(&env::temp_dir(), &format!("vm-{}", debian.number()))?;
    check_in(debian, scratch.path())
}

/// The releases that `cargo xtask test --all` boots.
pub const ALL: [Debian; 2] = [Debian::Bookworm, Debian::Trixie];

fn check_in(debian: Debian, folder: &Path) -> Result<()> {
    let image = Image::of(debian)?;
    let second = folder.join("second.img");
    make_sparse(&second, 64 * MIB)?;
    let disks = vec![Disk { name: checks::SECOND, file: second }];
    let mut machine = Machine::new(image, disks, folder)?;
    let start = Instant::now();
    println!("Debian {} booted in {:.1} s", debian.number(), machine.boot()?.as_secs_f64());
    let checked = checks::run(&mut machine);
    println!("{:.0} s in all, {} bytes of console", start.elapsed().as_secs_f64(), size(&machine.console()));
    checked
}

fn size(file: &Path) -> u64 {
    fs::metadata(file).map_or(0, |file| file.len())
}

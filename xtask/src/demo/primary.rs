// SPDX-License-Identifier: MIT OR Apache-2.0
//! The disk to protect: a sparse image file, with a partition table and a filesystem where the tools for
//! them are installed, otherwise just data.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::Result;
use crate::data::{self, MIB, Noise};
use crate::process;

/// Size of the whole image.
pub const SIZE: u64 = 512 * MIB;

/// Where the first partition (raw data) starts and how long it is.
const FIRST: (u64, u64) = (MIB, 63 * MIB);

/// Where the second partition starts and how long it is; the last MiB is the backup table's.
const SECOND: (u64, u64) = (64 * MIB, SIZE - 65 * MIB);

/// The image file and what in it may be changed.
pub struct Primary {
    pub path: PathBuf,
    pub described: String,
    noise: Noise,
}

impl Primary {
    /// Makes the image below `folder`: about half of it data, the rest never written.
    pub fn make(folder: &Path) -> Result<Self> {
        let path = folder.join("primary.img");
        let file = data::make_sparse(&path, SIZE)?;
        let mut noise = Noise::new(0xd95a);
        data::write_noise(&file, FIRST.0, FIRST.1, &mut noise)?;
        let partitioned = partition(&path)?;
        let formatted = partitioned && format(&path, folder, &mut noise)?;
        if !formatted {
            data::write_noise(&file, SECOND.0, 192 * MIB, &mut noise)?;
        }
        let described = match (partitioned, formatted) {
            (true, true) => "GPT, 63 MiB of raw data, an ext4 filesystem with files",
            (true, false) => "GPT, two partitions with raw data",
            _ => "no partition table, raw data in two places",
        };
        Ok(Self { path, described: described.to_owned(), noise })
    }

    /// Overwrites one 64 KiB block in `every` of the second partition; returns the bytes changed.
    pub fn change(&mut self, every: u64) -> Result<u64> {
        let file = data::open(&self.path)?;
        data::change_blocks(&file, SECOND.0, SECOND.1, every, &mut self.noise)
    }
}

/// Writes a GPT with two partitions; `false` where sfdisk is missing.
fn partition(image: &Path) -> Result<bool> {
    let Some(sfdisk) = process::find("sfdisk") else { return Ok(false) };
    let sectors = |(offset, size): (u64, u64)| format!("start={}, size={}", offset / 512, size / 512);
    let script = format!("label: gpt\n{}, name=raw\n{}, name=root\n", sectors(FIRST), sectors(SECOND));
    let mut command = Command::new(sfdisk);
    command.args(["--quiet", "--no-reread", "--no-tell-kernel"]).arg(image);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let failed = |error| format!("writing the partition table with sfdisk: {error}");
    let mut child = command.spawn().map_err(failed)?;
    let mut input = child.stdin.take().expect("the pipe was asked for above");
    input.write_all(script.as_bytes()).map_err(failed)?;
    drop(input);
    process::checked("sfdisk", child.wait_with_output().map_err(failed)?).map(|_| true)
}

/// Fills the second partition with ext4 and some files; `false` where mkfs.ext4 is missing.
fn format(image: &Path, folder: &Path, noise: &mut Noise) -> Result<bool> {
    let Some(mkfs) = process::find("mkfs.ext4") else { return Ok(false) };
    let tree = folder.join("tree");
    fs::create_dir(&tree).map_err(|error| format!("making the demo's files: {error}"))?;
    for number in 0..24 {
        let file = data::make_sparse(&tree.join(format!("file-{number}")), 8 * MIB)?;
        data::write_noise(&file, 0, 8 * MIB, noise)?;
    }
    let mut command = Command::new(mkfs);
    command.args(["-q", "-F", "-d"]).arg(&tree).arg("-E").arg(format!("offset={}", SECOND.0));
    command.arg(image).arg(format!("{}k", SECOND.1 / 1024));
    process::output(&mut command)?;
    fs::remove_dir_all(&tree).map_err(|error| format!("removing the demo's files: {error}"))?;
    Ok(true)
}

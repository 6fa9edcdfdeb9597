// SPDX-License-Identifier: MIT OR Apache-2.0
//! The devices to measure on: loop devices over files that have no name any more.
//!
//! Each file is unlinked and each device told to detach as soon as this process holds it open. The kernel
//! then frees both when the last user has gone, however this process ends, `kill -9` included.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Result;
use crate::data::{self, MIB, Noise};
use crate::dpsr::text;
use crate::process::{self, output};
use crate::scratch::Scratch;

/// A loop device, held.
pub struct Loop {
    pub node: PathBuf,
    _held: File,
}

impl Loop {
    fn attach(file: &Path, direct: bool) -> Result<Self> {
        let mut attach = Command::new("losetup");
        attach.args(["--find", "--show"]);
        if direct {
            attach.arg("--direct-io=on");
        }
        let node = PathBuf::from(output(attach.arg(file))?.trim());
        let held = data::open(&node);
        // Only marks the device while it is held; where opening failed it detaches at once.
        output(Command::new("losetup").arg("--detach").arg(&node))?;
        let held = held?;
        fs::remove_file(file).map_err(|error| format!("unlinking {}: {error}", file.display()))?;
        Ok(Self { node, _held: held })
    }

    /// The device's name on a command line.
    pub fn name(&self) -> &str {
        text(&self.node).expect("losetup prints ASCII names")
    }

    /// Bytes written to the device since it exists, as the block layer counts them.
    pub fn written(&self) -> Result<u64> {
        let name = self.node.file_name().unwrap_or_default();
        let path = Path::new("/sys/class/block").join(name).join("stat");
        let stat =
            fs::read_to_string(&path).map_err(|error| format!("reading {}: {error}", path.display()))?;
        written_sectors(&stat).map(|sectors| sectors * 512).ok_or_else(|| format!("no counters in {stat:?}"))
    }

    /// Flushes what the page cache holds for the device, as every copy has to before it is one.
    pub fn flush(&self) -> Result<()> {
        let flushed = data::open(&self.node)?.sync_all();
        flushed.map_err(|error| format!("flushing {}: {error}", self.node.display()))
    }
}

/// Sectors written, the seventh field (Linux, Documentation/block/stat.rst).
fn written_sectors(stat: &str) -> Option<u64> {
    stat.split_whitespace().nth(6)?.parse().ok()
}

/// One source, one disk for dpsr, one destination for everybody else.
pub struct Rig {
    pub place: String,
    pub size: u64,
    pub source: Loop,
    pub disk: Loop,
    pub disk_size: u64,
    pub peer: Loop,
    pub scratch: Scratch,
}

impl Rig {
    /// Makes the files in `folder`, fills every block of them, attaches the devices.
    pub fn build(folder: &Path, size: u64) -> Result<Self> {
        let kind = output(Command::new("stat").args(["--file-system", "--format=%T"]).arg(folder))?;
        let memory = kind.trim() == "tmpfs";
        let disk_size = size + size / 4 + 64 * MIB;
        room(folder, memory, 2 * size + disk_size)?;
        let scratch = Scratch::new(folder, "bench")?;
        let mut noise = Noise::new(size);
        let mut device = |name: &str, size: u64| {
            let path = scratch.path().join(name);
            // Filled throughout: writing into a hole also pays for allocating it, in no steady way.
            data::write_noise(&data::make_sparse(&path, size)?, 0, size, &mut noise)?;
            Loop::attach(&path, !memory)
        };
        let (source, disk, peer) =
            (device("source", size)?, device("disk", disk_size)?, device("peer", size)?);
        let place = format!("{} {}", if memory { "memory" } else { "disk" }, folder.display());
        Ok(Self { place, size, source, disk, disk_size, peer, scratch })
    }
}

/// Refuses sizes that would fill the filesystem, or the machine's memory.
fn room(folder: &Path, memory: bool, needed: u64) -> Result<()> {
    let free = if memory { available_memory()? } else { free_space(folder)? };
    if needed + needed / 8 <= free {
        return Ok(());
    }
    let (needed, free) = (needed / MIB, free / MIB);
    Err(format!(
        "{}: {needed} MiB and some to spare are needed, {free} MiB are free; lower --size",
        folder.display()
    ))
}

fn available_memory() -> Result<u64> {
    let table =
        fs::read_to_string("/proc/meminfo").map_err(|error| format!("reading memory size: {error}"))?;
    super::table::field(&table, "MemAvailable:")
        .map(|kib| kib * 1024)
        .ok_or_else(|| "no MemAvailable".to_owned())
}

/// Bytes an unprivileged user may still write below `folder`.
pub fn free_space(folder: &Path) -> Result<u64> {
    let told = output(Command::new("stat").args(["--file-system", "--format=%a %S"]).arg(folder))?;
    let mut numbers = told.split_whitespace().map(str::parse::<u64>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(blocks)), Some(Ok(block))) => Ok(blocks.saturating_mul(block)),
        _ => Err(format!("stat told no free space of {}", folder.display())),
    }
}

/// Empties the caches, so that no tool reads what another left in memory.
pub fn drop_caches() -> Result<()> {
    process::watched(&mut Command::new("sync"))?;
    fs::write("/proc/sys/vm/drop_caches", "3").map_err(|error| format!("dropping the caches: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seventh_counter_is_sectors_written() {
        assert_eq!(written_sectors(" 10 0 80 1 20 0 160 2 0 3 3 0 0 0 0 0 0\n"), Some(160));
        assert_eq!(written_sectors("10 0"), None);
    }
}

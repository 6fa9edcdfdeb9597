// SPDX-License-Identifier: MIT OR Apache-2.0
//! Partition tables: sfdisk writes them, and sfdisk tells what is in them, so that dpsr's reading of them is
//! held against another one.

use std::io::Write;
use std::ops::Range;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::loops::Disk;

/// One volume of a primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its number, or `disk`.
    pub name: String,
    /// Where it starts, in bytes.
    pub start: u64,
    /// Its size in bytes.
    pub size: u64,
    /// Whether it is left out.
    pub out: bool,
}

impl Part {
    /// The only part of a disk of `size` bytes without a table.
    pub fn whole(size: u64) -> Self {
        Self { name: "disk".into(), start: 0, size, out: false }
    }

    /// Its bytes on the disk.
    pub fn range(&self) -> Range<usize> {
        self.start as usize..(self.start + self.size) as usize
    }
}

/// Runs sfdisk on `disk` with `script` as its input. The kernel is not told: it may have no nodes at all.
pub fn sfdisk(disk: &Disk, options: &[&str], script: &str) {
    run(Command::new("sfdisk").args(QUIET).args(options).arg(&disk.path), script);
}

/// Deletes a partition.
pub fn delete(disk: &Disk, number: &str) {
    run(Command::new("sfdisk").args(QUIET).arg("--delete").arg(&disk.path).arg(number), "");
}

/// Changes the type of a partition, and nothing else.
pub fn retype(disk: &Disk, number: &str, kind: &str) {
    run(Command::new("sfdisk").args(QUIET).arg("--part-type").arg(&disk.path).args([number, kind]), "");
}

const QUIET: [&str; 7] =
    ["--quiet", "--no-reread", "--no-tell-kernel", "--wipe", "never", "--wipe-partitions", "never"];

fn run(command: &mut Command, script: &str) {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "{command:?}: {script}");
}

/// The partitions of `disk`, extended ones left out, those named left out of the copy.
pub fn parts(disk: &Disk, out: &[&str]) -> Vec<Part> {
    let run = Command::new("sfdisk").arg("--json").arg(&disk.path).output().unwrap();
    let told: Value = serde_json::from_slice(&run.stdout).unwrap();
    let table = &told["partitiontable"];
    let block = table["sectorsize"].as_u64().unwrap_or(512);
    let extended = |one: &&Value| !["5", "f", "85"].contains(&one["type"].as_str().unwrap());
    let node = disk.path.to_str().unwrap();
    let part = |one: &Value| {
        let name =
            one["node"].as_str().unwrap().strip_prefix(node).unwrap().trim_start_matches('p').to_owned();
        let number = |key: &str| one[key].as_u64().unwrap() * block;
        let out = out.contains(&name.as_str());
        Part { name, start: number("start"), size: number("size"), out }
    };
    let all = table["partitions"].as_array().unwrap().iter();
    let mut parts: Vec<_> = all.filter(extended).map(part).collect();
    parts.sort_by_key(|part| part.name.parse::<u32>().unwrap());
    parts
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! A pair made by the command, and a model of what each of its generations must read as.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;

use crate::loops::{Disk, Disks, On};
use crate::tables::Part;

/// A number that looks random and is the same in every run.
pub fn mixed(seed: u64) -> u64 {
    let mut x = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Bytes that tell where they belong: every eight of them are made of their place and `seed`.
pub fn stamped(len: u64, seed: u64) -> Vec<u8> {
    let words = (0..len.div_ceil(8)).flat_map(|word| mixed(seed ^ word << 8).to_le_bytes());
    words.take(len as usize).collect()
}

/// What one generation must read as, and the parts it has.
pub struct Expected {
    pub bytes: Vec<u8>,
    pub parts: Vec<Part>,
}

/// A pair, and what is known of it.
pub struct World<'a> {
    pub disks: &'a Disks,
    pub primary: Disk,
    pub dpsr: Disk,
    pub parts: Vec<Part>,
    pub expected: BTreeMap<u64, Expected>,
    /// What `DPSR_IO` is set to.
    pub io: Cell<Option<&'static str>>,
    exports: Cell<u64>,
    name: &'static str,
}

impl<'a> World<'a> {
    /// A world before `dpsr init`.
    pub fn new(disks: &'a Disks, primary: Disk, dpsr: Disk, parts: Vec<Part>) -> Self {
        let (io, exports) = (Cell::new(None), Cell::new(0));
        Self { disks, primary, dpsr, parts, expected: BTreeMap::new(), io, exports, name: "" }
    }

    /// The same, with a directory of configuration of its own.
    pub fn named(self, name: &'static str) -> Self {
        Self { name, ..self }
    }

    /// A pair with a DPSR disk of `room` bytes; the partitions named are left out.
    pub fn paired(disks: &'a Disks, primary: Disk, room: u64, parts: Vec<Part>, out: &[&str]) -> Self {
        let dpsr = disks.disk("dpsr", room);
        let mut world = Self::new(disks, primary, dpsr, parts);
        world.init(out);
        world
    }

    /// Where the pair is recorded.
    pub fn config(&self) -> PathBuf {
        self.disks.file(&format!("config{}", self.name))
    }

    /// Runs the command.
    pub fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dpsr"));
        command.args(arguments).arg("--config-dir").arg(self.config()).env_remove("DPSR_IO");
        if let Some(io) = self.io.get() {
            command.env("DPSR_IO", io);
        }
        command.output().unwrap()
    }

    /// Runs the command, which must succeed; what it printed.
    pub fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "dpsr {arguments:?} on {:?}: {told}", self.disks.on());
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs the command, which must succeed; the JSON document it printed.
    pub fn json(&self, arguments: &[&str]) -> Value {
        let text = self.ok(&[arguments, &["--json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// Runs the command, which must fail; its exit code and what it said last.
    pub fn refused(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.run(arguments);
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "dpsr {arguments:?} should have failed");
        (output.status.code().unwrap(), told.lines().last().unwrap_or_default().to_owned())
    }

    /// `dpsr init`; the partitions named are left out.
    pub fn init(&mut self, out: &[&str]) {
        let confirm = self.dpsr.size().to_string();
        let (primary, dpsr) = (self.primary.path.clone(), self.dpsr.path.clone());
        let mut arguments = vec!["init", "--no-boot", "--primary", primary.to_str().unwrap()];
        arguments.extend(["--dpsr", dpsr.to_str().unwrap(), "--confirm", &confirm]);
        out.iter().for_each(|name| arguments.extend(["--leave-out", name]));
        self.ok(&arguments);
        for part in &mut self.parts {
            part.out |= out.contains(&part.name.as_str());
        }
    }

    /// What the primary reads as now, with what is left out as zeros.
    pub fn visible(&self) -> Vec<u8> {
        let mut bytes = self.primary.read();
        for part in self.parts.iter().filter(|part| part.out) {
            bytes[part.range()].fill(0);
        }
        bytes
    }

    /// Syncs, notes what the new generation must read as, and gives the report.
    pub fn sync(&mut self, options: &[&str]) -> Value {
        let report = self.json(&[&["sync", "--offline"], options].concat());
        let expected = Expected { bytes: self.visible(), parts: self.parts.clone() };
        self.expected.insert(report["generation"].as_u64().unwrap(), expected);
        report
    }

    /// Overwrites something in every part, left-out ones too: at both ends, and somewhere between.
    pub fn change(&self, seed: u64) {
        for (i, part) in self.parts.iter().enumerate() {
            let random = |n: u64, below: u64| mixed(seed << 24 | (i as u64) << 8 | n) % below.max(1);
            for n in 0..3 {
                let len = (1 + random(n, 9000)).min(part.size);
                let at = [0, part.size - len, random(n + 8, part.size - len)][n as usize];
                self.primary.write(part.start + at, &stamped(len, seed << 8 | n));
            }
        }
    }

    /// What an export gives; the file is gone afterwards.
    pub fn export(&self, generation: u64, options: &[&str]) -> Vec<u8> {
        self.exports.set(self.exports.get() + 1);
        let file = self.disks.file(&format!("export-{}", self.exports.get()));
        let (number, path) = (generation.to_string(), file.to_str().unwrap());
        self.ok(&[&["export", &number, path], options].concat());
        let bytes = fs::read(&file).unwrap();
        fs::remove_file(&file).unwrap();
        bytes
    }

    /// Asserts that every generation is listed and exports as it must.
    pub fn check(&self) {
        let listed = self.json(&["generations"]);
        let listed = listed["generations"].as_array().unwrap().iter();
        let listed: Vec<_> = listed.map(|one| one["generation"].as_u64().unwrap()).collect();
        assert_eq!(listed, self.expected.keys().copied().collect::<Vec<_>>());
        for (&generation, expected) in &self.expected {
            same(&self.export(generation, &[]), &expected.bytes, &format!("generation {generation}"));
        }
        self.check_offsets();
    }

    /// Asserts that every volume of every generation exports as it must.
    pub fn check_volumes(&self) {
        for (&generation, expected) in &self.expected {
            for part in expected.parts.iter().filter(|part| !part.out) {
                let found = self.export(generation, &["--volume", &part.name]);
                let what = format!("volume {} of generation {generation}", part.name);
                same(&found, &expected.bytes[part.range()], &what);
            }
        }
    }

    /// Asserts that what `status` says of the newest generation is so: at the offsets it prints the volumes
    /// can be read from the DPSR disk without dpsr.
    pub fn check_offsets(&self) {
        let status = self.json(&["status"]);
        let Some((newest, expected)) = self.expected.last_key_value() else { return };
        assert_eq!(status["generation"].as_u64(), Some(*newest));
        let volumes = status["volumes"].as_array().unwrap();
        for part in &expected.parts {
            let volume = volumes.iter().find(|volume| volume["name"] == part.name.as_str());
            let volume = volume.unwrap_or_else(|| panic!("{} is missing in {status}", part.name));
            assert_eq!(volume["size"].as_u64(), Some(part.size), "{}", part.name);
            assert_eq!(volume["left_out"].as_bool(), Some(part.out), "{}", part.name);
            match volume["offset"].as_u64() {
                Some(offset) => {
                    let there = self.dpsr.read_at(offset, part.size);
                    same(&there, &expected.bytes[part.range()], &format!("{} at {offset}", part.name));
                }
                // What is kept only since a repartitioning may lie in several pieces.
                None => assert!(part.out || self.repartitioned(), "{} is not in one piece", part.name),
            }
        }
    }

    fn repartitioned(&self) -> bool {
        let mut layouts = self.expected.values().map(|expected| &expected.parts);
        let first = layouts.next();
        layouts.any(|layout| Some(layout) != first)
    }

    /// Restores a generation to a third disk full of something else, and compares it with the export.
    pub fn check_restore(&self, generation: u64, block: u64) {
        let size = self.primary.size();
        let name = format!("restored{}-{generation}", self.name);
        let target = self.disks.disk_with_blocks(&name, size, block);
        let before = stamped(target.size(), 99);
        target.write(0, &before);
        let (number, confirm) = (generation.to_string(), target.size().to_string());
        let path = target.path.to_str().unwrap();
        self.ok(&["restore", &number, "--to", path, "--confirm", &confirm]);
        let expected = &self.expected[&generation];
        let mut wanted = expected.bytes.clone();
        for part in expected.parts.iter().filter(|part| part.out) {
            wanted[part.range()].copy_from_slice(&before[part.range()]);
        }
        same(&target.read(), &wanted, &format!("generation {generation} restored"));
        self.drop_disk(&target);
    }

    /// Restores a volume to a disk of its own, of exactly its size.
    pub fn check_restore_volume(&self, generation: u64, part: &Part, block: u64) {
        let target =
            self.disks.disk_with_blocks(&format!("volume-{generation}-{}", part.name), part.size, block);
        target.write(0, &stamped(part.size, 98));
        let (number, confirm) = (generation.to_string(), target.size().to_string());
        let path = target.path.to_str().unwrap();
        self.ok(&["restore", &number, "--volume", &part.name, "--to", path, "--confirm", &confirm]);
        let expected = &self.expected[&generation].bytes[part.range()];
        same(&target.read(), expected, &format!("volume {} restored", part.name));
        self.drop_disk(&target);
    }

    fn drop_disk(&self, disk: &Disk) {
        if self.disks.on() == On::Loops {
            self.disks.detach(disk);
        }
        fs::remove_file(&disk.file).unwrap();
    }

    /// The whole story: first copy, changes found in both ways, everything read back in every way.
    pub fn story(&mut self, block: u64) {
        self.sync(&[]);
        self.change(1);
        self.sync(&[]);
        self.change(2);
        self.sync(&["--compare"]);
        let idle = self.sync(&[]);
        assert_eq!(idle["bytes_changed"], 0, "{idle}");
        self.check();
        self.check_volumes();
        for generation in [1, 3] {
            self.check_restore(generation, block);
        }
        let kept = self.parts.iter().filter(|part| !part.out && part.size > 0);
        for part in kept.take(3) {
            self.check_restore_volume(2, part, block);
        }
    }
}

/// Asserts that both are the same; says where they differ first.
pub fn same(found: &[u8], expected: &[u8], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}: length");
    let differs = found.iter().zip(expected).position(|(a, b)| a != b);
    if let Some(at) = differs {
        panic!("{what}: differs first at byte {at}, sector {}, chunk {}", at / 512, at / 65536);
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! A pair of image files under attack, and what each of its generations must read as.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::world::{World, hash_of};

const PRIMARY: u64 = 64 << 20;
/// Room for the image and three or four generations.
const DPSR: u64 = 256 << 20;
const CHUNK: u64 = 64 << 10;
/// Scattered chunks that change before each sync.
const CHANGED: u64 = 500;

/// Where numbers that look random come from.
#[derive(Clone, Copy)]
pub struct Seed(pub u64);

impl Seed {
    pub fn new() -> Self {
        let given = std::env::var("DPSR_SEED").ok().and_then(|seed| seed.parse().ok());
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
        Self(given.unwrap_or_else(now))
    }

    /// Another sequence for the same seed.
    pub fn apart(self, lane: u64) -> Self {
        Self(self.0 ^ (lane + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }
}

/// A pair, its recorded hashes, and how long its syncs take.
pub struct Pair {
    pub seed: Seed,
    /// How its disks are read and written, as `DPSR_IO` says.
    pub io: &'static str,
    world: World,
    primary: PathBuf,
    /// The hash of the primary as it is now.
    present: blake3::Hash,
    recorded: BTreeMap<u64, blake3::Hash>,
    took: BTreeMap<Vec<String>, Duration>,
    /// Whether the primary has changed since the last generation.
    changed: bool,
}

impl Pair {
    pub fn new(mut seed: Seed, io: &'static str) -> Self {
        let world = World::new();
        let primary = world.full("primary", PRIMARY, seed.below(u64::MAX));
        let dpsr = world.blank("dpsr", DPSR);
        world.init("a", &primary, &dpsr, &[]).fine();
        let present = hash_of(&primary);
        Self {
            seed,
            io,
            world,
            primary,
            present,
            recorded: BTreeMap::new(),
            took: BTreeMap::new(),
            changed: true,
        }
    }

    /// Changes scattered chunks of the primary, unless they have changed since the last generation.
    pub fn change(&mut self) {
        if self.changed || self.generation().is_none() {
            return;
        }
        let mut file = File::options().write(true).open(&self.primary).unwrap();
        for _ in 0..CHANGED {
            let chunk = self.seed.below(PRIMARY / CHUNK - 1) + 1;
            let at = chunk * CHUNK + self.seed.below(16) * 4096;
            let word = self.seed.below(u64::MAX).to_le_bytes();
            file.seek(SeekFrom::Start(at)).unwrap();
            file.write_all(&word.repeat(512)).unwrap();
        }
        file.sync_all().unwrap();
        self.present = hash_of(&self.primary);
        self.changed = true;
    }

    /// Starts a sync.
    pub fn start(&self, mode: &[&str]) -> Child {
        let mut command = self.world.command(&["sync", "--offline"]);
        command.args(mode).env("DPSR_IO", self.io);
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Waits until the process holds the DPSR disk; false if it ended before.
    pub fn locked_by(&self, child: &mut Child) -> bool {
        let pid = child.id().to_string();
        let holds = |line: &str| {
            let fields: Vec<_> = line.split_whitespace().collect();
            fields.get(3) == Some(&"WRITE") && fields.get(4) == Some(&pid.as_str())
        };
        while child.try_wait().unwrap().is_none() {
            if fs::read_to_string("/proc/locks").unwrap().lines().any(holds) {
                return true;
            }
        }
        false
    }

    /// A random moment of a sync, by how long the last whole one took; more often late than early, because
    /// that is where the image is overwritten.
    pub fn moment(&mut self, mode: &[&str]) -> Duration {
        let usual = self.took.get(&named(mode)).copied().unwrap_or(Duration::from_millis(250));
        let (from, to) = if self.seed.below(3) == 0 { (0, 1000) } else { (550, 1050) };
        usual.mul_f64((from + self.seed.below(to - from)) as f64 / 1000.0)
    }

    /// The store's state and its newest generation. Records the hash of one that is new.
    pub fn status(&mut self) -> (String, Option<u64>) {
        let text = self.world.dpsr(&["status", "--json"]).fine();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        let newest = json["generation"].as_u64();
        if let Some(newest) = newest.filter(|newest| !self.recorded.contains_key(newest)) {
            self.recorded.insert(newest, self.present);
            self.changed = false;
        }
        (json["state"].as_str().unwrap().to_owned(), newest)
    }

    /// The newest generation.
    pub fn generation(&self) -> Option<u64> {
        self.recorded.keys().next_back().copied()
    }

    /// Asserts that each generation the store lists reads as it was recorded.
    pub fn everything_reads_back(&self) {
        let text = self.world.dpsr(&["generations", "--json"]).fine();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        let listed = json["generations"].as_array().unwrap();
        let numbers: Vec<_> = listed.iter().map(|one| one["generation"].as_u64().unwrap()).collect();
        assert_eq!(numbers.last().copied(), self.generation());
        for number in numbers {
            assert_eq!(self.exported(number), self.recorded[&number], "generation {number}");
        }
    }

    fn exported(&self, generation: u64) -> blake3::Hash {
        let mut command = self.world.command(&["export", &generation.to_string(), "-"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let (mut hasher, mut buffer) = (blake3::Hasher::new(), vec![0; 1 << 18]);
        let mut output = child.stdout.take().unwrap();
        loop {
            match output.read(&mut buffer).unwrap() {
                0 => break,
                read => hasher.update(&buffer[..read]),
            };
        }
        assert!(child.wait().unwrap().success());
        hasher.finalize()
    }

    /// Another pair, attacked in the same way.
    pub fn anew(&self) -> Self {
        self.anew_with(self.io)
    }

    /// Another pair, the disks of which are read and written as `io` says.
    pub fn anew_with(&self, io: &'static str) -> Self {
        Self::new(self.seed, io)
    }

    /// Lets a sync end, and asserts that its generation is the primary.
    pub fn finish(&mut self, mode: &[&str]) {
        let started = Instant::now();
        let output = self.start(mode).wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        if self.changed {
            self.took.insert(named(mode), started.elapsed());
        }
        let (state, newest) = self.status();
        assert_eq!(state, "clean");
        self.changed = false;
        assert_eq!(self.exported(newest.unwrap()), self.present, "the newest generation");
    }
}

fn named(mode: &[&str]) -> Vec<String> {
    mode.iter().map(|word| (*word).to_owned()).collect()
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Two disks as good as new, the command, and the end of whatever a test leaves behind.

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;

use serde_json::Value;
use tempfile::TempDir;

use crate::disk::Disk;
use crate::shell;

/// The command under test.
const DPSR: &str = env!("CARGO_BIN_EXE_dpsr");

/// What only the machine of the harness has, so that nobody's disks are ever taken for its.
const HARNESS: &str = "/dev/virtio-ports/dpsr.agent";

/// What a sync says whose freeze window took too long.
pub const LATE: &str = "longer than the primary may wait";

/// How often such a one is run.
pub const TRIES: u32 = 3;

/// Below it is everything that a test mounts.
const MOUNTS: &str = "/run/dpsr-live";

/// There after a test that left everything as good as new, gone as soon as something else begins. Nothing
/// needs to be done twice: a reset takes seconds in emulation.
const CLEAN: &str = "/run/dpsr-live-clean";

/// Runs `body` with two empty disks, or says loudly why not. They are wiped before and after it, also where
/// it panics.
pub fn in_vm(body: impl FnOnce(&World)) {
    if env::var("DPSR_TEST_LIVE").is_ok_and(|value| value == "1") {
        return body(&World::new());
    }
    let name = thread::current().name().unwrap_or("?").to_owned();
    eprintln!("SKIPPED: {name}: it runs only in the virtual machine of `cargo xtask vm`");
}

/// The machine, for one test.
pub struct World {
    /// The disk to be copied: 256 MiB of zeros, serial number `primary`.
    pub primary: Disk,
    /// The disk to take the copy: 1536 MiB of zeros, serial number `dpsr`.
    pub dpsr: Disk,
    config: TempDir,
}

impl World {
    fn new() -> Self {
        assert!(Path::new(HARNESS).exists(), "DPSR_TEST_LIVE=1 outside the virtual machine: no {HARNESS}");
        let (primary, dpsr) = (Disk::of("primary"), Disk::of("dpsr"));
        if fs::remove_file(CLEAN).is_err() {
            reset().unwrap_or_else(|left| panic!("before the test: {left}"));
        }
        Self { primary, dpsr, config: tempfile::tempdir().unwrap() }
    }

    /// Where the pair is recorded.
    pub fn config(&self) -> &Path {
        self.config.path()
    }

    /// `dpsr ARGUMENTS --config-dir …`, ready to run.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(DPSR);
        command.args(arguments).arg("--config-dir").arg(self.config());
        command
    }

    /// Runs the command.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs the command, which must succeed; what it printed.
    pub fn ok(&self, arguments: &[&str]) -> String {
        let mut output = self.run(arguments);
        // A machine that is emulated beside others may be too slow for the freeze window; that costs the sync
        // and nothing else, and what has to be done is to run it again.
        for again in 1..TRIES {
            if !String::from_utf8_lossy(&output.stderr).contains(LATE) {
                break;
            }
            println!("dpsr {arguments:?} came too late for its moment; try {}", again + 1);
            output = self.run(arguments);
        }
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "dpsr {arguments:?} ({}): {told}", output.status);
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

    /// The words of `dpsr init` for the two disks, by their links.
    pub fn init_words(&self, options: &[&str]) -> Vec<String> {
        let (primary, dpsr) = (self.primary.link(), self.dpsr.link());
        let words =
            ["init", "--no-boot", "--primary", &primary, "--dpsr", &dpsr, "--confirm", self.dpsr.serial];
        words.iter().chain(options).map(|word| (*word).to_owned()).collect()
    }

    /// `dpsr init` of the two disks.
    pub fn init(&self, options: &[&str]) {
        let words = self.init_words(options);
        self.ok(&words.iter().map(String::as_str).collect::<Vec<_>>());
    }

    /// A program of the administrator, `pre-freeze` or `post-thaw`: before anything is frozen, or while the snapshot is
    /// held and nothing of it was read yet.
    pub fn hook(&self, when: &str, script: &str) {
        let hook = self.config().join(format!("hooks/{when}.d/test"));
        fs::create_dir_all(hook.parent().unwrap()).unwrap();
        fs::write(&hook, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// None any more.
    pub fn no_hooks(&self) {
        fs::remove_dir_all(self.config().join("hooks")).unwrap();
    }

    /// Mounts `device`; the directory.
    pub fn mount(&self, device: &str, options: &str) -> PathBuf {
        let name = device.replace('/', "-");
        let directory = Path::new(MOUNTS).join(name.trim_start_matches('-'));
        fs::create_dir_all(&directory).unwrap();
        shell::ok(&format!("mount -o '{options}' '{device}' '{}'", directory.display()));
        directory
    }

    /// Takes all memory but what a snapshot needs, and a little more: memory that is never swapped out, given back by
    /// unmounting the directory.
    pub fn fill_memory(&self) -> PathBuf {
        let directory = Path::new(MOUNTS).join("memory");
        fs::create_dir_all(&directory).unwrap();
        let (at, left) = (directory.display(), 200 << 10);
        let size = format!("$(awk '/^MemAvailable/ {{ print $2 - {left} }}' /proc/meminfo)K");
        shell::ok(&format!("mount -t ramfs memory {at}; head -c {size} /dev/zero >{at}/file"));
        directory
    }

    /// Unmounts what [`mount`](Self::mount) mounted.
    pub fn unmount(&self, directory: &Path) {
        shell::ok(&format!("umount '{}'", directory.display()));
    }

    /// Asserts that a generation is, byte for byte, what the primary is now.
    pub fn generation_is_the_primary(&self, generation: u64) {
        let mut command = self.command(&["export", &generation.to_string(), "-"]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        self.primary.must_equal(child.stdout.take().unwrap(), &format!("generation {generation}"));
        assert!(child.wait().unwrap().success());
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if thread::panicking() {
            // The picture as it was when the test failed. A second panic would abort without cleaning up.
            let seen = shell::run("lsblk; dmsetup table; dmsetup status; dmsetup info -c");
            eprintln!("{}", String::from_utf8_lossy(&seen.stdout));
            reset().unwrap_or_else(|left| eprintln!("after the test: {left}"));
        } else {
            reset().unwrap_or_else(|left| panic!("after the test: {left}"));
            fs::write(CLEAN, "").unwrap();
        }
    }
}

/// Ends what a test left, and wipes both disks; what could not be ended.
fn reset() -> Result<(), String> {
    let script = include_str!("reset.sh");
    let done = Command::new("sh").args(["-c", script, "reset", DPSR, "primary", "dpsr"]).output().unwrap();
    let told = [done.stdout, done.stderr].concat();
    if done.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&told).into_owned()) }
}

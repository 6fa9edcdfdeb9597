// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pairs made by the real command, decoys, and loop devices under names of their own.

use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

static TAKEN: AtomicU64 = AtomicU64::new(0);

/// A size nobody else uses at the moment, so that no search by size meets another test's disks.
pub fn unique(mib: u64) -> u64 {
    let number = TAKEN.fetch_add(1, Ordering::Relaxed);
    (mib << 20) + (u64::from(std::process::id()) % 8 * 256 + number % 256) * 4096
}

/// What a run of dpsr said.
pub struct Said {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Said {
    pub fn of(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
    }

    /// Asserts success.
    pub fn fine(self) -> String {
        assert_eq!(self.code, 0, "{}", self.err);
        self.out
    }

    /// Asserts the exit code, and that one sentence says all of `words`.
    pub fn refused(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, code, "{}{}", self.out, self.err);
        let sentence = self.err.lines().find(|line| line.starts_with("dpsr: ")).unwrap_or_default();
        for word in words {
            assert!(sentence.contains(word), "no {word:?} in: {}", self.err);
        }
    }
}

/// A disk that must not change: its hash, its time stamp or its write counters.
pub struct Decoy {
    path: PathBuf,
    size: u64,
    hash: blake3::Hash,
    stamps: Vec<i64>,
}

impl Decoy {
    pub fn of(path: impl AsRef<Path>) -> Self {
        let path = path.as_ref().to_owned();
        Self { size: size_of(&path), hash: hash_of(&path), stamps: stamps(&path), path }
    }

    #[track_caller]
    pub fn untouched(&self) {
        let name = self.path.display();
        assert_eq!(stamps(&self.path), self.stamps, "{name} was written to");
        assert_eq!((size_of(&self.path), hash_of(&self.path)), (self.size, self.hash), "{name} has changed");
    }
}

/// The modification time of a file; writes and sectors written of a block device.
fn stamps(path: &Path) -> Vec<i64> {
    let name = path.canonicalize().unwrap().file_name().unwrap().to_owned();
    let stat = Path::new("/sys/class/block").join(name).join("stat");
    if path.starts_with("/dev/") {
        let text = fs::read_to_string(stat).unwrap();
        let fields: Vec<i64> = text.split_whitespace().map(|field| field.parse().unwrap()).collect();
        return vec![fields[4], fields[6], fields[11], fields[13]];
    }
    let meta = fs::metadata(path).unwrap();
    vec![meta.mtime(), meta.mtime_nsec()]
}

pub fn size_of(path: &Path) -> u64 {
    File::open(path).unwrap().seek(std::io::SeekFrom::End(0)).unwrap()
}

pub fn hash_of(path: &Path) -> blake3::Hash {
    let (mut hasher, mut buffer) = (blake3::Hasher::new(), vec![0; 1 << 20]);
    let mut file = File::open(path).unwrap();
    loop {
        match file.read(&mut buffer).unwrap() {
            0 => return hasher.finalize(),
            read => hasher.update(&buffer[..read]),
        };
    }
}

/// A directory with disks and records in it.
pub struct World {
    dir: TempDir,
}

impl World {
    pub fn new() -> Self {
        Self { dir: tempfile::Builder::new().prefix("dpsr-wrong-").tempdir().unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A file of zeros.
    pub fn blank(&self, name: &str, size: u64) -> PathBuf {
        let path = self.path(name);
        File::create(&path).unwrap().set_len(size).unwrap();
        path
    }

    /// A file without a zero block in it, stamped with `seed`.
    pub fn full(&self, name: &str, size: u64, seed: u64) -> PathBuf {
        let path = self.path(name);
        let mut stream = blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof();
        let mut data = vec![0; size as usize];
        stream.fill(&mut data);
        // No table: nothing at the end of the first sector.
        data[510..512].fill(0);
        fs::write(&path, data).unwrap();
        path
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dpsr"));
        command.args(args).arg("--config-dir").arg(self.path("etc")).stdin(Stdio::null());
        command
    }

    pub fn dpsr(&self, args: &[&str]) -> Said {
        Said::of(self.command(args).output().unwrap())
    }

    /// `dpsr init` with more options.
    pub fn init(&self, pair: &str, primary: &Path, dpsr: &Path, more: &[&str]) -> Said {
        let size = size_of(dpsr).to_string();
        let (primary, dpsr) = (primary.to_str().unwrap(), dpsr.to_str().unwrap());
        let mut args = vec!["init", "--pair", pair, "--primary", primary, "--dpsr", dpsr, "--no-boot"];
        args.extend(["--confirm", &size]);
        args.extend(more);
        self.dpsr(&args)
    }

    /// A pair with one generation.
    pub fn pair(&self, pair: &str, primary: &Path, dpsr: &Path) {
        self.init(pair, primary, dpsr, &[]).fine();
        self.sync(pair).fine();
    }

    pub fn sync(&self, pair: &str) -> Said {
        self.dpsr(&["sync", "--offline", "--pair", pair])
    }

    /// `dpsr restore 1 --to target`, confirmed.
    pub fn restore(&self, pair: &str, target: &Path) -> Said {
        let size = size_of(target).to_string();
        self.dpsr(&["restore", "1", "--to", target.to_str().unwrap(), "--confirm", &size, "--pair", pair])
    }

    /// The record of a pair, changed.
    pub fn edit(&self, pair: &str, change: impl FnOnce(String) -> String) {
        let path = self.path("etc").join(format!("{pair}.toml"));
        let text = fs::read_to_string(&path).unwrap();
        let changed = change(text.clone());
        assert_ne!(changed, text, "the edit found nothing to change");
        fs::write(path, changed).unwrap();
    }

    /// The number of the newest generation.
    pub fn newest(&self, pair: &str) -> u64 {
        let json: serde_json::Value =
            serde_json::from_str(&self.dpsr(&["status", "--json", "--pair", pair]).fine()).unwrap();
        assert_eq!(json["state"], "clean");
        json["generation"].as_u64().unwrap()
    }

    /// Asserts that the newest generation reads as `primary` does.
    pub fn exact(&self, pair: &str, primary: &Path) {
        let newest = self.newest(pair).to_string();
        let output = self.command(&["export", &newest, "-", "--pair", pair]).output().unwrap();
        assert!(output.status.success());
        assert_eq!(blake3::hash(&output.stdout), hash_of(primary));
    }

    /// A sync that is stopped as soon as it holds the DPSR disk.
    pub fn stopped_sync(&self, pair: &str) -> Stopped {
        let mut command = self.command(&["sync", "--offline", "--full", "--pair", pair]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        Stopped::when_locked(child)
    }
}

/// A process that was stopped while it held an exclusive lock.
pub struct Stopped(Option<Child>);

impl Stopped {
    fn when_locked(mut child: Child) -> Self {
        let until = Instant::now() + Duration::from_secs(20);
        let pid = child.id().to_string();
        let holds = |line: &str| {
            let fields: Vec<_> = line.split_whitespace().collect();
            fields.get(3) == Some(&"WRITE") && fields.get(4) == Some(&pid.as_str())
        };
        while Instant::now() < until && child.try_wait().unwrap().is_none() {
            if fs::read_to_string("/proc/locks").unwrap().lines().any(holds) {
                signal(&child, "-STOP");
                // The first lock is only a look; go on until it stays.
                std::thread::sleep(Duration::from_millis(5));
                if fs::read_to_string("/proc/locks").unwrap().lines().any(holds) && writes(&child) {
                    return Self(Some(child));
                }
                signal(&child, "-CONT");
            }
        }
        panic!("it ended before it could be stopped: {:?}", child.wait_with_output());
    }

    pub fn pid(&self) -> String {
        self.0.as_ref().unwrap().id().to_string()
    }

    /// Lets it end.
    pub fn go_on(mut self) -> Said {
        let child = self.0.take().unwrap();
        signal(&child, "-CONT");
        Said::of(child.wait_with_output().unwrap())
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

/// Whether the process has written to a disk by now.
fn writes(child: &Child) -> bool {
    let text = fs::read_to_string(format!("/proc/{}/io", child.id())).unwrap();
    let bytes = text.lines().find_map(|line| line.strip_prefix("write_bytes: ")).unwrap();
    bytes.parse::<u64>().unwrap() > 4096
}

pub fn signal(child: &Child, signal: &str) {
    assert!(Command::new("kill").arg(signal).arg(child.id().to_string()).status().unwrap().success());
}

/// Runs a tool and says whether it did what it should.
pub fn tool(name: &str, args: &[&str]) -> bool {
    Command::new(name).args(args).stdout(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// A loop device under a name of its own; detached when dropped.
pub struct Loop(pub PathBuf);

/// High enough that nobody who asks for any free one gets it.
const FIRST_LOOP: u64 = 600;

impl Loop {
    /// A name that nothing is attached to.
    pub fn name() -> PathBuf {
        let number =
            FIRST_LOOP + u64::from(std::process::id()) % 8 * 64 + TAKEN.fetch_add(1, Ordering::Relaxed);
        PathBuf::from(format!("/dev/loop{number}"))
    }

    pub fn over(file: &Path) -> Option<Self> {
        Self::at(Self::name(), file, &[])
    }

    /// Attaches `file` under the given name; `None`, loudly, where there are no loop devices.
    pub fn at(name: PathBuf, file: &Path, more: &[&str]) -> Option<Self> {
        let until = Instant::now() + Duration::from_secs(2);
        while Instant::now() < until {
            let output = Command::new("losetup").args(more).arg(&name).arg(file).output().ok()?;
            if output.status.success() {
                return Some(Self(name));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let demanded = std::env::var_os("DPSR_TEST_LOOP").is_some_and(|it| it == "1");
        assert!(!demanded, "{} cannot be attached", name.display());
        skipped(&format!("{} cannot be attached", name.display()));
        None
    }

    /// The same names with the files the other way round.
    pub fn swapped(self, other: Self) -> Option<(Self, Self)> {
        let files = [&self, &other].map(|one| one.file());
        let names = [&self, &other].map(|one| one.0.clone());
        drop((self, other));
        Some((Self::at(names[0].clone(), &files[1], &[])?, Self::at(names[1].clone(), &files[0], &[])?))
    }

    pub fn file(&self) -> PathBuf {
        let name = self.0.file_name().unwrap().to_str().unwrap();
        fs::read_to_string(format!("/sys/block/{name}/loop/backing_file")).unwrap().trim().into()
    }

    pub fn text(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let detached = tool("losetup", &["--detach", self.text()]);
        if !std::thread::panicking() {
            assert!(detached, "{} stays attached", self.0.display());
        }
    }
}

/// Says loudly what cannot be tried here; in CI, which has everything and is root, that is a failure.
pub fn skipped(what: &str) {
    assert!(std::env::var_os("CI").is_none_or(|it| it != "true"), "this has to run in CI: {what}");
    eprintln!("SKIPPED: {what}");
}

/// A mounted filesystem; unmounted when dropped.
pub struct Mount(PathBuf);

impl Mount {
    pub fn of(device: &Path, at: PathBuf) -> Option<Self> {
        fs::create_dir_all(&at).unwrap();
        let done = tool("mount", &[device.to_str().unwrap(), at.to_str().unwrap()]);
        if !done {
            skipped(&format!("{} cannot be mounted", device.display()));
        }
        done.then_some(Self(at))
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let done = tool("umount", &[self.0.to_str().unwrap()]);
        if !std::thread::panicking() {
            assert!(done, "{} stays mounted", self.0.display());
        }
    }
}

/// Makes an ext4 on `path`.
pub fn mkfs(path: &Path) -> bool {
    let done = tool("mkfs.ext4", &["-q", "-F", path.to_str().unwrap()]);
    if !done {
        skipped("there is no mkfs.ext4");
    }
    done
}

/// Overwrites some bytes of a disk in place.
pub fn poke(path: &Path, at: u64, data: &[u8]) {
    let mut file = File::options().write(true).open(path).unwrap();
    file.seek(std::io::SeekFrom::Start(at)).unwrap();
    file.write_all(data).unwrap();
    file.sync_all().unwrap();
}

impl Said {
    /// Whether losetup attached a file: it says nothing then.
    pub fn attached(&self) -> bool {
        self.code == 0
    }
}

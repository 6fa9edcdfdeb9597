// SPDX-License-Identifier: MIT OR Apache-2.0
//! Disks for one test: plain files, or loop devices over them. Dropping the guard detaches every device,
//! also after a panic; only devices attached here are touched.

use std::cell::RefCell;
use std::env;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Marks every file of these tests.
const SUFFIX: &str = "_dpsr_test_delme";

/// What the disks of a test are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    Files,
    Loops,
}

/// The disks of one test.
pub struct Disks {
    on: On,
    attached: RefCell<Vec<PathBuf>>,
    dir: TempDir,
}

/// One disk.
#[derive(Clone, Debug)]
pub struct Disk {
    /// What dpsr is told: the loop device, or the file itself.
    pub path: PathBuf,
    /// The file.
    pub file: PathBuf,
}

/// Runs `body` with plain files, and then with loop devices.
pub fn on_both(body: impl Fn(&Disks)) {
    body(&Disks::new(On::Files));
    with_loops(body);
}

/// Runs `body` with loop devices, or says loudly why not.
pub fn with_loops(body: impl FnOnce(&Disks)) {
    if let Err(why) = loops_usable() {
        let must =
            env::var("CI").is_ok_and(|v| v == "true") || env::var("DPSR_TEST_LOOP").is_ok_and(|v| v == "1");
        assert!(!must, "loop devices are demanded here, and cannot be used: {why}");
        let name = thread::current().name().unwrap_or("?").to_owned();
        return eprintln!("SKIPPED: {name} on loop devices: {why}");
    }
    body(&Disks::new(On::Loops));
}

/// Runs `body` with plain files only.
pub fn with_files(body: impl FnOnce(&Disks)) {
    body(&Disks::new(On::Files));
}

fn loops_usable() -> Result<(), String> {
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        return Err("not root".into());
    }
    match Command::new("losetup").arg("--find").output() {
        Ok(found) if found.status.success() => Ok(()),
        Ok(found) => Err(String::from_utf8_lossy(&found.stderr).trim().to_owned()),
        Err(error) => Err(format!("losetup: {error}")),
    }
}

impl Disks {
    fn new(on: On) -> Self {
        let dir = tempfile::Builder::new().prefix("loopdev-").suffix(SUFFIX).tempdir().unwrap();
        Self { on, attached: RefCell::default(), dir }
    }

    /// What the disks are.
    pub fn on(&self) -> On {
        self.on
    }

    /// A path in the directory of the test.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(format!("{name}{SUFFIX}"))
    }

    /// A new disk of zeros, with logical blocks of 512 bytes.
    pub fn disk(&self, name: &str, size: u64) -> Disk {
        self.disk_with_blocks(name, size, 512)
    }

    /// A new disk of zeros. A loop device has whole sectors only, and loses the rest of the size.
    pub fn disk_with_blocks(&self, name: &str, size: u64, block: u64) -> Disk {
        let file = self.file(name);
        File::create_new(&file).unwrap().set_len(size).unwrap();
        match self.on {
            On::Files => Disk { path: file.clone(), file },
            On::Loops => self.attach(&file, block),
        }
    }

    /// A loop device over a file that exists, whatever the other disks are.
    pub fn attach(&self, file: &Path, block: u64) -> Disk {
        let block = block.to_string();
        // Another test may take the free device between the search and the use; losetup says so.
        let device = (0..20).find_map(|_| {
            let run =
                Command::new("losetup").args(["--find", "--show", "-b", &block]).arg(file).output().unwrap();
            let name = String::from_utf8(run.stdout).unwrap();
            run.status.success().then(|| PathBuf::from(name.trim()))
        });
        let device = device.unwrap_or_else(|| panic!("no loop device for {}", file.display()));
        self.attached.borrow_mut().push(device.clone());
        Disk { path: device, file: file.to_owned() }
    }

    /// Detaches a loop device before the end of the test.
    pub fn detach(&self, disk: &Disk) {
        self.attached.borrow_mut().retain(|device| *device != disk.path);
        assert!(detach(&disk.path));
        // While udev looks at it the kernel keeps it, and takes it away after that.
        let size = Path::new("/sys/class/block").join(disk.path.file_name().unwrap()).join("size");
        let gone = || fs::read_to_string(&size).is_ok_and(|size| size.trim() == "0");
        let deadline = Instant::now() + Duration::from_secs(30);
        while !gone() {
            assert!(Instant::now() < deadline, "{} is still there", disk.path.display());
            thread::sleep(Duration::from_millis(10));
        }
    }
}

fn detach(device: &Path) -> bool {
    Command::new("losetup").arg("--detach").arg(device).status().is_ok_and(|status| status.success())
}

impl Drop for Disks {
    fn drop(&mut self) {
        let stay: Vec<_> = self.attached.take().into_iter().filter(|device| !detach(device)).collect();
        // A second panic would abort, and leave the devices of the other tests attached.
        match (stay.is_empty(), thread::panicking()) {
            (true, _) => {}
            (_, true) => eprintln!("stay attached: {stay:?}"),
            (_, false) => panic!("stay attached: {stay:?}"),
        }
    }
}

impl Disk {
    /// Everything on the disk.
    pub fn read(&self) -> Vec<u8> {
        fs::read(&self.path).unwrap()
    }

    /// Some bytes of the disk.
    pub fn read_at(&self, at: u64, len: u64) -> Vec<u8> {
        let mut bytes = vec![0; len as usize];
        File::open(&self.path).unwrap().read_exact_at(&mut bytes, at).unwrap();
        bytes
    }

    /// Writes to the disk, and waits until it is there.
    pub fn write(&self, at: u64, bytes: &[u8]) {
        let file = File::options().write(true).open(&self.path).unwrap();
        file.write_all_at(bytes, at).unwrap();
        file.sync_all().unwrap();
    }

    /// Its size in bytes: that of the device, not that of its file.
    pub fn size(&self) -> u64 {
        use std::io::{Seek, SeekFrom};
        File::open(&self.path).unwrap().seek(SeekFrom::End(0)).unwrap()
    }
}

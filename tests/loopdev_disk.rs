// SPDX-License-Identifier: MIT OR Apache-2.0
//! Real disks on loop devices; needs root and losetup, and says so where it has to skip.

// A test may panic; the rule is for what ships.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use dpsr::disk::file::{Access, FileDisk};
use dpsr::disk::whole::{read_exact_at, write_all_at};
use dpsr::disk::{ReadDisk, WriteDisk};
use dpsr::engine::{Batch, Disks, Engine, Io, ReadId, Shape, Work, WriteId};
use dpsr::error::Result;
use dpsr::sys::buffer::Buffer;
use dpsr::units::{Bytes, MIB};

/// A loop device over a file of its own; detached when dropped.
struct Loop {
    device: PathBuf,
    file: tempfile::NamedTempFile,
}

impl Loop {
    fn attach(size: u64, block: &str) -> Option<Self> {
        let file = tempfile::Builder::new().prefix("dpsr-test-").tempfile().unwrap();
        file.as_file().set_len(size).unwrap();
        let arguments = ["--find", "--show", "--sector-size", block];
        let attached = Command::new("losetup").args(arguments).arg(file.path()).output();
        match attached {
            Ok(output) if output.status.success() => {
                let device = String::from_utf8(output.stdout).unwrap().trim().into();
                Some(Self { device, file })
            }
            other => {
                eprintln!("SKIPPED: no loop device ({other:?})");
                None
            }
        }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        losetup(&["--detach".as_ref(), &self.device]);
    }
}

fn losetup(arguments: &[&Path]) {
    assert!(Command::new("losetup").args(arguments).status().unwrap().success());
}

#[test]
fn a_loop_device_is_claimed_zeroed_and_proven() {
    for block in ["512", "4096"] {
        let Some(device) = Loop::attach(4 * MIB, block) else { return };
        let disk = FileDisk::open(&device.device, Access::Write).unwrap();
        assert_eq!((disk.size(), disk.alignment().0.to_string()), (Bytes(4 * MIB), block.to_owned()));
        let error = FileDisk::open(&device.device, Access::ReadExclusive).err().unwrap();
        assert!(error.to_string().ends_with("unmount it, or stop what else holds it"), "{error}");
        FileDisk::open(&device.device, Access::Read).unwrap();
        let mut buffer = Buffer::new(MIB as usize).unwrap();
        buffer.fill(0xee);
        write_all_at(&disk, Bytes(MIB), &buffer).unwrap();
        disk.zero(Bytes(MIB + 4096)..Bytes(MIB + 65536)).unwrap();
        disk.flush().unwrap();
        read_exact_at(&disk, Bytes(MIB), &mut buffer).unwrap();
        assert!((0..MIB as usize).all(|at| (buffer[at] == 0) == (4096..65536).contains(&at)));
        disk.prove().unwrap();
    }
}

#[test]
fn a_device_that_grew_is_not_proven() {
    let Some(device) = Loop::attach(MIB, "512") else { return };
    let disk = FileDisk::open(&device.device, Access::Read).unwrap();
    disk.prove().unwrap();
    let other = tempfile::NamedTempFile::new().unwrap();
    other.as_file().set_len(2 * MIB).unwrap();
    std::fs::write(device.file.path(), vec![0; 2 * MIB as usize]).unwrap();
    losetup(&["--set-capacity".as_ref(), &device.device]);
    assert!(disk.prove().is_err(), "its size has changed");
}

/// Copies whole buffers.
struct Copy(ReadId, WriteId, u64);

impl Work for Copy {
    type Tag = u64;

    fn next(&mut self, batch: &mut Batch) -> Result<Option<u64>> {
        let (at, len) = (self.2, batch.bytes().len());
        self.2 += len as u64;
        batch.read(self.0, Bytes(at), 0..len);
        Ok((at < 4 * MIB).then_some(at))
    }

    fn process(&mut self, at: u64, batch: &mut Batch) -> Result<()> {
        let len = batch.bytes().len();
        batch.write(self.1, Bytes(at), 0..len);
        Ok(())
    }
}

#[test]
fn the_engine_copies_between_loop_devices() {
    let Some(from) = Loop::attach(4 * MIB, "512") else { return };
    let Some(to) = Loop::attach(4 * MIB, "4096") else { return };
    for (io, salt) in [(Io::Auto, 3), (Io::Posix, 5)] {
        let stamps: Vec<u8> = (0..4 * MIB).map(|at| (at / 512 * salt % 251) as u8).collect();
        let source = FileDisk::open(&from.device, Access::Write).unwrap();
        let mut buffer = Buffer::new(stamps.len()).unwrap();
        buffer.copy_from_slice(&stamps);
        write_all_at(&source, Bytes(0), &buffer).unwrap();
        let target = Arc::new(FileDisk::open(&to.device, Access::Write).unwrap());
        let mut disks = Disks::new();
        let (source, id) = (disks.add_read(Arc::new(source)), disks.add_write(target.clone()));
        let shape = Shape { buffer: Bytes(65536), depth: 5 };
        Engine::with(disks, shape, io).unwrap().run(&mut Copy(source, id, 0)).unwrap();
        buffer.fill(0);
        read_exact_at(&*target, Bytes(0), &mut buffer).unwrap();
        assert!(*buffer == stamps[..]);
    }
}

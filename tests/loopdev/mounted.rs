// SPDX-License-Identifier: MIT OR Apache-2.0
//! Image files on a filesystem whose disk has blocks of 4096 bytes: partitions begin between them, and
//! direct I/O of single sectors is refused there.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::thread;

use dpsr::disk::file::{Access, FileDisk};
use dpsr::disk::whole::{read_exact_at, write_all_at};
use dpsr::disk::{ReadDisk, WriteDisk};
use dpsr::sys::buffer::Buffer;
use dpsr::units::Bytes;
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::loops::{Disk, Disks, with_loops};
use crate::tables::{parts, sfdisk};
use crate::world::{World, stamped};

const SIZE: u64 = (16 << 20) + 512 * 13;

const MBR: &str = "label: dos\nunit: sectors\n\
    /p1 : start=63,   size=4001, type=83\n\
    /p2 : start=4064, size=9000, type=83\n\
    /p3 : start=13064, size=1,   type=83\n\
    /p4 : start=13065, size=19711, type=83\n";

/// A mounted filesystem. Dropping it takes it down before the device below goes.
struct Mounted(PathBuf);

impl Mounted {
    /// An ext4 on a loop device with blocks of 4096 bytes.
    fn ext4(disks: &Disks) -> Self {
        let device = disks.disk_with_blocks("below", 400 << 20, 4096);
        let dir = disks.file("mounted");
        fs::create_dir(&dir).unwrap();
        run(Command::new("mkfs.ext4").args(["-q", "-b", "4096"]).arg(&device.path));
        run(Command::new("mount").args(["-t", "ext4"]).arg(&device.path).arg(&dir));
        Self(dir)
    }

    /// A sparse file in it.
    fn file(&self, name: &str, size: u64) -> Disk {
        let file = self.0.join(name);
        File::create_new(&file).unwrap().set_len(size).unwrap();
        Disk { path: file.clone(), file }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let down = Command::new("umount").arg(&self.0).status().is_ok_and(|status| status.success());
        match (down, thread::panicking()) {
            (true, _) => {}
            (_, true) => eprintln!("stays mounted: {}", self.0.display()),
            (_, false) => panic!("stays mounted: {}", self.0.display()),
        }
    }
}

fn run(command: &mut Command) {
    let done = command.output().unwrap();
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
}

/// First copy, syncs, exports and restores of disks and of volumes, from files onto files.
#[test]
fn loop_image_files_on_a_disk_with_blocks_of_4096() {
    with_loops(|disks| {
        let mounted = Mounted::ext4(disks);
        for (name, io) in [("uring", "uring"), ("posix", "posix")] {
            let primary = mounted.file(&format!("primary-{name}"), SIZE);
            primary.write(0, &stamped(SIZE, 61));
            primary.write(0, &[0; 512]);
            sfdisk(&primary, &[], MBR);
            let all = parts(&primary, &[]);
            assert_eq!((all.len(), all[0].start), (4, 63 * 512));
            let dpsr = mounted.file(&format!("dpsr-{name}"), 64 << 20);
            let mut world = World::new(disks, primary, dpsr, all).named(name);
            world.io.set(Some(io));
            world.init(&["2"]);
            world.sync(&[]);
            world.change(1);
            world.sync(&[]);
            world.change(2);
            world.sync(&["--compare"]);
            world.change(3);
            world.ok(&["sync", "--offline", "--volume", "1"]);
            world.expected.clear();
            world.sync(&["--full"]);
            for part in world.parts.clone().iter().filter(|part| !part.out) {
                restores(&world, &mounted, part.name.as_str());
            }
            world.check_volumes();
        }
    });
}

/// Restores a volume of the newest generation onto a file.
fn restores(world: &World<'_>, mounted: &Mounted, name: &str) {
    let (generation, expected) = world.expected.last_key_value().unwrap();
    let part = expected.parts.iter().find(|part| part.name == name).unwrap();
    let target = mounted.file(&format!("restored-{name}"), part.size);
    target.write(0, &stamped(part.size, 98));
    let (number, size, path) = (generation.to_string(), part.size.to_string(), target.path.to_str().unwrap());
    world.ok(&["restore", &number, "--volume", name, "--to", path, "--confirm", &size]);
    crate::world::same(&target.read(), &expected.bytes[part.range()], name);
    fs::remove_file(&target.file).unwrap();
}

/// A hole says nothing: a direct read of one succeeds at any sector.
#[test]
fn loop_a_sparse_file_on_such_a_disk_takes_single_sectors() {
    with_loops(|disks| {
        let mounted = Mounted::ext4(disks);
        let file = mounted.file("sparse", 1 << 20);
        let disk = Arc::new(FileDisk::open(&file.path, Access::Write).unwrap());
        assert_eq!(disk.alignment(), Bytes(512));
        let flags = fcntl(disk.descriptor().unwrap(), FcntlArg::F_GETFL).unwrap();
        assert!(!OFlag::from_bits_retain(flags).contains(OFlag::O_DIRECT), "both engines see this");
        let mut buffer = Buffer::new(4096).unwrap();
        for at in [512, 63 * 512, (1 << 20) - 512] {
            buffer.fill(at as u8 | 7);
            write_all_at(&*disk, Bytes(at), &buffer[512..1024]).unwrap();
            disk.flush().unwrap();
            buffer.fill(0);
            read_exact_at(&*disk, Bytes(at), &mut buffer[512..1024]).unwrap();
            assert!(buffer[512..1024].iter().all(|&byte| byte == at as u8 | 7));
        }
    });
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Disks and the engine on real devices, without the command.

use std::process::Command;
use std::sync::Arc;

use dpsr::disk::file::{Access, FileDisk};
use dpsr::disk::whole::{read_exact_at, write_all_at};
use dpsr::disk::{ReadDisk, WriteDisk};
use dpsr::engine::{Batch, Disks as EngineDisks, Engine, Io, ReadId, Shape, Work, WriteId};
use dpsr::error::Result;
use dpsr::sys::buffer::Buffer;
use dpsr::units::{Bytes, MIB};

use crate::loops::with_loops;

#[test]
fn loop_a_device_is_claimed_zeroed_and_proven() {
    with_loops(|disks| {
        for block in [512, 4096] {
            let device = disks.disk_with_blocks(&format!("disk-{block}"), 4 * MIB, block);
            let disk = FileDisk::open(&device.path, Access::Write).unwrap();
            assert_eq!((disk.size(), disk.alignment()), (Bytes(4 * MIB), Bytes(block)));
            let error = FileDisk::open(&device.path, Access::ReadExclusive).err().unwrap();
            assert!(error.to_string().ends_with("unmount it, or stop what else holds it"), "{error}");
            FileDisk::open(&device.path, Access::Read).unwrap();
            let mut buffer = Buffer::new(MIB as usize).unwrap();
            buffer.fill(0xee);
            write_all_at(&disk, Bytes(MIB), &buffer).unwrap();
            disk.zero(Bytes(MIB + 4096)..Bytes(MIB + 65536)).unwrap();
            disk.flush().unwrap();
            read_exact_at(&disk, Bytes(MIB), &mut buffer).unwrap();
            assert!((0..MIB as usize).all(|at| (buffer[at] == 0) == (4096..65536).contains(&at)));
            disk.prove().unwrap();
        }
    });
}

#[test]
fn loop_a_device_that_grew_is_not_proven() {
    with_loops(|disks| {
        let device = disks.disk("disk", MIB);
        let disk = FileDisk::open(&device.path, Access::Read).unwrap();
        disk.prove().unwrap();
        std::fs::write(&device.file, vec![0; 2 * MIB as usize]).unwrap();
        let grown = Command::new("losetup").arg("--set-capacity").arg(&device.path).status().unwrap();
        assert!(grown.success());
        assert!(disk.prove().is_err(), "its size has changed");
    });
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
fn loop_the_engine_copies_between_devices() {
    with_loops(|disks| {
        let from = disks.disk_with_blocks("from", 4 * MIB, 512);
        let to = disks.disk_with_blocks("to", 4 * MIB, 4096);
        for (io, salt) in [(Io::Auto, 3), (Io::Posix, 5)] {
            let stamps: Vec<u8> = (0..4 * MIB).map(|at| (at / 512 * salt % 251) as u8).collect();
            let source = FileDisk::open(&from.path, Access::Write).unwrap();
            let mut buffer = Buffer::new(stamps.len()).unwrap();
            buffer.copy_from_slice(&stamps);
            write_all_at(&source, Bytes(0), &buffer).unwrap();
            let target = Arc::new(FileDisk::open(&to.path, Access::Write).unwrap());
            let mut engine = EngineDisks::new();
            let (source, id) = (engine.add_read(Arc::new(source)), engine.add_write(target.clone()));
            let shape = Shape { buffer: Bytes(65536), depth: 5, spare: 3 };
            Engine::with(engine, shape, io).unwrap().run(&mut Copy(source, id, 0)).unwrap();
            buffer.fill(0);
            read_exact_at(&*target, Bytes(0), &mut buffer).unwrap();
            assert!(*buffer == stamps[..]);
        }
    });
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! A disk in memory and sample tables for the tests of this room.

use std::io;
use std::ops::Range;
use std::sync::Mutex;

use super::content::Content;
use super::probe::{Kind, Probe};
use super::sysfs::DevNum;
use super::table::{Partition, Table, TableKind};
use crate::disk::{ReadDisk, WriteDisk};
use crate::units::{Bytes, GIB, MIB};

/// Insists on 512-byte alignment of offsets, lengths and memory, like direct I/O does.
pub(crate) struct Memory(pub(crate) Mutex<Vec<u8>>);

impl Memory {
    pub(crate) fn new(size: u64) -> Self {
        Self(Mutex::new(vec![0; size as usize]))
    }

    pub(crate) fn of(data: Vec<u8>) -> Self {
        Self(Mutex::new(data))
    }

    pub(crate) fn poke(&self, at: u64, data: &[u8]) {
        self.0.lock().unwrap()[at as usize..][..data.len()].copy_from_slice(data);
    }
}

fn check(at: Bytes, buffer: &[u8]) -> io::Result<()> {
    let odd = |n: u64| !n.is_multiple_of(512);
    match odd(at.0) || odd(buffer.len() as u64) || odd(buffer.as_ptr().addr() as u64) {
        true => Err(io::ErrorKind::InvalidInput.into()),
        false => Ok(()),
    }
}

impl ReadDisk for Memory {
    fn name(&self) -> &str {
        "memory"
    }
    fn size(&self) -> Bytes {
        Bytes(self.0.lock().unwrap().len() as u64)
    }
    fn alignment(&self) -> Bytes {
        Bytes(512)
    }
    fn read_at(&self, at: Bytes, buffer: &mut [u8]) -> io::Result<usize> {
        check(at, buffer)?;
        let data = self.0.lock().unwrap();
        let Some(rest) = data.get(at.usize()..) else { return Ok(0) };
        // Short on purpose: nobody may trust one completion.
        let length = buffer.len().min(rest.len()).min(64 << 10);
        buffer[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }
}

impl WriteDisk for Memory {
    fn write_at(&self, at: Bytes, buffer: &[u8]) -> io::Result<usize> {
        check(at, buffer)?;
        let length = buffer.len().min(64 << 10);
        self.0.lock().unwrap()[at.usize()..][..length].copy_from_slice(&buffer[..length]);
        Ok(length)
    }
    fn zero(&self, range: Range<Bytes>) -> io::Result<()> {
        self.0.lock().unwrap()[range.start.usize()..range.end.usize()].fill(0);
        Ok(())
    }
    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
    fn prove(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Three partitions on 100 GiB: ESP, root, swap.
pub(crate) fn sample_table() -> Table {
    let part = |number: u32, id: &str, label: &str, type_id: &str, gib: Range<u64>, fs: &str, name: &str| {
        Partition {
            number,
            id: id.into(),
            label: label.into(),
            type_id: type_id.into(),
            active: false,
            range: Bytes(gib.start * GIB).max(Bytes(MIB))..Bytes(gib.end * GIB),
            content: Some(Content {
                fstype: fs.into(),
                label: Some(name.into()).filter(|n: &String| !n.is_empty()),
                uuid: None,
            }),
        }
    };
    let esp = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b";
    let (linux, swap) = ("0fc63daf-8483-4772-8e79-3d69d8477de4", "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f");
    Table {
        kind: TableKind::Gpt { disk_guid: "99999999-0000-0000-0000-000000000000".into() },
        partitions: vec![
            part(1, "11111111-0000-0000-0000-00000000000a", "EFI", esp, 0..1, "vfat", ""),
            part(2, "22222222-0000-0000-0000-00000000000a", "system", linux, 1..60, "ext4", "rootfs"),
            part(3, "33333333-0000-0000-0000-00000000000a", "", swap, 60..68, "swap", ""),
        ],
        whole: None,
        bad: None,
    }
}

/// A block device that is nowhere in sysfs.
pub(crate) fn probe(path: &str, size: u64) -> Probe {
    Probe {
        path: path.into(),
        canonical: path.into(),
        kind: Kind::Block,
        size: Bytes(size),
        block: Bytes(512),
        number: Some(DevNum { major: 8, minor: size % 1000 }),
        inode: None,
        sequence: None,
        serial: Some("S3R1AL".into()),
        wwn: None,
        model: Some("ACME Disk".into()),
    }
}

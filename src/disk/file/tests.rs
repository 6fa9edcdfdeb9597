// SPDX-License-Identifier: MIT OR Apache-2.0
use std::io::Write;

use super::*;
use crate::disk::whole::{read_exact_at, read_padded_at, write_all_at};

fn file(len: usize) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&stamped(len)).unwrap();
    file
}

fn stamped(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at / 512 + at % 7) as u8).collect()
}

#[test]
fn any_length_reads_back() {
    for len in [0, 1, 511, 512, 4096, 8192, 12800, 70001] {
        let file = file(len);
        let disk = FileDisk::open(file.path(), Access::Read).unwrap();
        assert_eq!(disk.size(), Bytes(len as u64));
        let mut buffer = Buffer::new(Bytes(len as u64 + 1).round_up(4096).usize()).unwrap();
        buffer.fill(9);
        read_padded_at(&disk, Bytes(0), &mut buffer).unwrap();
        assert_eq!(buffer[..len], stamped(len)[..]);
        assert!(buffer[len..].iter().all(|&byte| byte == 0));
    }
}

#[test]
fn odd_tails_are_written_and_zeroed_in_place() {
    for len in [1, 70001, 131_071] {
        let file = file(len);
        let disk = FileDisk::open(file.path(), Access::Write).unwrap();
        let tail = len.min(300);
        let start = Bytes((len - tail) as u64);
        write_all_at(&disk, start, &vec![0xee; tail]).unwrap();
        disk.zero(start + Bytes(tail as u64 / 2)..Bytes(len as u64 + 9000)).unwrap();
        disk.write_zeros(&(Bytes(0)..Bytes(len as u64 / 3))).unwrap();
        disk.flush().unwrap();
        let mut expected = stamped(len);
        expected[len - tail..].fill(0xee);
        expected[len - tail + tail / 2..].fill(0);
        expected[..len / 3].fill(0);
        assert_eq!(std::fs::read(file.path()).unwrap(), expected);
        disk.prove().unwrap();
    }
}

#[test]
fn a_file_tells_that_it_was_written_to_or_cut() {
    let changes: [fn(&std::fs::File); 3] = [
        |file| file.write_all_at(b"other", 5000).unwrap(),
        |file| file.set_len(8192).unwrap(),
        |file| file.set_modified(std::time::UNIX_EPOCH).unwrap(),
    ];
    for change in changes {
        let file = file(70_144);
        let disk = FileDisk::open(file.path(), Access::Read).unwrap().first(Bytes(4096));
        read_exact_at(&disk, Bytes(0), &mut Buffer::new(4096).unwrap()).unwrap();
        assert!(!disk.was_written_to().unwrap());
        // The clock of a filesystem ticks some hundred times a second.
        std::thread::sleep(std::time::Duration::from_millis(20));
        change(file.as_file());
        assert!(disk.was_written_to().unwrap());
    }
}

#[test]
fn what_lies_behind_the_first_bytes_is_not_there() {
    let file = file(70_144);
    let disk = FileDisk::open(file.path(), Access::Read).unwrap().first(Bytes(12_800));
    assert_eq!(disk.size(), Bytes(12_800));
    let mut buffer = Buffer::new(16_384).unwrap();
    read_padded_at(&disk, Bytes(8192), &mut buffer[..8192]).unwrap();
    assert_eq!(buffer[..4608], stamped(12_800)[8192..]);
    assert!(buffer[4608..8192].iter().all(|&byte| byte == 0));
    assert_eq!(disk.read_at(Bytes(12_800), &mut buffer).unwrap(), 0);
    assert_eq!(disk.next_data(Bytes(4096)).unwrap(), Some(Bytes(4096)..Bytes(12_800)));
    assert_eq!(disk.next_data(Bytes(12_800)).unwrap(), None);
    disk.prove().unwrap();
}

#[test]
fn holes_are_skipped() {
    let file = file(0);
    file.as_file().set_len(1 << 20).unwrap();
    file.as_file().write_all_at(&[1; 4096], 512 << 10).unwrap();
    let disk = FileDisk::open(file.path(), Access::Write).unwrap();
    let data = disk.next_data(Bytes(0)).unwrap().unwrap();
    assert!(data.contains(&Bytes(512 << 10)) && data.start > Bytes(0) && data.end < Bytes(1 << 20));
    assert_eq!(disk.next_data(data.end).unwrap(), None);
    assert_eq!(disk.next_data(Bytes(1 << 20)).unwrap(), None);
}

#[test]
fn a_shrunk_file_is_not_proven() {
    let file = file(8192);
    let disk = FileDisk::open(file.path(), Access::Write).unwrap();
    disk.prove().unwrap();
    file.as_file().set_len(4096).unwrap();
    assert!(disk.prove().is_err());
    let mut buffer = Buffer::new(8192).unwrap();
    assert!(read_exact_at(&disk, Bytes(0), &mut buffer).is_err());
}

#[test]
fn only_disks_and_files_are_opened() {
    let error = FileDisk::open("/dev/null", Access::Read).err().unwrap();
    assert_eq!(error.to_string(), "opening /dev/null: it is no block device and no file");
    assert_eq!(error.kind(), Kind::Refused);
    assert!(FileDisk::open("/nonexistent/disk", Access::Read).is_err());
}

#[test]
fn a_disk_opened_to_read_cannot_be_written() {
    let file = file(4096);
    let disk = FileDisk::open(file.path(), Access::Read).unwrap();
    assert!(disk.write_at(Bytes(0), &Buffer::new(4096).unwrap()).is_err());
}

#[test]
fn a_file_moves_single_sectors_whatever_lies_beneath() {
    let file = file(65536);
    let disk = FileDisk::open(file.path(), Access::Write).unwrap();
    assert_eq!(disk.alignment(), Bytes(SECTOR));
    let mut buffer = Buffer::new(4096).unwrap();
    write_all_at(&disk, Bytes(63 * 512), &buffer[512..1024]).unwrap();
    disk.write_zeros(&(Bytes(65 * 512)..Bytes(66 * 512))).unwrap();
    read_exact_at(&disk, Bytes(62 * 512), &mut buffer[1024..3072]).unwrap();
    let mut expected = stamped(65536)[62 * 512..66 * 512].to_vec();
    expected[512..1024].fill(0);
    expected[1536..].fill(0);
    assert_eq!(buffer[1024..3072], expected);
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Files made by `export`: private, whole or not there.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt};

use dpsr::disk::file::{Access, FileDisk};
use dpsr::engine::digest::DigestKey;
use dpsr::pair::layout::find_store;
use dpsr::store::contents;
use dpsr::store::table::TableChunk;
use dpsr::units::{Bytes, CHUNK, Chunk};

use super::{Desk, MIB, command, words};

#[test]
fn nobody_else_may_read_an_export() {
    let desk = Desk::synced();
    for (name, more) in [("plain", ""), ("packed", " --zstd")] {
        desk.run(&format!("export 1 DIR/{name}{more}"));
        let mode = fs::metadata(desk.path(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

/// Where writing fails in the middle, no file stays that could be taken for an export.
#[test]
fn an_export_that_failed_leaves_nothing() {
    let desk = Desk::synced();
    let shown = desk.path("");
    let shown = shown.to_str().unwrap();
    for more in ["", "--zstd"] {
        // Files of at most 1 MiB: `ulimit -f` counts 512-byte blocks in some shells, 1 KiB ones in others.
        let script = format!(
            "trap '' XFSZ; ulimit -f 1024; exec \"$@\" export 1 {shown}new --config-dir {shown}pairs {more}"
        );
        let before = desk.state();
        let mut shell = command("sh");
        let output = shell.args(["-c", &script, "sh", env!("CARGO_BIN_EXE_dpsr")]).output().unwrap();
        assert_eq!(output.status.code(), Some(7), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(desk.state() == before, "{more}: something stayed behind");
    }
}

/// What is complete is kept, though some of it is damaged: it may be all there is.
#[test]
fn a_damaged_export_is_kept() {
    let desk = Desk::synced();
    desk.run("export 2 DIR/good");
    let (good, copy) = (fs::read(desk.path("good")).unwrap(), fs::read(desk.path("dpsr")).unwrap());
    let sector = &good[4 * MIB as usize..][..512];
    let at = copy.chunks(512).position(|found| found == sector).unwrap() * 512;
    desk.open("dpsr").write_all_at(b"rotten", at as u64).unwrap();
    for (name, more) in [("plain", ""), ("packed", " --zstd")] {
        let text = desk.run(&format!("export 2 DIR/{name}{more}"));
        assert!(text.starts_with("exit code 6") && text.contains("of the disk"), "{text}");
    }
    let plain = fs::read(desk.path("plain")).unwrap();
    assert_eq!(plain.len(), good.len());
    assert_eq!(&plain[4 * MIB as usize..][..6], b"rotten");
    assert!(zstd::decode_all(File::open(desk.path("packed")).unwrap()).unwrap() == plain);
    assert_eq!(words(&desk.run("export 1 DIR/plain"))[..3], words("exit code 3"));
}

/// Makes a chunk of the image hold something else, and its digest page say so: both check out, as where the disk
/// has lost writes and kept what was there before.
fn plant(desk: &Desk, chunk: Chunk) {
    let disk = FileDisk::open(desk.path("dpsr"), Access::Write).unwrap();
    let store = find_store(&disk, Bytes(512)).unwrap();
    let contents = contents::read(&disk, &store.range).unwrap().unwrap();
    let at = contents.image(contents.newest_map()).chunk(chunk).unwrap();
    let old = [7; CHUNK as usize];
    desk.open("dpsr").write_all_at(&old, at.0).unwrap();
    let mut table = TableChunk::read(&disk, &contents.table(), 0).unwrap();
    table.set(chunk, DigestKey::new(contents.index.secret).digest(&old).0);
    table.write(&disk, &contents.table()).unwrap();
}

/// What nothing vouches for is exported as it is, because it may be all there is, and said to be so; no disk is
/// overwritten with it.
#[test]
fn digests_that_do_not_add_up_are_told_and_nothing_is_restored_from_them() {
    let desk = Desk::synced();
    plant(&desk, Chunk(4 * MIB / CHUNK));
    desk.blank("target", 8 * MIB);
    let vouches = "its digests do not add up to what was recorded";
    for line in ["export 2 DIR/whole", "export 2 DIR/home --volume home", "export 2 DIR/packed --zstd"] {
        let text = desk.run(line);
        assert!(text.starts_with("exit code 6") && text.contains(vouches), "{line}: {text}");
    }
    assert_eq!(fs::read(desk.path("whole")).unwrap()[4 * MIB as usize..][..3], [7; 3]);
    let text = desk.unchanged(&format!("restore 2 --to DIR/target --confirm {}", 8 * MIB));
    assert!(text.starts_with("exit code 6") && text.contains(vouches), "{text}");
    assert!(text.contains("'dpsr export 2' gives what is there"), "{text}");
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who uses a disk, told from golden trees of sysfs and procfs; and pairs of image files.
//!
//! A new case is a new folder below `tests/integration/golden`, with `target` (major:minor) and
//! `expected.txt`; `UPDATE_GOLDEN=1` writes the latter.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt::Write;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use dpsr::config::{DpsrRecord, PairConfig, PrimaryRecord};
use dpsr::disk::ReadDisk;
use dpsr::disk::file::{Access, FileDisk};
use dpsr::error::Kind;
use dpsr::keep::Rules;
use dpsr::pair::chain::running_root_chain;
use dpsr::pair::empty::emptiness;
use dpsr::pair::inuse::device_uses;
use dpsr::pair::layout::{DpsrLayout, Guids, write_gpt};
use dpsr::pair::lock::Mode;
use dpsr::pair::open::{PrimaryUse, discover, open_primary, open_store_only};
use dpsr::pair::probe::Probe;
use dpsr::pair::sysfs::{DevNum, Roots};
use dpsr::pair::table::Table;
use dpsr::pair::wipe::wipe_signatures;
use dpsr::units::{Bytes, MIB};
use uuid::Uuid;

fn told(case: &Path) -> String {
    let roots = Roots { sys: case.join("sys"), proc: case.join("proc"), dev: case.join("dev") };
    let target = fs::read_to_string(case.join("target")).unwrap();
    let node = roots.node(DevNum::parse(target.trim()).unwrap()).unwrap();
    let mut text = format!("{} on disk {}\n", node.label(), node.disk().label());
    device_uses(&roots, &node).iter().for_each(|usage| writeln!(text, "use: {usage} {usage:?}").unwrap());
    let chain: Vec<_> = running_root_chain(&roots).iter().map(|node| node.label()).collect();
    writeln!(text, "root: {}", chain.join(", ")).unwrap();
    text
}

#[test]
fn golden_trees() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/integration/golden");
    let mut cases: Vec<_> = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.retain(|case| case.is_dir());
    cases.sort();
    for case in cases {
        let (text, file) = (told(&case), case.join("expected.txt"));
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&file, &text).unwrap();
        }
        assert_eq!(text, fs::read_to_string(&file).unwrap_or_default(), "{}", case.display());
    }
}

fn image(dir: &Path, name: &str, mib: u64) -> PathBuf {
    let path = dir.join(name);
    fs::File::create(&path).unwrap().set_len(mib * MIB).unwrap();
    path
}

/// Writes a DPSR table to `dpsr` and records the pair.
fn make(primary: &Path, dpsr: &Path) -> PairConfig {
    let roots = Roots::default();
    let (first, second) = (Probe::open(&roots, primary).unwrap(), Probe::open(&roots, dpsr).unwrap());
    let disk = FileDisk::open(dpsr, Access::Write).unwrap();
    let layout = DpsrLayout::plan(disk.size(), second.block, false, false).unwrap();
    let guids = Guids::random();
    wipe_signatures(&disk, &layout).unwrap();
    write_gpt(&disk, second.block, &layout, &guids).unwrap();
    let table = Table::read(&FileDisk::open(primary, Access::Read).unwrap(), first.block).unwrap();
    PairConfig {
        name: "test".into(),
        id: Uuid::new_v4(),
        leave_out: vec![],
        group: vec![],
        history: None,
        keep: Rules::default(),
        boot: false,
        failover: dpsr::config::FailoverConfig::default(),
        live: dpsr::config::LiveConfig::default(),
        reserve: None,
        primary: PrimaryRecord {
            path: primary.into(),
            size: first.size,
            disk_size: None,
            block: first.block,
            serial: first.serial,
            wwn: first.wwn,
            table: table.id(),
            inode: None,
        },
        dpsr: DpsrRecord {
            path: dpsr.into(),
            size: second.size,
            serial: second.serial,
            wwn: second.wwn,
            disk_guid: guids.disk,
            store: guids.store,
            inode: second.inode.map(|(_, inode)| inode),
        },
    }
}

#[test]
fn files_make_a_pair_and_lock_it() {
    let dir = tempfile::tempdir().unwrap();
    let (primary, dpsr) = (image(dir.path(), "primary", 16), image(dir.path(), "dpsr", 48));
    let config = make(&primary, &dpsr);
    let roots = Roots::default();
    let pair = discover(&roots, &config, PrimaryUse::Offline).unwrap();
    assert_eq!(pair.dpsr.store.range, Bytes(MIB)..Bytes(47 * MIB));
    let error = open_store_only(&roots, &config, Mode::Shared).err().unwrap();
    assert_eq!(error.kind(), Kind::Busy, "{error}");
    drop(pair);
    open_store_only(&roots, &config, Mode::Shared).map(drop).unwrap();
}

#[test]
fn of_a_larger_primary_only_the_beginning_belongs_to_the_pair() {
    let dir = tempfile::tempdir().unwrap();
    let (primary, dpsr) = (image(dir.path(), "primary", 16), image(dir.path(), "dpsr", 48));
    let mut config = make(&primary, &dpsr);
    let roots = Roots::default();
    let larger = Bytes(24 * MIB);
    File::options().write(true).open(&primary).unwrap().set_len(larger.0).unwrap();
    let refused =
        |config: &PairConfig| open_primary(&roots, config, PrimaryUse::Offline).err().unwrap().to_string();
    let told = refused(&config);
    assert!(told.contains("it has 25165824 bytes instead of 16777216"), "{told}");
    config.primary.disk_size = Some(larger);
    let opened = open_primary(&roots, &config, PrimaryUse::Offline).unwrap();
    assert_eq!(opened.disk.size(), config.primary.size);
    // Somebody makes use of the rest.
    let disk = FileDisk::open(&primary, Access::Write).unwrap();
    let mut layout = DpsrLayout { bios_boot: None, esp: None, store: Bytes(MIB)..Bytes(15 * MIB) };
    let guids = Guids::random();
    write_gpt(&disk, config.primary.block, &layout, &guids).unwrap();
    config.primary.table = Some(guids.disk.to_string());
    let opened = open_primary(&roots, &config, PrimaryUse::Offline).unwrap();
    assert_eq!(opened.table.partitions.len(), 1);
    drop(opened);
    // It is the primary still, whatever else becomes of it; but no generation could hold all of it.
    let unsynced = |config: &PairConfig| {
        let error = discover(&roots, config, PrimaryUse::Offline).err().unwrap();
        assert_eq!(error.kind(), Kind::Refused);
        error.to_string()
    };
    let told = unsynced(&config);
    assert!(told.contains("its partition table ends behind the first 16777216 bytes"), "{told}");
    layout.store = Bytes(MIB)..Bytes(20 * MIB);
    write_gpt(&disk, config.primary.block, &layout, &guids).unwrap();
    assert_eq!(open_primary(&roots, &config, PrimaryUse::Offline).unwrap().disk.size(), config.primary.size);
    let told = unsynced(&config);
    assert!(told.contains("partition 1 ends behind the first 16777216 bytes"), "{told}");
    assert!(told.contains(primary.to_str().unwrap()), "{told}");
    // The table of a disk of the first one's size.
    let first = FileDisk::open(&primary, Access::Write).unwrap().first(config.primary.size);
    layout.store = Bytes(MIB)..Bytes(15 * MIB);
    write_gpt(&first, config.primary.block, &layout, &guids).unwrap();
    let pair = discover(&roots, &config, PrimaryUse::Offline).unwrap();
    assert_eq!((pair.primary.disk.size(), pair.primary.table.partitions.len()), (config.primary.size, 1));
}

#[test]
fn another_file_under_the_name_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (primary, dpsr) = (image(dir.path(), "primary", 16), image(dir.path(), "dpsr", 48));
    let config = make(&primary, &dpsr);
    fs::copy(&dpsr, dir.path().join("copy")).unwrap();
    fs::rename(dir.path().join("copy"), &dpsr).unwrap();
    let error = open_store_only(&Roots::default(), &config, Mode::Exclusive).err().unwrap();
    assert_eq!(error.kind(), Kind::Refused);
    assert!(error.to_string().contains("it is another file"), "{error}");
    make(&primary, &dpsr);
    let changed = PairConfig { dpsr: DpsrRecord { inode: None, ..config.dpsr }, ..config };
    let error = open_store_only(&Roots::default(), &changed, Mode::Exclusive).err().unwrap();
    assert!(error.to_string().contains("the store of another pair"), "{error}");
}

#[test]
fn probers_name_what_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let file = image(dir.path(), "file", 48);
    let made = Command::new("mkfs.ext4").args(["-q", "-L", "hello"]).arg(&file).status();
    if !made.is_ok_and(|status| status.success()) {
        assert!(std::env::var_os("CI").is_none_or(|it| it != "true"), "CI has mkfs.ext4");
        return eprintln!("SKIPPED probers_name_what_is_there: there is no mkfs.ext4");
    }
    let disk = FileDisk::open(&file, Access::Read).unwrap();
    let mut table = Table::read(&disk, Bytes(512)).unwrap();
    table.probe_contents(&disk);
    let whole = table.whole.unwrap();
    assert_eq!((whole.fstype.as_str(), whole.label.as_deref()), ("ext4", Some("hello")));
    let probe = Probe::open(&Roots::default(), &file).unwrap();
    assert_eq!(emptiness(&probe, &disk).unwrap().things, ["ext4 on the whole disk"]);
}

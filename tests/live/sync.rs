// SPDX-License-Identifier: MIT OR Apache-2.0
//! Syncs of a primary that is mounted and written to: one instant, clean filesystems, exact copies.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::shell;
use crate::world::{World, in_vm};
use crate::writer::Writer;

/// How long a write may take in emulation, on a machine that is busy with other things too.
const PATIENCE: Duration = Duration::from_secs(30);

/// A wrapped primary with its filesystems mounted.
pub struct Live<'a> {
    world: &'a World,
    /// The type of each filesystem; partition `n` has number `n - 1`.
    types: Vec<&'static str>,
    /// Where each is mounted.
    pub mounts: Vec<PathBuf>,
}

impl<'a> Live<'a> {
    /// Makes a partition for each `(size in MiB, type)`, pairs, wraps and mounts them. Swap is not mounted.
    pub fn new(world: &'a World, parts: &[(u32, &'static str)]) -> Self {
        Self::paired(world, parts, || world.init(&[]))
    }

    /// The same, paired by `init`.
    pub fn paired(world: &'a World, parts: &[(u32, &'static str)], init: impl FnOnce()) -> Self {
        let line = |(size, kind): &(u32, &str)| {
            let code = if *kind == "swap" { "S" } else { "L" };
            format!("size={size}M, type={code}")
        };
        let lines: Vec<String> = parts.iter().map(line).collect();
        world.primary.partition(&lines.iter().map(String::as_str).collect::<Vec<_>>());
        let types: Vec<_> = parts.iter().map(|(_, kind)| *kind).collect();
        for (number, kind) in (1..).zip(&types) {
            make(kind, &world.primary.part(number));
        }
        shell::ok("udevadm settle --timeout=30");
        init();
        quick(world, "");
        let mut live = Self { world, types, mounts: Vec::new() };
        live.wrap();
        live
    }

    fn wrap(&mut self) {
        let ids = self.types.iter().enumerate().filter(|(_, kind)| **kind != "swap");
        let parts: Vec<u32> = ids.map(|(place, _)| place as u32 + 1).collect();
        let links: Vec<String> =
            parts.iter().map(|number| by_uuid(&self.world.primary.part(*number))).collect();
        self.world.ok(&["wrap"]);
        shell::ok(&format!("udevadm wait --settle --timeout=60 {}", links.join(" ")));
        self.mounts = links.iter().map(|link| self.world.mount(link, "")).collect();
        for link in links {
            let node = fs::canonicalize(&link).unwrap();
            assert!(node.to_str().unwrap().starts_with("/dev/dm-"), "{link} leads to {}", node.display());
        }
    }

    /// A file in each for a writer.
    pub fn files(&self) -> Vec<PathBuf> {
        self.mounts.iter().map(|mount| mount.join("counter")).collect()
    }

    /// `dpsr sync`; its report.
    pub fn sync(&self, arguments: &[&str]) -> Value {
        self.world.json(&[&["sync"], arguments].concat())
    }

    fn unmount(&self) {
        self.mounts.iter().for_each(|mount| self.world.unmount(mount));
    }

    /// Asserts that a generation is clean, and returns the numbers that a writer left in it.
    fn numbers(&self, generation: &Value) -> Vec<u64> {
        let attached = Attached::new(self.world, generation);
        let mut numbers = Vec::new();
        for (number, kind) in (1..).zip(&self.types) {
            // What is left out has no device.
            if *kind == "swap" {
                continue;
            }
            let node = attached.part(number);
            if let Some(options) = clean(kind, node) {
                let at = self.world.mount(node, options);
                numbers.push(Writer::number(&at.join("counter")));
                self.world.unmount(&at);
            }
        }
        numbers
    }
}

/// The link that leads to the filesystem on `part`, whatever lies below it.
pub fn by_uuid(part: &str) -> String {
    let uuid = shell::ok(&format!("blkid --probe --output value --match-tag UUID {part}"));
    format!("/dev/disk/by-uuid/{}", uuid.trim())
}

/// Does not wait for quiet for long; `more` goes into the same part of the record.
pub fn quick(world: &World, more: &str) {
    let file = world.config().join("system.toml");
    let record = fs::read_to_string(&file).unwrap();
    let record = record.split("\n[live]").next().unwrap();
    fs::write(&file, format!("{record}\n[live]\nquiet = 5\nquiet_limit = 0\n{more}\n")).unwrap();
}

fn make(kind: &str, part: &str) {
    match kind {
        "vfat" => shell::ok(&format!("mkfs.fat {part}")),
        "swap" => shell::ok(&format!("mkswap {part}")),
        "btrfs" => shell::ok(&format!("mkfs.btrfs -q {part}")),
        "xfs" => shell::ok(&format!("{} {part}", shell::SMALL_XFS)),
        kind => shell::ok(&format!("mkfs.{kind} -q {part}")),
    };
}

/// Asserts that the filesystem on `part` is clean; how to mount it beside the one it is a copy of.
pub fn clean(kind: &str, part: &str) -> Option<&'static str> {
    match kind {
        "vfat" => clean_vfat(part),
        "ext4" => shell::ok(&format!("e2fsck -fn {part}")),
        "xfs" => clean_xfs(part),
        "btrfs" => shell::ok(&format!("btrfs check --readonly {part}")),
        _ => panic!("no check of {kind}"),
    };
    match kind {
        "ext4" => Some("ro,noload"),
        "xfs" => Some("ro,norecovery,nouuid"),
        // A btrfs is known by its UUID alone: the live one must be gone before its copy is mounted.
        "btrfs" => None,
        _ => Some("ro"),
    }
}

/// An XFS that was frozen has a log to be replayed, which mounting does: in a throw-away layer over it.
fn clean_xfs(part: &str) -> String {
    let at = "/run/dpsr-live/replayed";
    let layer = "layer=$(mktemp /dev/shm/layer.XXXXXX); truncate -s 64M $layer; \
                 over=$(losetup --find --show $layer); rm $layer";
    let table = format!("0 $(blockdev --getsz {part}) snapshot {part} $over N 8");
    shell::ok(&format!(
        "{layer}; echo \"{table}\" | dmsetup create replayed; losetup --detach $over; \
         mkdir -p {at}; mount -o nouuid /dev/mapper/replayed {at}; umount {at}; \
         xfs_repair -n /dev/mapper/replayed; dmsetup remove --retry replayed"
    ))
}

/// A FAT that is mounted says so of itself, and nothing else may be wrong with it.
fn clean_vfat(part: &str) -> String {
    let told = String::from_utf8(shell::run(&format!("fsck.fat -n {part}")).stdout).unwrap();
    let usual = ["fsck.fat ", " Automatically removing dirty bit", "Leaving filesystem", part];
    let fine = |line: &str| {
        line.is_empty() || line.contains("Dirty bit is set") || usual.iter().any(|it| line.starts_with(it))
    };
    assert!(!told.is_empty() && told.lines().all(fine), "{told}");
    told
}

/// A generation as block devices.
pub struct Attached<'a> {
    world: &'a World,
    generation: String,
    /// The whole disk, and each volume by its number.
    nodes: Vec<(String, String)>,
}

impl<'a> Attached<'a> {
    /// Attaches a generation, until dropped.
    pub fn new(world: &'a World, generation: &Value) -> Self {
        let generation = generation.to_string();
        let told = world.json(&["attach", &generation]);
        let text = |device: &Value, key: &str| device[key].as_str().unwrap_or_default().to_owned();
        let devices = told["devices"].as_array().unwrap().iter();
        let nodes = devices.map(|device| (text(device, "volume"), text(device, "node"))).collect();
        Self { world, generation, nodes }
    }

    /// The node of the whole disk.
    pub fn disk(&self) -> &str {
        &self.nodes[0].1
    }

    /// The node of a volume.
    pub fn part(&self, number: u32) -> &str {
        let volume = self.nodes[1..].iter().find(|(volume, _)| *volume == number.to_string());
        &volume.unwrap_or_else(|| panic!("no volume {number}: {:?}", self.nodes)).1
    }
}

impl Drop for Attached<'_> {
    fn drop(&mut self) {
        let done = self.world.run(&["detach", &self.generation]);
        assert!(done.status.success() || std::thread::panicking(), "{done:?}");
    }
}

/// Asserts that a writer had written these numbers at one instant.
pub fn one_instant(numbers: &[u64]) {
    let (least, most) = (numbers.iter().min().unwrap(), numbers.iter().max().unwrap());
    assert!(most - least <= 1, "{numbers:?}");
}

fn synced_under_a_writer(parts: &[(u32, &'static str)]) {
    in_vm(|world| {
        let live = Live::new(world, parts);
        let files = live.files();
        let writer = Writer::start(&files);
        shell::wait_for("two writes", PATIENCE, || Writer::number(&files[0]) >= 2);
        // By digest is the last one, when nobody writes any more.
        let reports = [live.sync(&[]), live.sync(&["--compare"])];
        let written = writer.stop();
        println!("{parts:?}: {written:?}, pause {:?} ms", reports.each_ref().map(|it| &it["pause_ms"]));
        let mut before = 0;
        for (number, report) in (1..).zip(&reports) {
            assert_eq!(report["generation"], number, "{report}");
            assert_eq!(report["quiet"], false, "{report}");
            assert_eq!(report["one_instant"], true, "{report}");
            let numbers = live.numbers(&report["generation"]);
            if let Some(&last) = numbers.last() {
                one_instant(&numbers);
                assert!(last > before && last <= written.last, "{numbers:?} after {before}");
                before = last;
            }
        }
        // Nobody writes any more: the next generation is what the disk is.
        live.unmount();
        let last = live.sync(&[])["generation"].as_u64().unwrap();
        world.ok(&["unwrap"]);
        if parts.iter().all(|(_, kind)| *kind != "swap") {
            world.generation_is_the_primary(last);
        }
        world.ok(&["scrub"]);
    });
}

#[test]
fn ext4_and_xfs_stand_at_one_instant() {
    synced_under_a_writer(&[(64, "ext4"), (96, "xfs"), (32, "swap")]);
}

#[test]
fn btrfs_and_vfat_under_a_writer() {
    synced_under_a_writer(&[(116, "btrfs"), (48, "vfat"), (64, "ext4")]);
}

/// A hook that hashes the snapshot as soon as writes go on, while everything is overwritten.
#[test]
fn a_generation_is_what_the_snapshot_reads_as() {
    in_vm(|world| {
        let live = Live::new(world, &[(64, "ext4")]);
        live.sync(&[]);
        let sum = "/run/dpsr-live/sum";
        // All of the filesystem, and no more: hashing is slow in emulation, and a hook has a deadline.
        let hash = |node: &str| format!("head -c 66M {node} | cksum");
        // The kernel's own node: the link may not be there yet.
        let node = "/dev/dm-$(dmsetup info --columns --noheadings --options minor $(dmsetup ls | \
                    grep --only-matching 'dpsr-[^-]*-snapshot'))";
        world.hook("post-thaw", &format!("{} >{sum}", hash(node)));
        let busy = live.mounts[0].join("busy");
        let overwrite = format!("dd if=/dev/urandom of={} bs=64k count=400 conv=fsync", busy.display());
        shell::ok(&overwrite);
        let writer = Writer::start(&live.files());
        let report = live.sync(&[]);
        writer.stop();
        let expected = shell::ok(&hash(Attached::new(world, &report["generation"]).disk()));
        assert_eq!(fs::read_to_string(sum).unwrap(), expected);
    });
}

#[test]
fn a_mounted_primary_that_is_not_wrapped_is_refused_with_what_to_do() {
    in_vm(|world| {
        let live = Live::new(world, &[(64, "ext4")]);
        live.unmount();
        world.ok(&["unwrap"]);
        let part = world.primary.part(1);
        let directory = world.mount(&part, "");
        let (code, told) = world.refused(&["sync"]);
        assert_eq!(code, 3, "{told}");
        assert!(told.contains(&format!("is mounted at {}", directory.display())), "{told}");
        assert!(told.contains("dpsr wrap"), "{told}");
        world.unmount(&directory);
        // Nobody uses it: no snapshot is needed.
        assert_eq!(live.sync(&[])["generation"], 1);
        world.generation_is_the_primary(1);
    });
}

/// Asserts that the primary is wrapped and no snapshot of it is held.
pub fn plain_again(world: &World) {
    let tables = shell::ok("dmsetup table");
    let held = |line: &str| line.contains("snapshot");
    assert!(!tables.lines().any(held), "{tables}");
    assert!(tables.lines().any(|line| line.contains("linear")), "{tables}");
    let loops = shell::ok("losetup --list --noheadings --output BACK-FILE");
    assert!(!loops.contains("memfd"), "{loops}");
    assert!(Path::new(&world.primary.node).exists());
}

/// Killed at any moment, a live sync leaves a machine that goes on at once, and the next sync is exact.
#[test]
fn a_killed_sync_holds_nothing_up() {
    in_vm(|world| {
        let live = Live::new(world, &[(64, "ext4"), (48, "vfat")]);
        live.sync(&[]);
        let files = live.files();
        let writer = Writer::start(&files);
        for wait in [50, 200, 400, 800, 1500] {
            let mut child = world.command(&["sync"]).spawn().unwrap();
            std::thread::sleep(Duration::from_millis(wait));
            child.kill().unwrap();
            child.wait().unwrap();
        }
        let report = live.sync(&[]);
        let written = writer.stop();
        println!("{written:?}");
        plain_again(world);
        one_instant(&live.numbers(&report["generation"]));
        world.ok(&["scrub"]);
    });
}

/// Whoever would have cleaned up is dead too: the snapshot stays, the primary goes on, and the next sync ends it.
#[test]
fn a_sync_killed_with_its_keeper_is_ended_by_the_next() {
    in_vm(|world| {
        let live = Live::new(world, &[(64, "ext4"), (48, "vfat")]);
        let files = live.files();
        let writer = Writer::start(&files);
        world.hook("post-thaw", "kill -KILL $(pgrep -f 'internal keep') $PPID");
        let killed = world.run(&["sync"]);
        assert_eq!(killed.status.code(), None, "{killed:?}");
        let tables = shell::ok("dmsetup table");
        assert!(tables.contains(" snapshot-origin ") && tables.contains(" snapshot "), "{tables}");
        let before = Writer::number(&files[1]);
        shell::wait_for("more writes", PATIENCE, || Writer::number(&files[1]) > before);

        world.no_hooks();
        let report = live.sync(&[]);
        let written = writer.stop();
        println!("{written:?}");
        plain_again(world);
        assert_eq!((&report["generation"], &report["one_instant"]), (&1.into(), &true.into()), "{report}");
        one_instant(&live.numbers(&report["generation"]));
    });
}

/// What a hook does while the moment is held: look whether the machine may sleep, write past the wrap.
#[test]
fn sleep_waits_for_a_sync_and_what_goes_past_the_wrap_is_told() {
    in_vm(|world| {
        let live = Live::new(world, &[(64, "ext4")]);
        let sleepers = || shell::ok("systemd-inhibit --list --no-legend --no-pager");
        let seen = "/run/dpsr-live/inhibitors";
        world.hook("post-thaw", &format!("systemd-inhibit --list --no-legend --no-pager >{seen}"));
        assert!(!sleepers().contains("dpsr"));
        assert_eq!(live.sync(&[])["one_instant"], true);
        let during = fs::read_to_string(seen).unwrap();
        let ours = during.lines().find(|line| line.starts_with("dpsr "));
        assert!(ours.is_some_and(|line| line.contains(" sleep ") && line.contains(" block")), "{during}");
        shell::wait_for("the end of what inhibits", PATIENCE, || !sleepers().contains("dpsr"));

        // Into the room behind the last partition.
        let raw = &world.primary.node;
        let past = format!("dd if=/dev/urandom of={raw} oflag=direct bs=4k count=1 seek=60000 status=none");
        world.hook("post-thaw", &past);
        let report = live.sync(&[]);
        assert_eq!((&report["generation"], &report["one_instant"]), (&2.into(), &false.into()), "{report}");
        world.no_hooks();
        let report = live.sync(&[]);
        assert_eq!((&report["generation"], &report["one_instant"]), (&3.into(), &true.into()), "{report}");
        let told = world.json(&["generations"]);
        let told: Vec<_> =
            told["generations"].as_array().unwrap().iter().map(|it| &it["one_instant"]).collect();
        assert_eq!(told, [true, false, true]);
    });
}

/// Killed while it fills the image, and killed when that is full and the moment is held: a copy that was filled is
/// not copied again.
#[test]
fn a_first_copy_that_is_killed_goes_on_where_it_was() {
    in_vm(|world| {
        let live = Live::new(world, &[(96, "ext4")]);
        let bulk = live.mounts[0].join("bulk");
        shell::ok(&format!("dd if=/dev/urandom of={} bs=1M count=48 conv=fsync status=none", bulk.display()));
        let writer = Writer::start(&live.files());
        let name = world.dpsr.node.trim_start_matches("/dev/");
        let written = || {
            let counts = fs::read_to_string(format!("/sys/block/{name}/stat")).unwrap();
            counts.split_whitespace().nth(6).unwrap().parse::<u64>().unwrap() * 512
        };
        let start = written();
        let mut child = world.command(&["sync"]).spawn().unwrap();
        shell::wait_for("half of the copy", PATIENCE, || written() > start + (24 << 20));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(written() < start + (48 << 20), "it was killed too late");
        let filling = || {
            let status = world.json(&["status"]);
            assert_eq!(
                (&status["state"], &status["generation"]),
                (&"filling".into(), &Value::Null),
                "{status}"
            );
        };
        filling();

        world.hook("post-thaw", "kill -KILL $PPID");
        assert_eq!(world.run(&["sync"]).status.code(), None);
        filling();
        world.no_hooks();
        let report = live.sync(&[]);
        assert_eq!((&report["generation"], &report["one_instant"]), (&1.into(), &true.into()), "{report}");
        let copied = report["bytes_written_image"].as_u64().unwrap();
        assert!(copied < 24 << 20, "{copied} bytes were written once more");
        writer.stop();
        plain_again(world);
        assert!(live.numbers(&report["generation"])[0] > 0);

        let attached = Attached::new(world, &report["generation"]);
        let (code, told) = world.refused(&["sync"]);
        assert!(code == 4 && told.contains("generation 1 is attached"), "{told}");
        drop(attached);
        plain_again(world);
        live.unmount();
        assert_eq!(live.sync(&[])["generation"], 2);
        world.ok(&["unwrap"]);
        world.generation_is_the_primary(2);
    });
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Generations as block devices: what the kernel shows is what an export writes, at any age, and nobody but
//! who asked sees it.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use dpsr::changes::Mode;
use dpsr::changes::source::Moving;
use dpsr::format::moment::Moment;
use dpsr::open;
use dpsr::progress::Silent;
use dpsr::sync::{Request, sync};
use dpsr::units::CHUNK;

use crate::shell;
use crate::world::{World, in_vm};

/// What a test looks at in the answer of `dpsr attach --json`.
struct Shown {
    /// The kernel's node of the whole disk.
    disk: String,
    /// Number and node of each volume.
    volumes: Vec<(String, String)>,
}

fn attach(world: &World, generation: u64) -> Shown {
    let told = world.json(&["attach", &generation.to_string()]);
    let devices = told["devices"].as_array().unwrap();
    let text = |device: &serde_json::Value, key: &str| device[key].as_str().unwrap().to_owned();
    for device in devices {
        // The link or, where udev has had no time for it yet, the kernel's node.
        assert_eq!(fs::canonicalize(text(device, "path")).unwrap().to_str(), device["node"].as_str());
    }
    let volumes = devices[1..].iter().map(|device| (text(device, "volume"), text(device, "node")));
    Shown { disk: text(&devices[0], "node"), volumes: volumes.collect() }
}

/// `dpsr export` and the device, byte for byte.
fn must_equal(world: &World, generation: u64, volume: &str, node: &str) {
    let export = format!("{:?}", world.command(&["export", &generation.to_string(), "-"])).replace('"', "'");
    shell::ok(&format!("{export} {volume} 2>/run/told | cmp - {node}"));
}

fn snapshots() -> usize {
    shell::ok("dmsetup table").lines().filter(|line| line.contains(" snapshot ")).count()
}

/// Every link below `/dev/disk` that leads to a device of a generation.
pub fn links() -> String {
    let find = "for link in /dev/disk/*/*; do \
        case $(cat /sys/class/block/$(basename $(readlink -f $link))/dm/uuid 2>/dev/null) in \
        *DPSR-VIEW-*) echo $link;; esac; done";
    shell::ok(find)
}

pub fn nothing_is_left() {
    assert_eq!(shell::ok("dmsetup ls | grep dpsr-view || true"), "");
    assert_eq!(shell::ok("losetup --list --noheadings"), "");
}

#[test]
fn every_generation_is_what_an_export_writes() {
    in_vm(|world| {
        world.primary.partition(&["size=8M, type=U", "size=40M, type=L", "size=16M, type=S"]);
        let part = |number| world.primary.part(number);
        shell::ok(&format!("mkfs.fat {}; mkfs.ext4 -q {}; mkswap {}", part(1), part(2), part(3)));
        world.init(&[]);
        let sync = || drop(world.ok(&["sync", "--offline"]));
        sync();
        for size in ["1M", "3M"] {
            let directory = world.mount(&part(2), "");
            shell::ok(&format!("head -c {size} /dev/urandom >{}/noise{size}", directory.display()));
            world.unmount(&directory);
            sync();
        }
        // The swap goes, a partition comes that begins where it was, and what was there is kept from now on.
        let disk = &world.primary.node;
        shell::ok(&format!("sfdisk --quiet --delete {disk} 3; udevadm settle"));
        let add = "echo 'start=100352, size=70001, type=L' | sfdisk --quiet --append";
        shell::ok(&format!("{add} {disk}; udevadm settle; udevadm wait --settle --timeout=60 {}", part(3)));
        shell::ok(&format!("head -c 5M /dev/urandom >{}", part(3)));
        sync();
        shell::ok(&format!("head -c 6M /dev/urandom >{}", part(3)));
        sync();

        for generation in 1..=5 {
            let shown = attach(world, generation);
            assert_eq!(snapshots(), generation as usize);
            // Both take long in emulation: the whole shows that the bytes are right, volumes where each lies.
            let whole = [1, 4].contains(&generation);
            if whole {
                must_equal(world, generation, "", &shown.disk);
            }
            let numbers: Vec<&str> = shown.volumes.iter().map(|(number, _)| number.as_str()).collect();
            assert_eq!(numbers, if generation < 4 { &["1", "2"][..] } else { &["1", "2", "3"] });
            for (number, node) in &shown.volumes {
                if !whole {
                    must_equal(world, generation, &format!("--volume {number}"), node);
                }
                assert_eq!(shell::ok(&format!("blockdev --getro {node}")).trim(), "1");
                assert!(
                    !shell::run(&format!("dd if=/dev/zero of={node} count=1 oflag=direct")).status.success()
                );
            }
        }
        shell::ok("udevadm trigger --settle --subsystem-match=block; udevadm settle");
        assert_eq!(links(), "");
        world.ok(&["detach", "--all"]);
        nothing_is_left();
    });
}

#[test]
fn an_attached_generation_postpones_whoever_writes() {
    in_vm(|world| {
        shell::ok(&format!("mkfs.ext4 -q {} 16M", world.primary.node));
        world.init(&[]);
        world.ok(&["sync", "--offline"]);
        world.ok(&["sync", "--offline"]);
        let first = attach(world, 1);
        assert_eq!(attach(world, 1).disk, first.disk, "attaching twice is attaching once");
        for words in [&["sync", "--offline"][..], &["scrub", "--repair"]] {
            let (code, told) = world.refused(words);
            assert_eq!(code, 4, "{told}");
            assert!(told.contains("generation 1 is attached"), "{told}");
            assert!(told.contains("'dpsr detach 1' first"), "{told}");
        }
        let words = world.init_words(&["--wipe"]);
        let (code, told) = world.refused(&words.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(code, 3, "{told}");
        world.ok(&["generations"]);
        world.ok(&["attach", "2"]);
        let (code, told) = world.refused(&["detach"]);
        assert!(code == 2 && told.contains("generations 1, 2 are attached"), "{told}");
        world.ok(&["detach", "2"]);

        let directory = world.mount(&first.disk, "ro,noload");
        let (code, told) = world.refused(&["detach"]);
        assert!(code == 3 && told.contains(&format!("mounted at {}", directory.display())), "{told}");
        assert_eq!(attach(world, 1).disk, first.disk, "it is still whole");
        world.unmount(&directory);
        // Killed half way: what is left is taken away, or made whole.
        shell::ok("dmsetup remove --noudevsync $(dmsetup ls | awk '/g1\\t/ { print $1 }')");
        attach(world, 1);
        world.ok(&["detach", "1"]);
        nothing_is_left();
        let (code, told) = world.refused(&["detach", "1"]);
        assert_eq!(code, 9, "{told}");
        assert_eq!(world.json(&["sync", "--offline"])["generation"], 3);
    });
}

/// Makes generations of image files, each of which differs from the one before in one chunk, without a process
/// for each: that would take an hour of emulation.
fn many_generations(world: &World, primary: &Path, count: u64) {
    let pair = open::pair_offline(world.config(), None, false).unwrap();
    let file = fs::File::options().write(true).open(primary).unwrap();
    for generation in 1..=count {
        if generation > 1 {
            file.write_all_at(&generation.to_le_bytes(), generation * 37 % 64 * CHUNK).unwrap();
        }
        let request = Request {
            mode: Mode::Digest,
            no_undo: false,
            moving: Moving::All,
            dry_run: false,
            time: generation,
            moment: Arc::new(Moment::default()),
        };
        assert_eq!(sync(&pair.disks, &request, &Silent).unwrap().generation.0, generation);
    }
}

#[test]
fn the_oldest_of_many_generations_takes_one_snapshot() {
    the_oldest_of(50);
}

#[test]
#[ignore = "takes minutes"]
fn the_oldest_of_500_generations_takes_one_snapshot() {
    the_oldest_of(500);
}

/// Also the case of a DPSR disk that is an image file.
fn the_oldest_of(generations: u64) {
    in_vm(|world| {
        let memory = tempfile::tempdir_in("/dev/shm").unwrap();
        let [primary, first, dpsr] = ["primary", "first", "dpsr"].map(|name| memory.path().join(name));
        let [p, f, d] = [&primary, &first, &dpsr].map(|path| path.to_str().unwrap());
        shell::ok(&format!("head -c 4M /dev/urandom >{p}; cp {p} {f}; truncate -s 400M {d}"));
        world.ok(&["init", "--no-boot", "--primary", p, "--dpsr", d, "--confirm", "419430400"]);
        many_generations(world, &primary, generations);
        let shown = attach(world, 1);
        assert_eq!(snapshots(), 1);
        shell::ok(&format!("cmp {f} {}", shown.disk));
        let middle = attach(world, generations / 2);
        must_equal(world, generations / 2, "", &middle.disk);
        let (code, told) = world.refused(&["sync", "--offline"]);
        assert_eq!(code, 4, "{told}");
        world.ok(&["detach", "--all"]);
        nothing_is_left();
        assert_eq!(world.json(&["sync", "--offline"])["generation"], generations + 1);
    });
}

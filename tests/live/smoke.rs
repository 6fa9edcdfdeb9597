// SPDX-License-Identifier: MIT OR Apache-2.0
//! What an offline pair must do on real disks: be known by serial number, copy exactly, stay unseen.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, id};
use std::time::Duration;

use dpsr::sys::memory;
use dpsr::units::{Bytes, MIB};

use crate::shell;
use crate::world::{World, in_vm};
use crate::writer::Writer;

/// How long a write may take in emulation, on a machine that is busy with other things too.
const PATIENCE: Duration = Duration::from_secs(30);

/// An ESP, and an ext4 with something in it. Both are unmounted again.
fn system(world: &World) {
    world.primary.partition(&["size=40M, type=U", "size=128M, type=L"]);
    let (esp, root) = (world.primary.part(1), world.primary.part(2));
    shell::ok(&format!("mkfs.fat -F 32 {esp}; mkfs.ext4 -q {root}"));
    let directory = world.mount(&root, "");
    let there = directory.display();
    shell::ok(&format!("head -c 8M /dev/urandom >{there}/noise; echo here >{there}/text"));
    world.unmount(&directory);
}

#[test]
fn a_pair_is_known_by_its_serial_numbers() {
    in_vm(|world| {
        system(world);
        world.init(&[]);
        let file = world.config().join("system.toml");
        let record = fs::read_to_string(&file).unwrap();
        for disk in [&world.primary, &world.dpsr] {
            let (serial, path) = (disk.serial, disk.link());
            assert!(record.contains(&format!("serial = \"{serial}\"\n")), "{record}");
            assert!(record.contains(&format!("path = \"{path}\"\n")), "{record}");
        }
        let done = world.json(&["sync", "--offline"]);
        assert_eq!(done["generation"], 1, "{done}");
        world.generation_is_the_primary(1);

        // Each name has come to mean the other disk, as after a boot that found them in another order.
        let [primary, dpsr] = [&world.primary, &world.dpsr].map(|disk| format!("\"{}\"", disk.link()));
        let swapped = record.replace(&primary, "?").replace(&dpsr, &primary).replace('?', &dpsr);
        assert_ne!(swapped, record);
        fs::write(&file, swapped).unwrap();
        let directory = world.mount(&world.primary.part(2), "");
        fs::write(directory.join("text"), "there\n").unwrap();
        world.unmount(&directory);
        assert_eq!(world.json(&["sync", "--offline"])["generation"], 2);
        world.generation_is_the_primary(2);
    });
}

#[test]
fn nothing_of_the_copy_is_seen() {
    in_vm(|world| {
        system(world);
        world.init(&[]);
        world.ok(&["sync", "--offline"]);
        shell::ok("udevadm trigger --settle --subsystem-match=block");
        let probed = format!("blkid --probe --output full {}*", world.dpsr.node);
        let seen = String::from_utf8(shell::run(&probed).stdout).unwrap();
        assert!(!seen.contains("TYPE=\"ext4\"") && !seen.contains("TYPE=\"vfat\""), "{seen}");
        for (kind, number) in [("uuid", 1), ("uuid", 2), ("partuuid", 1), ("partuuid", 2)] {
            let part = world.primary.part(number);
            let id = shell::ok(&format!("lsblk --noheadings --output {kind} {part}"));
            let link = format!("/dev/disk/by-{kind}/{}", id.trim());
            assert_eq!(fs::canonicalize(&link).unwrap().to_str(), Some(&*part), "{link}");
        }
    });
}

#[test]
fn a_mounted_dpsr_disk_is_refused_by_name() {
    in_vm(|world| {
        system(world);
        world.dpsr.partition(&["size=64M, type=L"]);
        let part = world.dpsr.part(1);
        shell::ok(&format!("mkfs.ext4 -q {part}"));
        let directory = world.mount(&part, "");
        let words = world.init_words(&["--wipe"]);
        let (code, told) = world.refused(&words.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(code, 3, "{told}");
        let name = part.trim_start_matches("/dev/");
        assert!(told.contains(&format!("{name} is mounted at {}", directory.display())), "{told}");
        assert!(!world.config().join("system.toml").exists());
        world.unmount(&directory);
        world.init(&["--wipe"]);
    });
}

#[test]
fn a_mounted_primary_is_refused_and_its_writers_go_on() {
    in_vm(|world| {
        system(world);
        world.init(&[]);
        let directory = world.mount(&world.primary.part(2), "");
        let files = ["one", "two"].map(|name| directory.join(name));
        let writer = Writer::start(&files);
        shell::wait_for("two writes", PATIENCE, || Writer::number(&files[1]) >= 2);
        let (code, told) = world.refused(&["sync", "--offline"]);
        assert_eq!(code, 3, "{told}");
        assert!(told.contains(&format!("is mounted at {}", directory.display())), "{told}");
        let seen = Writer::number(&files[0]);
        shell::wait_for("more writes", PATIENCE, || Writer::number(&files[0]) > seen);
        let written = writer.stop();
        assert_eq!(files.map(|file| Writer::number(&file)), [written.last; 2]);
        assert!(written.longest < PATIENCE, "{written:?}");
    });
}

/// Whoever stops a process, and lets it go on, interrupts what the kernel does for it.
#[test]
fn room_in_memory_is_taken_by_a_process_that_is_stopped_meanwhile() {
    in_vm(|_| {
        let stops = "for _ in $(seq 20); do kill -STOP $0; kill -CONT $0; sleep 0.2; done";
        let mut stopping = Command::new("sh").args(["-c", stops, &id().to_string()]).spawn().unwrap();
        while stopping.try_wait().unwrap().is_none() {
            let file = memory::file("test").unwrap();
            memory::allocate(&file, Bytes::ZERO, Bytes(64 * MIB)).unwrap();
            assert_eq!(file.metadata().unwrap().blocks() * 512, 64 * MIB);
        }
    });
}

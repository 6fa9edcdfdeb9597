// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pre-images that go elsewhere than to memory: to the DPSR disk, or into a file on a third disk.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::shell;
use crate::sync::{Attached, Live, clean, plain_again, quick};
use crate::world::{World, in_vm};
use crate::writer::Writer;

/// Where a hook leaves what it saw.
const SEEN: &str = "/run/dpsr-live/seen";

/// Where it leaves what was complained of.
const TOLD: &str = "/run/dpsr-live/told";

/// Overwrites a file in place, past the page cache.
fn overwrite(file: &Path, mib: u64) -> String {
    let file = file.display();
    format!("dd if=/dev/urandom of={file} bs=1M count={mib} oflag=direct conv=notrunc,fsync status=none")
}

fn checksum(file: &Path) -> String {
    shell::ok(&format!("cksum <{}", file.display()))
}

/// What a file held in a generation, whose filesystem must be clean, and what the writer had written.
fn kept(world: &World, generation: &Value, name: &str) -> (String, u64) {
    let attached = Attached::new(world, generation);
    let options = clean("ext4", attached.part(1)).unwrap();
    let at = world.mount(attached.part(1), options);
    let found = (checksum(&at.join(name)), Writer::number(&at.join("counter")));
    world.unmount(&at);
    found
}

fn nothing_is_left(world: &World) {
    plain_again(world);
    assert_eq!(shell::ok("losetup --list --noheadings"), "");
}

#[test]
fn on_the_dpsr_disk_they_keep_the_moment_and_too_many_cost_the_sync() {
    in_vm(|world| {
        let live = Live::new(world, &[(96, "ext4")]);
        quick(world, "cow = 'dpsr'\ncow_size = 33554432");
        let bulk = live.mounts[0].join("bulk");
        shell::ok(&overwrite(&bulk, 16));
        // Which disk the pre-images are on, as the kernel has it.
        let look = format!("losetup --list --noheadings --output BACK-FILE >{SEEN}");
        // The loop device is no second DPSR disk, to nobody: not to dpsr, and not to who looks for signatures.
        let told = format!(
            "{} status --config-dir {} >/dev/null 2>{TOLD}; blkid --probe /dev/loop0 >>{TOLD}",
            env!("CARGO_BIN_EXE_dpsr"),
            world.config().display()
        );
        world.hook("post-thaw", &format!("{look}\n{told}\n{}", overwrite(&bulk, 16)));
        let writer = Writer::start(&live.files());
        let mut last = 0;
        for generation in 1..=2 {
            let before = checksum(&bulk);
            let report = live.sync(&[]);
            assert_eq!((&report["generation"], &report["one_instant"]), (&generation.into(), &true.into()));
            nothing_is_left(world);
            assert_eq!(fs::read_to_string(SEEN).unwrap().trim(), world.dpsr.node);
            assert_eq!(fs::read_to_string(TOLD).unwrap(), "");
            assert_ne!(checksum(&bulk), before, "nothing was overwritten");
            let (kept, number) = kept(world, &report["generation"], "bulk");
            assert_eq!(kept, before, "pre-images were lost");
            assert!(number > last, "{number} after {last}");
            last = number;
        }

        quick(world, "cow = 'dpsr'\ncow_size = 8388608");
        let (code, told) = world.refused(&["sync"]);
        assert_eq!(code, 5, "{told}");
        assert!(told.contains("all of the 8 MiB") && told.contains("set cow_size to"), "{told}");
        assert!(told.contains("intact"), "{told}");
        nothing_is_left(world);
        assert_eq!(world.json(&["status"])["state"], "clean");

        // Killed with what would end it, it leaves a loop device over the DPSR disk, which is found all the same.
        quick(world, "cow = 'dpsr'\ncow_size = 33554432");
        world.hook("post-thaw", "kill -KILL $(pgrep -f 'internal keep') $PPID");
        assert_eq!(world.run(&["sync"]).status.code(), None);
        assert_ne!(shell::ok("losetup --list --noheadings"), "");
        world.no_hooks();
        assert_eq!(live.sync(&[])["generation"], 3);
        assert!(kept(world, &3.into(), "bulk").1 > last);
        writer.stop();
        world.ok(&["scrub"]);
        nothing_is_left(world);
    });
}

#[test]
fn in_a_file_they_lie_on_a_third_disk_or_nowhere() {
    in_vm(|world| {
        let live = Live::new(world, &[(64, "ext4")]);
        let bulk = live.mounts[0].join("bulk");
        shell::ok(&overwrite(&bulk, 8));
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let path = |folder: &Path| {
            let file = folder.join("pre-images");
            quick(world, &format!("cow = {{ path = '{}' }}\ncow_size = 16777216", file.display()));
            file
        };
        let file = path(folder.path());
        world.hook(
            "post-thaw",
            &format!("stat --format %s {} >{SEEN}\n{}", file.display(), overwrite(&bulk, 8)),
        );
        let before = checksum(&bulk);
        let writer = Writer::start(&live.files());
        assert_eq!(live.sync(&[])["generation"], 1);
        writer.stop();
        assert_eq!(kept(world, &1.into(), "bulk").0, before, "pre-images were lost");
        assert!(fs::read_to_string(SEEN).unwrap().trim().parse::<u64>().unwrap() > 16 << 20);
        assert_eq!(fs::metadata(&file).unwrap().len(), 0, "it is not empty again");
        nothing_is_left(world);

        let refused = |folder: &Path, words: &[&str]| {
            let file = path(folder);
            let (code, told) = world.refused(&["sync"]);
            assert_eq!(code, 3, "{told}");
            assert!(words.iter().all(|word| told.contains(word)), "{words:?}: {told}");
            assert!(!file.exists(), "{words:?}");
        };
        refused(&live.mounts[0], &["it lies on the primary", "name a place on a third disk"]);
        // Where its partitions leave room on the DPSR disk, somebody made a filesystem.
        let over = format!("losetup --find --show --offset 65536 --sizelimit 917504 {}", world.dpsr.node);
        let device = shell::ok(&over).trim().to_owned();
        shell::ok(&format!("mkfs.fat {device}"));
        let on_dpsr = world.mount(&device, "");
        refused(&on_dpsr, &["it backs the loop device", "stop that use first"]);
        world.unmount(&on_dpsr);
        shell::ok(&format!("losetup --detach {device}"));
        nothing_is_left(world);
        assert_eq!(world.json(&["status"])["generation"], 1);
    });
}

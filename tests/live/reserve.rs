// SPDX-License-Identifier: MIT OR Apache-2.0
//! A reserve on a primary in use: it is left out, and a sync that finds it elsewhere copies nothing.

use std::fs;
use std::ops::Range;
use std::path::Path;

use crate::shell;
use crate::sync::{Attached, Live, by_uuid, clean, plain_again};
use crate::world::{World, in_vm};
use crate::writer::Writer;

/// What the record says is left out, in MiB from the start of the disk; what is less is not counted.
fn left_out(world: &World) -> Vec<Range<i64>> {
    let text = fs::read_to_string(world.config().join("system.toml")).unwrap();
    let record: toml::Table = text.parse().unwrap();
    let mib = |value: &toml::Value, up: i64| (value.as_integer().unwrap() + up) >> 20;
    let ranges = record["reserve"]["left_out"].as_array().unwrap();
    ranges.iter().map(|range| mib(&range[0], (1 << 20) - 1)..mib(&range[1], 0)).collect()
}

/// Whether a device holds nothing but zeros there.
fn zeros(device: &str, mib: &Range<i64>) -> bool {
    let (skip, bytes) = (mib.start << 20, (mib.end - mib.start) << 20);
    shell::run(&format!("cmp --ignore-initial={skip}:0 --bytes={bytes} {device} /dev/zero")).status.success()
}

#[test]
fn a_reserve_is_left_out_and_one_that_changed_is_seen_in_time() {
    in_vm(|world| {
        let live = Live::paired(world, &[(192, "ext4")], || {
            // Where it is recorded is where it has to be: at the mount point that it has ever after.
            let at = world.mount(&by_uuid(&world.primary.part(1)), "");
            world.init(&["--reserve", "48M"]);
            world.unmount(&at);
        });
        let left_out = left_out(world);
        assert!(left_out.iter().map(|mib| mib.end - mib.start).sum::<i64>() > 32, "{left_out:?}");
        // What is in it means nothing, and is not copied.
        for Range { start, end } in &left_out {
            let count = (end - start).max(0);
            shell::ok(&format!(
                "head -c {count}M /dev/urandom | dd of={} bs=1M seek={start} oflag=direct iflag=fullblock status=none",
                world.primary.node
            ));
        }
        let writer = Writer::start(&live.files());
        assert_eq!(live.sync(&[])["generation"], 1);
        intact(world, 1, &left_out);

        let file = live.mounts[0].join(".dpsr-reserve");
        let (grow, back) = (moved(&file), as_before(&file));
        world.hook("pre-freeze", &grow);
        refused(world, "it has moved on its disk");
        world.no_hooks();
        refused(world, "it has moved on its disk");
        shell::ok(&format!("chattr -i {}", file.display()));
        refused(world, "it is not immutable any more");
        shell::ok(&back);
        let elsewhere = live.mounts[0].join("elsewhere");
        let rename = |from: &Path, to: &Path| {
            let (from, to) = (from.display(), to.display());
            shell::ok(&format!("chattr -i {from}; mv {from} {to}; chattr +i {to}"));
        };
        rename(&file, &elsewhere);
        refused(world, "it is not there any more");
        rename(&elsewhere, &file);
        assert_eq!(live.sync(&[])["generation"], 2);
        writer.stop();
        intact(world, 1, &left_out);
        intact(world, 2, &left_out);
        world.ok(&["scrub"]);
    });
}

/// Another piece at its end: the same file, elsewhere too.
fn moved(file: &Path) -> String {
    let file = file.display();
    format!("chattr -i {file}; fallocate --offset 100MiB --length 64KiB {file}; chattr +i {file}")
}

fn as_before(file: &Path) -> String {
    let file = file.display();
    format!("chattr -i {file}; truncate --size 48M {file}; chattr +i {file}")
}

fn refused(world: &World, why: &str) {
    let (code, told) = world.refused(&["sync"]);
    assert_eq!(code, 3, "{told}");
    assert!(told.contains(why) && told.contains("intact"), "{why}: {told}");
    plain_again(world);
}

/// Asserts that a generation is clean, and nothing of the reserve is in it.
fn intact(world: &World, generation: u64, left_out: &[Range<i64>]) {
    let attached = Attached::new(world, &generation.into());
    clean("ext4", attached.part(1));
    assert!(left_out.iter().all(|mib| zeros(attached.disk(), mib)), "generation {generation}");
    assert!(!left_out.iter().any(|mib| zeros(&world.primary.node, mib)));
}

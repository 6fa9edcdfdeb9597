// SPDX-License-Identifier: MIT OR Apache-2.0
//! Disks with logical blocks of 512 and of 4096 bytes.

use crate::loops::{Disks, with_loops};
use crate::tables::{Part, parts, sfdisk};
use crate::world::{World, stamped};

const SIZE: u64 = 8 << 20;

fn bare(disks: &Disks, block: u64, dpsr_block: u64) -> World<'_> {
    // Without a table nothing but its size tells one loop device from another: each test has its own.
    let size = SIZE + 8 * block + 16 * dpsr_block;
    let primary = disks.disk_with_blocks("primary", size, block);
    primary.write(0, &stamped(size, 5));
    let dpsr = disks.disk_with_blocks("dpsr", 40 << 20, dpsr_block);
    World::new(disks, primary, dpsr, vec![Part::whole(size)])
}

#[test]
fn loop_4kn_onto_4kn() {
    with_loops(|disks| {
        let mut world = bare(disks, 4096, 4096);
        world.init(&[]);
        world.story(4096);
    });
}

#[test]
fn loop_4kn_onto_512() {
    with_loops(|disks| {
        let mut world = bare(disks, 4096, 512);
        world.init(&[]);
        world.story(4096);
        world.check_restore(2, 512);
    });
}

#[test]
fn loop_512_onto_4kn_is_refused() {
    with_loops(|disks| {
        let world = bare(disks, 512, 4096);
        let (primary, dpsr) = (world.primary.path.to_str().unwrap(), world.dpsr.path.to_str().unwrap());
        let before = world.dpsr.read();
        let size = world.dpsr.size().to_string();
        let refused =
            world.refused(&["init", "--no-boot", "--primary", primary, "--dpsr", dpsr, "--confirm", &size]);
        let text = format!(
            "dpsr: preparing the DPSR disk {dpsr}: its blocks have 4096 bytes, and those of the primary only \
             512; nothing was written; use a disk with logical blocks of 512 bytes"
        );
        assert_eq!(refused, (3, text));
        assert!(world.dpsr.read() == before);
    });
}

#[test]
fn loop_512_is_not_restored_onto_4kn() {
    with_loops(|disks| {
        let mut world = bare(disks, 512, 512);
        world.init(&[]);
        world.sync(&[]);
        let target = disks.disk_with_blocks("target", 2 * SIZE, 4096);
        let (path, size) = (target.path.to_str().unwrap(), target.size().to_string());
        let refused = world.refused(&["restore", "1", "--to", path, "--confirm", &size]);
        let text = format!(
            "dpsr: restoring onto {path}: its blocks have 4096 bytes, and those of the primary 512; nothing was \
             written; use a disk with logical blocks of 512 bytes"
        );
        assert_eq!(refused, (3, text));
        assert!(target.read().iter().all(|byte| *byte == 0));
    });
}

const GPT: &str = "label: gpt\nfirst-lba: 6\n\
                   start=6, size=1\nstart=7, size=301\nstart=308, size=97\nstart=405, size=900\n";

#[test]
fn loop_a_gpt_in_blocks_of_4096() {
    with_loops(|disks| {
        let primary = disks.disk_with_blocks("primary", SIZE, 4096);
        primary.write(0, &stamped(SIZE, 6));
        sfdisk(&primary, &[], GPT);
        let all = parts(&primary, &[]);
        assert_eq!((all.len(), all[0].size), (4, 4096));
        World::paired(disks, primary, 40 << 20, all, &["2"]).story(4096);
    });
}

/// The image of such a disk is a file that knows nothing of its blocks; the table in it tells.
#[test]
fn loop_an_image_file_of_a_4kn_disk() {
    with_loops(|disks| {
        let source = disks.disk_with_blocks("source", SIZE, 4096);
        source.write(0, &stamped(SIZE, 7));
        sfdisk(&source, &[], GPT);
        let all = parts(&source, &[]);
        disks.detach(&source);
        let primary = crate::loops::Disk { path: source.file.clone(), file: source.file };
        let dpsr = disks.disk_with_blocks("dpsr", 40 << 20, 4096);
        let mut world = World::new(disks, primary, dpsr, all);
        world.init(&["3"]);
        world.story(4096);
    });
}

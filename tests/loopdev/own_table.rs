// SPDX-License-Identifier: MIT OR Apache-2.0
//! The DPSR disk's own partition table: a copy of it that rots, or that somebody wipes, is found and comes back.

use std::os::unix::fs::FileExt;

use crate::loops::on_both;
use crate::tables::{parts, sfdisk};
use crate::world::{World, stamped};

const SIZE: u64 = 12 << 20;
const DPSR: u64 = 64 << 20;
/// Where the first copy ends: MBR, header, 128 entries of 128 bytes.
const FIRST: usize = 34 * 512;

#[test]
fn loop_the_dpsr_disks_own_table_is_mended() {
    on_both(|disks| {
        let primary = disks.disk("primary", SIZE);
        primary.write(0, &stamped(SIZE, 5));
        sfdisk(&primary, &[], "label: gpt\nstart=2048, size=4000\n");
        let all = parts(&primary, &[]);
        let mut world = World::paired(disks, primary, DPSR, all, &[]);
        world.sync(&[]);
        let file = world.dpsr.file.clone();
        let file = std::fs::File::options().read(true).write(true).open(file).unwrap();
        let bytes = |at: u64, len: usize| {
            let mut bytes = vec![0; len];
            file.read_exact_at(&mut bytes, at).unwrap();
            bytes
        };
        let (first, last) = (bytes(0, FIRST), bytes(DPSR - 512, 512));
        // What is wiped from the boot code on takes the protective MBR with it.
        let damages: [(u64, &[u8], u64, u64); 3] =
            [(512 + 60, &[0xff], 0, 1), (440, &[0; FIRST - 440], 0, 2), (DPSR - 512, &[0; 512], 1, 1)];
        for (at, damage, copy, found) in damages {
            world.dpsr.write(at, damage);
            let (code, told) = world.refused(&["scrub"]);
            assert!(code == 6 && told.contains(&format!("{found} of its")), "{code} {told}");
            let report = world.json(&["scrub", "--repair"]);
            let damage = &report["damages"][0];
            assert_eq!(
                (damage["what"].as_str(), damage["copy"].as_u64()),
                (Some("partition-table"), Some(copy))
            );
            assert_eq!(
                (report["found"].as_u64(), report["repaired"].as_u64()),
                (Some(found), Some(found)),
                "{report}"
            );
            assert!(bytes(0, FIRST) == first && bytes(DPSR - 512, 512) == last, "it is not what it was");
            world.ok(&["scrub"]);
        }
        world.check();
    });
}

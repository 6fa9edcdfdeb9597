// SPDX-License-Identifier: MIT OR Apache-2.0
//! The digest table never says of a chunk what the image does not hold.

use std::sync::Arc;

use dpsr::changes::Mode;
use dpsr::format::superblock::{Owner, State};
use dpsr::store::Store;
use dpsr::units::{CHUNK, MIB};

use crate::world::{World, stamped, volume};

const SIZE: usize = 4 * MIB as usize;

#[test]
fn a_kept_range_that_comes_back_as_zeros_has_no_stale_digests() {
    for mode in [Mode::Digest, Mode::Compare] {
        let mut world = World::new(stamped(SIZE, 1), vec![], 40 * MIB, |disk| Arc::new(disk));
        world.sync(Mode::Digest).unwrap();
        world.disks.volumes = vec![volume("1", MIB, MIB, true)];
        world.sync(Mode::Digest).unwrap();
        world.disks.volumes = vec![];
        world.write(MIB as usize, &vec![0; MIB as usize]);
        world.sync(mode).unwrap();
        world.check();
        assert_eq!(world.sync(Mode::Digest).unwrap().rotten_chunks, 0);
        world.check();
    }
}

#[test]
fn a_first_copy_cut_off_before_its_commit_keeps_its_digests() {
    let mut world = World::new(stamped(SIZE, 1), vec![], 40 * MIB, |disk| Arc::new(disk));
    world.sync(Mode::Digest).unwrap();
    // The state in which a power cut between the last mark and the commit leaves it.
    let (disk, partition) = (world.disks.dpsr.clone(), world.disks.partition.clone());
    let mut store = Store::open(disk, partition, Owner::default()).unwrap();
    let mut index = store.contents.index.clone();
    index.generations.clear();
    store.change(State::Filling { done: SIZE as u64 / CHUNK }, index).unwrap();
    world.write(MIB as usize, &vec![0; MIB as usize]);
    world.sync(Mode::Digest).unwrap();
    world.check();
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! What `status` says of a copy that is not as it should be, and of the last scrub.

use std::os::unix::fs::FileExt;
use std::sync::Arc;

use dpsr::changes::Mode;
use dpsr::changes::source::Moving;
use dpsr::disk::faulty::{Fault, Faults, Faulty};
use dpsr::format::moment::Moment;
use dpsr::open;
use dpsr::progress::Silent;
use dpsr::status::{VolumeStatus, status};
use dpsr::sync::{Request, sync};

use super::{Desk, blanked};
use crate::world::stamped;

/// A sync of everything at `time`, which is seconds since 1970.
fn at(mode: Mode, time: u64) -> Request {
    let (moving, moment) = (Moving::All, Arc::new(Moment::default()));
    Request { mode, no_undo: false, moving, dry_run: false, time, moment }
}

/// Syncs from which the DPSR disk goes away, each an I/O later than the one before, until one has left the store in
/// `state`.
fn cut_in(desk: &Desk, state: &str, request: &Request) {
    for io in 0.. {
        let mut pair = open::pair_offline(&desk.path("pairs"), None, false).unwrap();
        let faults = Faults::new(io, Fault::Gone, true);
        pair.disks.dpsr = Arc::new(Faulty::new(pair.disks.dpsr, faults));
        assert!(sync(&pair.disks, request, &Silent).is_err(), "no I/O leaves the store {state}");
        drop(pair);
        let left = open::look(&desk.path("pairs"), None).unwrap().contents;
        if left.superblock.state.word() == state && left.stale_superblocks == 0 {
            return;
        }
    }
}

/// What `status` says, which changes nothing; without the time of the last scrub.
fn told(desk: &Desk) -> String {
    blanked(&desk.unchanged("status"), "Last scrub ", " s ago")
}

fn volumes(desk: &Desk) -> Vec<VolumeStatus> {
    let store = open::look(&desk.path("pairs"), None).unwrap();
    status(&store, &desk.path("pairs/state"), open::now()).volumes
}

#[test]
fn of_a_sync_that_was_cut_while_it_overwrote_the_image() {
    let desk = Desk::synced();
    desk.open("primary").write_all_at(&stamped(70_000, 3), 3000 * 512).unwrap();
    cut_in(&desk, "updating", &at(Mode::Digest, open::now()));
    insta::assert_snapshot!(told(&desk));
}

#[test]
fn of_a_copy_without_undo_that_was_cut() {
    let desk = Desk::synced();
    let request = Request { no_undo: true, ..at(Mode::Full, open::now()) };
    cut_in(&desk, "no-valid-generation", &request);
    insta::assert_snapshot!(told(&desk));
}

#[test]
fn of_volumes_that_stand_at_different_times() {
    let desk = Desk::paired();
    // Far enough from a whole minute that it is still two hours when it is told.
    let before = open::now() - 2 * 3600 - 10;
    let pair = open::pair_offline(&desk.path("pairs"), None, false).unwrap();
    sync(&pair.disks, &at(Mode::Digest, before), &Silent).unwrap();
    drop(pair);
    desk.open("primary").write_all_at(&stamped(5000, 2), 2112 * 512).unwrap();
    let text = desk.run("sync --offline --volume home");
    assert!(text.starts_with("exit code 0"), "{text}");
    insta::assert_snapshot!(told(&desk));
    let times: Vec<_> = volumes(&desk).iter().map(|volume| volume.time).collect();
    assert_eq!([times[0], times[1], times[3]], [Some(before), Some(before), None]);
    assert!(times[2] >= Some(before + 2 * 3600), "{times:?}");
}

#[test]
fn of_a_scrub_that_found_nothing() {
    let desk = Desk::synced();
    let text = desk.run("scrub");
    assert!(text.starts_with("exit code 0"), "{text}");
    insta::assert_snapshot!(told(&desk));
}

#[test]
fn of_damage_that_a_scrub_left() {
    let desk = Desk::synced();
    let home = volumes(&desk)[2].offset.unwrap().0;
    // Two chunks that are no neighbours.
    for at in [home + 200_000, home + 900_000] {
        desk.open("dpsr").write_all_at(b"rotten", at).unwrap();
    }
    let text = desk.run("scrub");
    assert!(text.starts_with("exit code 6"), "{text}");
    insta::assert_snapshot!(told(&desk));
}

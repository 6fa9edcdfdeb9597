// SPDX-License-Identifier: MIT OR Apache-2.0
use uuid::Uuid;

use super::*;
use crate::disk::faulty::{Fault, Faults, Faulty};
use crate::disk::ram::RamDisk;
use crate::progress::Silent;
use crate::store::create::{Template, create};
use crate::units::MIB;

const PRIMARY: u64 = 4 * MIB;

fn volume(id: &str, size: u64, left_out: bool) -> Volume {
    let (name, label, size) = (id.into(), String::new(), Bytes(size));
    Volume { id: id.into(), name, label, start: Bytes::ZERO, size, left_out, group: false }
}

/// A pair with one generation; how often its DPSR disk is asked for anything is counted.
fn pair() -> (Disks, Arc<Faults>) {
    let faults = Faults::new(u64::MAX, Fault::Eio, false);
    let dpsr: Arc<dyn WriteDisk> =
        Arc::new(Faulty::new(RamDisk::new("dpsr", 24 * MIB as usize), Arc::clone(&faults)));
    let disks = Disks {
        primary: Arc::new(RamDisk::new("primary", PRIMARY as usize)),
        block: Bytes(512),
        volumes: vec![volume("table", 0, false)],
        swaps: vec![],
        partition: Bytes(MIB)..dpsr.size(),
        dpsr,
        owner: Owner::default(),
        history: None,
        keep: Rules::default(),
        pre_images: Bytes::ZERO,
    };
    let template = Template {
        store: Uuid::from_u128(1),
        pair: Uuid::from_u128(2),
        secret: [3; 32],
        primary: "test".into(),
        disk: Bytes(PRIMARY),
        block: Bytes(512),
        volumes: disks.volumes.clone(),
        owner: Owner::default(),
    };
    create(disks.dpsr.clone(), disks.partition.clone(), template).unwrap();
    sync(&disks, &request(), &Silent).unwrap();
    (disks, faults)
}

fn request() -> Request {
    let (moving, moment) = (Moving::All, Arc::new(Moment::default()));
    Request { mode: Mode::Digest, no_undo: false, moving, dry_run: false, time: 1, moment }
}

fn session<'a>(disks: &'a Disks, request: &'a Request) -> Session<'a> {
    let store = open(disks, request).unwrap();
    let key = DigestKey::new(store.contents.index.secret);
    Session { disks, request, store, key, progress: &Silent }
}

fn unanswered() -> Error {
    let why = "no answer for 120 seconds";
    Error::new(Kind::Device, "writing", why).on("dpsr").next("check its cable").of_no_answer()
}

#[test]
fn a_disk_that_hangs_is_told_of_and_not_touched_again() {
    let (disks, faults) = pair();
    let request = request();
    let mut session = session(&disks, &request);
    let from = Generation(1);
    let before = session.store.contents.superblock.index;
    let states = [
        State::Clean(from),
        State::Updating { from, to: from.next(), nonce: 7, before },
        State::Filling { done: 0 },
    ];
    let mut told = Vec::new();
    for state in states {
        session.store.contents.superblock.state = state;
        let count = faults.count();
        told.push(session.undo(unanswered()).to_string());
        assert_eq!(faults.count(), count, "{state:?}");
    }
    insta::assert_snapshot!(told.join("\n"), @r"
    writing dpsr: no answer for 120 seconds; the copy is still generation 1, unless the disk completed this sync by itself; check its cable, then sync again
    writing dpsr: no answer for 120 seconds; this sync was not rolled back: the next one goes back to generation 1 before anything else, unless the disk completed this sync by itself; check its cable, then sync again
    writing dpsr: no answer for 120 seconds; the copy is not complete yet; the next sync goes on where this one stopped, unless the disk completed this sync by itself; check its cable, then sync again
    ");
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! A way back to a disk whose end failed, and what can be done of a copy that cannot be put back.

use dpsr::failback::target::Target;
use dpsr::failover::mark::go_live;
use dpsr::format::superblock::State;
use dpsr::open;
use dpsr::units::Bytes;

use super::{Desk, MIB, dialogue};
use crate::failover::{NOW, any};

/// A system ran from the copy, and all of it is on a disk with this serial number now.
fn gone_back_to(serial: Option<&str>) -> Desk {
    let desk = Desk::synced();
    let mut store = open::history(&desk.path("pairs"), None).unwrap().store;
    let from = go_live(&mut store, None, NOW, &mut any).unwrap().from;
    let mut index = store.contents.index.clone();
    let target = Target { size: Bytes(8 * MIB), serial: serial.map(str::to_owned), wwn: None };
    index.objects.push(target.object());
    store.change(State::Returning(from), index).unwrap();
    desk
}

#[test]
fn a_copy_that_cannot_be_put_back_is_given_up_where_that_is_asked_for() {
    let desk = gone_back_to(None);
    insta::assert_snapshot!(dialogue(
        &desk,
        &["sync --offline", "sync --offline --full --no-undo --dry-run"]
    ));
    let text = desk.run("sync --offline --full --no-undo");
    assert!(text.starts_with("exit code 0"), "{text}");
    let generations = desk.run("generations");
    assert!(
        generations.contains("\n         3  ") && !generations.contains("\n         2  "),
        "{generations}"
    );
    assert!(desk.run("scrub").starts_with("exit code 0"));
}

#[test]
fn the_disk_before_that_gives_up_nothing() {
    let desk = gone_back_to(Some("another"));
    let lines = ["sync --offline", "sync --offline --full --no-undo"];
    let before = blake3::hash(&std::fs::read(desk.path("dpsr")).unwrap());
    insta::assert_snapshot!(dialogue(&desk, &lines));
    assert_eq!(blake3::hash(&std::fs::read(desk.path("dpsr")).unwrap()), before);
}

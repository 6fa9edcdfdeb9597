// SPDX-License-Identifier: MIT OR Apache-2.0
//! Changes for which there is no room: how much they take and how much there is, and nothing is lost.

use std::fs;
use std::os::unix::fs::FileExt;

use super::{DISKS, Desk, MIB, dialogue};
use crate::world::stamped;

/// Where `home` and `scratch` begin.
const HOME: u64 = 2112 * 512;
const SCRATCH: u64 = 10112 * 512;

/// A pair with two generations and little room for history; `scratch` is left out.
fn tight(more: &str) -> Desk {
    let desk = Desk::new();
    desk.blank("dpsr", 26 * MIB);
    done(&desk, &format!("init {DISKS} --leave-out scratch {more} --confirm {}", 26 * MIB));
    done(&desk, "sync --offline");
    desk.open("primary").write_all_at(&stamped(5000, 2), HOME).unwrap();
    done(&desk, "sync --offline");
    desk
}

fn done(desk: &Desk, line: &str) {
    let text = desk.run(line);
    assert!(text.starts_with("exit code 0"), "{line}: {text}");
}

/// What is answered, and changes nothing; both generations must read afterwards as they did before.
fn refused(desk: &Desk, lines: &[&str]) -> String {
    let exported = |when: &str| {
        [1, 2].map(|generation| {
            done(desk, &format!("export {generation} DIR/{when}-{generation}"));
            fs::read(desk.path(&format!("{when}-{generation}"))).unwrap()
        })
    };
    let before = exported("before");
    let text = dialogue(desk, lines);
    assert!(exported("after") == before, "a generation has changed");
    text
}

#[test]
fn changes_larger_than_the_room_are_refused() {
    let desk = tight("");
    desk.open("primary").write_all_at(&stamped(4_000_000, 3), HOME).unwrap();
    let lines = ["sync --offline --dry-run", "sync --offline", "sync --offline --json", "generations"];
    insta::assert_snapshot!(refused(&desk, &lines));
    // The way out that it names.
    done(&desk, "sync --offline --full --no-undo");
}

#[test]
fn changes_larger_than_what_pinned_generations_leave_are_refused() {
    let desk = tight("");
    done(&desk, "pin 1");
    done(&desk, "pin 2");
    desk.open("primary").write_all_at(&stamped(2 * MIB as usize, 3), HOME).unwrap();
    done(&desk, "sync --offline");
    desk.open("primary").write_all_at(&stamped(2 * MIB as usize, 4), HOME).unwrap();
    insta::assert_snapshot!(refused(&desk, &["sync --offline"]));
    done(&desk, "unpin 1");
    done(&desk, "unpin 2");
    done(&desk, "sync --offline");
}

/// What is kept only from now on takes room in the image, besides what its undoing takes.
#[test]
fn a_partition_that_does_not_fit_any_more_is_refused() {
    let desk = tight("");
    desk.open("primary").write_all_at(&stamped(4000 * 512, 3), SCRATCH).unwrap();
    let record = desk.path("pairs/system.toml");
    let text = fs::read_to_string(&record).unwrap();
    let (before, rest) = text.split_once("leave_out = [").unwrap();
    let (_, after) = rest.split_once(']').unwrap();
    fs::write(&record, format!("{before}leave_out = []{after}")).unwrap();
    insta::assert_snapshot!(refused(&desk, &["sync --offline"]));
}

#[test]
fn changes_larger_than_history_may_be_are_refused() {
    let desk = tight("--history 2M");
    desk.open("primary").write_all_at(&stamped(3 * MIB as usize, 3), HOME).unwrap();
    insta::assert_snapshot!(refused(&desk, &["sync --offline"]));
}

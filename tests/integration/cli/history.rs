// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is said when generations are pinned, dropped and pruned.

use std::fmt::Write;
use std::fs;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use dpsr::changes::Mode;
use dpsr::changes::source::Moving;
use dpsr::format::moment::Moment;
use dpsr::open;
use dpsr::progress::Silent;
use dpsr::sync::{Request, sync};

use super::{Desk, blanked, dialogue};
use crate::world::stamped;

/// A pair with five generations.
fn desk() -> Desk {
    let desk = Desk::synced();
    for round in 3..6u64 {
        desk.open("primary").write_all_at(&stamped(100_000, round), 2112 * 512 + round * 70_000).unwrap();
        assert!(desk.run("sync --offline").starts_with("exit code 0"));
    }
    desk
}

fn story(desk: &Desk, lines: &[&str]) -> String {
    let mut text = String::new();
    lines.iter().for_each(|line| write!(text, "$ dpsr {line}\n{}\n", desk.run(line)).unwrap());
    text
}

#[test]
fn generations_are_pinned_and_dropped() {
    let desk = desk();
    let text = story(
        &desk,
        &[
            "pin 2",
            "pin 2",
            "pin 2 --json",
            "generations",
            "drop 3 1 4",
            "generations --json",
            "unpin 2",
            "unpin 2",
            "drop 2 --json",
            "status",
            "export 4 DIR/out",
        ],
    );
    insta::assert_snapshot!(blanked(&text, "\"time\": ", ",\n"));
}

#[test]
fn rules_tell_what_goes() {
    let desk = desk();
    insta::assert_snapshot!(story(
        &desk,
        &["prune --simulate --keep-last 2", "prune --keep-last 2", "prune --keep-last 2", "generations"]
    ));
    let record = desk.path("pairs/system.toml");
    let text = fs::read_to_string(&record).unwrap();
    fs::write(&record, text.replace("[primary]", "[keep]\nlast = 1\n\n[primary]")).unwrap();
    assert!(desk.run("prune --simulate").contains("drop"));
    let text = desk.run("sync --offline");
    assert!(text.contains("Dropped because no rule keeps them: generations 4, 5."), "{text}");
    assert!(desk.run("prune --json").contains("\"dropped\": []"));
}

/// The start of 2026-11-20.
const DAY: u64 = 1_795_132_800;

/// A generation at each of these times: minutes of one day.
fn at(minutes: &[u64]) -> Desk {
    let desk = Desk::paired();
    for minute in minutes {
        let pair = open::pair_offline(&desk.path("pairs"), None, false).unwrap();
        let request = Request {
            mode: Mode::Digest,
            no_undo: false,
            moving: Moving::All,
            dry_run: false,
            time: DAY + minute * 60,
            moment: Arc::new(Moment::default()),
        };
        sync(&pair.disks, &request, &Silent).unwrap();
    }
    desk
}

#[test]
fn hourly_rules_can_be_tried_without_losing_anything() {
    let desk = at(&[10, 59, 60, 119, 300]);
    let before = desk.run("generations");
    let text = story(&desk, &["prune --simulate --keep-hourly 2", "prune --simulate --keep-hourly 3 --json"]);
    insta::assert_snapshot!(text);
    let record = desk.path("pairs/system.toml");
    let text = fs::read_to_string(&record).unwrap();
    fs::write(&record, text.replace("[primary]", "[keep]\nhourly = 2\ndaily = 1\n\n[primary]")).unwrap();
    insta::assert_snapshot!("rules_of_the_record", story(&desk, &["prune --simulate"]));
    assert_eq!(desk.run("generations"), before);
    // What was told is what happens.
    let done = desk.run("prune --json");
    assert!(done.contains("\"dropped\": [\n    1,\n    2,\n    3\n  ]"), "{done}");
}

#[test]
fn what_may_not_go_is_refused() {
    let desk = desk();
    assert!(desk.run("pin 1").starts_with("exit code 0"));
    insta::assert_snapshot!(dialogue(
        &desk,
        &[
            "drop 1",
            "drop 2 5",
            "drop 9",
            "drop",
            "pin 9",
            "prune",
            "prune --simulate",
            "prune --keep-daily 0",
            "drop 2 --dpsr DIR/dpsr",
        ]
    ));
}

#[test]
fn before_the_first_copy_there_is_nothing_to_change() {
    let desk = Desk::paired();
    insta::assert_snapshot!(dialogue(&desk, &["pin 1", "drop 1", "prune --keep-last 1"]));
}

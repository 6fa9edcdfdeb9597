// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is said when generations are pinned, dropped and pruned.

use std::fmt::Write;
use std::fs;
use std::os::unix::fs::FileExt;

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

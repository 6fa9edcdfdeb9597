// SPDX-License-Identifier: MIT OR Apache-2.0
//! The primary is gone, and with it every record: what can be done from a rescue system, with the DPSR disk
//! alone.

use std::fs;

use super::{Desk, MIB, blanked, dialogue};

#[test]
fn with_the_dpsr_disk_alone() {
    let desk = Desk::synced();
    let second = fs::read(desk.path("primary")).unwrap();
    fs::remove_dir_all(desk.path("pairs")).unwrap();
    fs::remove_file(desk.path("primary")).unwrap();
    let lines = ["status --dpsr DIR/dpsr", "generations --dpsr DIR/dpsr", "scrub --dpsr DIR/dpsr"];
    let text = dialogue(&desk, &lines);
    insta::assert_snapshot!(blanked(&text, "from ", " ago"));
    let before = blake3::hash(&fs::read(desk.path("dpsr")).unwrap());
    assert!(desk.run("export 2 DIR/out --dpsr DIR/dpsr").starts_with("exit code 0"));
    let exported = fs::read(desk.path("out")).unwrap();
    // What is left out reads as zeros.
    let left_out = 10112 * 512..(10112 + 4000) * 512;
    let kept = |data: &[u8]| (data[..left_out.start].to_vec(), data[left_out.end..].to_vec());
    assert!(kept(&exported) == kept(&second));
    desk.blank("target", 8 * MIB);
    let text = desk.run(&format!("restore 2 --to DIR/target --dpsr DIR/dpsr --confirm {}", 8 * MIB));
    assert!(text.starts_with("exit code 0"), "{text}");
    assert!(kept(&fs::read(desk.path("target")).unwrap()) == kept(&second));
    assert_eq!(blake3::hash(&fs::read(desk.path("dpsr")).unwrap()), before, "it was only read");
}

#[test]
fn what_is_refused_without_a_record() {
    let desk = Desk::synced();
    fs::remove_dir_all(desk.path("pairs")).unwrap();
    desk.blank("blank", 8 * MIB);
    let lines = [
        "status --dpsr DIR/primary",
        "status --dpsr DIR/blank",
        "status --dpsr DIR/absent",
        "status --dpsr DIR/dpsr --pair system",
        "scrub --dpsr DIR/dpsr --repair",
        "restore 1 --dpsr DIR/dpsr --to DIR/dpsr",
        "restore 1 --dpsr DIR/dpsr --to DIR/blank --confirm 1",
    ];
    insta::assert_snapshot!(dialogue(&desk, &lines));
}

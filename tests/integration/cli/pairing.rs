// SPDX-License-Identifier: MIT OR Apache-2.0
//! What `init` does with the records of pairs, and what a sync does with what a person wrote into one.

use std::fs;
use std::path::Path;
use std::time::Duration;

use dpsr::changes::Mode;
use dpsr::changes::source::Moving;
use dpsr::error::Kind;
use dpsr::open::pair_offline;
use dpsr::progress::{Progress, Silent};
use dpsr::sync::Request;
use dpsr::units::Bytes;
use serde_json::Value;

use super::{DISKS, Desk, MIB, command, dialogue, dpsr, told, words};

fn edit(desk: &Desk, change: impl FnOnce(String) -> String) {
    let path = desk.path("pairs/system.toml");
    let text = fs::read_to_string(&path).unwrap();
    let changed = change(text.clone());
    assert_ne!(changed, text, "the edit found nothing to change");
    fs::write(path, changed).unwrap();
}

/// Writes to the primary once what has changed is being saved, and so after it was read.
struct Meddling<'a>(&'a Desk);

impl Progress for Meddling<'_> {
    fn begin(&self, what: &str, _total: Bytes) {
        if ["saving what will change", "writing what changed"].contains(&what) {
            std::thread::sleep(Duration::from_millis(20));
            std::os::unix::fs::FileExt::write_all_at(&self.0.open("primary"), b"late", 0).unwrap();
        }
    }
    fn advance(&self, _bytes: Bytes) {}
}

/// An image file has no snapshot, and locks stop nobody who does not ask for them.
#[test]
fn an_image_file_that_is_written_to_while_it_is_read_gives_no_generation() {
    let desk = Desk::synced();
    std::os::unix::fs::FileExt::write_all_at(&desk.open("primary"), &[3; 5000], 3 << 20).unwrap();
    let sync = |progress: &dyn Progress| {
        let pair = pair_offline(&desk.path("pairs"), None, false).unwrap();
        let moment = pair.held.clone();
        let (mode, moving, time) = (Mode::Digest, Moving::All, 1_800_000_000);
        let request = Request { mode, no_undo: false, moving, dry_run: false, time, moment };
        dpsr::sync::sync(&pair.disks, &request, progress)
    };
    let error = sync(&Meddling(&desk)).unwrap_err();
    let told = error.to_string();
    assert_eq!(error.kind(), Kind::Refused, "{told}");
    assert!(told.contains("it was written to while it was read; the copy is generation 2, intact"), "{told}");
    assert_eq!(sync(&Silent).unwrap().generation.0, 3);
}

/// Only the disk a record speaks of may take its place.
#[test]
fn wipe_replaces_no_record_of_another_disk() {
    let desk = Desk::synced();
    desk.blank("other", 48 * MIB);
    let confirm = 48 * MIB;
    let init = format!("init --no-boot --primary DIR/primary --dpsr DIR/other --wipe --confirm {confirm}");
    insta::assert_snapshot!(dialogue(&desk, &[init]));
    let text = desk.run(&format!("init {DISKS} --wipe --confirm {confirm}"));
    assert!(text.starts_with("exit code 0"), "{text}");
}

#[test]
fn a_record_that_cannot_be_read_stops_init() {
    let desk = Desk::synced();
    fs::write(desk.path("pairs/broken.toml"), "name = \"broken\"\n").unwrap();
    desk.blank("other", 48 * MIB);
    let confirm = 48 * MIB;
    let other = format!("init --no-boot --primary DIR/primary --dpsr DIR/other --confirm {confirm}");
    let lines = [
        format!("{other} --pair second"),
        format!("{other} --pair broken --wipe"),
        format!("init {DISKS} --wipe --pair third --confirm {confirm}"),
    ];
    insta::assert_snapshot!(dialogue(&desk, &lines));
}

/// Nothing may go before it is certain that there is a place for the record.
#[test]
fn a_directory_that_takes_no_record_stops_init() {
    let desk = Desk::new();
    fs::write(desk.path("full"), "no directory").unwrap();
    desk.open("dpsr").set_len(48 * MIB).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&desk.open("dpsr"), b"precious", 4096).unwrap();
    let shown = desk.path("");
    let before = desk.state();
    for folder in ["full", "full/below", "/proc/no-such-place"] {
        let folder = Path::new(&shown).join(folder);
        let line = format!("init {DISKS} --wipe --confirm {} --config-dir {}", 48 * MIB, folder.display());
        let text = told(desk.0.path(), &words(&line.replace("DIR", desk.0.path().to_str().unwrap())));
        assert!(!text.starts_with("exit code 0"), "{text}");
        assert!(desk.state() == before, "something was written: {text}");
    }
}

#[test]
fn an_id_that_the_primary_does_not_have_is_told() {
    let desk = Desk::paired();
    edit(&desk, |text| {
        text.replace("leave_out = [", "leave_out = [\"no-such-volume\", ")
            .replace("group = [", "group = [\"nor-this\", ")
    });
    insta::assert_snapshot!(desk.run("sync --offline"));
}

/// One document, whatever happened.
#[test]
fn json_tells_what_was_done() {
    let desk = Desk::new();
    desk.blank("target", 8 * MIB);
    let json = |line: &str| -> Value {
        let shown = desk.0.path().to_str().unwrap();
        let mut command = dpsr();
        let line = format!("{line} --json --config-dir {shown}/pairs").replace("DIR", shown);
        let output = command.args(words(&line)).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let plan = json(&format!("init {DISKS} --dry-run"));
    assert_eq!((&plan["done"], &plan["plan"]["pair"]), (&Value::from(false), &Value::from("system")));
    assert_eq!(json(&format!("init {DISKS} --confirm {}", 48 * MIB))["done"], true);
    json("sync --offline");
    let plan = json("restore 1 --to DIR/target --dry-run");
    assert_eq!((&plan["done"], &plan["damaged_chunks"]), (&Value::from(false), &Value::from(0)));
    let done = json(&format!("restore 1 --to DIR/target --confirm {}", 8 * MIB));
    assert_eq!((&done["done"], &done["damaged_chunks"]), (&Value::from(true), &Value::from(0)));
    assert_eq!(done["plan"]["generation"], 1);
    assert!(fs::read(desk.path("target")).unwrap() == fs::read(desk.path("primary")).unwrap());
}

/// A label is whatever somebody wrote into a partition table; a terminal must not obey it.
#[test]
fn labels_carry_no_control_characters() {
    let desk = Desk::new();
    let mut tool = command("sfdisk");
    let file = desk.path("primary");
    tool.args(["--quiet", "--part-label"]).arg(&file).args(["2", "h\u{e4}user \u{1b}[31m\u{9b}2J"]);
    assert!(tool.status().unwrap().success());
    let plan = desk.run(&format!("init {DISKS}"));
    assert!(plan.contains("h\u{e4}user \\u{1b}[31m\\u{9b}2J"), "{plan}");
    desk.run(&format!("init {DISKS} --confirm {}", 48 * MIB));
    desk.run("sync --offline");
    let status = desk.run("status");
    assert!(status.contains("h\u{e4}user \\u{1b}[31m\\u{9b}2J"), "{status}");
}

#[test]
fn a_primary_that_was_repartitioned_is_told() {
    let desk = Desk::synced();
    let mut tool = command("sfdisk");
    tool.args(["--quiet", "--delete"]).arg(desk.path("primary")).arg("3");
    assert!(tool.status().unwrap().success());
    let text = desk.run("sync --offline");
    assert!(text.contains("The primary was repartitioned: "), "{text}");
    let text = desk.run("sync --offline");
    assert!(!text.contains("repartitioned"), "{text}");
}

/// A plain Linux root looks like any data: only a person can say that it moves together with /boot.
#[test]
fn a_primary_without_a_known_system_is_told() {
    let desk = Desk::new();
    let line = format!("init {DISKS} --dry-run");
    assert!(!desk.run(&line).contains("no partition is known"));
    let mut tool = command("sfdisk");
    let plain = "0FC63DAF-8483-4772-8E79-3D69D8477DE4";
    tool.args(["--quiet", "--part-type"]).arg(desk.path("primary")).args(["1", plain]);
    assert!(tool.status().unwrap().success());
    let text = desk.run(&line);
    assert!(text.contains("Warning: no partition is known to belong to the system"), "{text}");
    assert!(text.contains("group = [...]"), "{text}");
}

/// Runs sfdisk on the primary.
fn sfdisk(desk: &Desk, option: &str, more: [&str; 2]) {
    let mut tool = command("sfdisk");
    tool.args(["--quiet", option]).arg(desk.path("primary")).args(more);
    assert!(tool.status().unwrap().success());
}

/// A type says what a partition was made for, and not what is on it.
#[test]
fn a_filesystem_on_a_partition_made_for_swap_is_copied_whatever_the_path_of_the_user_is() {
    let desk = Desk::new();
    sfdisk(&desk, "--part-type", ["2", "0657FD6D-A4AB-43C4-84E5-0933C84B4F4F"]);
    let mut mkfs = command("mkfs.ext4");
    mkfs.args(["-q", "-F", "-E", &format!("offset={}", 2112 * 512)]).arg(desk.path("primary")).arg("4000k");
    assert!(mkfs.status().unwrap().success());
    let plan = desk.run(&format!("init {DISKS}"));
    let home = plan.lines().find(|line| line.contains("home")).unwrap();
    assert!(home.contains("ext4") && home.ends_with("kept"), "{plan}");
}

/// Leaving out one of two partitions with one GUID would leave out both.
#[test]
fn partitions_that_share_a_guid_are_refused_where_the_record_would_name_them() {
    let guid = "22222222-2222-2222-2222-222222222222";
    let twins = |desk: &Desk, one: &str, other: &str| {
        [one, other].into_iter().for_each(|number| sfdisk(desk, "--part-uuid", [number, guid]));
    };
    let desk = Desk::new();
    twins(&desk, "2", "3");
    let init = dialogue(&desk, &[format!("init {DISKS} --leave-out scratch --confirm {}", 48 * MIB)]);
    let desk = Desk::new();
    sfdisk(&desk, "--part-uuid", ["3", guid]);
    desk.run(&format!("init {DISKS} --leave-out scratch --confirm {}", 48 * MIB));
    assert!(desk.run("sync --offline").starts_with("exit code 0"));
    sfdisk(&desk, "--part-uuid", ["2", guid]);
    let named = desk.run("sync --offline");
    let desk = Desk::new();
    desk.run(&format!("init {DISKS} --confirm {}", 48 * MIB));
    twins(&desk, "2", "3");
    let other = desk.run("sync --offline");
    assert!(other.starts_with("exit code 0"), "{other}");
    let other = other.lines().find(|line| line.contains("WARN")).unwrap_or_default().to_owned();
    let volume = desk.run("sync --offline --volume 2");
    insta::assert_snapshot!([init, named, other, volume].join("\n"));
}

/// A primary that is not where it was may have another name by now, and be the disk that is to be overwritten.
#[test]
fn the_primary_of_another_pair_is_no_target_under_another_name() {
    let desk = Desk::paired();
    desk.blank("other", 4 * MIB);
    fs::rename(desk.path("primary"), desk.path("moved")).unwrap();
    let line = format!(
        "init --no-boot --primary DIR/other --dpsr DIR/moved --pair second --wipe --confirm {}",
        8 * MIB
    );
    let told = dialogue(&desk, &[line]);
    insta::assert_snapshot!(told);
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the command says: its help, and every refusal that needs neither root nor a special kernel.
//!
//! A refusal that needs no disks is a folder below `tests/integration/refusals`: `args` (one on each line,
//! `DIR` stands for a directory of the test), `pairs/*.toml` (the records of pairs), and `expected.txt`,
//! which `UPDATE_GOLDEN=1` writes. Those with disks are here; their texts are snapshots.

mod exports;
mod history;
mod pairing;
mod room;
mod signals;
mod status;
mod terminal;
mod way_back;
mod worst_day;

use std::fmt::Write;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::world::stamped;

const MIB: u64 = 1 << 20;

/// The command as cron, an ordinary user and plain `su` run it: the tools of the system are not in their path.
fn dpsr() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dpsr"));
    command.env("PATH", "/usr/bin:/bin");
    command
}

/// A tool that prepares a test, found also where not every user looks.
fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env("PATH", format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default()));
    command
}

/// Runs the command in `dir`, and tells its exit code and all it printed.
fn told(dir: &Path, arguments: &[String]) -> String {
    let mut command = dpsr();
    command.args(arguments).current_dir(dir).stdin(Stdio::null());
    command.env_remove("COLUMNS").env_remove("DPSR_IO").env_remove("DPSR_LOG");
    let output = command.output().unwrap();
    let mut text = format!("exit code {}\n", output.status.code().unwrap());
    for (name, stream) in [("stdout", output.stdout), ("stderr", output.stderr)] {
        if !stream.is_empty() {
            write!(text, "--- {name}\n{}", String::from_utf8(stream).unwrap()).unwrap();
        }
    }
    normalised(&text, dir)
}

/// `text` without what differs from run to run: directories, GUIDs, times.
fn normalised(text: &str, dir: &Path) -> String {
    let text = text.replace(dir.to_str().unwrap(), "DIR");
    let (mut told, mut rest) = (String::new(), text.as_str());
    while let Some(first) = rest.chars().next() {
        match SHAPES.iter().find(|(shape, _)| has_shape(rest, shape)) {
            Some((shape, name)) => {
                told += name;
                rest = &rest[shape.len()..];
            }
            None => {
                told.push(first);
                rest = &rest[first.len_utf8()..];
            }
        }
    }
    blanked(&blanked(&told, "undo store, ", " s."), " from ", " s ago")
}

/// What differs from run to run, and what is shown in its place; a time keeps its length, so that columns
/// stay columns.
const SHAPES: [(&str, &str); 2] =
    [("xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx", "GUID"), ("dddd-dd-dd dd:dd:ddZ", "YYYY-MM-DD hh:mm:ssZ")];

/// Whether `text` starts with something of this shape: `x` for a hexadecimal digit, `d` for a decimal one.
fn has_shape(text: &str, shape: &str) -> bool {
    let fits = |(found, wanted): (u8, u8)| match wanted {
        b'x' => found.is_ascii_hexdigit(),
        b'd' => found.is_ascii_digit(),
        other => found == other,
    };
    text.len() >= shape.len() && text.bytes().zip(shape.bytes()).all(fits)
}

/// `text` with `N` in place of the number between `before` and `after`, wherever they stand around one.
fn blanked(text: &str, before: &str, after: &str) -> String {
    let mut parts = text.split(before);
    let mut told = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let rest = part.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
        let is_number = rest.len() < part.len() && rest.starts_with(after);
        told += before;
        told += &if is_number { format!("N{rest}") } else { part.to_owned() };
    }
    told
}

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn help_of_every_verb() {
    let dir = tempfile::tempdir().unwrap();
    insta::assert_snapshot!("help", told(dir.path(), &words("--help")));
    for verb in [
        "init",
        "sync",
        "wrap",
        "unwrap",
        "generations",
        "pin",
        "unpin",
        "drop",
        "prune",
        "export",
        "restore",
        "attach",
        "detach",
        "mount",
        "umount",
        "salvage",
        "failback",
        "scrub",
        "status",
        "boot",
        "boot install",
        "boot update",
        "boot status",
        "boot uninstall",
    ] {
        let name = format!("help-{}", verb.replace(' ', "-"));
        insta::assert_snapshot!(name, told(dir.path(), &words(&format!("{verb} --help"))));
    }
}

#[test]
fn refusals_without_disks() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/integration/refusals");
    let mut cases: Vec<_> = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    for case in cases {
        let dir = tempfile::tempdir().unwrap();
        let shown = dir.path().to_str().unwrap();
        let pairs = dir.path().join("pairs");
        fs::create_dir(&pairs).unwrap();
        for record in fs::read_dir(case.join("pairs")).into_iter().flatten().map(Result::unwrap) {
            let text = fs::read_to_string(record.path()).unwrap().replace("DIR", shown);
            fs::write(pairs.join(record.file_name()), text).unwrap();
        }
        let arguments = fs::read_to_string(case.join("args")).unwrap().replace("DIR", shown);
        let mut arguments: Vec<_> = arguments.lines().map(str::to_owned).collect();
        if !arguments.is_empty() {
            arguments.extend(words(&format!("--config-dir {shown}/pairs")));
        }
        let (text, file) = (told(dir.path(), &arguments), case.join("expected.txt"));
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&file, &text).unwrap();
        }
        assert_eq!(text, fs::read_to_string(&file).unwrap_or_default(), "{}", case.display());
    }
}

/// Three partitions: one the machine boots from, and two more.
const GPT: &str = "label: gpt\nlabel-id: 11111111-1111-1111-1111-111111111111\nfirst-lba: 34\n\
    start=64,   size=2048, type=uefi, name=esp\n\
    start=2112, size=8000, name=home\n\
    start=10112, size=4000, name=scratch\n";

/// Two image files, and a directory for their record.
struct Desk(TempDir);

impl Desk {
    /// A primary with three partitions, and an empty file to become its DPSR disk.
    fn new() -> Self {
        let desk = Self(tempfile::tempdir().unwrap());
        desk.blank("dpsr", 48 * MIB);
        let primary = desk.blank("primary", 8 * MIB);
        primary.write_all_at(&stamped(8 * MIB as usize - 40_000, 1), 20_000).unwrap();
        let mut sfdisk = command("sfdisk");
        sfdisk.args(["--quiet", "--wipe", "never"]).arg(desk.path("primary")).stdin(Stdio::piped());
        let mut running = sfdisk.spawn().unwrap();
        std::io::Write::write_all(&mut running.stdin.take().unwrap(), GPT.as_bytes()).unwrap();
        assert!(running.wait().unwrap().success());
        desk
    }

    /// The same, paired; `scratch` is left out.
    fn paired() -> Self {
        let desk = Self::new();
        let text = desk.run(&format!("init {DISKS} --leave-out scratch --confirm {}", 48 * MIB));
        assert!(text.starts_with("exit code 0"), "{text}");
        desk
    }

    /// The same, with two generations.
    fn synced() -> Self {
        let desk = Self::paired();
        assert!(desk.run("sync --offline").starts_with("exit code 0"));
        desk.open("primary").write_all_at(&stamped(5000, 2), 2112 * 512).unwrap();
        assert!(desk.run("sync --offline").starts_with("exit code 0"));
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn open(&self, name: &str) -> File {
        File::options().write(true).open(self.path(name)).unwrap()
    }

    fn blank(&self, name: &str, size: u64) -> File {
        let file = File::create(self.path(name)).unwrap();
        file.set_len(size).unwrap();
        file
    }

    fn run(&self, line: &str) -> String {
        let shown = self.0.path().to_str().unwrap();
        told(self.0.path(), &words(&format!("{line} --config-dir {shown}/pairs").replace("DIR", shown)))
    }

    /// Everything on the disks and in the records: the files' names, sizes and digests.
    fn state(&self) -> Vec<(PathBuf, blake3::Hash)> {
        let folders = [self.0.path().to_owned(), self.path("pairs")];
        let entries = folders.iter().flat_map(|folder| fs::read_dir(folder).into_iter().flatten());
        let files = entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
        let mut state: Vec<_> =
            files.map(|path| (path.clone(), blake3::hash(&fs::read(path).unwrap()))).collect();
        state.sort_by(|a, b| a.0.cmp(&b.0));
        state
    }

    /// Runs what must not change a single byte.
    fn unchanged(&self, line: &str) -> String {
        let before = self.state();
        let text = self.run(line);
        assert!(self.state() == before, "'{line}' wrote something: {text}");
        text
    }
}

const DISKS: &str = "--no-boot --primary DIR/primary --dpsr DIR/dpsr";

/// Each line with what it is answered, nothing of which may change a byte.
fn dialogue(desk: &Desk, lines: &[impl AsRef<str>]) -> String {
    let answer = |line: &_| {
        let line: &str = AsRef::as_ref(line);
        format!("$ dpsr {line}\n{}\n", desk.unchanged(line))
    };
    lines.iter().map(answer).collect()
}

#[test]
fn init_shows_its_plan_and_writes_nothing() {
    let desk = Desk::new();
    let lines = [
        format!("init {DISKS}"),
        format!("init {DISKS} --leave-out scratch --history 4M --dry-run --confirm {}", 48 * MIB),
        format!("init {DISKS} --json"),
        format!("init {DISKS} --confirm 12345"),
    ];
    insta::assert_snapshot!(dialogue(&desk, &lines));
}

#[test]
fn init_refuses_disks() {
    let desk = Desk::new();
    desk.blank("small", 17 * MIB + 512 * 1024);
    desk.blank("smaller", 15 * MIB);
    desk.blank("tight", 23 * MIB);
    desk.blank("nothing", 0);
    desk.blank("used", 48 * MIB).write_all_at(b"x", 1000).unwrap();
    desk.blank("filesystem", 48 * MIB);
    let made = command("mkfs.ext4").arg("-q").arg(desk.path("filesystem")).status().unwrap();
    assert!(made.success());
    fs::copy(desk.path("primary"), desk.path("partitioned")).unwrap();
    let init = "init --no-boot --primary DIR/primary";
    let confirm = 48 * MIB;
    let lines = [
        format!("{init} --dpsr DIR/primary"),
        format!("{init} --dpsr DIR/absent"),
        format!("{init} --dpsr DIR/nothing"),
        format!("{init} --dpsr DIR/smaller"),
        format!("{init} --dpsr DIR/small"),
        format!("{init} --dpsr DIR/tight"),
        format!("{init} --dpsr DIR/used --confirm {confirm}"),
        format!("{init} --dpsr DIR/filesystem --confirm {confirm}"),
        format!("{init} --dpsr DIR/partitioned --confirm {}", 8 * MIB),
        format!("{init} --dpsr DIR/dpsr --leave-out attic"),
        format!("{init} --dpsr DIR/dpsr --leave-out table"),
        format!("{init} --dpsr DIR/dpsr --leave-out 4"),
        "init --primary DIR/primary --dpsr DIR/dpsr".to_owned(),
        format!("init --no-boot --primary DIR/nothing --dpsr DIR/dpsr --confirm {confirm}"),
    ];
    insta::assert_snapshot!(dialogue(&desk, &lines));
}

/// Whatever partition is named, leaving it out makes enough room.
#[test]
fn the_advice_what_to_leave_out_is_enough() {
    let desk = Desk::new();
    let mut advised = 0;
    for size in (17 * MIB..25 * MIB).step_by(256 << 10) {
        desk.blank("tight", size);
        let line = "init --no-boot --dry-run --primary DIR/primary --dpsr DIR/tight";
        let text = desk.run(line);
        let Some((_, advice)) = text.split_once("leave out more with ") else { continue };
        let (options, _) = advice.split_once(", or").unwrap();
        let followed = desk.run(&format!("{line} {options}"));
        assert!(followed.starts_with("exit code 0"), "{size} bytes: {text}\n{followed}");
        advised += 1;
    }
    assert!(advised > 3, "{advised}");
}

#[test]
fn init_refuses_what_is_paired() {
    let desk = Desk::paired();
    desk.blank("other", 48 * MIB);
    let confirm = 48 * MIB;
    let lines = [
        format!("init {DISKS} --confirm {confirm}"),
        format!("init {DISKS} --confirm {confirm} --pair second"),
        format!("init {DISKS} --confirm {confirm} --pair second --wipe"),
        format!("init --no-boot --primary DIR/primary --dpsr DIR/other --confirm {confirm}"),
    ];
    insta::assert_snapshot!(dialogue(&desk, &lines));
}

#[test]
fn before_the_first_copy() {
    let desk = Desk::paired();
    let lines = [
        "status",
        "generations",
        "sync --dry-run",
        "sync --offline --dry-run",
        "export 1 DIR/new",
        "restore 1 --to DIR/primary",
        "status --json",
        "generations --json",
    ];
    insta::assert_snapshot!(dialogue(&desk, &lines));
}

#[test]
fn after_two_syncs() {
    let desk = Desk::synced();
    desk.open("primary").write_all_at(&stamped(70_000, 3), 3000 * 512).unwrap();
    let lines = ["status", "generations", "sync --offline --dry-run", "sync --offline --compare --dry-run"];
    let mut text = dialogue(&desk, &lines);
    for line in ["sync --offline", "sync --offline --compare", "sync --offline --full --no-undo"] {
        write!(text, "$ dpsr {line}\n{}\n", desk.run(line)).unwrap();
    }
    write!(text, "{}", dialogue(&desk, &["generations"])).unwrap();
    insta::assert_snapshot!(text);
}

#[test]
fn sync_refuses() {
    let desk = Desk::synced();
    let lines = [
        "sync --offline --volume attic",
        "sync --offline --volume scratch",
        "sync --offline --volume 3",
        "sync --offline --volume 1 --volume 9",
    ];
    let mut text = dialogue(&desk, &lines);
    let table = fs::read(desk.path("primary")).unwrap();
    desk.open("primary").write_all_at(&[0; 20_000], 0).unwrap();
    desk.open("primary").write_all_at(&[0; 20_000], 8 * MIB - 20_000).unwrap();
    write!(text, "The table is gone:\n{}", dialogue(&desk, &["sync --offline"])).unwrap();
    desk.open("primary").write_all_at(&table, 0).unwrap();
    desk.open("primary").write_all_at(b"?", 520).unwrap();
    desk.open("primary").write_all_at(b"?", 8 * MIB - 500).unwrap();
    write!(text, "Both tables are damaged:\n{}", dialogue(&desk, &["sync --offline"])).unwrap();
    desk.open("primary").set_len(8 * MIB + 512).unwrap();
    write!(text, "It has grown:\n{}", dialogue(&desk, &["sync --offline"])).unwrap();
    fs::remove_file(desk.path("primary")).unwrap();
    write!(text, "It is gone:\n{}", dialogue(&desk, &["sync --offline"])).unwrap();
    insta::assert_snapshot!(text);
}

#[test]
fn export_refuses() {
    let desk = Desk::synced();
    desk.blank("there", 5);
    let lines = [
        "export 1 DIR/there",
        "export 1 DIR/there --zstd",
        "export 7 DIR/new",
        "export 7 DIR/new --zstd",
        "export 1 DIR/new --volume attic",
        "export 1 DIR/new --volume attic --zstd",
        "export 1 DIR/new --volume scratch",
        "export 1 DIR/new --volume scratch --zstd",
        "export 1 DIR/new --volume table",
        "export 1 DIR/no/such/folder",
        "export 1 DIR",
    ];
    insta::assert_snapshot!(dialogue(&desk, &lines));
}

#[test]
fn restore_refuses() {
    let desk = Desk::synced();
    desk.blank("target", 8 * MIB);
    desk.blank("small", 8 * MIB - 512);
    let lines = [
        "restore 1 --to DIR/target",
        "restore 1 --to DIR/target --dry-run",
        "restore 1 --to DIR/target --volume home",
        "restore 1 --to DIR/primary --volume home --json",
        "restore 1 --to DIR/target --confirm 1",
        "restore 1 --to DIR/small --confirm 8388096",
        "restore 1 --to DIR/dpsr --confirm 50331648",
        "restore 1 --to DIR/absent",
        "restore 1 --to DIR",
        "restore 7 --to DIR/target --confirm 8388608",
        "restore 1 --to DIR/target --volume attic --confirm 8388608",
        "restore 1 --to DIR/target --volume scratch --confirm 8388608",
        "restore 1 --to DIR/target --volume table --confirm 8388608",
    ];
    insta::assert_snapshot!(dialogue(&desk, &lines));
}

#[test]
fn export_to_a_stream_is_the_same() {
    let desk = Desk::synced();
    desk.run("export 1 DIR/file --volume home");
    desk.run("export 1 DIR/packed --volume home --zstd");
    let file = fs::read(desk.path("file")).unwrap();
    let shown = desk.0.path().to_str().unwrap();
    let streamed = |more: &str| {
        let line = format!("export 1 - --volume home --config-dir {shown}/pairs{more}");
        let output = dpsr().args(words(&line)).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    assert!(streamed("") == file);
    assert!(zstd::decode_all(streamed(" --zstd").as_slice()).unwrap() == file);
    assert!(zstd::decode_all(File::open(desk.path("packed")).unwrap()).unwrap() == file);
    assert_eq!(file.len(), 8000 * 512);
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Starts that systemd-boot counts, so that a system that does not come up is left by itself.
//!
//! It takes one from the number in the name of the entry that it starts, and puts those that have none left behind all
//! others (<https://uapi-group.org/specifications/specs/boot_loader_specification/>, "boot counting"). Who came up loses
//! the number (systemd-bless-boot.service(8)), which would end the counting with the first good start: here it gets it
//! back, where nobody takes it away, too. Of dpsr's entries beside them none is counted: by their sort-key they come after
//! those that have starts left, and before those that have not.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use super::{menu, place, sdboot};
use crate::config::{self, Policy};
use crate::error::{Error, Kind, Result};
use crate::failover;

/// There where somebody gives the counters back.
const ENABLED: &str = "etc/systemd/system/multi-user.target.wants/dpsr-count-starts.service";

/// The number that an installed kernel's entry has from the beginning. (kernel-install(8))
const FROM_THE_BEGINNING: &str = "etc/kernel/tries";

/// What is to become of the counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    /// So many starts may fail.
    Tries(u8),
    /// No copy is started by itself.
    ByChoice,
    /// None is there, but where no start is left: such an entry is not to be the first again.
    Gone,
}

/// What has come up.
#[derive(Clone, Debug, Default)]
struct Up {
    /// The entry whose starts are counted, if it was one.
    entry: Option<String>,
    /// The primary's kernel, where its system is on the primary.
    kernel: Option<String>,
}

/// The system has come up: lets the starts of every entry of the primary that has one of dpsr's beside it be counted anew,
/// where a record in `dir` says so. Where none does, no copy is started by itself.
///
/// # Errors
/// `NotFound` where the entry that was started is nowhere to be seen, so that its starts are used up.
pub fn count(root: &Path, dir: &Path) -> Result<()> {
    let release = nix::sys::utsname::uname().ok().and_then(|name| name.release().to_str().map(str::to_owned));
    let kernel = release.filter(|_| !failover::is_under_way());
    let up = Up { entry: sdboot::counted_entry(root), kernel };
    renamed(root, wanted(root, dir)?, &up)
}

/// Before the machine goes to sleep: systemd-boot renames nothing then, behind the back of a system that has the ESP
/// mounted, and takes no waking for a start that failed.
pub fn pause(root: &Path, dir: &Path) -> Result<()> {
    match wanted(root, dir)? {
        Wanted::Tries(_) => renamed(root, Wanted::Gone, &Up::default()),
        Wanted::ByChoice | Wanted::Gone => Ok(()),
    }
}

/// Ends the counting, before dpsr's entries go away.
pub fn end(root: &Path) -> Result<()> {
    if root.join(FROM_THE_BEGINNING).exists() {
        return Ok(());
    }
    renamed(root, Wanted::Gone, &Up::default())
}

/// Whether starts that fail lead to the copy, or why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Counting {
    /// They do.
    Yes,
    /// Nobody gives the counters back.
    Once,
    /// One entry is always the first, whatever becomes of it; what says so.
    Fixed(String),
    /// No entry of dpsr's comes after one that is counted.
    Nothing,
    /// These are started for ever before one of dpsr's.
    Before(Vec<String>),
}

/// How it stands with the entries there are.
pub fn counting(root: &Path) -> Result<Counting> {
    if !is_enabled(root) {
        return Ok(Counting::Once);
    }
    if let Some(what) = sdboot::fixed(root) {
        return Ok(Counting::Fixed(what));
    }
    for folder in menu::folders(root) {
        let entries = Entry::all(&folder)?;
        let leads = |(ours, theirs): &(&Entry, Vec<&Entry>)| {
            ours.counter().is_none() && theirs.iter().any(|it| it.counter().is_some())
        };
        let Some((ours, _)) = pairs(&entries).find(leads) else { continue };
        let before = |it: &&Entry| {
            it.counter().is_none()
                && !it.is_ours()
                && it.sort_key().is_some_and(|key| Some(key) < ours.sort_key())
        };
        let names: Vec<_> = entries.iter().filter(before).map(|it| it.name.clone()).collect();
        return Ok(if names.is_empty() { Counting::Yes } else { Counting::Before(names) });
    }
    Ok(Counting::Nothing)
}

fn is_enabled(root: &Path) -> bool {
    // A link, which leads nowhere from another root.
    root.join(ENABLED).is_symlink()
}

/// How many starts may fail, if they are to be counted at all. Who wants to be asked is at the console.
fn wanted(root: &Path, dir: &Path) -> Result<Wanted> {
    if !is_enabled(root) || sdboot::fixed(root).is_some() {
        return Ok(Wanted::ByChoice);
    }
    for name in config::list(dir)? {
        let config = match config::load(dir, &name) {
            Ok(config) => config,
            Err(error) => {
                tracing::warn!("{error}, ignoring: whether it counts starts");
                continue;
            }
        };
        if config.boot
            && config.failover.policy == Policy::Auto
            && let Some(tries) = config.failover.tries
        {
            return Ok(Wanted::Tries(tries.into()));
        }
    }
    Ok(Wanted::ByChoice)
}

fn renamed(root: &Path, wanted: Wanted, up: &Up) -> Result<()> {
    let mut missing = up.entry.as_deref();
    for folder in menu::folders(root) {
        let entries = Entry::all(&folder)?;
        let started = up.entry.as_deref().map(stem);
        if entries.iter().any(|it| Some(it.stem()) == started) {
            missing = None;
        }
        for (from, to) in pairs(&entries).flat_map(|(ours, theirs)| renames(ours, &theirs, wanted, up)) {
            put(&folder, &from, &to)?;
        }
    }
    let Some(entry) = missing else { return Ok(()) };
    let why = format!("{entry}, whose starts are counted, is not to be seen");
    Err(Error::new(Kind::NotFound, "counting starts anew", why)
        .left("each start counts as one that failed, and after the last one the copy is started")
        .next("mount the ESP at /efi, /boot or /boot/efi, then systemctl restart dpsr-count-starts.service"))
}

/// Two of dpsr's stand beside each, so that it may have been done already.
fn put(folder: &Path, from: &str, to: &str) -> Result<()> {
    let failed =
        |error: io::Error| Error::device("renaming", folder.join(from).display().to_string(), &error);
    match fs::rename(folder.join(from), folder.join(to)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        renamed => renamed.map_err(failed)?,
    }
    // FAT writes where the file begins into its new name only with the file. (`vfat_rename`)
    let flushed = File::open(folder.join(to)).and_then(|file| file.sync_all());
    flushed.and_then(|()| place::flush(folder)).map_err(failed)
}

/// Each of dpsr's entries, and what it stands beside: more than one, where a kernel was installed again.
fn pairs(entries: &[Entry]) -> impl Iterator<Item = (&Entry, Vec<&Entry>)> {
    entries.iter().filter(|entry| entry.is_ours()).filter_map(|ours| {
        let beside = menu::beside(ours.stem())?;
        Some((ours, entries.iter().filter(|it| it.stem() == beside).collect()))
    })
}

/// Of one of dpsr's entries and those it stands beside.
fn renames(ours: &Entry, theirs: &[&Entry], wanted: Wanted, up: &Up) -> Vec<(String, String)> {
    let mut renames = Vec::new();
    let mut to = |entry: &Entry, counter: &str| {
        renames.push((entry.name.clone(), format!("{}{counter}.conf", entry.stem())));
    };
    let counted = theirs.iter().filter(|it| it.counter().is_some());
    match wanted {
        // What has no sort-key is put in another order.
        Wanted::Tries(tries) if ours.sort_key().is_some() => {
            let kernel = |it: &Entry| {
                up.kernel.as_ref().is_some_and(|kernel| it.stem().ends_with(&format!("-{kernel}")))
            };
            let anew =
                |it: &Entry| it.counter().is_none() || up.entry.as_ref() == Some(&it.name) || kernel(it);
            theirs.iter().filter(|it| anew(it)).for_each(|it| to(it, &format!("+{tries}")));
            // With a kernel that has never come up no copy would, either.
            let given_up = !theirs.is_empty() && theirs.iter().all(|it| it.is_used_up() && !anew(it));
            to(ours, if given_up { "+0" } else { "" });
        }
        Wanted::Tries(_) | Wanted::ByChoice => {
            if ours.counter().is_none() && counted.count() > 0 {
                to(ours, "+0");
            }
        }
        Wanted::Gone => counted.filter(|it| !it.is_used_up()).for_each(|it| to(it, "")),
    }
    renames.retain(|(from, to)| from != to);
    renames
}

/// An entry of the menu.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    name: String,
    text: String,
}

impl Entry {
    /// Those in a directory, by name; none in one that is not there.
    fn all(folder: &Path) -> Result<Vec<Self>> {
        let failed = |error: &io::Error| Error::device("reading", folder.display().to_string(), error);
        let files = match fs::read_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            files => {
                files.and_then(Iterator::collect::<io::Result<Vec<_>>>).map_err(|error| failed(&error))?
            }
        };
        let names = files.into_iter().filter_map(|file| file.file_name().into_string().ok());
        let mut names: Vec<_> = names.filter(|name| name.ends_with(".conf")).collect();
        names.sort();
        let read = |name: String| match fs::read(folder.join(&name)) {
            // Somebody installs or removes a kernel.
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => Some(Err(failed(&error))),
            Ok(text) => Some(Ok(Self { name, text: String::from_utf8_lossy(&text).into_owned() })),
        };
        names.into_iter().filter_map(read).collect()
    }

    fn is_ours(&self) -> bool {
        menu::leads_to_copy(&self.name, &self.text)
    }

    /// The name without what it ends with, and without the counter.
    fn stem(&self) -> &str {
        stem(&self.name)
    }

    /// `LEFT` or `LEFT-DONE`.
    fn counter(&self) -> Option<&str> {
        divided(&self.name).1
    }

    /// Whether no start is left.
    fn is_used_up(&self) -> bool {
        self.counter().and_then(|it| it.split('-').next()).and_then(|left| left.parse().ok()) == Some(0)
    }

    fn sort_key(&self) -> Option<&str> {
        self.text.lines().find_map(|line| line.strip_prefix("sort-key")).map(str::trim)
    }
}

fn stem(name: &str) -> &str {
    divided(name).0
}

fn divided(name: &str) -> (&str, Option<&str>) {
    let name = name.strip_suffix(".conf").unwrap_or(name);
    let number = |text: &str| !text.is_empty() && text.bytes().all(|it| it.is_ascii_digit());
    let counts =
        |text: &str| text.split_once('-').map_or(number(text), |(left, done)| number(left) && number(done));
    match name.rsplit_once('+').filter(|(_, counter)| counts(counter)) {
        Some((stem, counter)) => (stem, Some(counter)),
        None => (name, None),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::config::testing::sample;
    use crate::config::{FailoverConfig, PairConfig, save};

    /// A root with these entries in its ESP, and the unit enabled.
    fn menu_of(entries: &[&str]) -> (tempfile::TempDir, PathBuf) {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("boot/efi/loader/entries");
        fs::create_dir_all(&folder).unwrap();
        entries.iter().for_each(|name| put_entry(&folder, name));
        let unit = root.path().join(ENABLED);
        fs::create_dir_all(unit.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink("/usr/lib/systemd/system/dpsr-count-starts.service", unit).unwrap();
        (root, folder)
    }

    fn put_entry(folder: &Path, name: &str) {
        let ours = if name.contains("-dpsr") { ("-dpsr", " dpsr.boot=force noresume") } else { ("", "") };
        let text = format!("title {name}\nsort-key debian{}\noptions root=UUID=1 ro{}\n", ours.0, ours.1);
        fs::write(folder.join(name), text).unwrap();
    }

    fn record(root: &Path, policy: Policy, tries: Option<u8>) -> PathBuf {
        let dir = root.join("etc/dpsr");
        fs::create_dir_all(&dir).unwrap();
        let tries = tries.map(|tries| tries.try_into().unwrap());
        let failover = FailoverConfig { policy, tries, ..FailoverConfig::default() };
        save(&dir, &PairConfig { boot: true, failover, ..sample("main") }).unwrap();
        dir
    }

    fn started_by(root: &Path, entry: &str) {
        let started = root.join(sdboot::COUNTED);
        fs::create_dir_all(started.parent().unwrap()).unwrap();
        let path = format!("\\loader\\entries\\{entry}\0");
        let path = path.encode_utf16().flat_map(u16::to_le_bytes);
        fs::write(&started, [6, 0, 0, 0].into_iter().chain(path).collect::<Vec<_>>()).unwrap();
    }

    fn names(folder: &Path) -> Vec<String> {
        Entry::all(folder).unwrap().into_iter().map(|entry| entry.name).collect()
    }

    #[test]
    fn counters_in_names() {
        assert_eq!(divided("a-6.1.conf"), ("a-6.1", None));
        assert_eq!(divided("a-6.1+3.conf"), ("a-6.1", Some("3")));
        assert_eq!(divided("a-6.1+0-3.conf"), ("a-6.1", Some("0-3")));
        assert_eq!(divided("a-6.1+deb13.conf"), ("a-6.1+deb13", None));
        assert_eq!(divided("a-6.1+deb13+2-1.conf"), ("a-6.1+deb13", Some("2-1")));
    }

    #[test]
    fn every_kernel_is_counted_anew_and_dpsrs_entries_are_not() {
        let (root, folder) = menu_of(&[
            "a-6.1.conf",
            "a-6.1-dpsr.conf",
            "a-6.1-dpsr-older.conf",
            "a-6.2+2-1.conf",
            "a-6.2-dpsr+0.conf",
            "a-6.2-dpsr-older+0.conf",
            "a-6.3+0-3.conf",
            "a-6.3-dpsr+0.conf",
        ]);
        started_by(root.path(), "a-6.2+2-1.conf");
        let dir = record(root.path(), Policy::Auto, Some(3));
        count(root.path(), &dir).unwrap();
        let counted = [
            "a-6.1+3.conf",
            "a-6.1-dpsr-older.conf",
            "a-6.1-dpsr.conf",
            "a-6.2+3.conf",
            "a-6.2-dpsr-older.conf",
            "a-6.2-dpsr.conf",
            "a-6.3+0-3.conf",
            "a-6.3-dpsr+0.conf",
        ];
        assert_eq!(names(&folder), counted, "one has come up, and one never has");
        assert_eq!(counting(root.path()).unwrap(), Counting::Yes);
        // Its name has changed since.
        count(root.path(), &dir).unwrap();
        assert_eq!(names(&folder), counted);

        // A kernel that is installed again.
        put_entry(&folder, "a-6.1.conf");
        fs::write(folder.join("a-6.1.conf"), "title new\nsort-key debian\n").unwrap();
        count(root.path(), &dir).unwrap();
        assert_eq!(names(&folder), counted);
        assert!(fs::read_to_string(folder.join("a-6.1+3.conf")).unwrap().starts_with("title new\n"));

        pause(root.path(), &dir).unwrap();
        let plain = |name: &&String| !name.contains('+');
        assert_eq!(names(&folder).iter().filter(plain).count(), 6, "{:?}", names(&folder));
        assert!(names(&folder).contains(&"a-6.3+0-3.conf".to_owned()), "it is not to be the first again");
        count(root.path(), &dir).unwrap();
        assert_eq!(names(&folder), counted);

        // One whose last start came up by another entry.
        let up = Up { entry: None, kernel: Some("6.3".to_owned()) };
        renamed(root.path(), Wanted::Tries(3), &up).unwrap();
        assert!(names(&folder).contains(&"a-6.3+3.conf".to_owned()));

        pause(root.path(), &dir).unwrap();
        assert!(names(&folder).iter().all(|name| !name.contains('+')), "{:?}", names(&folder));
        count(root.path(), &dir).unwrap();
        assert_eq!(counting(root.path()).unwrap(), Counting::Yes);

        // Nobody is to be started by itself any more.
        for (policy, tries) in [(Policy::Auto, None), (Policy::Ask, Some(3))] {
            record(root.path(), policy, tries);
            count(root.path(), &dir).unwrap();
            assert!(names(&folder).contains(&"a-6.1-dpsr+0.conf".to_owned()));
            assert_eq!(counting(root.path()).unwrap(), Counting::Nothing);
        }
        end(root.path()).unwrap();
        for name in ["a-6.1.conf", "a-6.2.conf", "a-6.3.conf"] {
            assert!(names(&folder).contains(&name.to_owned()), "{name}");
        }
    }

    #[test]
    fn nothing_is_counted_that_would_not_lead_to_the_copy() {
        let (root, folder) = menu_of(&["a-6.1.conf", "a-6.2-dpsr.conf"]);
        let dir = record(root.path(), Policy::Auto, Some(3));
        let same = |why: &str| {
            let before = names(&folder);
            count(root.path(), &dir).unwrap();
            assert_eq!(names(&folder), before, "{why}");
        };
        same("none stands beside the other");
        assert_eq!(counting(root.path()).unwrap(), Counting::Nothing);

        put_entry(&folder, "a-6.2.conf");
        let conf = root.path().join("boot/efi/loader/loader.conf");
        for (line, fixed) in
            [("default a-6.2.conf", true), ("default\t@saved", true), ("#default x\ndefault a-*", false)]
        {
            fs::write(&conf, format!("timeout 3\n{line}\n")).unwrap();
            assert_eq!(matches!(counting(root.path()).unwrap(), Counting::Fixed(_)), fixed, "{line}");
            if fixed {
                same(line);
            }
        }
        fs::remove_file(root.path().join(ENABLED)).unwrap();
        same("nobody would give the counters back");
        assert_eq!(counting(root.path()).unwrap(), Counting::Once);
        std::os::unix::fs::symlink("x", root.path().join(ENABLED)).unwrap();

        // What has no sort-key comes in another order.
        fs::write(folder.join("a-6.2-dpsr.conf"), "title x\noptions dpsr.boot=force noresume\n").unwrap();
        same("it has no sort-key");
        put_entry(&folder, "a-6.2-dpsr.conf");
        count(root.path(), &dir).unwrap();
        assert_eq!(counting(root.path()).unwrap(), Counting::Before(vec!["a-6.1.conf".to_owned()]));
    }

    #[test]
    fn an_esp_that_is_not_there_is_told() {
        let (root, folder) = menu_of(&["a-6.1+2-1.conf", "a-6.1-dpsr.conf"]);
        let dir = record(root.path(), Policy::Auto, Some(3));
        started_by(root.path(), "a-6.1+2-1.conf");
        fs::remove_dir_all(&folder).unwrap();
        let error = count(root.path(), &dir).unwrap_err();
        insta::assert_snapshot!(error, @"counting starts anew: a-6.1+2-1.conf, whose starts are counted, is not to be seen; each start counts as one that failed, and after the last one the copy is started; mount the ESP at /efi, /boot or /boot/efi, then systemctl restart dpsr-count-starts.service");
    }
}

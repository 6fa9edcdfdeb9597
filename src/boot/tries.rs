// SPDX-License-Identifier: MIT OR Apache-2.0
//! Starts that systemd-boot counts, so that a system that does not come up is left by itself.
//!
//! It takes one from the number in the name of the entry that it starts, and puts those that have none left behind all
//! others (<https://uapi-group.org/specifications/specs/boot_loader_specification/>, "boot counting"). Who came up loses
//! the number (systemd-bless-boot.service(8)), which would end the counting with the first good start: here it gets it
//! back, where nobody takes it away, too. Of dpsr's entries beside them none is counted: they come after those that have
//! starts left, and before those that have not.

use std::fs;
use std::io;
use std::path::Path;

use super::{menu, place, sdboot};
use crate::config::{self, Policy};
use crate::error::{Error, Result};

/// The number that an installed kernel's entry has from the beginning. (kernel-install(8))
const FROM_THE_BEGINNING: &str = "etc/kernel/tries";

/// What is to become of the counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    /// So many starts may fail.
    Tries(u8),
    /// No copy is started by itself.
    ByChoice,
    /// As before dpsr came.
    Gone,
}

/// The system has come up: lets the starts of every entry of the primary that has one of dpsr's beside it be counted anew,
/// where a record in `dir` says so. Where none does, no copy is started by itself.
pub fn count(root: &Path, dir: &Path) -> Result<()> {
    renamed(root, tries(dir)?.map_or(Wanted::ByChoice, Wanted::Tries))
}

/// Ends the counting, before dpsr's entries go away.
pub fn end(root: &Path) -> Result<()> {
    if root.join(FROM_THE_BEGINNING).exists() { Ok(()) } else { renamed(root, Wanted::Gone) }
}

/// Whether the starts of an entry of the primary are counted, and lead to the copy.
pub fn is_counting(root: &Path) -> bool {
    menu::folders(root).iter().any(|folder| {
        let names = names(folder);
        pairs(folder, &names)
            .any(|(ours, theirs)| ours.counter.is_none() && theirs.iter().any(|it| it.counter.is_some()))
    })
}

fn renamed(root: &Path, wanted: Wanted) -> Result<()> {
    let started = sdboot::counted_entry(root);
    for folder in menu::folders(root) {
        let names = names(&folder);
        let mut changed = false;
        for (from, to) in pairs(&folder, &names)
            .flat_map(|(ours, theirs)| renames(&ours, &theirs, wanted, started.as_deref()))
        {
            let failed = |error: io::Error| {
                Error::device("renaming", folder.join(&from).display().to_string(), &error)
            };
            match fs::rename(folder.join(&from), folder.join(&to)) {
                // Two of dpsr's stand beside each.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                renamed => renamed.map_err(failed)?,
            }
            changed = true;
        }
        if changed {
            let failed = |error| Error::device("writing", folder.display().to_string(), &error);
            place::flush(&folder).map_err(failed)?;
        }
    }
    Ok(())
}

/// Each of dpsr's entries, and what it stands beside: more than one, where a kernel was installed again.
fn pairs<'a>(folder: &Path, names: &'a [String]) -> impl Iterator<Item = (Name<'a>, Vec<Name<'a>>)> {
    let ours = names.iter().filter(|name| menu::leads_to_copy(&folder.join(name)));
    ours.filter_map(|name| {
        let ours = Name::of(name)?;
        let stem = menu::beside(ours.stem)?;
        Some((ours, names.iter().filter_map(|name| Name::of(name)).filter(|it| it.stem == stem).collect()))
    })
}

/// How many starts may fail, if they are to be counted at all. Who wants to be asked is at the console.
pub fn tries(dir: &Path) -> Result<Option<u8>> {
    for name in config::list(dir)? {
        let config = config::load(dir, &name)?;
        if config.boot && config.failover.policy == Policy::Auto && config.failover.tries.is_some() {
            return Ok(config.failover.tries.map(u8::from));
        }
    }
    Ok(None)
}

/// Of one of dpsr's entries and those it stands beside, of which one may have started the system.
fn renames(
    ours: &Name<'_>,
    theirs: &[Name<'_>],
    wanted: Wanted,
    started: Option<&str>,
) -> Vec<(String, String)> {
    let mut renames = Vec::new();
    let mut to = |name: &Name<'_>, counter: &str| {
        renames.push((name.whole.to_owned(), format!("{}{counter}.conf", name.stem)));
    };
    match wanted {
        Wanted::Tries(tries) => {
            // Behind an entry that is not counted no other is ever started.
            let anew = |it: &&Name<'_>| it.counter.is_none() || Some(it.whole) == started;
            theirs.iter().filter(anew).for_each(|it| to(it, &format!("+{tries}")));
            if ours.counter.is_some() {
                to(ours, "");
            }
        }
        Wanted::ByChoice if ours.counter.is_none() && theirs.iter().any(|it| it.counter.is_some()) => {
            to(ours, "+0")
        }
        Wanted::ByChoice => {}
        Wanted::Gone => theirs.iter().filter(|it| it.counter.is_some()).for_each(|it| to(it, "")),
    }
    renames
}

/// The name of an entry.
#[derive(Debug, PartialEq, Eq)]
struct Name<'a> {
    whole: &'a str,
    /// Without the counter.
    stem: &'a str,
    /// `LEFT` or `LEFT-DONE`.
    counter: Option<&'a str>,
}

impl<'a> Name<'a> {
    fn of(whole: &'a str) -> Option<Self> {
        let name = whole.strip_suffix(".conf")?;
        let number = |text: &str| !text.is_empty() && text.bytes().all(|it| it.is_ascii_digit());
        let counts = |text: &str| {
            text.split_once('-').map_or(number(text), |(left, done)| number(left) && number(done))
        };
        Some(match name.rsplit_once('+').filter(|(_, counter)| counts(counter)) {
            Some((stem, counter)) => Self { whole, stem, counter: Some(counter) },
            None => Self { whole, stem: name, counter: None },
        })
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::testing::sample;
    use crate::config::{FailoverConfig, save};

    const OF_A_COPY: &str = "title x\noptions root=UUID=1 dpsr.boot=force noresume\n";

    /// A root with these entries in its ESP.
    fn menu_of(entries: &[&str]) -> (tempfile::TempDir, std::path::PathBuf) {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("boot/efi/loader/entries");
        fs::create_dir_all(&folder).unwrap();
        for name in entries {
            let text = if name.contains("-dpsr") { OF_A_COPY } else { "title x\noptions root=UUID=1\n" };
            fs::write(folder.join(name), text).unwrap();
        }
        (root, folder)
    }

    fn record(root: &Path, policy: Policy, tries: Option<u8>) -> std::path::PathBuf {
        let dir = root.join("etc/dpsr");
        fs::create_dir_all(&dir).unwrap();
        let tries = tries.map(|tries| tries.try_into().unwrap());
        let failover = FailoverConfig { policy, tries, ..FailoverConfig::default() };
        save(&dir, &crate::config::PairConfig { boot: true, failover, ..sample("main") }).unwrap();
        dir
    }

    #[test]
    fn every_kernel_is_counted_and_the_copy_comes_after_them() {
        let (root, folder) = menu_of(&[
            "a-6.1.conf",
            "a-6.1-dpsr.conf",
            "a-6.1-dpsr-older.conf",
            "a-6.2+2-1.conf",
            "a-6.2-dpsr+0.conf",
            "a-6.2-dpsr-older+0.conf",
            "a-6.3+0-3.conf",
            "a-6.3-dpsr+0.conf",
            "memtest.conf",
        ]);
        let started = root.path().join(sdboot::COUNTED);
        fs::create_dir_all(started.parent().unwrap()).unwrap();
        let path = "\\loader\\entries\\a-6.2+2-1.conf\0".encode_utf16().flat_map(u16::to_le_bytes);
        fs::write(&started, [6, 0, 0, 0].into_iter().chain(path).collect::<Vec<_>>()).unwrap();

        let dir = record(root.path(), Policy::Auto, Some(3));
        assert!(!is_counting(root.path()));
        count(root.path(), &dir).unwrap();
        let counted = [
            "a-6.1+3.conf",
            "a-6.1-dpsr-older.conf",
            "a-6.1-dpsr.conf",
            "a-6.2+3.conf",
            "a-6.2-dpsr-older.conf",
            "a-6.2-dpsr.conf",
            "a-6.3+0-3.conf",
            "a-6.3-dpsr.conf",
            "memtest.conf",
        ];
        assert_eq!(names(&folder), counted, "one has come up, and one never has");
        assert!(is_counting(root.path()));
        count(root.path(), &dir).unwrap();
        assert_eq!(names(&folder), counted);

        // A kernel that is installed again.
        fs::write(folder.join("a-6.1.conf"), "title new\n").unwrap();
        count(root.path(), &dir).unwrap();
        assert_eq!(names(&folder), counted);
        assert_eq!(fs::read_to_string(folder.join("a-6.1+3.conf")).unwrap(), "title new\n");

        // Nobody is to be started by itself any more.
        for (policy, tries) in [(Policy::Auto, None), (Policy::Ask, Some(3))] {
            record(root.path(), policy, tries);
            count(root.path(), &dir).unwrap();
            assert!(names(&folder).contains(&"a-6.1-dpsr+0.conf".to_owned()));
            assert!(!is_counting(root.path()));
        }
        end(root.path()).unwrap();
        for name in ["a-6.1.conf", "a-6.2.conf", "a-6.3.conf"] {
            assert!(names(&folder).contains(&name.to_owned()), "{name}");
        }
    }

    #[test]
    fn nobody_counts_what_has_no_entry_of_dpsrs() {
        let (root, folder) = menu_of(&["a-6.1.conf", "a-6.2-dpsr.conf"]);
        let dir = record(root.path(), Policy::Auto, Some(3));
        count(root.path(), &dir).unwrap();
        assert_eq!(names(&folder), ["a-6.1.conf", "a-6.2-dpsr.conf"]);
    }

    #[test]
    fn counters_in_names() {
        let of = |name: &'static str| Name::of(name).map(|it| (it.stem, it.counter));
        assert_eq!(of("a-6.1.conf"), Some(("a-6.1", None)));
        assert_eq!(of("a-6.1+3.conf"), Some(("a-6.1", Some("3"))));
        assert_eq!(of("a-6.1+0-3.conf"), Some(("a-6.1", Some("0-3"))));
        assert_eq!(of("a-6.1+deb13.conf"), Some(("a-6.1+deb13", None)));
        assert_eq!(of("a-6.1+deb13+2-1.conf"), Some(("a-6.1+deb13", Some("2-1"))));
        assert_eq!(of("a-6.1.conf.new"), None);
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! A set: kernel, initramfs and records of the pairs that belong together, in a directory of the ESP that is
//! named by what they were made of. A set that the menu names is never changed; another one is made beside it,
//! and the old one goes once the menu names the new one.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::esp::Esp;
use super::fat::path_text;
use super::kernel::Kernel;
use super::{cpio, grub, place};
use crate::config;
use crate::error::{Error, Kind, Result};
use crate::mount::tool;
use crate::units::{Bytes, MIB};

/// The directory on the ESP in which sets are.
const ALL: &str = "dpsr";
/// Their files.
const FILES: [&str; 3] = ["vmlinuz", "initrd.img", "pairs.img"];
/// What a set says of itself, written last.
const ABOUT: &str = "about.txt";
/// dpsr's part of an initramfs, below the root.
const MODULE: &str = "usr/lib/dracut/modules.d/55dpsr";
/// dracut on a small machine, with a disk that is being copied.
const DRACUT: Duration = Duration::from_secs(900);
/// What an initramfs is taken for before one was made.
const GUESS: Bytes = Bytes(256 * MIB);
/// What is left free for what is exchanged beside it: loaders are written beside the old ones.
const MARGIN: Bytes = Bytes(32 * MIB);

/// What a set has to be made of.
pub struct Wanted {
    /// The kernel.
    pub kernel: Kernel,
    /// The records of all pairs, as an archive.
    records: Vec<u8>,
    /// The name of its directory.
    pub name: String,
}

impl Wanted {
    /// For the system below `root`, whose kernel is `running`, and the pairs recorded in `dir`.
    pub fn of(root: &Path, running: &str, dir: &Path) -> Result<Self> {
        if !root.join(MODULE).is_dir() {
            let why = "the dracut module of dpsr is not installed, without which no initramfs can fail over";
            return Err(Error::new(Kind::Refused, "making an initramfs", why)
                .left("nothing was written")
                .next(format!("install all of dpsr, {MODULE} included")));
        }
        let kernel = Kernel::choose(root, running)?;
        let records = records(dir)?;
        let mut hasher = blake3::Hasher::new();
        hasher.update(kernel.inputs(root)?.as_bytes()).update(&records);
        let name = hasher.finalize().to_hex()[..16].to_owned();
        Ok(Self { kernel, records, name })
    }

    /// Where it is on the ESP.
    pub fn folder(&self) -> String {
        folder(&self.name)
    }

    /// Whether it is there, complete.
    pub fn is_on(&self, top: &Path) -> bool {
        is_complete(top, &self.name)
    }

    /// Takes away what is left of an earlier try, and says how many of the sets `older`, from the first on, there is room
    /// for beside this one.
    ///
    /// # Errors
    /// `NoRoom` where none of them would still be too much.
    pub fn beside(&self, root: &Path, esp: &Esp, older: &[String]) -> Result<usize> {
        let top = esp.path();
        place::remove(top, &self.folder())?;
        remove_others(top, &self.name, older)?;
        let free = esp.free()?;
        let needed = self.needed(top, self.kernel.own_initramfs(root).as_deref());
        // The one from which the menu starts the newest generation stays whatever comes.
        let named = named(top);
        let size = |set: &String| if Some(set) == named.as_ref() { Bytes::ZERO } else { size_of(top, set) };
        let sizes: Vec<Bytes> = older.iter().map(size).collect();
        (0..=older.len())
            .rev()
            .find(|kept| needed <= free + sizes[*kept..].iter().copied().sum::<Bytes>())
            .ok_or_else(|| no_room(needed, free))
    }

    /// Makes it, where [`beside`](Self::beside) has found room.
    pub fn make(&self, root: &Path, esp: &Esp) -> Result<Made> {
        let top = esp.path();
        let own = self.kernel.own_initramfs(root);
        let folder = top.join(self.folder());
        let failed =
            |error: std::io::Error| Error::device("making a directory on the ESP", self.folder(), &error);
        fs::create_dir_all(&folder).map_err(failed)?;
        place::copy(&self.kernel.image, &folder.join(FILES[0]))?;
        let initramfs = folder.join(FILES[1]);
        let made = match &own {
            Some(own) => place::copy(own, &initramfs).map(|()| Made::Copied)?,
            None => dracut(&self.kernel.version, &initramfs).map(|()| Made::Built).or_else(|error| {
                let free = esp.free()?;
                // It took more than was guessed.
                if free < MARGIN { Err(no_room(GUESS, free)) } else { Err(error) }
            })?,
        };
        let in_set = |file: &str| format!("{}/{file}", self.folder());
        place::settle(top, &in_set(FILES[2]), &self.records)?;
        let mut about = format!("kernel={}\n", self.kernel.version);
        for file in FILES {
            let size = fs::metadata(folder.join(file)).map_err(failed)?.len();
            about.push_str(&format!("{file}={size}\n"));
        }
        place::settle(top, &in_set(ABOUT), about.as_bytes())?;
        place::flush(&folder).and_then(|()| place::flush(&top.join(ALL))).map_err(failed)?;
        Ok(made)
    }

    /// The room that it takes, with some for loaders that are exchanged. One that dracut will make is taken for a quarter
    /// larger than the largest there is.
    fn needed(&self, top: &Path, own: Option<&Path>) -> Bytes {
        let size = |file: &Path| fs::metadata(file).map_or(GUESS, |meta| Bytes(meta.len()));
        let largest = all(top).iter().map(|set| size_of(top, set)).max().unwrap_or(Bytes::ZERO);
        let initramfs = own.map_or_else(|| GUESS.max(Bytes(largest.0 / 4 * 5)), size);
        size(&self.kernel.image) + initramfs + Bytes(self.records.len() as u64) + MARGIN
    }
}

fn no_room(needed: Bytes, free: Bytes) -> Error {
    let why = format!("kernel and initramfs need {needed}, and {free} are free");
    Error::new(Kind::NoRoom, "filling the ESP of the DPSR disk", why)
        .left("it boots what it booted before")
        .next("remove from it what is not dpsr's")
}

/// The bytes that the files of a set take.
fn size_of(top: &Path, set: &str) -> Bytes {
    let size = |file: &&str| fs::metadata(top.join(folder(set)).join(file)).map_or(0, |meta| meta.len());
    Bytes(FILES.iter().map(size).sum())
}

/// Where an initramfs came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Made {
    /// It is the system's own, which serves.
    Copied,
    /// dracut made it.
    Built,
}

/// The set from which the menu starts the newest generation, if there is one.
pub fn named(top: &Path) -> Option<String> {
    let menu = fs::read_to_string(top.join(grub::MENU)).ok()?;
    let line = menu.lines().find_map(|line| line.trim().strip_prefix(&format!("linux /{ALL}/")))?;
    Some(line.split('/').next()?.to_owned())
}

/// Where a set is on the ESP.
pub fn folder(set: &str) -> String {
    format!("{ALL}/{set}")
}

fn is_complete(top: &Path, set: &str) -> bool {
    let folder = top.join(ALL).join(set);
    let Ok(about) = fs::read_to_string(folder.join(ABOUT)) else { return false };
    FILES.iter().all(|file| {
        let size = fs::metadata(folder.join(file)).map(|meta| meta.len());
        size.is_ok_and(|size| about.lines().any(|line| line == format!("{file}={size}")))
    })
}

/// The names of all that are there.
fn all(top: &Path) -> Vec<String> {
    let folders = fs::read_dir(top.join(ALL)).into_iter().flatten().flatten();
    let folders = folders.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let mut names: Vec<_> = folders.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// The complete ones that are there, with their kernels; that of the menu first.
pub fn complete(top: &Path) -> Vec<(String, String)> {
    let named = named(top);
    let mut names = all(top);
    names.sort_by_key(|name| Some(name) != named.as_ref());
    names.retain(|name| is_complete(top, name));
    names.into_iter().filter_map(|name| kernel_of(top, &name).map(|kernel| (name, kernel))).collect()
}

/// The kernel of a set, as it says itself.
pub fn kernel_of(top: &Path, set: &str) -> Option<String> {
    let about = fs::read_to_string(top.join(ALL).join(set).join(ABOUT)).ok()?;
    about.lines().find_map(|line| line.strip_prefix("kernel=")).map(str::to_owned)
}

/// Removes every set but `name`, those that are `kept`, and the one from which the menu starts the newest generation.
pub fn remove_others(top: &Path, name: &str, kept: &[String]) -> Result<()> {
    let named = named(top);
    let stays = |set: &String| set == name || Some(set) == named.as_ref() || kept.contains(set);
    for other in all(top).into_iter().filter(|set| !stays(set)) {
        place::remove(top, &format!("{ALL}/{other}"))?;
    }
    Ok(())
}

/// The records of all pairs, under the path at which the initramfs looks for them.
fn records(dir: &Path) -> Result<Vec<u8>> {
    let names = config::list(dir)?;
    let read = |name: &String| {
        let file: PathBuf = dir.join(format!("{name}.toml"));
        let failed = |error: std::io::Error| Error::new(Kind::Internal, "reading", error.to_string());
        let content = fs::read(&file).map_err(|error| failed(error).on(file.display().to_string()))?;
        Ok((format!("etc/dpsr/{name}.toml"), content))
    };
    let files: Vec<(String, Vec<u8>)> = names.iter().map(read).collect::<Result<_>>()?;
    let files: Vec<cpio::File<'_>> =
        files.iter().map(|(name, content)| (name.as_str(), content.as_slice())).collect();
    Ok(cpio::archive(&files))
}

/// Makes an initramfs that boots any machine, flushed.
fn dracut(version: &str, to: &Path) -> Result<()> {
    let mut words = vec!["--quiet", "--force", "--no-hostonly", "--no-hostonly-cmdline", "--add", "dpsr"];
    words.extend(["--kver", version, path_text(to)?]);
    tool::run_within(DRACUT, "dracut", "dracut", &words)?;
    let flushed = fs::File::open(to).and_then(|file| file.sync_all());
    flushed.map_err(|error| Error::device("writing the initramfs", to.display().to_string(), &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_set_of_the_menu_stays() {
        let top = tempfile::tempdir().unwrap();
        assert_eq!(named(top.path()), None);
        let words = ["root=UUID=1".to_owned()];
        let menu = grub::menu(&grub::Menu {
            pair: "main",
            folder: "dpsr/aaaa",
            words: &words,
            complete: true,
            older: &[],
            serial: None,
        });
        place::settle(top.path(), grub::MENU, menu.as_bytes()).unwrap();
        assert_eq!(named(top.path()).as_deref(), Some("aaaa"));
        for set in ["aaaa", "bbbb", "cccc", "dddd"] {
            place::settle(top.path(), &format!("dpsr/{set}/about.txt"), b"kernel=6.1\n").unwrap();
        }
        remove_others(top.path(), "bbbb", &["dddd".to_owned()]).unwrap();
        assert!(top.path().join("dpsr/dddd").exists(), "an older generation starts from it");
        remove_others(top.path(), "bbbb", &[]).unwrap();
        assert!(!top.path().join("dpsr/dddd").exists());
        let there = |set: &str| top.path().join("dpsr").join(set).exists();
        assert_eq!((there("aaaa"), there("bbbb"), there("cccc")), (true, true, false));
        assert_eq!(kernel_of(top.path(), "aaaa").as_deref(), Some("6.1"));
    }

    #[test]
    fn a_set_with_a_short_file_is_not_there() {
        let top = tempfile::tempdir().unwrap();
        let kernel = Kernel { version: "6.1".into(), image: "/none".into() };
        let wanted = Wanted { kernel, records: vec![], name: "aaaa".into() };
        for file in FILES {
            place::settle(top.path(), &format!("dpsr/aaaa/{file}"), b"12345").unwrap();
        }
        assert!(!wanted.is_on(top.path()), "it says nothing of itself");
        let about = "kernel=6.1\nvmlinuz=5\ninitrd.img=5\npairs.img=5\n";
        place::settle(top.path(), "dpsr/aaaa/about.txt", about.as_bytes()).unwrap();
        assert!(wanted.is_on(top.path()));
        place::settle(top.path(), "dpsr/aaaa/initrd.img", b"123").unwrap();
        assert!(!wanted.is_on(top.path()));
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! The primary's own boot menu: the entries there that lead to the DPSR disk, which its hooks make.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::fat::VolumeId;
use super::{place, tries};
use crate::error::{Error, Result};
use crate::mount::tool;

/// Where GRUB's menu is, and what only dpsr's entry in it says; below the root.
const GRUB: &str = "boot/grub/grub.cfg";
const ENTRY: &str = "dpsr-recover";

/// Where GRUB's hook finds the number of the ESP to which its entries lead: a file for each pair.
const ESPS: &str = "var/lib/dpsr/esp";

/// Where the directories can be in which systemd-boot looks for entries. (bootctl(1))
const TOPS: [&str; 3] = ["efi", "boot", "boot/efi"];

/// What the options of such an entry of systemd-boot say.
const FORCED: &str = " dpsr.boot=force";

/// How long a menu may take to be made: it looks for other systems, too.
const MAKING: Duration = Duration::from_secs(600);

/// Notes the ESP of a pair for GRUB's hook. A label would lead to whichever DPSR disk is found first.
pub fn leads_to(root: &Path, pair: &str, esp: VolumeId) -> Result<()> {
    place::settle(root, &format!("{ESPS}/{pair}"), format!("{esp}\n").as_bytes()).map(drop)
}

/// Forgets it.
pub fn leads_nowhere(root: &Path, pair: &str) -> Result<()> {
    place::remove(root, &format!("{ESPS}/{pair}"))
}

/// Takes the entries away, once no record says any more that the DPSR disk boots. Whether there were any.
pub fn clear(root: &Path) -> Result<bool> {
    let ended = tries::end(root);
    let entries = entries(root);
    for entry in &entries {
        let failed = |error| Error::device("removing", entry.display().to_string(), &error);
        match fs::remove_file(entry) {
            // One ESP can be seen at two places.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            removed => removed.map_err(failed)?,
        }
        entry.parent().map_or(Ok(()), place::flush).map_err(failed)?;
    }
    let menu = fs::read_to_string(root.join(GRUB)).is_ok_and(|menu| menu.contains(ENTRY));
    if menu {
        made_anew(&root.join(GRUB))?;
    }
    ended.map(|()| menu || !entries.is_empty())
}

/// Makes GRUB's menu anew, as update-grub(8) does, complete or not at all: that writes into the one that is there.
fn made_anew(menu: &Path) -> Result<()> {
    let failed = |error| Error::device("writing", menu.display().to_string(), &error);
    // Its place may be a link.
    let menu = menu.canonicalize().map_err(failed)?;
    let new = menu.with_extension("cfg.dpsr-new");
    let path = new.display().to_string();
    let made = tool::run_within(MAKING, "grub-mkconfig", "grub-common", &["-o", &path]).and_then(|_| {
        let placed = File::open(&new).and_then(|file| file.sync_all()).and_then(|()| fs::rename(&new, &menu));
        placed.and_then(|()| menu.parent().map_or(Ok(()), place::flush)).map_err(failed)
    });
    made.inspect_err(|_| fs::remove_file(&new).unwrap_or_default())
}

/// Those of systemd-boot.
fn entries(root: &Path) -> Vec<PathBuf> {
    let files =
        folders(root).into_iter().flat_map(|folder| fs::read_dir(folder).into_iter().flatten().flatten());
    let ours = |file: &PathBuf| {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        leads_to_copy(&name, &fs::read_to_string(file).unwrap_or_default())
    };
    files.map(|file| file.path()).filter(ours).collect()
}

/// Where systemd-boot's entries can be; one ESP can be seen at two places.
pub fn folders(root: &Path) -> Vec<PathBuf> {
    tops(root).into_iter().map(|top| top.join("loader/entries")).collect()
}

/// Where what systemd-boot reads can be.
pub fn tops(root: &Path) -> Vec<PathBuf> {
    TOPS.iter().map(|top| root.join(top)).collect()
}

/// Whether an entry of systemd-boot is dpsr's, by its name and what it says.
pub fn leads_to_copy(name: &str, text: &str) -> bool {
    name.contains("-dpsr") && text.lines().any(|line| line.starts_with("options") && line.contains(FORCED))
}

/// The name of what an entry of dpsr's stands beside, both without counters and what is behind them.
pub fn beside(name: &str) -> Option<&str> {
    name.strip_suffix("-dpsr-older").or_else(|| name.strip_suffix("-dpsr"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_esp_of_each_pair_is_noted() {
        let root = tempfile::tempdir().unwrap();
        leads_to(root.path(), "one", VolumeId(0x1234_abcd)).unwrap();
        leads_to(root.path(), "other", VolumeId(1)).unwrap();
        let noted = |pair: &str| fs::read_to_string(root.path().join(ESPS).join(pair)).ok();
        assert_eq!(noted("one").as_deref(), Some("1234-ABCD\n"));
        leads_nowhere(root.path(), "one").unwrap();
        leads_nowhere(root.path(), "one").unwrap();
        assert_eq!((noted("one"), noted("other").as_deref()), (None, Some("0000-0001\n")));
    }

    #[test]
    fn only_entries_that_lead_to_the_copy_go() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("boot/efi/loader/entries");
        fs::create_dir_all(&folder).unwrap();
        let put = |name: &str, words: &str| {
            fs::write(folder.join(name), format!("title x\nlinux /k\noptions root=UUID=1 ro{words}\n"))
                .unwrap();
        };
        put("debian-6.1.conf", "");
        put("debian-6.1-dpsr.conf", " dpsr.boot=force noresume");
        put("debian-6.1-dpsr-older+0.conf", " dpsr.boot=force dpsr.generation=ask");
        put("debian-6.2+2-1.conf", "");
        put("debian-6.2-dpsr.conf", " dpsr.boot=force noresume");
        put("debian-6.1-dpsrtest.conf", " quiet");
        assert!(clear(root.path()).unwrap());
        let mut left: Vec<_> = fs::read_dir(&folder).unwrap().map(|it| it.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["debian-6.1-dpsrtest.conf", "debian-6.1.conf", "debian-6.2.conf"]);
        assert!(!clear(root.path()).unwrap());
    }
}

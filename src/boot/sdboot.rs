// SPDX-License-Identifier: MIT OR Apache-2.0
//! systemd-boot, where the primary is started by it: the program, and its menu, one file for each entry.
//! (systemd-boot(7), loader.conf(5), the Boot Loader Specification's type #1)
//!
//! An entry that changes gets a new name, and the old one goes once the new one is there: a power cut leaves one of
//! them, and so does what FAT makes of a file that takes another's name.

use std::fs;
use std::path::Path;

use super::efi::{BEHIND_SHIM, Loader};
use super::grub::{self, Menu, Older, SHOWN};
use super::{menu, place};
use crate::error::{Error, Result};
use crate::time::utc;

/// What the loader has told of itself: attributes, then text in UTF-16. (systemd's Boot Loader Interface)
const LOADER_INFO: &str = "sys/firmware/efi/efivars/LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";

/// And of the entry whose starts it counts, if that has started the system: its path on the ESP.
pub(super) const COUNTED: &str =
    "sys/firmware/efi/efivars/LoaderBootCountPath-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";

/// And of the entry that somebody wants to be first.
const CHOSEN: &str = "sys/firmware/efi/efivars/LoaderEntryDefault-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";

/// The program, and the same signed, which shim starts under the name of GRUB; below the root.
const PROGRAM: &str = "usr/lib/systemd/boot/efi/systemd-bootx64.efi";
const SIGNED: &str = "usr/lib/systemd/boot/efi/systemd-bootx64.efi.signed";
const SHIM: &str = "usr/lib/shim/shimx64.efi.signed";
const MOK: &str = "usr/lib/shim/mmx64.efi.signed";

/// Everything of it on the ESP but the program.
pub const FOLDER: &str = "loader";

/// Its menu.
const ENTRIES: &str = "loader/entries";

/// Which entry is started by itself: the one that starts the copy only where the primary is missing.
const CONFIG: &str = "# Made by dpsr.\ntimeout 3\ndefault dpsr-auto-*\nauto-entries no\n";

/// Whether the running system was started by it.
pub fn is_used(root: &Path) -> bool {
    fs::read(root.join(LOADER_INFO)).is_ok_and(|told| text(&told).starts_with("systemd-boot"))
}

/// The name of the entry that has started the system, if its starts are counted.
pub fn counted_entry(root: &Path) -> Option<String> {
    let path = text(&fs::read(root.join(COUNTED)).ok()?);
    let name = path.trim_end_matches('\0').rsplit(['\\', '/']).next()?;
    Some(name.to_owned())
}

/// What lets the primary's menu always begin with one entry, whatever becomes of that, if anything does. A pattern that ends
/// with a star matches dpsr's entries as well, whose names are longer. (loader.conf(5), systemd-boot(7))
pub fn fixed(root: &Path) -> Option<String> {
    if fs::read(root.join(CHOSEN)).is_ok_and(|chosen| chosen.len() > 4) {
        return Some("an entry was made the default in the menu, or by bootctl set-default".to_owned());
    }
    menu::tops(root).iter().find_map(|top| {
        let text = fs::read_to_string(top.join("loader/loader.conf")).ok()?;
        let said = |line: &str| {
            line.strip_prefix("default")?.strip_prefix([' ', '\t']).map(|it| it.trim().to_owned())
        };
        let value = text.lines().rev().find_map(said)?;
        let pattern = value.strip_suffix('*').is_some_and(|start| !start.contains(['*', '?', '[']));
        (!pattern).then(|| format!("loader.conf says default {value}"))
    })
}

fn text(told: &[u8]) -> String {
    let units: Vec<u16> = told
        .get(4..)
        .unwrap_or_default()
        .as_chunks()
        .0
        .iter()
        .map(|unit| u16::from_le_bytes(*unit))
        .collect();
    String::from_utf16_lossy(&units)
}

/// The program below `root`, if it is installed there; by shim, where both are signed.
pub fn loader(root: &Path) -> Option<Loader> {
    let read = |file: &str| fs::read(root.join(file)).ok();
    let mut files = vec![(format!("{FOLDER}/loader.conf"), CONFIG.as_bytes().to_vec())];
    if let Some((shim, program)) = read(SHIM).zip(read(SIGNED)) {
        files.extend(read(MOK).map(|mok| ("EFI/BOOT/mmx64.efi".to_owned(), mok)));
        files.push((BEHIND_SHIM.to_owned(), program));
        files.push(("EFI/BOOT/BOOTX64.EFI".to_owned(), shim));
        return Some(Loader { signed: true, files });
    }
    files.push(("EFI/BOOT/BOOTX64.EFI".to_owned(), read(PROGRAM)?));
    Some(Loader { signed: false, files })
}

/// The entries: paths on the ESP and texts.
pub fn entries(menu: &Menu<'_>) -> Vec<(String, String)> {
    let newest = menu.folder;
    let mut all =
        vec![entry(menu, newest, "auto", "Last generation (dpsr)", "sort-key dpsr-0", "dpsr.boot=auto")];
    let forced = "Last generation, even if the primary is there (dpsr)";
    all.push(entry(menu, newest, "force", forced, "sort-key dpsr-1", "dpsr.boot=force"));
    for Older { generation, time, folder } in menu.older.iter().take(SHOWN) {
        let title = format!("Generation {generation}, {} (dpsr)", utc(*time));
        // The higher version comes first.
        let sorted = format!("sort-key dpsr-2\nversion {generation}");
        let last = format!("dpsr.boot=force dpsr.generation={generation}");
        let kernel = folder.as_deref().unwrap_or(newest);
        all.push(entry(menu, kernel, &format!("generation-{generation}"), &title, &sorted, &last));
    }
    if !menu.older.is_empty() {
        let title = "Give up what was written while an older generation ran (dpsr)";
        all.push(entry(
            menu,
            newest,
            "discard",
            title,
            "sort-key dpsr-3",
            "dpsr.boot=auto dpsr.discard=aside",
        ));
    }
    all.push(entry(menu, newest, "anew", grub::ANEW, "sort-key dpsr-4", grub::ANEW_WORDS));
    all
}

/// One entry, with kernel, initramfs and records from the directory `kernel`: what reads the records knows those of its time.
fn entry(
    menu: &Menu<'_>,
    kernel: &str,
    kind: &str,
    title: &str,
    sorted: &str,
    last: &str,
) -> (String, String) {
    let words = menu.words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ");
    let pair = menu.pair;
    let text = format!(
        "# Made by dpsr, and made anew by 'dpsr boot update'.\ntitle {title}\n{sorted}\nlinux /{kernel}/vmlinuz\n\
         initrd /{kernel}/initrd.img\ninitrd /{kernel}/pairs.img\noptions {words} {last} dpsr.pair={pair}\n"
    );
    let hash = blake3::hash(text.as_bytes()).to_hex();
    (format!("{ENTRIES}/dpsr-{kind}-{}.conf", &hash[..8]), text)
}

/// A word as the kernel reads it: there are no other quotes.
fn quoted(word: &str) -> String {
    let blank = word.contains(char::is_whitespace);
    match word.split_once('=') {
        Some((name, value)) if blank => format!("{name}=\"{value}\""),
        _ if blank => format!("\"{word}\""),
        _ => word.to_owned(),
    }
}

/// Whether an ESP has it.
pub fn is_on(top: &Path) -> bool {
    top.join(FOLDER).join("loader.conf").exists()
}

/// Whether the menu on the ESP is `wanted`, and nothing else of ours.
pub fn stands(top: &Path, wanted: &[(String, String)]) -> bool {
    let found =
        wanted.iter().all(|(path, text)| fs::read_to_string(top.join(path)).is_ok_and(|it| it == *text));
    found && others(top, wanted).is_empty()
}

/// Removes the entries of ours that are not `wanted`.
pub fn remove_others(top: &Path, wanted: &[(String, String)]) -> Result<()> {
    removed(top, &others(top, wanted))
}

/// Removes the entries of ours whose kernel is of none of the sets `named`: what was cut off, or failed, before the menu
/// named theirs.
pub fn remove_unnamed(top: &Path, named: &[String]) -> Result<()> {
    let kernels: Vec<_> = named.iter().map(|set| format!("linux /dpsr/{set}/")).collect();
    let mut paths = others(top, &[]);
    paths.retain(|path| {
        let text = fs::read_to_string(top.join(path)).unwrap_or_default();
        kernels.iter().all(|kernel| !text.contains(kernel.as_str()))
    });
    removed(top, &paths)
}

/// Durably: what they name is removed next, and FAT keeps no order.
fn removed(top: &Path, paths: &[String]) -> Result<()> {
    if paths.is_empty() {
        return Ok(());
    }
    paths.iter().try_for_each(|path| place::remove(top, path))?;
    place::flush(&top.join(ENTRIES))
        .map_err(|error| Error::device("writing", format!("{ENTRIES} on the ESP of the DPSR disk"), &error))
}

fn others(top: &Path, wanted: &[(String, String)]) -> Vec<String> {
    let entries = fs::read_dir(top.join(ENTRIES)).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let ours = names.filter(|name| name.starts_with("dpsr-")).map(|name| format!("{ENTRIES}/{name}"));
    ours.filter(|path| wanted.iter().all(|(it, _)| it != path)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Generation;

    fn menu<'a>(words: &'a [String], older: &'a [Older]) -> Menu<'a> {
        Menu { pair: "main", folder: "dpsr/0123", words, complete: true, older, serial: None }
    }

    #[test]
    fn who_has_started_the_system() {
        let root = tempfile::tempdir().unwrap();
        assert!(!is_used(root.path()));
        let file = root.path().join(LOADER_INFO);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        let mut told = vec![6, 0, 0, 0];
        told.extend("systemd-boot 252.38\0".encode_utf16().flat_map(u16::to_le_bytes));
        fs::write(&file, &told).unwrap();
        assert!(is_used(root.path()));
        fs::write(&file, &told[..3]).unwrap();
        assert!(!is_used(root.path()));
    }

    #[test]
    fn the_signed_program_only_behind_shim() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(loader(root.path()), None);
        for file in [PROGRAM, SIGNED, SHIM] {
            let signed = file == SHIM;
            let file = root.path().join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(&file, "MZ").unwrap();
            let loader = loader(root.path()).unwrap();
            let names: Vec<&str> = loader.files.iter().map(|(name, _)| name.as_str()).collect();
            let wanted: &[&str] = match signed {
                true => &["loader/loader.conf", "EFI/BOOT/grubx64.efi", "EFI/BOOT/BOOTX64.EFI"],
                false => &["loader/loader.conf", "EFI/BOOT/BOOTX64.EFI"],
            };
            assert_eq!((names.as_slice(), loader.signed), (wanted, signed));
        }
    }

    #[test]
    fn entries_that_change_get_new_names() {
        let words = ["root=UUID=1", "ro", "x=a b"].map(str::to_owned);
        let older = [
            Older { generation: Generation(12), time: 1_763_600_000, folder: None },
            Older { generation: Generation(7), time: 1_763_500_000, folder: Some("dpsr/4567".to_owned()) },
        ];
        let all = entries(&menu(&words, &older));
        let shown: String = all.iter().map(|(path, text)| format!("{path}\n{text}\n")).collect();
        insta::assert_snapshot!(shown);

        let top = tempfile::tempdir().unwrap();
        let put = |all: &[(String, String)]| {
            for (path, text) in all {
                place::settle(top.path(), path, text.as_bytes()).unwrap();
            }
        };
        place::settle(top.path(), "loader/entries/debian.conf", b"title x\n").unwrap();
        put(&all);
        assert!(stands(top.path(), &all));
        remove_unnamed(top.path(), &["0123".to_owned(), "4567".to_owned()]).unwrap();
        assert!(stands(top.path(), &all), "the menu names their kernels");
        remove_unnamed(top.path(), &["4567".to_owned()]).unwrap();
        assert_eq!(others(top.path(), &[]).len(), 1, "that of an older generation stays");
        remove_unnamed(top.path(), &[]).unwrap();
        assert_eq!(others(top.path(), &[]), [""; 0]);
        put(&all);
        let fewer = entries(&menu(&words[..2], &older[..1]));
        assert!(
            fewer.iter().all(|(path, _)| all.iter().all(|(old, _)| old != path)),
            "they differ, and so do names"
        );
        put(&fewer);
        assert!(!stands(top.path(), &fewer), "the old ones are there");
        remove_others(top.path(), &fewer).unwrap();
        assert!(stands(top.path(), &fewer));
        assert!(top.path().join("loader/entries/debian.conf").exists(), "it is somebody else's");
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! The machine's own initramfs images, told of a record that changed: a second archive behind the first takes its place
//! in there (kernel's `driver-api/early-userspace/buffer-format`), which takes no minutes and leaves the rest as it is.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::switch::images::{IMAGE, Image, placed, with_end};
use super::{cpio, kernel};
use crate::error::{Error, Kind, Result};
use crate::mount::tool;
use crate::units::MIB;

/// Where dpsr's dracut module notes the images that it was put into, below the root: a file for each kernel.
const NOTES: &str = "var/lib/dpsr/initramfs";

/// A compressed archive ends anywhere; one that is not begins at a multiple of four, after so many zeros at least: one by
/// lz4 ends with them.
const BLOCK: u64 = 512;
const ZEROS: u64 = 4;

/// How much of the end of an image is looked at for what was appended: records of pairs are small.
const END: u64 = MIB;

/// Which images have what the record of a pair says now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// Each there is.
    All,
    /// Some; the others have no record of that pair.
    Some,
    /// There may be one that has an older record.
    NotAll,
}

/// Tells each image that has the record of `pair` in it what that says now; the record lies in `dir`. An image counts as made when it was changed, so that one which is out of date otherwise
/// stays as it is, as does what is more than an initramfs: a program for UEFI may be signed.
pub fn tell(root: &Path, dir: &Path, pair: &str) -> Result<Told> {
    let record = format!("etc/dpsr/{pair}.toml");
    if dir.join(format!("{pair}.toml")) != root.join(&record) {
        return Ok(Told::NotAll);
    }
    let failed = |error: std::io::Error| Error::device("reading", dir.display().to_string(), &error);
    let archive = cpio::archive(&[(&record, &fs::read(root.join(&record)).map_err(failed)?)]);
    let images = noted(root);
    let mut told = if images.is_empty() { Told::NotAll } else { Told::All };
    for image in images {
        if is_program(&image.file).map_err(failed)? {
            told = Told::NotAll;
        } else if has(&image, &record)? {
            if !kernel::is_current(root, &image.kernel, &image.file, &root.join(&record)) {
                told = Told::NotAll;
                continue;
            }
            appended(&image.file, &archive)
                .map_err(|error| Error::device("writing", image.file.display().to_string(), &error))?;
            image.tell(root);
        } else if told == Told::All {
            told = Told::Some;
        }
    }
    Ok(told)
}

/// Whether an image is one with a kernel in it, a unified kernel image: it begins as programs do.
fn is_program(image: &Path) -> std::io::Result<bool> {
    let mut first = [0; 2];
    Ok(File::open(image)?.read(&mut first)? == 2 && &first == b"MZ")
}

/// The images with dpsr in them that are there.
fn noted(root: &Path) -> Vec<Image> {
    let notes = fs::read_dir(root.join(NOTES)).into_iter().flatten().flatten();
    let image = |note: fs::DirEntry| {
        let text = fs::read_to_string(note.path()).ok()?;
        let file: PathBuf = text.lines().find_map(|line| line.strip_prefix("image=/"))?.into();
        let file = fs::canonicalize(root.join(file)).ok()?;
        Some(Image { kernel: note.file_name().into_string().ok()?, file })
    };
    notes.filter_map(image).filter(|image| image.file.is_file()).collect()
}

/// Whether a pair's record is in an image: in an archive behind the first, or in that. lsinitrd(1) looks into the first
/// alone, and says nothing of a file that is not in there.
fn has(image: &Image, record: &str) -> Result<bool> {
    let file = image.file.display().to_string();
    if ends_with(&image.file, record).map_err(|error| Error::device("reading", &file, &error))? {
        return Ok(true);
    }
    let told = tool::run_within(IMAGE, "lsinitrd", "dracut", &["--file", record, &file])?;
    match told.trim() {
        "" => Ok(false),
        text if text.contains("[dpsr]") => Ok(true),
        _ => Err(Error::new(
            Kind::Internal,
            "looking for the record of a pair in",
            "lsinitrd told something else",
        )
        .on(file)),
    }
}

/// Whether the last of an image, which is not compressed where something was appended, names the record.
fn ends_with(image: &Path, record: &str) -> std::io::Result<bool> {
    let mut file = File::open(image)?;
    let start = file.metadata()?.len().saturating_sub(END);
    file.seek(SeekFrom::Start(start))?;
    let mut end = Vec::new();
    file.read_to_end(&mut end)?;
    Ok(end.windows(record.len()).any(|part| part == record.as_bytes()))
}

/// Makes `image` one with `archive` behind it, complete or not at all.
fn appended(image: &Path, archive: &[u8]) -> std::io::Result<()> {
    let new = with_end(image);
    let made = || {
        let len = fs::copy(image, &new)?;
        let mut file = File::options().append(true).open(&new)?;
        file.write_all(&vec![0; ((len + ZEROS).next_multiple_of(BLOCK) - len) as usize])?;
        file.write_all(archive)?;
        placed(&new, image)
    };
    made().inspect_err(|_| fs::remove_file(&new).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_appended_begins_where_the_kernel_looks_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("initrd.img");
        fs::write(&image, [7; 1001]).unwrap();
        let archive = cpio::archive(&[("etc/dpsr/system.toml", b"boot = false\n")]);
        assert!(!ends_with(&image, "etc/dpsr/system.toml").unwrap());
        for times in 1..=2 {
            appended(&image, &archive).unwrap();
            let found = fs::read(&image).unwrap();
            assert_eq!(found.len(), 1024 + archive.len() + (times - 1) * (512 + archive.len()));
            assert!(found[..1001].iter().all(|&byte| byte == 7));
            assert!(ends_with(&image, "etc/dpsr/system.toml").unwrap());
            assert!(!ends_with(&image, "etc/dpsr/other.toml").unwrap());
            assert!(found[1001..1024].iter().all(|&byte| byte == 0) && found.ends_with(&archive));
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn images_are_those_that_are_noted_and_there() {
        let root = tempfile::tempdir().unwrap();
        let notes = root.path().join(NOTES);
        assert!(noted(root.path()).is_empty());
        fs::create_dir_all(&notes).unwrap();
        fs::create_dir_all(root.path().join("boot")).unwrap();
        fs::write(notes.join("6.1"), "image=/boot/initrd.img-6.1\nhostonly=\n").unwrap();
        fs::write(notes.join("6.0"), "image=/boot/initrd.img-6.0\nhostonly=\n").unwrap();
        fs::write(notes.join("5.9"), "torn").unwrap();
        fs::write(root.path().join("boot/initrd.img-6.1"), "").unwrap();
        let found: Vec<_> = noted(root.path()).into_iter().map(|image| image.kernel).collect();
        assert_eq!(found, ["6.1"]);
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! The machine's own initramfs images, told of a record that changed: a second archive behind the first takes its place
//! in there (kernel's `driver-api/early-userspace/buffer-format`), which takes no minutes and leaves the rest as it is.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::inside::{self, Inside};
use super::switch::images::{Image, placed, with_end};
use super::{cpio, kernel};
use crate::error::{Error, Result};
use crate::units::MIB;

/// Where dpsr's dracut module notes the images that it was put into, below the root: a file for each kernel.
const NOTES: &str = "var/lib/dpsr/initramfs";

/// Where dracut notes the modules that are in an image, one a line, below its `/usr`.
const MODULES: &str = "lib/dracut/modules.txt";

/// A compressed archive ends anywhere; one that is not begins at a multiple of four, after so many zeros at least: one by
/// lz4 ends with them.
const BLOCK: u64 = 512;
const ZEROS: u64 = 4;

/// How much of the end of an image is looked at for what was appended: records of pairs are small.
const END: u64 = MIB;

/// Which images are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whom {
    /// Those that have an older record of the pair.
    Knowing,
    /// Each with dpsr in it.
    Each,
}

/// Which images have what the record of a pair says now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// Each there is.
    All,
    /// Some; the others have no record of that pair, or no dpsr that would read it.
    Some,
    /// There may be one that has an older record.
    NotAll,
}

/// Tells images what the record of `pair` says now; it lies in `dir`.
///
/// An image counts as made when it was changed, so one that is out of date otherwise stays as it is. So does what somebody
/// may have signed.
pub fn tell(root: &Path, dir: &Path, pair: &str, whom: Whom) -> Result<Told> {
    let name = format!("etc/dpsr/{pair}.toml");
    let record = root.join(&name);
    if dir.join(format!("{pair}.toml")) != record {
        return Ok(Told::NotAll);
    }
    let failed = |error: io::Error| Error::device("reading", record.display().to_string(), &error);
    let archive = cpio::archive(&[(&name, &fs::read(&record).map_err(failed)?)]);
    let images = noted(root);
    if images.is_empty() {
        return Ok(Told::NotAll);
    }
    let mut told = Told::All;
    for image in images {
        let known = one(root, &image, &name, &archive, whom).unwrap_or_else(|error| {
            tracing::warn!("{error}, ignoring: it may have an older record of the pair {pair}");
            Some(false)
        });
        told = match (known, told) {
            (Some(false), _) | (_, Told::NotAll) => Told::NotAll,
            (None, _) => Told::Some,
            (Some(true), told) => told,
        };
    }
    // Of those that are not noted dpsr is in none, unless another of the same kernel was made after it.
    for (kernel, file) in kernel::images(root) {
        match noted(root).iter().find(|image| image.kernel == kernel) {
            Some(image) if image.file == file => {}
            Some(_) => told = Told::NotAll,
            None if told == Told::All => told = Told::Some,
            None => {}
        }
    }
    Ok(told)
}

/// Whether an image has what the record `name` says now; `None` where it is none of those that are told.
fn one(root: &Path, image: &Image, name: &str, archive: &[u8], whom: Whom) -> Result<Option<bool>> {
    let (file, record) = (&image.file, root.join(name));
    let failed = |error: io::Error| Error::device("adding a record to", file.display().to_string(), &error);
    let is_newer = || kernel::is_newer(file, &record);
    if whom == Whom::Knowing && is_newer() {
        return Ok(Some(image.tell(root)));
    }
    let before = Stamp::of(file).map_err(failed)?;
    // Who appended to it has asked all of this.
    if !ends_with(file, name).map_err(failed)? {
        match knows(file, name, whom)? {
            Knows::Dpsr => {}
            Knows::Nothing => return Ok(None),
            Knows::Elsewhere => return Ok(Some(false)),
        }
    }
    if is_signed(file).map_err(failed)? {
        return Ok(Some(false));
    }
    if is_newer() {
        return Ok(Some(image.tell(root)));
    }
    let is_current = || {
        let same = fs::read(&record).is_ok_and(|now| cpio::archive(&[(name, &now)]) == archive);
        same && kernel::is_current(root, &image.kernel, file, &record)
    };
    if !is_current() {
        return Ok(Some(false));
    }
    appended(file, archive, || Stamp::of(file).is_ok_and(|now| now == before) && is_current())
        .map_err(failed)?;
    Ok(Some(image.tell(root)))
}

/// What changes with an image: dracut writes into the file there is.
#[derive(PartialEq, Eq)]
struct Stamp(u64, u64, i64, i64);

impl Stamp {
    fn of(image: &Path) -> io::Result<Self> {
        let meta = fs::metadata(image)?;
        Ok(Self(meta.ino(), meta.len(), meta.ctime(), meta.ctime_nsec()))
    }
}

/// Whether somebody may have signed an image: a program, or one with a signature beside it, as GRUB looks for.
fn is_signed(image: &Path) -> io::Result<bool> {
    let mut signature = image.as_os_str().to_owned();
    signature.push(".sig");
    Ok(is_program(image)? || Path::new(&signature).exists())
}

/// Whether it is a unified kernel image, which begins as programs do.
fn is_program(image: &Path) -> io::Result<bool> {
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

/// What an image knows.
#[derive(Debug, PartialEq, Eq)]
enum Knows {
    /// What is to be told.
    Dpsr,
    /// Nothing of it.
    Nothing,
    /// Its files lie in an image inside it: those are what counts, and hide what lies beside that. Or it is a program, with
    /// an archive inside.
    Elsewhere,
}

/// What is to be known of an image in which nothing was appended: that dpsr is in it, or the record of the pair.
fn knows(image: &Path, record: &str, whom: Whom) -> Result<Knows> {
    if is_program(image).map_err(|error| Error::device("reading", image.display().to_string(), &error))? {
        return Ok(Knows::Elsewhere);
    }
    let (modules, has_record, is_nested) = match whom {
        Whom::Knowing => {
            let Inside { contents: [modules, record], is_nested } = inside::look(image, [MODULES, record])?;
            (modules, record.is_some(), is_nested)
        }
        Whom::Each => {
            let Inside { contents: [modules], is_nested } = inside::look(image, [MODULES])?;
            (modules, false, is_nested)
        }
    };
    let Some(modules) = modules else {
        return Ok(if is_nested { Knows::Elsewhere } else { Knows::Nothing });
    };
    let modules = String::from_utf8_lossy(&modules);
    let has_module = |like: fn(&str) -> bool| modules.lines().any(|line| like(line.trim()));
    Ok(match whom {
        // Another name of the file may have the list: then nobody knows.
        _ if modules.is_empty() || has_module(|module| module.starts_with("squash")) => Knows::Elsewhere,
        Whom::Knowing if has_record => Knows::Dpsr,
        Whom::Each if has_module(|module| module == "dpsr") => Knows::Dpsr,
        _ => Knows::Nothing,
    })
}

/// Whether the last of an image, which is not compressed where something was appended, names the record.
fn ends_with(image: &Path, record: &str) -> io::Result<bool> {
    let mut file = File::open(image)?;
    let start = file.metadata()?.len().saturating_sub(END);
    file.seek(SeekFrom::Start(start))?;
    let mut end = Vec::new();
    file.read_to_end(&mut end)?;
    Ok(end.windows(record.len()).any(|part| part == record.as_bytes()))
}

/// Makes `image` one with `archive` behind it, complete or not at all, if it is `as_before` by then: as a new file it would
/// count as made after whatever came meanwhile.
fn appended(image: &Path, archive: &[u8], as_before: impl FnOnce() -> bool) -> io::Result<()> {
    let new = with_end(image);
    let made = || {
        let len = fs::copy(image, &new)?;
        let mut file = File::options().append(true).open(&new)?;
        file.write_all(&vec![0; ((len + ZEROS).next_multiple_of(BLOCK) - len) as usize])?;
        file.write_all(archive)?;
        // Which takes its time.
        file.sync_all()?;
        if !as_before() {
            return Err(io::Error::other("it, or what it is made of, has just changed"));
        }
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
            appended(&image, &archive, || true).unwrap();
            let found = fs::read(&image).unwrap();
            assert_eq!(found.len(), 1024 + archive.len() + (times - 1) * (512 + archive.len()));
            assert!(found[..1001].iter().all(|&byte| byte == 7));
            assert!(ends_with(&image, "etc/dpsr/system.toml").unwrap());
            assert!(!ends_with(&image, "etc/dpsr/other.toml").unwrap());
            assert!(found[1001..1024].iter().all(|&byte| byte == 0) && found.ends_with(&archive));
        }
        let before = Stamp::of(&image).unwrap();
        fs::write(&image, "being made anew").unwrap();
        assert!(appended(&image, &archive, || Stamp::of(&image).unwrap() == before).is_err());
        assert_eq!(fs::read(&image).unwrap(), b"being made anew");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
        assert!(!is_signed(&image).unwrap());
        fs::write(folder.path().join("initrd.img.sig"), "").unwrap();
        assert!(is_signed(&image).unwrap());
        fs::remove_file(folder.path().join("initrd.img.sig")).unwrap();
        fs::write(&image, "MZ and more").unwrap();
        assert!(is_signed(&image).unwrap());
    }

    #[test]
    fn an_image_knows_what_is_in_its_own_files_alone() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("initrd.img");
        let record = "etc/dpsr/system.toml";
        let known = |files: &[cpio::File<'_>], whom| {
            fs::write(&file, cpio::archive(files)).unwrap();
            knows(&file, record, whom).unwrap()
        };
        let with = ("usr/lib/dracut/modules.txt", &b"base\ndpsr\nrootfs-block\n"[..]);
        let without = ("usr/lib/dracut/modules.txt", &b"base\nnot-dpsr\n"[..]);
        let in_squashfs = ("usr/lib/dracut/modules.txt", &b"base\ndpsr\nsquash-squashfs\n"[..]);
        let recorded = (record, &b"[dpsr]\n"[..]);
        assert_eq!(known(&[with], Whom::Each), Knows::Dpsr);
        assert_eq!(known(&[with], Whom::Knowing), Knows::Nothing);
        assert_eq!(known(&[recorded, with], Whom::Knowing), Knows::Dpsr);
        assert_eq!(known(&[without], Whom::Each), Knows::Nothing);
        for whom in [Whom::Each, Whom::Knowing] {
            assert_eq!(known(&[recorded, in_squashfs], whom), Knows::Elsewhere);
            assert_eq!(known(&[recorded, ("squash-root.img", b"hsqs")], whom), Knows::Elsewhere);
            assert_eq!(known(&[recorded, ("usr/lib/dracut/modules.txt", b"")], whom), Knows::Elsewhere);
            assert_eq!(known(&[("usr/bin/sh", b"of initramfs-tools")], whom), Knows::Nothing);
            fs::write(&file, "MZ and more").unwrap();
            assert_eq!(knows(&file, record, whom).unwrap(), Knows::Elsewhere);
        }
        fs::write(&file, "torn").unwrap();
        let error = knows(&file, record, Whom::Each).unwrap_err().to_string();
        assert!(error.contains("initrd.img: it is no archive that the kernel could unpack"), "{error}");
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

    /// A machine with a record, and an image that has it, appended; both are put there in this order.
    fn machine(order: [&str; 2]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for folder in ["etc/dpsr", "boot", NOTES, "usr/lib/modules/6.1"] {
            fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        let put = |file: &str, text: &[u8]| fs::write(root.path().join(file), text).unwrap();
        put("usr/lib/modules/6.1/modules.dep", b"");
        put(&format!("{NOTES}/6.1"), b"image=/boot/initrd.img-6.1\n");
        for file in order {
            std::thread::sleep(std::time::Duration::from_millis(20));
            match file {
                "record" => put("etc/dpsr/system.toml", b"[dpsr]\n"),
                _ => put("boot/initrd.img-6.1", &cpio::archive(&[("etc/dpsr/system.toml", b"old")])),
            }
        }
        root
    }

    #[test]
    fn an_image_is_told_once_and_only_where_it_is_current() {
        let tell = |root: &tempfile::TempDir| {
            super::tell(root.path(), &root.path().join("etc/dpsr"), "system", Whom::Knowing).unwrap()
        };
        let size =
            |root: &tempfile::TempDir| root.path().join("boot/initrd.img-6.1").metadata().unwrap().len();
        let root = machine(["image", "record"]);
        let before = size(&root);
        assert_eq!(tell(&root), Told::All);
        let after = size(&root);
        assert!(after > before);
        assert_eq!((tell(&root), size(&root)), (Told::All, after), "it knows");

        let root = machine(["image", "record"]);
        std::thread::sleep(std::time::Duration::from_millis(20));
        fs::write(root.path().join("etc/dracut.conf"), "").unwrap();
        assert_eq!((tell(&root), size(&root)), (Told::NotAll, before), "it is out of date otherwise");

        let in_squashfs = ("usr/lib/dracut/modules.txt", &b"base\ndpsr\nsquash-squashfs\n"[..]);
        let root = machine(["image", "record"]);
        fs::write(root.path().join("boot/initrd.img-6.1"), cpio::archive(&[in_squashfs])).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
        fs::write(root.path().join("etc/dpsr/system.toml"), "[dpsr]\n").unwrap();
        let nested = size(&root);
        assert_eq!((tell(&root), size(&root)), (Told::NotAll, nested), "its files lie in an image inside it");

        let root = machine(["record", "image"]);
        assert_eq!((tell(&root), size(&root)), (Told::All, before), "it is newer than the record");
        fs::create_dir_all(root.path().join("usr/lib/modules/6.0")).unwrap();
        fs::write(root.path().join("boot/initrd.img-6.0"), "").unwrap();
        assert_eq!(tell(&root), Told::Some, "there is one without dpsr");
        fs::write(root.path().join("boot/other.img"), "").unwrap();
        fs::write(root.path().join(NOTES).join("6.1"), "image=/boot/other.img\n").unwrap();
        assert_eq!(tell(&root), Told::NotAll, "another was made of the same kernel");
        let elsewhere = super::tell(root.path(), Path::new("/nowhere"), "system", Whom::Each).unwrap();
        assert_eq!(elsewhere, Told::NotAll, "what an initramfs has is of /etc/dpsr");
    }
}

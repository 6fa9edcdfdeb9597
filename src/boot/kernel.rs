// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which kernel the DPSR disk starts, and what its initramfs is made of.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Kind, Result};

/// Where kernels lie, below the root: by distribution.
const IMAGES: [&str; 2] = ["boot/vmlinuz-{}", "usr/lib/modules/{}/vmlinuz"];
/// What decides the content of an initramfs besides the kernel: files, and directories with files in them.
const INPUTS: [&str; 18] = [
    "etc/dracut.conf",
    "etc/dracut.conf.d",
    "usr/lib/dracut/dracut.conf.d",
    "usr/lib/dracut/dracut-version.sh",
    "usr/lib/dracut/modules.d/55dpsr",
    "usr/lib/dpsr",
    // Programs without which no root comes up, for the packages they are of.
    "usr/lib/systemd/systemd",
    "usr/lib/systemd/systemd-cryptsetup",
    "usr/bin/systemd-cryptsetup",
    "usr/bin/udevadm",
    "usr/sbin/cryptsetup",
    "usr/sbin/dmsetup",
    "usr/sbin/lvm",
    "usr/sbin/mdadm",
    "usr/sbin/multipath",
    "usr/sbin/e2fsck",
    "usr/bin/btrfs",
    "etc/vconsole.conf",
];

/// Which of them say what dracut is told.
const SETTINGS: usize = 3;

/// What dracut is told, all of it together.
pub fn configured(root: &Path) -> String {
    let files = INPUTS[..SETTINGS].iter().flat_map(|input| files(&root.join(input)));
    files.filter_map(|file| fs::read_to_string(file).ok()).collect::<Vec<_>>().join("\n")
}

/// A file, or those in a directory, in order.
fn files(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_owned()];
    }
    let inside = fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut inside: Vec<_> = inside.filter(|file| file.is_file()).collect();
    inside.sort();
    inside
}

/// An installed kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// As `uname -r` says it.
    pub version: String,
    /// Its image.
    pub image: PathBuf,
}

impl Kernel {
    /// The kernel that runs, if it is still installed below `root`, because it is known to boot this machine;
    /// else the newest one.
    pub fn choose(root: &Path, running: &str) -> Result<Self> {
        let of = |version: &str| {
            let images = IMAGES.map(|pattern| root.join(pattern.replace("{}", version)));
            let image = images.into_iter().find(|image| image.is_file())?;
            let modules = root.join("usr/lib/modules").join(version).join("modules.dep");
            modules.is_file().then(|| Self { version: version.to_owned(), image })
        };
        if let Some(kernel) = of(running) {
            return Ok(kernel);
        }
        let folders = fs::read_dir(root.join("usr/lib/modules")).into_iter().flatten().flatten();
        let names = folders.filter_map(|folder| folder.file_name().into_string().ok());
        let newest = names.filter_map(|name| of(&name)).max_by_key(|kernel| numbers(&kernel.version));
        newest.ok_or_else(|| {
            Error::new(
                Kind::Refused,
                "choosing a kernel",
                "no installed kernel has both its image and modules",
            )
            .on(root.display().to_string())
            .left("nothing was written")
        })
    }

    /// The modules the kernel says it has.
    fn modules(&self, root: &Path) -> PathBuf {
        root.join("usr/lib/modules").join(&self.version).join("modules.dep")
    }

    /// A hash of everything the initramfs is made of.
    pub fn inputs(&self, root: &Path) -> Result<blake3::Hash> {
        let mut hasher = blake3::Hasher::new();
        for file in self.input_files(root) {
            let content = fs::read(&file).map_err(|error| unreadable(&file, &error))?;
            hasher.update(file.strip_prefix(root).unwrap_or(&file).as_os_str().as_encoded_bytes());
            hasher.update(&(content.len() as u64).to_le_bytes()).update(&content);
        }
        // Its text names modules, and is written anew with each that is installed under a name there is.
        let modules = self.modules(root);
        let written = fs::metadata(&modules).map_err(|error| unreadable(&modules, &error))?.mtime();
        hasher.update(&written.to_le_bytes());
        Ok(hasher.finalize())
    }

    fn input_files(&self, root: &Path) -> Vec<PathBuf> {
        let mut files = vec![self.image.clone(), self.modules(root)];
        files.extend(INPUTS.iter().flat_map(|input| self::files(&root.join(input))));
        files
    }

    /// The system's own initramfs, where it serves a machine without its primary just as well: the note that
    /// dpsr's dracut module left says that it was made generic, and nothing it is made of is newer.
    pub fn own_initramfs(&self, root: &Path) -> Option<PathBuf> {
        let note = note(root, &self.version)?;
        if value(&note, "hostonly") != Some("") {
            return None;
        }
        let image = image_of(root, &note)?;
        let made = changed(&image)?;
        self.input_files(root).iter().all(|file| changed(file).is_some_and(|at| at <= made)).then_some(image)
    }
}

/// Where initramfs images lie, below the root: by distribution.
const INITRAMFS: [&str; 2] = ["boot/initrd.img-{}", "boot/initramfs-{}.img"];

/// Whether the initramfs of the kernel `version` was made by dracut, with dpsr in it, since `record` was written; `None`
/// where it is somewhere else than in /boot, of which nothing is noted.
pub fn knows_record(root: &Path, version: &str, record: &Path) -> Option<bool> {
    let noted = note(root, version).and_then(|note| changed(&image_of(root, &note)?));
    match noted {
        Some(made) => Some(changed(record).is_none_or(|written| written <= made)),
        // dpsr is not in it.
        None if INITRAMFS.iter().any(|pattern| root.join(pattern.replace("{}", version)).exists()) => {
            Some(false)
        }
        None => None,
    }
}

/// Whether nothing that the initramfs of the kernel `version` is made of was changed since `image` was, but for the one
/// record `but`.
pub fn is_current(root: &Path, version: &str, image: &Path, but: &Path) -> bool {
    let Some(made) = changed(image) else { return false };
    let kernel = Kernel { version: version.to_owned(), image: image.to_owned() };
    let records = files(&root.join("etc/dpsr")).into_iter().filter(|file| file != but);
    kernel
        .input_files(root)
        .into_iter()
        .chain(records)
        .all(|file| changed(&file).is_some_and(|at| at <= made))
}

/// The initramfs of each installed kernel that has one in /boot, by the kernel's version.
pub fn images(root: &Path) -> Vec<(String, PathBuf)> {
    let folders = fs::read_dir(root.join("usr/lib/modules")).into_iter().flatten().flatten();
    let versions = folders.filter_map(|folder| folder.file_name().into_string().ok());
    let images = versions.flat_map(|version| {
        INITRAMFS.map(|pattern| {
            let file = fs::canonicalize(root.join(pattern.replace("{}", &version))).ok()?;
            Some((version.clone(), file))
        })
    });
    images.flatten().collect()
}

/// Whether `file` was changed since `other` was.
pub fn is_newer(file: &Path, other: &Path) -> bool {
    changed(file) > changed(other)
}

/// What dpsr's dracut module noted of the image it was put into.
fn note(root: &Path, version: &str) -> Option<String> {
    fs::read_to_string(root.join("var/lib/dpsr/initramfs").join(version)).ok()
}

fn value<'a>(note: &'a str, name: &str) -> Option<&'a str> {
    note.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
}

fn image_of(root: &Path, note: &str) -> Option<PathBuf> {
    Some(root.join(value(note, "image")?.strip_prefix('/')?))
}

/// When the kernel last saw a file change; a package cannot pretend that one is older.
fn changed(file: &Path) -> Option<(i64, i64)> {
    let meta = fs::metadata(file).ok()?;
    Some((meta.ctime(), meta.ctime_nsec()))
}

/// The numbers in a version, in order.
fn numbers(version: &str) -> Vec<u64> {
    version.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

fn unreadable(file: &Path, error: &std::io::Error) -> Error {
    Error::new(Kind::Internal, "reading", error.to_string()).on(file.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(versions: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for version in versions {
            let modules = root.path().join("usr/lib/modules").join(version);
            fs::create_dir_all(&modules).unwrap();
            fs::write(modules.join("modules.dep"), *version).unwrap();
            fs::create_dir_all(root.path().join("boot")).unwrap();
            fs::write(root.path().join(format!("boot/vmlinuz-{version}")), *version).unwrap();
        }
        root
    }

    #[test]
    fn the_running_kernel_unless_it_is_gone() {
        let root = tree(&["6.1.0-9-amd64", "6.1.0-56-amd64", "5.10.0-99-amd64"]);
        let chosen = |running: &str| Kernel::choose(root.path(), running).unwrap().version;
        assert_eq!(chosen("5.10.0-99-amd64"), "5.10.0-99-amd64");
        assert_eq!(chosen("6.12.1"), "6.1.0-56-amd64");
        fs::remove_file(root.path().join("boot/vmlinuz-6.1.0-56-amd64")).unwrap();
        assert_eq!(chosen("6.12.1"), "6.1.0-9-amd64");
        let error = Kernel::choose(Path::new("/nowhere"), "6").unwrap_err();
        insta::assert_snapshot!(error, @"choosing a kernel /nowhere: no installed kernel has both its image and modules; nothing was written");
    }

    #[test]
    fn whatever_an_initramfs_is_made_of_counts() {
        let root = tree(&["6.1"]);
        let kernel = Kernel::choose(root.path(), "6.1").unwrap();
        let mut seen = vec![kernel.inputs(root.path()).unwrap()];
        for file in
            ["usr/lib/modules/6.1/modules.dep", "etc/dracut.conf", "usr/lib/dpsr/dpsr-initrd", "usr/sbin/lvm"]
        {
            let file = root.path().join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(&file, "changed").unwrap();
            seen.push(kernel.inputs(root.path()).unwrap());
        }
        assert_eq!(seen[4], kernel.inputs(root.path()).unwrap());
        let modules = fs::File::open(root.path().join("usr/lib/modules/6.1/modules.dep")).unwrap();
        modules.set_modified(std::time::UNIX_EPOCH).unwrap();
        seen.push(kernel.inputs(root.path()).unwrap());
        seen.dedup();
        assert_eq!(seen.len(), 6);
    }

    #[test]
    fn the_own_initramfs_serves_if_it_is_generic_and_up_to_date() {
        let root = tree(&["6.1"]);
        let kernel = Kernel::choose(root.path(), "6.1").unwrap();
        let write = |file: &str, text: &str| fs::write(root.path().join(file), text).unwrap();
        fs::create_dir_all(root.path().join("var/lib/dpsr/initramfs")).unwrap();
        fs::create_dir_all(root.path().join("etc")).unwrap();
        let note = "var/lib/dpsr/initramfs/6.1";
        assert_eq!(kernel.own_initramfs(root.path()), None);
        write(note, "image=/boot/initrd.img-6.1\nhostonly=\n");
        assert_eq!(kernel.own_initramfs(root.path()), None, "there is no image");
        std::thread::sleep(std::time::Duration::from_millis(20));
        write("boot/initrd.img-6.1", "x");
        assert_eq!(kernel.own_initramfs(root.path()), Some(root.path().join("boot/initrd.img-6.1")));
        write(note, "image=/boot/initrd.img-6.1\nhostonly=-h\n");
        assert_eq!(kernel.own_initramfs(root.path()), None, "it was made for this machine as it is");
        write(note, "image=/boot/initrd.img-6.1\nhostonly=\n");
        std::thread::sleep(std::time::Duration::from_millis(20));
        write("etc/dracut.conf", "new");
        assert_eq!(kernel.own_initramfs(root.path()), None, "what it is made of is newer");
    }

    #[test]
    fn an_image_from_before_the_record_does_not_know_it() {
        let root = tree(&["6.1"]);
        let put = |file: &str, text: &str| {
            let file = root.path().join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        };
        let knows = || knows_record(root.path(), "6.1", &root.path().join("etc/dpsr/system.toml"));
        put("etc/dpsr/system.toml", "");
        assert_eq!(knows(), None, "it is somewhere else");
        put("boot/initrd.img-6.1", "");
        assert_eq!(knows(), Some(false), "dpsr is not in it");
        put("var/lib/dpsr/initramfs/6.1", "image=/boot/initrd.img-6.1.other\nhostonly=yes\n");
        assert_eq!(knows(), Some(false), "that image is not there");
        put("var/lib/dpsr/initramfs/6.1", "image=/boot/initrd.img-6.1\nhostonly=yes\n");
        std::thread::sleep(std::time::Duration::from_millis(20));
        put("boot/initrd.img-6.1", "new");
        assert_eq!(knows(), Some(true));
        std::thread::sleep(std::time::Duration::from_millis(20));
        put("etc/dpsr/system.toml", "boot = true\n");
        assert_eq!(knows(), Some(false));
    }
}

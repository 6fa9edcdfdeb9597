// SPDX-License-Identifier: MIT OR Apache-2.0
//! The initramfs images of the installed kernels, and those that are kept from before the switch.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::refused;
use crate::error::{Error, Result};
use crate::mount::tool;
use crate::units::Bytes;

/// What tells others of a new image: systemd-boot has copies of them.
const HOOKS: &str = "etc/initramfs/post-update.d";

/// How long one image may take to be made: emulated machines are slow.
pub(in crate::boot) const IMAGE: Duration = Duration::from_secs(1800);

/// Where images and packages from before are kept, below the root.
pub(super) const KEPT: &str = "var/lib/dpsr/initramfs-tools";

/// The names of the packages, there: written last, so that a directory with it has everything.
pub(super) const PACKAGES: &str = "packages";

/// The names of those that came, and were not there before.
pub(super) const NEW: &str = "new";

/// The initramfs of an installed kernel.
pub(in crate::boot) struct Image {
    pub(in crate::boot) kernel: String,
    pub(in crate::boot) file: PathBuf,
}

impl Image {
    pub(super) fn is_newer(&self, since: Duration) -> bool {
        changed(&self.file) >= Some(since)
    }

    /// Whether dracut has made it since then, and with dpsr's module, which leaves a note.
    pub(super) fn is_of_dracut(&self, root: &Path, since: Duration) -> bool {
        self.is_newer(since)
            && changed(&root.join("var/lib/dpsr/initramfs").join(&self.kernel)) >= Some(since)
    }

    /// Where it is kept.
    pub(super) fn kept(&self, root: &Path) -> PathBuf {
        root.join(KEPT).join(format!("initrd.img-{}", self.kernel))
    }

    /// Lets dracut make it, complete or not at all: it writes into the file it is given.
    pub(super) fn by_dracut(&self) -> Result<()> {
        let new = with_end(&self.file);
        let path = new.display().to_string();
        let made = tool::run_within(IMAGE, "dracut", "dracut", &["--quiet", "--force", &path, &self.kernel])
            .and_then(|_| {
                placed(&new, &self.file).map_err(|error| Error::device("writing", path.clone(), &error))
            });
        made.inspect_err(|_| fs::remove_file(&new).unwrap_or_default())
    }

    /// Tells those who have copies of it that it is a new one. Whether all could be told.
    pub(in crate::boot) fn tell(&self, root: &Path) -> bool {
        let hooks = root.join(HOOKS);
        if !hooks.is_dir() {
            return true;
        }
        let (kernel, file) = (format!("--arg={}", self.kernel), format!("--arg={}", self.file.display()));
        let folder = hooks.display().to_string();
        let words = [kernel.as_str(), file.as_str(), folder.as_str()];
        let told = tool::run_within(IMAGE, "run-parts", "debianutils", &words);
        if let Err(error) = &told {
            tracing::warn!(
                "{error}, ignoring: a boot loader with a copy of the initramfs may have the old one"
            );
        }
        told.is_ok()
    }
}

/// When a file was changed last, since 1970; no package can pretend another time.
fn changed(file: &Path) -> Option<Duration> {
    let meta = fs::metadata(file).ok()?;
    Some(Duration::new(meta.ctime().try_into().ok()?, meta.ctime_nsec().try_into().ok()?))
}

/// The same of this moment.
pub(super) fn clock() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// Those of all kernels that have one.
pub(super) fn images(root: &Path) -> Vec<Image> {
    let mut images = kernels(root);
    images.retain(|image| image.file.is_file());
    images
}

/// Those of all kernels that have one, or had one before the switch.
pub(super) fn kernels(root: &Path) -> Vec<Image> {
    let folders = fs::read_dir(root.join("usr/lib/modules")).into_iter().flatten().flatten();
    let names: BTreeSet<String> =
        folders.filter_map(|folder| folder.file_name().into_string().ok()).collect();
    let image =
        |kernel: String| Image { file: root.join("boot").join(format!("initrd.img-{kernel}")), kernel };
    let mut images: Vec<_> = names.into_iter().map(image).collect();
    let is_there = |image: &Image| {
        ["vmlinuz", "vmlinux"].iter().any(|it| root.join(format!("boot/{it}-{}", image.kernel)).exists())
    };
    images.retain(|image| is_there(image) && (image.file.is_file() || image.kept(root).is_file()));
    images
}

/// A new image is written beside the old one, by whoever makes it.
pub(super) fn check_room(root: &Path, images: &[Image]) -> Result<()> {
    let size = |image: &Image| fs::metadata(&image.file).map_or(0, |meta| meta.len());
    let Some(largest) = images.iter().map(size).max() else {
        return Err(refused("there is no kernel with an initramfs in /boot"));
    };
    let boot = root.join("boot");
    let room =
        nix::sys::statvfs::statvfs(&boot).map_err(|error| refused(format!("looking at /boot: {error}")))?;
    let (free, needed) = (Bytes(room.blocks_available() * room.fragment_size()), Bytes(2 * largest));
    if free >= needed {
        return Ok(());
    }
    Err(refused(format!("{free} are free in /boot, and new images take up to {needed} beside the old ones"))
        .next("remove kernels that are not needed any more, then again"))
}

/// Keeps what [`undo`] needs.
pub(super) fn keep(root: &Path, images: &[Image], packages: &[String], new: &[String]) -> Result<()> {
    let kept = root.join(KEPT);
    let all = || {
        if kept.exists() {
            fs::remove_dir_all(&kept)?;
        }
        fs::create_dir_all(&kept)?;
        flushed(&kept)?;
        images.iter().try_for_each(|image| copied(&image.file, &image.kept(root)))?;
        let lines = |names: &[String]| names.join("\n") + "\n";
        written(&kept, NEW, &lines(new))?;
        written(&kept, PACKAGES, &lines(packages))
    };
    all().map_err(|error| {
        // What there is of them only takes room that is short.
        fs::remove_dir_all(&kept).unwrap_or_default();
        refused(format!("keeping the images there are in /{KEPT}: {error}"))
    })
}

/// Gives what was kept up, once the images that there are outlive a power cut.
pub(super) fn forget(root: &Path) -> Result<()> {
    let kept = root.join(KEPT);
    durable(root)
        .and_then(|()| fs::remove_dir_all(&kept))
        .map_err(|error| Error::device("removing", kept.display().to_string(), &error))
}

/// Puts those images from before back that are `wanted`: those of kernels without one first, and all that can be. The
/// first error.
pub(super) fn put_back(root: &Path, wanted: impl Fn(&Image) -> bool) -> io::Result<()> {
    let mut images = kernels(root);
    images.retain(|image| image.kept(root).is_file() && wanted(image));
    images.sort_by_key(|image| image.file.exists());
    let back = |image: &Image| copied(&image.kept(root), &image.file).inspect(|()| _ = image.tell(root));
    let mut first = Ok(());
    for image in &images {
        // Whatever became of the others.
        let done = back(image);
        first = first.and(done);
    }
    first
}

/// Makes `to` a copy of `from`, complete or not at all.
fn copied(from: &Path, to: &Path) -> io::Result<()> {
    let new = with_end(to);
    let copy = fs::copy(from, &new).and_then(|_| placed(&new, to));
    copy.inspect_err(|_| fs::remove_file(&new).unwrap_or_default())
}

/// The name of a file that is not complete yet; dpsr's dracut module knows the end of it.
pub(in crate::boot) fn with_end(file: &Path) -> PathBuf {
    let mut new = file.as_os_str().to_owned();
    new.push(".dpsr-new");
    new.into()
}

/// Puts the file `new` in the place of `to`, durably.
pub(in crate::boot) fn placed(new: &Path, to: &Path) -> io::Result<()> {
    let file = File::open(new)?;
    file.sync_all()?;
    fs::rename(new, to)?;
    // FAT writes where the file begins into its new name only with the file. (`vfat_rename`)
    file.sync_all()?;
    flushed(to)
}

pub(super) fn written(folder: &Path, name: &str, text: &str) -> io::Result<()> {
    let file = folder.join(name);
    fs::write(&file, text)?;
    File::open(&file)?.sync_all()?;
    flushed(&file)
}

/// Brings all of /boot to stable storage: who makes images leaves that to the kernel.
pub(super) fn durable(root: &Path) -> io::Result<()> {
    Ok(nix::unistd::syncfs(File::open(root.join("boot"))?)?)
}

/// Brings the name of a file to stable storage.
fn flushed(file: &Path) -> io::Result<()> {
    file.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! dracut takes the place of initramfs-tools, in which dpsr has no part, and gives it back.
//!
//! Before anything changes, the images there are are kept, and the names of the packages that go. Whatever happens then,
//! the machine has an image for each kernel that boots it: one that dracut made, with dpsr in it, or the one from before.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use super::place;
use crate::error::{Error, Kind, Result};
use crate::mount::tool;
use crate::open::now;

/// What there is to type before the switch is made.
pub const CONFIRM: &str = "dracut";

/// Where images and packages from before are kept, below the root.
const KEPT: &str = "var/lib/dpsr/initramfs-tools";

/// The names of the packages, there: written last, so that a directory with it has everything.
const PACKAGES: &str = "packages";

/// How apt-get(8) is to go about it: it waits for who else installs something, and keeps what somebody configured.
const APT: [&str; 5] = [
    "--yes",
    "--no-install-recommends",
    "-oDPkg::Lock::Timeout=120",
    "-oDpkg::Options::=--force-confdef",
    "-oDpkg::Options::=--force-confold",
];

/// How long one image may take to be made: emulated machines are slow.
const IMAGE: Duration = Duration::from_secs(1800);

/// What would be installed and removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Switch {
    /// The packages that come, dracut among them.
    pub installed: Vec<String>,
    /// The packages that go, initramfs-tools among them.
    pub removed: Vec<String>,
}

/// Whether there is dracut.
pub fn has_dracut(root: &Path) -> bool {
    ["usr/bin/dracut", "usr/sbin/dracut"].iter().any(|path| root.join(path).exists())
}

/// Whether there is initramfs-tools.
pub fn has_initramfs_tools(root: &Path) -> bool {
    root.join("usr/share/initramfs-tools/init").exists()
}

/// What the package manager would do; nothing is changed.
///
/// # Errors
/// `Refused` where it cannot, or where a kernel would go.
pub fn planned() -> Result<Switch> {
    simulated(&["dracut"]).map_err(|error| {
        refused(error.cause())
            .next("apt-get update; then 'dpsr boot install' again; where there is no apt-get, install dracut yourself")
    })
}

fn refused(why: impl Into<String>) -> Error {
    Error::new(Kind::Refused, "switching to dracut", why).left("nothing was changed")
}

fn simulated(packages: &[&str]) -> Result<Switch> {
    let words = [&["--simulate"], &APT[..], &["install"], packages].concat();
    let switch = Switch::of(&tool::run("apt-get", "apt", &words)?);
    let kernel = switch.removed.iter().find(|name| name.starts_with("linux-image"));
    match kernel {
        Some(kernel) => Err(refused(format!("the package {kernel} would go"))),
        None => Ok(switch),
    }
}

impl Switch {
    /// Reads what apt-get(8) simulates: `Inst NAME [old version] (new one)`, `Remv NAME [version]`.
    fn of(told: &str) -> Self {
        let named = |word: &str| {
            let lines = told.lines().filter_map(|line| line.strip_prefix(word)?.split_whitespace().next());
            lines.map(str::to_owned).collect()
        };
        Self { installed: named("Inst "), removed: named("Remv ") }
    }

    /// Makes the switch. On an error the machine is as before, or the error says what is not.
    pub fn act(&self, root: &Path) -> Result<()> {
        let images = images(root)?;
        keep(root, &images, &self.removed)?;
        let begun = now();
        let made = install(&["dracut"]).and_then(|()| {
            let missing = images.iter().find(|image| !image.is_of_dracut(root, begun));
            missing.map_or(Ok(()), |image| {
                Err(refused(format!("dracut made no image with dpsr in it for kernel {}", image.kernel)))
            })
        });
        let Err(error) = made else { return Ok(()) };
        let error = Error::new(Kind::Internal, "switching to dracut", error.cause());
        Err(match undo(root) {
            Ok(_) => error.left("everything is as it was before"),
            Err(undoing) => error
                .left(format!("{undoing}; the images from before are in /{KEPT}"))
                .next("copy those back to /boot before the machine is restarted"),
        })
    }
}

/// Gives initramfs-tools its place back, if a switch was made; the image of each kernel is one of its own again. Whether
/// there was anything to do.
pub fn undo(root: &Path) -> Result<bool> {
    let kept = root.join(KEPT);
    let Ok(packages) = fs::read_to_string(kept.join(PACKAGES)) else { return Ok(false) };
    let begun = now();
    if let Err(error) = installed_again(root, &packages.lines().collect::<Vec<_>>(), begun) {
        let put_back = put_back(root).map_or_else(
            |error| error.to_string(),
            |kernels| {
                format!("the initramfs images of {} are those from before the switch", kernels.join(", "))
            },
        );
        return Err(Error::new(Kind::Internal, "giving initramfs-tools its place back", error.cause())
            .left(put_back)
            .next(format!(
                "apt-get install {}, then 'dpsr boot uninstall' again",
                packages.replace('\n', " ").trim()
            )));
    }
    let removed = fs::remove_dir_all(&kept);
    removed.map_err(|error| Error::device("removing", kept.display().to_string(), &error))?;
    Ok(true)
}

fn installed_again(root: &Path, packages: &[&str], begun: u64) -> Result<()> {
    simulated(packages)?;
    install(packages)?;
    // It makes only the image of the newest kernel by itself.
    for image in images(root)?.iter().filter(|image| !image.is_newer(begun)) {
        let words = ["-u", "-k", &image.kernel];
        tool::run_within(IMAGE, "update-initramfs", "initramfs-tools", &words)?;
    }
    Ok(())
}

fn install(packages: &[&str]) -> Result<()> {
    let words = [&APT[..], &["install"], packages].concat();
    tool::run_to_its_end("apt-get", "apt", &words).map(drop)
}

/// The initramfs of an installed kernel.
struct Image {
    kernel: String,
    file: PathBuf,
}

impl Image {
    fn of(root: &Path, kernel: &str) -> Self {
        Self { kernel: kernel.to_owned(), file: root.join("boot").join(format!("initrd.img-{kernel}")) }
    }

    fn is_newer(&self, since: u64) -> bool {
        changed(&self.file) >= Some(since)
    }

    /// Whether dracut has made it since then, and with dpsr's module, which leaves a note.
    fn is_of_dracut(&self, root: &Path, since: u64) -> bool {
        self.is_newer(since)
            && changed(&root.join("var/lib/dpsr/initramfs").join(&self.kernel)) >= Some(since)
    }
}

/// When a file was changed last, in seconds since 1970.
fn changed(file: &Path) -> Option<u64> {
    fs::metadata(file).ok()?.ctime().try_into().ok()
}

/// Those of all kernels that have one.
fn images(root: &Path) -> Result<Vec<Image>> {
    let folders = fs::read_dir(root.join("usr/lib/modules")).into_iter().flatten().flatten();
    let names = folders.filter_map(|folder| folder.file_name().into_string().ok());
    let mut images: Vec<_> =
        names.map(|name| Image::of(root, &name)).filter(|image| image.file.is_file()).collect();
    images.sort_by(|a, b| a.kernel.cmp(&b.kernel));
    match images[..] {
        [] => Err(refused("there is no kernel with an initramfs in /boot")),
        _ => Ok(images),
    }
}

/// Keeps what [`undo`] needs.
fn keep(root: &Path, images: &[Image], packages: &[String]) -> Result<()> {
    let kept = root.join(KEPT);
    let failed = |error: Error| refused(format!("keeping the images there are: {}", error.cause()));
    let folder = fs::create_dir_all(&kept)
        .map_err(|error| Error::device("making", kept.display().to_string(), &error));
    folder.map_err(failed)?;
    let all = images
        .iter()
        .try_for_each(|image| place::copy(&image.file, &kept.join(format!("initrd.img-{}", image.kernel))));
    let all = all.and_then(|()| place::settle(&kept, PACKAGES, (packages.join("\n") + "\n").as_bytes()));
    all.map(drop).map_err(|error| {
        // What there is of them only takes room that is short.
        fs::remove_dir_all(&kept).unwrap_or_default();
        failed(error)
    })
}

/// Puts the images from before back; the kernels that have one again.
fn put_back(root: &Path) -> Result<Vec<String>> {
    let boot = root.join("boot");
    let mut kernels = Vec::new();
    for image in images(root)? {
        let kept = root.join(KEPT).join(format!("initrd.img-{}", image.kernel));
        if kept.is_file() {
            let new = image.file.with_file_name(format!("initrd.img-{}.dpsr-new", image.kernel));
            place::copy(&kept, &new)?;
            let placed = fs::rename(&new, &image.file).and_then(|()| place::flush(&boot));
            placed
                .map_err(|error| Error::device("putting back", image.file.display().to_string(), &error))?;
            kernels.push(image.kernel);
        }
    }
    Ok(kernels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_apt_would_do() {
        let told = "NOTE: This is only a simulation!\nThe following packages will be REMOVED:\n  initramfs-tools\n\
                    Remv initramfs-tools [0.142+deb12u3]\nInst dracut-core (059-4 Debian:12.11/stable [amd64])\n\
                    Inst udev [252.36] (252.38 Debian:12.11/stable [amd64])\nConf dracut-core (059-4 x)\n";
        let wanted = Switch {
            installed: vec!["dracut-core".to_owned(), "udev".to_owned()],
            removed: vec!["initramfs-tools".to_owned()],
        };
        assert_eq!(Switch::of(told), wanted);
    }

    #[test]
    fn the_images_from_before_come_back() {
        let root = tempfile::tempdir().unwrap();
        let (boot, modules) = (root.path().join("boot"), root.path().join("usr/lib/modules"));
        fs::create_dir_all(&boot).unwrap();
        for kernel in ["6.1", "6.12", "none"] {
            fs::create_dir_all(modules.join(kernel)).unwrap();
        }
        assert!(images(root.path()).is_err(), "no kernel has an image");
        for kernel in ["6.1", "6.12"] {
            fs::write(boot.join(format!("initrd.img-{kernel}")), format!("before {kernel}")).unwrap();
        }
        assert!(!undo(root.path()).unwrap(), "no switch was made");
        let before = images(root.path()).unwrap();
        keep(root.path(), &before, &["initramfs-tools".to_owned()]).unwrap();
        assert!(!before[0].is_of_dracut(root.path(), 0), "dpsr has no part in it");
        let note = root.path().join("var/lib/dpsr/initramfs");
        fs::create_dir_all(&note).unwrap();
        fs::write(note.join("6.1"), "").unwrap();
        assert!(before[0].is_of_dracut(root.path(), 0));
        assert!(!before[0].is_of_dracut(root.path(), now() + 60), "it is an old one");

        fs::write(&before[0].file, "by dracut").unwrap();
        assert_eq!(put_back(root.path()).unwrap(), ["6.1", "6.12"]);
        assert_eq!(fs::read_to_string(&before[0].file).unwrap(), "before 6.1");
        assert_eq!(fs::read_dir(&boot).unwrap().count(), 2);
    }
}

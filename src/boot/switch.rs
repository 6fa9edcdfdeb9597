// SPDX-License-Identifier: MIT OR Apache-2.0
//! dracut takes the place of initramfs-tools, in which dpsr has no part, and gives it back.
//!
//! Before anything changes, the images there are are kept, and the names of the packages that go. Whatever happens then,
//! the machine has an image for each kernel that boots it: one that dracut made, with dpsr in it, or the one from before.

pub(super) mod images;

use std::fs;
use std::path::Path;

use serde::Serialize;

use crate::error::{Error, Kind, Result};
use crate::mount::tool;
use images::{
    IMAGE, Image, KEPT, NEW, PACKAGES, check_room, clock, durable, forget, images, keep, kernels, put_back,
    written,
};

/// What there is to type before the switch is made.
pub const CONFIRM: &str = "dracut";

/// There once the switch is made.
const DONE: &str = "done";

/// How apt-get(8) is to go about it: it waits for who else installs something, and keeps what somebody configured.
const APT: [&str; 5] = [
    "--yes",
    "--no-install-recommends",
    "-oDPkg::Lock::Timeout=120",
    "-oDpkg::Options::=--force-confdef",
    "-oDpkg::Options::=--force-confold",
];

/// What the package dracut, as a kernel's own packages do, takes for a machine whose kernels need no image: it writes into
/// the one that is there, and whoever loses power meanwhile has none.
const NO_IMAGES: (&str, &str) = ("INITRD", "No");

/// What would be installed and removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Switch {
    /// The packages that come, dracut among them.
    pub installed: Vec<String>,
    /// Those of them that are there in another version.
    pub exchanged: Vec<String>,
    /// The packages that go, initramfs-tools among them.
    pub removed: Vec<String>,
}

/// Whether dracut makes the images.
pub fn has_dracut(root: &Path) -> bool {
    let there = ["usr/bin/dracut", "usr/sbin/dracut"].iter().any(|path| root.join(path).exists());
    there && !has_initramfs_tools(root)
}

/// Whether initramfs-tools makes them: a dracut beside it makes none by itself.
pub fn has_initramfs_tools(root: &Path) -> bool {
    let status = fs::read(root.join("var/lib/dpkg/status")).unwrap_or_default();
    String::from_utf8_lossy(&status).split("\n\n").any(|package| {
        let mut lines = package.trim_start().lines();
        let named = lines.next() == Some("Package: initramfs-tools");
        named && lines.any(|line| line.starts_with("Status: ") && line.ends_with(" ok installed"))
    })
}

/// The packages that dpkg(1) has not installed to their end, whatever is in the way.
fn unfinished(root: &Path) -> Vec<String> {
    let status = fs::read(root.join("var/lib/dpkg/status")).unwrap_or_default();
    let status = String::from_utf8_lossy(&status);
    let unfinished = |package: &str| {
        let mut lines = package.trim_start().lines();
        let name = lines.next()?.strip_prefix("Package: ")?;
        let state = lines.find(|line| line.starts_with("Status: "))?.rsplit(' ').next()?;
        (!["installed", "config-files", "not-installed"].contains(&state)).then(|| name.to_owned())
    };
    status.split("\n\n").filter_map(unfinished).collect()
}

/// Whether a switch was begun and not ended: an image may be torn, whatever it looks like.
pub fn is_unfinished(root: &Path) -> bool {
    let kept = root.join(KEPT);
    kept.join(PACKAGES).exists() && !kept.join(DONE).exists()
}

/// Refuses where a switch was begun and not ended.
pub fn refuse_unfinished(root: &Path) -> Result<()> {
    if !is_unfinished(root) {
        return Ok(());
    }
    Err(Error::new(Kind::Refused, "switching to dracut", "an earlier switch was cut off in the middle")
        .left(format!("the images from before it are in /{KEPT}"))
        .next("'dpsr boot uninstall' takes it back; then again"))
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
        let named = |beginning: &str, also: &str| {
            let lines = told.lines().filter_map(|line| line.strip_prefix(beginning)?.split_once(' '));
            let names = lines.filter(|(_, rest)| rest.starts_with(also)).map(|(name, _)| name.to_owned());
            names.collect::<Vec<_>>()
        };
        Self {
            installed: named("Inst ", ""),
            exchanged: named("Inst ", "["),
            removed: [named("Remv ", ""), named("Purg ", "")].concat(),
        }
    }

    /// Makes the switch. On an error the machine is as before, or the error says what is not.
    pub fn act(&self, root: &Path) -> Result<()> {
        if !has_initramfs_tools(root) {
            return Err(refused("initramfs-tools does not make the images any more"));
        }
        if simulated(&["dracut"])? != *self {
            return Err(refused("other packages would come and go by now than were shown").next("try again"));
        }
        let unfinished = unfinished(root);
        if !unfinished.is_empty() {
            let why = format!("packages that are not installed to their end: {}", unfinished.join(", "));
            return Err(refused(why).next("'dpkg --configure -a', then again"));
        }
        let images = images(root);
        check_room(root, &images)?;
        let mut new = self.installed.clone();
        new.retain(|name| !self.exchanged.contains(name));
        keep(root, &images, &self.removed, &new)?;
        let begun = clock();
        // They may have taken the room, where all of it is one filesystem.
        let words = [&APT[..], &["install", "dracut"]].concat();
        let came = || tool::run_to_its_end_with(&[NO_IMAGES], "apt-get", "apt", &words);
        let made = check_room(root, &images).and_then(|()| came()).and_then(|()| {
            let others = images.iter().filter(|image| !image.is_of_dracut(root, begun));
            others.into_iter().try_for_each(Image::by_dracut)?;
            let missing = images.iter().find(|image| !image.is_of_dracut(root, begun));
            missing.map_or(Ok(()), |image| {
                Err(refused(format!("dracut made no image with dpsr in it for kernel {}", image.kernel)))
            })
        });
        let made = made.and_then(|()| {
            images.iter().for_each(|image| _ = image.tell(root));
            durable(root)
                .and_then(|()| written(&root.join(KEPT), DONE, ""))
                .map_err(|error| refused(error.to_string()))
        });
        let Err(error) = made else { return Ok(()) };
        let error = Error::new(Kind::Internal, "switching to dracut", error.cause());
        Err(match as_before(root, &self.removed) {
            Ok(()) => error.left("everything is as it was before"),
            Err(undoing) => error
                .left(format!("taking it back: {undoing}; the images from before are in /{KEPT}, too"))
                .next("see that each kernel in /boot has its initrd.img; then 'dpsr boot uninstall' takes the rest back"),
        })
    }
}

/// After a switch that failed: the images from before, and the packages from before.
fn as_before(root: &Path, packages: &[String]) -> Result<()> {
    let packages: Vec<&str> = packages.iter().map(String::as_str).collect();
    let installed = if has_initramfs_tools(root) { Ok(()) } else { install(&packages) };
    put_back(root, |_| true).map_err(|error| Error::device("putting back images of", "/boot", &error))?;
    installed?;
    purged(root);
    forget(root)
}

/// Gives initramfs-tools its place back, if a switch was made; the image of each kernel is one of its own again. Whether
/// there was anything to do.
pub fn undo(root: &Path) -> Result<bool> {
    let Ok(packages) = fs::read_to_string(root.join(KEPT).join(PACKAGES)) else { return Ok(false) };
    let made = installed_again(root, &packages.lines().collect::<Vec<_>>());
    if let Err(error) = made {
        // Dracut's are newer than those from before, and boot as well.
        let left = match put_back(root, |image| !image.file.exists()) {
            Ok(()) => "each kernel has the initramfs it had, or the one from before the switch".to_owned(),
            Err(error) => format!("the images from before the switch are in /{KEPT}: {error}"),
        };
        let again = packages.replace('\n', " ");
        return Err(Error::new(Kind::Internal, "giving initramfs-tools its place back", error.cause())
            .left(left)
            .next(format!(
                "see that apt-get install {} works; then 'dpsr boot uninstall' again",
                again.trim()
            )));
    }
    forget(root).map(|()| true)
}

fn installed_again(root: &Path, packages: &[&str]) -> Result<()> {
    // What was cut off comes to an end first, which may make images by dracut.
    tool::run_to_its_end("dpkg", "dpkg", &["--force-confdef", "--force-confold", "--configure", "-a"])?;
    let begun = clock();
    let new = new(root);
    if let Some(other) = simulated(packages)?.removed.iter().find(|name| !new.contains(name)) {
        return Err(refused(format!("the package {other} would go, which did not come with the switch")));
    }
    install(packages)?;
    for image in kernels(root) {
        // It makes only the image of the newest kernel by itself.
        if !image.is_newer(begun) {
            let verb = if image.file.exists() { "-u" } else { "-c" };
            let words = [verb, "-k", &image.kernel];
            tool::run_within(IMAGE, "update-initramfs", "initramfs-tools", &words)?;
        }
        if !image.is_newer(begun) {
            let why = format!("update-initramfs made no image for kernel {}", image.kernel);
            return Err(Error::new(Kind::Internal, "making an initramfs", why));
        }
    }
    purged(root);
    Ok(())
}

/// The packages that came with the switch.
fn new(root: &Path) -> Vec<String> {
    let new = fs::read_to_string(root.join(KEPT).join(NEW)).unwrap_or_default();
    new.lines().map(str::to_owned).collect()
}

/// Takes away what came with the switch, as far as nothing else needs it: dracut's hook would go on making an image of
/// each new kernel.
fn purged(root: &Path) {
    let new = new(root);
    let all: Vec<&str> = new.iter().map(String::as_str).collect();
    let alone = |packages: &&[&str]| {
        let words = [&["--simulate"], &APT[..], &["purge"], packages].concat();
        let told = tool::run("apt-get", "apt", &words).map(|told| Switch::of(&told));
        told.is_ok_and(|told| told.removed.iter().all(|name| new.contains(name)))
    };
    let gone = [&all[..], &["dracut"]].into_iter().filter(|packages| !packages.is_empty()).find(alone);
    let done = gone
        .map(|packages| tool::run_to_its_end("apt-get", "apt", &[&APT[..], &["purge"], packages].concat()));
    match done {
        Some(Ok(())) => {}
        Some(Err(error)) => tracing::warn!("{error}, ignoring: not needed any more: {}", new.join(" ")),
        None => tracing::warn!("others need what came with dracut, which stays: {}", new.join(" ")),
    }
}

fn install(packages: &[&str]) -> Result<()> {
    let words = [&APT[..], &["install"], packages].concat();
    tool::run_to_its_end("apt-get", "apt", &words).map(drop)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_apt_would_do() {
        let told = "NOTE: This is only a simulation!\nThe following packages will be REMOVED:\n  initramfs-tools\n\
                    Remv initramfs-tools [0.142+deb12u3]\nInst dracut-core (059-4 Debian:12.11/stable [amd64])\n\
                    Inst udev [252.36] (252.38 Debian:12.11/stable [amd64])\nConf dracut-core (059-4 x)\n";
        let wanted = Switch {
            installed: vec!["dracut-core".to_owned(), "udev".to_owned()],
            exchanged: vec!["udev".to_owned()],
            removed: vec!["initramfs-tools".to_owned()],
        };
        assert_eq!(Switch::of(told), wanted);
    }

    #[test]
    fn who_makes_the_images() {
        let root = tempfile::tempdir().unwrap();
        let put = |file: &str, text: &str| {
            let file = root.path().join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        };
        let both = || (has_dracut(root.path()), has_initramfs_tools(root.path()));
        assert_eq!(both(), (false, false));
        put("usr/bin/dracut", "");
        assert_eq!(both(), (true, false));
        let core = "Package: initramfs-tools-core\nStatus: install ok installed\n";
        let tools = "\nPackage: initramfs-tools\nStatus: install ok installed\nVersion: 1\n";
        put("var/lib/dpkg/status", core);
        assert_eq!(both(), (true, false));
        put("var/lib/dpkg/status", &[core, tools].concat());
        assert_eq!(both(), (false, true), "a dracut that is only there makes none");
        put(
            "var/lib/dpkg/status",
            &[core, &tools.replace("install ok installed", "deinstall ok config-files")].concat(),
        );
        assert_eq!(both(), (true, false));
    }

    #[test]
    fn what_is_not_installed_to_its_end() {
        let root = tempfile::tempdir().unwrap();
        assert!(unfinished(root.path()).is_empty(), "there are no packages");
        fs::create_dir_all(root.path().join("var/lib/dpkg")).unwrap();
        let package = |name: &str, state: &str| format!("Package: {name}\nStatus: {state}\nVersion: 1\n");
        let all = [
            package("whole", "install ok installed"),
            package("gone", "deinstall ok config-files"),
            package("linux-image-6.1", "install ok half-configured"),
            package("held", "hold ok installed"),
            package("torn", "install reinstreq half-installed"),
        ];
        fs::write(root.path().join("var/lib/dpkg/status"), all.join("\n")).unwrap();
        assert_eq!(unfinished(root.path()), ["linux-image-6.1", "torn"]);
    }

    #[test]
    fn the_images_from_before_come_back() {
        let root = tempfile::tempdir().unwrap();
        let (boot, modules) = (root.path().join("boot"), root.path().join("usr/lib/modules"));
        fs::create_dir_all(&boot).unwrap();
        for kernel in ["6.1", "6.12", "none"] {
            fs::create_dir_all(modules.join(kernel)).unwrap();
        }
        assert!(check_room(root.path(), &images(root.path())).is_err(), "no kernel has an image");
        for kernel in ["6.1", "6.12"] {
            fs::write(boot.join(format!("initrd.img-{kernel}")), format!("before {kernel}")).unwrap();
            fs::write(boot.join(format!("vmlinuz-{kernel}")), "").unwrap();
        }
        fs::write(boot.join("initrd.img-none"), "of a kernel that is gone").unwrap();
        assert!(!undo(root.path()).unwrap(), "no switch was made");
        let before = images(root.path());
        check_room(root.path(), &before).unwrap();
        keep(root.path(), &before, &["initramfs-tools".to_owned()], &[]).unwrap();
        assert!(refuse_unfinished(root.path()).is_err());
        assert!(!before[0].is_of_dracut(root.path(), Duration::ZERO), "dpsr has no part in it");
        let note = root.path().join("var/lib/dpsr/initramfs");
        fs::create_dir_all(&note).unwrap();
        fs::write(note.join("6.1"), "").unwrap();
        assert!(before[0].is_of_dracut(root.path(), Duration::ZERO));
        assert!(!before[0].is_of_dracut(root.path(), clock() + Duration::from_secs(60)), "it is an old one");

        // The one of the newest kernel is gone, as dracut leaves it where there is no room.
        fs::write(&before[0].file, "by dracut").unwrap();
        fs::remove_file(&before[1].file).unwrap();
        let read = |at: usize| fs::read_to_string(&before[at].file).unwrap();
        put_back(root.path(), |image| !image.file.exists()).unwrap();
        assert_eq!((read(0), read(1)), ("by dracut".to_owned(), "before 6.12".to_owned()));
        put_back(root.path(), |_| true).unwrap();
        assert_eq!(read(0), "before 6.1");
        assert_eq!(fs::read_dir(&boot).unwrap().count(), 5);
        forget(root.path()).unwrap();
        refuse_unfinished(root.path()).unwrap();
    }
}

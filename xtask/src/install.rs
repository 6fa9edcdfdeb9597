// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask install --root DIR`: everything of dpsr that a machine needs, in one place: below `DIR`, which
//! is `/` on the machine itself, or the tree that a package or an image is made of.
//!
//! What goes where are the two tables below. A file is executable there if it is here.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::args::Args;
use crate::scratch::Scratch;
use crate::{Result, cargo, packages};

/// A program of this workspace, and where it goes. One whose source is not there is not built.
const PROGRAMS: [Program; 2] = [
    Program { name: "dpsr", source: "src/main.rs", to: "usr/sbin/dpsr" },
    Program { name: "dpsr-initrd", source: "src/bin/dpsr-initrd.rs", to: "usr/lib/dpsr/dpsr-initrd" },
];

/// A folder of this workspace, and where the files in it go. One that is not there has nothing to install.
const FOLDERS: [(&str, &str); 11] = [
    ("dracut/55dpsr", "usr/lib/dracut/modules.d/55dpsr"),
    ("dracut/dracut.conf.d", "usr/lib/dracut/dracut.conf.d"),
    ("udev", "usr/lib/udev/rules.d"),
    ("systemd", "usr/lib/systemd/system"),
    ("hooks/kernel", "etc/kernel/postinst.d"),
    ("hooks/kernel", "etc/kernel/postrm.d"),
    ("hooks/kernel", "etc/initramfs/post-update.d"),
    ("hooks/grub", "etc/grub.d"),
    ("hooks/kernel-install", "usr/lib/kernel/install.d"),
    ("hooks/sleep", "usr/lib/systemd/system-sleep"),
    ("hooks/bless-boot", "usr/lib/systemd/system/systemd-bless-boot.service.d"),
];

struct Program {
    name: &'static str,
    source: &'static str,
    to: &'static str,
}

/// `--root DIR`: where to; `--release`: built as for use; `--yes`: missing packages are installed.
pub fn run(mut args: Args) -> Result<()> {
    let root: Option<PathBuf> = args.value("--root")?;
    let (release, yes) = (args.flag("--release"), args.flag("--yes"));
    args.finish()?;
    let root = root.ok_or("it needs --root DIR; --root / is this machine")?;
    packages::ensure(&[packages::BUILD, &["binutils"]].concat(), yes)?;
    for file in install(&root, release)? {
        println!("{}", file.display());
    }
    Ok(())
}

/// Builds dpsr and puts it below `root`, which must be a directory. What was put there.
pub fn install(root: &Path, release: bool) -> Result<Vec<PathBuf>> {
    if !root.is_dir() {
        return Err(format!("--root {}: there is no such directory", root.display()));
    }
    let here = cargo::workspace();
    let built = built(&here, release)?;
    let scratch = Scratch::new(&std::env::temp_dir(), "install")?;
    let mut done = Vec::new();
    for (program, binary) in built {
        let small = scratch.path().join(program.name);
        cargo::strip(&binary, &small)?;
        done.push(put(&small, &root.join(program.to), true)?);
    }
    done.extend(folders(&here, root)?);
    Ok(done)
}

/// The programs that this workspace has, and where cargo built them.
fn built(here: &Path, release: bool) -> Result<Vec<(&'static Program, PathBuf)>> {
    let ours: Vec<&Program> = PROGRAMS.iter().filter(|it| here.join(it.source).is_file()).collect();
    let wanted: Vec<&str> = ours.iter().map(|it| it.name).collect();
    let binaries = cargo::binaries(&wanted, release)?;
    Ok(ours.into_iter().zip(binaries).collect())
}

/// Copies every file of [`FOLDERS`].
fn folders(here: &Path, root: &Path) -> Result<Vec<PathBuf>> {
    let mut done = Vec::new();
    for (from, to) in FOLDERS {
        let folder = here.join(from);
        if !folder.exists() {
            continue;
        }
        let failed = |error| format!("reading {}: {error}", folder.display());
        let mut files: Vec<fs::DirEntry> = Vec::new();
        for entry in fs::read_dir(&folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if !entry.file_type().map_err(failed)?.is_file() {
                return Err(format!("{}: only files are installed from there", entry.path().display()));
            }
            files.push(entry);
        }
        files.sort_by_key(fs::DirEntry::file_name);
        for file in files {
            let from = file.path();
            done.push(put(&from, &root.join(to).join(file.file_name()), is_executable(&from)?)?);
        }
    }
    Ok(done)
}

/// Whether anybody may run the file.
pub fn is_executable(file: &Path) -> Result<bool> {
    let meta = fs::metadata(file).map_err(|error| format!("reading {}: {error}", file.display()))?;
    Ok(meta.permissions().mode() & 0o111 != 0)
}

/// A new file in the place of an old one: a program that runs keeps what it runs from.
pub fn put(from: &Path, to: &Path, executable: bool) -> Result<PathBuf> {
    let failed = |error| format!("installing {}: {error}", to.display());
    let folder = to.parent().ok_or_else(|| format!("{} is no place for a file", to.display()))?;
    fs::create_dir_all(folder).map_err(failed)?;
    let mut new = to.as_os_str().to_owned();
    new.push(".dpsr-new");
    let new = PathBuf::from(new);
    fs::copy(from, &new).map_err(failed)?;
    let mode = if executable { 0o755 } else { 0o644 };
    fs::set_permissions(&new, fs::Permissions::from_mode(mode)).map_err(failed)?;
    fs::rename(&new, to).map_err(failed)?;
    Ok(to.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(name: &str) -> (Scratch, PathBuf, PathBuf) {
        let scratch = Scratch::new(&std::env::temp_dir(), name).unwrap();
        let (here, root) = (scratch.path().join("here"), scratch.path().join("root"));
        fs::create_dir_all(here.join("udev")).unwrap();
        fs::create_dir_all(here.join("dracut/55dpsr")).unwrap();
        fs::create_dir_all(&root).unwrap();
        (scratch, here, root)
    }

    #[test]
    fn files_go_where_the_table_says_and_stay_executable() {
        let (_scratch, here, root) = tree("install-files");
        fs::write(here.join("udev/60-x.rules"), "rule").unwrap();
        let setup = here.join("dracut/55dpsr/module-setup.sh");
        fs::write(&setup, "#!/bin/bash\n").unwrap();
        fs::set_permissions(&setup, fs::Permissions::from_mode(0o755)).unwrap();
        // What is there is replaced, and a folder that is not there is nothing to install.
        fs::create_dir_all(root.join("usr/lib/udev/rules.d")).unwrap();
        fs::write(root.join("usr/lib/udev/rules.d/60-x.rules"), "an old one").unwrap();

        let done = folders(&here, &root).unwrap();
        let module = root.join("usr/lib/dracut/modules.d/55dpsr/module-setup.sh");
        let rules = root.join("usr/lib/udev/rules.d/60-x.rules");
        assert_eq!(done, [module.clone(), rules.clone()]);
        assert_eq!(fs::read_to_string(&rules).unwrap(), "rule");
        let mode = |file: &Path| fs::metadata(file).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&module), mode(&rules)), (0o755, 0o644));
        assert_eq!(fs::read_dir(root.join("usr/lib/udev/rules.d")).unwrap().count(), 1);
    }

    #[test]
    fn what_cannot_be_installed_is_told() {
        let (_scratch, here, root) = tree("install-refused");
        fs::create_dir(here.join("udev/folder")).unwrap();
        assert!(folders(&here, &root).is_err_and(|why| why.contains("udev/folder: only files")));
        let nowhere = root.join("nowhere");
        assert!(install(&nowhere, false).is_err_and(|why| why.contains("there is no such directory")));
    }

    #[test]
    fn this_workspace_has_what_is_always_installed() {
        assert!(cargo::workspace().join(PROGRAMS[0].source).is_file());
        assert!(cargo::workspace().join("udev").is_dir());
    }
}

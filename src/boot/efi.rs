// SPDX-License-Identifier: MIT OR Apache-2.0
//! What UEFI starts from the DPSR disk: [systemd-boot](super::sdboot) where that has started the system; else the
//! distribution's own signed GRUB where it is installed, so that Secure Boot stays on; else one that is made here.
//!
//! shim's fallback program (fbx64.efi) is never copied: shim would start it from `\EFI\BOOT`, and it rewrites
//! the boot order and resets the machine. (shim's `README.fallback`)

use std::fs;
use std::path::Path;

use super::fat::{VolumeId, path_text};
use super::grub::early;
use super::sdboot;
use crate::error::{Error, Kind, Result};
use crate::mount::tool;

/// Where distributions put shim, MokManager and GRUB, below the root: Debian and its relatives; Fedora's.
const CHAINS: [[&str; 3]; 2] = [
    [
        "usr/lib/shim/shimx64.efi.signed",
        "usr/lib/shim/mmx64.efi.signed",
        "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed",
    ],
    ["boot/efi/EFI/fedora/shimx64.efi", "boot/efi/EFI/fedora/mmx64.efi", "boot/efi/EFI/fedora/grubx64.efi"],
];
/// Where the modules of GRUB for UEFI are, below the root.
const MODULES: &str = "usr/lib/grub/x86_64-efi";
/// What an image made here has to know.
const NEEDED: [&str; 16] = [
    "part_gpt",
    "fat",
    "search",
    "search_fs_uuid",
    "normal",
    "configfile",
    "linux",
    "echo",
    "test",
    "serial",
    "terminal",
    "minicmd",
    "ls",
    "all_video",
    "halt",
    "reboot",
];

/// What says so.
const SECURE_BOOT: &str = "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";

/// What shim starts, on the ESP.
pub const BEHIND_SHIM: &str = "EFI/BOOT/grubx64.efi";

/// The loader's files on an ESP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loader {
    /// Whether firmware with Secure Boot takes it.
    pub signed: bool,
    /// Paths on the ESP and contents, in the order in which they are to be written: what is started first
    /// comes last.
    pub files: Vec<(String, Vec<u8>)>,
}

/// The loader that leads to the menu on `esp`; `None` where none for UEFI is installed below `root`.
pub fn loader(root: &Path, esp: VolumeId) -> Result<Option<Loader>> {
    if sdboot::is_used(root)
        && let Some(loader) = sdboot::loader(root)
        && (loader.signed || !has_secure_boot(root))
    {
        return Ok(Some(loader));
    }
    let signed = CHAINS.iter().find_map(|chain| signed(root, chain, esp));
    let grub = signed.map_or_else(|| made(root, esp), |loader| Ok(Some(loader)))?;
    Ok(grub.or_else(|| sdboot::loader(root)))
}

/// Whether the firmware starts only what is signed: attributes, then one byte. (UEFI 2.10, 3.3)
fn has_secure_boot(root: &Path) -> bool {
    fs::read(root.join(SECURE_BOOT)).is_ok_and(|value| value.get(4) == Some(&1))
}

impl Loader {
    /// Whether its menu is that of systemd-boot.
    pub fn is_systemd_boot(&self) -> bool {
        self.files.iter().any(|(path, _)| path.starts_with(sdboot::FOLDER))
    }
}

/// The signed chain. shim starts `grubx64.efi` beside it, and that reads `grub.cfg` in the directory that was
/// built into it.
fn signed(root: &Path, chain: &[&str; 3], esp: VolumeId) -> Option<Loader> {
    let read = |file: &str| fs::read(root.join(file));
    let [shim, mok, grub] = chain.map(read);
    // Ubuntu gives MokManager, signed all the same, the name without the end.
    let mok = mok.or_else(|_| read(chain[1].trim_end_matches(".signed")));
    let (shim, grub) = (shim.ok()?, grub.ok()?);
    let config = early(esp).into_bytes();
    let mut files = vec![("EFI/BOOT/grub.cfg".to_owned(), config.clone())];
    files.extend(built_in(&grub).map(|folder| (format!("EFI/{folder}/grub.cfg"), config)));
    files.extend(mok.ok().map(|mok| ("EFI/BOOT/mmx64.efi".to_owned(), mok)));
    files.push((BEHIND_SHIM.to_owned(), grub));
    files.push(("EFI/BOOT/BOOTX64.EFI".to_owned(), shim));
    Some(Loader { signed: true, files })
}

/// The directory below `\EFI` whose `grub.cfg` a signed GRUB reads.
fn built_in(grub: &[u8]) -> Option<String> {
    const BEFORE: &[u8] = b"/EFI/";
    let places = grub.windows(BEFORE.len()).enumerate().filter(|(_, window)| *window == BEFORE);
    let names = places.map(|(at, _)| {
        let rest = grub[at + BEFORE.len()..].iter();
        rest.take_while(|byte| byte.is_ascii_alphanumeric()).map(|byte| char::from(*byte)).collect::<String>()
    });
    let mut names = names.filter(|name| !name.is_empty() && !name.eq_ignore_ascii_case("boot"));
    names.next()
}

fn made(root: &Path, esp: VolumeId) -> Result<Option<Loader>> {
    let modules = root.join(MODULES);
    if !modules.is_dir() {
        return Ok(None);
    }
    let failed =
        |error: std::io::Error| Error::new(Kind::Internal, "making a boot loader", error.to_string());
    let work = tempfile::tempdir().map_err(failed)?;
    let (config, image) = (work.path().join("early.cfg"), work.path().join("BOOTX64.EFI"));
    fs::write(&config, early(esp)).map_err(failed)?;
    let mut words = vec!["--format=x86_64-efi", "--prefix=/dpsr", "--directory", path_text(&modules)?];
    words.extend(["--config", path_text(&config)?, "--output", path_text(&image)?]);
    words.extend(NEEDED);
    tool::run("grub-mkimage", "grub-common", &words)?;
    let image = fs::read(&image).map_err(failed)?;
    Ok(Some(Loader { signed: false, files: vec![("EFI/BOOT/BOOTX64.EFI".to_owned(), image)] }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chain_as_it_is_installed_without_the_fallback_program() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(loader(root.path(), VolumeId(1)).unwrap(), None);
        for file in CHAINS[0].iter().chain(&["usr/lib/shim/fbx64.efi.signed"]) {
            let file = root.path().join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, b"MZ..\0/EFI/BOOT\0(memdisk)\0/EFI/debian\0..").unwrap();
        }
        let loader = loader(root.path(), VolumeId(1)).unwrap().unwrap();
        let names: Vec<&str> = loader.files.iter().map(|(name, _)| name.as_str()).collect();
        let wanted = [
            "EFI/BOOT/grub.cfg",
            "EFI/debian/grub.cfg",
            "EFI/BOOT/mmx64.efi",
            "EFI/BOOT/grubx64.efi",
            "EFI/BOOT/BOOTX64.EFI",
        ];
        assert_eq!((names.as_slice(), loader.signed), (&wanted[..], true));
    }
}

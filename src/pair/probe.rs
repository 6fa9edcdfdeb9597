// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is known of one endpoint, read through its open descriptor.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

use super::serial::names;
use super::sysfs::{BlockNode, DevNum, Roots};
use crate::error::{self, Error, Result};
use crate::sys::ioctl;
use crate::units::{Bytes, SECTOR};

/// What an endpoint is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A block device.
    Block,
    /// A plain image file.
    File,
}

/// The facts about one endpoint.
#[derive(Clone, Debug)]
pub struct Probe {
    /// As it was given.
    pub path: PathBuf,
    /// With links resolved.
    pub canonical: PathBuf,
    /// Block device or file.
    pub kind: Kind,
    /// Its exact size.
    pub size: Bytes,
    /// Its logical block size; 512 for a file.
    pub block: Bytes,
    /// Its number, for a block device.
    pub number: Option<DevNum>,
    /// Filesystem and inode of the image file, or of the file behind a loop device.
    pub inode: Option<(u64, u64)>,
    /// The kernel's number for this disk since boot: another disk, or another file behind a loop device, has
    /// another one, though it got the same name. `None` for a file, and before Linux 5.15.
    pub sequence: Option<u64>,
    /// The serial number the disk reports.
    pub serial: Option<String>,
    /// The world-wide name the disk reports (for device-mapper and MD: the array's UUID).
    pub wwn: Option<String>,
    /// The model the disk reports.
    pub model: Option<String>,
}

impl Probe {
    /// Opens `path` for reading only and asks what it is.
    pub fn open(roots: &Roots, path: &Path) -> Result<Self> {
        let file = File::options().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path);
        let file = file.map_err(|error| failed(path, &error))?;
        Self::of(roots, path, file)
    }

    /// Asks an open descriptor what it is; `path` is only how it is called.
    pub fn of_descriptor(roots: &Roots, path: &Path, descriptor: impl AsFd) -> Result<Self> {
        let owned = descriptor.as_fd().try_clone_to_owned().map_err(|error| failed(path, &error))?;
        Self::of(roots, path, File::from(owned))
    }

    fn of(roots: &Roots, path: &Path, mut file: File) -> Result<Self> {
        let meta = file.metadata().map_err(|error| failed(path, &error))?;
        let kind = match meta.file_type() {
            t if t.is_block_device() => Kind::Block,
            t if t.is_file() => Kind::File,
            _ => return Err(neither(path)),
        };
        let size = file.seek(SeekFrom::End(0)).map_err(|error| failed(path, &error))?;
        let mut probe = Self {
            path: path.to_owned(),
            canonical: path.canonicalize().unwrap_or_else(|_| path.to_owned()),
            kind,
            size: Bytes(size),
            block: Bytes(SECTOR),
            number: (kind == Kind::Block).then(|| DevNum::of(meta.rdev())),
            inode: (kind == Kind::File).then(|| (meta.dev(), meta.ino())),
            sequence: None,
            serial: None,
            wwn: None,
            model: None,
        };
        if let Some(node) = probe.node(roots) {
            probe.ask(roots, &node);
            probe.inode = node.backing_file().and_then(|_| ioctl::loop_backing(&file)).map(|it| it.file);
            probe.sequence = ioctl::disk_sequence(&file).map_err(|error| failed(path, &error))?;
        }
        Ok(probe)
    }

    fn ask(&mut self, roots: &Roots, node: &BlockNode) {
        let block = node.disk().attr("queue/logical_block_size").and_then(|text| text.parse().ok());
        self.block = Bytes(block.unwrap_or(SECTOR));
        let names = names(roots, node);
        (self.serial, self.wwn, self.model) = (names.serial, names.wwn, names.model);
    }

    /// The kernel's description of the block device.
    pub fn node(&self, roots: &Roots) -> Option<BlockNode> {
        roots.node(self.number?)
    }

    /// What the user types to confirm: the serial number, else the WWN, else the exact size in bytes.
    pub fn id(&self) -> String {
        self.serial.clone().or_else(|| self.wwn.clone()).unwrap_or_else(|| self.size.0.to_string())
    }

    /// What [`id`](Self::id) is, in words.
    pub fn id_kind(&self) -> &'static str {
        match (&self.serial, &self.wwn) {
            (Some(_), _) => "serial number",
            (None, Some(_)) => "WWN",
            (None, None) => "size in bytes",
        }
    }

    /// A link below `/dev/disk/by-id` that names this device and survives a reboot, else the given path.
    pub fn lasting_path(&self, roots: &Roots) -> PathBuf {
        let absolute = || std::path::absolute(&self.path).unwrap_or_else(|_| self.path.clone());
        let Some(number) = self.number else { return absolute() };
        let links = std::fs::read_dir(roots.dev.join("disk/by-id")).into_iter().flatten().flatten();
        let leads_here = |link: &PathBuf| {
            std::fs::metadata(link)
                .is_ok_and(|meta| meta.file_type().is_block_device() && DevNum::of(meta.rdev()) == number)
        };
        links.map(|entry| entry.path()).filter(leads_here).min().unwrap_or_else(absolute)
    }

    /// Whether both are the same bytes: the same device, the same file, or a loop device and its file.
    pub fn same_storage(&self, other: &Self) -> bool {
        let same_number = self.number.is_some() && self.number == other.number;
        let same_inode = self.inode.is_some() && self.inode == other.inode;
        same_number || same_inode
    }

    /// Whether this is still what `planned` was, seen again later: a name alone may have come to mean
    /// another disk meanwhile.
    pub fn is_still(&self, planned: &Self) -> bool {
        let all =
            |probe: &Self| (probe.kind, probe.number, probe.inode, probe.sequence, probe.size, probe.id());
        all(self) == all(planned)
    }

    /// The path as messages show it.
    pub fn name(&self) -> String {
        self.path.display().to_string()
    }
}

fn failed(path: &Path, error: &io::Error) -> Error {
    Error::device("looking at", path.display().to_string(), error)
}

fn neither(path: &Path) -> Error {
    Error::new(error::Kind::Usage, "looking at", "it is neither a block device nor a plain file")
        .on(path.display().to_string())
        .next("name a whole disk or an image file")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_known_by_its_size() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(12345 * 512).unwrap();
        let probe = Probe::open(&Roots::default(), file.path()).unwrap();
        assert_eq!((probe.kind, probe.size, probe.block), (Kind::File, Bytes(12345 * 512), Bytes(512)));
        assert_eq!((probe.id(), probe.id_kind()), ("6320640".into(), "size in bytes"));
        assert_eq!(probe.lasting_path(&Roots::default()), file.path());
    }

    #[test]
    fn what_confirms_is_the_serial_number_else_the_wwn() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut probe = Probe::open(&Roots::default(), file.path()).unwrap();
        probe.wwn = Some("0x5000c500a1b2c3d4".to_owned());
        assert_eq!((probe.id(), probe.id_kind()), ("0x5000c500a1b2c3d4".into(), "WWN"));
        probe.serial = Some("ZC1".to_owned());
        assert_eq!((probe.id(), probe.id_kind()), ("ZC1".into(), "serial number"));
    }

    #[test]
    fn a_terminal_is_no_disk() {
        let error = Probe::open(&Roots::default(), Path::new("/dev/null")).unwrap_err();
        insta::assert_snapshot!(error, @"looking at /dev/null: it is neither a block device nor a plain file; name a whole disk or an image file");
    }
}

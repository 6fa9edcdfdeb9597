// SPDX-License-Identifier: MIT OR Apache-2.0
//! Block devices as the kernel's sysfs describes them, by number.
//!
//! Names move between boots and udev may know nothing, so everything here starts from `major:minor`. The
//! three roots are injectable; tests point them at golden trees.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use nix::fcntl::OFlag;
use nix::sys::stat::{major, minor};

/// Where the kernel's views of the machine are mounted.
#[derive(Clone, Debug)]
pub struct Roots {
    /// sysfs, normally `/sys`.
    pub sys: PathBuf,
    /// procfs, normally `/proc`.
    pub proc: PathBuf,
    /// Device nodes, normally `/dev`.
    pub dev: PathBuf,
}

impl Default for Roots {
    fn default() -> Self {
        Self { sys: "/sys".into(), proc: "/proc".into(), dev: "/dev".into() }
    }
}

impl Roots {
    /// Whether this is the running machine and not a golden tree.
    pub fn is_live(&self) -> bool {
        self.sys == Path::new("/sys")
    }

    /// The block device with this number.
    pub fn node(&self, number: DevNum) -> Option<BlockNode> {
        let dir = followed(&self.sys.join("dev/block"), &number.to_string())?;
        let name = dir.file_name()?.to_str()?.to_owned();
        Some(BlockNode { number, name, dir, roots: self.clone() })
    }

    /// The block device with this kernel name (`sda1`, `dm-0`).
    pub fn named(&self, name: &str) -> Option<BlockNode> {
        let dir = followed(&self.sys.join("class/block"), name)?;
        let text = fs::read_to_string(dir.join("dev")).ok()?;
        let number = DevNum::parse(text.trim())?;
        Some(BlockNode { number, name: name.to_owned(), dir, roots: self.clone() })
    }

    /// The block device a path means: by the node's number, else by its last name component or dm name.
    pub fn resolve(&self, path: &str) -> Option<BlockNode> {
        let below = Path::new(path).strip_prefix("/dev").ok();
        let at = below.map_or_else(|| PathBuf::from(path), |below| self.dev.join(below));
        if let Ok(meta) = fs::metadata(&at)
            && meta.file_type().is_block_device()
        {
            return self.node(DevNum::of(meta.rdev()));
        }
        let name = below?.file_name()?.to_str()?;
        self.named(name)
            .or_else(|| self.all().into_iter().find(|n| n.attr("dm/name").as_deref() == Some(name)))
    }

    /// Every whole block device, sorted by name.
    pub fn all(&self) -> Vec<BlockNode> {
        names(&self.sys.join("block")).iter().filter_map(|name| self.named(name)).collect()
    }
}

/// A block device number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DevNum {
    /// Selects the driver.
    pub major: u64,
    /// Selects the device.
    pub minor: u64,
}

impl DevNum {
    /// From a `dev_t`.
    pub fn of(dev: u64) -> Self {
        Self { major: major(dev), minor: minor(dev) }
    }

    /// From `major:minor`.
    pub fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.split_once(':')?;
        Some(Self { major: major.parse().ok()?, minor: minor.parse().ok()? })
    }
}

impl fmt::Display for DevNum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// One block device: a disk, a partition, or a virtual device.
#[derive(Clone, Debug)]
pub struct BlockNode {
    /// Its number.
    pub number: DevNum,
    /// Its kernel name.
    pub name: String,
    dir: PathBuf,
    roots: Roots,
}

impl BlockNode {
    /// An attribute file, trimmed; `None` where absent or empty.
    pub fn attr(&self, name: &str) -> Option<String> {
        let bytes = self.bytes(name)?;
        let text = String::from_utf8_lossy(&bytes).trim_matches(['\0', ' ', '\n', '\t']).to_owned();
        (!text.is_empty()).then_some(text)
    }

    /// An attribute file as it is.
    pub fn bytes(&self, name: &str) -> Option<Vec<u8>> {
        fs::read(self.dir.join(name)).ok()
    }

    /// The partition number, where this is a partition.
    pub fn partition(&self) -> Option<u32> {
        self.attr("partition")?.parse().ok()
    }

    /// The whole disk: itself, or the disk it is a partition of.
    pub fn disk(&self) -> Self {
        let parent = self.partition().and(self.dir.parent()).and_then(Path::file_name);
        parent.and_then(|name| self.roots.named(name.to_str()?)).unwrap_or_else(|| self.clone())
    }

    /// The partitions the kernel knows on it.
    pub fn partitions(&self) -> Vec<Self> {
        let inside =
            names(&self.dir).into_iter().filter(|name| self.dir.join(name).join("partition").exists());
        inside.filter_map(|name| self.roots.named(&name)).collect()
    }

    /// The devices built on it.
    pub fn holders(&self) -> Vec<Self> {
        self.neighbours("holders")
    }

    /// The devices it is built on.
    pub fn slaves(&self) -> Vec<Self> {
        self.neighbours("slaves")
    }

    fn neighbours(&self, dir: &str) -> Vec<Self> {
        names(&self.dir.join(dir)).iter().filter_map(|name| self.roots.named(name)).collect()
    }

    /// The file behind a loop device; a deleted file keeps its old path without the kernel's suffix.
    pub fn backing_file(&self) -> Option<PathBuf> {
        let text = self.attr("loop/backing_file")?;
        Some(PathBuf::from(text.strip_suffix(" (deleted)").unwrap_or(&text)))
    }

    /// The path people know it by.
    pub fn path(&self) -> PathBuf {
        match self.attr("dm/name") {
            Some(name) if self.roots.dev.join("mapper").join(&name).exists() => {
                self.roots.dev.join("mapper").join(name)
            }
            _ => self.roots.dev.join(self.name.replace('!', "/")),
        }
    }

    /// The device, opened for a question to the kernel; `None` where there is no node for it, and in a golden
    /// tree.
    pub fn open(&self) -> Option<File> {
        let path = self.roots.is_live().then(|| self.path())?;
        let file = File::options().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path).ok()?;
        let meta = file.metadata().ok()?;
        (meta.file_type().is_block_device() && DevNum::of(meta.rdev()) == self.number).then_some(file)
    }

    /// Lets udev look at it once more, by the rules as they are now.
    pub fn trigger(&self) -> io::Result<()> {
        fs::write(self.dir.join("uevent"), "change")
    }

    /// Its kernel name, and what it is where the name alone does not tell: `dm-0 (vg-root)`.
    pub fn label(&self) -> String {
        match self.attr("dm/name") {
            Some(name) => format!("{} ({name})", self.name),
            None => self.name.clone(),
        }
    }

    /// Whether it is a node of a wrapped primary: in the place of the disk or of a partition, for all to use.
    pub fn is_of_wrap(&self) -> bool {
        self.attr("dm/uuid").is_some_and(|uuid| match uuid.split_once("DPSR-DISK-") {
            Some((before, _)) => before.is_empty() || before.starts_with("part"),
            None => false,
        })
    }

    /// Whether device-mapper made it for dpsr.
    pub fn is_ours(&self) -> bool {
        self.attr("dm/uuid").is_some_and(|uuid| uuid.contains("DPSR-"))
    }
}

/// Where the link `name` in `dir` leads, without a look at every directory on the way: a machine may have
/// hundreds of devices. The parent of a partition's directory is its disk's.
fn followed(dir: &Path, name: &str) -> Option<PathBuf> {
    let link = dir.join(name);
    let Ok(target) = fs::read_link(&link) else { return link.exists().then_some(link) };
    let mut path = dir.to_owned();
    for part in target.components() {
        match part {
            Component::ParentDir => drop(path.pop()),
            part => path.push(part),
        }
    }
    Some(path)
}

/// What is in a directory, sorted.
pub(super) fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_back() {
        let number = DevNum { major: 259, minor: 3 };
        assert_eq!(DevNum::parse(&number.to_string()), Some(number));
        assert_eq!(DevNum::parse("8"), None);
    }
}

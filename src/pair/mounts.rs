// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is mounted and swapped on, read from `/proc`.

use std::fs;
use std::path::Path;

use super::sysfs::{BlockNode, DevNum, Roots};

/// One line of `/proc/self/mountinfo`: a block device and where it is mounted.
#[derive(Clone, Debug)]
pub struct Mount {
    /// The kernel's number of this mount.
    pub id: u64,
    /// The number of the filesystem; that of the device for most, an anonymous one for btrfs.
    pub filesystem: DevNum,
    /// The mounted device.
    pub node: BlockNode,
    /// The mount point.
    pub at: String,
    /// The type of the filesystem.
    pub kind: String,
    /// Whether its top directory is what is mounted, and not a directory or file inside it.
    pub whole: bool,
    /// Whether it may be written to here.
    pub writable: bool,
}

/// Every mount of a block device. A filesystem with an anonymous number (btrfs) is found by its source.
pub fn mounts(roots: &Roots) -> Vec<Mount> {
    mounted(roots, &roots.proc.join("self/mountinfo"))
}

/// The same for any process's `mountinfo`.
pub(super) fn mounted(roots: &Roots, mountinfo: &Path) -> Vec<Mount> {
    let text = fs::read_to_string(mountinfo).unwrap_or_default();
    text.lines().filter_map(|line| mount(roots, line)).collect()
}

/// Fields: id, parent, major:minor, root, mount point, options, optional fields, `-`, type, source.
/// (proc_pid_mountinfo(5))
fn mount(roots: &Roots, line: &str) -> Option<Mount> {
    let (front, back) = line.split_once(" - ")?;
    let mut front = front.split(' ');
    let id = front.next()?.parse().ok()?;
    let number = DevNum::parse(front.nth(1)?)?;
    let whole = front.next()? == "/";
    let at = unescape(front.next()?);
    let writable = front.next()?.split(',').all(|option| option != "ro");
    let mut back = back.split(' ');
    let kind = back.next()?.to_owned();
    let node = match number.major {
        0 => roots.resolve(&unescape(back.next()?))?,
        _ => roots.node(number)?,
    };
    Some(Mount { id, filesystem: number, node, at, kind, whole, writable })
}

/// Every block device in use as swap. (Swap files are seen through the filesystem they live on.)
pub fn swaps(roots: &Roots) -> Vec<BlockNode> {
    let text = fs::read_to_string(roots.proc.join("swaps")).unwrap_or_default();
    let paths = text.lines().skip(1).filter_map(|line| line.split_whitespace().next());
    paths.filter_map(|path| roots.resolve(&unescape(path))).collect()
}

/// Undoes the kernel's octal escapes (`\040` is a blank).
fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let octal = text.get(i + 1..i + 4).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match octal {
            Some(byte) if bytes[i] == b'\\' => {
                out.push(byte);
                i += 4;
            }
            _ => {
                out.push(bytes[i]);
                i += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_undone() {
        assert_eq!(unescape(r"/mnt/a\040b\134c"), r"/mnt/a b\c");
        assert_eq!(unescape(r"\04"), r"\04");
    }
}

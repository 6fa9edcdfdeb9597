// SPDX-License-Identifier: MIT OR Apache-2.0
//! A disk of the virtual machine, known by the serial number that the harness gave it.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use dpsr::sys::buffer::Buffer;
use nix::fcntl::OFlag;

use crate::shell;

/// A whole disk.
#[derive(Clone, Debug)]
pub struct Disk {
    /// Its serial number.
    pub serial: &'static str,
    /// The kernel's own node, like `/dev/vdb`. It stays the raw disk where links come to lead to a
    /// device-mapper node over it, and may be another one after the next boot.
    pub node: String,
}

impl Disk {
    /// The disk with this serial number, told by sysfs.
    pub fn of(serial: &'static str) -> Self {
        let blocks = fs::read_dir("/sys/block").unwrap().map(|entry| entry.unwrap().path());
        let is = |block: &PathBuf| fs::read_to_string(block.join("serial")).is_ok_and(|it| it == serial);
        let block = blocks.into_iter().find(is).unwrap_or_else(|| panic!("no disk with the serial {serial}"));
        Self { serial, node: format!("/dev/{}", block.file_name().unwrap().to_str().unwrap()) }
    }

    /// The link udev makes for it.
    pub fn link(&self) -> String {
        format!("/dev/disk/by-id/virtio-{}", self.serial)
    }

    /// The kernel's node of a partition.
    pub fn part(&self, number: u32) -> String {
        format!("{}{number}", self.node)
    }

    /// Writes a GPT; each line is one partition as sfdisk(8) reads it. Returns once udev has made the nodes
    /// and links of all of them.
    pub fn partition(&self, lines: &[&str]) {
        self.partition_as("label: gpt", lines);
    }

    /// The same with the header lines of such a script, which say what the table is.
    ///
    /// udevd reads the table anew once the disk is closed, and for that moment there are no nodes. Only
    /// `udevadm settle` asks udevd itself, which answers when it has done so; waiting for the links does not.
    pub fn partition_as(&self, header: &str, lines: &[&str]) {
        let script = format!("{header}\\n{}\\n", lines.join("\\n"));
        shell::ok(&format!("printf '{script}' | sfdisk --quiet --wipe always {}", self.node));
        let links = (1..=lines.len()).map(|number| format!(" {}-part{number}", self.link()));
        let links = links.collect::<String>();
        shell::ok(&format!("udevadm settle --timeout=60; udevadm wait --settle --timeout=60{links}"));
    }

    /// Asserts that `other` reads as this disk does now, to the last byte.
    pub fn must_equal(&self, mut other: impl Read, what: &str) {
        // Past the page cache, which need not know what is on the disk, and is slow in emulation.
        let mut disk =
            File::options().read(true).custom_flags(OFlag::O_DIRECT.bits()).open(&self.node).unwrap();
        let mut expected = Buffer::new(1 << 20).unwrap();
        let (mut found, mut at) = (vec![0; expected.len()], 0);
        loop {
            let len = disk.read(&mut expected).unwrap();
            // One byte is asked for past the end of the disk, where there must be none.
            let asked = &mut found[..len.max(1)];
            let got = read_full(&mut other, asked);
            assert_eq!(got, len, "{what} ends elsewhere than {}, after {at} bytes", self.node);
            if found[..len] != expected[..len] {
                let differs = found.iter().zip(&expected[..]).position(|(a, b)| a != b);
                panic!("{what} differs from {} at byte {}", self.node, at + differs.unwrap());
            }
            if len == 0 {
                return;
            }
            at += len;
        }
    }
}

/// Reads until the buffer is full or the source ends; how many bytes came.
fn read_full(source: &mut impl Read, buffer: &mut [u8]) -> usize {
    let mut filled = 0;
    while filled < buffer.len() {
        match source.read(&mut buffer[filled..]).unwrap() {
            0 => break,
            got => filled += got,
        }
    }
    filled
}

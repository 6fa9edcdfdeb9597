// SPDX-License-Identifier: MIT OR Apache-2.0
//! A second, tiny initramfs with the records of the pairs, so that a record that changes does not cost a new
//! large one. (kernel's `driver-api/early-userspace/buffer-format`: archives may follow one another)

/// A file of the archive: its path without a leading slash, and its content.
pub type File<'a> = (&'a str, &'a [u8]);

/// The archive, in the "newc" format, uncompressed. Its directories are made, too; only root can read it.
pub fn archive(files: &[File<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut folders: Vec<&str> = Vec::new();
    for (path, content) in files {
        for (at, _) in path.match_indices('/') {
            if !folders.contains(&&path[..at]) {
                folders.push(&path[..at]);
                entry(&mut bytes, &path[..at], 0o040_755, &[]);
            }
        }
        entry(&mut bytes, path, 0o100_600, content);
    }
    entry(&mut bytes, "TRAILER!!!", 0, &[]);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

/// Inode, mode, owner, group, links, time, size, four device numbers, length of the name, no checksum.
fn entry(bytes: &mut Vec<u8>, path: &str, mode: u32, content: &[u8]) {
    let name = path.len() as u32 + 1;
    let fields = [0, mode, 0, 0, 1, 0, content.len() as u32, 0, 0, 0, 0, name, 0];
    bytes.extend(b"070701");
    fields.iter().for_each(|field| bytes.extend(format!("{field:08X}").bytes()));
    bytes.extend(path.bytes().chain([0]));
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes.extend(content);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Name, mode and content of each entry, by the kernel's document.
    fn read(mut rest: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut all = Vec::new();
        loop {
            assert_eq!(&rest[..6], b"070701");
            let field = |n: usize| {
                let text = std::str::from_utf8(&rest[6 + n * 8..14 + n * 8]).unwrap();
                u32::from_str_radix(text, 16).unwrap()
            };
            let (mode, size, name) = (field(1), field(6) as usize, field(11) as usize);
            let text = String::from_utf8(rest[110..110 + name - 1].to_vec()).unwrap();
            let start = (110 + name).next_multiple_of(4);
            if text == "TRAILER!!!" {
                return all;
            }
            all.push((text, mode, rest[start..start + size].to_vec()));
            rest = &rest[(start + size).next_multiple_of(4)..];
        }
    }

    #[test]
    fn directories_come_before_what_is_in_them() {
        let archive = archive(&[("etc/dpsr/a.toml", b"one"), ("etc/dpsr/b.toml", b"two\n")]);
        let entry = |name: &str, mode, content: &[u8]| (name.to_owned(), mode, content.to_vec());
        let wanted = [
            entry("etc", 0o040_755, b""),
            entry("etc/dpsr", 0o040_755, b""),
            entry("etc/dpsr/a.toml", 0o100_600, b"one"),
            entry("etc/dpsr/b.toml", 0o100_600, b"two\n"),
        ];
        assert_eq!(read(&archive), wanted);
        assert_eq!(archive.len() % 512, 0);
    }
}

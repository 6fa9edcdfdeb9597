// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is on a partition, as libblkid sees it.

use std::ops::Range;

use serde::Serialize;

use super::run::{output, path_for_child};
use crate::disk::ReadDisk;
use crate::units::Bytes;

/// What a prober found in a range of a disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Content {
    /// `ext4`, `swap`, `crypto_LUKS`, …
    pub fstype: String,
    /// The filesystem's label.
    pub label: Option<String>,
    /// The filesystem's UUID.
    pub uuid: Option<String>,
}

/// Probes `range` with `blkid -p`. Nothing found, no tool, no descriptor and no answer are all `None`.
pub fn content(disk: &dyn ReadDisk, range: &Range<Bytes>) -> Option<Content> {
    let path = path_for_child(disk.descriptor()?);
    let (offset, size) = (range.start.0.to_string(), (range.end - range.start).0.to_string());
    parse(&output("blkid", &["-p", "-O", &offset, "-S", &size, "-o", "export", &path])?)
}

/// `blkid -o export`: KEY=value lines, special characters behind a backslash. (blkid(8))
fn parse(text: &str) -> Option<Content> {
    let value = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))?;
        let mut escaped = false;
        let keep = |c: &char| {
            escaped = *c == '\\' && !escaped;
            !escaped
        };
        Some(line.chars().filter(keep).collect::<String>()).filter(|value| !value.is_empty())
    };
    Some(Content { fstype: value("TYPE")?, label: value("LABEL"), uuid: value("UUID") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn export_format() {
        let text = "DEVNAME=x\nLABEL=my\\ disk\nUUID=3fb4\nUUID_SUB=9\nTYPE=ext4\nUSAGE=filesystem\n";
        let content = parse(text).unwrap();
        assert_eq!(content.label.as_deref(), Some("my disk"));
        assert_eq!((content.fstype.as_str(), content.uuid.as_deref()), ("ext4", Some("3fb4")));
        assert_eq!(parse("DEVNAME=x\nPTTYPE=gpt\n"), None);
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Files that are replaced whole: a power cut leaves the old one or the new one.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use crate::error::{Error, Kind, Result};

/// Makes `content` the file `path` below `top`, and the directories in between, if it is not that already.
/// Whether anything was written.
pub fn settle(top: &Path, path: &str, content: &[u8]) -> Result<bool> {
    let file = top.join(path);
    if fs::read(&file).is_ok_and(|present| present == content) {
        return Ok(false);
    }
    let write = || {
        let folder = file.parent().unwrap_or(top);
        fs::create_dir_all(folder)?;
        let new = top.join(format!("{path}.new"));
        let mut written = File::create(&new)?;
        written.write_all(content)?;
        written.sync_all()?;
        fs::rename(&new, &file)?;
        // FAT writes where the file begins into its new name only with the file. (`vfat_rename`)
        written.sync_all()?;
        flush(folder)
    };
    write().map(|()| true).map_err(|error| failed("writing", path, &error))
}

/// Copies what a file holds, flushed, into a directory that is there. Its mode stays behind: FAT has none, and
/// refuses it.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    let copy = || {
        let mut written = File::create(to)?;
        io::copy(&mut File::open(from)?, &mut written)?;
        written.sync_all()
    };
    copy().map_err(|error| failed("writing", &to.display().to_string(), &error))
}

/// Removes a file or a directory, with what is in it; one that is not there is no error.
pub fn remove(top: &Path, path: &str) -> Result<()> {
    let file = top.join(path);
    let gone = if file.is_dir() { fs::remove_dir_all(&file) } else { fs::remove_file(&file) };
    match gone {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("removing", path, &error)),
        _ => Ok(()),
    }
}

/// Brings the names in a directory to stable storage.
pub fn flush(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn failed(doing: &str, path: &str, error: &io::Error) -> Error {
    let kind = if error.kind() == io::ErrorKind::StorageFull { Kind::NoRoom } else { Kind::Device };
    Error::new(kind, format!("{doing} on the ESP of the DPSR disk"), error.to_string()).on(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_already_is_not_written() {
        let top = tempfile::tempdir().unwrap();
        assert!(settle(top.path(), "a/b/c.cfg", b"one").unwrap());
        assert!(!settle(top.path(), "a/b/c.cfg", b"one").unwrap());
        assert!(settle(top.path(), "a/b/c.cfg", b"two").unwrap());
        assert_eq!(fs::read(top.path().join("a/b/c.cfg")).unwrap(), b"two");
        assert_eq!(fs::read_dir(top.path().join("a/b")).unwrap().count(), 1);
        remove(top.path(), "a").unwrap();
        remove(top.path(), "a").unwrap();
        assert!(!top.path().join("a").exists());
    }
}

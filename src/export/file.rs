// SPDX-License-Identifier: MIT OR Apache-2.0
//! The file an export makes: nobody else may read it, and it has its name only when it is whole.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use nix::libc::EEXIST;
use tempfile::{Builder, NamedTempFile};

use crate::error::{Error, Kind, Result};

/// A file under a temporary name, mode 0600, in the directory where it is going to stay; gone when dropped.
pub struct NewFile {
    file: NamedTempFile,
    path: PathBuf,
}

impl NewFile {
    /// Makes it; `path`, which must not exist yet, is its name when it is [finished](Self::finish).
    pub fn make(path: &Path) -> Result<Self> {
        let refuse = |error: io::Error| {
            Error::new(Kind::Refused, "making the file", error.to_string())
                .on(path.display().to_string())
                .next("name a file that does not exist yet")
        };
        if path.symlink_metadata().is_ok() {
            return Err(refuse(io::Error::from_raw_os_error(EEXIST)));
        }
        let folder = folder_of(path);
        fs::metadata(folder).map_err(refuse)?;
        let file = Builder::new().prefix(".dpsr-export-").tempfile_in(folder).map_err(refuse)?;
        Ok(Self { file, path: path.to_owned() })
    }

    /// Where it is now.
    pub fn place(&self) -> &Path {
        self.file.path()
    }

    /// The open file.
    pub fn file(&self) -> &File {
        self.file.as_file()
    }

    /// Gives it its name once everything is on the disk; a file that has taken the name meanwhile stays.
    pub fn finish(self) -> Result<()> {
        let Self { file, path } = self;
        let name = path.display().to_string();
        file.as_file().sync_all().map_err(|error| Error::device("flushing", &name, &error))?;
        if let Err(failed) = file.persist_noclobber(&path) {
            let told = Error::new(Kind::Refused, "naming the export", failed.error.to_string()).on(name);
            let kept = failed.file.keep().map(|(_, place)| place);
            return Err(match kept {
                Ok(place) => told.left(format!("it is complete, in {}", place.display())),
                Err(_) => told,
            });
        }
        let folder = File::open(folder_of(&path)).and_then(|folder| folder.sync_all());
        folder.map_err(|error| Error::device("flushing the directory of", &name, &error))
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_taken_meanwhile_stays_and_so_does_the_export() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        let file = NewFile::make(&path).unwrap();
        fs::write(file.place(), "export").unwrap();
        fs::write(&path, "other").unwrap();
        let place = file.place().to_owned();
        let error = file.finish().unwrap_err().to_string();
        assert!(error.contains(&format!("it is complete, in {}", place.display())), "{error}");
        assert_eq!(
            (fs::read(&path).unwrap(), fs::read(&place).unwrap()),
            (b"other".into(), b"export".into())
        );
    }
}

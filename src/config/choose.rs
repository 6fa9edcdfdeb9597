// SPDX-License-Identifier: MIT OR Apache-2.0
//! Finds, reads and writes the records of pairs.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use super::record::PairConfig;
use crate::error::{Error, Kind, Result};

/// Whether a pair may have this name: 1 to 64 of `A-Z a-z 0-9 _ . -`, not starting with a dot.
pub fn valid_name(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    (1..=64).contains(&name.len()) && name.chars().all(fits) && !name.starts_with('.')
}

fn file_of(dir: &Path, name: &str) -> Result<PathBuf> {
    if !valid_name(name) {
        let why = "a pair's name is 1 to 64 letters, digits, '_', '.' or '-', and does not start with a dot";
        return Err(Error::new(Kind::Usage, "naming a pair", why).on(format!("{name:?}")));
    }
    Ok(dir.join(format!("{name}.toml")))
}

/// Reads the record of the pair `name`.
pub fn load(dir: &Path, name: &str) -> Result<PairConfig> {
    let path = file_of(dir, name)?;
    let text = fs::read_to_string(&path).map_err(|error| unreadable(&path, name, &error))?;
    let config: PairConfig = toml::from_str(&text).map_err(|error| malformed(&path, &text, &error))?;
    if config.name != name {
        let why = format!("it says it belongs to the pair {:?}", config.name);
        return Err(Error::new(Kind::Usage, "reading", why).on(path.display().to_string()));
    }
    if config.primary.whole() < config.primary.size {
        let why = "disk_size is less than size: no more is copied than there is";
        return Err(Error::new(Kind::Usage, "reading", why).on(path.display().to_string()));
    }
    Ok(config)
}

fn unreadable(path: &Path, name: &str, error: &io::Error) -> Error {
    let shown = path.display().to_string();
    if error.kind() == io::ErrorKind::NotFound {
        let why = format!("there is no pair {name:?}");
        return Error::new(Kind::NotFound, "reading", why).on(shown).next("make it with dpsr init");
    }
    Error::new(Kind::Internal, "reading", error.to_string()).on(shown)
}

fn malformed(path: &Path, text: &str, error: &toml::de::Error) -> Error {
    let at = error.span().map_or(0, |span| span.start.min(text.len()));
    let line = text.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
    let why = error.message().replace('\n', " ");
    Error::new(Kind::Usage, "reading", why).on(format!("{}:{line}", path.display()))
}

/// A record that is written, but does not count yet. It is made before the deed it tells of, so that the deed
/// is not done where there is no place for the record. Gone when dropped.
pub struct Draft {
    file: NamedTempFile,
    path: PathBuf,
}

impl Draft {
    /// Writes the record under a temporary name, mode 0600; the directory is made if there is none.
    pub fn write(dir: &Path, config: &PairConfig) -> Result<Self> {
        let path = file_of(dir, &config.name)?;
        let text = toml::to_string(config);
        let text = text.map_err(|error| unsaved(&path, &error))?;
        if path.is_dir() {
            return Err(unsaved(&path, &"it is a directory"));
        }
        let write = || {
            DirBuilder::new().recursive(true).mode(0o755).create(dir)?;
            let mut file = tempfile::Builder::new().prefix(".pair-").tempfile_in(dir)?;
            file.write_all(text.as_bytes())?;
            file.as_file().sync_all()?;
            Ok::<_, io::Error>(file)
        };
        let file = write().map_err(|error| unsaved(&path, &error))?;
        Ok(Self { file, path })
    }

    /// Makes it count. A crash leaves either the old or the new record, whole.
    pub fn keep(self) -> Result<()> {
        let Self { file, path } = self;
        let kept = file.persist(&path).map_err(|failed| failed.error);
        let dir = path.parent().expect("a record lies in a directory");
        let kept = kept.and_then(|_| File::open(dir)?.sync_all());
        kept.map_err(|error| unsaved(&path, &error).left("the record is as it was"))
    }
}

fn unsaved(path: &Path, why: &dyn std::fmt::Display) -> Error {
    Error::new(Kind::Internal, "recording the pair in", why.to_string()).on(path.display().to_string())
}

/// Writes the record so that a crash leaves either the old or the new one, whole.
pub fn save(dir: &Path, config: &PairConfig) -> Result<()> {
    Draft::write(dir, config).map_err(|error| error.left("the record is as it was"))?.keep()
}

/// The names of all pairs, sorted; a directory that does not exist holds none.
pub fn list(dir: &Path) -> Result<Vec<String>> {
    let unlisted = |error: &io::Error| {
        Error::new(Kind::Internal, "listing the pairs in", error.to_string()).on(dir.display().to_string())
    };
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => {
            entries.and_then(Iterator::collect::<io::Result<Vec<_>>>).map_err(|error| unlisted(&error))?
        }
    };
    let names = entries.into_iter().filter_map(|entry| entry.file_name().into_string().ok());
    let stems = names.filter_map(|name| name.strip_suffix(".toml").map(str::to_owned));
    let mut pairs: Vec<_> = stems.filter(|name| valid_name(name)).collect();
    pairs.sort();
    Ok(pairs)
}

/// The file of the pair `name`, for messages.
pub fn file_name(dir: &Path, name: &str) -> String {
    dir.join(format!("{name}.toml")).display().to_string()
}

/// The pair the user named, or the only one there is.
pub fn choose(dir: &Path, name: Option<&str>) -> Result<PairConfig> {
    if let Some(name) = name {
        return load(dir, name);
    }
    let pairs = list(dir)?;
    match &pairs[..] {
        [only] => load(dir, only),
        [] => Err(Error::new(Kind::NotFound, "choosing a pair from", "no pair is recorded there")
            .on(dir.display().to_string())
            .next("make one with dpsr init")),
        several => {
            Err(Error::new(Kind::Usage, "choosing a pair", format!("there are {}", several.join(", ")))
                .next("name one with --pair"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::sample;
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn reads_back_and_is_private() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("etc/dpsr");
        save(&dir, &sample("system")).unwrap();
        assert_eq!(choose(&dir, None).unwrap(), sample("system"));
        let mode = fs::metadata(dir.join("system.toml")).unwrap().permissions().mode();
        assert_eq!((mode & 0o777, list(&dir).unwrap()), (0o600, vec!["system".to_owned()]));
        insta::assert_snapshot!(fs::read_to_string(dir.join("system.toml")).unwrap());
        save(&dir, &sample("two")).unwrap();
        insta::assert_snapshot!(choose(&dir, None).unwrap_err(), @"choosing a pair: there are system, two; name one with --pair");
    }

    #[test]
    fn mistakes_are_shown_with_their_line() {
        let root = tempfile::tempdir().unwrap();
        let told = |error: Error| error.to_string().replace(root.path().to_str().unwrap(), "/etc/dpsr");
        insta::assert_snapshot!(told(choose(root.path(), None).unwrap_err()), @"choosing a pair from /etc/dpsr: no pair is recorded there; make one with dpsr init");
        insta::assert_snapshot!(told(load(root.path(), "x").unwrap_err()), @r#"reading /etc/dpsr/x.toml: there is no pair "x"; make it with dpsr init"#);
        insta::assert_snapshot!(told(load(root.path(), "../x").unwrap_err()), @r#"naming a pair "../x": a pair's name is 1 to 64 letters, digits, '_', '.' or '-', and does not start with a dot"#);
        fs::write(root.path().join("bad.toml"), "name = \"bad\"\nleft_out = []\n").unwrap();
        insta::assert_snapshot!(told(load(root.path(), "bad").unwrap_err()), @"reading /etc/dpsr/bad.toml:2: unknown field `left_out`, expected one of `name`, `id`, `leave_out`, `group`, `history`, `keep`, `boot`, `failover`, `live`, `reserve`, `primary`, `dpsr`");
        save(root.path(), &sample("a")).unwrap();
        fs::rename(root.path().join("a.toml"), root.path().join("b.toml")).unwrap();
        insta::assert_snapshot!(told(load(root.path(), "b").unwrap_err()), @r#"reading /etc/dpsr/b.toml: it says it belongs to the pair "a""#);
    }
}

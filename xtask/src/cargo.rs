// SPDX-License-Identifier: MIT OR Apache-2.0
//! Calling cargo: the one that runs this task, in this workspace.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::Result;
use crate::json::Json;
use crate::packages;
use crate::process;

/// A cargo command in the workspace root.
pub fn command() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace());
    command
}

/// The workspace this task was compiled in.
pub fn workspace() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The release binary of dpsr: `given`, or a fresh build with the packages that takes, installed if `yes`.
pub fn dpsr(given: Option<PathBuf>, yes: bool) -> Result<PathBuf> {
    if let Some(binary) = given {
        return binary.canonicalize().map_err(|error| format!("--dpsr {}: {error}", binary.display()));
    }
    packages::ensure(packages::BUILD, yes)?;
    println!("building dpsr (release) …");
    let mut build = command();
    build.args(["build", "--release", "--package", "dpsr", "--bin", "dpsr"]);
    build.arg("--message-format=json-render-diagnostics").stderr(Stdio::inherit());
    executable(&process::output(&mut build)?).ok_or_else(|| "cargo built no dpsr binary".to_owned())
}

/// Builds programs of dpsr, `release` as for use, otherwise as for tests; where each is.
pub fn binaries(names: &[&str], release: bool) -> Result<Vec<PathBuf>> {
    let mut build = command();
    build.args(["build", "--quiet", "--package", "dpsr"]);
    build.args(names.iter().flat_map(|name| ["--bin", name]));
    build.args(release.then_some("--release"));
    build.arg("--message-format=json-render-diagnostics").stderr(Stdio::inherit());
    let messages = process::output(&mut build)?;
    let of = |name: &&str| named(&messages, name).ok_or_else(|| format!("cargo built no {name}"));
    names.iter().map(of).collect()
}

/// Writes the binary to `to`, without what only a debugger reads: most of its size.
pub fn strip(binary: &Path, to: &Path) -> Result<()> {
    process::output(Command::new("strip").arg("-o").arg(to).arg(binary)).map(drop)
}

/// A test binary, and the dpsr that it runs by the very path it was built at.
pub struct TestBinaries {
    pub dpsr: PathBuf,
    pub test: PathBuf,
}

/// Builds the integration test `name`.
pub fn test_binaries(name: &str) -> Result<TestBinaries> {
    let mut build = command();
    build.args(["test", "--no-run", "--quiet", "--package", "dpsr", "--test", name]);
    build.arg("--message-format=json-render-diagnostics").stderr(Stdio::inherit());
    let messages = process::output(&mut build)?;
    let of = |target: &str| named(&messages, target).ok_or_else(|| format!("cargo built no {target}"));
    Ok(TestBinaries { dpsr: of("dpsr")?, test: of(name)? })
}

/// The executable of one target in cargo's messages; a library of the same name has none.
fn named(messages: &str, target: &str) -> Option<PathBuf> {
    let documents = messages.lines().filter_map(|line| Json::parse(line).ok());
    let mut ours = documents.filter(|document| document.text("name") == Ok(target));
    ours.find_map(|document| document.text("executable").ok().map(PathBuf::from))
}

/// The last executable in cargo's machine-readable messages: one JSON document a line.
fn executable(messages: &str) -> Option<PathBuf> {
    let documents = messages.lines().filter_map(|line| Json::parse(line).ok());
    documents.filter_map(|document| document.text("executable").ok().map(PathBuf::from)).next_back()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_binary_is_found_in_the_messages() {
        let messages = "{\"reason\":\"compiler-artifact\",\"executable\":null}\n\
            {\"reason\":\"compiler-artifact\",\"executable\":\"/t/release/dpsr\"}\n\
            {\"reason\":\"build-finished\",\"success\":true}\n";
        assert_eq!(executable(messages), Some(PathBuf::from("/t/release/dpsr")));
        assert_eq!(executable(""), None);
    }

    #[test]
    fn a_binary_is_told_from_the_library_of_its_name() {
        let messages = "{\"target\":{\"name\":\"dpsr\"},\"executable\":null}\n\
            {\"target\":{\"name\":\"dpsr\"},\"executable\":\"/t/dpsr\"}\n\
            {\"target\":{\"name\":\"loopdev\"},\"executable\":\"/t/loopdev-1\"}\n";
        assert_eq!(named(messages, "dpsr"), Some(PathBuf::from("/t/dpsr")));
        assert_eq!(named(messages, "loopdev"), Some(PathBuf::from("/t/loopdev-1")));
        assert_eq!(named(messages, "kill"), None);
    }
}

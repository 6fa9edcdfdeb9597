// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where packages come from that this machine's own list does not have: from wherever it takes its own.

use std::fs;
use std::path::{Path, PathBuf};

/// The lines of a sources.list(5) for the release `codename`: those of this machine that name its own
/// release, with the other release in its place. None where this machine runs something else than Debian.
pub fn lines(codename: &str) -> Vec<String> {
    let Some(own) = own() else { return Vec::new() };
    entries().into_iter().filter_map(|entry| entry.of_release(&own, codename)).collect()
}

/// The name of this machine's backports, and the lines for them. None where it runs something else than Debian.
pub fn backports() -> Option<(String, Vec<String>)> {
    let own = own()?;
    let suite = format!("{own}-backports");
    let lines = entries().into_iter().filter(|entry| entry.suite == own);
    Some((suite.clone(), lines.map(|entry| entry.line(&suite)).collect()))
}

/// The codename of the Debian that this machine runs.
fn own() -> Option<String> {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let own = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    let debian = release.lines().any(|line| line == "ID=debian");
    own.filter(|_| debian).map(|own| own.trim_matches('"').to_owned())
}

/// All sources of this machine.
fn entries() -> Vec<Entry> {
    let entries = files().into_iter().flat_map(|file| {
        let text = fs::read_to_string(&file).unwrap_or_default();
        if file.extension().is_some_and(|end| end == "sources") { stanzas(&text) } else { one_line(&text) }
    });
    entries.collect()
}

fn files() -> Vec<PathBuf> {
    let main = Path::new("/etc/apt/sources.list");
    let entries = fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten();
    let wanted = |file: &PathBuf| file.extension().is_some_and(|end| end == "list" || end == "sources");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(wanted).collect();
    files.sort();
    files.insert(0, main.to_owned());
    files
}

/// One archive and one release of it.
#[derive(Debug, PartialEq)]
struct Entry {
    uri: String,
    suite: String,
    components: String,
    key: Option<String>,
}

impl Entry {
    fn of_release(&self, own: &str, wanted: &str) -> Option<String> {
        let rest = self.suite.strip_prefix(own)?;
        if !["", "-updates", "-security"].contains(&rest) {
            return None;
        }
        Some(self.line(&format!("{wanted}{rest}")))
    }

    fn line(&self, suite: &str) -> String {
        let key = self.key.as_ref().map(|key| format!("[signed-by={key}] ")).unwrap_or_default();
        format!("deb {key}{} {suite} {}", self.uri, self.components)
    }
}

/// `deb [option=value …] URI SUITE COMPONENT…`
fn one_line(text: &str) -> Vec<Entry> {
    let entry = |line: &str| {
        let rest = line.trim().strip_prefix("deb ")?.trim_start();
        let (options, rest) = match rest.strip_prefix('[') {
            Some(rest) => rest.split_once(']')?,
            None => ("", rest),
        };
        let key = options.split_whitespace().find_map(|option| option.strip_prefix("signed-by="));
        let mut words = rest.split_whitespace();
        let (uri, suite) = (words.next()?.to_owned(), words.next()?.to_owned());
        let components = words.collect::<Vec<_>>().join(" ");
        Some(Entry { uri, suite, components, key: key.map(str::to_owned) })
    };
    text.lines().filter_map(entry).collect()
}

/// The deb822 form: stanzas of `Name: values`.
fn stanzas(text: &str) -> Vec<Entry> {
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    lines.split(|line| line.trim().is_empty()).flat_map(stanza).collect()
}

fn stanza(lines: &[&str]) -> Vec<Entry> {
    let field = |name: &str| {
        let fields = lines.iter().filter_map(|line| line.split_once(':'));
        let mut values = fields.filter(|(field, _)| field.eq_ignore_ascii_case(name));
        values.next().map_or("", |(_, value)| value.trim())
    };
    if !field("Types").split_whitespace().any(|kind| kind == "deb") || field("Enabled") == "no" {
        return Vec::new();
    }
    // A key written out in the file itself is left out: apt then asks the machine's own keyring.
    let key = Some(field("Signed-By")).filter(|key| key.starts_with('/')).map(str::to_owned);
    let suites = field("Suites").split_whitespace();
    let pairs = suites.flat_map(|suite| field("URIs").split_whitespace().map(move |uri| (uri, suite)));
    let entry = |(uri, suite): (&str, &str)| Entry {
        uri: uri.to_owned(),
        suite: suite.to_owned(),
        components: field("Components").to_owned(),
        key: key.clone(),
    };
    pairs.map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_release(entries: Vec<Entry>) -> Vec<String> {
        entries.into_iter().filter_map(|entry| entry.of_release("bookworm", "trixie")).collect()
    }

    #[test]
    fn both_forms_of_a_source() {
        let old = "# deb http://no/ bookworm main\n\
            deb [arch=amd64 signed-by=/k.gpg] http://a/debian bookworm main contrib\n\
            deb-src http://a/debian bookworm main\n\
            deb http://a/debian bookworm-backports main\ndeb http://b/ nodistro main\n";
        assert_eq!(of_release(one_line(old)), ["deb [signed-by=/k.gpg] http://a/debian trixie main contrib"]);
        let new = "Types: deb\n# why\nURIs: http://a/debian\nSuites: bookworm bookworm-updates\n\
            Components: main\nSigned-By: /k.gpg\n\n\
            Types: deb deb-src\nURIs: http://s/\nSuites: bookworm-security\nComponents: main\n\n\
            Types: deb-src\nURIs: http://s/\nSuites: bookworm\nComponents: main\n\n\
            Enabled: no\nTypes: deb\nURIs: http://s/\nSuites: bookworm\nComponents: main\n";
        let lines = [
            "deb [signed-by=/k.gpg] http://a/debian trixie main",
            "deb [signed-by=/k.gpg] http://a/debian trixie-updates main",
            "deb http://s/ trixie-security main",
        ];
        assert_eq!(of_release(stanzas(new)), lines);
    }
}

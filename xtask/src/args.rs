// SPDX-License-Identifier: MIT OR Apache-2.0
//! The few command line forms the tasks need: `--flag`, `--name VALUE`, both in any order.

use std::str::FromStr;

use crate::Result;

/// The words after the verb; each question takes its answer out, [`Args::finish`] refuses what is left.
pub struct Args {
    words: Vec<String>,
}

impl Args {
    pub fn new(words: impl IntoIterator<Item = String>) -> Self {
        Self { words: words.into_iter().collect() }
    }

    /// Whether `name` was given.
    pub fn flag(&mut self, name: &str) -> bool {
        let before = self.words.len();
        self.words.retain(|word| word != name);
        self.words.len() < before
    }

    /// Every value given to `name`, in order.
    pub fn values(&mut self, name: &str) -> Result<Vec<String>> {
        let mut found = Vec::new();
        while let Some(at) = self.words.iter().position(|word| word == name) {
            self.words.remove(at);
            if at >= self.words.len() || self.words[at].starts_with("--") {
                return Err(format!("{name} needs a value"));
            }
            found.push(self.words.remove(at));
        }
        Ok(found)
    }

    /// The last value given to `name`, read as a `T`.
    pub fn value<T: FromStr>(&mut self, name: &str) -> Result<Option<T>> {
        let Some(word) = self.values(name)?.pop() else { return Ok(None) };
        word.parse().map(Some).map_err(|_| format!("{name} {word}: not a value this option takes"))
    }

    /// `name` with or without a value: `None` not given, `Some(None)` alone, `Some(Some(value))`.
    pub fn flag_or_value<T: FromStr>(&mut self, name: &str) -> Option<Option<T>> {
        let at = self.words.iter().position(|word| word == name)?;
        self.words.remove(at);
        let value = self.words.get(at).and_then(|word| word.parse().ok());
        if value.is_some() {
            self.words.remove(at);
        }
        Some(value)
    }

    /// Refuses whatever nobody asked for.
    pub fn finish(self) -> Result<()> {
        match self.words.first() {
            None => Ok(()),
            Some(word) => Err(format!("{word}: unknown option; `cargo xtask help` lists them")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(line: &str) -> Args {
        Args::new(line.split_whitespace().map(String::from))
    }

    #[test]
    fn flags_and_values_in_any_order() {
        let mut args = args("--dir a --yes --size 3 --dir b");
        assert_eq!(args.value("--size"), Ok(Some(3u64)));
        assert!(args.flag("--yes"));
        assert!(!args.flag("--all"));
        assert_eq!(args.values("--dir"), Ok(vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(args.finish(), Ok(()));
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert_eq!(args("--dir").values("--dir"), Err("--dir needs a value".to_owned()));
        assert_eq!(args("--dir --yes").values("--dir"), Err("--dir needs a value".to_owned()));
        assert!(args("--size big").value::<u64>("--size").is_err_and(|why| why.contains("--size big")));
        assert!(args("--bogus").finish().is_err_and(|why| why.contains("--bogus")));
    }

    #[test]
    fn a_flag_that_may_carry_a_value() {
        assert_eq!(args("--huge").flag_or_value::<u64>("--huge"), Some(None));
        assert_eq!(args("--huge 3").flag_or_value::<u64>("--huge"), Some(Some(3)));
        assert_eq!(args("--yes").flag_or_value::<u64>("--huge"), None);
        let mut with_other = args("--huge --yes");
        assert_eq!(with_other.flag_or_value::<u64>("--huge"), Some(None));
        assert!(with_other.flag("--yes"));
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Kernels of older generations. A system has the modules of the kernels it was copied with, and of no others, so that
//! each generation starts with the kernel of its own time, as long as the ESP has room for it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use super::set;
use crate::units::Generation;

/// Where it is kept on the ESP: a line for each generation, its number and the version of its kernel.
pub const FILE: &str = "dpsr/kernels.txt";

/// Which kernel ran when a generation was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kernels(BTreeMap<Generation, String>);

impl Kernels {
    /// What the ESP says; lines that say nothing are left out.
    pub fn read(top: &Path) -> Self {
        let text = fs::read_to_string(top.join(FILE)).unwrap_or_default();
        let line = |line: &str| {
            let (generation, kernel) = line.split_once(' ')?;
            Some((Generation(generation.parse().ok()?), kernel.to_owned()))
        };
        Self(text.lines().filter_map(line).collect())
    }

    /// The same with `newest`, unless it is known, and without the generations that are not `there` any more.
    pub fn now(mut self, there: &[Generation], newest: Option<(Generation, &str)>) -> Self {
        self.0.retain(|generation, _| there.contains(generation));
        if let Some((generation, kernel)) = newest {
            self.0.entry(generation).or_insert_with(|| kernel.to_owned());
        }
        self
    }

    /// As it is kept.
    pub fn text(&self) -> String {
        self.0.iter().fold(String::new(), |mut text, (generation, kernel)| {
            let _infallible = writeln!(text, "{generation} {kernel}");
            text
        })
    }

    /// The sets on the ESP from which generations start whose kernel is not that of the set `wanted`: that of the youngest
    /// of them first.
    pub fn sets(&self, top: &Path, wanted: &str) -> Vec<String> {
        let all = set::complete(top);
        let mut seen = vec![wanted];
        let mut sets = Vec::new();
        for kernel in self.0.values().rev() {
            if !seen.contains(&kernel.as_str()) {
                seen.push(kernel);
                sets.extend(all.iter().find(|(_, of)| of == kernel).map(|(name, _)| name.clone()));
            }
        }
        sets
    }

    /// The set from which a generation starts, where that is one of `sets`, as [`sets`](Self::sets) has found them.
    pub fn set_of(&self, generation: Generation, top: &Path, sets: &[String]) -> Option<String> {
        let kernel = self.0.get(&generation)?;
        sets.iter().find(|set| set::kernel_of(top, set).as_ref() == Some(kernel)).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::super::place;
    use super::*;

    #[test]
    fn each_generation_has_the_kernel_of_its_time() {
        let top = tempfile::tempdir().unwrap();
        let set = |name: &str, kernel: &str| {
            for (file, text) in [("vmlinuz", "1"), ("initrd.img", "1"), ("pairs.img", "1")] {
                place::settle(top.path(), &format!("dpsr/{name}/{file}"), text.as_bytes()).unwrap();
            }
            let about = format!("kernel={kernel}\nvmlinuz=1\ninitrd.img=1\npairs.img=1\n");
            place::settle(top.path(), &format!("dpsr/{name}/about.txt"), about.as_bytes()).unwrap();
        };
        let of = |numbers: &[u64]| numbers.iter().map(|number| Generation(*number)).collect::<Vec<_>>();
        assert_eq!(Kernels::read(top.path()), Kernels::default());
        let first = Kernels::default().now(&of(&[1]), Some((Generation(1), "6.1-old")));
        let second = first.now(&of(&[1, 2]), Some((Generation(2), "6.1-mid")));
        let third = second.now(&of(&[1, 2, 3]), Some((Generation(3), "6.12-new")));
        // What was known of a generation stays.
        let third = third.now(&of(&[1, 2, 3]), Some((Generation(3), "other")));
        assert_eq!(third.text(), "1 6.1-old\n2 6.1-mid\n3 6.12-new\n");
        place::settle(top.path(), FILE, (third.text() + "nonsense\nx y\n").as_bytes()).unwrap();
        assert_eq!(Kernels::read(top.path()), third);

        set("aaaa", "6.12-new");
        set("bbbb", "6.1-old");
        set("cccc", "6.1-mid");
        assert_eq!(third.sets(top.path(), "6.12-new"), ["cccc", "bbbb"]);
        // One that is not complete starts nothing.
        place::settle(top.path(), "dpsr/cccc/initrd.img", b"torn").unwrap();
        let sets = third.sets(top.path(), "6.12-new");
        assert_eq!(sets, ["bbbb"]);
        let set_of = |number| third.set_of(Generation(number), top.path(), &sets);
        assert_eq!([1, 2, 3, 4].map(set_of), [Some("bbbb".to_owned()), None, None, None]);
        assert_eq!(third.now(&of(&[3]), None).sets(top.path(), "6.12-new"), [""; 0]);
    }
}

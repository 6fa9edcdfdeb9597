// SPDX-License-Identifier: MIT OR Apache-2.0
//! The other tools, each called the way that suits it best.

use super::fio::Pattern;
use crate::process::find;

/// What a tool is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Write everything.
    Copy,
    /// Make the destination equal where 1 % of the blocks differ.
    Update,
    /// Look whether anything differs; nothing does.
    Compare,
}

impl Task {
    pub const ALL: [Task; 3] = [Task::Copy, Task::Update, Task::Compare];

    pub fn case(self) -> &'static str {
        match self {
            Task::Copy => "first copy",
            Task::Update => "1 % changed, compare",
            Task::Compare => "unchanged, compare",
        }
    }

    /// The work no tool can avoid: a copy reads one and writes the other, the rest reads both.
    pub fn limit(self) -> Pattern {
        match self {
            Task::Copy => Pattern::Copy,
            Task::Update | Task::Compare => Pattern::Both,
        }
    }
}

/// One tool at one task; `SRC` and `DST` stand for the devices.
pub struct Peer {
    pub tool: &'static str,
    pub task: Task,
    line: &'static str,
}

impl Peer {
    /// The words to run.
    pub fn words(&self, source: &str, destination: &str) -> Vec<String> {
        let named = |word: &str| word.replace("SRC", source).replace("DST", destination);
        self.line.split(' ').map(named).collect()
    }

    pub fn is_present(&self) -> bool {
        self.line.split(' ').next().is_some_and(|program| find(program).is_some())
    }
}

const fn peer(tool: &'static str, task: Task, line: &'static str) -> Peer {
    Peer { tool, task, line }
}

/// rsync compares times and sizes first, which say nothing about devices, hence `--ignore-times`; support
/// for devices came upstream with 3.2.7, an older one refuses and is left out with its own words.
pub const PEERS: &[Peer] = &[
    peer("dd", Task::Copy, "dd if=SRC of=DST bs=1M iflag=direct oflag=direct conv=fsync status=none"),
    peer("qemu-img", Task::Copy, "qemu-img convert -n -f raw -O raw -m 16 -W -t none -T none SRC DST"),
    peer("ddrescue", Task::Copy, "ddrescue --force --idirect --odirect --cluster-size=2048 --quiet SRC DST"),
    peer(
        "partclone.dd",
        Task::Copy,
        "partclone.dd --quiet --buffer_size 1048576 --logfile /dev/null --source SRC --overwrite DST",
    ),
    peer("rsync", Task::Copy, "rsync --ignore-times --whole-file --write-devices --copy-devices SRC DST"),
    peer("blocksync-fast", Task::Copy, "blocksync-fast --no-compare -s SRC -d DST"),
    peer(
        "rsync",
        Task::Update,
        "rsync --ignore-times --inplace --no-whole-file -B 131072 --write-devices --copy-devices SRC DST",
    ),
    peer("blocksync-fast", Task::Update, "blocksync-fast -b 64K -s SRC -d DST"),
    peer("qemu-img", Task::Compare, "qemu-img compare -f raw -F raw -T none SRC DST"),
    peer("cmp", Task::Compare, "cmp SRC DST"),
    peer(
        "rsync",
        Task::Compare,
        "rsync --ignore-times --inplace --no-whole-file -B 131072 --write-devices --copy-devices SRC DST",
    ),
    peer("blocksync-fast", Task::Compare, "blocksync-fast -b 64K -s SRC -d DST"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_names_both_devices() {
        for peer in PEERS {
            let words = peer.words("/dev/a", "/dev/b").join(" ");
            assert!(words.contains("/dev/a") && words.contains("/dev/b"), "{words}");
            assert!(!words.contains("SRC") && !words.contains("DST"), "{words}");
        }
    }
}

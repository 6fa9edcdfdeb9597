// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is done in the window, in which order, and what takes it back. Pure.

use serde::{Deserialize, Serialize};

/// One call to the kernel. Numbers are places in the lists of a [`Plan`](super::plan::Plan).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// Freezes a filesystem that does not lie directly on a partition.
    Freeze(usize),
    /// Freezes the filesystem of a partition, and suspends it.
    SuspendPartition(usize),
    /// Suspends the disk: from here to its resuming lies the moment.
    SuspendDisk,
    /// The snapshot begins to keep pre-images. It comes before the disk: an origin that is live before its
    /// first snapshot does not split writes at chunk borders, and silently loses pre-images.
    ResumeSnapshot,
    /// The disk goes on, as the origin of the snapshot.
    ResumeDisk,
    /// A partition goes on, and its filesystem thaws.
    ResumePartition(usize),
    /// Thaws a filesystem.
    Thaw(usize),
}

impl Step {
    /// What takes this step back, where anything waits because of it.
    pub fn back(self) -> Option<Self> {
        match self {
            Self::Freeze(place) => Some(Self::Thaw(place)),
            Self::SuspendPartition(place) => Some(Self::ResumePartition(place)),
            Self::SuspendDisk => Some(Self::ResumeDisk),
            Self::ResumeSnapshot | Self::ResumeDisk | Self::ResumePartition(_) | Self::Thaw(_) => None,
        }
    }
}

/// All steps. Upper filesystems freeze first, for what they write out goes through the partitions; each
/// resumes in the reverse order, for thawing writes too.
pub fn steps(filesystems: usize, partitions: usize) -> Vec<Step> {
    let mut steps: Vec<_> = (0..filesystems).map(Step::Freeze).collect();
    steps.extend((0..partitions).map(Step::SuspendPartition));
    steps.extend([Step::SuspendDisk, Step::ResumeSnapshot, Step::ResumeDisk]);
    steps.extend((0..partitions).rev().map(Step::ResumePartition));
    steps.extend((0..filesystems).rev().map(Step::Thaw));
    steps
}

/// How far somebody came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// So many steps were begun.
    pub begun: usize,
    /// So many of them are done: all, or all but the last.
    pub done: usize,
}

impl Position {
    /// As a word that two processes share; 0 before the first step.
    pub fn to_word(self) -> u64 {
        (self.begun + self.done) as u64
    }

    /// From such a word.
    pub fn of_word(word: u64) -> Self {
        let word = usize::try_from(word).unwrap_or(usize::MAX);
        Self { begun: word.div_ceil(2), done: word / 2 }
    }

    /// The step that was begun and is not done.
    pub fn pending(self, steps: &[Step]) -> Option<Step> {
        (self.begun > self.done).then(|| steps.get(self.done).copied()).flatten()
    }

    /// What takes back the steps that are done, in the order in which it must happen: the disk goes on before
    /// its partitions, for a filesystem that thaws writes.
    pub fn back(self, steps: &[Step]) -> impl Iterator<Item = Step> {
        steps[..self.done.min(steps.len())].iter().rev().filter_map(|step| step.back())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_the_window() {
        use Step::*;
        let expected = [
            Freeze(0),
            SuspendPartition(0),
            SuspendPartition(1),
            SuspendDisk,
            ResumeSnapshot,
            ResumeDisk,
            ResumePartition(1),
            ResumePartition(0),
            Thaw(0),
        ];
        assert_eq!(steps(1, 2), expected);
        assert_eq!(steps(0, 0), [SuspendDisk, ResumeSnapshot, ResumeDisk]);
    }

    #[test]
    fn words_there_and_back() {
        let all = [(0, 0), (1, 0), (1, 1), (2, 1), (2, 2)].map(|(begun, done)| Position { begun, done });
        for (word, position) in (0..).zip(all) {
            assert_eq!((position.to_word(), Position::of_word(word)), (word, position));
        }
    }

    #[test]
    fn whatever_waits_goes_on_and_the_disk_first() {
        let all = steps(1, 2);
        let back = |begun, done| Position { begun, done }.back(&all).collect::<Vec<_>>();
        assert_eq!(back(1, 0), []);
        assert_eq!(back(2, 1), [Step::Thaw(0)]);
        let everything =
            [Step::ResumeDisk, Step::ResumePartition(1), Step::ResumePartition(0), Step::Thaw(0)];
        for done in 4..=all.len() {
            assert_eq!(back(done, done), everything, "after {done} steps");
        }
        let pending = Position { begun: 4, done: 3 };
        assert_eq!(pending.pending(&all), Some(Step::SuspendDisk));
        assert_eq!(Position { begun: 4, done: 4 }.pending(&all), None);
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Random histories against a model that keeps every generation as plain bytes.

use std::sync::Arc;

use dpsr::changes::Mode;
use dpsr::changes::source::Moving;
use dpsr::error::Kind;
use dpsr::progress::Silent;
use dpsr::sync::sync;
use dpsr::units::MIB;
use proptest::prelude::*;

use crate::world::{World, stamped, volume};

pub const SIZE: usize = 2 * MIB as usize + 1536;

/// One step of a history.
#[derive(Clone, Debug)]
pub enum Step {
    Write { at: usize, len: usize, seed: u64 },
    Blank { at: usize, len: usize },
    Repartition(Vec<(u64, u64, bool)>),
    Sync(Mode),
    SyncVolume(usize),
    Afresh,
    Pin(prop::sample::Index, bool),
    Drop(Vec<prop::sample::Index>),
}

pub fn step() -> impl Strategy<Value = Step> {
    let range = (0..SIZE, 1..200_000usize);
    prop_oneof![
        4 => (range.clone(), any::<u64>()).prop_map(|((at, len), seed)| Step::Write { at, len, seed }),
        1 => range.prop_map(|(at, len)| Step::Blank { at, len }),
        1 => layout().prop_map(Step::Repartition),
        4 => prop_oneof![Just(Mode::Digest), Just(Mode::Compare), Just(Mode::Full)].prop_map(Step::Sync),
        1 => (0..3usize).prop_map(Step::SyncVolume),
        1 => Just(Step::Afresh),
        1 => (any::<prop::sample::Index>(), any::<bool>()).prop_map(|(which, pin)| Step::Pin(which, pin)),
        2 => prop::collection::vec(any::<prop::sample::Index>(), 1..4).prop_map(Step::Drop),
    ]
}

/// Up to three partitions, as (start, size, left out) in sectors, sorted and disjoint.
pub fn layout() -> impl Strategy<Value = Vec<(u64, u64, bool)>> {
    let sectors = SIZE as u64 / 512;
    (prop::collection::btree_set(1..sectors, 6), any::<[bool; 3]>()).prop_map(|(edges, out)| {
        let edges: Vec<u64> = edges.into_iter().collect();
        let pairs = edges.chunks(2).zip(out);
        pairs.map(|(pair, out)| (pair[0], pair[1] - pair[0], out)).collect()
    })
}

pub fn volumes(layout: &[(u64, u64, bool)]) -> Vec<dpsr::format::index::Volume> {
    let table = std::iter::once(volume("table", 0, 0, false));
    let numbered = layout.iter().enumerate();
    table
        .chain(
            numbered
                .map(|(i, (start, size, out))| volume(&(i + 1).to_string(), start * 512, size * 512, *out)),
        )
        .collect()
}

impl World {
    pub fn take(&mut self, step: Step) {
        match step {
            Step::Write { at, len, seed } => self.write(at, &stamped(len.min(SIZE - at), seed)),
            Step::Blank { at, len } => self.write(at, &vec![0; len.min(SIZE - at)]),
            Step::Repartition(layout) => self.disks.volumes = volumes(&layout),
            Step::Sync(mode) => match self.sync(mode) {
                Err(error) => assert_eq!(error.kind(), Kind::NoRoom, "{error}"),
                Ok(_) => self.check(),
            },
            Step::SyncVolume(number) => self.sync_volume(number),
            Step::Pin(which, pinned) => {
                let list = self.generations();
                if !list.is_empty() {
                    self.pin(*which.get(&list), pinned);
                    self.check();
                }
            }
            Step::Drop(which) => self.drop_some(&which),
            Step::Afresh => {
                self.time += 60;
                let request = dpsr::sync::Request { no_undo: true, ..self.request(Mode::Full) };
                let report = sync(&self.disks, &request, &Silent).unwrap();
                self.expected.insert(report.generation.0, self.visible());
                self.check();
            }
        }
    }

    /// Drops some generations: all of them or, where one may not go or there is no room, none.
    fn drop_some(&mut self, which: &[prop::sample::Index]) {
        let list = self.generations();
        if list.is_empty() {
            return;
        }
        let gone: Vec<u64> = which.iter().map(|which| *which.get(&list)).collect();
        let left: Vec<u64> = list.iter().copied().filter(|one| !gone.contains(one)).collect();
        match self.drop(&gone) {
            Ok(_) => assert_eq!(self.generations(), left),
            Err(error) => {
                assert!(matches!(error.kind(), Kind::Refused | Kind::NoRoom), "{error}");
                assert_eq!(self.generations(), list);
            }
        }
        self.check_all();
    }

    /// Moves one volume alone; everything else must stay as it is in the newest generation.
    fn sync_volume(&mut self, number: usize) {
        let Some(volume) = self.disks.volumes.iter().filter(|v| v.size.0 > 0).nth(number).cloned() else {
            return;
        };
        let Some(newest) = self.generations().last().copied().filter(|_| !volume.left_out) else { return };
        let moving = Moving::Only(vec![volume.id]);
        let request = dpsr::sync::Request { moving, ..self.request(Mode::Digest) };
        match sync(&self.disks, &request, &Silent) {
            Err(error) => assert!(matches!(error.kind(), Kind::NoRoom | Kind::Refused), "{error}"),
            Ok(report) => {
                let mut expected = self.expected[&newest].clone();
                let range = volume.start.usize()..(volume.start + volume.size).usize();
                expected[range.clone()].copy_from_slice(&self.primary[range]);
                self.expected.insert(report.generation.0, expected);
                self.check();
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 200, ..ProptestConfig::default() })]
    #[test]
    fn every_generation_of_any_history_reads_back(
        first in layout(),
        store in 20u64..32,
        steps in prop::collection::vec(step(), 1..25),
    ) {
        let mut world = World::new(stamped(SIZE, 1), volumes(&first), store * MIB, |disk| Arc::new(disk));
        steps.into_iter().for_each(|step| world.take(step));
        if !world.generations().is_empty() {
            world.check_all();
        }
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! `dpsr sync` is killed, or told to stop, at random moments. After each of them the store opens, every
//! generation it lists reads as it was recorded, and the next sync is exact.
//!
//! `DPSR_SEED` repeats a run; the moments themselves depend on the machine all the same.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod pair;
#[path = "../wrong_disk/world.rs"]
#[expect(dead_code, reason = "shared with the tests of wrong disks, which use more of it")]
mod world;

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::Instant;

use pair::{Pair, Seed};
use world::{Said, signal};

/// How often a sync is killed in all, over both lanes.
const KILLS: u64 = 200;
/// How often it is told to stop.
const STOPS: u64 = 30;
/// How often of these at least with each way to read and write.
const STOPS_OF_EACH: u64 = 8;
/// Ways to read and write, in turn.
const IOS: [&str; 2] = ["posix", "uring"];

/// How syncs are started, in turn.
const MODES: [&[&str]; 4] = [&[], &["--compare"], &["--full"], &[]];

/// Kills syncs of one pair `kills` times; the words for the states they left.
fn lane(seed: Seed, io: &'static str, kills: u64) -> BTreeMap<String, u64> {
    let mut pair = Pair::new(seed, io);
    let mut left = BTreeMap::new();
    let mut killed = 0;
    while killed < kills {
        // Every eighth time a new pair, so that first copies are killed as well.
        if killed % 8 == 0 && pair.generation().is_some() {
            pair = pair.anew();
        }
        pair.change();
        let before = pair.generation();
        let mode = if before.is_none() { &[] } else { MODES[pair.seed.below(4) as usize] };
        let moment = pair.moment(mode);
        let mut child = pair.start(mode);
        sleep(moment);
        let ended = child.try_wait().unwrap().is_some();
        child.kill().unwrap();
        Said::of(child.wait_with_output().unwrap());
        let (state, now) = pair.status();
        if !ended {
            killed += 1;
            let done = if now == before { "" } else { ", committed" };
            let first = if before.is_none() { "first copy: " } else { "" };
            *left.entry(format!("{first}{state}{done}")).or_default() += 1;
        }
        assert!(now == before || now == Some(before.unwrap_or(0) + 1), "from {before:?} to {now:?}");
        pair.everything_reads_back();
        // Now and then the next one is killed while it rolls this one back.
        if pair.seed.below(3) > 0 {
            pair.finish(mode);
        }
    }
    pair.finish(&[]);
    left
}

#[test]
fn killed_at_any_moment() {
    let seed = Seed::new();
    let started = Instant::now();
    let lanes = std::thread::scope(|scope| {
        let lanes = [(0, "posix"), (1, "uring")];
        let lanes = lanes.map(|(lane, io)| scope.spawn(move || self::lane(seed.apart(lane), io, KILLS / 2)));
        lanes.map(|lane| lane.join().unwrap())
    });
    let mut all = BTreeMap::<_, u64>::new();
    lanes.into_iter().flatten().for_each(|(state, count)| *all.entry(state).or_default() += count);
    eprintln!("{KILLS} kills in {} s, seed {}: {all:?}", started.elapsed().as_secs(), seed.0);
    assert_eq!(all.values().sum::<u64>(), KILLS);
    for state in ["clean", "updating", "first copy: filling"] {
        assert!(all.contains_key(state), "no kill landed in {state}");
    }
}

#[test]
fn told_to_stop_at_any_moment() {
    let mut pair = Pair::new(Seed::new().apart(7), IOS[0]);
    let (mut rounds, mut killed, mut rolled_back) = (0, 0, 0);
    let mut stopped = BTreeMap::from(IOS.map(|io| (io, 0)));
    let mut left = BTreeMap::<_, u64>::new();
    while stopped.values().sum::<u64>() < STOPS || stopped.values().any(|count| *count < STOPS_OF_EACH) {
        rounds += 1;
        assert!(rounds < 10 * STOPS, "of {rounds} syncs only these were stopped: {stopped:?}");
        if rounds % 6 == 0 {
            pair = pair.anew_with(IOS[rounds as usize / 6 % IOS.len()]);
        }
        pair.change();
        let before = pair.generation();
        let mode = if before.is_none() { &[] } else { MODES[pair.seed.below(4) as usize] };
        let moment = pair.moment(mode);
        let mut child = pair.start(mode);
        // Before it holds the disk there is nothing to stop.
        if !pair.locked_by(&mut child) {
            pair.finish(&[]);
            continue;
        }
        sleep(moment);
        let which = if rounds % 2 == 0 { "-TERM" } else { "-INT" };
        if child.try_wait().unwrap().is_none() {
            signal(&child, which);
        }
        // Some do not even get the time to roll back.
        let hurried = rounds % 5 == 0;
        if hurried {
            sleep(pair.moment(mode) / 8);
            killed += u64::from(child.try_wait().unwrap().is_none());
            child.kill().unwrap();
        }
        let said = Said::of(child.wait_with_output().unwrap());
        let (state, now) = pair.status();
        if said.code == 8 {
            *stopped.get_mut(pair.io).unwrap() += 1;
            rolled_back += u64::from(said.err.contains("writing what changed"));
            *left.entry(state.clone()).or_default() += 1;
            assert_eq!(now, before, "{}", said.err);
            let expected = match before {
                Some(generation) => format!("the copy is generation {generation}, intact"),
                None => "the copy is not complete yet; the next sync goes on".to_owned(),
            };
            said.refused(8, &["a signal asked to stop", &expected]);
            assert_eq!(state, if before.is_some() { "clean" } else { "filling" });
        } else {
            assert!(said.code == 0 || hurried, "{}", said.err);
        }
        pair.everything_reads_back();
        pair.finish(mode);
    }
    eprintln!(
        "of {rounds} syncs {stopped:?} were stopped ({left:?}), {rolled_back} of them had begun to overwrite"
    );
    eprintln!("{killed} were killed soon after they were told to stop");
    assert!(rolled_back > 0);
}

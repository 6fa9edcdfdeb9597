// SPDX-License-Identifier: MIT OR Apache-2.0

use proptest::prelude::*;

use super::*;

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;
/// The start of 2026-11-20, a Friday.
const FRIDAY: u64 = 1_795_132_800;

fn rules(counts: [u32; 5]) -> Rules {
    let [last, hourly, daily, weekly, monthly] = counts.map(NonZeroU32::new);
    Rules { last, hourly, daily, weekly, monthly }
}

fn candidates(times: &[u64]) -> Vec<Candidate> {
    let one = |(generation, &time)| Candidate { generation: Generation(generation), time, pinned: false };
    (1..).zip(times).map(one).collect()
}

fn kept(rules: Rules, all: &[Candidate]) -> Vec<u64> {
    rules.judge(all).iter().filter(|one| one.kept()).map(|one| one.generation.0).collect()
}

#[test]
fn every_rule_says_why() {
    let times = [FRIDAY - 40 * DAY, FRIDAY - 5 * DAY, FRIDAY - DAY, FRIDAY + HOUR, FRIDAY + HOUR + 60];
    let told: Vec<_> = rules([1, 1, 2, 2, 2])
        .judge(&candidates(&times))
        .into_iter()
        .map(|one| one.kept_as.join(", "))
        .collect();
    assert_eq!(
        told,
        [
            "monthly 2026-10",
            "weekly 2026-W46",
            "daily 2026-11-19",
            "",
            "newest, last, hourly 2026-11-20 01:00Z, daily 2026-11-20, weekly 2026-W47, monthly 2026-11",
        ]
    );
}

#[test]
fn a_clock_that_goes_back_does_not_cost_the_newest() {
    let times = [FRIDAY, FRIDAY + DAY, FRIDAY + 2 * DAY, FRIDAY - 300 * DAY, FRIDAY - 300 * DAY + 60];
    assert_eq!(kept(rules([0, 0, 2, 0, 0]), &candidates(&times)), [3, 5]);
    assert_eq!(kept(rules([2, 0, 0, 0, 0]), &candidates(&times)), [4, 5]);
}

#[test]
fn without_a_rule_nothing_goes() {
    assert_eq!(kept(Rules::default(), &candidates(&[0, 0, 0])), [1, 2, 3]);
}

fn any_rules() -> impl Strategy<Value = [u32; 5]> {
    prop::array::uniform5(prop_oneof![Just(0u32), 1..9u32])
}

fn any_history() -> impl Strategy<Value = Vec<Candidate>> {
    let step = prop_oneof![8 => 0..3 * DAY as i64, 1 => -(40 * DAY as i64)..40 * DAY as i64];
    prop::collection::vec((step, prop::bool::weighted(0.1)), 1..60).prop_map(|steps| {
        let mut time = FRIDAY as i64;
        let one = |(generation, (step, pinned)): (u64, (i64, bool))| {
            time += step;
            Candidate { generation: Generation(generation), time: time as u64, pinned }
        };
        (1..).zip(steps).map(one).collect()
    })
}

proptest! {
    #[test]
    fn what_was_kept_is_kept_again(counts in any_rules(), all in any_history()) {
        let first = kept(rules(counts), &all);
        let left: Vec<_> = all.iter().copied().filter(|one| first.contains(&one.generation.0)).collect();
        prop_assert_eq!(kept(rules(counts), &left), first);
    }

    #[test]
    fn keeping_more_never_drops_more(counts in any_rules(), more in any_rules(), all in any_history()) {
        prop_assume!(counts.iter().any(|count| *count > 0));
        let sum = std::array::from_fn(|i| counts[i] + more[i]);
        let (few, many) = (kept(rules(counts), &all), kept(rules(sum), &all));
        prop_assert!(few.iter().all(|one| many.contains(one)), "{few:?} of {many:?}");
    }

    #[test]
    fn the_newest_and_pinned_ones_stay(counts in any_rules(), all in any_history()) {
        let left = kept(rules(counts), &all);
        prop_assert_eq!(left.last().copied(), all.last().map(|one| one.generation.0));
        prop_assert!(all.iter().filter(|one| one.pinned).all(|one| left.contains(&one.generation.0)));
    }

    #[test]
    fn no_more_are_kept_than_was_asked_for(counts in any_rules(), all in any_history()) {
        prop_assume!(counts.iter().any(|count| *count > 0));
        let pinned = all.iter().filter(|one| one.pinned).count();
        let most = 1 + pinned + counts.iter().sum::<u32>() as usize;
        prop_assert!(kept(rules(counts), &all).len() <= most);
    }
}

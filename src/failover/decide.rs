// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which system is to be started: a function of what was asked for, what is there, and how long nothing new
//! has appeared. Pure.

use std::time::Duration;

use super::presence::Presence;
use crate::config::Policy;
use crate::format::superblock::State;

/// Who has loaded the kernel, and with which wish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// The primary's own loader.
    Primary,
    /// The loader of the DPSR disk: the copy, where the primary is missing.
    Auto,
    /// The loader of the DPSR disk: the copy.
    Force,
}

/// What is known at one moment of a boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// What there is of the primary.
    pub primary: Presence,
    /// The state of the store; `None` without a DPSR disk.
    pub store: Option<State>,
    /// What a missing primary leads to.
    pub policy: Policy,
    /// Whether the DPSR disk is one that boots this machine, as far as its record says.
    pub boots: bool,
    /// Whether there is every DPSR disk that boots this machine.
    pub all: bool,
    /// How long no disk has appeared.
    pub quiet: Duration,
    /// How long the primary has been there, and the DPSR disk; zero where it is not.
    pub primary_for: Duration,
    /// See [`primary_for`](Self::primary_for).
    pub store_for: Duration,
    /// How long the boot has been deciding. Drivers may come late, so no disk is taken for missing by this.
    pub since: Duration,
}

/// How long one is patient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// With a primary that is missing, after the last new disk.
    pub primary: Duration,
    /// With a DPSR disk, where the primary is there: it might say that the machine ran from it. After the last
    /// new disk, too.
    pub store: Duration,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Look again.
    Wait,
    /// Start the primary's system.
    Primary,
    /// Start the copy's; the text says why.
    Copy(String),
    /// Ask whether to, and look again meanwhile; the text says why.
    Ask(String),
    /// Nothing can be done; the text says why.
    Hopeless(String),
}

/// How much longer than for a missing primary a boot goes on looking for anything at all.
const LAST: Duration = Duration::from_secs(60);

/// How many times longer a disk is waited for while others go on appearing.
const BUSY: u32 = 2;

/// The same for the last wait of all, in which disks may come as late as they like.
const NEVER: u32 = 4;

/// Decides.
pub fn decide(asked: Asked, seen: &Seen, patience: Patience) -> Choice {
    if seen.store.is_some_and(is_newer) {
        return Choice::Copy("the system has run from the copy before".to_owned());
    }
    if asked == Asked::Force {
        return match seen.store {
            Some(_) => Choice::Copy("the boot menu asked for it".to_owned()),
            None => without_store(seen, patience),
        };
    }
    // A pair of other disks than the system's may be absent, or late, as it likes.
    if asked == Asked::Primary && !seen.boots {
        return with_primary(seen, patience);
    }
    let why = match (&seen.primary, asked) {
        // Its loader is on the DPSR disk, which is there, then, and may hold what is newer.
        (Presence::There | Presence::Twice(_), Asked::Auto) if seen.store.is_none() => {
            return with_primary(seen, Patience { store: patience.primary, ..patience });
        }
        // One of two clones is the primary, which nothing newer may take the place of.
        (Presence::There | Presence::Twice(_), _) => return with_primary(seen, patience),
        // Its own loader was found on it; who repartitions a disk wants it as it is now.
        (Presence::Changed(_), Asked::Primary) => return with_primary(seen, patience),
        (Presence::Changed(why) | Presence::Missing(why), _) => why,
    };
    let waited = seen.quiet >= patience.primary || seen.store_for >= BUSY * patience.primary;
    match seen.store {
        // From one that holds no generation nothing can start, and a primary that is late must not be given up for it.
        None | Some(State::Filling { .. } | State::NoValid { .. }) => without_store(seen, patience),
        Some(_) if !waited => Choice::Wait,
        Some(_) => without_primary(seen.policy, format!("the primary is missing: {why}")),
    }
}

fn without_primary(policy: Policy, why: String) -> Choice {
    match policy {
        Policy::Auto => Choice::Copy(why),
        Policy::Ask => Choice::Ask(why),
        Policy::Off => Choice::Hopeless(format!(
            "{why}; its copy is not started, because policy is off in the pair's record: the menu of the DPSR disk can"
        )),
    }
}

/// Whether the image, or what it was copied to, holds more than the primary.
pub fn is_newer(state: State) -> bool {
    matches!(state, State::Live(_) | State::LiveNoHistory(_) | State::Returning(_) | State::Aside(_))
}

fn with_primary(seen: &Seen, patience: Patience) -> Choice {
    let waited = seen.quiet >= patience.store || seen.primary_for >= BUSY * patience.store;
    if seen.all || waited { Choice::Primary } else { Choice::Wait }
}

fn without_store(seen: &Seen, patience: Patience) -> Choice {
    let limit = patience.primary + LAST;
    if seen.quiet >= limit || seen.since >= NEVER * limit {
        let there = matches!(seen.primary, Presence::There | Presence::Twice(_));
        let why = match seen.store {
            None if there => "the DPSR disk is not there",
            None => "neither the primary nor the DPSR disk is there",
            Some(_) => "the primary is not there, and the DPSR disk holds no complete generation",
        };
        return Choice::Hopeless(why.to_owned());
    }
    Choice::Wait
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Generation;

    const PATIENCE: Patience = Patience { primary: Duration::from_secs(15), store: Duration::from_secs(5) };

    fn at(seconds: u64, primary: Presence, store: Option<State>) -> Seen {
        let time = Duration::from_secs(seconds);
        let of = |there: bool| if there { time } else { Duration::ZERO };
        let (primary_for, store_for) = (of(primary == Presence::There), of(store.is_some()));
        Seen {
            primary,
            store,
            policy: Policy::Auto,
            boots: true,
            all: store.is_some(),
            quiet: time,
            primary_for,
            store_for,
            since: time,
        }
    }

    fn missing() -> Presence {
        Presence::Missing("no disk is the recorded one".to_owned())
    }

    #[test]
    fn a_primary_that_is_there_starts_at_once_unless_the_copy_is_live() {
        let clean = Some(State::Clean(Generation(3)));
        for asked in [Asked::Primary, Asked::Auto] {
            assert_eq!(decide(asked, &at(0, Presence::There, clean), PATIENCE), Choice::Primary);
            assert_eq!(decide(asked, &at(0, Presence::There, None), PATIENCE), Choice::Wait);
            let (none, one) = if asked == Asked::Auto { (14, 15) } else { (4, 5) };
            assert_eq!(decide(asked, &at(none, Presence::There, None), PATIENCE), Choice::Wait);
            assert_eq!(decide(asked, &at(one, Presence::There, None), PATIENCE), Choice::Primary);
            for live in [State::Live(Generation(3)), State::LiveNoHistory(Generation(3))] {
                let choice = decide(asked, &at(0, Presence::There, Some(live)), PATIENCE);
                assert!(matches!(choice, Choice::Copy(_)), "{choice:?}");
            }
        }
    }

    #[test]
    fn a_primary_with_a_clone_is_not_missing() {
        let twice = || Presence::Twice("/dev/sda and /dev/sdb both carry its identity".to_owned());
        let clean = Some(State::Clean(Generation(3)));
        for asked in [Asked::Primary, Asked::Auto] {
            assert_eq!(decide(asked, &at(600, twice(), clean), PATIENCE), Choice::Primary);
            let live = decide(asked, &at(0, twice(), Some(State::Live(Generation(3)))), PATIENCE);
            assert!(matches!(live, Choice::Copy(_)), "{live:?}");
        }
    }

    #[test]
    fn a_missing_primary_is_waited_for() {
        let clean = Some(State::Clean(Generation(3)));
        for asked in [Asked::Primary, Asked::Auto] {
            assert_eq!(decide(asked, &at(14, missing(), clean), PATIENCE), Choice::Wait);
            assert!(matches!(decide(asked, &at(15, missing(), clean), PATIENCE), Choice::Copy(_)));
            assert_eq!(decide(asked, &at(70, missing(), None), PATIENCE), Choice::Wait);
            assert!(matches!(decide(asked, &at(75, missing(), None), PATIENCE), Choice::Hopeless(_)));
        }
        // Disks that go on appearing do not put it off for ever.
        let busy = Seen { quiet: Duration::ZERO, ..at(30, missing(), clean) };
        assert!(matches!(decide(Asked::Auto, &busy, PATIENCE), Choice::Copy(_)));
    }

    #[test]
    fn a_copy_that_is_none_is_no_reason_to_give_up_a_primary() {
        let none = [State::Filling { done: 3 }, State::NoValid { done: 3, to: Generation(4) }];
        for state in none {
            for asked in [Asked::Primary, Asked::Auto] {
                assert_eq!(decide(asked, &at(40, missing(), Some(state)), PATIENCE), Choice::Wait);
                let choice = decide(asked, &at(75, missing(), Some(state)), PATIENCE);
                assert!(matches!(choice, Choice::Hopeless(_)), "{choice:?}");
            }
        }
    }

    #[test]
    fn a_pair_of_other_disks_keeps_no_system_waiting() {
        let clean = Some(State::Clean(Generation(3)));
        let data = |seconds, store| Seen { boots: false, ..at(seconds, missing(), store) };
        assert_eq!(decide(Asked::Primary, &data(0, clean), PATIENCE), Choice::Primary);
        assert_eq!(decide(Asked::Primary, &data(60, clean), PATIENCE), Choice::Primary);
        assert_eq!(decide(Asked::Primary, &data(5, None), PATIENCE), Choice::Primary);
        // Its record may be older than that it boots: what is newer goes first all the same.
        let live = Some(State::Live(Generation(3)));
        assert!(matches!(decide(Asked::Primary, &data(0, live), PATIENCE), Choice::Copy(_)));
        assert!(matches!(decide(Asked::Auto, &data(15, clean), PATIENCE), Choice::Copy(_)));
    }

    #[test]
    fn a_driver_that_comes_late_costs_no_disk_its_time() {
        let (clean, late) = (Some(State::Clean(Generation(3))), Duration::from_secs(300));
        for asked in [Asked::Primary, Asked::Auto] {
            let dpsr_first = Seen { since: late, ..at(0, missing(), clean) };
            assert_eq!(decide(asked, &dpsr_first, PATIENCE), Choice::Wait);
            let primary_first = Seen { since: late, ..at(0, Presence::There, None) };
            assert_eq!(decide(asked, &primary_first, PATIENCE), Choice::Wait);
            // Disks that go on appearing do not put it off for ever.
            let enough = if asked == Asked::Auto { 30 } else { 10 };
            let busy = Seen { quiet: Duration::ZERO, ..at(enough, Presence::There, None) };
            assert_eq!(decide(asked, &busy, PATIENCE), Choice::Primary);
            let neither = Seen { quiet: Duration::ZERO, ..at(299, missing(), None) };
            assert_eq!(decide(asked, &neither, PATIENCE), Choice::Wait);
            let never = Seen { since: Duration::from_secs(300), ..neither };
            assert!(matches!(decide(asked, &never, PATIENCE), Choice::Hopeless(_)));
        }
    }

    #[test]
    fn the_policy_is_about_a_missing_primary_alone() {
        let (clean, live) = (Some(State::Clean(Generation(3))), Some(State::Live(Generation(3))));
        for policy in [Policy::Ask, Policy::Off] {
            let seen = |store| Seen { policy, ..at(15, missing(), store) };
            let choice = decide(Asked::Auto, &seen(clean), PATIENCE);
            assert_eq!(matches!(choice, Choice::Ask(_)), policy == Policy::Ask, "{choice:?}");
            assert_eq!(matches!(choice, Choice::Hopeless(_)), policy == Policy::Off, "{choice:?}");
            assert!(matches!(decide(Asked::Auto, &seen(live), PATIENCE), Choice::Copy(_)));
            assert!(matches!(decide(Asked::Force, &seen(clean), PATIENCE), Choice::Copy(_)));
        }
    }

    #[test]
    fn another_table_is_no_missing_disk_to_its_own_loader() {
        let changed = || Presence::Changed("its partition table is none".to_owned());
        let clean = Some(State::Clean(Generation(3)));
        assert_eq!(decide(Asked::Primary, &at(20, changed(), clean), PATIENCE), Choice::Primary);
        assert!(matches!(decide(Asked::Auto, &at(20, changed(), clean), PATIENCE), Choice::Copy(_)));
        assert_eq!(decide(Asked::Auto, &at(1, changed(), clean), PATIENCE), Choice::Wait);
    }

    #[test]
    fn who_asks_for_the_copy_gets_it() {
        let clean = Some(State::Clean(Generation(3)));
        assert!(matches!(decide(Asked::Force, &at(0, Presence::There, clean), PATIENCE), Choice::Copy(_)));
        assert_eq!(decide(Asked::Force, &at(0, Presence::There, None), PATIENCE), Choice::Wait);
    }
}

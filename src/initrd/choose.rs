// SPDX-License-Identifier: MIT OR Apache-2.0
//! Looks at the disks of all pairs until it is clear which system to start. It has a clock of its own: nobody
//! else's waits end in time.

use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::array;
use super::ask::{self, Question};
use super::cmdline::{CmdLine, Discard};
use super::quiet::{Disks, Quiet};
use super::told::{Level, besides_at_login, say};
use super::wrap::unwrapped;
use crate::config::{self, PairConfig};
use crate::error::{Error, Kind, Result};
use crate::failback::put_back;
use crate::failback::target::Target;
use crate::failover::claimed;
use crate::failover::decide::{Asked, Choice, Patience, Seen, decide, is_newer};
use crate::failover::presence::{self, Presence, StoreSeen};
use crate::failover::stays::Stays;
use crate::format::superblock::State;
use crate::open::{now, owner};
use crate::pair::sysfs::Roots;
use crate::store::Store;

/// How long a DPSR disk may take to appear after the last new disk, where the primary is there.
const STORE: Duration = Duration::from_secs(5);

/// The longest wait in an initramfs of the primary: others give up a root after 180 s. (`rd.retry`)
const LONGEST: Duration = Duration::from_secs(120);

/// How long the rest of an array is waited for, of which only a part is there: one that comes after the array was
/// started without it is not taken in any more.
const PARTS: Duration = Duration::from_secs(30);

/// How long such a primary is waited for once it was started with what there is.
const ASSEMBLY: Duration = Duration::from_secs(15);

const GLANCE: Duration = Duration::from_millis(100);

/// The pairs from whose copy this machine may be started: those whose DPSR disk boots; the one that the loader names
/// comes first. A record that is alone may be older than `dpsr boot install`.
pub fn candidates(dir: &Path, named: Option<&str>) -> Result<Vec<PairConfig>> {
    let load = |name: &String| match config::load(dir, name) {
        Ok(pair) => Some(pair),
        Err(error) => {
            say(Level::Warning, &error.to_string());
            None
        }
    };
    let mut pairs: Vec<_> = config::list(dir)?.iter().filter_map(load).collect();
    let is_named = |pair: &PairConfig| Some(pair.name.as_str()) == named;
    if pairs.iter().any(|pair| pair.boot) {
        pairs.retain(|pair| pair.boot || is_named(pair));
    }
    pairs.sort_by_key(|pair| !is_named(pair));
    match pairs.len() {
        0 => config::choose(dir, named).map(|only| vec![only]),
        _ => Ok(pairs),
    }
}

/// Looks until it is clear what to start, and of which pair.
pub fn chosen<'a>(
    dir: &Path,
    pairs: &'a [PairConfig],
    asked: Asked,
    line: &CmdLine,
) -> (&'a PairConfig, Choice) {
    let mut watch = Watch::begin();
    let mut question: Option<Question<()>> = None;
    let (mut hopeless, mut discarded) = (false, false);
    let (mut tried, mut started) = (0, None::<Instant>);
    loop {
        let (config, seen, age) = watch.look(dir, pairs);
        // Once: where it fails, it would fail for ever, and nothing else would start either.
        let mut wait = config.failover.wait(line.wait);
        let meant = line.pair.as_deref().is_none_or(|pair| pair == config.name);
        if line.discard == Some(Discard::Aside)
            && meant
            && !discarded
            && matches!(seen.store, Some(State::Aside(_)))
        {
            let there = matches!(seen.primary, Presence::There | Presence::Twice(_));
            // A primary may be slower to appear than the DPSR disk.
            if there || seen.since >= wait {
                discarded = true;
                discard(config, there);
            } else {
                sleep(GLANCE);
            }
            continue;
        }
        if asked == Asked::Primary {
            wait = wait.min(LONGEST);
        }
        if matches!(seen.primary, Presence::Missing(_)) {
            let parts = array::parts(config);
            if !parts.is_empty() {
                wait = wait.max(PARTS);
                let otherwise = decide(asked, &seen, Patience { primary: wait, store: STORE });
                // Where the copy is newer, it is started whatever is there, and nothing is to write to the old primary.
                let decided = asked == Asked::Force || seen.store.is_some_and(is_newer);
                // Once for each part that came since: with one more it may be enough of them.
                if matches!(otherwise, Choice::Copy(_) | Choice::Ask(_)) && !decided && parts.len() > tried {
                    tried = parts.len();
                    array::start(&parts);
                    started = Some(Instant::now());
                }
                if !decided && started.is_some_and(|at| at.elapsed() < ASSEMBLY) {
                    sleep(GLANCE);
                    continue;
                }
            }
        }
        match decide(asked, &seen, Patience { primary: wait, store: STORE }) {
            Choice::Wait => {}
            Choice::Ask(why) => {
                if question.get_or_insert_with(|| ask::whether(&why, age)).answer().is_some() {
                    return (config, Choice::Copy(why));
                }
            }
            Choice::Hopeless(why) => {
                if !hopeless {
                    say(Level::Warning, &why);
                    hopeless = true;
                }
                // The system may be on a disk that no record knows, which nobody may hold up. Without any disk there
                // is nothing to hold up.
                if !watch.quiet.is_alone() {
                    return (config, Choice::Hopeless(why));
                }
            }
            choice => {
                if choice == Choice::Primary {
                    tell_primary(config, &seen, watch.home.as_ref());
                }
                return (config, choice);
            }
        }
        sleep(GLANCE);
    }
}

/// What has been there since when.
struct Watch {
    start: Instant,
    quiet: Quiet,
    primary: Option<Instant>,
    store: Option<Instant>,
    home: Option<Target>,
    several: bool,
}

impl Watch {
    fn begin() -> Self {
        let start = Instant::now();
        Self { start, quiet: Quiet::begin(start), primary: None, store: None, home: None, several: false }
    }

    /// What there is now, of the pair that counts: one whose copy is newer than its primary goes before one that is
    /// there, and that before all others. And how old its copy is, in seconds.
    fn look<'a>(&mut self, dir: &Path, pairs: &'a [PairConfig]) -> (&'a PairConfig, Seen, u64) {
        let look = self.quiet.look(disks(), Instant::now());
        let stores: Vec<_> = pairs.iter().map(|pair| (pair, presence::store(dir, &pair.name))).collect();
        let all = stores.iter().all(|(_, store)| store.is_some());
        self.tell_several(&stores);
        let rank =
            |store: &Option<StoreSeen>| store.as_ref().map_or(0, |store| 1 + u8::from(is_newer(store.state)));
        let (config, store) =
            stores.into_iter().rev().max_by_key(|(_, store)| rank(store)).expect("there is a pair");
        self.home = store.as_ref().and_then(|store| store.home.clone());
        let primary = presence::primary(config, self.home.as_ref());
        let age = store.as_ref().and_then(|store| store.time).map_or(0, |time| now().saturating_sub(time));
        let store = store.map(|store| store.state);
        let quiet = self.quiet.after(look, disks(), Instant::now());
        let seen = Seen {
            policy: config.failover.policy(age),
            boots: config.boot,
            primary_for: there_for(
                &mut self.primary,
                matches!(primary, Presence::There | Presence::Twice(_)),
            ),
            store_for: there_for(&mut self.store, store.is_some()),
            primary,
            store,
            all,
            quiet,
            since: self.start.elapsed(),
        };
        (config, seen, age)
    }

    /// Nobody but a person knows which of two systems that ran apart is the right one.
    fn tell_several(&mut self, stores: &[(&PairConfig, Option<StoreSeen>)]) {
        let newer =
            stores.iter().filter(|(_, store)| store.as_ref().is_some_and(|store| is_newer(store.state)));
        let names: Vec<&str> = newer.map(|(pair, _)| pair.name.as_str()).collect();
        if let [first, _, ..] = names[..]
            && !self.several
        {
            self.several = true;
            let all = names.join(", ");
            say(
                Level::Warning,
                &format!("systems have run from the copies of {all}: that of {first} goes on"),
            );
        }
    }
}

/// What is not as it should be with a primary that is started.
fn tell_primary(config: &PairConfig, seen: &Seen, home: Option<&Target>) {
    if !seen.all {
        say(
            Level::Warning,
            "the primary is started without a DPSR disk, which is not there, or cannot be read",
        );
        if seen.boots && seen.store.is_none() {
            besides_at_login(
                "dpsr: the DPSR disk was not there, or could not be read, when this system was started: if the \
                 machine has run from its copy before, what was written then is not here\n",
            );
        }
    }
    if let Presence::Twice(why) = &seen.primary {
        say(Level::Warning, &format!("{why}: none of them is wrapped, and any of them may be started"));
    }
    if let Some(home) = home {
        tell_outdated(config, home);
    }
}

/// The primary is the disk to which the machine went back, and the record that is at hand names another one: nothing has
/// wrapped it.
fn tell_outdated(config: &PairConfig, home: &Target) {
    if home.is_recorded(config) || presence::primary(config, None) == Presence::There {
        return;
    }
    let why = "the record in this initramfs names another disk";
    let error = Error::new(Kind::NotFound, "wrapping", why).on(home.name());
    unwrapped(config, &error.next("make the initramfs anew ('dracut --force'), and restart"));
}

/// The disks there are now.
fn disks() -> Disks {
    let all = Roots::default().all();
    let whole = all.iter().filter(|node| node.partition().is_none() && is_disk(&node.name));
    whole.map(|node| format!("{} {}", node.name, node.attr("diskseq").unwrap_or_default())).collect()
}

/// Whether the kernel's name is that of a disk, and not of a device over one, in memory, or with a lid.
fn is_disk(name: &str) -> bool {
    !["loop", "ram", "zram", "sr", "fd", "dm-", "md"].iter().any(|kind| name.starts_with(kind))
}

/// How long something has been there, which was first seen at `since`.
fn there_for(since: &mut Option<Instant>, there: bool) -> Duration {
    *since = there.then(|| since.unwrap_or_else(Instant::now));
    since.map_or(Duration::ZERO, |since| since.elapsed())
}

/// Gives up what a system wrote that ran from an older generation; nothing else of the store changes. Not where volumes
/// stayed on a primary that cannot be started: of them the copy has only what they were, and would be started next.
fn discard(config: &PairConfig, primary: bool) {
    let given_up = claimed(&Roots::default(), config).and_then(|dpsr| {
        let partition = dpsr.store.range.clone();
        let mut store = Store::open(std::sync::Arc::new(dpsr), partition, owner())?;
        if !primary && let Some(stays) = Stays::in_store(&store.contents)? {
            let why =
                format!("volumes stayed on the primary ({}), which could not be started", stays.disk.name());
            return Err(Error::new(Kind::Refused, "giving up what a system wrote", why)
                .left("it goes on as it was")
                .next("'dpsr failback' to that disk, or to another one with --discard-primary"));
        }
        put_back::discard(&mut store)
    });
    match given_up {
        Ok(_) => say(Level::Warning, "what a system wrote that ran from an older generation was given up"),
        Err(error) => say(Level::Warning, &format!("giving up what a system wrote: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_system_may_be_on() {
        for disk in ["sda", "nvme0n1", "vdb", "mmcblk0", "xvda", "dasda"] {
            assert!(is_disk(disk), "{disk}");
        }
        for other in ["loop0", "sr0", "fd0", "dm-3", "zram0", "ram1", "md127"] {
            assert!(!is_disk(other), "{other}");
        }
    }
}

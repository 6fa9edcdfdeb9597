// SPDX-License-Identifier: MIT OR Apache-2.0
//! Starts the machine from its copy where [`choose`](super::choose) says so: beside everything else that happens
//! in the initramfs, and before anything of the root is in use.

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::reboot::{RebootMode, reboot};

use super::choose;
use super::cmdline::{Boot, CmdLine, Discard};
use super::hide;
use super::pick::{Instead, given_up, picked};
use super::steps::Steps;
use super::told::{Level, at_login, say};
use super::upon;
use super::wrap::{mask_gpt_auto, masked, unwrapped as not_wrapped};
use crate::config::PairConfig;
use crate::dm::Mapper;
use crate::error::{Error, Kind, Result};
use crate::failback::finish::{Finished, finish};
use crate::failover::decide::{Asked, Choice, is_newer};
use crate::failover::presence::{self, Presence};
use crate::failover::{self, Started, Wanted};
use crate::format::superblock::State;
use crate::open::now;
use crate::pair::sysfs::Roots;
use crate::status::span;
use crate::time::utc;
use crate::units::list;
use crate::wrap::{self, DiskId};

/// How long somebody may look at the wrap that is to go.
const BUSY: Duration = Duration::from_secs(15);

/// How long a person may read why nothing was started.
const READING: Duration = Duration::from_secs(60);

/// The same where they typed what could not be done.
const READING_TYPED: Duration = Duration::from_secs(900);

/// How long taking the wrap away may take: a disk that takes commands and answers none would keep the machine for ever.
const UNWRAPPING: Duration = Duration::from_secs(60);

/// There while the copy is decided on and made ready: nobody gives up the root meanwhile. (`at-work.sh`)
const AT_WORK: &str = "/run/dpsr/at-work";

/// Units until the next boot. (systemd.unit(5))
const UNITS: &str = "/run/systemd/system";

/// Tells systemd-boot that an entry whose starts are counted came up: that is one of the primary's ESP, which the copy has
/// not.
const BLESSING: &str = "systemd-bless-boot.service";

const GLANCE: Duration = Duration::from_millis(100);

/// Looks at the disks until it is clear which system to start. Where that is the copy's, its devices are
/// there afterwards.
pub fn run(dir: &Path) {
    let at_work = fs::create_dir_all("/run/dpsr").and_then(|()| fs::write(AT_WORK, ""));
    if let Err(error) = at_work {
        say(Level::Warning, &format!("{AT_WORK}: {error}, ignoring: others may give up the root meanwhile"));
    }
    decided(dir);
    let _there_no_more = fs::remove_file(AT_WORK);
}

fn decided(dir: &Path) {
    let line = CmdLine::of_kernel();
    let asked = match line.boot {
        Boot::Plain => return,
        Boot::Primary => Asked::Primary,
        Boot::Auto => Asked::Auto,
        Boot::Force => Asked::Force,
    };
    let pairs = match choose::candidates(dir, line.pair.as_deref()) {
        Ok(pairs) => pairs,
        Err(error) => return say(Level::Warning, &format!("the copy cannot be started: {error}")),
    };
    let (config, choice) = choose::chosen(dir, &pairs, asked, &line);
    match choice {
        Choice::Copy(why) => {
            if let Err(error) = copy(dir, config, &why) {
                not_started(dir, config, asked, &why, &error);
            }
        }
        Choice::Primary if asked == Asked::Auto => {
            say(Level::Info, "the primary is there, and is started; its own boot loader was not used");
        }
        Choice::Hopeless(_) if asked == Asked::Force && line.otherwise => {
            let why = "the copy was to be started, and its DPSR disk is not there";
            primary_instead(config, &Error::new(Kind::NotFound, "starting the copy", why));
        }
        _ => {}
    }
}

/// The copy cannot be started. Where there is a primary, it is hidden by now: it must not be started instead of what is
/// newer, and whoever chose the copy can choose something else. On the way back the primary is the newer one.
fn not_started(dir: &Path, config: &PairConfig, asked: Asked, why: &str, error: &Error) {
    say(Level::Warning, &format!("the copy was to be started because {why}, and cannot: {error}"));
    let store = presence::store(dir, &config.name);
    let newer = store.as_ref().is_some_and(|store| is_newer(store.state));
    let home = store.as_ref().and_then(|store| store.home.as_ref());
    let hidden = matches!(presence::primary(config, home), Presence::There | Presence::Twice(_));
    if is_returning(dir, config) {
        // The primary is hidden by now, or from the beginning; the next start does the rest.
        if failover::is_under_way() || asked == Asked::Force {
            sleep(READING);
            restart();
        }
        return;
    }
    // One that cannot be read now may be newer, whatever was seen of it before.
    let older = store.as_ref().is_some_and(|store| !is_newer(store.state));
    if CmdLine::of_kernel().otherwise && older {
        return primary_instead(config, error);
    }
    if !(newer || hidden || asked == Asked::Force) {
        return hide::no_longer(config);
    }
    let off = "dpsr.boot=off on the kernel's command line starts the primary as it is, which may be older";
    // Whoever typed that is at the console; a start without it would decide that nothing stays.
    let typed = asked == Asked::Force && !CmdLine::of_kernel().live.is_empty();
    let reading = if typed { READING_TYPED } else { READING };
    say(Level::Warning, &format!("restarting in {} s; {off}", reading.as_secs()));
    sleep(reading);
    restart();
}

/// Nobody need have chosen the copy, which cannot be started: rather than nothing, the primary is, as it is.
fn primary_instead(config: &PairConfig, why: &Error) {
    say(Level::Warning, "the primary is started instead, if it can be");
    hide::not_at_all(config);
    not_wrapped(config, why);
}

/// Ends a way back to a disk that was begun; where there is none, or it cannot be ended, starts the copy.
fn copy(dir: &Path, config: &PairConfig, why: &str) -> Result<()> {
    let roots = Roots::default();
    if is_returning(dir, config) {
        // Everything newer is on that disk, so the copy is not started, whatever comes of this; a disk that is
        // there starts.
        return finish(&roots, config, &Steps::default()).map(back);
    }
    // From now on a primary that turns up, or was there, is nobody's.
    hide::from_now_on(config)?;
    if let Err(error) = upon::let_go(config) {
        say(Level::Warning, &format!("{error}, ignoring: it stands on the primary"));
    }
    let of = config.clone();
    presence::in_time(UNWRAPPING, move || unwrapped(&of)).unwrap_or_else(|| {
        let why = "the primary does not answer, and its wrap cannot be taken away";
        Err(Error::new(Kind::Device, "starting the copy", why).left("nothing was written"))
    })?;
    hide::what_is_there(config);
    if let Some(usage) = hide::still_used(config) {
        let why = format!("the primary is in use already: {usage}");
        return Err(Error::new(Kind::Busy, "starting the copy", why).left("nothing was written"));
    }
    let line = CmdLine::of_kernel();
    if line.discard == Some(Discard::All) {
        match given_up(dir, config)? {
            Some(Instead::Generation(generation)) => {
                return start(config, why, &Wanted { generation: Some(generation), live: line.live });
            }
            // Which is hidden in this boot.
            Some(Instead::Primary) => {
                restart();
                return Ok(());
            }
            None => {}
        }
    }
    match finish(&roots, config, &Steps::default()) {
        Ok(finished) => back(finished),
        Err(error) => {
            say(Level::Warning, &format!("the way back to a disk is not ended: {error}"));
            if is_returning(dir, config) {
                // That disk is hidden in this boot, and holds what is newer.
                restart();
            }
        }
    }
    let wanted = match line.boot {
        Boot::Force => Wanted { generation: picked(dir, config, line.generation)?, live: line.live },
        _ => Wanted::default(),
    };
    start(config, why, &wanted)
}

/// Takes the primary's wrap away, whose names the copy gets. udev may look at one of its nodes for a while; whoever
/// holds one for longer would be left with a primary that is older than the copy.
fn unwrapped(config: &PairConfig) -> Result<()> {
    let deadline = Instant::now() + BUSY;
    loop {
        let Err(error) = wrap::unwrap(config, false, &wrap::Caller::Event(String::new())) else {
            return Ok(());
        };
        if !is_wrapped(config)? {
            tracing::debug!("{error}, ignoring: there is no wrap to take away");
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(error);
        }
        sleep(GLANCE);
    }
}

fn is_wrapped(config: &PairConfig) -> Result<bool> {
    Ok(Mapper::open()?.find(&DiskId::recorded(config).disk().uuid)?.is_some())
}

fn is_returning(dir: &Path, config: &PairConfig) -> bool {
    presence::store(dir, &config.name).is_some_and(|store| matches!(store.state, State::Returning(_)))
}

/// Restarts the machine, which has its disk again.
fn back(finished: Finished) {
    let (differed, generation) = match finished {
        Finished::Back { differed, generation } => (Some(differed), generation),
        Finished::GivenUp(generation) => (None, generation),
        Finished::Nothing => return,
    };
    let copy = generation.map_or_else(
        || "the next sync makes a new copy".to_owned(),
        |generation| format!("the copy is generation {generation} again"),
    );
    let done = differed.map_or_else(
        || "what ran from the copy is given up".to_owned(),
        |differed| format!("the machine has its disk again ({differed} were copied last)"),
    );
    say(Level::Warning, &format!("{done}; {copy}; restarting"));
    restart();
}

fn restart() {
    nix::unistd::sync();
    let Err(error) = reboot(RebootMode::RB_AUTOBOOT);
    say(Level::Warning, &format!("restarting: {error}; switch the machine off and on"));
}

fn start(config: &PairConfig, why: &str, wanted: &Wanted) -> Result<()> {
    say(Level::Warning, &format!("starting the copy: {why}"));
    if let Err(error) = mask_gpt_auto() {
        say(Level::Warning, &format!("{error}, ignoring: it may wait for partitions that have no node"));
    }
    if let Err(error) = masked(UNITS, BLESSING) {
        say(Level::Warning, &format!("{error}, ignoring: that unit may fail"));
    }
    let started = failover::start(&Roots::default(), config, wanted, now())?;
    tell(config, why, &started);
    if started.marked.resumed && !wanted.live.is_empty() {
        let asked = wanted.live.join(",");
        say(
            Level::Warning,
            &format!("dpsr.live={asked} counts where a copy is started first; what stays was decided then"),
        );
    }
    let wanted = wanted.generation;
    if let Some(other) = wanted.filter(|wanted| *wanted != started.marked.from) {
        say(
            Level::Warning,
            &format!("generation {other} was asked for; what the system has written since goes first"),
        );
    }
    Ok(())
}

fn tell(config: &PairConfig, why: &str, started: &Started) {
    let Started { marked, time, since, dpsr, stays } = started;
    let since = since.map_or(String::new(), |since| format!(" since {}", utc(since)));
    let age = time.map_or(String::new(), |time| {
        format!(" of {}, {} before this boot", utc(time), span(now().saturating_sub(time)))
    });
    let from = marked.from;
    let what = match (marked.resumed, marked.keeps) {
        (false, true) => format!("this system is generation {from}{age}"),
        (false, false) => format!(
            "this system is generation {from}{age}, which, like all before it, is lost: there was no room to keep \
             what changes"
        ),
        (true, true) => format!("this system goes on where it stopped; it began as generation {from}{age}"),
        (true, false) => format!(
            "this system goes on where it stopped; it began as generation {from}, which, like all before it, \
             is lost: there was no room to keep what has changed since"
        ),
    };
    let mut rolled = String::new();
    if marked.rolled_back {
        rolled.push_str(" A sync that had been cut off was rolled back first.");
    }
    if !marked.dropped.is_empty() {
        rolled.push_str(&format!(" Dropped to make room: {}.", list(&marked.dropped)));
    }
    if let Some((stays, there)) = stays {
        let (count, disk) = (stays.volumes.len(), stays.disk.name());
        rolled.push_str(&match there {
            true => format!(" Volumes that stay on the primary ({disk}): {count}."),
            false => format!(
                " {count} of its volumes stay on the primary ({disk}), which is not there, and so neither are they."
            ),
        });
    }
    let told = format!("{what}; it runs from its copy on {dpsr}{since}, because {why}.{rolled}");
    say(Level::Warning, &told);
    at_login(&format!(
        "dpsr: THIS SYSTEM RUNS FROM ITS COPY on {dpsr}{since},\n  because {why}.\n  {what}.{rolled}\n  No sync is made \
         meanwhile. The pair is {}.\n",
        config.name
    ));
    let _told = fs::write(failover::FLAG, told + "\n");
}

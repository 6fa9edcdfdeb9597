// SPDX-License-Identifier: MIT OR Apache-2.0
//! Running the machine from its copy when the primary is missing.
//!
//! [`presence`] looks for the disks, [`decide`] says which system to start, [`mark`] makes the store one
//! that a machine runs from, and [`map`] puts the copy where the primary would be; [`hold`] keeps it whole until
//! the machine is off.

pub mod decide;
pub mod fill;
pub mod hold;
pub mod map;
pub mod mark;
pub mod older;
pub mod presence;
mod room;
pub mod stays;

use std::path::Path;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::attach::Held;
use crate::config::PairConfig;
use crate::dm::Mapper;
use crate::error::{Kind, Result};
use crate::failback::finish::undone;
use crate::open::owner;
use crate::pair::lock::Mode;
use crate::pair::open::{Dpsr, open_store_only};
use crate::pair::sysfs::Roots;
use crate::progress::Silent;
use crate::store::Store;
use crate::units::Generation;
use crate::wrap::{self, DiskId};
use map::{Beside, Tables};
use mark::Marked;
use older::{Older, Upon};
use stays::Stays;

/// udev and the kernel look at a disk that has just appeared, on a slow machine for many seconds; they are waited for:
/// the copy may be all there is to start.
const BUSY: Duration = Duration::from_secs(30);
const GLANCE: Duration = Duration::from_millis(50);

/// What became of the copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Started {
    /// What was done to the store.
    pub marked: Marked,
    /// When the generation was taken: seconds since 1970, UTC.
    pub time: Option<u64>,
    /// When the machine began to run from it, where that is known.
    pub since: Option<u64>,
    /// The name of the DPSR disk.
    pub dpsr: String,
    /// The volumes that are on the primary still, and whether that is there.
    pub stays: Option<(Stays, bool)>,
}

/// What is to be started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// An older generation; the newest if not given.
    pub generation: Option<Generation>,
    /// Volumes that stay on the primary, by number, name or label.
    pub live: Vec<String>,
}

/// Where it is written down, until the next boot, that the machine runs from the copy.
pub const FLAG: &str = "/run/dpsr/failed-over";

/// Whose copy it is: the name of the pair.
pub const PAIR: &str = "/run/dpsr/failed-over-pair";

/// Whether this machine runs from a copy.
pub fn is_under_way() -> bool {
    Path::new(FLAG).exists()
}

/// The pair from whose copy this machine runs.
pub fn pair() -> Option<String> {
    std::fs::read_to_string(PAIR).ok().map(|name| name.trim().to_owned())
}

/// Puts the copy of a pair where its primary would be. The store is marked before anything can be written to
/// it, and what follows the mark can be done again by the next boot.
pub fn start(roots: &Roots, config: &PairConfig, wanted: &Wanted, now: u64) -> Result<Started> {
    let dpsr = Arc::new(claimed(roots, config)?);
    let held = Held::of(roots, &dpsr)?;
    let name = dpsr.probe.name();
    let mut store = Store::open(dpsr.clone(), dpsr.store.range.clone(), owner())?;
    let mut older = Older::running(roots, &store.contents, &dpsr, held.base)?;
    let marked = mark::go_live(&mut store, wanted.generation, now, &mut |contents, from| {
        if contents.current() != Some(from) {
            older = Some(Older::of(roots, contents, from, &dpsr, held.base)?);
        }
        let stays = match &wanted.live[..] {
            [] => None,
            asked => Some(Stays::of(roots, config, contents, from, asked)?),
        };
        Ok(stays.iter().map(Stays::object).collect())
    })?;
    let contents = store.contents.clone();
    let stays = Stays::in_store(&contents)?;
    let (block, volumes) = (config.primary.block, &contents.running_map().volumes);
    let wait = config.failover.wait(None);
    let there = |stays: &Stays| {
        let found = stays.on(roots, block, volumes, wait);
        found.inspect_err(|error| tracing::warn!("{error}, ignoring: what stayed there is missing")).ok()
    };
    let mut primary = stays.as_ref().and_then(there);
    let numbers = volumes.iter().filter_map(|volume| volume.name.parse().ok());
    if let Err(error) = wrap::announce_copy(&DiskId::recorded(config), config.primary.wwn.as_deref(), numbers)
    {
        tracing::warn!("{error}, ignoring: whoever waits for the array that was copied does so in vain");
    }
    // The claim on the whole disk would keep device-mapper from its partition.
    drop(store);
    drop(dpsr);
    let mapped = |primary| {
        let (mapper, beside) = (Mapper::open()?, Beside { stays: stays.as_ref(), primary });
        match &older {
            Some(older) => {
                map::map_older(&mapper, config, older, &Upon::of(&contents, held.base, beside)).map(Some)
            }
            None => map::map(&mapper, config, &Tables::of(&contents, held.base, beside)),
        }
    };
    let mut made = mapped(primary);
    if let (Err(error), true, Some(_)) = (&made, marked.resumed, primary) {
        // What the system has written since goes first.
        tracing::warn!("{error}, ignoring: the system is started without what stayed on the primary");
        primary = None;
        made = mapped(None);
    }
    let snapshot = made.inspect_err(|_| {
        if !marked.resumed {
            unmark(roots, config);
        }
    })?;
    if let Some(snapshot) = snapshot {
        // The machine runs as well without; only its history is at risk then.
        if let Err(error) = hold::start(&snapshot) {
            tracing::warn!("{error}, ignoring: switching the machine off may cost its history");
        }
    }
    let time = contents.index.record(marked.from).map(|record| record.time);
    let stays = stays.map(|stays| (stays, primary.is_some()));
    let since = contents.live_since();
    Ok(Started { marked, time, since, dpsr: name, stays })
}

/// No system came to run from the copy: the mark would only set it before a primary that is newer.
fn unmark(roots: &Roots, config: &PairConfig) {
    let unmarked = claimed(roots, config).and_then(|dpsr| {
        let partition = dpsr.store.range.clone();
        undone(config, &mut Store::open(Arc::new(dpsr), partition, owner())?, &Silent)
    });
    if let Err(error) = unmarked {
        tracing::warn!("{error}, ignoring: the copy stays marked as one that a system has run from");
    }
}

/// Opens the DPSR disk for writing, waiting for whoever only looks at it.
pub fn claimed(roots: &Roots, config: &PairConfig) -> Result<Dpsr> {
    let deadline = Instant::now() + BUSY;
    loop {
        match open_store_only(roots, config, Mode::Exclusive) {
            Err(error) if matches!(error.kind(), Kind::Busy | Kind::Device) && Instant::now() < deadline => {
                sleep(GLANCE);
            }
            outcome => return outcome,
        }
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! From the name of a pair to disks the other rooms can work on.

mod renumbered;

use std::path::Path;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use uuid::Uuid;

use crate::config::{self, DpsrRecord, FailoverConfig, LiveConfig, PairConfig, PrimaryRecord};
use crate::disk::ReadDisk;
use crate::disk::file::{Access, FileDisk};
use crate::dm::Mapper;
use crate::error::{Error, Kind, Result};
use crate::failback::target::Target;
use crate::format::index;
use crate::format::moment::Moment;
use crate::format::superblock::{Owner, State};
use crate::keep::Rules;
use crate::live::on_dpsr;
use crate::pair::lock::Mode;
use crate::pair::open::{
    Dpsr, Primary, PrimaryUse, discover, open_primary, open_store_only, open_unrecorded,
};
use crate::pair::probe::{Kind as Endpoint, Probe};
use crate::pair::sysfs::{DevNum, Roots};
use crate::pair::table::Table;
use crate::pair::volumes::{self, Volumes};
use crate::store::contents::{self, Contents};
use crate::store::{Store, recover};
use crate::swap::{self, Swap};
use crate::sync::{Disks, Held};
use crate::units::{Bytes, Generation};
use crate::wrap::{self, Wrapped};

/// A look at metadata beside a running writer may find it halfway; it is repeated.
const LOOKS: u32 = 5;
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);

/// Seconds since 1970, UTC.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Who runs dpsr here.
pub fn owner() -> Owner {
    let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default();
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let boot = Uuid::parse_str(boot.trim()).unwrap_or_default();
    Owner { host: host.chars().take(64).collect(), boot, pid: std::process::id() }
}

/// The volumes of a primary in the words of the store.
pub fn recorded(volumes: &Volumes) -> Vec<index::Volume> {
    let record = |volume: &volumes::Volume| {
        let pseudo = volume.id == volumes::TABLE;
        let size = if pseudo { Bytes::ZERO } else { volume.range.end - volume.range.start };
        index::Volume {
            id: volume.id.clone(),
            name: if volume.number == 0 { volume.id.clone() } else { volume.number.to_string() },
            label: if volume.name.is_empty() { volume.label.clone() } else { volume.name.clone() },
            start: volume.range.start,
            size,
            left_out: volume.left_out,
            group: volume.group,
        }
    };
    volumes.iter().map(record).collect()
}

/// What of a primary with `table` is copied, as the record of its pair says.
pub fn volumes_of(config: &PairConfig, table: &Table) -> Volumes {
    let mut volumes = Volumes::of(table, config.primary.size);
    volumes.group_also(&config.group);
    volumes.leave_out_ids(&config.leave_out);
    if let Some(reserve) = &config.reserve {
        volumes.leave_out_reserve(&reserve.left_out());
    }
    volumes
}

/// An id that no volume has is a slip of the pen, or the volume is gone; either should be known.
fn warn_of_unknown(config: &PairConfig, volumes: &Volumes) {
    for (key, ids) in [("leave_out", &config.leave_out), ("group", &config.group)] {
        for id in ids.iter().filter(|id| volumes.iter().all(|volume| volume.id != **id)) {
            let pair = &config.name;
            tracing::warn!(
                "the record of the pair {pair} names {id:?} in {key}, ignoring: the primary has no such volume"
            );
        }
    }
}

/// Partitions that share an id must not where the record names it; elsewhere nothing depends on it.
fn check_twins(config: &PairConfig, volumes: &Volumes, primary: &str) -> Result<()> {
    let named = |id: &str| config.leave_out.iter().chain(&config.group).any(|one| one == id);
    volumes.refuse_twins(primary, named)?;
    if let Err(twins) = volumes.refuse_twins(primary, |_| true) {
        tracing::warn!("{}, ignoring: the record of the pair {} names neither", twins.cause(), config.name);
    }
    Ok(())
}

/// Both disks of a pair, proven, locked, and ready for a sync.
pub struct OpenPair {
    /// The record of the pair.
    pub config: PairConfig,
    /// What a sync works on.
    pub disks: Disks,
    /// That the primary is read as it stood when it was opened; a live sync takes a moment of its own.
    pub held: Arc<dyn Held>,
    /// What the primary is.
    pub primary_probe: Probe,
    /// The primary's volumes, with the names people give them.
    pub volumes: Volumes,
    /// What has changed in the layout since the newest generation, in words.
    pub repartitioned: Option<String>,
}

/// Opens both disks of the pair `name` for a sync of an unmounted primary; with `labels`, filesystem labels
/// name volumes, too, which takes a look at each.
pub fn pair_offline(dir: &Path, name: Option<&str>, labels: bool) -> Result<OpenPair> {
    let config = config::choose(dir, name)?;
    check_reserve(&config)?;
    opened_pair(dir, config, labels, PrimaryUse::Offline, |_, primary| {
        let primary = Arc::new(primary);
        Ok((primary.clone(), primary))
    })
}

/// Opens both disks of the pair `name` for a sync of a primary that may be in use, and the wrap under it.
/// Without a wrap it must be one that nobody uses, and is opened as by [`pair_offline`].
pub fn pair_live(dir: &Path, name: Option<&str>, labels: bool) -> Result<(OpenPair, Option<Wrapped>)> {
    let config = config::choose(dir, name)?;
    let roots = Roots::default();
    let primary = open_primary(&roots, &config, PrimaryUse::Live)?;
    // Where the kernel has no device-mapper, nothing is wrapped.
    let mapper = (primary.probe.kind == Endpoint::Block).then(|| Mapper::open().ok()).flatten();
    let wrapped = mapper.and_then(|mapper| wrap::find(&mapper, &config, &primary).transpose()).transpose()?;
    let block = primary.probe.kind == Endpoint::Block;
    drop(primary);
    let Some(wrapped) = wrapped else {
        // What is refused now and was not before is that somebody uses it.
        let unused =
            open_primary(&roots, &config, PrimaryUse::Offline).map_err(|error| match error.kind() {
                Kind::Refused if block => {
                    error.or_next("or wrap it with 'dpsr wrap' while nothing on it is in use")
                }
                _ => error,
            })?;
        drop(unused);
        return Ok((pair_offline(dir, name, labels)?, None));
    };
    // Held open, the node's number cannot come to mean another device; what it is is proven after that.
    let live = FileDisk::open(wrapped.disk.node(), Access::Read)?.first(config.primary.size);
    let held = DevNum::of(live.identity().device);
    let pair = opened_pair(dir, config, labels, PrimaryUse::Live, |config, primary| {
        let now = wrap::find(&Mapper::open()?, config, &primary)?;
        match now.filter(|now| now.disk.number == held && now.raw == wrapped.raw) {
            Some(_) => Ok((Arc::new(live), Arc::new(Moment::default()))),
            None => Err(Error::new(Kind::Refused, "opening the primary", "its wrap has just changed")
                .on(primary.probe.name())
                .left("nothing was written")
                .next("sync again")),
        }
    })?;
    Ok((pair, Some(wrapped)))
}

/// A plain file can be written to by whoever has it open, in spite of all locks; only afterwards it can be told.
impl Held for Primary {
    fn moment(&self) -> Result<Moment> {
        let failed = |error: std::io::Error| Error::device("looking at", self.disk.name(), &error);
        match self.disk.was_written_to().map_err(failed)? {
            false => Ok(Moment::default()),
            true => {
                Err(Error::new(Kind::Refused, "reading the primary", "it was written to while it was read")
                    .on(self.disk.name())
                    .next("stop what writes to it, and sync again"))
            }
        }
    }
}

/// What a sync reads, and what says that it is one moment.
type Reader = (Arc<dyn ReadDisk>, Arc<dyn Held>);

/// Refuses the disk that was the primary before a way back to another one was begun, whose end failed: what is newer is on
/// that one.
fn refuse_before_the_way_back(config: &PairConfig, contents: &Contents, primary: &str) -> Result<()> {
    let state = contents.superblock.state;
    match Target::in_store(contents) {
        Some(target) if matches!(state, State::Returning(_)) && !target.is_recorded(config) => {
            let why = format!(
                "the machine went back to another disk, {}, which holds what is newer",
                target.name()
            );
            Err(Error::new(Kind::Refused, "syncing from", why)
                .on(primary)
                .left("nothing was written")
                .next("start the machine from that disk; if it is gone for good, pair anew with 'dpsr init'"))
        }
        _ => Ok(()),
    }
}

/// Opens both disks; `reader` says what a sync reads the proven primary through.
fn opened_pair(
    dir: &Path,
    config: PairConfig,
    labels: bool,
    how: PrimaryUse,
    reader: impl FnOnce(&PairConfig, Primary) -> Result<Reader>,
) -> Result<OpenPair> {
    let mut pair = discover(&Roots::default(), &config, how)?;
    let contents = contents::read(&pair.dpsr, &pair.dpsr.store.range)?;
    if let Some(contents) = &contents {
        belongs(&config, &pair.dpsr, contents)?;
        refuse_before_the_way_back(&config, contents, &pair.primary.probe.name())?;
    }
    let mut volumes = volumes_of(&config, &pair.primary.table);
    check_twins(&config, &volumes, &pair.primary.probe.name())?;
    let known = contents.as_ref().map(|contents| {
        let current = contents.current().and_then(|generation| contents.index.record(generation));
        &current.map_or_else(|| contents.newest_map(), |record| contents.map_of(record)).volumes
    });
    if let Some(known) = known {
        let record = config::file_name(dir, &config.name);
        renumbered::check(known, &recorded(&volumes), &pair.primary.probe.name(), &record)?;
    }
    let repartitioned = known.and_then(|known| layout_changes(known, &recorded(&volumes)));
    // A new layout is recorded with its labels, or nobody could name its volumes by them.
    if labels || repartitioned.is_some() {
        pair.primary.probe_contents();
        volumes = volumes_of(&config, &pair.primary.table);
    }
    warn_of_unknown(&config, &volumes);
    let primary_probe = pair.primary.probe.clone();
    let told = recorded(&volumes);
    let swaps = contents.as_ref().map(swap::known).unwrap_or_default();
    let (primary, held) = reader(&config, pair.primary)?;
    let disks = Disks {
        block: config.primary.block,
        swaps: Swap::left_out(primary.as_ref(), &told, &swaps),
        volumes: told,
        partition: pair.dpsr.store.range.clone(),
        primary,
        dpsr: Arc::new(pair.dpsr),
        owner: owner(),
        history: config.history,
        keep: config.keep,
        pre_images: on_dpsr(&config.live)?,
    };
    Ok(OpenPair { config, disks, held, primary_probe, volumes, repartitioned })
}

/// What is left out for a reserve must be the reserve still. It is looked at before the primary is claimed,
/// because its filesystem is mounted for that; afterwards nobody can use it.
fn check_reserve(config: &PairConfig) -> Result<()> {
    let Some(reserve) = &config.reserve else { return Ok(()) };
    let roots = Roots::default();
    let primary = open_primary(&roots, config, PrimaryUse::Offline)?;
    let volumes = volumes_of(config, &primary.table);
    let probe = primary.probe.clone();
    drop(primary);
    crate::reserve::unmounted(&roots, &probe, &volumes, reserve)
}

/// In words, how the layout of `new` differs from that of `old`; volumes are told apart by their ids.
fn layout_changes(old: &[index::Volume], new: &[index::Volume]) -> Option<String> {
    let same = |volume: &index::Volume, all: &[index::Volume]| {
        all.iter().find(|other| other.id == volume.id).cloned()
    };
    let gone = old.iter().filter(|volume| same(volume, new).is_none());
    let gone = gone.map(|volume| format!("volume {} is gone", volume.name));
    let changed = new.iter().filter_map(|volume| {
        let name = &volume.name;
        let Some(before) = same(volume, old) else { return Some(format!("volume {name} is new")) };
        match () {
            () if before.size != volume.size => {
                Some(format!("volume {name} has {} instead of {}", volume.size, before.size))
            }
            () if before.start != volume.start => Some(format!("volume {name} was moved")),
            () if before.left_out != volume.left_out => {
                let now = if volume.left_out { "left out" } else { "copied" };
                Some(format!("volume {name} is {now} now"))
            }
            () => None,
        }
    });
    let all: Vec<_> = gone.chain(changed).collect();
    match &all[..] {
        [] if index::Volume::same_layout(old, new) => None,
        [] => Some("its volumes have other numbers".to_owned()),
        all => Some(all.join(", ")),
    }
}

/// The primary of a pair alone, unmounted, with its volumes as they are now.
pub fn primary_offline(config: &PairConfig) -> Result<(Primary, Vec<index::Volume>)> {
    let mut primary = open_primary(&Roots::default(), config, PrimaryUse::Offline)?;
    primary.probe_contents();
    let volumes = recorded(&volumes_of(config, &primary.table));
    Ok((primary, volumes))
}

/// A store opened for reading.
pub struct OpenStore {
    /// The record of the pair.
    pub config: PairConfig,
    /// The DPSR disk.
    pub dpsr: Arc<Dpsr>,
    /// What the store says about itself.
    pub contents: Contents,
}

/// Opens the store of the pair `name` for reading its generations; no sync can run meanwhile.
pub fn store(dir: &Path, name: Option<&str>) -> Result<OpenStore> {
    opened(dir, name, Mode::Shared)
}

/// Opens the DPSR disk of the pair `name` to write beside its store, which stays as it is.
pub fn writable(dir: &Path, name: Option<&str>) -> Result<OpenStore> {
    opened(dir, name, Mode::Exclusive)
}

/// A store opened to change its generations.
pub struct OpenHistory {
    /// The record of the pair.
    pub config: PairConfig,
    /// The store, locked for this process alone.
    pub store: Store,
    /// The generation an interrupted sync was rolled back to.
    pub rolled_back: Option<Generation>,
}

/// Opens the store of the pair `name` to change its generations. An interrupted sync is rolled back first,
/// which needs no primary.
pub fn history(dir: &Path, name: Option<&str>) -> Result<OpenHistory> {
    let OpenStore { config, dpsr, .. } = opened(dir, name, Mode::Exclusive)?;
    let partition = dpsr.store.range.clone();
    let mut store = Store::open(dpsr, partition, owner())?;
    let rolled_back = recover::recover(&mut store)?;
    Ok(OpenHistory { config, store, rolled_back })
}

/// Looks at the store of the pair `name`, whether a sync is running or not.
pub fn look(dir: &Path, name: Option<&str>) -> Result<OpenStore> {
    looked(|| opened(dir, name, Mode::Unlocked))
}

/// Opens the store on the DPSR disk `path` for reading its generations, without any record: on the worst day
/// the records went with the primary.
pub fn store_on(path: &Path) -> Result<OpenStore> {
    opened_on(path, Mode::Shared)
}

/// Looks at the store on the DPSR disk `path`, without any record.
pub fn look_on(path: &Path) -> Result<OpenStore> {
    looked(|| opened_on(path, Mode::Unlocked))
}

fn looked(look: impl Fn() -> Result<OpenStore>) -> Result<OpenStore> {
    let mut looks = 1;
    loop {
        match look() {
            Err(error) if looks < LOOKS && !error.is_unanswered() => sleep(BETWEEN_LOOKS),
            outcome => return outcome,
        }
        looks += 1;
    }
}

fn opened(dir: &Path, name: Option<&str>, mode: Mode) -> Result<OpenStore> {
    let config = config::choose(dir, name)?;
    let dpsr = Arc::new(open_store_only(&Roots::default(), &config, mode)?);
    let contents = contents_of(&dpsr)?;
    belongs(&config, &dpsr, &contents)?;
    Ok(OpenStore { config, dpsr, contents })
}

fn opened_on(path: &Path, mode: Mode) -> Result<OpenStore> {
    let dpsr = Arc::new(open_unrecorded(&Roots::default(), path, mode)?);
    let contents = contents_of(&dpsr)?;
    Ok(OpenStore { config: told_by_store(&dpsr, &contents), dpsr, contents })
}

fn contents_of(dpsr: &Dpsr) -> Result<Contents> {
    let found = contents::read(dpsr, &dpsr.store.range)?;
    found.ok_or_else(|| contents::damaged(dpsr, "its superblocks are gone"))
}

/// As much of a pair's record as its store tells: enough to show, not to find or prove a primary.
fn told_by_store(dpsr: &Dpsr, contents: &Contents) -> PairConfig {
    let (map, id) = (contents.newest_map(), contents.superblock.pair);
    let ids = |chosen: fn(&index::Volume) -> bool| {
        map.volumes.iter().filter(|volume| chosen(volume)).map(|volume| volume.id.clone()).collect()
    };
    PairConfig {
        name: id.to_string(),
        id,
        leave_out: ids(|volume| volume.left_out),
        group: ids(|volume| volume.group && volume.size > Bytes::ZERO),
        history: None,
        keep: Rules::default(),
        boot: false,
        failover: FailoverConfig::default(),
        live: LiveConfig::default(),
        reserve: None,
        primary: PrimaryRecord {
            path: format!("the disk {}", contents.index.primary).into(),
            size: map.disk,
            disk_size: None,
            block: map.block,
            serial: None,
            wwn: None,
            table: None,
            inode: None,
        },
        dpsr: DpsrRecord {
            path: dpsr.probe.path.clone(),
            size: dpsr.probe.size,
            serial: dpsr.probe.serial.clone(),
            wwn: dpsr.probe.wwn.clone(),
            disk_guid: dpsr.store.disk,
            store: dpsr.store.store,
            inode: None,
        },
    }
}

/// The last part of the proof: GUIDs can be copied, the store's own superblock says whose it is.
fn belongs(config: &PairConfig, dpsr: &Dpsr, contents: &Contents) -> Result<()> {
    let found = contents.superblock.pair;
    if found == config.id {
        return Ok(());
    }
    let why = format!("its store belongs to another pair ({found}, not {})", config.id);
    Err(Error::new(Kind::Refused, "opening the DPSR disk", why)
        .on(dpsr.probe.name())
        .left("nothing was written")
        .next("attach the right disk, or restore the record that belongs to this one"))
}

/// The process that holds the DPSR disk for writing, if there is one.
pub fn writer(store: &OpenStore) -> Option<String> {
    crate::pair::lock::writer(&Roots::default(), &store.dpsr)
}

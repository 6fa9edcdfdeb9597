// SPDX-License-Identifier: MIT OR Apache-2.0
//! A sync of a primary in use: what needs no moment comes first, then one snapshot of the whole disk is held
//! for a pass over it, and let go before success is said.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use crate::config::{CowPlace, LiveConfig};
use crate::disk::file::{Access, FileDisk};
use crate::error::{Error, Kind, Result};
use crate::format::index::Volume;
use crate::format::moment::Moment;
use crate::open::{OpenPair, recorded, volumes_of};
use crate::pair::chain::chain_under_file;
use crate::pair::larger::refuse_more;
use crate::pair::sysfs::{DevNum, Roots};
use crate::pair::table::Table;
use crate::progress::Progress;
use crate::snapshot::{self, Cow, Inhibitor, Settings, Snapshot};
use crate::sync::{Disks, Held, INCOMPLETE, Report, Request, ahead, sync};
use crate::sys::loops::Loop;
use crate::units::{Bytes, SECTOR};
use crate::wrap::Wrapped;

/// Where the programs of the administrator are, in the directory of the records.
const HOOKS: &str = "hooks";

/// What is left where nothing was written yet.
const INTACT: &str = "the last generation is intact";

/// Makes a new generation of a primary that is in use and wrapped; `dir` is the directory of the records.
/// `pair.disks.primary` is the live disk: a dry run counts on it, without a moment.
pub fn sync_live(
    pair: &OpenPair,
    wrapped: &Wrapped,
    dir: &Path,
    request: &Request,
    progress: &dyn Progress,
) -> Result<Report> {
    if request.dry_run {
        return sync(&pair.disks, request, progress);
    }
    let mapper = Arc::new(crate::dm::Mapper::open()?);
    // What can refuse comes before history is given up or hours are copied.
    let place = place(&pair.config.live, pair, wrapped)?;
    check_reserve(pair)?;
    // A killed run may have left the kernel writing pre-images to the DPSR disk: before their room is given back.
    snapshot::end_stale(&mapper, wrapped)?;
    // Also for what is copied before the moment: a first copy takes hours.
    let _awake = Inhibitor::hold();
    let ready = ahead(&pair.disks, request, progress)?;
    let left = if ready.filled { INCOMPLETE } else { INTACT };
    let (cow, _loop) = cow(place, pair, &ready.pre_images).map_err(|error| error.left(left))?;
    let settings = settings(&pair.config.live, dir, cow);
    // What it says itself is left, as of something that waits still, matters more.
    let snapshot =
        snapshot::take(&mapper, &Roots::default(), wrapped, &settings).map_err(|error| error.left(left))?;
    let snapshot = Arc::new(snapshot);
    let outcome = copy(pair, &snapshot, request, progress).map_err(|error| match error.what_is_left() {
        "" | INTACT => error.replace_left(left),
        _ => error,
    });
    if let Err(error) = outcome.as_ref()
        && error.is_unanswered()
    {
        // Pre-images may lie on the disk that hangs, or it is the primary: whoever lets the moment go may wait, too.
        tracing::warn!("{error}");
    }
    let pause = snapshot.moment().pause;
    let released = Arc::into_inner(snapshot).map_or(Ok(()), Snapshot::release);
    if let Err(error) = released {
        tracing::warn!("{error}, ignoring: the next sync cleans up");
    }
    let pause_ms = Some(pause.as_millis().try_into().unwrap_or(u64::MAX));
    outcome.map(|report| Report { pause_ms, ..ready.with(report) })
}

/// Copies the moment. Where it was lost while it was read, that is the reason to tell, not that reads failed.
fn copy(
    pair: &OpenPair,
    snapshot: &Arc<Snapshot>,
    request: &Request,
    progress: &dyn Progress,
) -> Result<Report> {
    read(pair, snapshot, request, progress).map_err(|error| {
        // Whether pre-images can be read cannot be asked where they may lie on the disk that hangs.
        if error.is_unanswered() {
            return error;
        }
        match snapshot.check() {
            Err(lost) if lost.kind() != Kind::Internal => lost.replace_left(error.what_is_left()),
            _ => error,
        }
    })
}

fn read(
    pair: &OpenPair,
    snapshot: &Arc<Snapshot>,
    request: &Request,
    progress: &dyn Progress,
) -> Result<Report> {
    check_reserve(pair)?;
    let disk = FileDisk::open(snapshot.device().node(), Access::Read)?;
    let table = Table::read(&disk, pair.disks.block)?;
    let disk = disk.first(pair.config.primary.size);
    refuse_more(&pair.config.primary, &table, &disk)
        .map_err(|error| error.on(pair.disks.primary.name()).replace_left(INTACT))?;
    if !Volume::same_layout(&pair.disks.volumes, &recorded(&volumes_of(&pair.config, &table))) {
        let why = "it was repartitioned just now";
        return Err(Error::new(Kind::Refused, "reading the moment of", why)
            .on(pair.disks.primary.name())
            .left(INTACT)
            .next("sync again"));
    }
    let disks = Disks { primary: Arc::new(disk), ..pair.disks.clone() };
    let time =
        snapshot.moment().time.duration_since(UNIX_EPOCH).map_or(request.time, |since| since.as_secs());
    let request = Request { moment: snapshot.clone(), time, ..request.clone() };
    sync(&disks, &request, progress)
}

impl Held for Snapshot {
    fn moment(&self) -> Result<Moment> {
        self.check()?;
        Ok(Moment { quiet: Snapshot::moment(self).quiet, one_instant: !self.bypassed()? })
    }
}

/// Where pre-images go, as far as that is known before room for them was made; `None` is the DPSR disk.
fn place(live: &LiveConfig, pair: &OpenPair, wrapped: &Wrapped) -> Result<Option<Cow>> {
    let size = live.cow_size(memory()?);
    let cow = match &live.cow {
        CowPlace::Memory => Cow::Memory(size),
        CowPlace::Path(path) => Cow::Path(apart(path, pair, wrapped)?, size),
        CowPlace::Dpsr => return Ok(None),
    };
    cow.check(&Roots::default())?;
    Ok(Some(cow))
}

/// How many bytes of the DPSR disk a pair keeps for pre-images.
pub fn on_dpsr(live: &LiveConfig) -> Result<Bytes> {
    if live.cow == CowPlace::Dpsr { Ok(live.cow_size(memory()?)) } else { Ok(Bytes::ZERO) }
}

/// Where pre-images go. The DPSR disk is claimed by this process, and so the kernel gets at the room on it through
/// a loop device; that goes away with what is built on it, once it is dropped here.
fn cow(place: Option<Cow>, pair: &OpenPair, parts: &[Range<Bytes>]) -> Result<(Cow, Option<Loop>)> {
    if let Some(cow) = place {
        return Ok((cow, None));
    }
    let dpsr = &pair.disks.dpsr;
    let failed = |error: io::Error| Error::device("putting a loop device over", dpsr.name(), &error);
    dpsr.prove().map_err(failed)?;
    let descriptor = dpsr.descriptor().ok_or_else(|| failed(io::ErrorKind::Unsupported.into()))?;
    let same = format!("/proc/self/fd/{}", descriptor.as_raw_fd());
    let over = File::options().read(true).write(true).open(same).map_err(failed)?;
    // Not over all of the disk: that would be a second one that looks like it.
    let store = &pair.disks.partition;
    let block = dpsr.alignment().max(Bytes(SECTOR));
    let device = Loop::direct(&over, block, store).map_err(failed)?;
    let number = device.number().map_err(failed)?;
    let within = |part: &Range<Bytes>| part.start - store.start..part.end - store.start;
    Ok((Cow::Device(DevNum::of(number), parts.iter().map(within).collect()), Some(device)))
}

fn settings(live: &LiveConfig, dir: &Path, cow: Cow) -> Settings {
    let hooks = Some(PathBuf::from(dir).join(HOOKS)).filter(|hooks| hooks.is_dir());
    let (quiet_for, quiet_limit) = (Duration::from_secs(live.quiet), Duration::from_secs(live.quiet_limit));
    let usual = Settings::new(cow);
    Settings { quiet_for, quiet_limit, hooks, chunk: live.chunk.map_or(usual.chunk, Bytes::from), ..usual }
}

/// The real path of a file for pre-images, if it lies apart from both disks. On the primary, its writes would
/// wait for themselves; on a DPSR disk that hangs, the primary would hang with it.
fn apart(path: &Path, pair: &OpenPair, wrapped: &Wrapped) -> Result<PathBuf> {
    let refuse = |why: &str| {
        Error::new(Kind::Refused, "keeping pre-images in", why)
            .on(path.display().to_string())
            .left("nothing was written")
            .next("name a place on a third disk in [live], or leave them in memory")
    };
    let (folder, name) = match (path.is_absolute(), path.parent(), path.file_name()) {
        (true, Some(folder), Some(name)) => (folder, name),
        _ => return Err(refuse("it is no absolute path of a file")),
    };
    let folder = folder.canonicalize().map_err(|error| refuse(&error.to_string()))?;
    let real = folder.join(name);
    if real.symlink_metadata().is_ok_and(|found| !found.is_file()) {
        return Err(refuse("it is not a file"));
    }
    let roots = Roots::default();
    let under = chain_under_file(&roots, &folder);
    if under.is_empty() {
        return Err(refuse("on which disk it lies cannot be told"));
    }
    let dpsr = roots.resolve(pair.disks.dpsr.name()).map(|node| node.disk().number);
    match under.iter().map(|node| node.number).find(|number| *number == wrapped.raw || Some(*number) == dpsr)
    {
        Some(number) if number == wrapped.raw => Err(refuse("it lies on the primary")),
        Some(_) => Err(refuse("it lies on the DPSR disk")),
        None => Ok(real),
    }
}

fn check_reserve(pair: &OpenPair) -> Result<()> {
    match &pair.config.reserve {
        Some(reserve) => {
            crate::reserve::mounted(&Roots::default(), &pair.primary_probe, &pair.volumes, reserve)
        }
        None => Ok(()),
    }
}

/// How much memory the machine has: `MemTotal` of proc_meminfo(5).
fn memory() -> Result<Bytes> {
    let doing = "asking how much memory there is of";
    let failed = |why: String| Error::new(Kind::Internal, doing, why).on("/proc/meminfo");
    let text = std::fs::read_to_string("/proc/meminfo").map_err(|error| failed(error.to_string()))?;
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB"));
    let total = total.and_then(|kib| kib.trim().parse::<u64>().ok());
    total.map(|kib| Bytes(kib * 1024)).ok_or_else(|| failed("it does not say".to_owned()))
}

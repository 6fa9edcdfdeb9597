// SPDX-License-Identifier: MIT OR Apache-2.0
//! Beginning the way back while the machine runs: plan, show, act.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::fence::{fenced, other_use};
use super::mirror::mirror;
use super::target::Target;
use super::{Parts, beyond, fit};
use crate::boot;
use crate::config::{self, PairConfig};
use crate::disk::file::{Access, FileDisk};
use crate::disk::whole::{read_exact_at, write_all_at};
use crate::disk::{ReadDisk, WriteDisk};
use crate::dm::Mapper;
use crate::error::{Error, Kind, Result};
use crate::failover::presence::{carries_its_table, is_called_like_it};
use crate::failover::stays::Stays;
use crate::format::index::{FAILBACK, Index, Object, STAYS};
use crate::format::superblock::State;
use crate::open::{OpenStore, now, owner};
use crate::pair::chain::chain_of_node;
use crate::pair::inuse::in_use;
use crate::pair::layout::find_store;
use crate::pair::open::open_live;
use crate::pair::probe::Probe;
use crate::pair::sysfs::{BlockNode, Roots};
use crate::pair::table::Table;
use crate::pair::target::{Taker, claim};
use crate::progress::Progress;
use crate::status::span;
use crate::store::{Contents, Store};
use crate::swap::{self, Placed};
use crate::sys::buffer::Buffer;
use crate::time::utc;
use crate::units::{Bytes, PAGE, SECTOR};
use crate::wrap::DiskId;

const DOING: &str = "going back to";

/// Passes over the disk while the machine runs: the first copies all, the next what changed meanwhile.
const PASSES: u32 = 2;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// The disk that becomes the primary.
    pub to: PathBuf,
    /// Whether what only an old primary holds may go.
    pub discard_primary: bool,
}

/// What will be written where.
#[derive(Clone, Debug, Serialize)]
pub struct FailbackPlan {
    /// The disk that becomes the primary.
    pub target: String,
    /// How much of it is overwritten.
    pub size: Bytes,
    /// How much a larger disk has besides, that nothing uses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unused: Option<Bytes>,
    /// Whether it is the old primary.
    pub old_primary: bool,
    /// When something was last written to the old primary's filesystems, where they tell: seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_written: Option<u64>,
    /// Numbers of the volumes that stayed on it, and are not touched.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stays: Vec<String>,
    /// Numbers of the volumes that stayed on a primary that is gone: of them the copy has only what they were.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lost: Vec<String>,
    /// What to confirm with.
    pub confirm: String,
    /// What kind of ID that is.
    pub confirm_kind: String,
}

impl fmt::Display for FailbackPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let which = if self.old_primary { "the old primary" } else { "it becomes the primary" };
        writeln!(f, "Bring the running system back to {} ({which}): {}.", self.target, self.size)?;
        let but = match &self.stays[..] {
            [] => String::new(),
            stays => format!(" but volume {}, which stays there,", stays.join(", ")),
        };
        writeln!(f, "Everything it holds{but} is overwritten, in passes while the system runs.")?;
        if !self.lost.is_empty() {
            let lost = self.lost.join(", ");
            writeln!(
                f,
                "Volume {lost} stayed on the primary, which is gone: only what the copy has of it comes back."
            )?;
        }
        if let Some(unused) = self.unused {
            writeln!(f, "It is larger than the primary was: the last {unused} are of no use to this pair.")?;
        }
        writeln!(
            f,
            "The rest is copied at the next start, before the system is; then it starts from there."
        )?;
        write!(f, "To go on, confirm with its {}: --confirm '{}'", self.confirm_kind, self.confirm)
    }
}

/// A plan, and what it was made from.
pub struct Planned {
    /// What will be done.
    pub plan: FailbackPlan,
    roots: Roots,
    probe: Probe,
    stays: Option<Stays>,
}

/// What the passes did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Begun {
    /// How much the last pass found different: about what the next start has to copy.
    pub last_pass: Bytes,
    /// Whether the record of the pair names another disk now.
    pub recorded: bool,
    /// Whether no initramfs image has an older one; they are copied with the rest.
    pub known: bool,
}

/// Plans, and refuses whatever must not be done.
pub fn plan(store: &OpenStore, options: &Options) -> Result<Planned> {
    let (roots, config) = (Roots::default(), &store.config);
    let runs = |state| matches!(state, State::Live(_) | State::LiveNoHistory(_) | State::Aside(_));
    if !runs(store.contents.superblock.state) {
        return Err(Error::new(Kind::Refused, "going back", "no system runs from this copy")
            .on(store.dpsr.probe.name())
            .left("nothing was written")
            .next("'dpsr restore' writes a generation to a disk"));
    }
    let probe = Probe::open(&roots, &options.to)?;
    let mut stays = Stays::in_store(&store.contents)?;
    let mut lost = Vec::new();
    if let Some(gone) = stays.take_if(|stays| stays.disk != Target::of(&probe)) {
        lost = numbers(&store.contents, Some(&gone));
        give_up_what_stayed(&roots, store, &probe, (&gone, &lost), options)?;
    }
    check_target(&roots, store, &probe, stays.as_ref())?;
    fit::check(&config.primary, store.contents.newest_map(), &probe)?;
    let disk = FileDisk::open(&options.to, Access::Read)?;
    no_store(&probe, &disk)?;
    let home = Target::home(&store.contents);
    // By its table, too: after a way back to another disk no record names it any more.
    let named = stays.is_some() || is_called_like_it(&roots, config, home.as_ref(), &options.to);
    let has_its_table = carries_its_table(&disk, config);
    let old_primary = named || config.primary.has_telling_table() && has_its_table;
    let last_written = old_primary.then(|| last_written(&disk, config)).flatten();
    // A disk that does not answer holds no store and no table for all that is known.
    let silent = |error| Error::device("looking at", disk.name(), &error).left("nothing was written");
    disk.check_answered().map_err(silent)?;
    if old_primary && !options.discard_primary {
        // Only ext2 to ext4 tell.
        let when = last_written.map_or(", nobody can tell when".to_owned(), |time| {
            format!(", last at {}, {} ago", utc(time), span(now().saturating_sub(time)))
        });
        let cut = match has_its_table {
            true => "",
            false => " (its table is gone: a way back to it may have been cut off, and can be begun again)",
        };
        let why = format!(
            "it is the old primary, and may hold what was written to it after the copy was made{when}{cut}"
        );
        let look = match named {
            true => "look at it first ('dpsr salvage DISK DIR --volume V'), then say --discard-primary",
            false => "look at it first, on another machine, then say --discard-primary",
        };
        return Err(refuse(&probe, why).next(look));
    }
    if old_primary {
        fit::nothing_behind(config, &store.contents, &probe, &disk)?;
    }
    if probe.size > config.primary.size {
        fit::ends_within(config, &probe, &running(&roots, store)?)?;
    }
    let plan = FailbackPlan {
        target: probe.name(),
        size: config.primary.size,
        unused: (probe.size > config.primary.size).then(|| probe.size - config.primary.size),
        old_primary,
        last_written,
        stays: numbers(&store.contents, stays.as_ref()),
        lost,
        confirm: probe.id(),
        confirm_kind: probe.id_kind().to_owned(),
    };
    Ok(Planned { plan, roots, probe, stays })
}

/// The numbers of the volumes that stay on the primary.
fn numbers(contents: &Contents, stays: Option<&Stays>) -> Vec<String> {
    let volumes = contents.running_map().volumes.iter();
    volumes
        .filter(|volume| stays.is_some_and(|it| it.has(volume)))
        .map(|volume| volume.name.clone())
        .collect()
}

/// To another disk than that on which volumes stayed only what the copy has of them can be brought. That is refused
/// where the primary is there, and else asked for.
fn give_up_what_stayed(
    roots: &Roots,
    store: &OpenStore,
    probe: &Probe,
    (gone, lost): (&Stays, &[String]),
    options: &Options,
) -> Result<()> {
    let (lost, home) = (lost.join(", "), gone.disk.name());
    let volumes = &store.contents.running_map().volumes;
    match gone.on(roots, store.config.primary.block, volumes, Duration::ZERO) {
        Ok(_) => {
            let why = format!("volume {lost} stayed on the primary, and can only go on there");
            return Err(refuse(probe, why).next(format!("go back to {home}")));
        }
        Err(error) if error.kind() == Kind::NotFound => {}
        Err(error) => return Err(error),
    }
    if options.discard_primary {
        return Ok(());
    }
    let why =
        format!("volume {lost} stayed on the primary ({home}), which is not there; the copy has what it was");
    Err(refuse(probe, why)
        .next("bring that disk back, or say --discard-primary to go on with what the copy has"))
}

pub(super) fn refuse(probe: &Probe, why: impl Into<String>) -> Error {
    Error::new(Kind::Refused, DOING, why).on(probe.name()).left("nothing was written")
}

fn check_target(roots: &Roots, store: &OpenStore, probe: &Probe, stays: Option<&Stays>) -> Result<()> {
    let config = &store.config;
    if probe.same_storage(&store.dpsr.probe) {
        return Err(refuse(probe, "it is the DPSR disk itself").next("name another disk"));
    }
    let usage = match stays {
        Some(stays) => {
            let volumes = &store.contents.running_map().volumes;
            let there = stays.on(roots, config.primary.block, volumes, Duration::ZERO)?;
            if Some(there) != probe.number {
                let why = "another disk is the one on which volumes stayed";
                return Err(refuse(probe, why).next("name that one"));
            }
            other_use(roots, config, probe, (stays, volumes))
        }
        None => in_use(roots, probe).into_iter().next(),
    };
    if let Some(usage) = usage {
        return Err(refuse(probe, usage.to_string()).next("stop that use first, or name another disk"));
    }
    Ok(())
}

fn no_store(probe: &Probe, disk: &FileDisk) -> Result<()> {
    match find_store(disk, probe.block) {
        Some(_) => Err(refuse(probe, "it is a DPSR disk").next("name another disk")),
        None => Ok(()),
    }
}

/// When one of the ext2, ext3 or ext4 filesystems on a disk was last written; others do not tell.
/// (`s_wtime` and `s_magic` of `struct ext4_super_block`)
fn last_written(disk: &FileDisk, config: &PairConfig) -> Option<u64> {
    let table = Table::read(disk, config.primary.block).ok()?;
    let written = |start: Bytes| {
        let mut page = Buffer::new(PAGE as usize).ok()?;
        read_exact_at(disk, start, &mut page).ok()?;
        let magic = u16::from_le_bytes(page[1024 + 56..1024 + 58].try_into().ok()?);
        let time = u32::from_le_bytes(page[1024 + 48..1024 + 52].try_into().ok()?);
        (magic == 0xef53).then_some(u64::from(time))
    };
    table.partitions.iter().filter_map(|partition| written(partition.range.start)).max()
}

impl Planned {
    /// Whether what the user typed is the target's ID.
    pub fn check_confirmation(&self, given: &str) -> Result<()> {
        if given.trim() == self.plan.confirm {
            return Ok(());
        }
        let why = format!("{:?} is not its {}", given.trim(), self.plan.confirm_kind);
        Err(refuse(&self.probe, why).next("the plan shows the ID to confirm with"))
    }

    /// Copies, and leaves the rest to the next start. Its partition table is written then, so that nobody
    /// sees two disks of one identity.
    pub fn act(self, dir: &Path, store: OpenStore, progress: &dyn Progress) -> Result<Begun> {
        let Some(stays) = &self.stays else {
            let taker = Taker { doing: DOING, verb: "failback" };
            let (disk, _lock) = claim(&self.roots, &self.probe, taker, no_store)?;
            return self.copy_to(dir, store, disk, progress);
        };
        let mapper = Mapper::open()?;
        let within = (stays, &store.contents.running_map().volumes[..]);
        let (disk, _fence) = fenced(&self.roots, &mapper, &store.config, &self.probe, within)?;
        no_store(&self.probe, &disk)?;
        self.copy_to(dir, store, disk, progress)
    }

    fn copy_to(
        &self,
        dir: &Path,
        store: OpenStore,
        disk: FileDisk,
        progress: &dyn Progress,
    ) -> Result<Begun> {
        let unfinished = "it is overwritten in part, and the system goes on running from the copy";
        let again = "run the same failback again";
        let from: Arc<dyn ReadDisk> = Arc::new(running(&self.roots, &store)?);
        let to: Arc<dyn WriteDisk> = Arc::new(disk);
        let parts = Parts::of(&store.contents, self.stays.as_ref());
        unmark(&to, &parts, store.config.primary.size).map_err(|error| error.left(unfinished).next(again))?;
        if !self.plan.old_primary {
            make_swaps(&store.contents, to.as_ref()).map_err(|error| error.left(unfinished).next(again))?;
        }
        let mut last_pass = Bytes::ZERO;
        for pass in 1..=PASSES {
            progress.begin(&format!("copying, pass {pass}"), parts.size());
            let copied = mirror(&from, &to, parts.body.iter().cloned(), progress);
            last_pass = copied.map_err(|error| error.left(unfinished).next(again))?;
        }
        let target = Target::of(&self.probe);
        let config = store.config.clone();
        drop(store);
        // The record first: once the store names the disk, the next start makes it the primary, of which a record of
        // another disk would let nobody hold a moment.
        let recorded = !target.is_recorded(&config);
        if recorded {
            let now = target.becomes_primary(&config, self.probe.lasting_path(&self.roots));
            config::save(dir, &now).map_err(|error| error.left(unfinished).next(again))?;
        }
        remember(&self.roots, &config, &target, self.stays.is_some())
            .map_err(|error| error.replace_left(unfinished).next(again))?;
        // In whatever order it is stopped: the machine goes back, and tells where it is not wrapped.
        let known = boot::tell_own(dir, &config.name);
        Ok(Begun { last_pass, recorded, known })
    }
}

/// Takes away what makes an old disk the one it was: half overwritten it is nobody's.
fn unmark(to: &Arc<dyn WriteDisk>, parts: &Parts, copied: Bytes) -> Result<()> {
    let failed = |error: &std::io::Error| Error::device("overwriting the table of", to.name(), error);
    // First what says that there is a table: what is left of one would be taken for a damaged one.
    let first = to.prove().and_then(|()| to.zero(Bytes::ZERO..Bytes(SECTOR))).and_then(|()| to.flush());
    first.map_err(|error| failed(&error))?;
    for edge in parts.edges.iter().chain(&beyond(to.size(), copied)) {
        to.prove().and_then(|()| to.zero(edge.clone())).map_err(|error| failed(&error))?;
    }
    to.flush().map_err(|error| Error::device("flushing", to.name(), &error))
}

/// A new disk has no swap space yet. What is left out of the copy, on an old primary, stays as it is.
fn make_swaps(contents: &Contents, to: &dyn WriteDisk) -> Result<()> {
    for Placed { swap, volume, .. } in swap::recorded(&contents.index, contents.running_map()) {
        to.prove().map_err(|error| Error::device("making swap space on", to.name(), &error))?;
        write_all_at(to, volume.start, &swap.header(volume.size)?)?;
    }
    Ok(())
}

/// The disk that the machine runs from, as everything else sees it. It must stand on the DPSR disk: the wrap of a primary
/// has the same names.
fn running(roots: &Roots, store: &OpenStore) -> Result<FileDisk> {
    let name = DiskId::recorded(&store.config).disk();
    let found = Mapper::open()?.find(&name.uuid)?.and_then(|device| roots.node(device.number));
    let on_it = |node: &BlockNode| {
        let below = chain_of_node(roots, node.clone());
        below.iter().any(|below| Some(below.disk().number) == store.dpsr.probe.number)
    };
    let node = found.filter(on_it).ok_or_else(|| {
        Error::new(Kind::Refused, "going back", "this machine does not run from the copy")
            .left("nothing was written")
            .next("start it from the DPSR disk first")
    })?;
    FileDisk::open(format!("/dev/dm-{}", node.number.minor), Access::Read)
}

/// Writes into the store to which disk the machine goes back, and, where it is not the one on which volumes stayed, that
/// none did.
fn remember(roots: &Roots, config: &PairConfig, target: &Target, stay: bool) -> Result<()> {
    let dpsr = Arc::new(open_live(roots, config)?);
    let mut store = Store::open(dpsr.clone(), dpsr.store.range.clone(), owner())?;
    let (state, index) = (store.contents.superblock.state, store.contents.index.clone());
    let goes = |object: &Object| object.kind == FAILBACK || object.kind == STAYS && !stay;
    let mut objects: Vec<_> = index.objects.iter().filter(|object| !goes(object)).cloned().collect();
    objects.push(target.object());
    store.change(state, Index { objects, ..index })
}

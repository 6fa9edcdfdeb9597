// SPDX-License-Identifier: MIT OR Apache-2.0
//! Making a disk the DPSR disk of a primary: plan, show, act. Planning writes nothing.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use uuid::Uuid;

use crate::boot::{self, Finding};
use crate::config::{self, DpsrRecord, FailoverConfig, LiveConfig, PairConfig, PrimaryRecord};
use crate::disk::file::{Access, FileDisk};
use crate::disk::{ReadDisk, WriteDisk};
use crate::error::{Error, Kind, Result};
use crate::keep::Rules;
use crate::open::{owner, recorded};
use crate::pair::empty::{Found, emptiness};
use crate::pair::inuse::in_use;
use crate::pair::layout::{DpsrLayout, Guids, find_store, write_gpt};
use crate::pair::lock::Lock;
use crate::pair::open::{PrimaryUse, is_primary, open_primary};
use crate::pair::plan::{InitPlan, Inputs, Sizes};
use crate::pair::probe::{Kind as Endpoint, Probe};
use crate::pair::refuse::{Target, check_room, check_target};
use crate::pair::run::missing_probers;
use crate::pair::sysfs::Roots;
use crate::pair::table::Table;
use crate::pair::target::{Taker, claim};
use crate::pair::volumes::Volumes;
use crate::pair::wipe::wipe_signatures;
use crate::reserve::{NewReserve, Reserve};
use crate::store::Store;
use crate::store::create::{Template, create, sizes};
use crate::units::{Bytes, MIB};

const PREPARING: &str = "preparing the DPSR disk";

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// The disk to be copied.
    pub primary: PathBuf,
    /// The disk to become the DPSR disk.
    pub dpsr: PathBuf,
    /// The name of the pair.
    pub pair: String,
    /// Partitions that are not copied.
    pub leave_out: Vec<String>,
    /// Whether the DPSR disk gets partitions to boot from.
    pub boot: bool,
    /// Bytes that history may take.
    pub history: Option<Bytes>,
    /// How large a file on the primary makes room on the DPSR disk by not being copied.
    pub reserve: Option<Bytes>,
    /// Whether what is on the DPSR disk may go.
    pub wipe: bool,
}

/// A plan, and everything it was made from.
pub struct Planned {
    /// What will be done.
    pub plan: InitPlan,
    /// What would be in the way of a boot without the primary.
    pub findings: Vec<Finding>,
    options: Options,
    roots: Roots,
    primary: Probe,
    dpsr: Probe,
    found: Found,
    layout: DpsrLayout,
    table: Option<String>,
    volumes: Volumes,
    reserve: Option<NewReserve>,
}

/// Plans, and refuses whatever must not be done.
pub fn plan(dir: &Path, options: Options) -> Result<Planned> {
    let roots = Roots::default();
    if !config::valid_name(&options.pair) {
        let why = "a name has up to 64 letters, digits, '.', '_' and '-'";
        return Err(Error::new(Kind::Usage, "naming the pair", why).on(&options.pair));
    }
    let mut primary = Probe::open(&roots, &options.primary)?;
    let dpsr = Probe::open(&roots, &options.dpsr)?;
    let source = FileDisk::open(&options.primary, Access::Read)?;
    let (mut table, block) = match primary.kind {
        Endpoint::File => Table::read_image(&source)?,
        Endpoint::Block => (Table::read(&source, primary.block)?, primary.block),
    };
    primary.block = block;
    check_no_store(&primary, &source)?;
    table.probe_contents(&source);
    let volumes = volumes(&roots, &primary, &table, &options)?;
    let target_disk = FileDisk::open(&options.dpsr, Access::Read)?;
    let found = emptiness(&dpsr, &target_disk)?;
    let (uses, records) = (in_use(&roots, &dpsr), records(dir, &dpsr)?);
    let target = Target {
        primary: &primary,
        dpsr: &dpsr,
        uses: &uses,
        found: &found,
        owner: taken_by(&records, &options.pair, &found),
        wipe: options.wipe,
    };
    check_target(&roots, &target)?;
    check_no_primary(&records, &roots, &dpsr)?;
    check_not_paired(dir, &records, &options, &found)?;
    // Where BIOS exists at all: 1 MiB lets the disk boot a machine that is not this one.
    let bios = cfg!(any(target_arch = "x86_64", target_arch = "x86"));
    let layout = DpsrLayout::plan(dpsr.size, dpsr.block, options.boot, bios)
        .map_err(|error| error.on(dpsr.name()).left("nothing was written"))?;
    let reserve = options.reserve.map(|size| NewReserve::plan(&roots, &primary, &volumes, &layout, size));
    let reserve = reserve.transpose()?;
    let needed = |volumes: &Volumes, store: Bytes| {
        let volumes = reserve.as_ref().map_or_else(|| volumes.clone(), |reserve| reserve.guessed(volumes));
        needed(&volumes, store, primary.size)
    };
    let inputs = Inputs {
        pair: &options.pair,
        primary: &primary,
        table: &table,
        volumes: &volumes,
        dpsr: &dpsr,
        layout: &layout,
        gives_up: &gives_up(&found),
        limit: options.history,
        reserve: reserve.as_ref().map(NewReserve::shown),
        missing: &missing_probers(),
    };
    let plan = InitPlan::new(&inputs, needed);
    check_room(&target, &volumes, |volumes| needed(volumes, plan.sizes.store))?;
    let findings = if options.boot { boot::expected(&roots, &primary, &volumes)? } else { Vec::new() };
    Ok(Planned {
        plan,
        findings,
        options,
        roots,
        table: table.id(),
        primary,
        dpsr,
        found,
        layout,
        volumes,
        reserve,
    })
}

fn volumes(roots: &Roots, primary: &Probe, table: &Table, options: &Options) -> Result<Volumes> {
    let mut volumes = Volumes::of(table, primary.size);
    volumes.refuse_twins(&primary.name(), |_| true)?;
    volumes.group_running(roots, primary);
    volumes.leave_out_swap(table);
    for name in &options.leave_out {
        volumes.leave_out(roots, primary, name)?;
    }
    Ok(volumes)
}

fn needed(volumes: &Volumes, store: Bytes, disk: Bytes) -> Sizes {
    match sizes(store, &recorded(volumes), disk) {
        Some(found) => {
            let needed_for_image = found.image + found.digests + found.overhead;
            let needed_min =
                if found.missing > Bytes::ZERO { store + found.missing } else { needed_for_image };
            Sizes { needed_for_image, needed_min, store }
        }
        None => {
            let needed = volumes.kept() + Bytes(32 << 20);
            Sizes { needed_for_image: needed, needed_min: needed, store }
        }
    }
}

fn gives_up(found: &Found) -> Vec<String> {
    let store = found.store.iter().map(|store| format!("the DPSR store {} and all its history", store.store));
    store.chain(found.things.iter().cloned()).collect()
}

/// Every pair recorded on this machine. One that cannot be read might be the one that needs the disk.
fn records(dir: &Path, dpsr: &Probe) -> Result<Vec<PairConfig>> {
    let names = config::list(dir);
    let records = names.and_then(|names| names.iter().map(|name| config::load(dir, name)).collect());
    records.map_err(|error| {
        let why = format!("whether a pair needs it cannot be told ({})", error.cause());
        refuse(dpsr, why).next("repair that record, or remove it")
    })
}

fn refuse(dpsr: &Probe, why: impl Into<String>) -> Error {
    Error::new(Kind::Refused, PREPARING, why).on(dpsr.name()).left("nothing was written")
}

/// The other pair of this machine whose DPSR disk was found.
fn taken_by<'a>(records: &'a [PairConfig], pair: &str, found: &Found) -> Option<&'a str> {
    let guid = found.store.as_ref()?.disk;
    let taken = |record: &&PairConfig| record.name != pair && record.dpsr.disk_guid == guid;
    records.iter().find(taken).map(|record| record.name.as_str())
}

/// Refuses a DPSR disk as the primary: most likely the two were mixed up, and the real primary would go.
fn check_no_store(primary: &Probe, source: &FileDisk) -> Result<()> {
    if find_store(source, primary.block).is_none() {
        return Ok(());
    }
    Err(Error::new(Kind::Refused, "reading the primary", "it is a DPSR disk itself")
        .on(primary.name())
        .left("nothing was written")
        .next("check that --primary and --dpsr are not mixed up"))
}

/// Refuses the primary of any pair of this machine as a DPSR disk.
fn check_no_primary(records: &[PairConfig], roots: &Roots, dpsr: &Probe) -> Result<()> {
    for record in records {
        let pair = format!("the primary of the pair {:?}", record.name);
        let why = match open_primary(roots, record, PrimaryUse::Live) {
            Ok(primary) if primary.probe.same_storage(dpsr) => format!("it is {pair}"),
            Ok(_) => continue,
            // There is none, or it cannot be told which of several it is. What this one holds says whether it may be it.
            Err(unclear) => match is_primary(roots, record, &dpsr.path) {
                Ok(false) => continue,
                Ok(true) => format!("it may be {pair} ({})", unclear.cause()),
                Err(other) => format!("it may be what has become of {pair} ({})", other.cause()),
            },
        };
        return Err(refuse(dpsr, why).next("remove that pair first, or name another disk"));
    }
    Ok(())
}

/// Refuses to replace the record of a pair, unless the disk given up is that very pair's: without its record,
/// another disk and its history could not be read any more.
fn check_not_paired(dir: &Path, records: &[PairConfig], options: &Options, found: &Found) -> Result<()> {
    let Some(record) = records.iter().find(|record| record.name == options.pair) else { return Ok(()) };
    let own = found.store.as_ref().is_some_and(|store| store.disk == record.dpsr.disk_guid);
    let (why, next) = match (own, options.wipe) {
        (true, true) => return Ok(()),
        (true, false) => (
            "it exists already",
            "choose another name with --pair, or give its copy up with --wipe".to_owned(),
        ),
        (false, _) => (
            "it is recorded with another DPSR disk",
            format!(
                "choose another name with --pair, or remove its record {} first",
                config::file_name(dir, &record.name)
            ),
        ),
    };
    let refused = Error::new(Kind::Refused, "recording the pair", why);
    Err(refused.on(&options.pair).left("nothing was written").next(next))
}

impl Planned {
    /// The DPSR disk as it was probed.
    pub fn dpsr(&self) -> &Probe {
        &self.dpsr
    }

    /// Does what the plan says. The record of the pair is written before anything goes, and counts last:
    /// without it nothing uses the disk.
    pub fn act(self, dir: &Path) -> Result<PairConfig> {
        let (disk, _lock) = self.claim()?;
        let guids = Guids::random();
        let pair = Uuid::new_v4();
        let made = self.reserve.as_ref().map(NewReserve::make).transpose()?;
        let reserve = made.as_ref().map(|made| made.reserve.clone());
        let mut volumes = self.volumes.clone();
        if let Some(reserve) = &reserve {
            volumes.leave_out_reserve(&reserve.left_out());
            self.check_room_with(&volumes)?;
        }
        let record = self.record(pair, guids.disk, guids.store, reserve);
        let draft = config::Draft::write(dir, &record).map_err(|error| error.left("nothing was written"))?;
        let template = Template {
            store: Uuid::new_v4(),
            pair,
            secret: secret()?,
            primary: self.primary.id(),
            disk: self.primary.size,
            block: self.primary.block,
            volumes: recorded(&volumes),
            owner: owner(),
        };
        prepare(Arc::new(disk), self.dpsr.block, (&self.layout, &guids), template)?;
        draft.keep()?;
        if let Some(made) = made {
            made.keep();
        }
        Ok(record)
    }

    /// Refuses where the reserve, now that it lies somewhere, does not make as much room as was planned.
    fn check_room_with(&self, volumes: &Volumes) -> Result<()> {
        let store = self.layout.store.end - self.layout.store.start;
        let sizes = needed(volumes, store, self.primary.size);
        if sizes.needed_min <= store {
            return Ok(());
        }
        let missing = (sizes.needed_min - store).round_up(MIB);
        let why = format!("it lies in too many pieces: {missing} are missing still");
        Err(Error::new(Kind::NoRoom, "making the reserve", why)
            .left("it was removed, and nothing was written to the DPSR disk")
            .next("ask for a larger one"))
    }

    /// Takes the target, if it and what is on it are what the plan was made for.
    fn claim(&self) -> Result<(FileDisk, Option<Lock>)> {
        let taker = Taker { doing: PREPARING, verb: "init" };
        claim(&self.roots, &self.dpsr, taker, |now, disk| {
            if emptiness(now, disk)? == self.found {
                return Ok(());
            }
            Err(refuse(now, "what is on it has changed since the plan was made")
                .next("run init again and read its plan"))
        })
    }

    fn record(&self, id: Uuid, disk_guid: Uuid, store: Uuid, reserve: Option<Reserve>) -> PairConfig {
        let (primary, dpsr) = (&self.primary, &self.dpsr);
        PairConfig {
            name: self.options.pair.clone(),
            id,
            leave_out: self.volumes.left_out_ids(),
            group: self.volumes.iter().filter(|v| v.group && v.number > 0).map(|v| v.id.clone()).collect(),
            history: self.options.history,
            keep: Rules::default(),
            boot: false,
            failover: FailoverConfig::default(),
            live: LiveConfig::default(),
            reserve,
            primary: PrimaryRecord {
                path: primary.lasting_path(&self.roots),
                size: primary.size,
                disk_size: None,
                block: primary.block,
                serial: primary.serial.clone(),
                wwn: primary.wwn.clone(),
                table: self.table.clone(),
                inode: primary.inode.map(|(_, inode)| inode),
            },
            dpsr: DpsrRecord {
                path: dpsr.lasting_path(&self.roots),
                size: dpsr.size,
                serial: dpsr.serial.clone(),
                wwn: dpsr.wwn.clone(),
                disk_guid,
                store,
                inode: dpsr.inode.map(|(_, inode)| inode),
            },
        }
    }
}

/// Makes a disk, with logical blocks of `block` bytes, the DPSR disk that was planned: what it held goes, then come the
/// partition table, and a store with nothing in it.
pub fn prepare(
    disk: Arc<dyn WriteDisk>,
    block: Bytes,
    (layout, guids): (&DpsrLayout, &Guids),
    template: Template,
) -> Result<Store> {
    wipe_signatures(disk.as_ref(), layout)?;
    write_gpt(disk.as_ref(), block, layout, guids)?;
    let found = find_store(disk.as_ref(), block);
    let found = found.filter(|found| (found.disk, found.store) == (guids.disk, guids.store));
    let found = found.ok_or_else(|| {
        let why = "the partition table just written does not read back";
        Error::new(Kind::Device, "partitioning", why).on(disk.name()).left("it holds no store")
    })?;
    create(disk, found.range, template)
}

/// A secret from the system's random source.
fn secret() -> Result<[u8; 32]> {
    let mut secret = [0; 32];
    let read = File::open("/dev/urandom").and_then(|mut source| source.read_exact(&mut secret));
    read.map_err(|error| Error::new(Kind::Internal, "reading", error.to_string()).on("/dev/urandom"))?;
    Ok(secret)
}

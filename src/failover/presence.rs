// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether the disks of a pair are there, and can be read.

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::config::PairConfig;
use crate::disk::ReadDisk;
use crate::disk::file::{Access, FileDisk};
use crate::disk::whole::read_exact_at;
use crate::error::{Error, Result};
use crate::failback::target::Target;
use crate::format::superblock::State;
use crate::open;
use crate::pair::open::{PrimaryUse, is_there_twice, open_primary, open_recorded};
use crate::pair::probe::Probe;
use crate::pair::sysfs::Roots;
use crate::pair::table::Table;
use crate::sys::buffer::Buffer;
use crate::units::{Bytes, MIB, PAGE, SECTOR};

/// A disk that takes longer for its first bytes does not answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// What there is of a primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Presence {
    /// All that was recorded, and it can be read.
    There,
    /// There, and more than once: nobody can tell which of them it is.
    Twice(String),
    /// A disk with its names, but without its table: repartitioned, replaced in its place, or overwritten.
    Changed(String),
    /// No such disk, or one that cannot be read.
    Missing(String),
}

/// What a store says, as far as it decides which system to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreSeen {
    /// What its image holds.
    pub state: State,
    /// When its newest generation was taken: seconds since 1970, UTC.
    pub time: Option<u64>,
    /// The disk to which the machine went back last: it is the primary, whatever an older record says.
    pub home: Option<Target>,
}

/// Looks for the primary of a pair: the recorded disk, or the one to which the machine went back.
pub fn primary(config: &PairConfig, home: Option<&Target>) -> Presence {
    let recorded = config.clone();
    let found = in_time(PATIENCE, move || looked(&recorded));
    let recorded = config.clone();
    // It may be another disk that does not answer, which was asked whether it is the primary, too.
    let found = found.or_else(|| in_time(PATIENCE, move || at_its_path(&recorded)).flatten());
    let found = found.unwrap_or_else(|| Presence::Missing("it does not answer".to_owned()));
    let Some(home) = home.filter(|_| found != Presence::There) else { return found };
    let there = home.becomes_primary(config, config.primary.path.clone());
    let at_home = in_time(PATIENCE, move || looked(&there));
    nearer(found, at_home)
}

/// What there is, of a recorded disk and of the one that took its place. Pure.
fn nearer(recorded: Presence, home: Option<Presence>) -> Presence {
    match (home, recorded) {
        (Some(Presence::There), _) => Presence::There,
        (Some(twice @ Presence::Twice(_)), _) => twice,
        (Some(changed @ Presence::Changed(_)), Presence::Missing(_)) => changed,
        (_, recorded) => recorded,
    }
}

/// What `look` finds; `None` where it takes too long. The thread of a disk that hangs is left behind: nothing can
/// end it.
pub fn in_time<T: Send + 'static>(
    patience: Duration,
    look: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (tell, told) = mpsc::channel();
    thread::spawn(move || tell.send(look()));
    told.recv_timeout(patience).ok()
}

fn looked(config: &PairConfig) -> Presence {
    let roots = Roots::default();
    match open_primary(&roots, config, PrimaryUse::Live) {
        Ok(primary) => match readable(&primary.disk, &primary.table) {
            Ok(()) => Presence::There,
            Err(error) => Presence::Missing(format!("it cannot be read: {}", error.cause())),
        },
        Err(error) if is_there_twice(&roots, config) => Presence::Twice(error.cause().to_owned()),
        Err(error) => match called_like_it(&roots, config).map(|path| begins(&path)) {
            Some(Ok(())) => Presence::Changed(error.cause().to_owned()),
            Some(Err(error)) => Presence::Missing(format!("it cannot be read: {}", error.cause())),
            None => Presence::Missing("no disk is the recorded one".to_owned()),
        },
    }
}

/// The recorded disk at its recorded path, whatever others there are.
fn at_its_path(config: &PairConfig) -> Option<Presence> {
    let primary = open_recorded(&Roots::default(), config).ok()?;
    readable(&primary.disk, &primary.table).ok().map(|()| Presence::There)
}

/// The disk that is the primary by all it says, though not by what is on it.
fn called_like_it(roots: &Roots, config: &PairConfig) -> Option<PathBuf> {
    let all = roots.all();
    let mut disks = all.iter().filter(|node| node.partition().is_none()).map(|node| node.path());
    disks.find(|path| is_called_like_it(roots, config, None, path))
}

/// Whether anything can be read of a disk: one that answers with errors only is as good as none.
fn begins(path: &Path) -> Result<()> {
    let disk = FileDisk::open(path, Access::Read)?;
    let mut page = Buffer::new(PAGE as usize)
        .map_err(|error| Error::device("taking memory to read", disk.name(), &error))?;
    read_exact_at(&disk, Bytes::ZERO, &mut page)
}

/// Whether the disk at `path` is the primary by all it says, whatever is on it: the recorded one, or that to which the
/// machine went back last.
pub fn is_called_like_it(roots: &Roots, config: &PairConfig, home: Option<&Target>, path: &Path) -> bool {
    let same = |recorded: &Option<String>, found: &Option<String>| recorded.is_some() && recorded == found;
    let record = &config.primary;
    let fits = |probe: Probe| {
        let names = same(&record.serial, &probe.serial) || same(&record.wwn, &probe.wwn);
        let names = names || home.is_some_and(|home| home.is_telling() && *home == Target::of(&probe));
        names && probe.node(roots).is_some_and(|node| !node.is_ours())
    };
    Probe::open(roots, path).is_ok_and(fits)
}

/// Whether a disk has the table of the primary: a copy of it, the first one, or a disk to which the machine once went back.
/// Its partitions have the same UUIDs.
pub fn has_its_table(path: &Path, pair: &PairConfig) -> bool {
    FileDisk::open(path, Access::Read).is_ok_and(|disk| carries_its_table(&disk, pair))
}

/// The same of a disk that is open.
pub fn carries_its_table(disk: &dyn ReadDisk, pair: &PairConfig) -> bool {
    let read = || Table::read(disk, pair.primary.block);
    pair.primary.table.is_some() && read().is_ok_and(|table| table.id() == pair.primary.table)
}

/// Reads what a system needs first: the table, and the beginning of each partition. One that somebody made behind what is
/// copied of a larger disk is none of the system's.
fn readable(disk: &dyn ReadDisk, table: &Table) -> Result<()> {
    let mut buffer = Buffer::new(MIB as usize)
        .map_err(|error| Error::device("taking memory to read", disk.name(), &error))?;
    let head = buffer.len().min(disk.size().round_down(SECTOR).usize());
    read_exact_at(disk, Bytes::ZERO, &mut buffer[..head])?;
    for partition in &table.partitions {
        let end = partition.range.end.min(disk.size());
        let len = end.saturating_sub(partition.range.start).usize().min(16 * PAGE as usize);
        read_exact_at(disk, partition.range.start, &mut buffer[..len])?;
    }
    Ok(())
}

/// What the store of the pair `name` says; `None` while there is no DPSR disk that can be read, or one that does
/// not answer: a dead DPSR disk must not hold the primary up for ever.
pub fn store(dir: &Path, name: &str) -> Option<StoreSeen> {
    let (dir, name) = (dir.to_owned(), name.to_owned());
    in_time(PATIENCE, move || open::look(&dir, Some(&name)).ok())?.map(|store| StoreSeen {
        state: store.contents.superblock.state,
        time: store.contents.current().and_then(|it| store.contents.index.record(it)).map(|it| it.time),
        home: Target::home(&store.contents),
    })
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use super::*;
    use crate::disk::ram::RamDisk;
    use crate::pair::table::{Partition, TableKind};

    #[test]
    fn the_disk_that_took_the_place_of_the_first_counts_where_that_is_missing() {
        let missing = || Presence::Missing("no disk is the recorded one".to_owned());
        let changed = |which: &str| Presence::Changed(which.to_owned());
        assert_eq!(nearer(missing(), Some(Presence::There)), Presence::There);
        assert_eq!(nearer(changed("first"), Some(Presence::There)), Presence::There);
        assert_eq!(nearer(missing(), Some(changed("home"))), changed("home"), "it is no missing primary");
        assert_eq!(nearer(changed("first"), Some(changed("home"))), changed("first"));
        assert_eq!(nearer(missing(), Some(missing())), missing());
        assert_eq!(nearer(missing(), None), missing());
    }

    #[test]
    fn a_partition_behind_what_is_copied_makes_no_primary_missing() {
        let disk = RamDisk::new("disk", 4 << 20);
        let partition = |number: u32, range: Range<u64>| Partition {
            number,
            id: number.to_string(),
            label: String::new(),
            type_id: String::new(),
            active: false,
            range: Bytes(range.start)..Bytes(range.end),
            content: None,
        };
        let ends = [1 << 20..2 << 20, (4 << 20) - 512..5 << 20, 4 << 20..6 << 20, 6 << 20..7 << 20];
        let partitions = (1..).zip(ends).map(|(number, range)| partition(number, range)).collect();
        let table = Table { kind: TableKind::Mbr { signature: 1 }, partitions, whole: None, bad: None };
        readable(&disk, &table).unwrap();
    }
}

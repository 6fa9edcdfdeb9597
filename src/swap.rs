// SPDX-License-Identifier: MIT OR Apache-2.0
//! Swap volumes that are left out of the copy. Nothing on them is worth a byte, but what mounts them by UUID
//! waits for them: so their identity is recorded with every generation, and a machine that runs from its copy
//! gets an empty one in the place of each.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::disk::{ReadDisk, WriteDisk};
use crate::error::{Error, Result};
use crate::format::geometry::Geometry;
use crate::format::index::{Index, Map, Object, Run, SWAP, Volume};
use crate::pair::blocks;
use crate::store::Contents;
use crate::store::free::Free;
use crate::sys::buffer::Buffer;
use crate::units::{Bytes, CHUNK, PAGE};

/// Of the free room, no more than one part in so many becomes swap: what is overwritten needs the rest.
const SHARE: u64 = 4;

/// Sizes of a page of memory, in one of which the header fits. (`swapon(8)`)
const PAGES: [u64; 4] = [PAGE, 16 << 10, 64 << 10, 8 << 10];

/// Ends the header. (`union swap_header` in `include/linux/swap.h`)
const MAGIC: &[u8; 10] = b"SWAPSPACE2";
const VERSION: usize = 1024;
const LAST_PAGE: usize = 1028;
const UUID: usize = 1036;
const LABEL: usize = 1052;
const LABEL_LEN: usize = 16;

/// A swap volume of the primary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Swap {
    /// The id of its volume.
    pub volume: String,
    /// By which it is known.
    pub uuid: Uuid,
    /// Its label; mostly empty.
    pub label: String,
    /// How large a page is on this machine: 4096 bytes on most.
    pub page: u64,
}

impl Swap {
    /// The swap space that begins at the beginning of `volume`, if it is one.
    pub fn of(disk: &dyn ReadDisk, volume: &Volume) -> Result<Option<Self>> {
        let len = volume.size.min(Bytes(CHUNK));
        let failed = |error| Error::device("reading a left-out volume of", disk.name(), &error);
        let head = blocks::read(disk, volume.start..volume.start + len).map_err(failed)?;
        let has_magic = |page: &u64| head.get(*page as usize - MAGIC.len()..*page as usize) == Some(MAGIC);
        let Some(page) = PAGES.into_iter().find(has_magic) else { return Ok(None) };
        let uuid = Uuid::from_slice(&head[UUID..LABEL]).expect("it is sixteen bytes");
        let label = head[LABEL..LABEL + LABEL_LEN].split(|byte| *byte == 0).next().unwrap_or_default();
        let label = String::from_utf8_lossy(label).into_owned();
        Ok(Some(Self { volume: volume.id.clone(), uuid, label, page }))
    }

    /// All of a disk that are left out. One that cannot be read is what it was in `known`: nobody needs a byte of it.
    pub fn left_out(disk: &dyn ReadDisk, volumes: &[Volume], known: &[Self]) -> Vec<Self> {
        let left_out = volumes.iter().filter(|volume| volume.left_out && volume.name.parse::<u32>().is_ok());
        let read = |volume: &Volume| match Self::of(disk, volume) {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!("{error}, ignoring: it is taken for the swap space it was, if it was one");
                known.iter().find(|swap| swap.volume == volume.id).cloned()
            }
        };
        left_out.filter_map(read).collect()
    }

    /// Whether a machine has gone to sleep in its `volume` on `disk`.
    fn sleeper(&self, disk: &dyn ReadDisk, volume: &Volume) -> Result<bool> {
        let failed = |error| Error::device("looking at a swap volume of", disk.name(), &error);
        let page = volume.size.min(Bytes(self.page));
        let head = blocks::read(disk, volume.start..volume.start + page).map_err(failed)?;
        let end = &head[head.len().saturating_sub(MAGIC.len())..];
        Ok(ASLEEP.iter().any(|magic| end.starts_with(magic)))
    }

    /// Makes its `volume` on `disk` empty if a machine has gone to sleep in it; whether one had.
    fn wake(&self, disk: &dyn WriteDisk, volume: &Volume) -> Result<bool> {
        if !self.sleeper(disk, volume)? {
            return Ok(false);
        }
        let failed = |error| Error::device("emptying a swap volume of", disk.name(), &error);
        let header = self.header(volume.size)?;
        disk.prove().and_then(|()| blocks::write(disk, volume.start, &header)).map_err(failed)?;
        Ok(true)
    }

    /// The first page of an empty swap space of `size` bytes with this identity. (mkswap(8))
    pub fn header(&self, size: Bytes) -> Result<Buffer> {
        let page = self.page as usize;
        let mut header =
            Buffer::new(page).map_err(|error| Error::device("taking memory for", "swap", &error))?;
        let last = u32::try_from((size.0 / self.page).saturating_sub(1)).unwrap_or(u32::MAX);
        header[VERSION..VERSION + 4].copy_from_slice(&1_u32.to_ne_bytes());
        header[LAST_PAGE..LAST_PAGE + 4].copy_from_slice(&last.to_ne_bytes());
        header[UUID..LABEL].copy_from_slice(self.uuid.as_bytes());
        let label = &self.label.as_bytes()[..self.label.len().min(LABEL_LEN)];
        header[LABEL..LABEL + label.len()].copy_from_slice(label);
        header[page - MAGIC.len()..].copy_from_slice(MAGIC);
        Ok(header)
    }
}

/// What a swap volume says in which a machine has gone to sleep, in the place of [`MAGIC`]: the kernel itself,
/// and the programs that did it before it. (`kernel/power/swap.c`; `libblkid/src/superblocks/swap.c`)
const ASLEEP: [&[u8]; 4] = [b"S1SUSPEND", b"S2SUSPEND", b"ULSUSPEND", b"LINHIB0001"];

/// Whether a machine has gone to sleep in a swap volume of `disk`.
pub fn is_asleep(disk: &dyn ReadDisk, index: &Index, map: &Map) -> Result<bool> {
    let mut asleep = false;
    for Placed { swap, volume, .. } in recorded(index, map) {
        asleep |= swap.sleeper(disk, volume)?;
    }
    Ok(asleep)
}

/// Makes swap volumes of `disk` empty in which a machine has gone to sleep: what wakes from them knows a system
/// whose disks have changed since, and would destroy them. How many there were.
pub fn wake(disk: &dyn WriteDisk, index: &Index, map: &Map) -> Result<usize> {
    let mut asleep = 0;
    for Placed { swap, volume, .. } in recorded(index, map) {
        asleep += usize::from(swap.wake(disk, volume)?);
    }
    Ok(asleep)
}

/// A recorded swap volume, and what stands for it while a machine runs from the copy.
pub struct Placed<'a> {
    /// What it is.
    pub swap: Swap,
    /// What it is in the newest map.
    pub volume: &'a Volume,
    /// Where it lies in the store; empty while no machine runs from it, or where there is no room.
    pub runs: Vec<Run>,
}

/// The swap volumes recorded in an index, of those that `map` leaves out.
pub fn recorded<'a>(index: &Index, map: &'a Map) -> Vec<Placed<'a>> {
    let swaps = index.objects.iter().filter(|object| object.kind == SWAP);
    let placed = |object: &Object| {
        let swap: Swap = serde_json::from_slice(&object.about).ok()?;
        let sound = PAGES.contains(&swap.page);
        let volume = map.volumes.iter().find(|volume| volume.id == swap.volume && volume.left_out)?;
        sound.then(|| Placed { swap, volume, runs: object.runs.clone() })
    };
    swaps.filter_map(placed).collect()
}

/// The swap volumes of the newest generation.
pub fn known(contents: &Contents) -> Vec<Swap> {
    recorded(&contents.index, contents.newest_map()).into_iter().map(|placed| placed.swap).collect()
}

/// Makes `swaps` the recorded ones of an index, without a place.
pub fn record(index: &mut Index, swaps: &[Swap]) {
    let object = |swap: &Swap| {
        let about = serde_json::to_vec(swap).expect("numbers and texts are always JSON");
        Object { kind: SWAP, about, runs: Vec::new() }
    };
    index.objects.retain(|object| object.kind != SWAP);
    index.objects.extend(swaps.iter().map(object));
}

/// Takes room for each recorded swap volume that `map` leaves out: as much as it has on the primary, or its part
/// of what may be spared.
pub fn place(index: &mut Index, map: &Map, free: &mut Free, geometry: Geometry) {
    let swaps = recorded(index, map);
    let share = free.count() / SHARE / (swaps.len() as u64).max(1);
    for Placed { swap, volume, .. } in swaps {
        let extents = (volume.size.0 / geometry.extent.0).min(share);
        let runs = free.take(0, u32::try_from(extents).unwrap_or(u32::MAX)).unwrap_or_default();
        let about = serde_json::to_vec(&swap).expect("numbers and texts are always JSON");
        let object = index.objects.iter_mut().find(|object| object.kind == SWAP && object.about == about);
        if let Some(object) = object.filter(|_| extents > 0) {
            object.runs = runs;
        }
    }
}

/// Gives that room back.
pub fn unplace(index: &mut Index) {
    index.objects.iter_mut().filter(|object| object.kind == SWAP).for_each(|object| object.runs.clear());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::ram::RamDisk;
    use crate::units::MIB;

    fn volume(number: &str, start: u64, left_out: bool) -> Volume {
        Volume {
            id: format!("id-{number}"),
            name: number.to_owned(),
            label: String::new(),
            start: Bytes(start),
            size: Bytes(MIB),
            left_out,
            group: false,
        }
    }

    #[test]
    fn what_mkswap_makes_is_read_and_made() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(MIB).unwrap();
        let uuid = "3a1f8a5e-9f0e-4b57-8f0c-2d7c6a1b0001";
        let path = file.path().to_str().unwrap();
        crate::mount::tool::run("mkswap", "util-linux", &["-U", uuid, "-L", "night", "-p", "4096", path])
            .unwrap();
        let made = std::fs::read(path).unwrap();
        let disk = RamDisk::from_bytes("ram", made.clone());
        let swap = Swap::of(&disk, &volume("2", 0, true)).unwrap().unwrap();
        assert_eq!((swap.uuid.to_string().as_str(), swap.label.as_str(), swap.page), (uuid, "night", PAGE));
        assert!(swap.header(Bytes(MIB)).unwrap()[..] == made[..PAGE as usize]);
    }

    #[test]
    fn a_machine_that_went_to_sleep_does_not_wake() {
        let uuid = Uuid::from_u128(7);
        let swap = Swap { volume: "id-2".to_owned(), uuid, label: String::new(), page: PAGE };
        let with = |magic: &[u8]| {
            let mut bytes = vec![9; 2 << 20];
            bytes[(1 << 20) + 4086..][..magic.len()].copy_from_slice(magic);
            RamDisk::from_bytes("ram", bytes)
        };
        let volume = volume("2", MIB, true);
        let page = |disk: &RamDisk| blocks::read(disk, Bytes(MIB)..Bytes(MIB + PAGE)).unwrap();
        for magic in [&b"S1SUSPEND\0"[..], b"LINHIB0001"] {
            let disk = with(magic);
            assert!(swap.wake(&disk, &volume).unwrap());
            assert!(page(&disk)[..] == swap.header(Bytes(MIB)).unwrap()[..]);
            assert!(!swap.wake(&disk, &volume).unwrap(), "once");
        }
        let disk = with(MAGIC);
        let before = page(&disk);
        assert!(!swap.wake(&disk, &volume).unwrap() && page(&disk) == before, "one that is in use stays");
    }

    #[test]
    fn only_what_is_left_out_is_looked_at() {
        let mut bytes = vec![0; 3 << 20];
        for at in [0, 1 << 20] {
            bytes[at + 4086..at + 4096].copy_from_slice(MAGIC);
        }
        let disk = RamDisk::from_bytes("ram", bytes);
        let volumes = [volume("1", 0, false), volume("2", MIB, true), volume("3", 2 * MIB, true)];
        let found = Swap::left_out(&disk, &volumes, &[]);
        assert_eq!(found.iter().map(|swap| swap.volume.as_str()).collect::<Vec<_>>(), ["id-2"]);
    }
}

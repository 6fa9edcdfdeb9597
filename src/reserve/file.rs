// SPDX-License-Identifier: MIT OR Apache-2.0
//! The file itself: made once, looked at before and after every moment that is copied.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{FallocateFlags, OFlag, fallocate};
use serde::{Deserialize, Serialize};

use super::place::Place;
use super::{NAME, whole_extents};
use crate::error::{Error, Kind, Result};
use crate::pair::mounts::{Mount, mounts};
use crate::pair::sysfs::{DevNum, Roots};
use crate::pair::volumes::Volume;
use crate::sys::fiemap;
use crate::units::Bytes;

const MAKING: &str = "making the reserve";
const CHECKING: &str = "checking the reserve";

/// A reserve as it is recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reserve {
    /// The file.
    pub path: PathBuf,
    /// The id of the volume it lies on.
    pub volume: String,
    /// Its inode number.
    pub inode: u64,
    /// Where it lies on the primary, in the order of the file: start and end in bytes.
    pub ranges: Vec<(Bytes, Bytes)>,
    /// What of that is left out of the copy: the whole extents of the image in it, sorted.
    pub left_out: Vec<(Bytes, Bytes)>,
}

impl Reserve {
    /// What is left out of the copy.
    pub fn left_out(&self) -> Vec<Range<Bytes>> {
        self.left_out.iter().map(|&(start, end)| start..end).collect()
    }

    /// Leaves out what lies in whole extents of `unit` bytes.
    fn leave_out(mut self, unit: Bytes) -> Self {
        let whole = whole_extents(&self.sorted(), unit);
        self.left_out = whole.into_iter().map(|range| (range.start, range.end)).collect();
        self
    }

    fn sorted(&self) -> Vec<Range<Bytes>> {
        let mut ranges: Vec<_> = self.ranges.iter().map(|&(start, end)| start..end).collect();
        ranges.sort_by_key(|range| range.start);
        ranges
    }

    /// Whether nothing is left out that does not lie in it; the record may have been edited.
    fn holds_all(&self) -> bool {
        let ranges = whole_extents(&self.sorted(), Bytes(1));
        let inside =
            |out: &Range<Bytes>| ranges.iter().any(|all| all.start <= out.start && out.end <= all.end);
        self.left_out().iter().all(inside)
    }
}

/// Makes a reserve of `size` bytes and leaves out the whole extents of `unit` bytes in it. What fails leaves no
/// file.
pub fn make(place: &Place, size: Bytes, unit: Bytes) -> Result<Reserve> {
    let path = place.mount.join(NAME);
    let failed = |error: io::Error| Error::device(MAKING, path.display().to_string(), &error);
    let new = File::options().write(true).create_new(true).mode(0o400).open(&path);
    let file = new.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            let next = format!("if no pair needs it: chattr -i {0}; rm {0}", path.display());
            Error::new(Kind::Refused, MAKING, "it exists already").on(path.display().to_string()).next(next)
        }
        _ => failed(error),
    })?;
    let made = fill(&file, &path, place, size);
    if made.is_err() {
        remove(&path);
    }
    made.map(|reserve| reserve.leave_out(unit))
        .map_err(|error| error.left("nothing was written to the DPSR disk"))
}

fn fill(file: &File, path: &Path, place: &Place, size: Bytes) -> Result<Reserve> {
    let failed = |error: io::Error| Error::device(MAKING, path.display().to_string(), &error);
    let len = i64::try_from(size.0).map_err(|_| failed(io::ErrorKind::InvalidInput.into()))?;
    fallocate(file, FallocateFlags::empty(), 0, len).map_err(|error| failed(error.into()))?;
    file.sync_all().map_err(failed)?;
    fiemap::set_immutable(file, true).map_err(failed)?;
    let ranges = ranges(file, path, place.start)?;
    let inode = file.metadata().map_err(failed)?.ino();
    let (path, volume) = (path.to_owned(), place.volume.clone());
    Ok(Reserve { path, volume, inode, ranges, left_out: Vec::new() })
}

/// Removes a reserve that nothing was left out for. What fails is told, for the file takes room.
pub fn remove(path: &Path) {
    let removed = File::open(path).and_then(|file| fiemap::set_immutable(&file, false));
    if let Err(error) = removed.and_then(|()| fs::remove_file(path)) {
        tracing::warn!("removing {}: {error}, ignoring: it takes room for nothing", path.display());
    }
}

/// Where the file lies on the primary; refused where that cannot be told from its map.
fn ranges(file: &File, path: &Path, start: Bytes) -> Result<Vec<(Bytes, Bytes)>> {
    let refuse = |why: &str| Error::new(Kind::Refused, CHECKING, why).on(path.display().to_string());
    let failed = |error: io::Error| Error::device(CHECKING, path.display().to_string(), &error);
    // A filesystem that knows no realtime device does not know the question.
    if fiemap::is_realtime(file).unwrap_or(false) {
        return Err(refuse("it lies on a realtime device"));
    }
    let extents = fiemap::extents(file).map_err(failed)?;
    if extents.iter().any(|extent| !extent.plain) {
        return Err(refuse("its filesystem does not say plainly where it lies"));
    }
    Ok(joined(&extents).into_iter().map(|(from, to)| (start + from, start + to)).collect())
}

/// The stretches of the device that extents lie on. Neighbours in the file and on the device are one: a
/// filesystem may tell of them in more pieces after the next mount.
fn joined(extents: &[fiemap::FileExtent]) -> Vec<(Bytes, Bytes)> {
    let mut joined: Vec<(Bytes, Bytes)> = Vec::new();
    let mut at = 0;
    for extent in extents {
        let (from, to) = (Bytes(extent.device), Bytes(extent.device + extent.len));
        match joined.last_mut() {
            Some((_, end)) if *end == from && at == extent.at => *end = to,
            _ => joined.push((from, to)),
        }
        at = extent.at + extent.len;
    }
    joined
}

/// Asserts that the reserve is where it was when the pair was made: the same immutable file, on the same
/// volume, at the same places. `path` is where its filesystem is mounted now, and `is_volume` says whether that is
/// a mount of the volume.
pub fn check(
    roots: &Roots,
    volume: &Volume,
    reserve: &Reserve,
    path: &Path,
    is_volume: impl Fn(&Mount) -> bool,
) -> Result<()> {
    let name = path.display().to_string();
    let refuse = |why: &str| {
        Error::new(Kind::Refused, CHECKING, why).on(&name).left("the last generation is intact").next(
            "nothing can be left out for it any more: pair anew with 'dpsr init --reserve', or remove \
             [reserve] from the record of the pair where the DPSR disk has room for all",
        )
    };
    let failed =
        |error: io::Error| Error::device(CHECKING, &name, &error).left("the last generation is intact");
    let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
    let file = File::options().read(true).custom_flags(flags).open(path);
    let file = file.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => refuse("it is not there any more"),
        _ => failed(error),
    })?;
    let found = file.metadata().map_err(failed)?;
    if !found.is_file() || found.ino() != reserve.inode {
        return Err(refuse("it is another file"));
    }
    if !fiemap::is_immutable(&file).map_err(failed)? {
        return Err(refuse("it is not immutable any more"));
    }
    let device = DevNum::of(found.dev());
    if !mounts(roots).iter().any(|mount| mount.node.number == device && is_volume(mount)) {
        return Err(refuse("it does not lie on the volume it was made on"));
    }
    if ranges(&file, path, volume.range.start)? != reserve.ranges {
        return Err(refuse("it has moved on its disk"));
    }
    if !reserve.holds_all() {
        return Err(refuse("its record leaves out more than lies in it"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_one_stretch_are_one() {
        let piece = |at, device, len| fiemap::FileExtent { at, device, len, plain: true };
        let pieces = [piece(0, 100, 10), piece(10, 110, 5), piece(15, 300, 5), piece(30, 305, 5)];
        let bytes = |from, to| (Bytes(from), Bytes(to));
        assert_eq!(joined(&pieces), [bytes(100, 115), bytes(300, 305), bytes(305, 310)]);
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel's memory that a generation takes while it is attached, reckoned before anything is loaded: a
//! table that is too large would push out what the machine works with.

use std::fs;

use crate::error::{Error, Kind, Result};
use crate::pair::sysfs::Roots;
use crate::units::{Bytes, CHUNK, Generation, KIB};
use crate::view::kernel::CowLayout;

/// An exception in the kernel's hash (`struct dm_exception`, 32 bytes), and its share of the hash.
const EXCEPTION: u64 = 40;
/// A row of a table (`struct dm_target`, its context, its key in the tree of rows).
const ROW: u64 = 512;

/// What attaching with `layout` and `rows` rows of tables takes: about 0.5 MiB for each GiB of exceptions in
/// the kernel's hash, half as much again for the areas they are loaded from.
pub fn needed(layout: &CowLayout, rows: usize) -> Bytes {
    Bytes(layout.exceptions * EXCEPTION + (1 + layout.areas()) * CHUNK + rows as u64 * ROW)
}

/// Refuses what would take more than half of what is available.
pub fn check(roots: &Roots, generation: Generation, needed: Bytes) -> Result<()> {
    let text = fs::read_to_string(roots.proc.join("meminfo")).unwrap_or_default();
    let Some(available) = available(&text) else { return Ok(()) };
    if needed.0 <= available.0 / 2 {
        return Ok(());
    }
    let why = format!(
        "its exceptions take {needed} of memory, and {available} are available, of which no more than half \
         may go"
    );
    Err(Error::new(Kind::NoRoom, format!("attaching generation {generation}"), why)
        .left("nothing was attached")
        .next("attach a younger generation, or export this one"))
}

/// `MemAvailable` of `/proc/meminfo`, in KiB there. (proc_meminfo(5))
fn available(meminfo: &str) -> Option<Bytes> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let number: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    number.checked_mul(KIB).map(Bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{GIB, MIB};

    #[test]
    fn about_half_a_mebibyte_for_each_gibibyte() {
        let layout = CowLayout { exceptions: 16 * GIB / CHUNK, saved: vec![] };
        assert!((10 * MIB..20 * MIB).contains(&needed(&layout, 10).0), "{}", needed(&layout, 10));
    }

    #[test]
    fn both_numbers_are_said() {
        let dir = tempfile::tempdir().unwrap();
        let roots = Roots { proc: dir.path().into(), ..Roots::default() };
        let meminfo = "MemTotal:  2048 kB\nMemFree: 3 kB\nMemAvailable:     1024 kB\n";
        fs::write(dir.path().join("meminfo"), meminfo).unwrap();
        assert!(check(&roots, Generation(3), Bytes(512 * KIB)).is_ok());
        let error = check(&roots, Generation(3), Bytes(600 * KIB)).unwrap_err();
        insta::assert_snapshot!(error, @"attaching generation 3: its exceptions take 600 KiB of memory, and 1 MiB are available, of which no more than half may go; nothing was attached; attach a younger generation, or export this one");
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Ids that have come to mean another partition.
//!
//! The id of a partition in a DOS table is made of its number, and deleting a logical partition renumbers
//! those behind it. What the record of a pair says by such an id then holds for another partition; that it is
//! left out would cost its data, and nobody would be told.

use crate::error::{Error, Kind, Result};
use crate::format::index::Volume;
use crate::units::Bytes;

/// Refuses to leave out what was copied under another id, as long as nobody has said that it is meant.
/// `record` is the file to correct.
pub(super) fn check(old: &[Volume], new: &[Volume], primary: &str, record: &str) -> Result<()> {
    let Some((now, before)) = misplaced(old, new) else { return Ok(()) };
    let why = format!(
        "its id {} is that of another partition now, and it lies where the newest generation has volume {}",
        now.id, before.name
    );
    Err(Error::new(Kind::Refused, format!("leaving out volume {} of", now.name), why)
        .on(primary)
        .left("nothing was written")
        .next(format!(
            "correct leave_out in {record}; if it is meant, take the id out there, sync once, and put it back"
        )))
}

/// A volume left out by the same id as before that lies where another one was copied, and that one. A
/// neighbour that stays where it starts has only made room, and what was copied by this very id before was
/// added by hand: both are meant.
fn misplaced<'a>(old: &'a [Volume], new: &'a [Volume]) -> Option<(&'a Volume, &'a Volume)> {
    let same = |volume: &Volume, all: &'a [Volume]| all.iter().find(|other| other.id == volume.id);
    let stays = |volume: &Volume| same(volume, new).is_some_and(|now| now.start == volume.start);
    let by_number = new.iter().filter(|volume| volume.left_out && is_number(&volume.id));
    let mut known = by_number.filter(|volume| same(volume, old).is_some_and(|before| before.left_out));
    known.find_map(|now| {
        let mut copied = old.iter().filter(|other| !other.left_out && other.id != now.id && !stays(other));
        copied.find(|other| overlap(now, other)).map(|before| (now, before))
    })
}

fn overlap(a: &Volume, b: &Volume) -> bool {
    // What lies outside the partitions has no size here, and no place of its own.
    let any = a.size > Bytes::ZERO && b.size > Bytes::ZERO;
    any && a.start < b.start + b.size && b.start < a.start + a.size
}

/// Whether an id is made of a signature and a number, `ssssssss-NN`. That of a GPT partition stays with it.
fn is_number(id: &str) -> bool {
    id.split_once('-').is_some_and(|(signature, number)| signature.len() == 8 && !number.contains('-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(id: &str, start: u64, size: u64, left_out: bool) -> Volume {
        let name = id.rsplit('-').next().unwrap().trim_start_matches('0').to_owned();
        let (start, size) = (Bytes(start), Bytes(size));
        Volume { id: id.into(), name, label: String::new(), start, size, left_out, group: false }
    }

    fn dos(parts: &[(u32, u64, u64, bool)]) -> Vec<Volume> {
        let part =
            |&(number, start, size, out): &_| volume(&format!("cafe0001-{number:02x}"), start, size, out);
        std::iter::once(volume("table", 0, 0, false)).chain(parts.iter().map(part)).collect()
    }

    fn found(old: &[(u32, u64, u64, bool)], new: &[(u32, u64, u64, bool)]) -> Option<(String, String)> {
        let (old, new) = (dos(old), dos(new));
        misplaced(&old, &new).map(|(now, before)| (now.name.clone(), before.name.clone()))
    }

    const DATA_OUT_HOME: [(u32, u64, u64, bool); 3] =
        [(5, 100, 100, false), (6, 200, 100, true), (7, 300, 100, false)];

    #[test]
    fn a_partition_renumbered_to_one_left_out_is_found() {
        let seen = |new: &[_]| found(&DATA_OUT_HOME, new);
        let home = Some(("6".to_owned(), "7".to_owned()));
        assert_eq!(seen(&[(5, 200, 100, false), (6, 300, 100, true)]), home);
        // Number 5 was left out, and the next one has grown over its place.
        let out_home = [(5, 100, 100, true), (6, 200, 100, false)];
        let grown = found(&out_home, &[(5, 100, 200, true)]);
        assert_eq!(grown, Some(("5".to_owned(), "6".to_owned())));
    }

    #[test]
    fn what_is_meant_is_not() {
        let seen = |new: &[_]| found(&DATA_OUT_HOME, new);
        // As before, and without the last one.
        assert_eq!(seen(&DATA_OUT_HOME), None);
        assert_eq!(seen(&DATA_OUT_HOME[..2]), None);
        // Added by hand, and corrected after the renumbering.
        assert_eq!(seen(&[(5, 100, 100, true), (6, 200, 100, true), (7, 300, 100, true)]), None);
        assert_eq!(seen(&[(5, 200, 100, true), (6, 300, 100, false)]), None);
        // Grown into what its neighbour, which is there still, has given up; and moved to where nothing was.
        assert_eq!(seen(&[(5, 100, 50, false), (6, 150, 150, true), (7, 300, 100, false)]), None);
        assert_eq!(seen(&[(5, 100, 100, false), (6, 400, 100, true), (7, 300, 100, false)]), None);
    }

    #[test]
    fn the_id_of_a_gpt_partition_stays_with_it() {
        let (a, b) = ("11111111-0000-0000-0000-00000000000a", "22222222-0000-0000-0000-00000000000a");
        let old = [volume(a, 100, 100, true), volume(b, 200, 100, false)];
        assert_eq!(misplaced(&old, &[volume(a, 200, 100, true)]), None);
    }

    #[test]
    fn the_refusal_names_the_file_and_the_way_out() {
        let new = dos(&[(5, 200, 100, false), (6, 300, 100, true)]);
        let error = check(&dos(&DATA_OUT_HOME), &new, "/dev/sda", "/etc/dpsr/system.toml").unwrap_err();
        assert_eq!(error.kind(), Kind::Refused);
        insta::assert_snapshot!(error, @"leaving out volume 6 of /dev/sda: its id cafe0001-06 is that of another partition now, and it lies where the newest generation has volume 7; nothing was written; correct leave_out in /etc/dpsr/system.toml; if it is meant, take the id out there, sync once, and put it back");
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! What would happen if the primary died now, and how the copy is.

use std::path::Path;

use serde::Serialize;

use crate::changes::Mode;
use crate::failover::fill::Fill;
use crate::failover::stays::Stays;
use crate::failures::{Failures, Notes};
use crate::format::geometry::Geometry;
use crate::format::index::{Record, Volume, extents};
use crate::format::moment::Moment;
use crate::format::superblock::State;
use crate::format::undo::Layout;
use crate::open::{OpenStore, writer};
use crate::store::contents::Contents;
use crate::store::room::room;
use crate::units::{Bytes, Generation};

/// How many of the newest generations tell the present rate.
const RATE_OVER: usize = 10;

/// One generation in a list.
#[derive(Clone, Debug, Serialize)]
pub struct GenerationStatus {
    /// Its number.
    pub generation: Generation,
    /// When it was taken: seconds since 1970, UTC.
    pub time: u64,
    /// `current` or `history`.
    pub state: &'static str,
    /// Whether it is never dropped.
    pub pinned: bool,
    /// What is known of its moment: `quiet` and `one_instant`.
    #[serde(flatten)]
    pub moment: Moment,
    /// How it was made: `full`, `digest` or `compare`.
    pub mode: &'static str,
    /// Bytes in chunks that had changed since the generation before.
    pub bytes_changed: Bytes,
    /// Bytes written to the image to make it.
    pub bytes_written_image: Bytes,
    /// Room its undo store takes; none for the newest.
    pub undo_size: Bytes,
}

/// The generations of a store, oldest first.
pub fn generations(contents: &Contents) -> Vec<GenerationStatus> {
    let current = contents.current();
    let extent = contents.superblock.geometry.extent.0;
    let listed =
        contents.index.generations.iter().filter(|r| current.is_some_and(|last| r.generation <= last));
    let status = |record: &Record| GenerationStatus {
        generation: record.generation,
        time: record.time,
        state: if Some(record.generation) == current { "current" } else { "history" },
        pinned: record.pinned,
        moment: record.moment,
        mode: Mode::word_of(record.made.mode),
        bytes_changed: record.made.changed,
        bytes_written_image: record.made.image,
        undo_size: Bytes(record.undo.as_ref().map_or(0, |undo| extents(&undo.runs) * extent)),
    };
    listed.map(status).collect()
}

/// One volume of the newest generation.
#[derive(Clone, Debug, Serialize)]
pub struct VolumeStatus {
    /// Its number.
    pub name: String,
    /// Its identity.
    pub id: String,
    /// Its label.
    pub label: String,
    /// Its size.
    pub size: Bytes,
    /// Whether it is left out.
    pub left_out: bool,
    /// The time it stands at; absent without a complete generation.
    pub time: Option<u64>,
    /// Where it stands on the DPSR disk, in bytes, if it is all in one piece there: `losetup -o` reads it
    /// even without dpsr.
    pub offset: Option<Bytes>,
}

/// Room for history.
#[derive(Clone, Debug, Serialize)]
pub struct RoomStatus {
    /// Bytes nobody uses.
    pub free: Bytes,
    /// Bytes that history takes and that may make way.
    pub droppable: Bytes,
    /// How many generations there is room for in all at the present rate; absent without a rate.
    pub generations: Option<u64>,
}

/// The last scrub.
#[derive(Clone, Debug, Serialize)]
pub struct ScrubStatus {
    /// When it ended: seconds since 1970, UTC.
    pub time: u64,
    /// Damaged blocks it left.
    pub damaged: u64,
}

/// Everything `dpsr status` tells.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// The name of the pair.
    pub pair: String,
    /// The primary, by the path recorded.
    pub primary: String,
    /// The DPSR disk, by the path it was found at.
    pub dpsr: String,
    /// `clean`, `updating`, `filling`, `no-valid-generation`, `live`, `live-without-history`, `live-aside` or
    /// `returning`.
    pub state: &'static str,
    /// The newest complete generation.
    pub generation: Option<Generation>,
    /// Seconds since it was taken.
    pub age: Option<u64>,
    /// What is known of its moment: `quiet` and `one_instant`.
    #[serde(flatten)]
    pub moment: Option<Moment>,
    /// What would happen if the primary died now, in one line.
    pub if_the_disk_died_now: String,
    /// The process that is writing to the store right now.
    pub writer: Option<String>,
    /// Superblock copies that are damaged or stale.
    pub stale_superblocks: u32,
    /// Index blocks of which one copy is bad.
    pub bad_index_blocks: u64,
    /// The volumes.
    pub volumes: Vec<VolumeStatus>,
    /// Room for history.
    pub history: RoomStatus,
    /// The last scrub, if there was one.
    pub scrub: Option<ScrubStatus>,
    /// The syncs that failed since the last one that succeeded, where any did and it was noted.
    pub failed: Option<Failures>,
    /// How full the room is of a machine that runs from the copy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub live: Option<Fill>,
    /// Volumes that a machine which runs from the copy has on its primary still, by number.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stays: Vec<String>,
    /// What somebody has to do something about before there is another generation.
    pub red: Option<String>,
}

/// The status of `store` at `now`, seconds since 1970; `notes` is where failed syncs are noted.
pub fn status(store: &OpenStore, notes: &Path, now: u64) -> Status {
    let contents = &store.contents;
    let generation = contents.current();
    let record = generation.and_then(|generation| contents.index.record(generation));
    let age = record.map(|record| now.saturating_sub(record.time));
    let scrub = contents.index.scrub;
    let live = Fill::of(&store.config, contents.superblock.state);
    let failed = Notes::of(notes, &store.config).failures(record.map(|record| record.time));
    Status {
        pair: store.config.name.clone(),
        primary: store.config.primary.path.display().to_string(),
        dpsr: store.dpsr.probe.name(),
        state: contents.superblock.state.word(),
        generation,
        age,
        moment: record.map(|record| record.moment),
        if_the_disk_died_now: verdict(contents, record, age),
        writer: writer(store),
        stale_superblocks: contents.stale_superblocks,
        bad_index_blocks: contents.bad_index_blocks,
        volumes: volumes(contents, record),
        history: history(contents, store.config.history),
        scrub: (scrub.time > 0).then_some(ScrubStatus { time: scrub.time, damaged: scrub.damaged }),
        red: live.and_then(|live| filling(contents, live)).or(failed.as_ref().and_then(Failures::red)),
        failed,
        live,
        stays: stays(contents),
    }
}

fn stays(contents: &Contents) -> Vec<String> {
    let Ok(Some(stays)) = Stays::in_store(contents) else { return Vec::new() };
    let volumes = contents.running_map().volumes.iter().filter(|volume| stays.has(volume));
    volumes.map(|volume| volume.name.clone()).collect()
}

/// What is lost when the room of a machine that runs from the copy is full.
fn filling(contents: &Contents, live: Fill) -> Option<String> {
    let lost = match contents.aside() {
        Some(_) => "the system stops, and what it has written is lost",
        None => "all generations are lost, and the system goes on",
    };
    live.is_red().then(|| {
        format!("the room for what this system changes is nearly full; once it is, {lost}: 'dpsr failback' ends that")
    })
}

fn verdict(contents: &Contents, record: Option<&Record>, age: Option<u64>) -> String {
    let live = match contents.superblock.state {
        State::Live(from) | State::LiveNoHistory(from) => Some(from),
        _ => contents.aside(),
    };
    if let Some(from) = live {
        let but = match &stays(contents)[..] {
            [] => String::new(),
            stays => format!(" (but for volume {}, which stays on the primary)", stays.join(", ")),
        };
        return format!(
            "The system runs, or ran, from this copy, since generation {from}: it is the only place where what was written since is{but}. If this disk died now, that would be lost."
        );
    }
    let (Some(record), Some(age)) = (record, age) else {
        return match contents.superblock.state {
            State::NoValid { .. } => {
                "If the primary died now, everything would be lost: a copy without undo \
                has not ended yet, and there is no valid generation."
                    .into()
            }
            _ => "If the primary died now, everything would be lost: the first copy is not complete yet."
                .into(),
        };
    };
    let volumes = &contents.map_of(record).volumes;
    let oldest = age + record.time.saturating_sub(oldest(record, volumes));
    let behind = if oldest > age { format!(" (some volumes {} ago)", span(oldest)) } else { String::new() };
    let roll = match contents.superblock.state {
        State::Updating { .. } => " An unfinished sync would be rolled back first.",
        _ => "",
    };
    let left_out = volumes.iter().filter(|volume| volume.left_out).count();
    let lost = match left_out {
        0 => String::new(),
        1 => ", and so would 1 volume that is left out".into(),
        n => format!(", and so would {n} volumes that are left out"),
    };
    let rotten = match contents.index.scrub.damaged {
        0 => String::new(),
        1 => " The last scrub left a damaged block: 'dpsr scrub' tells what it belongs to.".to_owned(),
        n => format!(" The last scrub left {n} damaged blocks: 'dpsr scrub' tells what they belong to."),
    };
    format!(
        "If the primary died now, generation {} from {} ago{behind} can be restored; whatever was written since \
         would be lost{lost}.{rotten}{roll}",
        record.generation,
        span(age)
    )
}

/// The time of the volume that is furthest behind; one that is left out stands at none, whatever is recorded.
fn oldest(record: &Record, volumes: &[Volume]) -> u64 {
    let times = record.volume_times.iter().zip(volumes).filter(|(_, volume)| !volume.left_out);
    times.map(|(time, _)| *time).min().unwrap_or(record.time)
}

/// A time span for people: the largest unit that fits, and the next.
pub fn span(seconds: u64) -> String {
    let units = [(86400, "d"), (3600, "h"), (60, "min"), (1, "s")];
    let Some(first) = units.iter().position(|(unit, _)| seconds >= *unit) else { return "0 s".into() };
    let (unit, name) = units[first];
    let head = format!("{} {name}", seconds / unit);
    match units.get(first + 1) {
        Some((small, small_name)) if seconds % unit >= *small && first < 2 => {
            format!("{head} {} {small_name}", seconds % unit / small)
        }
        _ => head,
    }
}

fn volumes(contents: &Contents, record: Option<&Record>) -> Vec<VolumeStatus> {
    let map = record.map_or_else(|| contents.newest_map(), |record| contents.map_of(record));
    let image = contents.image(map);
    let offset = |volume: &Volume| {
        let stretch = image.stretch(volume.start);
        let whole = volume.size > Bytes::ZERO && stretch.range.end >= volume.start + volume.size;
        stretch.at.filter(|_| whole && !volume.left_out)
    };
    let status = |(i, volume): (usize, &Volume)| VolumeStatus {
        name: volume.name.clone(),
        id: volume.id.clone(),
        label: volume.label.clone(),
        size: volume.size,
        left_out: volume.left_out,
        time: record.filter(|_| !volume.left_out).and_then(|record| record.volume_times.get(i).copied()),
        offset: offset(volume),
    };
    map.volumes.iter().enumerate().map(status).collect()
}

/// Room for history, of which `limit` is what the pair may take.
fn history(contents: &Contents, limit: Option<Bytes>) -> RoomStatus {
    let geometry = contents.superblock.geometry;
    let room = room(&contents.index, &geometry);
    let most = (room.free + room.droppable).min(limit.unwrap_or(Bytes(u64::MAX)));
    // Where there is none, nothing is told of how many there could be.
    let any = contents.current().is_some();
    let rate = rate(&contents.index.generations, &geometry).filter(|_| any);
    let generations = rate.map(|rate| most.0 / rate.0);
    RoomStatus { free: room.free, droppable: room.droppable, generations }
}

/// What history takes for one generation, as the newest ones tell; absent where none of them took anything.
fn rate(generations: &[Record], geometry: &Geometry) -> Option<Bytes> {
    // The last one has no undo store yet. Another without one took nothing, and counts as that: it is there
    // because there was a sync.
    let sizes = generations.iter().rev().skip(1).take(RATE_OVER).map(|record| {
        let layout = record.undo.as_ref().map(|undo| Layout { entries: undo.entries });
        layout.map_or(0, |layout| geometry.extents_for(layout.size()) * geometry.extent.0)
    });
    let sizes: Vec<u64> = sizes.collect();
    let average = sizes.iter().sum::<u64>().checked_div(sizes.len() as u64)?;
    (average > 0).then_some(Bytes(average))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::index::{Made, Undo};
    use crate::units::MIB;

    fn record(entries: Option<u64>) -> Record {
        Record {
            generation: Generation(1),
            time: 100,
            map: 1,
            pinned: false,
            moment: Moment::default(),
            volume_times: vec![40, 70, 100],
            root: [0; 32],
            made: Made::default(),
            undo: entries.map(|entries| Undo { nonce: 1, entries, image_entries: entries, runs: vec![] }),
        }
    }

    fn volume(left_out: bool) -> Volume {
        Volume {
            name: String::new(),
            id: String::new(),
            label: String::new(),
            start: Bytes::ZERO,
            size: Bytes(MIB),
            left_out,
            group: false,
        }
    }

    #[test]
    fn a_sync_that_changed_nothing_counts() {
        let geometry = Geometry::choose(Bytes(64 * MIB)).unwrap();
        let rate = |undos: &[Option<u64>]| {
            rate(&undos.iter().map(|undo| record(*undo)).collect::<Vec<_>>(), &geometry)
        };
        let one = Bytes(geometry.extents_for(Layout { entries: 9 }.size()) * geometry.extent.0);
        let some = |divisor: u64| Some(Bytes(one.0 / divisor));
        assert_eq!(rate(&[Some(9), Some(9), None]), some(1));
        assert_eq!(rate(&[None, Some(9), None, None, None]), some(4));
        assert_eq!(rate(&[&[Some(9); 10][..], &[None; 10]].concat()), some(10), "nine of ten took nothing");
        assert_eq!([rate(&[]), rate(&[None]), rate(&[None; 5])], [None; 3]);
        assert_eq!(rate(&[&[Some(9); 10][..], &[None; 11]].concat()), None, "what is long ago tells nothing");
    }

    #[test]
    fn a_volume_that_is_left_out_is_not_behind() {
        let volumes = |left_out: [bool; 3]| left_out.map(volume);
        assert_eq!(oldest(&record(None), &volumes([false; 3])), 40);
        assert_eq!(oldest(&record(None), &volumes([true, false, false])), 70);
        assert_eq!(oldest(&record(None), &volumes([true; 3])), 100);
    }

    #[test]
    fn spans_read_well() {
        let shown: Vec<_> = [0, 59, 60, 3600, 3660, 90_000, 86_400 * 40].map(span).into();
        assert_eq!(shown, ["0 s", "59 s", "1 min", "1 h", "1 h 1 min", "1 d 1 h", "40 d"]);
    }
}

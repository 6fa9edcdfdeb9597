// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is damaged on the DPSR disk does not become sound by a sync: it is replaced, or the sync is refused.
#![allow(clippy::unwrap_used)]

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dpsr::changes::Mode;
use dpsr::changes::source::Moving;
use dpsr::disk::ram::RamDisk;
use dpsr::disk::whole::read_exact_at;
use dpsr::disk::{ReadDisk, WriteDisk};
use dpsr::error::{Error, Kind};
use dpsr::format::superblock::Owner;
use dpsr::progress::Silent;
use dpsr::scrub::{Report, What, check, scrub};
use dpsr::sync::{self, Request, sync};
use dpsr::sys::buffer::Buffer;
use dpsr::units::{Bytes, CHUNK, Chunk, KIB, MIB, PAGE};

use crate::world::{World, stamped, volume};

const SIZE: usize = 6 * MIB as usize;
const MODES: [Mode; 3] = [Mode::Digest, Mode::Compare, Mode::Full];
/// Where volume 2 ends and volume 3 begins: 20 KiB into chunk 32.
const BORDER: usize = 2 * MIB as usize + 20 * KIB as usize;

/// One generation of two volumes that meet inside of a chunk.
fn world() -> World {
    let border = BORDER as u64;
    let volumes = vec![
        volume("table", 0, 0, false),
        volume("2", MIB, border - MIB, false),
        volume("3", border, 5 * MIB - border, false),
    ];
    let mut world = World::new(stamped(SIZE, 1), volumes, 40 * MIB, |disk| Arc::new(disk));
    world.sync(Mode::Digest).unwrap();
    world
}

/// Where byte `at` of the newest image stands on the DPSR disk.
fn place(world: &World, at: usize) -> u64 {
    let contents = world.contents();
    contents.image(contents.newest_map()).stretch(Bytes(at as u64)).at.unwrap().0
}

fn rot(world: &World, at: u64) {
    let mut sector = Buffer::new(512).unwrap();
    let start = Bytes(at / 512 * 512);
    world.disks.dpsr.read_at(start, &mut sector).unwrap();
    sector[(at % 512) as usize] ^= 4;
    world.disks.dpsr.write_at(start, &sector).unwrap();
}

fn bytes(world: &World, range: Range<u64>) -> Buffer {
    let mut bytes = Buffer::new((range.end - range.start) as usize).unwrap();
    read_exact_at(&world.disks.dpsr, Bytes(range.start), &mut bytes).unwrap();
    bytes
}

fn all(world: &World) -> Buffer {
    bytes(world, 0..world.disks.dpsr.size().0)
}

/// Page 0 of the digest table, which has all digests of the primary.
fn page(world: &World) -> Range<u64> {
    let at = world.contents().table().stretch(Bytes(0)).at.unwrap().0;
    at..at + PAGE
}

fn only(world: &World, id: &str, mode: Mode) -> Request {
    let time = world.time + 30;
    Request { moving: Moving::Only(vec![id.into()]), time, ..world.request(mode) }
}

fn sync_only(world: &World, id: &str, mode: Mode) -> Result<sync::Report, Error> {
    sync(&world.disks, &only(world, id, mode), &Silent)
}

fn checked(world: &World) -> Report {
    let disk: Arc<dyn ReadDisk> = world.disks.dpsr.clone();
    check(&disk, &world.disks.partition, None, &Silent).unwrap()
}

fn repaired(world: &World) -> Report {
    let request = dpsr::scrub::Request { repair: true, primary: None, table: None, time: 5000 };
    scrub(&world.disks.dpsr, &world.disks.partition, Owner::default(), &request, &Silent).unwrap()
}

/// Whether anything of `generation` is damaged, or it reads as something else.
fn is_sound(world: &World, generation: u64) -> bool {
    let blamed = |one: &dpsr::scrub::Damage| {
        one.affected.is_some_and(|range| (range.oldest.0..=range.newest.0).contains(&generation))
    };
    let (found, damaged) = world.read_what_is_there(generation).unwrap();
    let reads = damaged == 0 && found == world.expected[&generation];
    let sound = !checked(world).damages.iter().any(blamed);
    assert!(reads || !sound, "generation {generation} is called sound, and reads as something else");
    sound
}

#[test]
fn what_has_rotted_beside_a_volume_that_moves_alone_is_refused() {
    for mode in MODES {
        let mut world = world();
        rot(&world, place(&world, BORDER - 7000));
        world.write(BORDER + 100, b"moved on");
        let before = all(&world);
        for dry_run in [true, false] {
            let request = Request { dry_run, ..only(&world, "3", mode) };
            let error = sync(&world.disks, &request, &Silent).unwrap_err();
            assert_eq!(error.kind(), Kind::Damaged, "{mode:?}");
            let told = error.to_string();
            for said in ["64 KiB at 2097152", "volume 2", "'dpsr scrub --repair'", "'dpsr sync --compare'"] {
                assert!(told.contains(said), "{said}: {told}");
            }
            assert!(!told.contains("intact"), "{told}");
        }
        assert!(all(&world)[..] == before[..], "{mode:?}: something was written");
        // The way out that it names.
        let report = world.sync(Mode::Compare).unwrap();
        assert_eq!((report.generation.0, report.rotten_chunks), (2, 1));
        assert!(is_sound(&world, 2) && !is_sound(&world, 1));
        world.write(BORDER + 300, b"and on");
        assert_eq!(sync_only(&world, "3", mode).unwrap().generation.0, 3);
        world.expected.insert(3, world.primary.clone());
        assert!(is_sound(&world, 3));
    }
}

#[test]
fn what_has_rotted_elsewhere_does_not_keep_a_volume_from_moving_alone() {
    for mode in MODES {
        let mut world = world();
        // In a chunk of volume 3 alone, and in one of volume 2 alone.
        rot(&world, place(&world, BORDER + MIB as usize));
        rot(&world, place(&world, BORDER - MIB as usize / 2));
        world.write(BORDER + MIB as usize + 10, b"moved on");
        let report = sync_only(&world, "3", mode).unwrap();
        assert_eq!(report.rotten_chunks, 1, "{mode:?}");
        let blamed: Vec<_> = checked(&world).damages.iter().map(|one| (one.what, one.first)).collect();
        let chunk = |at: usize| at as u64 / CHUNK;
        let kept = (What::Image, chunk(BORDER - MIB as usize / 2));
        assert_eq!(blamed, [kept, (What::UndoImage, chunk(BORDER + MIB as usize))], "{mode:?}");
    }
}

/// A disk that gives a chunk back with a flipped bit, from its `after`th read of that chunk on.
struct Fading {
    disk: RamDisk,
    chunk: AtomicUsize,
    reads: AtomicUsize,
    after: AtomicUsize,
}

impl ReadDisk for Fading {
    fn name(&self) -> &str {
        self.disk.name()
    }
    fn size(&self) -> Bytes {
        self.disk.size()
    }
    fn alignment(&self) -> Bytes {
        self.disk.alignment()
    }
    fn read_at(&self, at: Bytes, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.disk.read_at(at, buffer)?;
        let (start, chunk) = (at.usize(), self.chunk.load(Ordering::Relaxed));
        if (start..start + read).contains(&chunk)
            && self.reads.fetch_add(1, Ordering::Relaxed) >= self.after.load(Ordering::Relaxed)
        {
            buffer[chunk - start] ^= 1;
        }
        Ok(read)
    }
}

impl WriteDisk for Fading {
    fn write_at(&self, at: Bytes, buffer: &[u8]) -> io::Result<usize> {
        self.disk.write_at(at, buffer)
    }
    fn zero(&self, range: Range<Bytes>) -> io::Result<()> {
        self.disk.zero(range)
    }
    fn flush(&self) -> io::Result<()> {
        self.disk.flush()
    }
    fn prove(&self) -> io::Result<()> {
        self.disk.prove()
    }
}

#[test]
fn what_rots_while_a_volume_moves_alone_is_refused_whenever_that_shows() {
    let world = {
        let mut world = world();
        world.write(BORDER + 100, b"moved on");
        world
    };
    let mut expected = world.expected[&1].clone();
    expected[BORDER..5 * MIB as usize].copy_from_slice(&world.primary[BORDER..5 * MIB as usize]);
    let mut refused = 0;
    for after in 0..100 {
        let mut world = world.fork();
        let disk = RamDisk::from_bytes("dpsr", all(&world).to_vec());
        let chunk = place(&world, BORDER - 7000) as usize;
        let (reads, after) = (AtomicUsize::new(0), AtomicUsize::new(after));
        let fading = Arc::new(Fading { disk, chunk: chunk.into(), reads, after });
        world.disks.dpsr = fading.clone();
        let outcome = sync_only(&world, "3", Mode::Digest);
        let showed = fading.reads.load(Ordering::Relaxed) > fading.after.load(Ordering::Relaxed);
        // What the medium holds is whole: only reading it went wrong.
        fading.after.store(usize::MAX, Ordering::Relaxed);
        match outcome {
            Ok(_) => {
                assert!(!showed);
                world.expected.insert(2, expected);
                world.check_all();
                break;
            }
            Err(error) => assert!(matches!(error.kind(), Kind::Damaged | Kind::Refused), "{error}"),
        }
        refused += 1;
        assert_eq!(world.generations(), [1]);
        world.check_all();
    }
    assert!(refused >= 4, "{refused}");
}

#[test]
fn a_page_of_digests_rebuilt_over_rot_makes_no_volume_sound_that_stays() {
    for mode in MODES {
        let mut world = world();
        rot(&world, place(&world, BORDER - MIB as usize / 2));
        rot(&world, page(&world).start + 100);
        let report = repaired(&world);
        assert!(report.damages.iter().any(|one| one.what == What::Digests), "{report}");
        world.write(BORDER + MIB as usize, b"moved on");
        let before = all(&world);
        let error = sync_only(&world, "3", mode).unwrap_err();
        let told = error.to_string();
        assert!(error.kind() == Kind::Damaged && told.contains("without --volume"), "{mode:?}: {told}");
        assert!(all(&world)[..] == before[..], "{mode:?}: something was written");
        assert!(!is_sound(&world, 1));
        world.sync(mode).unwrap();
        assert!(is_sound(&world, 2) && !is_sound(&world, 1), "{mode:?}");
        assert_eq!(sync_only(&world, "3", mode).unwrap().generation.0, 3);
    }
}

/// Two generations, of which a page of digests got lost on its way to the disk: it is that of the one before.
fn lost_digests() -> World {
    let mut world = world();
    let page = page(&world);
    let before = bytes(&world, page.clone());
    world.write(BORDER + MIB as usize, &stamped(9000, 5));
    world.sync(Mode::Digest).unwrap();
    world.disks.dpsr.write_at(Bytes(page.start), &before).unwrap();
    assert_eq!(checked(&world).damages.iter().filter(|one| one.what == What::Digests).count(), 1);
    assert!(!is_sound(&world, 2) && is_sound(&world, 1));
    world
}

#[test]
fn digests_that_got_lost_are_replaced_by_the_next_sync_of_all_volumes() {
    for mode in MODES {
        let mut world = lost_digests();
        let dry = Request { dry_run: true, ..world.request(mode) };
        assert!(sync(&world.disks, &dry, &Silent).unwrap().stale_digests);
        let report = world.sync(mode).unwrap();
        assert_eq!((report.generation.0, report.stale_digests), (3, true), "{mode:?}");
        assert_eq!(report.mode, if mode == Mode::Full { "full" } else { "compare" });
        assert!(is_sound(&world, 3) && !is_sound(&world, 2) && is_sound(&world, 1), "{mode:?}");
        let report = world.sync(Mode::Digest).unwrap();
        assert_eq!((report.mode, report.stale_digests, report.bytes_changed.0), ("digest", false, 0));
        assert!(is_sound(&world, 4));
    }
}

#[test]
fn digests_that_got_lost_hide_nothing_that_went_back_to_what_they_say() {
    for mode in MODES {
        let mut world = lost_digests();
        let first = world.expected[&1].clone();
        world.write(0, &first);
        world.sync(mode).unwrap();
        assert!(is_sound(&world, 3) && is_sound(&world, 1), "{mode:?}");
    }
}

#[test]
fn digests_that_got_lost_keep_single_volumes_from_moving() {
    for (mode, id) in MODES.into_iter().flat_map(|mode| ["2", "3"].map(|id| (mode, id))) {
        let mut world = lost_digests();
        world.write(BORDER - 100, &stamped(200, 9));
        let error = sync_only(&world, id, mode).unwrap_err();
        assert_eq!(error.kind(), Kind::Damaged, "{error}");
        assert_eq!(world.generations(), [1, 2]);
    }
}

#[test]
fn digests_that_got_lost_are_replaced_when_the_primary_was_repartitioned_too() {
    for mode in MODES {
        let mut world = lost_digests();
        world.disks.volumes[1].left_out = true;
        world.write(5 * MIB as usize, &stamped(100, 8));
        world.sync(mode).unwrap();
        assert!(is_sound(&world, 3), "{mode:?}");
    }
}

/// The image lost a write, and the primary holds again what was there before: both are equal and neither is what
/// was recorded.
#[test]
fn a_chunk_that_equals_the_primary_and_not_its_digest_is_put_right_by_what_a_scrub_says() {
    let mut world = world();
    let at = BORDER + MIB as usize;
    let chunk = Chunk(at as u64 / CHUNK);
    let place = place(&world, chunk.start().usize());
    let before = bytes(&world, place..place + CHUNK);
    let old = world.primary[at..at + 9000].to_vec();
    world.write(at, &stamped(9000, 5));
    world.sync(Mode::Digest).unwrap();
    world.disks.dpsr.write_at(Bytes(place), &before).unwrap();
    world.write(at, &old);
    let request = dpsr::scrub::Request {
        repair: true,
        primary: Some(world.disks.primary.clone()),
        table: None,
        time: 5000,
    };
    let report =
        scrub(&world.disks.dpsr, &world.disks.partition, Owner::default(), &request, &Silent).unwrap();
    assert!(report.damages[0].to_string().contains("'dpsr sync --compare' replaces it"), "{report}");
    let report = world.sync(Mode::Compare).unwrap();
    assert_eq!((report.generation.0, report.rotten_chunks, report.bytes_written_image.0), (3, 1, 0));
    assert!(is_sound(&world, 3));
}

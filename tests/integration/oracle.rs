// SPDX-License-Identifier: MIT OR Apache-2.0
//! What this code writes, `tests/reader.py` reads: a second reader, which shares no code with it.
#![allow(clippy::unwrap_used, reason = "the helpers of these tests are tests")]

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use dpsr::changes::Mode;
use dpsr::disk::ReadDisk;
use dpsr::disk::ram::RamDisk;
use dpsr::disk::recorded::{Recorded, replay};
use dpsr::disk::whole::read_exact_at;
use dpsr::format::index::{Index, Undo};
use dpsr::format::moment::Moment;
use dpsr::format::superblock::State;
use dpsr::format::undo::{COMPANION, Layout};
use dpsr::pair::layout::{DpsrLayout, Guids, write_gpt};
use dpsr::progress::Silent;
use dpsr::status;
use dpsr::store::{Contents, contents};
use dpsr::sync::{Request, sync};
use dpsr::sys::buffer::Buffer;
use dpsr::units::{Bytes, CHUNK, Chunk, KIB, MIB, PAGE};
use serde_json::Value;
use tempfile::NamedTempFile;

use crate::world::{BASE, World, mixed, same, stamped, volume};

const SIZE: usize = 3 * MIB as usize + 512 * 5;

fn python(args: &[&str]) -> Output {
    let run = Command::new("python3").args(args).output();
    run.unwrap_or_else(|error| panic!("these tests need python3 (3.11 or newer) on the PATH: {error}"))
}

/// A DPSR disk in a file, and where its store lies; no place means that its partition table says so.
pub struct Dump {
    file: NamedTempFile,
    place: Vec<String>,
}

impl Dump {
    pub fn of(bytes: &[u8], store: Option<u64>) -> Self {
        let mut file = NamedTempFile::new().unwrap();
        file.as_file().set_len(bytes.len() as u64).unwrap();
        for (part, at) in bytes.chunks(MIB as usize).zip((0..).step_by(MIB as usize)) {
            if part.iter().any(|&byte| byte != 0) {
                file.seek(SeekFrom::Start(at)).unwrap();
                file.write_all(part).unwrap();
            }
        }
        let place = store.map(|size| vec![format!("--base={BASE}"), format!("--size={size}")]);
        Self { file, place: place.unwrap_or_default() }
    }

    fn read(&self, args: &[&str]) -> Output {
        let reader = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/reader.py");
        let place = self.place.iter().map(String::as_str);
        let image = self.file.path().to_str().unwrap();
        python(
            &[reader].into_iter().chain(place).chain([image]).chain(args.iter().copied()).collect::<Vec<_>>(),
        )
    }

    fn told(&self, args: &[&str]) -> String {
        let output = self.read(args);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{args:?}: {out}{err}");
        out.into_owned()
    }

    fn problems(&self) -> String {
        String::from_utf8(self.read(&["check"]).stdout).unwrap()
    }

    fn info(&self) -> Value {
        serde_json::from_str(&self.told(&["info"])).unwrap()
    }

    pub fn export(&self, generation: u64) -> Vec<u8> {
        let out = NamedTempFile::new().unwrap();
        self.told(&["export", &generation.to_string(), out.path().to_str().unwrap()]);
        fs::read(out.path()).unwrap()
    }

    /// Asserts that the second reader lists these generations, finds nothing wrong and reads what they held.
    fn agrees(&self, world: &World, generations: &[u64]) {
        assert_eq!(self.told(&["check"]), "");
        let info = self.info();
        let listed = info["generations"].as_array().unwrap().iter();
        assert_eq!(listed.map(|one| one["generation"].as_u64().unwrap()).collect::<Vec<_>>(), generations);
        for &generation in generations {
            assert!(same(&self.export(generation), &world.expected[&generation]), "generation {generation}");
        }
    }

    /// What `check` says after the byte at `at` was changed, which is put back afterwards.
    fn flipped(&self, at: Bytes) -> Vec<String> {
        let file = self.file.as_file();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at.0).unwrap();
        file.write_all_at(&[byte[0] ^ 4], at.0).unwrap();
        let output = self.read(&["check"]);
        file.write_all_at(&byte, at.0).unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
    }
}

/// A world whose DPSR disk is at hand.
fn world(primary: Vec<u8>, store: u64) -> (World, Arc<RamDisk>) {
    let disk = Arc::new(RamDisk::from_bytes("dpsr", vec![0x5a; (BASE + store) as usize]).strict(Bytes(512)));
    let mut world = World::around(primary, vec![], disk.clone(), store);
    world.create().unwrap();
    (world, disk)
}

fn contents(world: &World) -> Contents {
    contents::read(&world.disks.dpsr, &world.disks.partition).unwrap().unwrap()
}

fn wander(world: &mut World, rounds: std::ops::Range<u64>) {
    for round in rounds {
        for i in 0..round % 5 {
            let at = mixed(round * 100 + i) as usize % (SIZE - 9000);
            world.write(at, &stamped(1 + mixed(i) as usize % 9000, round));
        }
        let mode = if round.is_multiple_of(3) { Mode::Compare } else { Mode::Digest };
        world.sync(mode).unwrap();
    }
}

#[test]
fn generations_across_repartitioning_read_alike() {
    let (mut world, disk) = world(stamped(SIZE, 1), 40 * MIB);
    wander(&mut world, 1..4);
    for (i, volumes) in
        [vec![volume("1", MIB, MIB, true)], vec![volume("1", MIB / 2, MIB + 512, true)], vec![]]
            .into_iter()
            .enumerate()
    {
        world.disks.volumes = volumes;
        world.write(MIB as usize + i * 70_000, &stamped(100_000, 50 + i as u64));
        wander(&mut world, 4 + 4 * i as u64..8 + 4 * i as u64);
    }
    let dump = Dump::of(&disk.contents(), Some(40 * MIB));
    dump.agrees(&world, &(1..16).collect::<Vec<_>>());
    let mut plain = NamedTempFile::new().unwrap();
    plain.write_all(&world.expected[&5]).unwrap();
    let hash = "import hashlib, sys; print(hashlib.sha256(open(sys.argv[1], 'rb').read()).hexdigest())";
    let expected = python(&["-c", hash, plain.path().to_str().unwrap()]).stdout;
    assert_eq!(dump.told(&["export", "5", "--hash"]).as_bytes(), expected);
}

#[test]
fn the_partition_table_leads_to_the_store_and_volumes_lie_where_info_says() {
    let store = 40 * MIB;
    let disk = Arc::new(RamDisk::new("dpsr", (BASE + store + MIB) as usize));
    let layout = DpsrLayout { bios_boot: None, esp: None, store: Bytes(BASE)..Bytes(BASE + store) };
    write_gpt(&disk, Bytes(512), &layout, &Guids::random()).unwrap();
    let volumes = vec![
        volume("table", 0, 0, false),
        volume("1", 100 * KIB + 512, 700 * KIB, false),
        volume("2", 801 * KIB, MIB + 512, true),
        volume("3", 2 * MIB, MIB, false),
    ];
    let mut world = World::around(stamped(SIZE, 2), volumes, disk.clone(), store);
    world.create().unwrap();
    wander(&mut world, 1..5);
    for table in [512, disk.size().0 - 512] {
        let mut bytes = disk.contents();
        bytes[table as usize + 60] ^= 1;
        let dump = Dump::of(&bytes, None);
        dump.agrees(&world, &[1, 2, 3, 4]);
        for (told, volume) in dump.info()["volumes"].as_array().unwrap().iter().zip(&world.volumes) {
            assert_eq!(told["left_out"], volume.left_out);
            for part in told["parts"].as_array().unwrap() {
                let at = |key: &str| part[key].as_u64().map(|at| at as usize);
                let (from, length) = (at("from").unwrap(), at("length").unwrap());
                let there = at("offset").map_or(vec![0; length], |at| bytes[at..at + length].to_vec());
                assert_eq!(there, world.visible()[from..from + length], "{}", volume.id);
            }
        }
    }
}

#[test]
fn the_moment_of_a_generation_reads_alike() {
    let (mut world, disk) = world(stamped(SIZE, 6), 40 * MIB);
    let moments = [(true, true), (false, true), (true, false), (false, false)];
    for (quiet, one_instant) in moments {
        let request =
            Request { moment: Arc::new(Moment { quiet, one_instant }), ..world.request(Mode::Digest) };
        let report = sync(&world.disks, &request, &Silent).unwrap();
        world.expected.insert(report.generation.0, world.visible());
        world.write(9000, &[report.generation.0 as u8; 100]);
    }
    let listed = status::generations(&contents(&world));
    assert_eq!(
        listed.iter().map(|one| (one.moment.quiet, one.moment.one_instant)).collect::<Vec<_>>(),
        moments
    );
    let dump = Dump::of(&disk.contents(), Some(40 * MIB));
    dump.agrees(&world, &[1, 2, 3, 4]);
    let info = dump.info();
    let told = info["generations"].as_array().unwrap().iter();
    let told: Vec<_> = told.map(|one| (one["quiet"] == true, one["one_instant"] == true)).collect();
    assert_eq!(told, moments);
}

/// A generation of which `count` chunks change at once, most of them from zeros.
fn wide(count: u64, store: u64) -> (World, Arc<RamDisk>) {
    let mut primary = vec![0; (4200 * CHUNK) as usize];
    for chunk in (0..4200).step_by(37) {
        primary[chunk * CHUNK as usize..][..512].copy_from_slice(&stamped(512, chunk as u64));
    }
    let disk = Arc::new(RamDisk::new("dpsr", (BASE + store) as usize));
    let mut world = World::around(primary, vec![], disk.clone(), store);
    world.create().unwrap();
    world.sync(Mode::Digest).unwrap();
    for chunk in 0..count {
        let at = (chunk * CHUNK + chunk % 16 * PAGE) as usize;
        world.primary[at..at + 512].copy_from_slice(&stamped(512, chunk ^ 1 << 40));
    }
    world.write(0, b"!");
    world.sync(Mode::Digest).unwrap();
    (world, disk)
}

#[test]
fn merged_undo_stores_read_alike() {
    let (mut world, disk) = world(stamped(SIZE, 7), 80 * MIB);
    let layouts = [
        vec![],
        vec![volume("1", MIB, MIB, true)],
        vec![volume("1", MIB / 2, MIB + 512, true)],
        vec![volume("1", 2 * MIB, MIB / 2, true)],
    ];
    for (i, volumes) in (0u64..).zip(layouts) {
        world.disks.volumes = volumes;
        world.write(MIB as usize / 2 + i as usize * 70_000, &stamped(300_000, 50 + i));
        wander(&mut world, 1 + 4 * i..5 + 4 * i);
    }
    for gone in [&[3, 4][..], &[8], &[9, 10, 12], &[2, 6, 13], &[5, 15]] {
        world.drop_now(gone);
        Dump::of(&disk.contents(), Some(80 * MIB)).agrees(&world, &world.generations());
    }
    assert_eq!(world.generations(), [1, 7, 11, 14, 16]);
    world.check_all();
}

/// Undo stores of one area each become one of `entries` exceptions.
fn wide_merged(entries: u64) {
    let (mut world, disk) = wide(2100, 900 * MIB);
    world.expected.remove(&2);
    for chunk in 2000..entries - 2 {
        let at = (chunk * CHUNK) as usize;
        world.primary[at..at + 512].copy_from_slice(&stamped(512, chunk ^ 1 << 41));
    }
    world.write(0, b"?");
    world.sync(Mode::Digest).unwrap();
    world.drop_now(&[2]);
    assert_eq!(contents(&world).index.generations[0].undo.as_ref().unwrap().entries, entries);
    Dump::of(&disk.contents(), Some(900 * MIB)).agrees(&world, &[1, 3]);
    world.check_all();
}

#[test]
fn undo_stores_merged_into_two_areas_read_alike() {
    wide_merged(4152);
}

#[test]
fn undo_stores_merged_into_a_full_area_read_alike() {
    wide_merged(4096);
}

#[test]
fn an_undo_store_of_two_areas_reads_alike() {
    let (world, disk) = wide(4150, 640 * MIB);
    assert_eq!(contents(&world).index.generations[0].undo.as_ref().unwrap().entries, 4152);
    Dump::of(&disk.contents(), Some(640 * MIB)).agrees(&world, &[1, 2]);
}

#[test]
fn a_full_last_area_is_followed_by_zeros() {
    let (world, disk) = wide(4094, 640 * MIB);
    let contents = contents(&world);
    let undo = contents.index.generations[0].undo.as_ref().unwrap();
    let layout = Layout { entries: undo.entries };
    assert_eq!((layout.entries, layout.areas(), layout.has_zero_area()), (4096, 1, true));
    let dump = Dump::of(&disk.contents(), Some(640 * MIB));
    dump.agrees(&world, &[1, 2]);
    let closing = contents.undo(undo).stretch(Layout::area(1)).at.unwrap();
    assert_eq!(
        dump.flipped(closing + Bytes(99)),
        ["undo store of generation 1: its closing area is not zero"]
    );
}

#[test]
fn an_interrupted_sync_reads_as_if_rolled_back() {
    let disk = Arc::new(RamDisk::new("dpsr", (BASE + 40 * MIB) as usize));
    let recorded = Arc::new(Recorded::new(disk.clone()));
    let mut world = World::around(stamped(SIZE, 4), vec![], recorded.clone(), 40 * MIB);
    world.create().unwrap();
    wander(&mut world, 1..4);
    let (before, skip) = (disk.contents(), recorded.events().len());
    world.write(100_000, &stamped(600_000, 9));
    world.disks.volumes = vec![volume("1", 2 * MIB, MIB / 2, true)];
    world.sync(Mode::Digest).unwrap();
    let events = &recorded.events()[skip..];
    let mut updating = 0;
    for end in 0..events.len() {
        let bytes = replay(&before, &events[..end]);
        let ram = RamDisk::from_bytes("cut", bytes);
        let found = contents::read(&ram, &world.disks.partition).unwrap().unwrap();
        if matches!(found.superblock.state, State::Updating { .. }) {
            updating += 1;
            let dump = Dump::of(&ram.contents(), Some(40 * MIB));
            assert_eq!(dump.info()["state"], "updating");
            let note = String::from_utf8(dump.read(&["info"]).stderr).unwrap();
            assert_eq!(note, "interrupted: read as if rolled back to generation 3\n");
            let problems = dump.problems();
            assert!(problems.lines().all(|line| line.contains("it is stale")), "cut {end}: {problems}");
            for generation in 1..4 {
                assert!(same(&dump.export(generation), &world.expected[&generation]), "cut {end}");
            }
        }
    }
    assert!(updating >= 4, "{updating} of {} events", events.len());
}

#[test]
fn every_kind_of_damage_is_found() {
    let (mut world, disk) = world(stamped(SIZE, 5), 40 * MIB);
    wander(&mut world, 1..5);
    let dump = Dump::of(&disk.contents(), Some(40 * MIB));
    dump.agrees(&world, &[1, 2, 3, 4]);
    let contents = contents(&world);
    let (geometry, base) = (contents.superblock.geometry, contents.base);
    let record = contents.index.generations.iter().find(|record| record.undo.is_some()).unwrap();
    let undo = record.undo.as_ref().unwrap();
    let (layout, place) = (Layout { entries: undo.entries }, contents.undo(undo));
    let in_undo = |at: Bytes| place.stretch(at).at.unwrap();
    let name = format!("undo store of generation {}", record.generation);
    let slot = contents.superblock.index.slot;
    let [first, second, third] = geometry.superblocks();
    let cases = [
        (base + first, "superblock copy 0: it has no magic".to_owned()),
        (base + second + Bytes(300), "superblock copy 1: its checksum".to_owned()),
        (base + third + Bytes(4095), "superblock copy 2: its checksum".to_owned()),
        (base + geometry.index(slot, 0) + Bytes(50), format!("index slot {slot} copy 0 block 0: its")),
        (base + geometry.index(slot, 1) + Bytes(17), format!("index slot {slot} copy 1 block 0: its")),
        (in_undo(Bytes(5)), format!("{name}: its header")),
        (in_undo(Bytes(60_000)), format!("{name}: its header")),
        (in_undo(Layout::area(0) + Bytes(3)), format!("{name} area 0: it does not match")),
        (in_undo(Layout::area(0) + Bytes(CHUNK - 1)), format!("{name} area 0: it does not match")),
        (in_undo(layout.companion(0) + Bytes(40)), format!("{name} area 0: its checksum")),
        (in_undo(layout.companion(0) + COMPANION - Bytes(1)), format!("{name} area 0: its checksum")),
        (in_undo(Layout::data(0) + Bytes(77)), format!("{name} saved chunk 0: its checksum")),
        (
            in_undo(Layout::data(undo.entries - 1) + Bytes(77)),
            format!("{name} saved chunk {}: its checksum", undo.entries - 1),
        ),
        (contents.table().chunk(Chunk(0)).unwrap() + Bytes(21), "digest page 0: it does not".to_owned()),
        (
            contents.table().chunk(Chunk(0)).unwrap() + Bytes(9 * PAGE),
            "digest page 9: it does not".to_owned(),
        ),
    ];
    for (at, expected) in cases {
        let told = dump.flipped(at);
        assert!(told.len() == 1 && told[0].starts_with(&expected), "{expected}: {told:?}");
    }
    assert_eq!(dump.told(&["check"]), "");
}

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/integration/golden/format-1.img.zst")
}

const GOLDEN_STORE: u64 = 20 * MIB;

/// The story whose end is the golden image. Never change it: a new format gets a new one beside it.
fn golden_world() -> (World, Arc<RamDisk>) {
    let disk = Arc::new(RamDisk::new("dpsr", (BASE + GOLDEN_STORE + MIB) as usize));
    let layout = DpsrLayout { bios_boot: None, esp: None, store: Bytes(BASE)..Bytes(BASE + GOLDEN_STORE) };
    write_gpt(&disk, Bytes(512), &layout, &Guids::random()).unwrap();
    let volumes = vec![volume("table", 0, 0, false), volume("1", 64 * KIB, 512 * KIB, false)];
    let mut world = World::around(vec![0; MIB as usize + 512], volumes, disk.clone(), GOLDEN_STORE);
    for at in (0..world.primary.len()).step_by(100_003) {
        world.write(at, &[at as u8 | 1; 40]);
    }
    world.create().unwrap();
    world.sync(Mode::Digest).unwrap();
    world.write(70_000, b"second");
    world.sync(Mode::Digest).unwrap();
    world.disks.volumes.push(volume("2", 600 * KIB, 400 * KIB, true));
    world.write(MIB as usize, b"third");
    world.sync(Mode::Compare).unwrap();
    world.disks.volumes.pop();
    world.write(620 * KIB as usize, b"fourth");
    world.sync(Mode::Digest).unwrap();
    world.sync(Mode::Digest).unwrap();
    (world, disk)
}

#[test]
fn the_store_that_format_1_wrote_still_reads() {
    let bytes = zstd::decode_all(&*fs::read(golden()).unwrap()).unwrap();
    let (mut world, _) = golden_world();
    Dump::of(&bytes, None).agrees(&world, &[1, 2, 3, 4, 5]);
    world.disks.dpsr = Arc::new(RamDisk::from_bytes("golden", bytes));
    assert_eq!(world.generations(), [1, 2, 3, 4, 5]);
    world.check();
    world.write(5000, b"sixth");
    world.sync(Mode::Digest).unwrap();
    world.check();
}

#[test]
#[ignore = "writes the golden image if it was deleted, which nobody may do once format 1 is released"]
fn write_the_golden_image() {
    let (world, disk) = golden_world();
    world.check();
    if golden().exists() {
        return eprintln!("SKIPPED write_the_golden_image: delete {} first", golden().display());
    }
    fs::write(golden(), zstd::encode_all(&*disk.contents(), 19).unwrap()).unwrap();
}

/// What no index may say, and how it comes to say it.
type Breach = (&'static str, fn(&mut Index));

/// Of a store of four generations, some of which have saved something.
const BREACHES: [Breach; 11] = [
    ("no map", |index| index.maps.clear()),
    ("two maps of one number", |index| index.maps.push(index.maps[0].clone())),
    ("a run of nothing", |index| index.digests[0].count = 0),
    ("a gap in the digest table", |index| index.digests[0].at = 1),
    ("a gap in an undo store", |index| saved(index).runs[0].at = 1),
    ("generations out of order", |index| index.generations.swap(0, 1)),
    ("a generation twice", |index| index.generations[1].generation = index.generations[0].generation),
    ("a generation of no map", |index| index.generations[0].map = 77),
    ("a volume without a time", |index| index.generations[0].volume_times.push(1)),
    ("another last generation", |index| drop(index.generations.pop())),
    ("an undo store of the last generation", |index| {
        let undo = saved(index).clone();
        index.generations.last_mut().unwrap().undo = Some(undo);
    }),
];

fn saved(index: &mut Index) -> &mut Undo {
    index.generations.iter_mut().find_map(|record| record.undo.as_mut()).unwrap()
}

#[test]
fn both_readers_refuse_what_no_index_may_say() {
    let volumes = vec![volume("table", 0, 0, false), volume("1", 512 * 7, MIB, false)];
    let mut world = World::new(stamped(SIZE, 1), volumes, 24 * MIB, |disk| Arc::new(disk));
    wander(&mut world, 1..5);
    for (what, breach) in BREACHES {
        let world = world.fork();
        let mut store = world.store();
        let (state, mut index) = (store.contents.superblock.state, store.contents.index.clone());
        breach(&mut index);
        store.change(state, index).unwrap();
        assert!(contents::read(&world.disks.dpsr, &world.disks.partition).is_err(), "{what}");
        let mut bytes = Buffer::new(world.disks.dpsr.size().usize()).unwrap();
        read_exact_at(&world.disks.dpsr, Bytes::ZERO, &mut bytes).unwrap();
        let read = Dump::of(&bytes, Some(24 * MIB)).read(&["info"]);
        let said = String::from_utf8_lossy(&read.stderr);
        assert_eq!(read.status.code(), Some(1), "{what}: {said}");
        assert!(!said.contains("Traceback"), "{what}: {said}");
    }
}

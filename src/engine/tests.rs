// SPDX-License-Identifier: MIT OR Apache-2.0
use std::io::{self, PipeReader, PipeWriter, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::disk::ReadDisk;
use crate::disk::faulty::{Fault, Faults, Faulty};
use crate::disk::file::{Access, FileDisk};
use crate::disk::ram::RamDisk;
use crate::disk::recorded::{Event, Recorded};

/// Within which everything here is answered, unless it never is.
const LONG: Duration = Duration::from_secs(120);
const SHAPE: Shape = Shape { buffer: Bytes(8192), depth: 3, spare: 2 };

/// Copies one disk to another, some parts in two halves, and notes the order.
struct Copy {
    from: ReadId,
    to: WriteId,
    size: u64,
    at: u64,
    seen: Vec<u64>,
}

impl Copy {
    fn new(from: ReadId, to: WriteId, size: usize) -> Self {
        Self { from, to, size: size as u64, at: 0, seen: Vec::new() }
    }
}

impl Work for Copy {
    type Tag = u64;

    fn next(&mut self, batch: &mut Batch) -> Result<Option<u64>> {
        if self.at >= self.size {
            return Ok(None);
        }
        let (at, len) = (self.at, batch.bytes().len());
        self.at += len as u64;
        batch.read(self.from, Bytes(at), 0..len / 2);
        batch.read(self.from, Bytes(at + len as u64 / 2), len / 2..len);
        Ok(Some(at))
    }

    fn process(&mut self, at: u64, batch: &mut Batch) -> Result<()> {
        self.seen.push(at);
        let len = Bytes(self.size - at).usize().min(batch.bytes().len());
        assert!(batch.bytes()[len..].iter().all(|&byte| byte == 0), "padded past the end");
        let half = len.min(4096);
        batch.write(self.to, Bytes(at), 0..half);
        if half < len {
            batch.write(self.to, Bytes(at + half as u64), half..len);
        }
        Ok(())
    }
}

fn stamped(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at / 512 * 31 + at % 13) as u8).collect()
}

/// The limits change with nearly every batch.
fn restless(shape: &Shape) -> Pace {
    let mut pace = Pace::new(shape);
    pace.hurry();
    pace
}

fn copied_files(len: usize, shape: Shape, io: Io) -> (Vec<u8>, &'static str) {
    let files = [(); 2].map(|()| tempfile::NamedTempFile::new().unwrap());
    files[0].as_file().write_all(&stamped(len)).unwrap();
    files[1].as_file().set_len(len as u64).unwrap();
    let mut disks = Disks::new();
    let from = disks.add_read(Arc::new(FileDisk::open(files[0].path(), Access::Read).unwrap()));
    let to = disks.add_write(Arc::new(FileDisk::open(files[1].path(), Access::Write).unwrap()));
    let mut engine = Engine::with(disks, shape, io).unwrap();
    engine.pace = restless(&shape);
    let mut work = Copy::new(from, to, len);
    engine.run(&mut work).unwrap();
    assert!(work.seen.is_sorted());
    (std::fs::read(files[1].path()).unwrap(), engine.name())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn files_are_copied_whole(
        len in prop_oneof![0..200_000usize, (0..50usize).prop_map(|n| n * 4096)],
        pages in 1..9u64,
        depth in 1..7usize,
        spare in 0..8usize,
    ) {
        let shape = Shape { buffer: Bytes(pages * 4096), depth, spare };
        prop_assert!(copied_files(len, shape, Io::Posix) == (stamped(len), "posix"));
        prop_assert!(copied_files(len, shape, Io::Auto).0 == stamped(len));
    }

    #[test]
    fn twins_are_copied_whole(sectors in 0..200usize, pages in 1..9u64, depth in 1..7usize, spare in 0..4usize) {
        let len = sectors * 512;
        let from = RamDisk::from_bytes("from", stamped(len)).strict(Bytes(512));
        let to = Arc::new(RamDisk::new("to", len).strict(Bytes(512)));
        let mut disks = Disks::new();
        let from = disks.add_read(Arc::new(from));
        let id = disks.add_write(to.clone());
        let mut work = Copy::new(from, id, len);
        let shape = Shape { buffer: Bytes(pages * 4096), depth, spare };
        Engine::new(disks, shape).unwrap().run(&mut work).unwrap();
        prop_assert!(to.contents() == stamped(len));
    }
}

type Target = Arc<Recorded<Faulty<RamDisk>>>;

fn faulty(faults: &Arc<Faults>) -> (Engine, Copy, Target) {
    let from = Faulty::new(RamDisk::from_bytes("from", stamped(65536)), Arc::clone(faults));
    let to = Arc::new(Recorded::new(Faulty::new(RamDisk::new("to", 65536), Arc::clone(faults))));
    let mut disks = Disks::new();
    let from = disks.add_read(Arc::new(from));
    let id = disks.add_write(to.clone());
    (Engine::new(disks, SHAPE).unwrap(), Copy::new(from, id, 65536), to)
}

#[test]
fn every_fault_is_told_and_the_engine_stays_usable() {
    for fault in [Fault::Eio, Fault::Enospc, Fault::Gone, Fault::ProveFails] {
        for from in 0.. {
            let faults = Faults::new(from, fault, false);
            let (mut engine, mut work, target) = faulty(&faults);
            let result = engine.run(&mut work);
            assert_eq!(result.is_err(), faults.struck(), "{fault:?} from {from}");
            let Err(error) = result else { break };
            assert_eq!(error.kind(), Kind::Device);
            if fault == Fault::ProveFails {
                assert!(target.events().is_empty(), "nothing is written to a disk that is not proven");
            }
            if fault != Fault::Gone {
                work.at = 0;
                engine.run(&mut work).unwrap();
                assert_eq!(target.inner().inner().contents(), stamped(65536));
            }
        }
    }
}

#[test]
fn short_transfers_make_no_difference() {
    for fault in [Fault::ShortRead, Fault::ShortWrite] {
        let (mut engine, mut work, target) = faulty(&Faults::new(0, fault, true));
        engine.run(&mut work).unwrap();
        assert_eq!(target.inner().inner().contents(), stamped(65536));
    }
}

#[test]
fn errors_name_the_disk_and_the_range() {
    let (mut engine, mut work, _) = faulty(&Faults::new(2, Fault::Eio, false));
    let error = engine.run(&mut work).unwrap_err();
    assert_eq!(error.to_string(), "reading 4096 bytes at 8192 of from: Input/output error (os error 5)");
    assert!(work.seen.len() <= 3);
    let (mut engine, mut work, _) = faulty(&Faults::new(0, Fault::Enospc, false));
    let error = engine.run(&mut work).unwrap_err();
    assert_eq!(error.to_string(), "writing 4096 bytes at 0 of to: No space left on device (os error 28)");
    let (mut engine, mut work, _) = faulty(&Faults::new(0, Fault::ProveFails, false));
    let error = engine.run(&mut work).unwrap_err();
    assert_eq!(
        error.to_string(),
        "proving the identity of to: it is not the device that was opened; nothing was written"
    );
}

#[test]
fn writes_past_the_end_are_refused() {
    let mut disks = Disks::new();
    let from = disks.add_read(Arc::new(RamDisk::new("from", 8192)));
    let to = disks.add_write(Arc::new(RamDisk::new("to", 4096)));
    let error = Engine::new(disks, SHAPE).unwrap().run(&mut Copy::new(from, to, 8192)).unwrap_err();
    assert_eq!(error.to_string(), "writing 4096 bytes at 4096 of to: they reach past its end");
}

#[test]
fn a_signal_stops_before_anything_more_is_done() {
    let (mut engine, mut work, target) = faulty(&Faults::new(u64::MAX, Fault::Eio, false));
    let error = engine.run_until(&mut work, || true).unwrap_err();
    assert_eq!(error.kind(), Kind::Interrupted);
    assert_eq!(target.events(), Vec::<Event>::new());
}

/// A disk that is the end of a pipe: it answers late, in parts, or never.
struct Pipe(PipeReader);

impl ReadDisk for Pipe {
    fn name(&self) -> &str {
        "pipe"
    }
    fn size(&self) -> Bytes {
        Bytes(8192)
    }
    fn alignment(&self) -> Bytes {
        Bytes(1)
    }
    fn read_at(&self, _: Bytes, buffer: &mut [u8]) -> io::Result<usize> {
        io::Read::read(&mut &self.0, buffer)
    }
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.0.as_fd())
    }
}

/// Reads one batch.
struct Once(Option<ReadId>, Vec<u8>);

impl Work for Once {
    type Tag = ();

    fn next(&mut self, batch: &mut Batch) -> Result<Option<()>> {
        Ok(self.0.take().map(|disk| batch.read(disk, Bytes(0), 0..8192)))
    }

    fn process(&mut self, (): (), batch: &mut Batch) -> Result<()> {
        self.1 = batch.bytes().to_vec();
        Ok(())
    }
}

fn pipe(io: Io, deadline: Duration) -> (Engine, Once, PipeWriter) {
    let (reader, writer) = io::pipe().unwrap();
    let mut disks = Disks::new();
    let id = disks.add_read(Arc::new(Pipe(reader)));
    (Engine::within(disks, SHAPE, io, deadline).unwrap(), Once(Some(id), Vec::new()), writer)
}

#[test]
fn parts_are_put_together() {
    for io in [Io::Auto, Io::Posix] {
        let (mut engine, mut work, mut writer) = pipe(io, LONG);
        let feeder = std::thread::spawn(move || {
            for part in stamped(8192).chunks(1000) {
                writer.write_all(part).unwrap();
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        engine.run(&mut work).unwrap();
        feeder.join().unwrap();
        assert_eq!(work.1, stamped(8192));
    }
}

#[test]
fn an_early_end_is_an_error() {
    for io in [Io::Auto, Io::Posix] {
        let (mut engine, mut work, mut writer) = pipe(io, LONG);
        writer.write_all(&[1; 100]).unwrap();
        drop(writer);
        let error = engine.run(&mut work).unwrap_err();
        assert_eq!(error.to_string(), "reading 8192 bytes at 0 of pipe: unexpected end of file");
    }
}

#[test]
fn a_disk_that_never_answers_is_named() {
    for io in [Io::Auto, Io::Posix] {
        let (mut engine, mut work, _writer) = pipe(io, Duration::from_millis(50));
        let error = engine.run(&mut work).unwrap_err();
        let told = "reading 8192 bytes at 0 of pipe: no answer for 0 seconds; see what the kernel says of it (dmesg), and check its cable and power";
        assert_eq!(error.to_string(), told);
        assert_eq!(error.kind(), Kind::Device);
        assert!(error.is_unanswered());
        assert_eq!(engine.run(&mut work).unwrap_err().kind(), Kind::Internal);
    }
}

/// Reads a batch from each of these disks.
struct Each(std::vec::IntoIter<ReadId>);

impl Work for Each {
    type Tag = ();

    fn next(&mut self, batch: &mut Batch) -> Result<Option<()>> {
        Ok(self.0.next().map(|disk| batch.read(disk, Bytes(0), 0..8192)))
    }

    fn process(&mut self, (): (), _: &mut Batch) -> Result<()> {
        Ok(())
    }
}

/// What waits for a thread, because all are at a disk that does not answer, is no disk that does not answer.
#[test]
fn a_disk_that_was_not_asked_yet_is_not_named() {
    let sound = tempfile::NamedTempFile::new().unwrap();
    sound.as_file().set_len(8192).unwrap();
    let (reader, _writer) = io::pipe().unwrap();
    let mut disks = Disks::new();
    let silent = disks.add_read(Arc::new(Pipe(reader)));
    let sound = disks.add_read(Arc::new(FileDisk::open(sound.path(), Access::Read).unwrap()));
    let shape = Shape { depth: 12, spare: 0, ..SHAPE };
    let mut engine = Engine::within(disks, shape, Io::Posix, Duration::from_secs(1)).unwrap();
    let work = [[silent; 8].as_slice(), &[sound; 4]].concat();
    let error = engine.run(&mut Each(work.into_iter())).unwrap_err();
    assert!(error.is_of_device("pipe") && error.is_unanswered(), "{error}");
}

/// Reads one batch, and fails where it would plan the second.
struct Failing(Option<ReadId>, Kind);

impl Work for Failing {
    type Tag = ();

    fn next(&mut self, batch: &mut Batch) -> Result<Option<()>> {
        let why = || Error::new(self.1, "planning", "there is no more");
        let disk = self.0.take().ok_or_else(why)?;
        batch.read(disk, Bytes(0), 0..8192);
        Ok(Some(()))
    }

    fn process(&mut self, (): (), _: &mut Batch) -> Result<()> {
        Ok(())
    }
}

#[test]
fn a_disk_that_never_answers_is_known_of_also_where_something_else_came_first() {
    for (io, kind) in
        [Io::Auto, Io::Posix].into_iter().flat_map(|io| [(io, Kind::Interrupted), (io, Kind::Damaged)])
    {
        let (mut engine, work, _writer) = pipe(io, Duration::from_millis(50));
        let error = engine.run(&mut Failing(work.0, kind)).unwrap_err();
        assert!(error.is_unanswered(), "{error}");
        let told = if kind == Kind::Interrupted { Kind::Device } else { kind };
        assert_eq!(error.kind(), told, "{error}");
    }
}

#[test]
fn a_dropped_engine_waits_for_its_transfers() {
    let (mut engine, mut work, mut writer) = pipe(Io::Auto, LONG);
    let mut batch = engine.batches.pop().unwrap();
    work.next(&mut batch).unwrap();
    engine.backend.submit(batch, Phase::Reads);
    engine.backend.start().unwrap();
    writer.write_all(&[1; 8192]).unwrap();
    drop(engine);
}

/// Performs nothing until it is waited for, then what was submitted last; now and then nothing at all.
struct Late {
    disks: Disks,
    submitted: Vec<(Batch, Phase)>,
    waits: usize,
}

impl Backend for Late {
    fn name(&self) -> &'static str {
        "late"
    }

    fn submit(&mut self, batch: Batch, phase: Phase) {
        self.submitted.push((batch, phase));
    }

    fn wait(&mut self) -> Result<Option<Landed>> {
        self.waits += 1;
        if self.waits.is_multiple_of(3) {
            return Ok(None);
        }
        let late = self.submitted.pop();
        Ok(late.map(|(mut batch, phase)| {
            let result = batch.perform(&self.disks, phase);
            Landed { batch, phase, result }
        }))
    }
}

/// A flush after a run is one of everything that the run has written, also with what is in no order.
#[test]
fn a_run_ends_when_its_last_write_has_landed() {
    for last in [None, Some(5)] {
        let faults = Faults::new(last.unwrap_or(u64::MAX), Fault::Eio, false);
        let (mut engine, mut work, target) = faulty(&faults);
        let (disks, submitted) = (engine.disks.clone(), Vec::with_capacity(8));
        engine.backend = Box::new(Late { disks, submitted, waits: 0 });
        let result = engine.run(&mut work);
        assert_eq!(result.is_err(), last.is_some());
        assert_eq!(engine.batches.len(), SHAPE.depth + SHAPE.spare, "none is still on its way");
        if last.is_none() {
            let mut found = vec![0; 65536];
            crate::disk::whole::read_exact_at(&*target, Bytes(0), &mut found).unwrap();
            assert!(found == stamped(65536));
        }
    }
}

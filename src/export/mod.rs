// SPDX-License-Identifier: MIT OR Apache-2.0
//! A generation as a raw image: a sparse file, or a stream.

mod file;

use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use crate::disk::file::{Access, FileDisk};
use crate::disk::{ReadDisk, WriteDisk};
use crate::engine::digest::DigestKey;
use crate::engine::{Batch, Disks, Engine, Shape};
use crate::error::{Error, Kind, Result};
use crate::format::index::Volume;
use crate::open::OpenStore;
use crate::progress::Progress;
use crate::restore::target::DiskSink;
use crate::sys::signal;
use crate::units::{Bytes, CHUNK, Chunk, Generation};
use crate::view::View;
use crate::view::digests::ViewDigests;
use crate::view::read::{Reading, Sink};
pub use file::NewFile;

const NOT_MADE: &str = "the file was not made";

/// What an export gave.
#[derive(Clone, Debug)]
pub struct Exported {
    /// Bytes of the image or volume.
    pub size: Bytes,
    /// Chunks that do not match what was recorded of them.
    pub damaged: Vec<Chunk>,
    /// Whether what was recorded of them adds up: else a chunk that matches may be an older one all the same.
    pub adds_up: bool,
}

/// Why nothing vouches for what a generation holds.
pub const NOT_ADDING_UP: &str = "its digests do not add up to what was recorded, so parts of it may be older";

impl Exported {
    /// An error that names what is damaged, unless nothing is.
    pub fn intact(&self, generation: Generation, disk: &str) -> Result<()> {
        let Some(first) = self.damaged.first() else { return self.vouched(generation, disk) };
        let count = self.damaged.len();
        let why = format!(
            "{count} of its 64 KiB chunks are damaged, first at byte {} of the disk",
            first.start().0
        );
        Err(Error::new(Kind::Damaged, format!("reading generation {generation} from"), why)
            .on(disk)
            .left("everything was written, the damaged chunks as they are")
            .next("'dpsr scrub' tells which generations have them intact"))
    }

    fn vouched(&self, generation: Generation, disk: &str) -> Result<()> {
        if self.adds_up {
            return Ok(());
        }
        Err(Error::new(Kind::Damaged, format!("reading generation {generation} from"), NOT_ADDING_UP)
            .on(disk)
            .left("everything was written, as it is")
            .next("'dpsr scrub' tells which generations are intact"))
    }
}

/// Whether the digests of a generation add up, before anything is made of what they vouch for.
/// Those of a table that cannot be read do not.
pub fn adds_up(store: &OpenStore, view: &View<'_>) -> bool {
    let key = DigestKey::new(store.contents.index.secret);
    let added = ViewDigests::of(view, &store.dpsr).and_then(|digests| digests.add_up(&key));
    added.unwrap_or_else(|error| {
        tracing::warn!("{error}, ignoring: what is asked for may lie elsewhere");
        false
    })
}

/// The bytes of the image that `name` stands for: a volume, or everything.
pub fn range_of(view: &View<'_>, name: Option<&str>) -> Result<Range<Bytes>> {
    let Some(name) = name else { return Ok(Bytes::ZERO..view.map.disk) };
    let volume = find(&view.map.volumes, name)?;
    if volume.left_out {
        let why = "it is left out of the copy";
        return Err(Error::new(Kind::NotFound, "exporting volume", why).on(&volume.name));
    }
    Ok(volume.start..(volume.start + volume.size).min(view.map.disk))
}

/// The volume a person means by `name`: its number or id, else its label.
pub fn find<'a>(volumes: &'a [Volume], name: &str) -> Result<&'a Volume> {
    let unknown = |why: String| Error::new(Kind::NotFound, "looking for the volume", why).on(name);
    let exact = |v: &&Volume| v.name == name || v.id.eq_ignore_ascii_case(name);
    let labelled = |v: &&Volume| !name.is_empty() && v.label == name;
    let found: Vec<_> = match volumes.iter().find(exact) {
        Some(volume) => vec![volume],
        None => volumes.iter().filter(labelled).collect(),
    };
    match found[..] {
        [volume] if volume.size > Bytes::ZERO => Ok(volume),
        [_] => Err(unknown("what lies outside the partitions is no volume of its own".into())
            .next("take the whole disk, without --volume")),
        [] => {
            let known: Vec<_> = volumes.iter().map(|volume| volume.name.as_str()).collect();
            Err(unknown(format!("this generation has the volumes {}", known.join(", "))))
        }
        _ => Err(unknown("several volumes have this label".into()).next("name it by its number")),
    }
}

/// Refuses what cannot be exported, before a file is made for it.
pub fn check(store: &OpenStore, generation: Generation, volume: Option<&str>) -> Result<()> {
    range_of(&View::of(&store.contents, generation)?, volume).map(drop)
}

/// Writes a generation, or one volume of it, into the new file `path`. Zeros become holes.
pub fn to_file(
    store: &OpenStore,
    generation: Generation,
    volume: Option<&str>,
    path: &Path,
    progress: &dyn Progress,
) -> Result<Exported> {
    let view = View::of(&store.contents, generation)?;
    let range = range_of(&view, volume)?;
    let new = NewFile::make(path)?;
    let adds_up = adds_up(store, &view);
    let (file, name) = (new.file(), path.display().to_string());
    let failed = |doing: &str, error: &io::Error| Error::device(doing, &name, error).left(NOT_MADE);
    let size = range.end - range.start;
    // Whole sectors while it is written, its exact length at the end.
    file.set_len(size.round_up(CHUNK).0).map_err(|error| failed("sizing", &error))?;
    let disk = FileDisk::open(new.place(), Access::Write)?;
    let made = file.metadata().map_err(|error| failed("looking at", &error))?;
    if (disk.identity().device, disk.identity().inode) != (made.dev(), made.ino()) {
        let why = "another file has taken its name since it was made";
        return Err(Error::new(Kind::Refused, "exporting to", why).on(&name).left("nothing was written"));
    }
    let disk: Arc<dyn WriteDisk> = Arc::new(disk);
    let mut disks = Disks::default();
    let id = disks.add_read(store.dpsr.clone());
    let target = disks.add_write(disk.clone());
    let sink = DiskSink::new(disk.as_ref(), target, range.start).fresh();
    let damaged = read(store, &view, &range, disks, id, sink, progress).map_err(|e| e.left(NOT_MADE))?;
    disk.flush().map_err(|error| failed("flushing", &error))?;
    file.set_len(size.0).map_err(|error| failed("sizing", &error))?;
    new.finish()?;
    Ok(Exported { size, damaged, adds_up })
}

/// Writes a generation, or one volume of it, to a stream.
pub fn to_stream(
    store: &OpenStore,
    generation: Generation,
    volume: Option<&str>,
    output: &mut dyn Write,
    progress: &dyn Progress,
) -> Result<Exported> {
    let view = View::of(&store.contents, generation)?;
    let range = range_of(&view, volume)?;
    let adds_up = adds_up(store, &view);
    let mut disks = Disks::default();
    let id = disks.add_read(store.dpsr.clone());
    let damaged = read(store, &view, &range, disks, id, Stream(output), progress)?;
    Ok(Exported { size: range.end - range.start, damaged, adds_up })
}

fn read(
    store: &OpenStore,
    view: &View<'_>,
    range: &Range<Bytes>,
    disks: Disks,
    id: crate::engine::ReadId,
    mut sink: impl Sink,
    progress: &dyn Progress,
) -> Result<Vec<Chunk>> {
    let key = DigestKey::new(store.contents.index.secret);
    let mut engine = Engine::new(disks, Shape::default())?;
    progress.begin("exporting", range.end - range.start);
    let reading = Reading { view, disk: &store.dpsr, id, range: range.clone(), key: &key, progress };
    reading.run(&mut engine, &mut sink)
}

/// A stream: everything in order.
struct Stream<'a>(&'a mut dyn Write);

impl Stream<'_> {
    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.0.write_all(bytes).map_err(|error| unwritten(&error))
    }
}

/// An error about a stream that could not be written.
pub fn unwritten(error: &io::Error) -> Error {
    if signal::interrupted() {
        return Error::new(Kind::Interrupted, "writing the export to", "a signal asked to stop")
            .on("its output")
            .left("the export is not complete");
    }
    Error::new(Kind::Device, "writing the export to", error.to_string()).on("its output")
}

/// A stream whose writing ends when a signal asks to stop: a pipe that nobody reads would keep it for ever,
/// and `write_all` takes up again what a signal has ended.
pub struct Interruptible<W>(pub W);

impl<W: Write> Write for Interruptible<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            if signal::interrupted() {
                return Err(io::Error::other("a signal asked to stop"));
            }
            match self.0.write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                outcome => return outcome,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Sink for Stream<'_> {
    fn zeros(&mut self, range: Range<Bytes>) -> Result<()> {
        static ZEROS: [u8; CHUNK as usize] = [0; CHUNK as usize];
        let mut left = (range.end - range.start).usize();
        while left > 0 {
            let part = left.min(ZEROS.len());
            self.put(&ZEROS[..part])?;
            left -= part;
        }
        Ok(())
    }

    fn data(&mut self, batch: &mut Batch, range: Range<Bytes>, offset: usize) -> Result<()> {
        let len = (range.end - range.start).usize();
        self.put(&batch.bytes()[offset..offset + len])
    }
}

/// The disk an export reads from, for messages.
pub fn source_name(store: &OpenStore) -> String {
    store.dpsr.name().to_owned()
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! The parts of an index as bytes.

use super::{Made, Map, Object, Record, Run, Undo, Volume};
use crate::format::digests;
use crate::format::moment::Moment;
use crate::format::packer::{Packer, Unpacker};
use crate::units::{Bytes, CHUNK, Extent, Generation};

/// Record flag: never dropped to make room.
const PINNED: u8 = 1;
/// Record flag: an undo store follows.
const HAS_UNDO: u8 = 2;

pub(super) fn pack_run(packer: &mut Packer, run: &Run) {
    packer.u32(run.at).u32(run.extent.0).u32(run.count);
}

pub(super) fn unpack_run(unpacker: &mut Unpacker<'_>) -> Option<Run> {
    Some(Run { at: unpacker.u32()?, extent: Extent(unpacker.u32()?), count: unpacker.u32()? })
}

pub(super) fn pack_volume(packer: &mut Packer, volume: &Volume) {
    packer.text(&volume.id).text(&volume.name).text(&volume.label);
    packer.u64(volume.start.0).u64(volume.size.0);
    packer.u8(u8::from(volume.left_out) | u8::from(volume.group) << 1);
}

pub(super) fn unpack_volume(unpacker: &mut Unpacker<'_>) -> Option<Volume> {
    let (id, name, label) = (unpacker.text()?, unpacker.text()?, unpacker.text()?);
    let (start, size, flags) = (Bytes(unpacker.u64()?), Bytes(unpacker.u64()?), unpacker.u8()?);
    start.0.checked_add(size.0)?;
    if flags & !3 != 0 {
        return None;
    }
    Some(Volume { id, name, label, start, size, left_out: flags & 1 != 0, group: flags & 2 != 0 })
}

pub(super) fn pack_map(packer: &mut Packer, map: &Map) {
    packer.u32(map.id).u64(map.disk.0).u64(map.block.0);
    packer.list(&map.volumes, pack_volume).list(&map.runs, pack_run);
}

pub(super) fn unpack_map(unpacker: &mut Unpacker<'_>) -> Option<Map> {
    let (id, disk, block) = (unpacker.u32()?, Bytes(unpacker.u64()?), Bytes(unpacker.u64()?));
    let plausible = disk.div_ceil(CHUNK) <= digests::BASE.0 && block.0.is_power_of_two();
    let map =
        Map { id, disk, block, volumes: unpacker.list(unpack_volume)?, runs: unpacker.list(unpack_run)? };
    plausible.then_some(map)
}

pub(super) fn pack_record(packer: &mut Packer, record: &Record) {
    packer.u64(record.generation.0).u64(record.time).u32(record.map);
    let pinned = if record.pinned { PINNED } else { 0 };
    let undo = if record.undo.is_some() { HAS_UNDO } else { 0 };
    packer.u8(pinned | undo | record.moment.flags());
    packer.list(&record.volume_times, |packer, &time| {
        packer.u64(time);
    });
    packer.bytes(&record.root).u8(record.made.mode);
    let made = &record.made;
    packer.u64(made.read.0).u64(made.changed.0).u64(made.image.0).u64(made.undo.0);
    if let Some(undo) = &record.undo {
        packer.u64(undo.nonce).u64(undo.entries).u64(undo.image_entries).list(&undo.runs, pack_run);
    }
}

pub(super) fn unpack_record(unpacker: &mut Unpacker<'_>) -> Option<Record> {
    let (generation, time, map) = (Generation(unpacker.u64()?), unpacker.u64()?, unpacker.u32()?);
    let flags = unpacker.u8()?;
    if flags & !(PINNED | HAS_UNDO | Moment::FLAGS) != 0 {
        return None;
    }
    let volume_times = unpacker.list(Unpacker::u64)?;
    let (root, mode) = (unpacker.array()?, unpacker.u8()?);
    let made = Made {
        mode,
        read: Bytes(unpacker.u64()?),
        changed: Bytes(unpacker.u64()?),
        image: Bytes(unpacker.u64()?),
        undo: Bytes(unpacker.u64()?),
    };
    let undo = if flags & HAS_UNDO != 0 {
        let (nonce, entries, image_entries) = (unpacker.u64()?, unpacker.u64()?, unpacker.u64()?);
        Some(Undo { nonce, entries, image_entries, runs: unpacker.list(unpack_run)? })
    } else {
        None
    };
    let (pinned, moment) = (flags & PINNED != 0, Moment::of_flags(flags));
    Some(Record { generation, time, map, pinned, moment, volume_times, root, made, undo })
}

pub(super) fn pack_object(packer: &mut Packer, object: &Object) {
    packer.u16(object.kind);
    packer.list(&object.about, |packer, &byte| {
        packer.u8(byte);
    });
    packer.list(&object.runs, pack_run);
}

pub(super) fn unpack_object(unpacker: &mut Unpacker<'_>) -> Option<Object> {
    Some(Object {
        kind: unpacker.u16()?,
        about: unpacker.list(Unpacker::u8)?,
        runs: unpacker.list(unpack_run)?,
    })
}

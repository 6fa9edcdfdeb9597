// SPDX-License-Identifier: MIT OR Apache-2.0
//! The plan of `init` as a person reads it.

use std::fmt;

use super::plan::{Endpoint, InitPlan, PlannedReserve};
use super::table::TableKind;
use super::volumes::Volume;

impl fmt::Display for InitPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Pair {}", self.pair)?;
        writeln!(f, "\nPrimary, only read: {}, {}", self.primary, table(&self.table))?;
        columns(f, &self.volumes.iter().map(row).collect::<Vec<_>>())?;
        if let Some(PlannedReserve { path, size }) = &self.reserve {
            writeln!(f, "  reserve: {size} in {}, made immutable and not copied", path.display())?;
        }
        writeln!(f, "\nDPSR disk, OVERWRITTEN: {}", self.dpsr)?;
        let rows = self.partitions.iter().map(|new| ["new".into(), new.name.clone(), new.size.to_string()]);
        columns(f, &rows.collect::<Vec<_>>())?;
        for thing in &self.gives_up {
            writeln!(f, "  given up: {thing}")?;
        }
        let Self { sizes, kept, history, .. } = self;
        writeln!(f, "\nKept: {kept}. The copy takes {} of {}.", sizes.needed_for_image, sizes.store)?;
        writeln!(f, "History: {history}.")?;
        for warning in &self.warnings {
            writeln!(f, "Warning: {warning}.")?;
        }
        let Self { confirm, confirm_kind, .. } = self;
        write!(f, "\nTo do this, confirm with the DPSR disk's {confirm_kind}: --confirm '{confirm}'")
    }
}

/// What a disk says of itself, without control characters: a terminal would obey them.
pub fn printable(text: &str) -> String {
    let shown = |c: char| if c.is_control() { c.escape_unicode().to_string() } else { c.to_string() };
    text.chars().map(shown).collect()
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {} ({} bytes)", self.path, self.size, self.size.0)?;
        let names = [&self.model, &self.serial].into_iter().flatten();
        names.map(|name| printable(name)).try_for_each(|name| write!(f, ", {name}"))
    }
}

fn table(kind: &TableKind) -> String {
    match kind {
        TableKind::Gpt { disk_guid } => format!("GPT {disk_guid}"),
        TableKind::Mbr { signature } => format!("MBR {signature:08x}"),
        TableKind::Bare => "no partition table".to_owned(),
    }
}

fn row(volume: &Volume) -> [String; 5] {
    let number = if volume.number == 0 { volume.id.clone() } else { volume.number.to_string() };
    let name = if volume.name.is_empty() { &volume.label } else { &volume.name };
    let size = match volume.id.as_str() {
        super::volumes::TABLE => String::new(),
        _ => (volume.range.end - volume.range.start).to_string(),
    };
    let fate = match (volume.left_out, volume.group) {
        (true, _) => "left out",
        (false, true) => "kept, system",
        (false, false) => "kept",
    };
    [number, volume.content.clone(), printable(name), size, fate.to_owned()]
}

/// Aligned columns, two blanks before and between; an empty cell shows as `-`.
fn columns<const N: usize>(f: &mut fmt::Formatter<'_>, rows: &[[String; N]]) -> fmt::Result {
    let width = |i: usize| rows.iter().map(|row| row[i].chars().count().max(1)).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    for row in rows {
        let cells = row.iter().zip(widths).map(|(cell, width)| {
            let cell = if cell.is_empty() { "-" } else { cell };
            format!("  {cell:<width$}")
        });
        writeln!(f, "{}", cells.collect::<String>().trim_end())?;
    }
    Ok(())
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! What `init` is going to do, as a value that can be shown before anything is written.

use std::path::PathBuf;

use serde::Serialize;

use super::layout::DpsrLayout;
use super::probe::Probe;
use super::table::{Table, TableKind};
use super::volumes::{Volume, Volumes};
use crate::units::Bytes;

/// What the copy needs and what there is, as the store's own arithmetic says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Sizes {
    /// What image and digests take.
    pub needed_for_image: Bytes,
    /// The least store that works: the image, and room for one small generation.
    pub needed_min: Bytes,
    /// The store partition.
    pub store: Bytes,
}

/// One of the two disks, as the plan shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Endpoint {
    /// The path it was given by.
    pub path: String,
    /// Its size in bytes.
    pub size: Bytes,
    /// Its logical block size in bytes.
    pub block: Bytes,
    /// Its model, where it reports one.
    pub model: Option<String>,
    /// Its serial number, where it reports one.
    pub serial: Option<String>,
    /// Its world-wide name, where it reports one.
    pub wwn: Option<String>,
}

impl Endpoint {
    fn of(probe: &Probe) -> Self {
        Self {
            path: probe.name(),
            size: probe.size,
            block: probe.block,
            model: probe.model.clone(),
            serial: probe.serial.clone(),
            wwn: probe.wwn.clone(),
        }
    }
}

/// A partition that is going to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NewPartition {
    /// Its PARTLABEL.
    pub name: String,
    /// Where it starts, in bytes.
    pub start: Bytes,
    /// Its size in bytes.
    pub size: Bytes,
}

/// A file that is going to be made on the primary, so that its room need not be copied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PlannedReserve {
    /// The file.
    pub path: PathBuf,
    /// Its size.
    pub size: Bytes,
}

/// Everything `init` would do.
#[derive(Clone, Debug, Serialize)]
pub struct InitPlan {
    /// The name of the pair.
    pub pair: String,
    /// The disk that is going to be copied.
    pub primary: Endpoint,
    /// Its partition table.
    pub table: TableKind,
    /// Its parts.
    pub volumes: Vec<Volume>,
    /// The file on the primary that is not copied, where there is to be one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reserve: Option<PlannedReserve>,
    /// How many bytes are kept, the reserve counted.
    pub kept: Bytes,
    /// The disk that is going to be overwritten.
    pub dpsr: Endpoint,
    /// The partitions it is going to have.
    pub partitions: Vec<NewPartition>,
    /// What the copy needs and what there is.
    pub sizes: Sizes,
    /// Room for history, after the limit the user set.
    pub history: Bytes,
    /// What is on the DPSR disk now and goes.
    pub gives_up: Vec<String>,
    /// What the user should know.
    pub warnings: Vec<String>,
    /// What to confirm with.
    pub confirm: String,
    /// What kind of ID that is.
    pub confirm_kind: String,
}

/// What a plan is made from.
#[derive(Clone, Debug)]
pub struct Inputs<'a> {
    /// The name of the pair.
    pub pair: &'a str,
    /// The disk that is going to be copied.
    pub primary: &'a Probe,
    /// Its table.
    pub table: &'a Table,
    /// Its parts, with what is left out.
    pub volumes: &'a Volumes,
    /// The disk that is going to be overwritten.
    pub dpsr: &'a Probe,
    /// How it is going to be divided.
    pub layout: &'a DpsrLayout,
    /// What is on it now.
    pub gives_up: &'a [String],
    /// How many bytes history may take.
    pub limit: Option<Bytes>,
    /// The file on the primary that is not copied.
    pub reserve: Option<PlannedReserve>,
    /// The tools that tell what is on a disk and cannot be run.
    pub missing: &'a [&'static str],
}

impl InitPlan {
    /// Makes the plan; `sizes` answers what a copy of these volumes needs in a store of this size.
    pub fn new(inputs: &Inputs<'_>, sizes: impl FnOnce(&Volumes, Bytes) -> Sizes) -> Self {
        let store = inputs.layout.store.end - inputs.layout.store.start;
        let sizes = sizes(inputs.volumes, store);
        let room = sizes.store.saturating_sub(sizes.needed_for_image);
        let partitions = inputs.layout.partitions().map(|(name, range)| NewPartition {
            name: name.to_owned(),
            start: range.start,
            size: range.end - range.start,
        });
        Self {
            pair: inputs.pair.to_owned(),
            primary: Endpoint::of(inputs.primary),
            table: inputs.table.kind.clone(),
            volumes: inputs.volumes.iter().cloned().collect(),
            reserve: inputs.reserve.clone(),
            kept: inputs.volumes.kept(),
            dpsr: Endpoint::of(inputs.dpsr),
            partitions: partitions.collect(),
            sizes,
            history: inputs.limit.map_or(room, |limit| limit.min(room)),
            gives_up: inputs.gives_up.to_vec(),
            warnings: warnings(inputs, room),
            confirm: inputs.dpsr.id(),
            confirm_kind: inputs.dpsr.id_kind().to_owned(),
        }
    }
}

fn warnings(inputs: &Inputs<'_>, room: Bytes) -> Vec<String> {
    let bad = inputs.table.bad.iter().map(|bad| format!("the primary's table: {bad}"));
    let tight = room < Bytes(inputs.volumes.kept().0 / 20);
    let more = if inputs.reserve.is_none() { "; --reserve makes more, of room on the primary" } else { "" };
    let tight = tight.then(|| format!("there is room for only {room} of history{more}"));
    let limit = inputs.limit.filter(|limit| *limit > room);
    let limit =
        limit.map(|limit| format!("history is limited to {limit}, and there is room for only {room}"));
    let grouped = inputs.volumes.iter().filter(|volume| volume.group && volume.left_out);
    let grouped = grouped.map(|v| format!("the system boots from partition {v}, and it is left out"));
    let alone = inputs.volumes.iter().filter(|volume| volume.number > 0 && !volume.left_out);
    let alone: Vec<_> = alone.collect();
    let alone = (alone.len() > 1 && !alone.iter().any(|volume| volume.group)).then(|| {
        "no partition is known to belong to the system; if one does, name root, /boot and ESP in 'group = [...]' \
         of the pair's record, so that they always move together"
            .to_owned()
    });
    let missing = inputs.missing.iter().map(|tool| without(tool));
    bad.chain(missing).chain(tight).chain(limit).chain(grouped).chain(alone).collect()
}

/// What cannot be told without `tool`.
fn without(tool: &str) -> String {
    let lost = match tool {
        "blkid" => "what is on the primary's partitions is not known, and swap is told by their types alone",
        _ => "signatures on the DPSR disk were not looked for, only its partitions and data in samples",
    };
    format!("{tool} cannot be run (package util-linux): {lost}")
}

#[cfg(test)]
mod tests {
    use super::super::empty::Found;
    use super::super::inuse::Use;
    use super::super::refuse::{Target, check_confirmation, check_room, check_target};
    use super::super::sysfs::Roots;
    use super::super::testing::{probe, sample_table};
    use super::*;
    use crate::units::GIB;

    fn sizes(volumes: &Volumes, store: Bytes) -> Sizes {
        let image = volumes.kept() + Bytes(GIB);
        Sizes { needed_for_image: image, needed_min: image + Bytes(GIB), store }
    }

    fn volumes() -> Volumes {
        let mut volumes = Volumes::of(&sample_table(), Bytes(100 * GIB));
        volumes.leave_out_swap(&sample_table());
        volumes
    }

    #[test]
    fn the_plan_as_text_and_json() {
        let (primary, dpsr) = (probe("/dev/sda", 100 * GIB), probe("/dev/sdb", 500 * GIB));
        let layout = DpsrLayout::plan(dpsr.size, dpsr.block, true, true).unwrap();
        let table = sample_table();
        let inputs = Inputs {
            pair: "system",
            primary: &primary,
            table: &table,
            volumes: &volumes(),
            dpsr: &dpsr,
            layout: &layout,
            gives_up: &["ext4 on the whole disk".to_owned()],
            limit: None,
            reserve: None,
            missing: &[],
        };
        let plan = InitPlan::new(&inputs, sizes);
        insta::assert_snapshot!("plan_text", plan);
        insta::assert_snapshot!("plan_json", serde_json::to_string_pretty(&plan).unwrap());
    }

    #[test]
    fn a_tool_that_cannot_be_run_is_told() {
        insta::assert_snapshot!([without("blkid"), without("wipefs")].join("\n"), @r"
        blkid cannot be run (package util-linux): what is on the primary's partitions is not known, and swap is told by their types alone
        wipefs cannot be run (package util-linux): signatures on the DPSR disk were not looked for, only its partitions and data in samples
        ");
    }

    #[test]
    fn every_refusal() {
        let roots = Roots { sys: "/none".into(), proc: "/none".into(), dev: "/none".into() };
        let (primary, dpsr) = (probe("/dev/sda", 100 * GIB + 1), probe("/dev/sdb", 50 * GIB + 2));
        let large = crate::pair::probe::Probe { block: Bytes(4096), ..dpsr.clone() };
        let mounted = [Use::Mounted { device: "sdb1".into(), at: "/mnt".into() }];
        let full = Found { store: None, things: vec!["a GPT with 2 partitions".into()] };
        let none = Found::default();
        let fine =
            Target { primary: &primary, dpsr: &dpsr, uses: &[], found: &none, owner: None, wipe: false };
        let mut told = Vec::new();
        for target in [
            Target { dpsr: &primary, ..fine },
            Target { uses: &mounted, ..fine },
            Target { owner: Some("other"), wipe: true, ..fine },
            Target { found: &full, ..fine },
            Target { dpsr: &large, ..fine },
        ] {
            told.push(check_target(&roots, &target).unwrap_err().to_string());
        }
        check_target(&roots, &Target { found: &full, wipe: true, ..fine }).unwrap();
        for store in [Bytes(50 * GIB), Bytes(5 * GIB)] {
            let refused = check_room(&fine, &volumes(), |volumes| sizes(volumes, store));
            told.push(refused.unwrap_err().to_string());
        }
        told.push(check_confirmation(&dpsr, "WRONG").unwrap_err().to_string());
        check_confirmation(&dpsr, "S3R1AL\n").unwrap();
        insta::assert_snapshot!("refusals", told.join("\n"));
    }
}

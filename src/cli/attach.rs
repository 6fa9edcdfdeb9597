// SPDX-License-Identifier: MIT OR Apache-2.0
//! `dpsr attach`

use std::path::PathBuf;

use serde::Serialize;

use super::args::Attach;
use super::store::store;
use super::{end_in_order, say, say_json};
use crate::attach::{Attached, Until, attach, path};
use crate::dm::Mapped;
use crate::error::Result;
use crate::export::{find, range_of};
use crate::units::{Bytes, Generation};
use crate::view::View;

#[derive(Serialize)]
struct Told {
    generation: Generation,
    devices: Vec<Device>,
}

/// One device; `volume` is absent for the whole disk.
#[derive(Serialize)]
struct Device {
    path: PathBuf,
    node: PathBuf,
    size: Bytes,
    #[serde(skip_serializing_if = "Option::is_none")]
    volume: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    label: String,
}

pub(super) fn run(args: &Attach) -> Result<()> {
    end_in_order()?;
    let store = store(&args.store)?;
    let view = View::of(&store.contents, args.generation)?;
    // A name that means nothing is told before anything is made.
    range_of(&view, args.volume.as_deref())?;
    let only = args.volume.as_deref().map(|name| find(&view.map.volumes, name)).transpose()?;
    let attached = attach(&store, args.generation, Until::Detached)?;
    let mut told = told(&attached);
    if let Some(only) = only {
        told.devices.retain(|device| device.volume.as_ref() == Some(&only.name));
    }
    if args.json {
        return say_json(&told);
    }
    say(format_args!("Generation {} is attached, read-only:", told.generation));
    for device in &told.devices {
        let what = match (&device.volume, device.label.as_str()) {
            (None, _) => "the whole disk".to_owned(),
            (Some(volume), "") => format!("volume {volume}"),
            (Some(volume), label) => format!("volume {volume} ({label})"),
        };
        say(format_args!("  {:40}  {:>10}  {what}", device.path.display(), device.size));
    }
    say(format_args!("No sync can run until 'dpsr detach {}' takes it away.", told.generation));
    Ok(())
}

fn told(attached: &Attached) -> Told {
    let device = |mapped: &Mapped, size, volume, label| Device {
        path: path(mapped),
        node: mapped.node(),
        size,
        volume,
        label,
    };
    let mut devices = vec![device(&attached.disk, attached.size, None, String::new())];
    devices.extend(attached.volumes.iter().map(|(volume, mapped)| {
        device(mapped, volume.size, Some(volume.name.clone()), volume.label.clone())
    }));
    Told { generation: attached.id.generation, devices }
}

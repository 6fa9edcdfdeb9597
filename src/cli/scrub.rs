// SPDX-License-Identifier: MIT OR Apache-2.0
//! `dpsr scrub`

use std::sync::Arc;

use super::args::Scrub;
use super::progress::shown;
use super::{end_in_order, say, say_json};
use crate::config::{self, PairConfig};
use crate::disk::{ReadDisk, WriteDisk};
use crate::error::{Error, Kind, Result};
use crate::open::{now, owner, primary_offline};
use crate::pair::lock::Mode;
use crate::pair::open::{open_store_only, open_unrecorded};
use crate::pair::sysfs::Roots;
use crate::scrub::{Report, Request, check, scrub};

pub(super) fn run(args: &Scrub) -> Result<()> {
    end_in_order()?;
    let roots = Roots::default();
    let (report, name) = match &args.store.dpsr {
        Some(path) => {
            let dpsr = open_unrecorded(&roots, path, Mode::Shared)?;
            let (partition, block, name) =
                (dpsr.store.range.clone(), dpsr.store.block, dpsr.name().to_owned());
            let disk: Arc<dyn ReadDisk> = Arc::new(dpsr);
            (check(&disk, &partition, Some(block), shown(args.json).as_ref())?, name)
        }
        None => recorded(args, &roots)?,
    };
    if args.json {
        say_json(&report)?
    } else {
        say(&report)
    }
    if report.left == 0 {
        return Ok(());
    }
    let why = format!("{} of its chunks, pages or blocks are damaged", report.left);
    let next = if args.repair {
        "do what is said of each above"
    } else {
        "'dpsr scrub --repair' repairs what it can"
    };
    Err(Error::new(Kind::Damaged, "scrubbing", why).on(name).next(next))
}

/// Scrubs the DPSR disk that a record speaks of: what was found, and the disk's name.
fn recorded(args: &Scrub, roots: &Roots) -> Result<(Report, String)> {
    let common = &args.store.common;
    let config = config::choose(&common.config_dir, common.pair.as_deref())?;
    let dpsr = open_store_only(roots, &config, Mode::Exclusive)?;
    let (partition, table) = (dpsr.store.range.clone(), Some(dpsr.store.block));
    let disk: Arc<dyn WriteDisk> = Arc::new(dpsr);
    let primary = if args.repair { primary(&config) } else { None };
    let request = Request { repair: args.repair, primary, table, time: now() };
    let report = scrub(&disk, &partition, owner(), &request, shown(args.json).as_ref())?;
    Ok((report, disk.name().to_owned()))
}

/// The primary, if it can be had: without it, everything but the image's own chunks can still be repaired.
fn primary(config: &PairConfig) -> Option<Arc<dyn ReadDisk>> {
    match primary_offline(config) {
        Ok((primary, _)) => Some(Arc::new(primary)),
        Err(error) => {
            tracing::warn!("{error}, ignoring: chunks of the image cannot be repaired without it");
            None
        }
    }
}

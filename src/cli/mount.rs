// SPDX-License-Identifier: MIT OR Apache-2.0
//! `dpsr mount` and `dpsr umount`

use std::path::Path;

use super::args::{Mount, Mountable, Salvage, Umount};
use super::store::store;
use super::{end_in_order, say};
use crate::attach::PRIMARY;
use crate::error::Result;
use crate::mount::{Keys, Request, mount, salvage, unmount};
use crate::open;
use crate::units::Generation;

pub(super) fn run(args: &Mount) -> Result<()> {
    // A signal at the prompt for a passphrase ends the prompt, and then what was attached goes again.
    end_in_order()?;
    let store = store(&args.store)?;
    let request = request(args.generation, &args.what, &args.dir);
    let mounted = mount(&store, &request)?;
    say(format_args!(
        "Volume {} of generation {} ({}) is mounted at {}, read-only.",
        mounted.volume,
        args.generation,
        mounted.filesystem,
        args.dir.display()
    ));
    say(format_args!("No sync can run until 'dpsr umount {}'.", args.dir.display()));
    Ok(())
}

pub(super) fn salvaged(args: &Salvage) -> Result<()> {
    end_in_order()?;
    let store = open::look(&args.common.config_dir, args.common.pair.as_deref())?;
    let request = request(PRIMARY, &args.what, &args.dir);
    let mounted = salvage(&store, &args.disk, &request)?;
    let (volume, kind, at) = (mounted.volume, mounted.filesystem, args.dir.display());
    say(format_args!("Volume {volume} of the old primary ({kind}) is mounted at {at}, read-only."));
    say(format_args!("No failback can take that disk until 'dpsr umount {at}'."));
    Ok(())
}

fn request<'a>(generation: Generation, what: &'a Mountable, at: &'a Path) -> Request<'a> {
    let keys = Keys { key_file: what.key_file.as_deref(), lv: what.lv.as_deref() };
    Request { generation, volume: what.volume.as_deref(), at, keys }
}

pub(super) fn undo(args: &Umount) -> Result<()> {
    end_in_order()?;
    let undone = unmount(&args.dir)?;
    let rest = if undone.detached { "and detached" } else { "and still attached" };
    say(format_args!("Unmounted from {}: {}, {rest}.", args.dir.display(), undone.view));
    Ok(())
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! `dpsr export`

use std::fs::File;
use std::io::{Write, stdout};
use std::os::fd::AsFd;
use std::path::Path;

use super::args::Export;
use super::progress::shown;
use super::store::store;
use super::{end_in_order, tell_aside};
use crate::error::Result;
use crate::export::{Exported, Interruptible, NewFile, check, to_file, to_stream, unwritten};
use crate::open::OpenStore;
use crate::progress::Progress;

/// Fast and already near what higher levels reach on disk images.
const ZSTD_LEVEL: i32 = 3;

pub(super) fn run(args: &Export) -> Result<()> {
    let store = store(&args.store)?;
    let standard_output = args.file == Path::new("-");
    end_in_order()?;
    let progress = shown(false);
    let exported = match (standard_output, args.zstd) {
        (false, false) => {
            to_file(&store, args.generation, args.volume.as_deref(), &args.file, progress.as_ref())?
        }
        (true, _) => stream(args, &store, standard_output_alone()?, progress.as_ref())?,
        (false, true) => {
            check(&store, args.generation, args.volume.as_deref())?;
            let file = NewFile::make(&args.file)?;
            let exported = stream(args, &store, file.file(), progress.as_ref())?;
            file.finish()?;
            exported
        }
    };
    drop(progress);
    tell_aside(format_args!("Exported generation {}: {}.", args.generation, exported.size));
    exported.intact(args.generation, &crate::export::source_name(&store))
}

/// Standard output without the buffer std puts before it, which writes again what a signal has ended.
fn standard_output_alone() -> Result<File> {
    stdout().as_fd().try_clone_to_owned().map(File::from).map_err(|error| unwritten(&error))
}

fn stream(args: &Export, store: &OpenStore, output: impl Write, progress: &dyn Progress) -> Result<Exported> {
    let (generation, volume) = (args.generation, args.volume.as_deref());
    let mut output = Interruptible(output);
    if !args.zstd {
        return to_stream(store, generation, volume, &mut output, progress);
    }
    let mut encoder = zstd::Encoder::new(output, ZSTD_LEVEL).map_err(|error| unwritten(&error))?;
    let exported = to_stream(store, generation, volume, &mut encoder, progress)?;
    encoder.finish().map_err(|error| unwritten(&error))?;
    Ok(exported)
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! `dpsr export`

use std::fs::File;
use std::io::{self, Write, stdout};
use std::path::Path;

use super::args::Export;
use super::progress::shown;
use super::{end_in_order, tell_aside};
use crate::error::{Error, Kind, Result};
use crate::export::{Exported, check, to_file, to_stream};
use crate::open::{OpenStore, store};
use crate::progress::Progress;

/// Fast and already near what higher levels reach on disk images.
const ZSTD_LEVEL: i32 = 3;

pub(super) fn run(args: &Export) -> Result<()> {
    let store = store(&args.common.config_dir, args.common.pair.as_deref())?;
    let standard_output = args.file == Path::new("-");
    end_in_order()?;
    let progress = shown(false);
    let exported = match (standard_output, args.zstd) {
        (false, false) => {
            to_file(&store, args.generation, args.volume.as_deref(), &args.file, progress.as_ref())?
        }
        (true, _) => stream(args, &store, stdout().lock(), progress.as_ref())?,
        (false, true) => {
            check(&store, args.generation, args.volume.as_deref())?;
            let file = File::create_new(&args.file).map_err(|error| {
                Error::new(Kind::Refused, "making the file", error.to_string())
                    .on(args.file.display().to_string())
                    .next("name a file that does not exist yet")
            })?;
            stream(args, &store, file, progress.as_ref())?
        }
    };
    drop(progress);
    tell_aside(format_args!("Exported generation {}: {}.", args.generation, exported.size));
    exported.intact(args.generation, &crate::export::source_name(&store))
}

fn stream(
    args: &Export,
    store: &OpenStore,
    mut output: impl Write,
    progress: &dyn Progress,
) -> Result<Exported> {
    let (generation, volume) = (args.generation, args.volume.as_deref());
    if !args.zstd {
        let exported = to_stream(store, generation, volume, &mut output, progress)?;
        output.flush().map_err(|error| failed(&error))?;
        return Ok(exported);
    }
    let mut encoder = zstd::Encoder::new(output, ZSTD_LEVEL).map_err(|error| failed(&error))?;
    let exported = to_stream(store, generation, volume, &mut encoder, progress)?;
    encoder.finish().and_then(|mut output| output.flush()).map_err(|error| failed(&error))?;
    Ok(exported)
}

fn failed(error: &io::Error) -> Error {
    Error::new(Kind::Device, "writing the export to", error.to_string()).on("its output")
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! `dpsr internal`

use std::path::Path;

use super::args::{CONFIG_DIR, Internal, Process};
use crate::boot::tries;
use crate::error::Result;
use crate::snapshot::window::{freezer, keeper};

pub(super) fn run(args: &Internal) -> Result<()> {
    match args.process {
        Process::Keep { lock } => keeper::run(lock),
        Process::Freeze { board } => freezer::run(board),
        Process::CountStarts { pause } => {
            let act = if pause { tries::pause } else { tries::count };
            act(Path::new("/"), Path::new(CONFIG_DIR))
        }
    }
}

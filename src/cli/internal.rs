// SPDX-License-Identifier: MIT OR Apache-2.0
//! `dpsr internal`

use super::args::{Internal, Process};
use crate::error::Result;
use crate::snapshot::window::{freezer, keeper};

pub(super) fn run(args: &Internal) -> Result<()> {
    match args.process {
        Process::Keep { lock } => keeper::run(lock),
        Process::Freeze { board } => freezer::run(board),
    }
}

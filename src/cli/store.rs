// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which store a verb that only reads is about.

use super::args::Source;
use crate::error::Result;
use crate::open::{self, OpenStore};

/// Opens it for reading its generations.
pub(super) fn store(source: &Source) -> Result<OpenStore> {
    match &source.dpsr {
        Some(disk) => open::store_on(disk),
        None => open::store(&source.common.config_dir, source.common.pair.as_deref()),
    }
}

/// Looks at it, whether a sync is running or not.
pub(super) fn look(source: &Source) -> Result<OpenStore> {
    match &source.dpsr {
        Some(disk) => open::look_on(disk),
        None => open::look(&source.common.config_dir, source.common.pair.as_deref()),
    }
}

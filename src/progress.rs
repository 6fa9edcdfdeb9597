// SPDX-License-Identifier: MIT OR Apache-2.0
//! How far a long run is. The library tells; only the command line shows.

use crate::units::Bytes;

/// Told what is going on. Called often: an implementation must be cheap.
pub trait Progress: Sync {
    /// A new stretch of work begins: what it is, and how many bytes it will go through.
    fn begin(&self, what: &str, total: Bytes);

    /// So many more bytes are done.
    fn advance(&self, bytes: Bytes);
}

/// Tells nobody.
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _what: &str, _total: Bytes) {}
    fn advance(&self, _bytes: Bytes) {}
}

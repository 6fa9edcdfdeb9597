// SPDX-License-Identifier: MIT OR Apache-2.0
//! How much was written to a device, as sysfs counts it (`Documentation/block/stat.rst`).

use crate::pair::sysfs::{BlockNode, DevNum, Roots};

/// The counters of a device since it came to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Writes {
    /// Finished writes.
    pub requests: u64,
    /// Sectors they wrote.
    pub sectors: u64,
    /// Reads and writes that are on their way.
    pub under_way: u64,
}

impl Writes {
    /// From the file `stat`.
    pub fn parse(stat: &str) -> Option<Self> {
        let mut fields = stat.split_whitespace().map(str::parse::<u64>);
        let requests = fields.nth(4)?.ok()?;
        let sectors = fields.nth(1)?.ok()?;
        let under_way = fields.nth(1)?.ok()?;
        Some(Self { requests, sectors, under_way })
    }

    /// Those of a device now.
    pub fn of(roots: &Roots, device: DevNum) -> Option<Self> {
        Self::at(&roots.node(device)?)
    }

    /// The same of a device that was found already.
    pub fn at(node: &BlockNode) -> Option<Self> {
        Self::parse(&node.attr("stat")?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_the_kernel_writes_them() {
        let stat = "  9652   1862  622506  4153     7210  8053  413192  9044   3  6900  13197  0 0 0 0 0 0\n";
        let expected = Writes { requests: 7210, sectors: 413192, under_way: 3 };
        assert_eq!(Writes::parse(stat), Some(expected));
        assert_eq!(Writes::parse("1 2 3"), None);
        assert_eq!(Writes::parse("1 2 3 4 x 6 7 8 9"), None);
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Wraps a primary, or makes its wrap whole.

use super::events::{self, Caller};
use super::kernel::{self, Place};
use super::seen::{Difference, Found, State};
use super::shape::Part;
use super::turn;
use super::{Report, Site, in_use, open};
use crate::config::PairConfig;
use crate::disk::ReadDisk;
use crate::dm::{Mapped, Mapper, Stack};
use crate::error::{Error, Kind, Result};
use crate::failover;
use crate::pair::holder::opener;
use crate::pair::inuse::{self, Use};
use crate::pair::sysfs::Roots;

const DOING: &str = "wrapping the primary";

/// Puts device-mapper under the primary of a pair. One that is wrapped already is left alone, but for
/// partitions that came, went or moved since.
///
/// # Errors
/// `Refused` where anything on it is in use, where the primary is an image file, or where its names belong to
/// another disk; `Busy` where a partition is open, and then the disk is as before.
pub fn wrap(config: &PairConfig, dry_run: bool, caller: &Caller) -> Result<Report> {
    let primary = open(config)?;
    let mapper = Mapper::open()?;
    let site = Site::of(&mapper, config, &primary)?;
    let _turn = turn::take()?;
    // Who starts the machine from its copy says so first, and takes the wrap away after that: one that was made later
    // would show an older primary under the names of the copy.
    if *caller != Caller::Command && failover::is_under_way() {
        return Ok(site.report(false, Vec::new()));
    }
    let work = Work::of(&site)?;
    if work.is_nothing() || dry_run {
        return Ok(site.report(!work.is_nothing(), Vec::new()));
    }
    let mut warnings = Vec::new();
    let (parts, wwn) = (site.shape.parts.iter().map(|part| part.number), primary.probe.wwn.as_deref());
    if let Err(error) = events::announce(&site.shape.id, &site.raw, wwn, parts, caller) {
        warnings.push(format!("links by-id and by-path may be missing, ignoring: {error}"));
    }
    let made = work.act(&site)?;
    if *caller == Caller::Command && !events::settled(&made.iter().collect::<Vec<_>>()) {
        warnings.push("links may be missing, ignoring: udev has not said that it knows the nodes".to_owned());
    }
    Ok(site.report(true, warnings))
}

/// What has to be done.
struct Work {
    /// Made by somebody who was stopped at it.
    begun: Option<Mapped>,
    /// The disk node that is there.
    disk: Option<Mapped>,
    /// Nodes that are of no use any more.
    remove: Vec<Mapped>,
    /// Partitions to make nodes of.
    make: Vec<Part>,
    /// The kernel's own nodes.
    kernel: Vec<Place>,
}

impl Work {
    /// Everything that can be refused is refused here.
    fn of(site: &Site<'_>) -> Result<Self> {
        let kernel = kernel::places(&site.raw);
        let parts = site.shape.parts.clone();
        let work = match site.state()? {
            State::Unwrapped => Self { begun: None, disk: None, remove: Vec::new(), make: parts, kernel },
            State::Begun(disk) => {
                Self { begun: Some(disk), disk: None, remove: Vec::new(), make: parts, kernel }
            }
            State::Wrapped(found) => Self::rest(site, found, kernel)?,
        };
        if work.disk.is_none() || !work.kernel.is_empty() {
            refuse_uses(site)?;
        }
        Ok(work)
    }

    /// What is left to do for a primary that has its disk node.
    fn rest(site: &Site<'_>, found: Found, kernel: Vec<Place>) -> Result<Self> {
        let mut work =
            Self { begun: None, disk: Some(found.disk), remove: Vec::new(), make: Vec::new(), kernel };
        for difference in found.differences {
            let why = difference.to_string();
            let old = match difference {
                Difference::Missing(part) => {
                    work.make.push(part);
                    continue;
                }
                Difference::Moved(device, part) => {
                    work.make.push(part);
                    device
                }
                Difference::Stray(device, _) => device,
            };
            if site.mapper.state(&old)?.opened > 0 {
                return Err(Error::new(Kind::Refused, DOING, format!("{why}, and it is in use"))
                    .on(site.primary.probe.name())
                    .left("the wrap is as it was")
                    .next("stop that use and wrap again, or restart the machine"));
            }
            work.remove.push(old);
        }
        Ok(work)
    }

    fn is_nothing(&self) -> bool {
        self.disk.is_some() && self.remove.is_empty() && self.make.is_empty() && self.kernel.is_empty()
    }

    /// The claim comes first: what opened a partition before it makes it fail, and nothing can after it.
    fn act(&self, site: &Site<'_>) -> Result<Vec<Mapped>> {
        for stale in self.begun.iter().chain(&self.remove) {
            site.mapper.remove(stale)?;
        }
        let mut stack = Stack::new(site.mapper);
        match self.build(site, &mut stack) {
            Ok(made) => {
                stack.keep();
                Ok(made)
            }
            Err(error) => {
                drop(stack);
                if self.disk.is_some() {
                    return Err(error.left("the wrap is not whole"));
                }
                events::forget(&site.shape.id);
                let device = site.primary.disk.descriptor().expect("a block device has a descriptor");
                // What the first failure was matters more than that the nodes are not back.
                match kernel::put_back(&site.raw, &device, &self.kernel) {
                    Ok(()) => Err(error.left("the disk is as before")),
                    Err(also) => Err(error.replace_left(also.cause())),
                }
            }
        }
    }

    fn build(&self, site: &Site<'_>, stack: &mut Stack<'_>) -> Result<Vec<Mapped>> {
        let shape = &site.shape;
        let mut made = Vec::new();
        let disk = match &self.disk {
            Some(disk) => disk.clone(),
            None => {
                let claimed = stack.make(shape.id.disk(), &shape.disk_table());
                let disk = claimed.map_err(|error| claim_failed(site, error))?;
                made.push(disk.clone());
                disk
            }
        };
        let device = site.primary.disk.descriptor().expect("a block device has a descriptor");
        kernel::delete_all(&Roots::default(), &site.raw, &device)?;
        for part in &self.make {
            made.push(stack.make(shape.id.partition(part.number), &shape.part_table(part, disk.number))?);
        }
        Ok(made)
    }
}

fn refuse_uses(site: &Site<'_>) -> Result<()> {
    let uses = inuse::in_use(&Roots::default(), &site.primary.probe);
    match uses.iter().find(|usage| !matches!(usage, Use::Held { ours: true, .. })) {
        Some(usage) => Err(in_use(DOING, site.primary, usage)
            .next("stop that use first; what the running system needs can be wrapped only before it starts")),
        None => Ok(()),
    }
}

/// The kernel says only "busy" of a disk that another one has claimed.
fn claim_failed(site: &Site<'_>, error: Error) -> Error {
    if error.errno() != Some(nix::libc::EBUSY) {
        return error;
    }
    let who = opener(&Roots::default(), &site.raw).unwrap_or_else(|| "somebody".to_owned());
    Error::new(Kind::Busy, DOING, format!("{who} has claimed it or a partition of it"))
        .on(site.primary.probe.name())
        .next("wait until that has ended, or stop it")
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! A filesystem of a generation, readable below a directory.
//!
//! Nothing of it is written, and nothing of the running system meets it by its UUID. What stands between the
//! partition and the filesystem is written down nowhere: to take it away again, the devices are followed from
//! the mount point down.

mod content;
mod hidden;
mod layers;
mod lvm;
mod salvage;
pub(crate) mod tool;
mod umount;

use std::path::{Path, PathBuf};

use nix::mount::MsFlags;

use crate::attach::{self, Attached, Until, attach};
use crate::dm::Mapper;
use crate::error::{Error, Kind, Result};
use crate::export::find;
use crate::format::index::Volume;
use crate::open::OpenStore;
use crate::pair::attached::Role;
use crate::pair::sysfs::{DevNum, Roots};
use crate::units::Generation;
use crate::view::View;
use content::Filesystem;
pub use layers::Keys;
use layers::Layers;
pub use salvage::salvage;
pub use umount::{Unmounted, unmount};

/// What is to be mounted where.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Which generation; the old primary is none, and stands for 0.
    pub generation: Generation,
    /// Which volume of it: number, PARTUUID or label; may be left out where only one can be mounted.
    pub volume: Option<&'a str>,
    /// The directory.
    pub at: &'a Path,
    /// How to get at what is inside.
    pub keys: Keys<'a>,
}

/// What was mounted.
#[derive(Clone, Debug)]
pub struct Mounted {
    /// Number of the volume, or `disk`.
    pub volume: String,
    /// The device the filesystem is on.
    pub device: PathBuf,
    /// The driver.
    pub filesystem: &'static str,
}

/// Mounts a volume of a generation. Where anything fails, what was attached for it is detached again.
pub fn mount(store: &OpenStore, request: &Request<'_>) -> Result<Mounted> {
    let directory = directory(request.at)?;
    if let Some(name) = request.volume {
        let view = View::of(&store.contents, request.generation)?;
        kept(find(&view.map.volumes, name)?)?;
    }
    let attached = attach(store, request.generation, Until::Unmounted)?;
    mounted(&attached, request, &directory)
}

fn directory(at: &Path) -> Result<PathBuf> {
    let directory = at.is_dir().then(|| at.canonicalize().ok()).flatten();
    directory.ok_or_else(|| {
        let at = at.display().to_string();
        Error::new(Kind::Usage, "mounting at", "it is no directory").on(at).left("nothing was mounted")
    })
}

/// Mounts a volume of what is attached; what was attached for it goes again where that fails.
fn mounted(attached: &Attached, request: &Request<'_>, directory: &Path) -> Result<Mounted> {
    let mounted = mount_at(attached, request, directory);
    if mounted.is_err() && attached.made {
        let (roots, mapper) = (Roots::default(), Mapper::open()?);
        let devices = attach::found(&mapper)?.remove(&attached.id).unwrap_or_default();
        if let Err(error) = attach::detach(&roots, &mapper, attached.id, &devices) {
            tracing::warn!("{error}, ignoring: 'dpsr detach' takes it away");
        }
    }
    mounted.map_err(|error| error.left("nothing was mounted"))
}

fn mount_at(attached: &Attached, request: &Request<'_>, directory: &Path) -> Result<Mounted> {
    let (roots, mapper) = (Roots::default(), Mapper::open()?);
    let (volume, part, device) = chosen(attached, request.volume)?;
    let mut layers = Layers::over(&roots, &mapper, attached.id, part, device)?;
    let filesystem = layers.reach(request.keys)?;
    call(&layers.top(), directory, filesystem)?;
    let device = layers.top();
    layers.keep();
    Ok(Mounted { volume, device, filesystem: filesystem.driver })
}

/// The volume that is meant: the one named, else the only one with something to mount. A disk without a
/// table is its own volume.
fn chosen(attached: &Attached, named: Option<&str>) -> Result<(String, u32, DevNum)> {
    let part = |role: Role| if let Role::Part(number) = role { number } else { 0 };
    let all: Vec<_> =
        attached.mountable().map(|(role, volume, device)| (part(role), volume, device)).collect();
    let told = |(part, volume, device): &(u32, &str, &crate::dm::Mapped)| {
        ((*volume).to_owned(), *part, device.number)
    };
    if let Some(name) = named {
        let volumes: Vec<Volume> = attached.volumes.iter().map(|(volume, _)| volume.clone()).collect();
        let name = if volumes.is_empty() { name } else { &find(&volumes, name)?.name };
        let found = all.iter().find(|(_, volume, _)| *volume == name);
        return found.map(told).ok_or_else(|| no_volume(name, &all.iter().map(|v| v.1).collect::<Vec<_>>()));
    }
    let mut leading = Vec::new();
    for one in &all {
        if content::look(&one.2.node())?.leads_on() {
            leading.push(one);
        }
    }
    match leading[..] {
        [one] => Ok(told(one)),
        [] => Err(Error::new(Kind::NotFound, "choosing a volume", "none has a filesystem that dpsr mounts")),
        _ => {
            let names: Vec<_> = leading.iter().map(|one| one.1).collect();
            let why = format!("volumes {} can be mounted", names.join(", "));
            Err(Error::new(Kind::Usage, "choosing a volume", why).next("name one with --volume"))
        }
    }
}

fn no_volume(name: &str, all: &[&str]) -> Error {
    let why = format!("this generation has the volumes {}", all.join(", "));
    Error::new(Kind::NotFound, "looking for the volume", why).on(name)
}

fn kept(volume: &Volume) -> Result<()> {
    if !volume.left_out {
        return Ok(());
    }
    Err(Error::new(Kind::NotFound, "mounting volume", "it is left out of the copy").on(&volume.name))
}

fn call(device: &Path, directory: &Path, filesystem: Filesystem) -> Result<()> {
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let Filesystem { driver, options } = filesystem;
    let mounted = nix::mount::mount(Some(device), directory, Some(driver), flags, Some(options));
    mounted.map_err(|error| {
        let doing = format!("mounting the {driver} on");
        Error::device(doing, device.display().to_string(), &error.into()).next("the kernel log tells more")
    })
}

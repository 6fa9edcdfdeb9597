// SPDX-License-Identifier: MIT OR Apache-2.0
//! What stands between a partition and the filesystem in it: made from the bottom up, taken away from the
//! top down.

use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::content::{self, Filesystem, Holds};
use super::{hidden, lvm, tool};
use crate::attach::{PRIMARY, Scratch, name};
use crate::dm::{Access, Mapped, Mapper, Name, Table, Target};
use crate::error::{Error, Kind, Result};
use crate::pair::attached::{Role, ViewId};
use crate::pair::sysfs::{BlockNode, DevNum, Roots};
use crate::sys::ioctl;
use crate::units::{Bytes, GIB, PAGE};

/// The most that what changes identities, or replays a journal, may write. Only what is written takes memory.
const OVERLAY: Bytes = Bytes(GIB);
/// LVM in LUKS is two layers; nobody builds towers.
const DEEPEST: usize = 4;

/// How to get at what is in the layers.
#[derive(Clone, Copy, Debug)]
pub struct Keys<'a> {
    /// Where the passphrase of LUKS stands; it is asked for where there is none.
    pub key_file: Option<&'a Path>,
    /// Which logical volume.
    pub lv: Option<&'a str>,
}

/// The layers made so far. They go again when it is dropped.
pub struct Layers<'a> {
    roots: &'a Roots,
    mapper: &'a Mapper,
    id: ViewId,
    part: u32,
    top: BlockNode,
    writable: bool,
    made: bool,
}

impl<'a> Layers<'a> {
    /// None, over volume `part` of a generation, which is `bottom`.
    pub fn over(roots: &'a Roots, mapper: &'a Mapper, id: ViewId, part: u32, bottom: DevNum) -> Result<Self> {
        let top = roots.node(bottom).ok_or_else(|| gone(bottom))?;
        Ok(Self { roots, mapper, id, part, top, writable: false, made: false })
    }

    /// Adds what it takes to get at a filesystem.
    pub fn reach(&mut self, keys: Keys<'_>) -> Result<Filesystem> {
        for _ in 0..DEEPEST {
            match content::look(&self.top.path())? {
                Holds::Filesystem(filesystem) if self.id.generation == PRIMARY => {
                    return self.replayed(filesystem);
                }
                Holds::Filesystem(filesystem) => return Ok(filesystem),
                Holds::Btrfs => return self.btrfs(),
                Holds::Luks => self.unlock(keys.key_file)?,
                Holds::Lvm => self.activate(keys.lv)?,
                Holds::Other(what) => return Err(unknown(&self.top, &what)),
            }
        }
        Err(unknown(&self.top, "too many layers"))
    }

    /// The device the filesystem is on.
    pub fn top(&self) -> PathBuf {
        self.top.path()
    }

    /// Lets them stay.
    pub fn keep(mut self) {
        self.made = false;
    }

    /// The old primary was not unmounted: what it wrote last stands in the journal alone, which is replayed in a
    /// throw-away layer.
    fn replayed(&mut self, filesystem: Filesystem) -> Result<Filesystem> {
        let options = match filesystem.driver {
            "ext4" => "",
            "xfs" => "nouuid",
            _ => return Ok(filesystem),
        };
        self.make_writable()?;
        Ok(Filesystem { options, ..filesystem })
    }

    fn btrfs(&mut self) -> Result<Filesystem> {
        self.make_writable()?;
        let node = self.top.path();
        tool::run("btrfstune", "btrfs-progs", &["-f", "-m", text(&node)?])?;
        Ok(Filesystem { driver: "btrfs", options: "" })
    }

    /// A layer that takes writes and forgets them; the generation stays as it is.
    fn make_writable(&mut self) -> Result<()> {
        if self.writable {
            return Ok(());
        }
        let device = self.top.open().ok_or_else(|| gone(self.top.number))?;
        let size = ioctl::size(&device).map_err(|error| Error::device("sizing", self.top.label(), &error))?;
        let memory = Scratch::new(OVERLAY)?.writable()?;
        let cow = memory.number().map_err(|error| Error::device("looking at", "a loop device", &error))?;
        let (origin, cow) = (self.top.number, DevNum::of(cow));
        let target = Target::Snapshot { origin, cow, persistent: false, chunk: Bytes(PAGE) };
        let name = name(self.id, Role::Overlay(self.part));
        self.clear(&name)?;
        let layer = self.mapper.make(name, &Table::of(size, target), Access::ReadWrite)?;
        let device = layer.keep();
        self.made_top(device.number)?;
        self.writable = true;
        Ok(())
    }

    /// Takes away what a killed run has left under this name; what is in use is another mount.
    fn clear(&self, name: &Name) -> Result<()> {
        let Some(there) = self.mapper.find(&name.uuid)? else { return Ok(()) };
        let there = Mapped { number: there.number, name: name.clone() };
        if self.mapper.state(&there)?.opened == 0 {
            return self.mapper.remove(&there);
        }
        Err(Error::new(Kind::Refused, "mounting", "it is mounted already, or was not unmounted in order")
            .on(self.top.label())
            .next("'dpsr umount' the directory it is mounted at"))
    }

    /// Opens what LUKS keeps; the passphrase is asked for on the terminal.
    fn unlock(&mut self, key_file: Option<&Path>) -> Result<()> {
        hidden::from_udev()?;
        let name = format!("{}-crypt", name(self.id, Role::Part(self.part)).name);
        let node = self.top.path();
        let mut args = vec!["open", "--type", "luks"];
        // What takes writes is thrown away, and may have a journal replayed.
        if !self.writable {
            args.push("--readonly");
        }
        if let Some(file) = key_file {
            args.extend(["--key-file", text(file)?]);
        }
        args.extend([text(&node)?, &name]);
        tool::converse("cryptsetup", "cryptsetup-bin or cryptsetup", &args)?;
        let device = self.mapper.list()?.into_iter().find(|device| device.name == name);
        let device =
            device.ok_or_else(|| Error::new(Kind::Internal, "looking for", "it is not there").on(name))?;
        self.made_top(device.number)
    }

    /// Activates a volume group under a private name.
    fn activate(&mut self, lv: Option<&str>) -> Result<()> {
        hidden::from_udev()?;
        self.make_writable()?;
        let node = self.top.path();
        let group = format!("dpsr_view_{}", Uuid::new_v4().simple());
        lvm::rename(text(&node)?, &group)?;
        let chosen = lvm::choose(text(&node)?, &group, lv)?;
        lvm::activate(text(&node)?, &group, &chosen)?;
        // Found by its neighbour below: LVM writes names in a way of its own.
        let on_top = |node: &BlockNode| node.attr("dm/name").is_some_and(|name| name.starts_with(&group));
        let found = self.top.holders().into_iter().find(on_top);
        let found =
            found.ok_or_else(|| Error::new(Kind::Internal, "activating", "it is not there").on(chosen))?;
        self.made_top(found.number)
    }

    fn made_top(&mut self, number: DevNum) -> Result<()> {
        self.made = true;
        self.top = self.roots.node(number).ok_or_else(|| gone(number))?;
        Ok(())
    }
}

impl Drop for Layers<'_> {
    fn drop(&mut self) {
        if self.made
            && let Err(error) = take_down(self.mapper, &self.top)
        {
            tracing::warn!("{error}, ignoring: 'dpsr detach' tells what is still in the way");
        }
    }
}

/// The generation under `top`, if it is one of dpsr's.
pub fn view_under(top: &BlockNode) -> Option<(ViewId, Role)> {
    let mut node = top.clone();
    for _ in 0..=2 * DEEPEST {
        match node.attr("dm/uuid").as_deref().and_then(ViewId::parse) {
            Some((id, role @ (Role::Part(_) | Role::Disk))) => return Some((id, role)),
            _ => node = below(&node)?,
        }
    }
    None
}

/// Takes the layers from `top` down to the partition away.
pub fn take_down(mapper: &Mapper, top: &BlockNode) -> Result<()> {
    let mut node = top.clone();
    for _ in 0..=2 * DEEPEST {
        let uuid = node.attr("dm/uuid").unwrap_or_default();
        let name = node.attr("dm/name").unwrap_or_default();
        let under = below(&node);
        match ViewId::parse(&uuid) {
            Some((id, Role::Overlay(number))) => {
                let name = crate::attach::name(id, Role::Overlay(number));
                mapper.remove(&Mapped { number: node.number, name })?;
            }
            Some(_) => return Ok(()),
            None if uuid.starts_with("CRYPT-") => {
                tool::run("cryptsetup", "cryptsetup-bin or cryptsetup", &["close", &name]).map(drop)?;
            }
            None if uuid.starts_with("LVM-") => {
                let group = name.split('-').next().unwrap_or_default();
                let under = under.as_ref().ok_or_else(|| gone(node.number))?;
                lvm::deactivate(text(&under.path())?, group)?;
            }
            None => return Ok(()),
        }
        let Some(next) = under else { return Ok(()) };
        node = next;
    }
    Ok(())
}

/// What a layer is made of; memory is not followed.
fn below(node: &BlockNode) -> Option<BlockNode> {
    node.slaves().into_iter().find(|node| node.backing_file().is_none())
}

fn unknown(node: &BlockNode, what: &str) -> Error {
    Error::new(Kind::Refused, "mounting", format!("there is {what} on it, which dpsr does not mount"))
        .on(node.label())
        .next("'dpsr attach' shows it as a block device")
}

fn gone(number: DevNum) -> Error {
    Error::new(Kind::Internal, "looking for the device", "it is gone").on(number.to_string())
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| {
        Error::new(Kind::Usage, "naming", "the name is not UTF-8").on(path.display().to_string())
    })
}

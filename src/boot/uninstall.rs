// SPDX-License-Identifier: MIT OR Apache-2.0
//! Takes away what makes the DPSR disk boot, from that disk and from this machine.

use std::path::Path;

use super::esp::{Access, Esp};
use super::{alone, bios, card, grub, menu, nvram, own, place, root, sdboot, switch};
use crate::config;
use crate::error::{Error, Kind, Result};
use crate::failover;
use crate::failover::decide::is_newer;
use crate::open::{self, OpenStore};

/// What was as it had been before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uninstalled {
    /// Whether the primary's own boot menu had entries that led to the DPSR disk.
    pub menu: bool,
    /// Whether another initramfs generator has its place back.
    pub switched: bool,
    /// Whether the machine's own initramfs images know of it.
    pub known: bool,
}

/// Takes away what makes the DPSR disk boot; its store stays. Where dracut took the place of another generator for it,
/// and no other pair boots, that comes back.
pub fn uninstall(dir: &Path, name: Option<&str>) -> Result<Uninstalled> {
    let _alone = alone()?;
    let mut config = config::choose(dir, name)?;
    // While a system runs from it, nobody gets it for writing.
    let store = open::look(dir, Some(&config.name)).map_err(|error| match error.kind() {
        Kind::Refused | Kind::Device => {
            error.or_next("or, if it is gone for good: 'dpsr boot uninstall --dpsr-lost'")
        }
        _ => error,
    })?;
    if is_newer(store.contents.superblock.state) {
        let why = "the system is on it and nowhere else: without its loader nothing would start";
        return Err(Error::new(Kind::Refused, "taking away what boots", why)
            .on(store.dpsr.probe.name())
            .left("nothing was changed")
            .next("go back to a disk first: 'dpsr failback'"));
    }
    drop(store);
    let store = open::writable(dir, Some(&config.name))?;
    // From here on no sync brings it back, and nothing leads to what goes next.
    config.boot = false;
    config::save(dir, &config)?;
    let menu = menu_as_before(dir, &config.name);
    let by_bios = store.dpsr.store.bios_boot.is_some();
    let cleared = if by_bios { bios::clear(store.dpsr.as_ref()) } else { Ok(()) };
    // The claim on the whole disk would keep its partition from being mounted.
    drop(store);
    // Whatever comes of that disk, this machine is not to start from it any more.
    let emptied = open::store(dir, Some(&config.name)).and_then(|store| emptied(&store));
    all_but(cleared.and(emptied).and(unlisted(&config.name)), as_before(dir, &config.name, menu))
}

/// Takes the pair out of the firmware's list.
fn unlisted(pair: &str) -> Result<()> {
    if nvram::is_there(root()) { nvram::clear(pair) } else { Ok(()) }
}

/// What comes of it where a part may have failed, which kept no other from being done.
fn all_but(part: Result<()>, done: Result<Uninstalled>) -> Result<Uninstalled> {
    match (part, done) {
        (Ok(()), done) => done,
        (Err(error), Ok(_)) => {
            Err(error.left("all else that boots was taken away").next("run the same command again"))
        }
        (Err(other), Err(error)) => {
            tracing::warn!("{other}, ignoring: the same command, run again, tries that once more");
            Err(error)
        }
    }
}

/// Takes everything off the ESP, where there is one.
fn emptied(store: &OpenStore) -> Result<()> {
    if store.dpsr.store.esp.is_none() {
        return Ok(());
    }
    let Some(esp) = Esp::mount(store, Access::Write)? else { return Ok(()) };
    let flushed = |top: &Path| {
        place::flush(top).map_err(|error| Error::device("emptying the ESP", esp.node.label(), &error))
    };
    // The menu first: a disk without it starts nothing, whatever else is still there.
    place::remove(esp.path(), grub::MENU)?;
    place::remove(esp.path(), sdboot::FOLDER)?;
    let folder = esp.path().join("dpsr");
    if folder.is_dir() {
        flushed(&folder)?;
    }
    for path in ["EFI", "dpsr", card::NAME] {
        place::remove(esp.path(), path)?;
    }
    flushed(esp.path())
}

/// The same of a DPSR disk that is gone for good: what this machine has of it.
///
/// # Errors
/// `Refused` where it is there, or the machine runs from it.
pub fn forget(dir: &Path, name: Option<&str>) -> Result<Uninstalled> {
    let _alone = alone()?;
    let mut config = config::choose(dir, name)?;
    let refused = |why: &str| {
        Error::new(Kind::Refused, "forgetting the DPSR disk", why)
            .left("nothing was changed")
            .next("'dpsr boot uninstall' without --dpsr-lost takes away what it boots, too")
    };
    if failover::is_under_way() {
        return Err(refused("this machine runs from its copy"));
    }
    match open::look(dir, Some(&config.name)) {
        Ok(store) => return Err(refused("it is there").on(store.dpsr.probe.name())),
        // No such disk, or one that answers with errors.
        Err(error) if matches!(error.kind(), Kind::Refused | Kind::Device) => {}
        Err(error) => return Err(error),
    }
    config.boot = false;
    config::save(dir, &config)?;
    let menu = menu_as_before(dir, &config.name);
    all_but(unlisted(&config.name), as_before(dir, &config.name, menu))
}

/// Takes what leads to the DPSR disk out of the primary's own menu, unless another pair boots. Whether there was anything.
fn menu_as_before(dir: &Path, pair: &str) -> bool {
    let cleared = others(dir).and_then(|others| if others { Ok(false) } else { menu::clear(root()) });
    let cleared = cleared.and_then(|cleared| menu::leads_nowhere(root(), pair).map(|()| cleared));
    cleared.unwrap_or_else(|error| {
        tracing::warn!("{error}, ignoring: the primary's boot menu may lead to the DPSR disk");
        false
    })
}

/// Whether another pair boots, or nobody knows whether it does.
fn others(dir: &Path) -> Result<bool> {
    let boots = |name: &String| config::load(dir, name).map_or(true, |config| config.boot);
    Ok(config::list(dir)?.iter().any(boots))
}

/// What makes the images of the primary's system, as it was before: while another pair boots, dracut goes on with that.
fn as_before(dir: &Path, pair: &str, menu: bool) -> Result<Uninstalled> {
    // One that was cut off serves nobody.
    let switched = if others(dir)? && !switch::is_unfinished(root()) { false } else { switch::undo(root())? };
    let known = switched
        || own::tell(root(), dir, pair, own::Whom::Knowing)
            .map(|told| told != own::Told::NotAll)
            .unwrap_or_else(|error| {
                tracing::warn!("{error}, ignoring: an initramfs may still wait for the DPSR disk");
                false
            });
    Ok(Uninstalled { menu, switched, known })
}

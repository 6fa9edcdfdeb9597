// SPDX-License-Identifier: MIT OR Apache-2.0
//! Takes away what makes the DPSR disk boot, from that disk and from this machine.

use std::path::Path;

use super::esp::{Access, Esp};
use super::{alone, bios, card, grub, menu, none_is_older, nvram, own, place, root, sdboot, switch};
use crate::config;
use crate::error::{Error, Kind, Result};
use crate::failover;
use crate::failover::decide::is_newer;
use crate::open::{self, OpenStore};

/// What was as it had been before.
#[derive(Debug)]
pub struct Uninstalled {
    /// Whether the primary's own boot menu had entries that led to the DPSR disk.
    pub menu: bool,
    /// Whether another initramfs generator has its place back.
    pub switched: bool,
    /// Whether the machine's own initramfs images know of it.
    pub known: bool,
    /// Why not all is done that was tried.
    pub failed: Option<Error>,
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
    let emptied = match &cleared {
        // It would only be waited for once more.
        Err(error) if error.is_unanswered() => Ok(()),
        _ => open::store(dir, Some(&config.name)).and_then(|store| emptied(&store)),
    };
    let parts = [cleared, emptied, unlisted(&config.name)];
    Ok(as_before(dir, &config.name, menu, parts))
}

/// Takes back what was begun to make a disk boot that was not recorded as one that does; why it could not be ended, and what
/// is left. A disk that starts something all the same, unless its ESP was `made` for it, goes on to do so.
pub(super) fn taken_back(dir: &Path, pair: &str, made: bool, why: Error) -> Error {
    let recorded = || {
        // As it is by now: this took its time.
        let mut config = config::load(dir, pair)?;
        config.boot = false;
        config::save(dir, &config)
    };
    let led_nowhere = || {
        // A disk that does not answer would only be waited for once more, and one that is in use has started the system.
        if why.is_unanswered() || failover::is_under_way() {
            return Ok(false);
        }
        let store = open::store(dir, Some(pair))?;
        if !made && starts(&store)? {
            return Ok(false);
        }
        emptied(&store)?;
        unlisted(pair)?;
        menu::leads_nowhere(root(), pair).map(|()| true)
    };
    let undone = recorded().and_then(|()| led_nowhere()).unwrap_or_else(|error| {
        tracing::warn!("{error}, ignoring: something may lead to the DPSR disk");
        false
    });
    let is_known = !none_is_older(dir, pair, own::Whom::Knowing);
    why.replace_left(if undone && !is_known {
        "nothing leads to the DPSR disk, as before"
    } else {
        "something may still lead to the DPSR disk, which 'dpsr boot uninstall' takes away"
    })
}

/// Whether there is a menu on the ESP.
fn starts(store: &OpenStore) -> Result<bool> {
    let esp = Esp::mount(store, Access::Read)?;
    Ok(esp.is_some_and(|esp| esp.path().join(grub::MENU).exists() || sdboot::is_on(esp.path())))
}

/// Takes the pair out of the firmware's list.
fn unlisted(pair: &str) -> Result<()> {
    if nvram::is_there(root()) { nvram::clear(pair) } else { Ok(()) }
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
    let unlisted = unlisted(&config.name);
    Ok(as_before(dir, &config.name, menu, [unlisted]))
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
/// Whatever came of the other `parts`.
fn as_before<const N: usize>(dir: &Path, pair: &str, menu: bool, parts: [Result<()>; N]) -> Uninstalled {
    // One that was cut off serves nobody.
    let back = |others: bool| match others && !switch::is_unfinished(root()) {
        true => Ok(false),
        false => switch::undo(root()),
    };
    let (switched, unswitched) = match others(dir).and_then(back) {
        Ok(switched) => (switched, Ok(())),
        Err(error) => (false, Err(error)),
    };
    let told = || own::tell(root(), dir, pair, own::Whom::Knowing);
    let known = switched
        || told().map(|told| told != own::Told::NotAll).unwrap_or_else(|error| {
            tracing::warn!("{error}, ignoring: an initramfs may still wait for the DPSR disk");
            false
        });
    Uninstalled { menu, switched, known, failed: first(parts, unswitched) }
}

/// The first error; the others are told.
fn first<const N: usize>(parts: [Result<()>; N], last: Result<()>) -> Option<Error> {
    let left = "the pair's record says that the DPSR disk boots nothing any more, and all else was tried";
    let told = |error: Error| error.replace_left(left).next("run the same command again");
    let parts = parts.map(|part| part.map_err(told));
    let mut errors = parts.into_iter().chain([last]).filter_map(Result::err);
    let first = errors.next()?;
    errors.for_each(|error| tracing::warn!("{error}"));
    Some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_is_told_and_of_several_the_first() {
        let failed = |doing: &str, left: &str| {
            Err(Error::new(Kind::Device, doing, "I/O error").left(left).next("see that it works"))
        };
        assert!(first([Ok(()), Ok(())], Ok(())).is_none());
        let both =
            first([Ok(()), failed("emptying", "nothing was written")], failed("undoing", "half of it"));
        insta::assert_snapshot!(both.unwrap(), @"emptying: I/O error; the pair's record says that the DPSR disk boots nothing any more, and all else was tried; see that it works");
        let last = first([Ok(())], failed("undoing", "half of it"));
        insta::assert_snapshot!(last.unwrap(), @"undoing: I/O error; half of it; see that it works");
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! The DPSR disk boots by itself: boot loader, kernel and initramfs on its ESP, kept in step with the system.
//!
//! * What BIOS ([`bios`]) and UEFI ([`efi`], [`nvram`]) start is GRUB, with two texts that probe nothing
//!   ([`grub`]); or, by UEFI, systemd-boot ([`sdboot`]), where that has started the system.
//! * What they start is a [`set`]: kernel, initramfs, records of the pairs.
//! * The primary's [`own`] initramfs is told of a record that changed, after a look at what is [`inside`].
//! * The primary's own [`menu`] leads to them, by choice or after starts that failed ([`tries`]).
//! * [`check`] says whether the system would come up from a copy; [`switch`] lets dracut make its initramfs images;
//!   [`card`] is for a day without dpsr.
//!
//! The primary is never written, but for the initramfs generator's working files, records behind its initramfs
//! images and, on UEFI machines, the firmware's list. Nothing on the DPSR disk is written before its identity was
//! proven, by the open descriptor; its store is not touched at all. Each new file is flushed before the menu that
//! names it replaces the old one, so that a power cut at any point leaves a disk that boots.

mod bios;
mod card;
mod check;
mod cpio;
mod efi;
mod esp;
mod facts;
mod fat;
mod grub;
mod inside;
mod kernel;
mod kernels;
mod line;
mod menu;
mod nvram;
mod own;
mod place;
mod report;
mod sdboot;
mod set;
pub mod switch;
pub mod tries;
mod uninstall;

use std::fs::{self, File};
use std::path::Path;

use serde::Serialize;

use crate::config;
use crate::error::{Error, Kind, Result};
use crate::failover;
use crate::open::{self, OpenStore, now};
use crate::pair::open::{PrimaryUse, open_primary};
use crate::pair::sysfs::Roots;
use crate::status::status;

pub use check::Finding;
use esp::{Access, Esp};
use grub::Older;
use kernels::Kernels;
pub use report::{BootStatus, expected, report};
pub use set::Made;
pub use switch::Switch;
pub use uninstall::{Uninstalled, forget, uninstall};

/// What was done to the ESP.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Updated {
    /// Whether the ESP was made, and empty, before.
    pub esp_made: bool,
    /// The kernel the DPSR disk starts now.
    pub kernel: String,
    /// Whether each of the primary's own initramfs images has the record of the pair now, where that was seen to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub primary_told: Option<bool>,
    /// Where a new initramfs came from; `None` where the present one still serves.
    pub initramfs: Option<Made>,
    /// What else was written: loaders, menu, recovery card, the firmware's list.
    pub written: Vec<String>,
    /// Whether BIOS can start the disk.
    pub bios: bool,
    /// Whether UEFI can, and with Secure Boot: `Some(true)`.
    pub uefi_signed: Option<bool>,
    /// What did not go as it should, and leaves a disk that boots.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// On the ESP: what started the primary, as the firmware's list says.
const OWN_ENTRY: &str = "dpsr/primary-entry.json";

/// Where the system is; tests have another one.
fn root() -> &'static Path {
    Path::new("/")
}

/// Makes the DPSR disk of the pair bootable, and keeps it so from now on: every sync updates it.
pub fn install(dir: &Path, name: Option<&str>) -> Result<Updated> {
    let mut config = config::choose(dir, name)?;
    refuse(&report::findings(&config)?)?;
    let _alone = alone()?;
    let made = make_esp(dir, &config.name)?;
    let booted = config.boot;
    if !booted {
        // Before the set is made, which holds the record.
        config.boot = true;
        config::save(dir, &config)?;
    }
    // Before that, too: it may have a copy of the image.
    let away = failover::is_under_way();
    let primary_told = (!away).then(|| none_is_older(dir, &config.name, own::Whom::Each));
    match brought_up_to_date(dir, &config.name) {
        Ok(updated) => Ok(Updated { esp_made: made, primary_told, ..updated }),
        Err(error) if booted => Err(error),
        Err(error) => Err(uninstall::taken_back(dir, &config.name, made, error)),
    }
}

/// Brings what the DPSR disk boots up to date; writes only what differs.
pub fn update(dir: &Path, name: Option<&str>) -> Result<Updated> {
    let _alone = alone()?;
    let config = config::choose(dir, name)?;
    if !config.boot {
        return Err(not_installed());
    }
    brought_up_to_date(dir, &config.name)
}

fn brought_up_to_date(dir: &Path, name: &str) -> Result<Updated> {
    let mut updated = fill(dir, name)?;
    if let Err(error) = settle_bios(dir, name, &mut updated) {
        // While a system runs from the disk, nobody gets it for writing.
        updated.warnings.push(format!("the boot loader for BIOS is as it was: {error}"));
    }
    Ok(updated)
}

/// The switch of the initramfs generator without which the DPSR disk could not be made bootable, where there is one
/// and nothing else is in the way.
///
/// # Errors
/// `Refused` where something else is in the way, too, or the switch cannot be made.
pub fn needed_switch(dir: &Path, name: Option<&str>) -> Result<Option<Switch>> {
    let config = config::choose(dir, name)?;
    switch::refuse_unfinished(root())?;
    if !switch::has_initramfs_tools(root()) {
        return Ok(None);
    }
    let mut findings = report::findings(&config)?;
    findings.retain(|finding| !check::is_of_generator(finding));
    refuse(&findings)?;
    if failover::is_under_way() {
        let why = "this machine runs from its copy, whose initramfs is made by dracut";
        return Err(Error::new(Kind::Refused, "switching to dracut", why)
            .left("nothing was changed")
            .next("go back to a disk first: 'dpsr failback'"));
    }
    // What would be refused afterwards must not have changed the machine.
    let store = open::store(dir, Some(&config.name))?;
    if store.dpsr.store.esp.is_none() {
        return Err(esp::none(&store));
    }
    switch::planned().map(Some)
}

/// Tells the machine's own initramfs images that have a record of the pair what that says now. Whether none has an older
/// one.
pub fn tell_own(dir: &Path, pair: &str) -> bool {
    alone().map(|_alone| none_is_older(dir, pair, own::Whom::Knowing)).unwrap_or_else(|error| {
        tracing::warn!("{error}, ignoring: an initramfs may have an older record of the pair {pair}");
        false
    })
}

fn none_is_older(dir: &Path, pair: &str, whom: own::Whom) -> bool {
    let told = own::tell(root(), dir, pair, whom).unwrap_or_else(|error| {
        tracing::warn!("{error}, ignoring: an initramfs may have an older record of the pair {pair}");
        own::Told::NotAll
    });
    match whom {
        own::Whom::Knowing => told != own::Told::NotAll,
        own::Whom::Each => told == own::Told::All,
    }
}

/// Whether the primary's own menu is that of systemd-boot.
pub fn is_started_by_systemd_boot() -> bool {
    sdboot::is_used(root())
}

/// Makes the switch that was shown.
pub fn make_switch(switch: &Switch) -> Result<()> {
    let _alone = alone()?;
    switch.act(root())
}

/// Makes the filesystem of the ESP, if dpsr did not make it before. Whether it did now.
fn make_esp(dir: &Path, name: &str) -> Result<bool> {
    let store = open::store(dir, Some(name))?;
    let esp = store.dpsr.store.esp.clone().ok_or_else(|| esp::none(&store))?;
    if fat::read(store.dpsr.as_ref(), &esp)?.is_some() {
        return Ok(false);
    }
    drop(store);
    let store = open::writable(dir, Some(name))?;
    let esp = store.dpsr.store.esp.clone().ok_or_else(|| esp::none(&store))?;
    fat::make(store.dpsr.as_ref(), store.dpsr.probe.block, &esp).map(|_| true)
}

/// Everything on the ESP; where there is no room for all of it, without the kernels of older generations.
fn fill(dir: &Path, name: &str) -> Result<Updated> {
    match filled(dir, name, true) {
        Err(error) if error.kind() == Kind::NoRoom => filled(dir, name, false),
        outcome => outcome,
    }
}

/// The set, then the loaders, then the menu, then what the menu named before goes.
fn filled(dir: &Path, name: &str, older: bool) -> Result<Updated> {
    let store = open::store(dir, Some(name))?;
    let esp = Esp::mount(&store, Access::Write)?.ok_or_else(not_installed)?;
    let wanted = set::Wanted::of(root(), &preferred_kernel(), dir)?;
    let mut updated = Updated { kernel: wanted.kernel.version.clone(), ..Updated::default() };
    let kernels = kernels_of(&store, esp.path(), &wanted.kernel.version);
    let mut sets = kernels.sets(esp.path(), &wanted.kernel.version);
    if !older {
        give_up(esp.path(), &wanted.name, &mut sets, 0)?;
    }
    if !wanted.is_on(esp.path()) {
        // What the menu does not name goes first, for its room.
        sdboot::remove_unnamed(esp.path(), &named_and(esp.path(), &sets))?;
        let kept = wanted.beside(root(), &esp, &sets)?;
        give_up(esp.path(), &wanted.name, &mut sets, kept)?;
        updated.initramfs = Some(wanted.make(root(), &esp)?);
    }
    let mut settle = |path: &str, content: &[u8]| -> Result<()> {
        if place::settle(esp.path(), path, content)? {
            updated.written.push(path.to_owned());
        }
        Ok(())
    };
    let loader = efi::loader(root(), esp.id)?;
    let shown = Shown::of(&store, &wanted, esp.path())?;
    settle(kernels::FILE, kernels.text().as_bytes())?;
    let entries = match &loader {
        Some(loader) if loader.is_systemd_boot() => sdboot::entries(&shown.menu()),
        // It is not installed any more, but still on the ESP.
        None if sdboot::is_on(esp.path()) => sdboot::entries(&shown.menu()),
        _ => Vec::new(),
    };
    // Before the loader that reads them: another one, which is there until then, does not.
    entries.iter().try_for_each(|(path, text)| settle(path, text.as_bytes()))?;
    for (path, content) in loader.iter().flat_map(|loader| &loader.files) {
        settle(path, content)?;
    }
    settle(grub::MENU, grub::menu(&shown.menu()).as_bytes())?;
    // The card says nothing of syncs that failed.
    let card = card::card(&store.config, &store.dpsr.store, &status(&store, Path::new(""), now()));
    settle(card::NAME, card.as_bytes())?;
    if loader.as_ref().is_some_and(|loader| !loader.signed) {
        // It is what shim started, and shim is not there any more.
        place::remove(esp.path(), efi::BEHIND_SHIM)?;
    }
    updated.uefi_signed = loader.map(|loader| loader.signed);
    if let Err(error) = menu::leads_to(root(), &store.config.name, esp.id) {
        updated.warnings.push(format!("the primary's own menu finds the DPSR disk by its label: {error}"));
    }
    sdboot::remove_others(esp.path(), &entries)?;
    set::remove_others(esp.path(), &wanted.name, &sets)?;
    if nvram::is_there(root()) && updated.uefi_signed.is_some() {
        match in_firmware(&store, &esp) {
            Ok(true) => updated.written.push("the firmware's boot list".to_owned()),
            Ok(false) => {}
            // The fallback path starts the disk without it.
            Err(error) => updated.warnings.push(format!("the firmware's boot list is as it was: {error}")),
        }
    }
    Ok(updated)
}

/// The set from which the menu starts the newest generation, and these.
fn named_and(top: &Path, sets: &[String]) -> Vec<String> {
    set::named(top).into_iter().chain(sets.iter().cloned()).collect()
}

/// Leaves the first `kept` of the sets of older kernels; the generations that started from the others start from the
/// newest's before those go.
fn give_up(top: &Path, wanted: &str, sets: &mut Vec<String>, kept: usize) -> Result<()> {
    let gone = sets.split_off(kept.min(sets.len()));
    let Some(named) = set::named(top).filter(|_| !gone.is_empty()) else { return Ok(()) };
    let menu = fs::read_to_string(top.join(grub::MENU)).unwrap_or_default();
    let others = gone.iter().filter(|set| **set != named);
    let without = others.fold(menu, |menu, set| {
        menu.replace(&format!("/{}/", set::folder(set)), &format!("/{}/", set::folder(&named)))
    });
    place::settle(top, grub::MENU, without.as_bytes())?;
    sdboot::remove_unnamed(top, &named_and(top, sets))?;
    set::remove_others(top, wanted, sets)
}

/// With which kernel each generation was made, as far as that is known: the newest just now with that of the running
/// system, unless that is one of its own, which goes on from an older one.
fn kernels_of(store: &OpenStore, top: &Path, kernel: &str) -> Kernels {
    let there: Vec<_> = store.contents.index.generations.iter().map(|one| one.generation).collect();
    let newest = store.contents.current().filter(|_| !failover::is_under_way());
    Kernels::read(top).now(&there, newest.map(|newest| (newest, kernel)))
}

/// What the menu on the ESP of a pair offers.
struct Shown {
    pair: String,
    folder: String,
    words: Vec<String>,
    complete: bool,
    older: Vec<Older>,
    serial: Option<(u32, u32)>,
}

impl Shown {
    fn of(store: &OpenStore, wanted: &set::Wanted, top: &Path) -> Result<Self> {
        let line = command_line()?;
        let current = store.contents.current();
        let older = store.contents.index.generations.iter().rev();
        let kernels = kernels_of(store, top, &wanted.kernel.version);
        let sets = kernels.sets(top, &wanted.kernel.version);
        let folder = |generation| kernels.set_of(generation, top, &sets).map(|set| set::folder(&set));
        // A system that goes on from the copy may have another kernel than it began with.
        let newest = current.filter(|_| !failover::is_under_way()).and_then(folder);
        let older = older.filter(|one| Some(one.generation) < current).map(|one| Older {
            generation: one.generation,
            time: one.time,
            folder: Some(folder(one.generation).unwrap_or_else(|| wanted.folder())),
        });
        Ok(Self {
            pair: store.config.name.clone(),
            folder: newest.unwrap_or_else(|| wanted.folder()),
            words: line::cleaned(&line),
            complete: current.is_some(),
            older: older.collect(),
            serial: line::serial(&line),
        })
    }

    fn menu(&self) -> grub::Menu<'_> {
        let Self { pair, folder, words, complete, older, serial } = self;
        grub::Menu { pair, folder, words, complete: *complete, older, serial: *serial }
    }
}

/// What started the primary is noted, and made again where the firmware has lost it, as some do with the disk: what
/// starts the system then is the DPSR disk's loader. Whether it was lost.
fn primarys_entry(store: &OpenStore, esp: &Esp) -> Result<bool> {
    if failover::is_under_way() {
        return Ok(false);
    }
    let primary = open_primary(&Roots::default(), &store.config, PrimaryUse::Live)?;
    let has = |own: &nvram::Own| {
        let partitions = &primary.table.partitions;
        partitions.iter().any(|it| it.number == own.part && it.id.eq_ignore_ascii_case(&own.guid))
    };
    if let Some(own) = nvram::own()?.filter(has) {
        let text = serde_json::to_vec(&own).expect("numbers and texts are always JSON");
        place::settle(esp.path(), OWN_ENTRY, &text)?;
        return Ok(false);
    }
    let noted = fs::read(esp.path().join(OWN_ENTRY)).ok();
    let own = noted.and_then(|text| serde_json::from_slice(&text).ok()).filter(has);
    own.map_or(Ok(false), |own| nvram::restore(&own, &primary.probe.canonical.display().to_string()))
}

/// The entries in the firmware's list. Whether one was written.
fn in_firmware(store: &OpenStore, esp: &Esp) -> Result<bool> {
    let number = esp.number().ok_or_else(not_installed)?;
    let disk = store.dpsr.probe.canonical.display().to_string();
    let settled = nvram::settle(&store.config.name, &disk, number, &guid(esp)?)?;
    let restored = primarys_entry(store, esp).unwrap_or_else(|error| {
        tracing::warn!("{error}, ignoring: the firmware's entry of the primary is as it was");
        false
    });
    Ok(settled || restored)
}

/// The partition's GUID, as udev and blkid read it from the table of the proven disk.
fn guid(esp: &Esp) -> Result<String> {
    let uevent = esp.node.attr("uevent").unwrap_or_default();
    let told = uevent.lines().find_map(|line| line.strip_prefix("PARTUUID="));
    if let Some(guid) = told {
        return Ok(guid.to_ascii_lowercase());
    }
    let node = esp.node.path();
    let words = ["-p", "-o", "value", "-s", "PART_ENTRY_UUID", fat::path_text(&node)?];
    Ok(crate::mount::tool::run("blkid", "util-linux", &words)?.trim().to_ascii_lowercase())
}

/// The loader for BIOS, where the disk has a place for it: written only where it differs.
fn settle_bios(dir: &Path, name: &str, updated: &mut Updated) -> Result<()> {
    let loader = {
        let store = open::store(dir, Some(name))?;
        let found = &store.dpsr.store;
        let (Some(partition), Some(esp)) = (&found.bios_boot, &found.esp) else { return Ok(()) };
        let Some(id) = fat::read(store.dpsr.as_ref(), esp)? else { return Ok(()) };
        let Some(loader) = bios::Loader::new(root(), partition, id)? else { return Ok(()) };
        updated.bios = true;
        if loader.stands_on(store.dpsr.as_ref())? {
            return Ok(());
        }
        loader
    };
    let store = open::writable(dir, Some(name))?;
    loader.write(store.dpsr.as_ref())?;
    updated.written.push("the boot loader for BIOS".to_owned());
    Ok(())
}

/// Refuses where the system would not come up from its copy.
fn refuse(findings: &[Finding]) -> Result<()> {
    let Some(first) = findings.iter().find(|finding| finding.fatal) else { return Ok(()) };
    Err(Error::new(Kind::Refused, "making the DPSR disk bootable", first.what.clone())
        .left("nothing was written")
        .next(format!("{}; 'dpsr boot status' tells all there is", first.change)))
}

/// One of these at a time: two would exchange each other's files.
fn alone() -> Result<File> {
    let failed = |error: std::io::Error| {
        Error::new(Kind::Busy, "waiting for another 'dpsr boot'", error.to_string()).next("try again")
    };
    fs::create_dir_all("/run/dpsr").map_err(failed)?;
    let file = File::create("/run/dpsr/boot.lock").map_err(failed)?;
    file.try_lock().map_err(|error| failed(error.into()))?;
    Ok(file)
}

/// The version of the running kernel, which is known to boot this machine. From the copy a newer one starts only
/// if it is on the ESP, so there the newest is wanted: none is named.
fn preferred_kernel() -> String {
    if failover::is_under_way() {
        return String::new();
    }
    nix::sys::utsname::uname()
        .map_or_else(|_| String::new(), |name| name.release().to_string_lossy().into_owned())
}

/// What the running kernel was told.
fn command_line() -> Result<String> {
    let failed =
        |error: std::io::Error| Error::new(Kind::Internal, "reading /proc/cmdline", error.to_string());
    fs::read_to_string("/proc/cmdline").map_err(failed)
}

fn not_installed() -> Error {
    Error::new(Kind::NotFound, "looking for what the DPSR disk boots", "nothing was installed on its ESP yet")
        .next("run 'dpsr boot install'")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Generation;

    #[test]
    fn no_entry_names_a_kernel_that_was_given_up() {
        let top = tempfile::tempdir().unwrap();
        let older = |number: u64, set: &str| Older {
            generation: Generation(number),
            time: 0,
            folder: Some(set::folder(set)),
        };
        let older = [older(2, "bbbb"), older(1, "cccc")];
        let menu = grub::menu(&grub::Menu {
            pair: "main",
            folder: "dpsr/aaaa",
            words: &[],
            complete: true,
            older: &older,
            serial: None,
        });
        place::settle(top.path(), grub::MENU, menu.as_bytes()).unwrap();
        for set in ["aaaa", "bbbb", "cccc"] {
            place::settle(top.path(), &format!("dpsr/{set}/about.txt"), b"kernel=6.1\n").unwrap();
        }
        let there = |set: &str| top.path().join(set::folder(set)).exists();
        let named = |set: &str| {
            let menu = fs::read_to_string(top.path().join(grub::MENU)).unwrap();
            menu.matches(&format!("linux /dpsr/{set}/")).count()
        };
        let all = || vec!["bbbb".to_owned(), "cccc".to_owned()];
        give_up(top.path(), "dddd", &mut all(), 2).unwrap();
        assert_eq!(["aaaa", "bbbb", "cccc"].map(named), [4, 1, 1]);
        let mut sets = all();
        give_up(top.path(), "dddd", &mut sets, 1).unwrap();
        assert_eq!(sets, ["bbbb"]);
        assert_eq!(["aaaa", "bbbb", "cccc"].map(named), [5, 1, 0]);
        assert_eq!(["aaaa", "bbbb", "cccc"].map(there), [true, true, false]);
        give_up(top.path(), "dddd", &mut sets, 0).unwrap();
        assert_eq!(["aaaa", "bbbb", "cccc"].map(named), [6, 0, 0]);
        assert_eq!(["aaaa", "bbbb", "cccc"].map(there), [true, false, false]);
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the DPSR disk would boot, and whether the machine would come up from it.

use std::fs;
use std::path::Path;

use serde::Serialize;

use super::check::{self, Finding};
use super::esp::{Access, Esp};
use super::{
    Shown, alone, bios, command_line, efi, facts, grub, kernel, preferred_kernel, root, sdboot, set, switch,
    tries,
};
use crate::config::{self, PairConfig, Policy};
use crate::error::Result;
use crate::failover;
use crate::open;
use crate::pair::chain::running_root_chain;
use crate::pair::open::{PrimaryUse, open_primary};
use crate::pair::probe::Probe;
use crate::pair::sysfs::Roots;
use crate::pair::volumes::Volumes;
use crate::units::Bytes;

/// There where what forgets counted starts is enabled, for GRUB.
const COUNTED: &str = "etc/systemd/system/multi-user.target.wants/dpsr-came-up.service";

/// How it stands with the boot from the DPSR disk.
#[derive(Clone, Debug, Serialize)]
pub struct BootStatus {
    /// The pair.
    pub pair: String,
    /// Whether the DPSR disk has something to boot.
    pub installed: bool,
    /// Whether that is what an update would make of it now.
    pub current: bool,
    /// The kernel it would boot.
    pub kernel: Option<String>,
    /// Whether BIOS can start it.
    pub bios: bool,
    /// Whether UEFI can start it; `signed` with Secure Boot, too, `unsigned` without it.
    pub uefi: Option<&'static str>,
    /// What is in the way of a boot without the primary.
    pub findings: Vec<Finding>,
}

/// Looks at the ESP of the pair and at the system.
pub fn report(dir: &Path, name: Option<&str>) -> Result<BootStatus> {
    let config = config::choose(dir, name)?;
    let mut findings = findings(&config)?;
    if config.boot && !failover::is_under_way() && !switch::has_initramfs_tools(root()) {
        let record = dir.join(format!("{}.toml", config.name));
        let knows = kernel::knows_record(root(), &preferred_kernel(), &record);
        findings.extend(check::outdated(knows));
    }
    let _alone = alone()?;
    let mut report = BootStatus {
        pair: config.name.clone(),
        installed: false,
        current: false,
        kernel: None,
        bios: false,
        uefi: None,
        findings,
    };
    let store = open::store(dir, Some(&config.name))?;
    if store.dpsr.store.esp.is_none() {
        return Ok(report);
    }
    let Some(esp) = Esp::mount(&store, Access::Read)? else { return Ok(report) };
    let top = esp.path();
    let Some(named) = set::named(top) else { return Ok(report) };
    report.installed = true;
    report.kernel = set::kernel_of(top, &named);
    if let Some(partition) = &store.dpsr.store.bios_boot {
        let loader = bios::Loader::new(root(), partition, esp.id)?;
        report.bios =
            loader.map(|loader| loader.stands_on(store.dpsr.as_ref())).transpose()?.unwrap_or(false);
    }
    let loader = efi::loader(root(), esp.id)?;
    let stands = |loader: &efi::Loader| {
        loader
            .files
            .iter()
            .all(|(path, content)| fs::read(top.join(path)).is_ok_and(|found| found == *content))
    };
    let started = top.join("EFI/BOOT/BOOTX64.EFI").is_file();
    let signed = match &loader {
        Some(loader) if stands(loader) => loader.signed,
        _ => top.join(efi::BEHIND_SHIM).is_file(),
    };
    report.uefi = started.then_some(if signed { "signed" } else { "unsigned" });
    let wanted = match set::Wanted::of(root(), &preferred_kernel(), dir) {
        Ok(wanted) => wanted,
        Err(error) => {
            report.findings.push(Finding::fatal(error.cause(), "then run 'dpsr boot update'"));
            return Ok(report);
        }
    };
    let shown = Shown::of(&store, &wanted, top)?;
    let menu = grub::menu(&shown.menu());
    let mut menu_stands = fs::read(top.join(grub::MENU)).is_ok_and(|found| found == menu.into_bytes());
    if loader.as_ref().is_some_and(efi::Loader::is_systemd_boot) {
        menu_stands &= sdboot::stands(top, &sdboot::entries(&shown.menu()));
    }
    report.current = config.boot && menu_stands && wanted.is_on(top) && loader.as_ref().is_none_or(stands);
    Ok(report)
}

/// What is in the way of a boot without the primary, as far as the running system tells.
pub(super) fn findings(config: &PairConfig) -> Result<Vec<Finding>> {
    let roots = Roots::default();
    let mut found = if failover::is_under_way() {
        // What is mounted lies on the copy by now, and the primary may be gone.
        in_the_way(&roots, None)?
    } else {
        let primary = open_primary(&roots, config, PrimaryUse::Live)?;
        let left_out = left_out(&open::volumes_of(config, &primary.table));
        in_the_way(&roots, Some((&primary.probe, &left_out)))?
    };
    // Who wants to be asked is at the console, and nothing is counted.
    if config.failover.tries.is_some() && config.failover.policy == Policy::Auto {
        let (kind, on_partition) = facts::boot_place(&roots);
        match sdboot::is_used(root()) {
            true => found.extend(check::counting_entries(&tries::counting(root())?)),
            false => found.extend(check::counting(&kind, on_partition, root().join(COUNTED).is_symlink())),
        }
    }
    Ok(found)
}

/// The same for a primary that is not paired yet; nothing, where the running system is not on it.
pub fn expected(roots: &Roots, primary: &Probe, volumes: &Volumes) -> Result<Vec<Finding>> {
    let chain = running_root_chain(roots);
    if chain.iter().any(|node| Some(node.number) == primary.number) {
        return in_the_way(roots, Some((primary, &left_out(volumes))));
    }
    // What ZFS stands on nobody else can tell.
    if chain.is_empty() { Ok(check::stack(&facts::root_kind(roots), &[])) } else { Ok(Vec::new()) }
}

/// Where the partitions begin that are not copied.
fn left_out(volumes: &Volumes) -> Vec<Bytes> {
    let left_out = volumes.iter().filter(|volume| volume.left_out && volume.number > 0);
    left_out.map(|volume| volume.range.start).collect()
}

/// `primary`: the disk, and where the partitions of it begin that are not copied.
fn in_the_way(roots: &Roots, primary: Option<(&Probe, &[Bytes])>) -> Result<Vec<Finding>> {
    let read = |file: &str| fs::read_to_string(root().join(file)).unwrap_or_default();
    let mut found = check::command_line(&command_line()?);
    let copied = |source: &str| {
        primary.and_then(|(primary, left_out)| facts::is_copied(roots, primary, left_out, source))
    };
    found.extend(check::fstab(&read("etc/fstab"), copied));
    let (crypttab, line, layers) = (read("etc/crypttab"), command_line()?, facts::layers(roots));
    found.extend(check::crypttab(&crypttab, copied));
    found.extend(check::keys(&crypttab, &line, &kernel::configured(root()), facts::boot_is_locked(roots)));
    found.extend(check::locked(&crypttab, &line, &layers));
    found.extend(check::assembled(&line, &layers));
    let others = primary.map(|(primary, _)| facts::other_disks(roots, primary)).unwrap_or_default();
    found.extend(check::stack(&facts::root_kind(roots), &others));
    found.extend(check::generator(switch::has_dracut(root()), switch::has_initramfs_tools(root())));
    Ok(found)
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! `dpsr boot`

use std::path::Path;

use super::args::{Boot, BootDone, BootInstall, BootVerb};
use super::confirm::confirmation;
use super::{end_in_order, say, say_json};
use crate::boot::switch::CONFIRM;
use crate::boot::{self, BootStatus, Finding, Made, Updated};
use crate::error::{Error, Kind, Result};

/// What update-grub runs for that.
const OWN_MENU: &str = "/etc/grub.d/42_dpsr";

pub(super) fn run(args: &Boot) -> Result<()> {
    // What is started for it ends with it.
    end_in_order()?;
    match &args.verb {
        BootVerb::Install(args) => {
            let switched = switched(args)?;
            let args = &args.done;
            let done = updated(args, boot::install).map_err(|error| match switched {
                true => error.replace_left(
                    "dracut makes the initramfs images now, which 'dpsr boot uninstall' takes back; the DPSR disk boots \
                     what it booted before",
                ),
                false => error,
            })?;
            if args.json {
                return Ok(());
            }
            say(match done.primary_told {
                Some(true) => "The primary's own initramfs knows of it from the next start on.",
                None => {
                    "Once the machine has its disk again, the same command lets the primary's own initramfs know."
                }
                Some(false) => {
                    "'dracut --force' (with --regenerate-all: of every kernel), and a restart, let the primary's own \
                     initramfs know of it."
                }
            });
            if boot::is_started_by_systemd_boot() {
                say(
                    "The next kernel-install adds entries that start the copy to the primary's own boot menu.",
                );
            } else if Path::new(OWN_MENU).exists() {
                say("update-grub adds an entry that leads there to the primary's own boot menu.");
            }
            Ok(())
        }
        BootVerb::Update(args) => updated(args, boot::update).map(drop),
        BootVerb::Status(args) => status(args),
        BootVerb::Uninstall(args) => {
            let (dir, pair) = (&args.common.config_dir, args.common.pair.as_deref());
            let done = match args.dpsr_lost {
                true => boot::forget(dir, pair)?,
                false => boot::uninstall(dir, pair)?,
            };
            match (&done.failed, args.dpsr_lost) {
                (Some(_), _) => {}
                (None, true) => say(
                    "This machine expects nothing of the DPSR disk any more. Should that come back, it still boots: \
                     'dpsr boot uninstall' then.",
                ),
                (None, false) => {
                    say("The DPSR disk boots nothing any more. The copy and its history are as they were.");
                }
            }
            if done.menu {
                say("The primary's own boot menu does not lead there any more.");
            }
            if !done.known {
                say(
                    "The initramfs images there are still know of it, until 'dracut --force' makes them anew.",
                );
            }
            if done.switched {
                say("initramfs-tools has its place back, and has made the initramfs of each kernel.");
                say(
                    "From the next start on no primary is wrapped by itself: a sync takes 'dpsr wrap' or --offline.",
                );
            }
            done.failed.map_or(Ok(()), Err)
        }
    }
}

/// Where dpsr has no part in what makes the initramfs images, something else has to make them; that is shown, and
/// confirmed. Whether it was done.
fn switched(args: &BootInstall) -> Result<bool> {
    let common = &args.done.common;
    let Some(switch) = boot::needed_switch(&common.config_dir, common.pair.as_deref())? else {
        return Ok(false);
    };
    if !args.done.json {
        say("The initramfs images of this machine are made by initramfs-tools, in which dpsr has no part.");
        say("dracut would take its place, and make the initramfs of each kernel anew, with dpsr in it.");
        say(format_args!("  removed:   {}", switch.removed.join(" ")));
        say(format_args!("  installed: {}", switch.installed.join(" ")));
        say("The present images are kept. 'dpsr boot uninstall' takes all of this back.");
    }
    let given = confirmation(args.confirm.as_deref(), "name of what takes its place", !args.done.json)?;
    if given.trim() != CONFIRM {
        let why = format!("{:?} was given, and {CONFIRM} takes the place of initramfs-tools", given.trim());
        return Err(Error::new(Kind::Refused, "confirming the switch", why).left("nothing was changed"));
    }
    boot::make_switch(&switch).map(|()| true)
}

type Act = fn(&Path, Option<&str>) -> Result<Updated>;

fn updated(args: &BootDone, act: Act) -> Result<Updated> {
    let done = act(&args.common.config_dir, args.common.pair.as_deref())?;
    warn(&done);
    if args.json {
        return say_json(&done).map(|()| done);
    }
    if done.esp_made {
        say("The ESP of the DPSR disk was made.");
    }
    let initramfs = match done.initramfs {
        None => "as it was",
        Some(Made::Copied) => "the system's own, which is generic",
        Some(Made::Built) => "made anew by dracut",
    };
    say(format_args!("The DPSR disk boots kernel {}; its initramfs: {initramfs}.", done.kernel));
    say(format_args!("It is started by {}.", started_by(done.bios, done.uefi_signed.map(signed))));
    if !done.written.is_empty() {
        say(format_args!("Written: {}.", done.written.join(", ")));
    }
    Ok(done)
}

/// What did not go as it should.
pub(super) fn warn(done: &Updated) {
    done.warnings.iter().for_each(|why| tracing::warn!("{why}, ignoring: the DPSR disk boots without"));
}

fn signed(signed: bool) -> &'static str {
    if signed { "signed" } else { "unsigned" }
}

fn started_by(bios: bool, uefi: Option<&str>) -> String {
    let uefi = match uefi {
        Some("signed") => Some("UEFI, with Secure Boot, too"),
        Some(_) => Some("UEFI without Secure Boot"),
        None => None,
    };
    match (bios, uefi) {
        (true, Some(uefi)) => format!("BIOS and by {uefi}"),
        (true, None) => "BIOS; no GRUB for UEFI is installed here".to_owned(),
        (false, Some(uefi)) => uefi.to_owned(),
        (false, None) => "nothing: no GRUB is installed here".to_owned(),
    }
}

fn status(args: &BootDone) -> Result<()> {
    let status = boot::report(&args.common.config_dir, args.common.pair.as_deref())?;
    if args.json {
        return say_json(&status);
    }
    tell(&status);
    Ok(())
}

/// What is in the way of a boot without the primary.
pub(super) fn say_findings(findings: &[Finding]) {
    for finding in findings {
        let word = if finding.fatal { "In the way" } else { "To be known" };
        say(format_args!("{word} of a boot without the primary: {}; {}.", finding.what, finding.change));
    }
}

fn tell(status: &BootStatus) {
    if status.installed {
        let kernel = status.kernel.as_deref().unwrap_or("of unknown version");
        let current = if status.current { "up to date" } else { "out of date: 'dpsr boot update'" };
        say(format_args!("The DPSR disk of the pair {} boots kernel {kernel}, {current}.", status.pair));
        say(format_args!("It is started by {}.", started_by(status.bios, status.uefi)));
    } else {
        say(format_args!("The DPSR disk of the pair {} boots nothing: 'dpsr boot install'.", status.pair));
    }
    say_findings(&status.findings);
    if status.findings.iter().all(|finding| !finding.fatal) {
        say("Nothing is in the way of a boot without the primary.");
    }
}

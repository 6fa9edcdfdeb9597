// SPDX-License-Identifier: MIT OR Apache-2.0
//! The primary's boot loader is renewed while a moment of it is held: what was written then boots.

use std::time::Instant;

use super::failover::{on, record_in_initramfs, restarted, stands_on_dpsr};
use super::{PATIENCE, Rig, dpsr, init, is_the_primary, say};
use crate::Result;
use crate::vm::machine::{Machine, Start};
use crate::vm::{PRIMARY, must};

/// What only the renewed menu says.
const WORD: &str = "dpsr_test=renewed";

/// Loaders and menu are written as packages write them, below a live snapshot; then BIOS and UEFI start them.
pub(super) fn loaders_renewed_in_a_sync(rig: &Rig) -> Result<()> {
    let both = [&rig.primary, &rig.dpsr];
    let mut machine = on(rig, Start::Bios, &both, "the primary, not wrapped")?;
    init(&mut machine)?;
    record_in_initramfs(&mut machine)?;
    restarted(&mut machine, "the primary, wrapped")?;
    stands_on_dpsr(&mut machine)?;
    dpsr(&mut machine, "sync")?;
    renewed(&mut machine)?;
    restarted(&mut machine, "by BIOS, with the new loader")?;
    is_renewed(&mut machine)?;
    machine.shut_down()?;
    let mut machine = on(rig, Start::Uefi, &both, "by UEFI, with the new loader")?;
    is_renewed(&mut machine)?;
    dpsr(&mut machine, "sync")?;
    dpsr(&mut machine, "scrub")?;
    machine.shut_down()
}

/// A sync is stopped while its moment stands, and goes on once the loaders are there.
fn renewed(machine: &mut Machine) -> Result<()> {
    let start = Instant::now();
    let guest = machine.guest()?;
    guest.ok(&format!(
        "printf '%s\\n' GRUB_TIMEOUT=1 GRUB_TERMINAL=console \
         'GRUB_CMDLINE_LINUX=\"console=ttyS0 systemd.show_status=1 mitigations=off {WORD}\"' >/etc/default/grub; sync; \
         (setsid sh -c 'echo $$ >/run/sync.pid; exec dpsr sync' >/run/sync 2>&1; echo $? >/run/sync.code) &"
    ))?;
    let origin = "dmsetup table | grep -q ' snapshot-origin '";
    let held = format!(
        "for i in $(seq 1200); do {origin} && exec kill -STOP $(cat /run/sync.pid); sleep 0.1; done; exit 1"
    );
    let held = machine.run_within(PATIENCE, &held)?;
    must(held.code == 0, || format!("no moment was held: {}", held.output))?;
    for write in [
        format!("grub-install --target=i386-pc /dev/disk/by-id/virtio-{PRIMARY}"),
        "grub-install --target=x86_64-efi --removable --no-nvram".to_owned(),
        "update-grub".to_owned(),
    ] {
        let done = machine.run_within(PATIENCE, &write)?;
        must(done.code == 0, || format!("{write}: {}", done.output))?;
    }
    let guest = machine.guest()?;
    guest.ok(origin)?;
    guest.ok("kill -CONT $(cat /run/sync.pid)")?;
    let ended = "while [ ! -s /run/sync.code ]; do sleep 1; done; cat /run/sync.code /run/sync; sync";
    let ended = machine.run_within(PATIENCE, ended)?;
    must(ended.output.starts_with("0\n"), || format!("the sync: {}", ended.output))?;
    say(format_args!("loaders renewed in a sync: {:.1} s", start.elapsed().as_secs_f64()));
    Ok(())
}

fn is_renewed(machine: &mut Machine) -> Result<()> {
    let line = machine.guest()?.ok("cat /proc/cmdline")?;
    must(line.contains(WORD), || format!("the old menu started: {line}"))?;
    is_the_primary(machine)?;
    stands_on_dpsr(machine)
}

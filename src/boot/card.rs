// SPDX-License-Identifier: MIT OR Apache-2.0
//! The recovery card: a plain text on the ESP, which any machine can read, with what is needed to get at the
//! copy by hand, without dpsr.

use std::fmt::Write;

use crate::config::PairConfig;
use crate::pair::layout::FoundStore;
use crate::status::{Status, VolumeStatus};

/// Where it is on the ESP.
pub const NAME: &str = "DPSR-RECOVERY.txt";

/// The text. It says nothing that changes from sync to sync, so that it is seldom written.
pub fn card(config: &PairConfig, store: &FoundStore, status: &Status) -> String {
    let mut text = String::new();
    let mut line = |words: std::fmt::Arguments<'_>| {
        writeln!(text, "{words}").expect("writing into a text does not fail");
    };
    line(format_args!("DPSR DISK: RECOVERY CARD\n"));
    line(format_args!("This disk holds a copy of another disk, the primary, as it was at the last sync,"));
    line(format_args!("and older generations of it. DO NOT format it, and do not write to it.\n"));
    line(format_args!("Pair          {} ({})", config.name, config.id));
    let primary = &config.primary;
    let or_none = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
    line(format_args!(
        "Primary       {} bytes, serial {}, table {}",
        primary.whole().0,
        or_none(&primary.serial),
        or_none(&primary.table)
    ));
    line(format_args!("This disk     {} bytes, serial {}", config.dpsr.size.0, or_none(&config.dpsr.serial)));
    line(format_args!("              GPT disk GUID {}", store.disk));
    let size = store.range.end - store.range.start;
    line(format_args!("Store         partition {}", store.store));
    line(format_args!("              at byte {}, {} bytes\n", store.range.start.0, size.0));
    line(format_args!("1. The primary is gone: boot from this disk, entry \"Last generation\".\n"));
    line(format_args!("2. Only files are wanted, and there is a machine with dpsr: attach this disk, then"));
    line(format_args!("       dpsr generations --dpsr /dev/THIS-DISK"));
    line(format_args!("       dpsr mount N /mnt --dpsr /dev/THIS-DISK"));
    line(format_args!("   A whole new disk:  dpsr restore N --to /dev/NEW-DISK --dpsr /dev/THIS-DISK\n"));
    line(format_args!(
        "3. There is no dpsr: every volume below lies on this disk in one piece, as it is, but"
    ));
    line(format_args!("   only while no sync was interrupted (dpsr would roll that back first). Only read:"));
    for volume in &status.volumes {
        volume_lines(&mut line, volume);
    }
    text.push_str(FURTHER);
    text
}

/// What is on a volume, one layer after the other. A logical volume that may be written to has no device on one that may
/// not, and a group is looked for on one device alone, because its original may be there, too.
const FURTHER: &str = r#"
   It prints the name of a loop device, LOOP below. blkid -p LOOP tells what is on it:

   ext4   mount -o ro,noload LOOP /mnt
   xfs    mount -o ro,norecovery,nouuid LOOP /mnt
   btrfs  mount -o ro,rescue=nologreplay LOOP /mnt
   others mount -o ro LOOP /mnt
   LUKS   cryptsetup open --readonly LOOP dpsr-opened
          and go on with /dev/mapper/dpsr-opened instead of LOOP.
   LVM    vgs --devices LOOP
          names its GROUP, which must not be in use on this machine.
          vgchange --devices LOOP --config 'activation { read_only_volume_list = [ "GROUP" ] }' --activate y GROUP
          and go on with /dev/GROUP/VOLUME instead of LOOP; ls /dev/GROUP names them.

   Afterwards, before this disk is used again: umount /mnt; vgchange --devices LOOP --activate n GROUP;
   cryptsetup close dpsr-opened; losetup -d LOOP.
"#;

fn volume_lines(line: &mut impl FnMut(std::fmt::Arguments<'_>), volume: &VolumeStatus) {
    let shown = format!("volume {} {:?}, {} bytes, {}", volume.name, volume.label, volume.size.0, volume.id);
    match volume.offset {
        Some(offset) => {
            line(format_args!("\n   {shown}"));
            line(format_args!(
                "       losetup --find --show --read-only --offset {} --sizelimit {} /dev/THIS-DISK",
                offset.0, volume.size.0
            ));
        }
        None if volume.left_out => line(format_args!("\n   {shown}: left out of the copy")),
        None if volume.size.0 == 0 => {}
        None => line(format_args!("\n   {shown}: not in one piece, so only dpsr can read it")),
    }
}

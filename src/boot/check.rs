// SPDX-License-Identifier: MIT OR Apache-2.0
//! Would this machine boot from its DPSR disk? What is in the way, each with the line to change. Pure: texts
//! and facts in, findings out.

use serde::Serialize;

use super::line;
use super::tries::Counting;

/// Something in the way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Whether a boot without the primary fails for it; otherwise it is only to be known.
    pub fatal: bool,
    /// What is wrong, and where.
    pub what: String,
    /// What to change.
    pub change: String,
}

impl Finding {
    pub(super) fn fatal(what: impl Into<String>, change: impl Into<String>) -> Self {
        Self { fatal: true, what: what.into(), change: change.into() }
    }

    fn known(what: impl Into<String>, change: impl Into<String>) -> Self {
        Self { fatal: false, what: what.into(), change: change.into() }
    }
}

/// Whether a name of a device means whichever disk was found first, or one disk and never a copy of it: another one, or
/// none, once the primary is gone. What is on a disk keeps its names: arrays and device-mapper's.
fn moves(name: &str) -> bool {
    let Some(name) = name.strip_prefix("/dev/") else { return false };
    let disk = ["sd", "hd", "vd", "xvd"].iter().any(|kind| {
        name.strip_prefix(kind).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase()))
    });
    let of_this = name.strip_prefix("disk/by-id/").is_some_and(|id| {
        !["md-uuid-", "md-name-", "dm-uuid-", "dm-name-"].iter().any(|kind| id.starts_with(kind))
    });
    disk || of_this
        || ["nvme", "mmcblk", "disk/by-path/", "disk/by-diskseq/"].iter().any(|kind| name.starts_with(kind))
}

/// What the kernel is told.
pub fn command_line(text: &str) -> Vec<Finding> {
    let mut found = Vec::new();
    match line::value(text, "root") {
        Some(root) if moves(&root) => found.push(Finding::fatal(
            format!("root={root} on the kernel's command line means another disk, or none, once the primary is gone"),
            "boot with root=UUID=… (on Debian: take GRUB_DISABLE_LINUX_UUID out of /etc/default/grub, then update-grub)",
        )),
        None => found.push(Finding::fatal(
            "the kernel's command line does not name the root",
            "boot with root=UUID=… on the command line",
        )),
        _ => {}
    }
    if let Some(resume) = line::value(text, "resume").filter(|resume| moves(resume)) {
        found.push(Finding::known(
            format!("resume={resume} on the kernel's command line is left out of a boot from the DPSR disk"),
            "nothing, or resume=UUID=…, which means the same swap space on every boot",
        ));
    }
    found
}

/// What fstab(5) says. `copied` tells whether what a source names is in the copy; `None` where nobody knows.
pub fn fstab(text: &str, copied: impl Fn(&str) -> Option<bool>) -> Vec<Finding> {
    let mut found = Vec::new();
    for line in text.lines().filter(|line| !line.trim_start().starts_with('#')) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [source, at, kind, rest @ ..] = &fields[..] else { continue };
        let options = rest.first().copied().unwrap_or_default();
        let disk = source.starts_with("/dev/") || source.contains("UUID=") || source.contains("LABEL=");
        if !disk || options.split(',').any(|option| option == "noauto") {
            continue;
        }
        if moves(source) {
            found.push(Finding::fatal(
                format!("/etc/fstab mounts {at} by {source}, which is another disk, or none, once the primary is gone"),
                format!("/etc/fstab: write UUID=… instead of {source}; blkid tells it"),
            ));
        }
        let needed = *kind != "swap" && options.split(',').all(|option| option != "nofail");
        if needed && copied(source) == Some(false) {
            found.push(Finding::fatal(
                format!("/etc/fstab waits for {at} ({source}), which is not in the copy"),
                format!("/etc/fstab: add nofail to the options of {at}"),
            ));
        }
    }
    found
}

/// What crypttab(5) says; `copied` as for fstab(5).
pub fn crypttab(text: &str, copied: impl Fn(&str) -> Option<bool>) -> Vec<Finding> {
    let mut found = Vec::new();
    for line in text.lines().filter(|line| !line.trim_start().starts_with('#')) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [name, source, rest @ ..] = &fields[..] else { continue };
        if moves(source) {
            found.push(Finding::fatal(
                format!(
                    "/etc/crypttab opens {name} on {source}, which is another disk, or none, once the primary is gone"
                ),
                format!("/etc/crypttab: write UUID=… instead of {source}; blkid tells it"),
            ));
        }
        let key = rest.first().copied().unwrap_or("none");
        let options = rest.get(1).copied().unwrap_or_default();
        let waits = ["nofail", "noauto"].iter().all(|word| options.split(',').all(|option| option != *word));
        if waits && copied(source) == Some(false) {
            found.push(Finding::known(
                format!("/etc/crypttab waits for {source} ({name}) at a failover, which is not in the copy"),
                format!("add nofail to the options of {name} in /etc/crypttab, and to those of its line in /etc/fstab"),
            ));
            continue;
        }
        if key == "none" || key == "-" || options.contains("tpm2-device") {
            found.push(will_ask(name));
        }
    }
    found
}

fn will_ask(volume: &str) -> Finding {
    Finding::known(
        format!("the LUKS volume {volume} will ask for its passphrase at a failover"),
        "nothing; have a passphrase that somebody knows, because a TPM gives no key to another loader",
    )
}

/// Key files of LUKS that the initramfs on the DPSR disk would hold, whose ESP anybody can read. `configured` is what
/// dracut is told, `locked` whether the primary's own images lie in LUKS.
pub fn keys(crypttab: &str, line: &str, configured: &str, locked: bool) -> Vec<Finding> {
    if !locked {
        return Vec::new();
    }
    let lines = crypttab.lines().filter(|line| !line.trim_start().starts_with('#'));
    let of_table = lines.filter_map(|line| line.split_whitespace().nth(2)).map(str::to_owned);
    let of_line = line::words(line).into_iter().filter_map(|word| {
        let value = word.strip_prefix("rd.luks.key=")?;
        value.split(':').next().map(str::to_owned)
    });
    let told: Vec<&str> = configured.lines().filter(|line| !line.trim_start().starts_with('#')).collect();
    let mut held: Vec<String> = of_table.chain(of_line).filter(|key| key.starts_with('/')).collect();
    held.retain(|key| !key.starts_with("/dev/") && told.iter().any(|line| line.contains(key.as_str())));
    held.sort();
    held.dedup();
    let finding = |key: String| {
        Finding::fatal(
            format!("the initramfs on the DPSR disk would hold {key} in the clear: anybody can read its ESP"),
            format!(
                "take {key} out of install_items in /etc/dracut.conf.d, and let the passphrase be asked for"
            ),
        )
    };
    held.into_iter().map(finding).collect()
}

/// The LUKS volumes under the root of which crypttab(5) says nothing, because the kernel's command line names them, and
/// no key for them.
pub fn locked(crypttab: &str, line: &str, layers: &[Layer]) -> Vec<Finding> {
    if line::words(line).iter().any(|word| word.starts_with("rd.luks.key=")) {
        return Vec::new();
    }
    let lines = crypttab.lines().filter(|line| !line.trim_start().starts_with('#'));
    let sources: Vec<&str> = lines.filter_map(|line| line.split_whitespace().nth(1)).collect();
    // Of a source by another name nobody here knows which volume that is.
    if sources.iter().any(|source| !source.starts_with("UUID=") && !source.contains("/by-uuid/")) {
        return Vec::new();
    }
    let sources: Vec<String> = sources.into_iter().map(digits).collect();
    let unsaid = layers.iter().filter_map(|layer| match layer {
        Layer::Luks(uuid) if !sources.iter().any(|source| source.ends_with(&digits(uuid))) => {
            Some(will_ask(uuid))
        }
        _ => None,
    });
    unsaid.collect()
}

const INITRAMFS_TOOLS: &str = "initramfs images are made by initramfs-tools, in which dpsr has no part";

/// Whether a switch of the initramfs generator would settle it.
pub fn is_of_generator(finding: &Finding) -> bool {
    finding.what == INITRAMFS_TOOLS
}

/// What makes the system's initramfs images: dpsr has a part for dracut alone.
pub fn generator(dracut: bool, initramfs_tools: bool) -> Vec<Finding> {
    match (dracut, initramfs_tools) {
        (true, false) => Vec::new(),
        (_, true) => vec![Finding::fatal(
            INITRAMFS_TOOLS,
            "'dpsr boot install' lets dracut take its place, once that is confirmed, and 'dpsr boot uninstall' takes \
             it back",
        )],
        (false, false) => {
            vec![Finding::fatal("there is no dracut to make an initramfs", "install the package dracut")]
        }
    }
}

/// Whether GRUB can count starts, where the record says that it is to: it writes to filesystems that lie on a
/// partition, and keep a file where it is. `kind` is that of the filesystem with its environment.
pub fn counting(kind: &str, on_partition: bool, forgotten: bool) -> Vec<Finding> {
    if !forgotten {
        return vec![Finding::known(
            "starts that fail are not counted (tries): nothing would forget those that do not",
            "systemctl enable dpsr-came-up.service, then update-grub",
        )];
    }
    let in_place = ["ext2", "ext3", "ext4", "xfs", "vfat"].contains(&kind);
    if in_place && on_partition {
        return Vec::new();
    }
    let where_to = if in_place { "does not lie on a partition".to_owned() } else { format!("is {kind}") };
    vec![Finding::known(
        format!("starts that fail are not counted (tries): GRUB cannot write to /boot, which {where_to}"),
        "a filesystem of its own for /boot, ext4 on a partition; or take tries out of the record",
    )]
}

/// What the primary's own initramfs does not know yet, or may not.
pub fn outdated(knows: Option<bool>) -> Option<Finding> {
    let (what, change) = match knows {
        Some(true) => return None,
        Some(false) => (
            "the primary's own initramfs is older than the record of the pair: it does not wrap the primary, or starts no \
             copy where the primary fails under it",
            "dracut --force, then restart",
        ),
        None => (
            "the primary's own initramfs is not in /boot: whether it is older than the record of the pair, nobody can tell",
            "make it anew, and restart, after each change of the record",
        ),
    };
    Some(Finding::known(what, change))
}

/// Whether systemd-boot counts starts, where the record says that it is to.
pub fn counting_entries(counting: &Counting) -> Option<Finding> {
    let again = "then systemctl restart dpsr-count-starts.service";
    let beside = format!("kernel-install add VERSION IMAGE for each kernel, {again}");
    let (why, change) = match counting {
        Counting::Yes => return None,
        Counting::Once => (
            "systemd-boot would do that only until an entry has come up once".to_owned(),
            "systemctl enable --now dpsr-count-starts.service".to_owned(),
        ),
        Counting::Fixed(what) => {
            (format!("{what}, which would be started for ever"), format!("take that away, {again}"))
        }
        Counting::Nothing => {
            ("no entry of the primary's menu has one beside it that leads to the copy".to_owned(), beside)
        }
        Counting::Before(names) => {
            (format!("{} would be started for ever before the copy", names.join(", ")), beside)
        }
    };
    Some(Finding::known(format!("starts that fail do not lead to the copy (tries): {why}"), change))
}

/// What is between the root's filesystem and a disk, and is not there by itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Layer {
    /// A logical volume: group and name.
    Volume(String, String),
    /// What is encrypted: its UUID.
    Luks(String),
    /// An array: its UUID.
    Array(String),
}

/// What names a LUKS volume: to dracut, and to systemd's generator. (systemd-cryptsetup-generator(8))
const LUKS: [&str; 4] = ["rd.luks.uuid=", "rd.luks.name=", "luks.uuid=", "luks.name="];
const BESIDE: [&str; 2] = ["rd.luks.partuuid=", "rd.luks.serial="];

/// The digits of a UUID, however it is divided; of LUKS also behind the name of its device.
fn digits(uuid: &str) -> String {
    let digits = uuid.trim_start_matches("luks-").chars().filter(char::is_ascii_hexdigit);
    digits.map(|digit| digit.to_ascii_lowercase()).collect()
}

/// dracut starts only what the command line names, in an image that was not made for this machine alone.
/// (dracut.cmdline(7))
pub fn assembled(text: &str, layers: &[Layer]) -> Vec<Finding> {
    let words = line::words(text);
    let on = ["rd.auto", "rd.auto=1", "rd.auto=yes", "rd.auto=on", "rd.auto=true"];
    if words.iter().any(|word| on.contains(&word.as_str())) {
        return Vec::new();
    }
    let values = |names: &'static [&'static str]| {
        words.iter().filter_map(move |word| names.iter().find_map(|name| word.strip_prefix(name)))
    };
    let same = |value: &str, uuid: &str| digits(value) == digits(uuid);
    let unnamed = layers.iter().filter_map(|layer| {
        let (named, what, word) = match layer {
            Layer::Volume(group, name) => {
                let volume = format!("{group}/{name}");
                let named = values(&["rd.lvm.vg="]).any(|value| value == group)
                    || values(&["rd.lvm.lv="]).any(|value| value == volume);
                (named, format!("the logical volume {volume}"), format!("rd.lvm.lv={volume}"))
            }
            Layer::Luks(uuid) => {
                let name = |value: &str| value.split('=').next().unwrap_or_default().to_owned();
                // By the partition, or by the disk: nobody here knows whether it is the right one.
                let named = values(&LUKS).any(|value| same(&name(value), uuid)) || values(&BESIDE).next().is_some();
                (named, format!("the LUKS volume {uuid}"), format!("rd.luks.uuid={uuid}"))
            }
            Layer::Array(uuid) => {
                let named = values(&["rd.md.uuid="]).any(|value| same(value, uuid));
                (named, format!("the array {uuid}"), format!("rd.md.uuid={uuid}"))
            }
        };
        (!named).then(|| {
            let what = format!(
                "the root needs {what}, which dracut starts only where the kernel's command line names it"
            );
            Finding::fatal(
                what,
                format!("add {word} to it (GRUB_CMDLINE_LINUX in /etc/default/grub, then update-grub; with systemd-boot /etc/kernel/cmdline), and restart"),
            )
        })
    });
    unnamed.collect()
}

/// What the root stands on: the type of its filesystem, and the disks below it besides the primary.
pub fn stack(kind: &str, others: &[String]) -> Vec<Finding> {
    let mut found = Vec::new();
    if ["zfs", "bcachefs"].contains(&kind) {
        let change = "another filesystem for the root";
        found
            .push(Finding::fatal(format!("the root is {kind}, which dpsr cannot start from a copy"), change));
    }
    if !others.is_empty() {
        found.push(Finding::fatal(
            format!(
                "the root needs disks besides the primary, which are not in the copy: {}",
                others.join(", ")
            ),
            "move the root onto the primary alone (pvmove and vgreduce, or btrfs device remove)",
        ));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(found: Vec<Finding>) -> String {
        let one = |it: Finding| {
            format!("{} {} -> {}\n", if it.fatal { "FATAL" } else { "known" }, it.what, it.change)
        };
        found.into_iter().map(one).collect()
    }

    #[test]
    fn what_would_not_boot_is_named_with_the_line_to_change() {
        let line = "BOOT_IMAGE=/vmlinuz root=/dev/sda2 ro resume=/dev/sda3";
        let fstab_text = "# /dev/sda1 /\nUUID=1 / ext4 defaults 0 1\n/dev/sda3 none swap sw 0 0\n\
            /dev/nvme0n1p2 /home ext4 defaults 0 2\n/dev/disk/by-id/ata-X-part3 /var ext4 defaults 0 2\n\
            /dev/disk/by-path/pci-0000:00:17.0-ata-1-part4 /opt ext4 defaults 0 2\nUUID=2 /srv ext4 defaults 0 2\nUUID=3 /mnt ext4 defaults,nofail 0 2\n\
            UUID=4 /x ext4 noauto 0 0\nproc /proc proc defaults 0 0\nserver:/a /b nfs defaults 0 0\n";
        let copied = |source: &str| match source {
            "UUID=2" | "UUID=3" | "UUID=4" => Some(false),
            _ => Some(true),
        };
        let crypt = "root UUID=5 none luks\nswap /dev/sda3 /dev/urandom swap\n";
        let others = ["sdc".to_owned()];
        let all =
            [command_line(line), fstab(fstab_text, copied), crypttab(crypt, copied), stack("zfs", &others)];
        insta::assert_snapshot!(told(all.concat()));
    }

    #[test]
    fn what_makes_an_initramfs_is_named() {
        assert_eq!(generator(true, false), []);
        assert_eq!(generator(true, true), generator(false, true));
        let told = told([generator(false, true), generator(false, false)].concat());
        assert!(told.contains("'dpsr boot install' lets dracut take its place"), "{told}");
        assert!(told.contains("FATAL there is no dracut"), "{told}");
    }

    #[test]
    fn where_grub_can_write_starts_are_counted() {
        assert_eq!(counting("ext4", true, true), []);
        let off = counting("ext4", true, false);
        assert!(off[0].change.contains("systemctl enable dpsr-came-up.service"), "{off:?}");
        let told = told([counting("btrfs", true, true), counting("ext4", false, true)].concat());
        assert!(told.starts_with("known starts that fail are not counted"), "{told}");
        assert!(told.contains("is btrfs") && told.contains("does not lie on a partition"), "{told}");
    }

    #[test]
    fn where_systemd_boot_counts_it_goes_on_counting() {
        assert_eq!(counting_entries(&Counting::Yes), None);
        let ways = [
            Counting::Once,
            Counting::Fixed("loader.conf says default x.conf".to_owned()),
            Counting::Nothing,
            Counting::Before(vec!["a-6.1.conf".to_owned(), "b.conf".to_owned()]),
        ];
        insta::assert_snapshot!(told(ways.iter().filter_map(counting_entries).collect()));
    }

    #[test]
    fn what_dracut_would_not_start_is_named() {
        let layers = [
            Layer::Volume("vg".to_owned(), "root".to_owned()),
            Layer::Luks("1d3f6bb6-5d3c-4a5e-9a0b-0c5e5d2f7a05".to_owned()),
            Layer::Array("1d3f6bb6:5d3c4a5e:9a0b0c5e:5d2f7a08".to_owned()),
        ];
        for line in [
            "rd.auto ro",
            "rd.auto=1",
            "rd.lvm.vg=vg luks.name=1d3f6bb6-5d3c-4a5e-9a0b-0c5e5d2f7a05=x \
             rd.md.uuid=1d3f6bb6-5d3c-4a5e-9a0b-0c5e5d2f7a08",
            "rd.lvm.lv=vg/root rd.luks.uuid=luks-1d3f6bb6-5d3c-4a5e-9a0b-0c5e5d2f7a05 \
             rd.md.uuid=1d3f6bb6:5d3c4a5e:9a0b0c5e:5d2f7a08",
        ] {
            assert_eq!(assembled(line, &layers), [], "{line}");
        }
        insta::assert_snapshot!(told(assembled(
            "root=/dev/mapper/vg-root ro rd.auto=0 rd.lvm.lv=vg/swap rd.md.uuid=2 rd.luks.uuid=3",
            &layers
        )));
    }

    #[test]
    fn a_locked_root_asks_whoever_says_that_it_is_one() {
        let uuid = "1d3f6bb6-5d3c-4a5e-9a0b-0c5e5d2f7a05";
        let layers = [Layer::Luks(uuid.to_owned()), Layer::Volume("vg".to_owned(), "root".to_owned())];
        let asks = |crypttab: &str, line: &str| {
            let all = [super::crypttab(crypttab, |_| Some(true)), locked(crypttab, line, &layers)].concat();
            all.into_iter().map(|it| it.what).collect::<Vec<_>>()
        };
        let by_uuid = [format!("the LUKS volume {uuid} will ask for its passphrase at a failover")];
        assert_eq!(asks("", "rd.luks.uuid=1d3f"), by_uuid);
        assert_eq!(asks(&format!("# root UUID={uuid} none\n"), "ro"), by_uuid);
        let by_name = ["the LUKS volume root will ask for its passphrase at a failover"];
        assert_eq!(asks(&format!("root UUID={uuid} none luks\n"), "ro"), by_name);
        assert_eq!(asks(&format!("root /dev/disk/by-uuid/{uuid} - tpm2-device=auto\n"), "ro"), by_name);
        // Where there is a key, nobody is asked.
        assert_eq!(asks(&format!("root PARTUUID={uuid} /etc/key luks\n"), "ro"), [""; 0]);
        assert_eq!(asks(&format!("root UUID={uuid} /etc/key luks\n"), "ro"), [""; 0]);
        assert_eq!(asks("", "rd.luks.key=/etc/key"), [""; 0]);
    }

    #[test]
    fn swap_with_a_key_of_its_own_is_not_waited_for() {
        let text = "swap PARTUUID=7 /dev/urandom swap,cipher=aes\nother PARTUUID=7 /dev/urandom swap,nofail\n\
                    root UUID=5 /etc/key luks\n";
        let found = crypttab(text, |source| Some(source != "PARTUUID=7"));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].what.contains("waits for PARTUUID=7 (swap)"), "{found:?}");
        assert!(found[0].change.contains("add nofail to the options of swap"), "{found:?}");
    }

    #[test]
    fn a_key_that_was_locked_in_is_not_carried_out() {
        let crypttab =
            "root UUID=5 /etc/keys/root.key luks\nhome UUID=6 none\nswap UUID=7 /dev/urandom swap\n";
        let line = "rd.luks.key=/etc/keys/other.key:UUID=5 ro";
        let configured =
            "# install_items+=\" /etc/keys/root.key \"\ninstall_items+=\" /etc/keys/other.key /etc/x \"\n";
        assert_eq!(keys(crypttab, line, configured, false), [], "anybody can read the primary's, too");
        let found = keys(crypttab, line, configured, true);
        assert!(found.len() == 1 && found[0].fatal, "{found:?}");
        assert!(found[0].what.contains("would hold /etc/keys/other.key in the clear"), "{found:?}");
        assert_eq!(keys(crypttab, line, &configured.replace("# ", ""), true).len(), 2);
    }

    #[test]
    fn a_usual_system_is_fine() {
        let fstab_text = "UUID=1 / ext4 errors=remount-ro 0 1\nUUID=AB-CD /boot/efi vfat umask=0077 0 2\n\
            /dev/mapper/vg-home /home ext4 defaults 0 2\n/dev/disk/by-id/md-uuid-1:2:3:4-part2 /srv ext4 defaults 0 2\n\
            /dev/disk/by-id/dm-name-vg-var /var ext4 defaults 0 2\n";
        let all = [
            command_line("root=UUID=1 ro quiet"),
            fstab(fstab_text, |_| Some(true)),
            crypttab("# none\n", |_| Some(true)),
            stack("ext4", &[]),
        ];
        assert_eq!(all.concat(), []);
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! One moment of a primary in use: exact, brief, and never in the way of the primary.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use dpsr::units::MIB;

use crate::holder::{Holder, memory};
use crate::shell;
use crate::world::{LATE, TRIES, World, in_vm};
use crate::wrapped::{self, LEFT_OUT, id, must_be_plain, node, of_snapshot, remove};
use crate::writer::Writer;

/// The partitions in the order in which they are mounted.
const VFAT: u32 = 1;
const EXT4: u32 = 2;
const XFS: u32 = 3;
const BTRFS: u32 = 5;

fn counters(mounts: &[PathBuf]) -> Vec<PathBuf> {
    mounts.iter().map(|mount| mount.join("counter")).collect()
}

fn hash(device: &str) -> String {
    shell::ok(&format!("dd if={device} iflag=direct bs=1M status=none | sha256sum"))
}

/// Fills a file past the page cache, in writes as large as they come.
fn fill(directory: &Path, mib: u64, with: &str) {
    let file = directory.join("bulk");
    shell::ok(&format!(
        "dd if=/dev/{with} of={} oflag=direct bs=1M count={mib} conv=notrunc,fsync status=none",
        file.display()
    ));
}

/// All but the mark of a FAT16 that it is mounted: freezing does not take that away.
fn must_be_clean_fat(device: &str) {
    let copy = tempfile::NamedTempFile::new().unwrap();
    let at = copy.path().display();
    shell::ok(&format!(
        "cat {device} >{at}; printf '\\0' | dd of={at} bs=1 seek=37 conv=notrunc status=none"
    ));
    shell::ok(&format!("fsck.fat -n {at}"));
}

/// XFS that was frozen has a log that is to be replayed, which xfs_repair(8) leaves to a mount: one of a
/// throw-away layer over it.
fn must_be_clean_xfs(world: &World, device: &str) {
    let size = shell::ok(&format!("blockdev --getsz {device}"));
    let table = format!("0 {} snapshot {device} {} N 8", size.trim(), world.dpsr.node);
    shell::ok(&format!("dmsetup create replayed --table '{table}'"));
    let at = world.mount("/dev/mapper/replayed", "nouuid");
    world.unmount(&at);
    shell::ok("xfs_repair -n /dev/mapper/replayed; dmsetup remove --retry replayed");
}

#[test]
fn four_filesystems_stand_at_one_instant() {
    in_vm(|world| {
        let mounts = wrapped::make(world);
        let writer = Writer::start(&counters(&mounts));
        let (holder, held) = Holder::holding(&memory(64));
        assert!(!held.quiet, "somebody was writing");
        let [vfat, ext4, xfs, btrfs] = [VFAT, EXT4, XFS, BTRFS].map(|part| of_snapshot(&held.node, part));
        must_be_clean_fat(&vfat);
        shell::ok(&format!("e2fsck -fn {ext4}"));
        must_be_clean_xfs(world, &xfs);
        shell::ok(&format!("btrfs check --readonly {btrfs}"));
        // A second btrfs with the same identity cannot be mounted beside the first.
        let looked = [(&vfat, "ro"), (&ext4, "ro,noload"), (&xfs, "ro,norecovery,nouuid")];
        let looked = looked.map(|(device, options)| world.mount(device, options));
        let mut numbers: Vec<_> = looked.iter().map(|at| Writer::number(&at.join("counter"))).collect();
        let restored = tempfile::tempdir().unwrap();
        shell::ok(&format!("btrfs restore --ignore-errors {btrfs} {}", restored.path().display()));
        numbers.push(Writer::number(&restored.path().join("counter")));
        let (least, most) = (numbers.iter().min().unwrap(), numbers.iter().max().unwrap());
        assert!(most - least <= 1 && *least > 0, "{numbers:?}");
        looked.iter().for_each(|at| world.unmount(at));
        [VFAT, EXT4, XFS, BTRFS].into_iter().for_each(remove);
        holder.release();
        let written = writer.stop();
        println!("pause {:?}, longest write {:?}, {} rounds", held.pause, written.longest, written.last);
        must_be_plain();
    });
}

#[test]
fn the_snapshot_keeps_what_is_overwritten() {
    in_vm(|world| {
        let mounts = wrapped::make(world);
        fill(&mounts[1], 24, "urandom");
        let (mut holder, held) = Holder::holding(&memory(64));
        let look = of_snapshot(&held.node, EXT4);
        let before = hash(&look);
        fill(&mounts[1], 24, "zero");
        assert_eq!(hash(&look), before, "pre-images were lost");
        let used: u64 = holder.ask("check").unwrap().parse().unwrap();
        assert!(used >= 24 * MIB, "only {used} bytes were kept");
        remove(EXT4);
        holder.release();
        must_be_plain();
    });
}

#[test]
fn left_out_partitions_cost_nothing_and_what_goes_past_is_seen() {
    in_vm(|world| {
        // A mounted filesystem writes when it likes, and what is measured here is exact.
        wrapped::make(world).iter().for_each(|at| world.unmount(at));
        let (mut holder, held) = Holder::holding(&memory(16));
        assert!(held.quiet, "nobody was writing");
        let used = holder.ask("check").unwrap();
        let left_out = node(&id().partition(LEFT_OUT));
        shell::ok(&format!("dd if=/dev/zero of={left_out} oflag=direct bs=1M count=8 status=none"));
        assert_eq!(holder.ask("check").unwrap(), used);
        assert_eq!(holder.ask("bypassed").unwrap(), "false");
        // Into the room behind the last partition.
        shell::ok(&format!(
            "dd if=/dev/zero of={} oflag=direct bs=4k count=1 seek=60000 status=none",
            world.primary.node
        ));
        assert_eq!(holder.ask("bypassed").unwrap(), "true");
        holder.release();
        must_be_plain();
    });
}

#[test]
fn too_much_to_keep_costs_the_snapshot_alone() {
    in_vm(|world| {
        let mounts = wrapped::make(world);
        fill(&mounts[1], 8, "urandom");
        let (mut holder, _) = Holder::holding(&memory(1));
        fill(&mounts[1], 8, "zero");
        let told = holder.ask("check").unwrap_err();
        assert!(told.contains("all of the 1 MiB") && told.contains("were missing"), "{told}");
        // Eight were written, over eight that had been there.
        let size = told.split("set cow_size to ").nth(1).and_then(|rest| rest.split(' ').next());
        assert!(size.is_some_and(|size| (8..16).contains(&size.parse::<u64>().unwrap())), "{told}");
        fill(&mounts[1], 8, "urandom");
        holder.release();
        must_be_plain();
    });
}

#[test]
fn pre_images_that_cannot_be_kept_cost_the_snapshot_alone() {
    in_vm(|world| {
        let mounts = wrapped::make(world);
        fill(&mounts[1], 8, "urandom");
        shell::ok(&format!("dmsetup create weak --table '0 65536 linear {} 0'", world.dpsr.node));
        let number = shell::ok("dmsetup info --columns --noheadings --separator : -o major,minor weak");
        let (mut holder, _) = Holder::holding(&format!("device {} {}", number.trim(), 32 * MIB));
        fill(&mounts[1], 1, "zero");
        holder.ask("check").unwrap();
        shell::ok(
            "dmsetup load weak --table '0 65536 error'; dmsetup suspend --noflush --nolockfs weak; dmsetup resume weak",
        );
        fill(&mounts[1], 8, "zero");
        let told = holder.ask("check").unwrap_err();
        assert!(told.contains("it fails") && told.contains("the primary goes on"), "{told}");
        holder.release();
        shell::ok("dmsetup remove weak");
        must_be_plain();
    });
}

#[test]
fn udevd_is_not_needed() {
    in_vm(|world| {
        wrapped::make(world);
        shell::ok("systemctl stop systemd-udevd-kernel.socket systemd-udevd-control.socket systemd-udevd");
        let (holder, held) = Holder::holding(&memory(16));
        holder.release();
        shell::ok("systemctl start systemd-udevd-kernel.socket systemd-udevd-control.socket systemd-udevd");
        println!("pause {:?}", held.pause);
        must_be_plain();
    });
}

#[test]
fn swap_on_the_same_disk_and_no_memory_left() {
    in_vm(|world| {
        let mounts = wrapped::make(world);
        let swap = node(&id().partition(LEFT_OUT));
        shell::ok(&format!("mkswap --quiet {swap} 2>/dev/null; swapon {swap}"));
        let writer = Writer::start(&counters(&mounts));
        let full = world.fill_memory();
        // Somebody writes, and so it is taken when the limit is over.
        let limit = Duration::from_secs(15);
        let attempt = || {
            let mut holder = Holder::start(&memory(32), limit, limit, Duration::from_millis(50));
            shell::wait_for("memory that is locked", Duration::from_secs(60), || {
                shell::ok("losetup --list --noheadings --output BACK-FILE").contains("dpsr-cow")
            });
            let hog = Hog::start();
            shell::wait_for("pages that are swapped out", limit, || hog.swapped_out() > 0);
            let before = hog.swapped_out();
            let held = holder.held();
            (holder, held, hog.swapped_out() - before)
        };
        let mut tries = 1;
        let (holder, held, meanwhile) = loop {
            match attempt() {
                (holder, Ok(held), meanwhile) => break (holder, held, meanwhile),
                (mut holder, Err(why), _) => {
                    assert!(why.contains(LATE) && tries < TRIES, "{why}");
                    assert!(holder.child.wait().unwrap().success());
                    tries += 1;
                }
            }
        };
        assert!(meanwhile > 0, "nothing was swapped out while the moment was taken");
        world.unmount(&full);
        holder.release();
        let written = writer.stop();
        println!("pause {:?}, longest write {:?}, {meanwhile} pages out", held.pause, written.longest);
        shell::ok(&format!("swapoff {swap}"));
        must_be_plain();
    });
}

/// Takes more memory than there is, gives it back, and takes it again, until dropped.
struct Hog {
    process: Child,
    /// Pages that had been swapped out before.
    before: u64,
}

/// Where the kernel is told to swap rather than to forget what it has read, and what it is told otherwise.
const SWAPPINESS: (&str, &str, &str) = ("/proc/sys/vm/swappiness", "200", "60");

impl Hog {
    fn start() -> Self {
        fs::write(SWAPPINESS.0, SWAPPINESS.1).unwrap();
        let before = swapped_out();
        let more = "awk '/^MemAvailable/ { print $2 + 8192 }' /proc/meminfo";
        let take = format!("while :; do head -c $({more})K /dev/zero | tail | wc -c >/dev/null; done");
        let process = Command::new("sh").args(["-c", &take]).process_group(0).spawn().unwrap();
        Self { process, before }
    }

    fn swapped_out(&self) -> u64 {
        swapped_out() - self.before
    }
}

impl Drop for Hog {
    fn drop(&mut self) {
        shell::run(&format!("kill -KILL -{}", self.process.id()));
        self.process.wait().unwrap();
        fs::write(SWAPPINESS.0, SWAPPINESS.2).unwrap();
    }
}

/// `pswpout` of /proc/vmstat: pages that were swapped out since the boot.
fn swapped_out() -> u64 {
    let text = fs::read_to_string("/proc/vmstat").unwrap();
    let pages = text.lines().find_map(|line| line.strip_prefix("pswpout ")).unwrap();
    pages.parse().unwrap()
}

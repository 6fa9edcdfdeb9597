// SPDX-License-Identifier: MIT OR Apache-2.0
//! Block devices under the wrong names, and devices that somebody uses.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::world::{Decoy, Loop, Mount, World, mkfs, poke, size_of, skipped, tool, unique};

const DPSR: u64 = 64;

/// A pair whose DPSR disk is a loop device, with a generation.
fn one() -> Option<(World, PathBuf, Loop)> {
    let world = World::new();
    let primary = world.full("primary", unique(4), 1);
    let device = Loop::over(&world.blank("dpsr", unique(DPSR)))?;
    world.pair("a", &primary, &device.0);
    Some((world, primary, device))
}

#[test]
fn root_the_names_of_two_dpsr_disks_are_swapped() {
    let world = World::new();
    let (small, large) = (unique(4), unique(DPSR));
    let primaries = [world.full("primary-a", small, 1), world.full("primary-b", small, 2)];
    let Some(a) = Loop::over(&world.blank("dpsr-a", large)) else { return };
    let Some(b) = Loop::over(&world.blank("dpsr-b", large)) else { return };
    world.pair("a", &primaries[0], &a.0);
    world.pair("b", &primaries[1], &b.0);
    let Some((a, b)) = a.swapped(b) else { return };
    for (pair, right, decoy, primary) in [("a", &b, &a, &primaries[0]), ("b", &a, &b, &primaries[1])] {
        let untouched = Decoy::of(&decoy.0);
        poke(primary, 70_000, b"changed");
        world.sync(pair).fine();
        world.exact(pair, primary);
        untouched.untouched();
        let json: serde_json::Value =
            serde_json::from_str(&world.dpsr(&["status", "--json", "--pair", pair]).fine()).unwrap();
        assert_eq!(json["dpsr"], right.text());
        world.restore(pair, &right.0).refused(3, &[right.text(), "it is the DPSR disk itself"]);
    }
}

#[test]
fn root_a_clone_has_the_recorded_name() {
    let Some((world, primary, original)) = one() else { return };
    fs::copy(world.path("dpsr"), world.path("clone")).unwrap();
    let Some(clone) = Loop::over(&world.path("clone")) else { return };
    let Some((clone, original)) = original.swapped(clone) else { return };
    let untouched = Decoy::of(&clone.0);
    poke(&primary, 70_000, b"changed");
    world.sync("a").fine();
    world.exact("a", &primary);
    untouched.untouched();
    // With the original gone, the clone is refused.
    drop(original);
    world.sync("a").refused(3, &[clone.text(), "it is another file", "attach the disk"]);
    untouched.untouched();
}

#[test]
fn root_a_blank_disk_has_the_recorded_name() {
    let Some((world, _, device)) = one() else { return };
    let (name, size) = (device.0.clone(), size_of(&device.0));
    drop(device);
    let Some(blank) = Loop::at(name, &world.blank("blank", size), &[]) else { return };
    let untouched = Decoy::of(&blank.0);
    world.sync("a").refused(3, &[blank.text(), "no other disk is the recorded one", "nothing was written"]);
    untouched.untouched();
}

#[test]
fn root_clones_in_files_with_the_same_inode_number() {
    let world = World::new();
    let primary = world.full("primary", unique(4), 1);
    let systems = ["one", "two"].map(|name| world.blank(name, 160 << 20));
    if !systems.iter().all(|system| mkfs(system)) {
        return;
    }
    let Some(first) = Loop::over(&systems[0]) else { return };
    let Some(second) = Loop::over(&systems[1]) else { return };
    let Some(left) = Mount::of(&first.0, world.path("left")) else { return };
    let Some(right) = Mount::of(&second.0, world.path("right")) else { return };
    fs::File::create(left.path("dpsr")).unwrap().set_len(unique(DPSR)).unwrap();
    let Some(original) = Loop::over(&left.path("dpsr")) else { return };
    world.pair("a", &primary, &original.0);
    assert!(tool("cp", &[left.path("dpsr").to_str().unwrap(), right.path("dpsr").to_str().unwrap()]));
    let inode = |path| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap());
    assert_eq!(inode(left.path("dpsr")), inode(right.path("dpsr")));
    let Some(clone) = Loop::over(&right.path("dpsr")) else { return };
    let Some((clone, original)) = original.swapped(clone) else { return };
    let untouched = [Decoy::of(&clone.0), Decoy::of(&original.0)];
    world.sync("a").refused(3, &[clone.text(), original.text(), "both carry its identity", "detach"]);
    untouched.iter().for_each(Decoy::untouched);
}

#[test]
fn root_a_primary_without_a_table_is_gone() {
    let world = World::new();
    let size = unique(4);
    let Some(primary) = Loop::over(&world.full("primary", size, 1)) else { return };
    let dpsr = world.blank("dpsr", unique(DPSR));
    world.pair("a", &primary.0, &dpsr);
    drop(primary);
    // Another disk of that size without a table must not be taken for it.
    let Some(other) = Loop::over(&world.blank("other", size)) else { return };
    let untouched = [Decoy::of(&dpsr), Decoy::of(&other.0)];
    world.sync("a").refused(3, &["looking for the primary", "nothing was written"]);
    untouched.iter().for_each(Decoy::untouched);
    // Nor where the record knows no inode.
    world.edit("a", |text| {
        text.lines().filter(|line| !line.starts_with("inode")).map(|line| format!("{line}\n")).collect()
    });
    world.sync("a").refused(3, &["looking for the primary", "nothing was written"]);
    untouched.iter().for_each(Decoy::untouched);
}

#[test]
fn root_a_read_only_dpsr_disk() {
    let Some((world, _, device)) = one() else { return };
    let (name, file) = (device.0.clone(), device.file());
    drop(device);
    let Some(device) = Loop::at(name, &file, &["--read-only"]) else { return };
    let untouched = Decoy::of(&device.0);
    world.sync("a").refused(3, &[device.text(), "it is read-only", "nothing was written"]);
    world.dpsr(&["status"]).fine();
    world.dpsr(&["export", "1", "-"]);
    untouched.untouched();
}

#[test]
fn root_a_target_that_is_read_only_or_mounted_or_backs_a_loop_device() {
    let Some((world, primary, _device)) = one() else { return };
    let file = world.blank("target", unique(16));
    if !mkfs(&file) {
        return;
    }
    let Some(target) = Loop::over(&file) else { return };
    {
        let Some(_mount) = Mount::of(&target.0, world.path("mnt")) else { return };
        let said = world.restore("a", &target.0);
        said.refused(3, &[target.text(), "is mounted at", "stop that use first"]);
        let said = world.init("c", &primary, &target.0, &["--wipe"]);
        said.refused(3, &[target.text(), "is mounted at", "stop that use first"]);
    }
    let untouched = Decoy::of(&file);
    world.restore("a", &file).refused(3, &["target", "backs the loop device", "stop that use first"]);
    untouched.untouched();
    let Some(reader) = Loop::at(Loop::name(), &world.blank("blank", unique(16)), &["--read-only"]) else {
        return;
    };
    let untouched = Decoy::of(&reader.0);
    world.restore("a", &reader.0).refused(3, &[reader.text(), "it is read-only"]);
    untouched.untouched();
}

#[test]
fn root_the_dpsr_disk_by_other_ways_is_no_target() {
    let Some((world, primary, device)) = one() else { return };
    let Some(part) = Loop::at(Loop::name(), &world.path("dpsr"), &["--offset", "8388608"]) else { return };
    let untouched = [Decoy::of(&device.0), Decoy::of(&part.0)];
    world.restore("a", &part.0).refused(3, &[part.text(), "it is the DPSR disk itself"]);
    world.restore("a", &world.path("dpsr")).refused(3, &["dpsr", "it is the DPSR disk itself"]);
    // Nor may it be written while somebody has it in another way.
    poke(&primary, 70_000, b"changed");
    world.sync("a").refused(3, &[device.text(), &part.text()[5..], "stop that use first"]);
    untouched.iter().for_each(Decoy::untouched);
}

#[test]
fn root_a_part_of_the_primary_is_no_dpsr_disk() {
    let world = World::new();
    let file = world.full("primary", unique(DPSR), 1);
    let Some(primary) = Loop::over(&file) else { return };
    let Some(part) = Loop::at(Loop::name(), &file, &["--offset", "1048576"]) else { return };
    let untouched = Decoy::of(&file);
    for (one, other) in [(&primary.0, &part.0), (&file, &part.0), (&primary.0, &file)] {
        let said = world.init("a", one, other, &["--wipe"]);
        said.refused(3, &[other.to_str().unwrap(), "it is part of the primary", "name another disk"]);
    }
    untouched.untouched();
}

#[test]
fn root_a_file_on_the_primary_is_no_dpsr_disk() {
    let world = World::new();
    let file = world.blank("primary", 200 << 20);
    if !mkfs(&file) {
        return;
    }
    let Some(primary) = Loop::over(&file) else { return };
    let Some(mount) = Mount::of(&primary.0, world.path("mnt")) else { return };
    let inside = mount.path("inside");
    fs::File::create(&inside).unwrap().set_len(unique(DPSR)).unwrap();
    let untouched = Decoy::of(&inside);
    for one in [&primary.0, &file] {
        let said = world.init("a", one, &inside, &[]);
        said.refused(3, &["inside", "it is part of the primary", "name another disk"]);
    }
    untouched.untouched();
}

#[test]
fn root_a_primary_that_is_mounted_or_held() {
    let world = World::new();
    let file = world.blank("primary", unique(16));
    if !mkfs(&file) {
        return;
    }
    let dpsr = world.blank("dpsr", unique(DPSR));
    let Some(primary) = Loop::over(&file) else { return };
    world.pair("a", &primary.0, &dpsr);
    let other = world.blank("dpsr-b", unique(DPSR));
    world.init("b", &file, &other, &[]).fine();
    let untouched = [Decoy::of(&dpsr), Decoy::of(&other)];
    world.sync("b").refused(3, &["primary", "it backs the loop device", "stop that use first"]);
    // A wrap is what lets a disk be copied in use; a file gets none.
    let wrap = "or wrap it with 'dpsr wrap'";
    let in_use = |pair| world.dpsr(&["sync", "--pair", pair]);
    let said = in_use("b");
    said.refused(3, &["it backs the loop device", "stop that use first"]);
    assert!(!said.err.contains(wrap), "{}", said.err);
    {
        let Some(_mount) = Mount::of(&primary.0, world.path("mnt")) else { return };
        world.sync("a").refused(3, &[primary.text(), "is mounted at", "stop that use first"]);
        in_use("a").refused(3, &[primary.text(), "is mounted at", "stop that use first", wrap]);
    }
    {
        let Some(second) = Loop::over(&file) else { return };
        let Some(_mount) = Mount::of(&second.0, world.path("mnt")) else { return };
        world.sync("a").refused(3, &[primary.text(), &second.text()[5..], "stop that use first"]);
    }
    untouched.iter().for_each(Decoy::untouched);
}

/// A shell that does something in a mount namespace of its own, until it is told to end.
struct Elsewhere(Child);

impl Elsewhere {
    fn mounts(device: &Loop, at: &PathBuf) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        let script = "mount \"$0\" \"$1\" && echo done && read line";
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", script, device.text()]).arg(at);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().ok()?;
        let mut said = [0; 4];
        let mounted = std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut said).is_ok();
        if !mounted {
            skipped("no mount namespace can be made here");
        }
        mounted.then_some(Self(child))
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        self.0.wait().unwrap();
    }
}

#[test]
fn root_mounted_where_this_process_cannot_see_it() {
    let Some((world, _, device)) = one() else { return };
    let file = world.blank("target", unique(DPSR));
    if !mkfs(&file) {
        return;
    }
    let Some(target) = Loop::over(&file) else { return };
    let at = world.path("mnt");
    {
        let Some(hidden) = Elsewhere::mounts(&target, &at) else { return };
        let pid = hidden.0.id().to_string();
        let said = world.restore("a", &target.0);
        said.refused(3, &[target.text(), "is mounted at", at.to_str().unwrap(), &pid, "nothing was written"]);
        let said = world.init("c", &world.path("primary"), &target.0, &["--wipe"]);
        said.refused(3, &[target.text(), "is mounted at", "nothing was written"]);
        let other = world.blank("dpsr-b", unique(2 * DPSR));
        world.init("b", &target.0, &other, &[]).fine();
        world.sync("b").refused(3, &[target.text(), "is mounted at", at.to_str().unwrap()]);
    }
    drop(device);
}

#[test]
fn root_somebody_has_the_target_open_for_himself() {
    use dpsr::disk::file::{Access, FileDisk};
    let Some((world, _, device)) = one() else { return };
    let Some(target) = Loop::over(&world.blank("target", unique(16))) else { return };
    let untouched = Decoy::of(&target.0);
    let _mine = FileDisk::open(&target.0, Access::ReadExclusive).unwrap();
    let me = format!("process {} (", std::process::id());
    world.restore("a", &target.0).refused(4, &[target.text(), &me, "nothing was written"]);
    untouched.untouched();
    let untouched = Decoy::of(&device.0);
    let _mine = FileDisk::open(&device.0, Access::ReadExclusive).unwrap();
    world.sync("a").refused(4, &[device.text(), &me, "nothing was written"]);
    untouched.untouched();
}

#[test]
fn root_the_target_is_swap() {
    let Some((world, primary, _device)) = one() else { return };
    let Some(target) = Loop::over(&world.blank("target", unique(DPSR))) else { return };
    if !tool("mkswap", &[target.text()]) || !tool("swapon", &[target.text()]) {
        return skipped("no swap can be turned on here");
    }
    let said = [world.restore("a", &target.0), world.init("c", &primary, &target.0, &["--wipe"])];
    assert!(tool("swapoff", &[target.text()]));
    for said in said {
        said.refused(3, &[target.text(), "is in use as swap", "nothing was written"]);
    }
}

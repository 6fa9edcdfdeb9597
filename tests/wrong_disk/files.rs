// SPDX-License-Identifier: MIT OR Apache-2.0
//! Image files in the wrong places.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use super::world::{Decoy, World, hash_of, poke, size_of, skipped, unique};

const PRIMARY: u64 = 4;
const DPSR: u64 = 64;

/// One pair of files with a generation.
fn one() -> (World, PathBuf, PathBuf) {
    let world = World::new();
    let primary = world.full("primary", unique(PRIMARY), 1);
    let dpsr = world.blank("dpsr", unique(DPSR));
    world.pair("a", &primary, &dpsr);
    (world, primary, dpsr)
}

/// Two pairs of files, both disks of each of the same size, with a generation each.
fn two() -> (World, [PathBuf; 2], [PathBuf; 2]) {
    let world = World::new();
    let (small, large) = (unique(PRIMARY), unique(DPSR));
    let primaries = [world.full("primary-a", small, 1), world.full("primary-b", small, 2)];
    let copies = [world.blank("dpsr-a", large), world.blank("dpsr-b", large)];
    world.pair("a", &primaries[0], &copies[0]);
    world.pair("b", &primaries[1], &copies[1]);
    (world, primaries, copies)
}

#[test]
fn the_names_of_two_dpsr_disks_are_swapped() {
    let (world, _, [a, b]) = two();
    let aside = world.path("aside");
    fs::rename(&a, &aside).unwrap();
    fs::rename(&b, &a).unwrap();
    fs::rename(&aside, &b).unwrap();
    let decoys = [Decoy::of(&a), Decoy::of(&b)];
    for pair in ["a", "b"] {
        world
            .sync(pair)
            .refused(3, &["dpsr-", "it is another file", "nothing was written", "attach the disk"]);
        let target = world.blank("target", size_of(&world.path("primary-a")));
        world.restore(pair, &target).refused(3, &["it is another file"]);
    }
    decoys.iter().for_each(Decoy::untouched);
}

#[test]
fn a_clone_of_the_store_lies_under_the_recorded_path() {
    let (world, primary, dpsr) = one();
    fs::rename(&dpsr, world.path("original")).unwrap();
    fs::copy(world.path("original"), &dpsr).unwrap();
    let decoys = [Decoy::of(&dpsr), Decoy::of(world.path("original"))];
    world.sync("a").refused(3, &[dpsr.to_str().unwrap(), "it is another file (inode"]);
    decoys.iter().for_each(Decoy::untouched);
    fs::rename(world.path("original"), &dpsr).unwrap();
    poke(&primary, 70_000, b"changed");
    world.sync("a").fine();
    world.exact("a", &primary);
}

#[test]
fn a_clone_of_the_store_lies_beside_it() {
    let (world, primary, dpsr) = one();
    fs::copy(&dpsr, world.path("clone")).unwrap();
    let clone = Decoy::of(world.path("clone"));
    poke(&primary, 70_000, b"changed");
    world.sync("a").fine();
    world.exact("a", &primary);
    clone.untouched();
}

#[test]
fn a_blank_disk_of_the_same_size_lies_under_the_recorded_path() {
    let (world, _, dpsr) = one();
    let size = size_of(&dpsr);
    fs::rename(&dpsr, world.path("original")).unwrap();
    let blank = Decoy::of(world.blank("dpsr", size));
    world.sync("a").refused(3, &[dpsr.to_str().unwrap(), "nothing was written"]);
    // Not even where the inode is the recorded one.
    let inode = std::os::unix::fs::MetadataExt::ino(&fs::metadata(&dpsr).unwrap());
    world.edit("a", |text| renumbered(&text, "[dpsr]", inode));
    world.sync("a").refused(3, &[dpsr.to_str().unwrap(), "it carries no store"]);
    blank.untouched();
}

/// The record with another inode in one of its parts.
fn renumbered(text: &str, part: &str, inode: u64) -> String {
    let mut inside = false;
    let lines = text.lines().map(|line| {
        inside = if line.starts_with('[') { line == part } else { inside };
        if inside && line.starts_with("inode") { format!("inode = {inode}\n") } else { format!("{line}\n") }
    });
    lines.collect()
}

fn without_inode(text: String) -> String {
    text.lines().filter(|line| !line.starts_with("inode")).map(|line| format!("{line}\n")).collect()
}

#[test]
fn the_dpsr_disk_of_another_pair_lies_under_the_recorded_path() {
    let (world, _, [a, b]) = two();
    fs::remove_file(&a).unwrap();
    fs::rename(&b, &a).unwrap();
    let decoy = Decoy::of(&a);
    world.edit("a", without_inode);
    world.sync("a").refused(3, &[a.to_str().unwrap(), "it carries the store of another pair"]);
    decoy.untouched();
}

#[test]
fn the_record_is_older_than_the_store() {
    let (world, primary, dpsr) = one();
    let record = world.path("etc/a.toml");
    let old = fs::read_to_string(&record).unwrap();
    world.init("a", &primary, &dpsr, &["--wipe"]).fine();
    world.sync("a").fine();
    fs::write(&record, old).unwrap();
    let decoy = Decoy::of(&dpsr);
    world.sync("a").refused(3, &[dpsr.to_str().unwrap(), "it carries the store of another pair"]);
    decoy.untouched();
}

#[test]
fn the_record_names_the_primary_as_the_dpsr_disk() {
    let (world, primary, dpsr) = one();
    let decoys = [Decoy::of(&primary), Decoy::of(&dpsr)];
    let (from, to) = (dpsr.display().to_string(), primary.display().to_string());
    world.edit("a", |text| text.replace(&format!("path = \"{from}\""), &format!("path = \"{to}\"")));
    world.sync("a").refused(3, &[&to, "nothing was written"]);
    // Nor with everything else about it in the record.
    let inode = std::os::unix::fs::MetadataExt::ino(&fs::metadata(&primary).unwrap());
    let (large, small) = (size_of(&dpsr).to_string(), size_of(&primary).to_string());
    world.edit("a", |text| renumbered(&text.replace(&large, &small), "[dpsr]", inode));
    world.sync("a").refused(3, &[&to, "it carries no store", "nothing was written"]);
    decoys.iter().for_each(Decoy::untouched);
}

#[test]
fn one_disk_in_both_roles() {
    let world = World::new();
    let primary = world.full("primary", unique(DPSR), 1);
    symlink(&primary, world.path("link")).unwrap();
    fs::hard_link(&primary, world.path("twin")).unwrap();
    let decoy = Decoy::of(&primary);
    for name in ["primary", "link", "twin"] {
        let said = world.init("a", &primary, &world.path(name), &["--wipe"]);
        said.refused(3, &[name, "it is part of the primary", "name another disk"]);
    }
    decoy.untouched();
}

#[test]
fn the_roles_are_mixed_up() {
    let (world, primary, dpsr) = one();
    let decoys = [Decoy::of(&primary), Decoy::of(&dpsr)];
    for pair in ["a", "c"] {
        let said = world.init(pair, &dpsr, &primary, &["--wipe"]);
        said.refused(3, &[dpsr.to_str().unwrap(), "a DPSR disk", "--primary and --dpsr"]);
    }
    decoys.iter().for_each(Decoy::untouched);
}

#[test]
fn the_primary_of_another_pair_becomes_a_dpsr_disk() {
    let (world, primary, _) = one();
    let other = world.full("other", 1 << 20, 9);
    let decoy = Decoy::of(&primary);
    let said = world.init("c", &other, &primary, &["--wipe"]);
    said.refused(3, &[primary.to_str().unwrap(), "the primary of the pair \"a\"", "name another disk"]);
    decoy.untouched();
}

#[test]
fn the_dpsr_disk_of_another_pair_is_to_be_wiped() {
    let (world, [primary, _], [_, b]) = two();
    let decoy = Decoy::of(&b);
    let said = world.init("c", &primary, &b, &["--wipe"]);
    said.refused(
        3,
        &[b.to_str().unwrap(), "it is the DPSR disk of the pair \"b\"", "remove that pair first"],
    );
    decoy.untouched();
}

#[test]
fn a_disk_that_is_not_empty() {
    let world = World::new();
    let primary = world.full("primary", unique(PRIMARY), 1);
    let target = world.full("target", unique(DPSR), 2);
    let decoy = Decoy::of(&target);
    let said = world.init("a", &primary, &target, &[]);
    said.refused(3, &[target.to_str().unwrap(), "it is not empty", "--wipe gives that up"]);
    decoy.untouched();
}

#[test]
fn a_generation_goes_back_onto_the_dpsr_disk() {
    let (world, _, dpsr) = one();
    symlink(&dpsr, world.path("link")).unwrap();
    fs::hard_link(&dpsr, world.path("twin")).unwrap();
    let decoy = Decoy::of(&dpsr);
    for name in ["dpsr", "link", "twin"] {
        let said = world.restore("a", &world.path(name));
        said.refused(3, &[name, "it is the DPSR disk itself", "name another disk"]);
    }
    decoy.untouched();
}

#[test]
fn a_generation_goes_onto_the_dpsr_disk_of_another_pair() {
    let (world, _, [_, b]) = two();
    let decoy = Decoy::of(&b);
    let said = world.restore("a", &b);
    said.refused(3, &[b.to_str().unwrap(), "it is a DPSR disk", "name another disk"]);
    decoy.untouched();
}

#[test]
fn the_wrong_id_is_confirmed() {
    let (world, _, _) = one();
    let target = world.full("target", unique(8), 5);
    let decoy = Decoy::of(&target);
    let to = target.to_str().unwrap();
    let said = world.dpsr(&["restore", "1", "--to", to, "--confirm", "12345"]);
    said.refused(3, &[to, "\"12345\" is not its size in bytes", "nothing was written"]);
    // Without a terminal to ask on, the plan is all, and that is no success.
    let said = world.dpsr(&["restore", "1", "--to", to]);
    said.refused(3, &["it was not confirmed", "nothing was written"]);
    assert!(said.out.contains("Everything it holds there"), "{}", said.out);
    decoy.untouched();
}

#[test]
fn the_dpsr_disk_has_shrunk_or_grown() {
    let (world, _, dpsr) = one();
    let size = size_of(&dpsr);
    for changed in [size - 4096, size + 4096] {
        fs::File::options().write(true).open(&dpsr).unwrap().set_len(changed).unwrap();
        let decoy = Decoy::of(&dpsr);
        let bytes = format!("it has {changed} bytes instead of {size}");
        world.sync("a").refused(3, &[dpsr.to_str().unwrap(), &bytes, "nothing was written"]);
        decoy.untouched();
    }
}

#[test]
fn the_primary_has_shrunk_or_grown() {
    let (world, primary, dpsr) = one();
    let size = size_of(&primary);
    for changed in [size - 4096, size + 4096] {
        fs::File::options().write(true).open(&primary).unwrap().set_len(changed).unwrap();
        let decoys = [Decoy::of(&primary), Decoy::of(&dpsr)];
        world.sync("a").refused(3, &["primary", &format!("it has {changed} bytes instead of {size}")]);
        decoys.iter().for_each(Decoy::untouched);
    }
}

#[test]
fn the_record_says_a_wrong_size() {
    let (world, _, dpsr) = one();
    let decoy = Decoy::of(&dpsr);
    let size = size_of(&dpsr);
    world.edit("a", |text| text.replace(&size.to_string(), &(size + 512).to_string()));
    world.sync("a").refused(3, &[dpsr.to_str().unwrap(), &format!("instead of {}", size + 512)]);
    decoy.untouched();
}

#[test]
fn the_record_says_a_serial_number_that_nothing_reports() {
    let (world, primary, _) = one();
    world.edit("a", |text| text.replace("[dpsr]\n", "[dpsr]\nserial = \"S3R1AL\"\n"));
    poke(&primary, 70_000, b"changed");
    world.sync("a").fine();
    world.exact("a", &primary);
}

#[test]
fn a_dpsr_disk_of_another_machine_carries_the_same_guids() {
    let (world, _, [a, b]) = two();
    // The GPT of a, over b: the same GUIDs, another store.
    let (head, size) = (fs::read(&a).unwrap(), size_of(&a) as usize);
    poke(&b, 0, &head[..1 << 20]);
    poke(&b, (size - (1 << 20)) as u64, &head[size - (1 << 20)..]);
    fs::rename(&b, &a).unwrap();
    world.edit("a", without_inode);
    let decoy = Decoy::of(&a);
    let words = [a.to_str().unwrap(), "its store belongs to another pair", "nothing was written"];
    world.sync("a").refused(3, &words);
    world.dpsr(&["export", "1", "-", "--pair", "a"]).refused(3, &words);
    world.dpsr(&["status", "--pair", "a"]).refused(3, &words);
    let target = world.blank("target", size_of(&world.path("primary-a")));
    world.restore("a", &target).refused(3, &words);
    decoy.untouched();
}

#[test]
fn two_pairs_share_one_dpsr_disk() {
    let (world, _, [a, b]) = two();
    let text = fs::read_to_string(world.path("etc/a.toml")).unwrap();
    let own = fs::read_to_string(world.path("etc/b.toml")).unwrap();
    // The record of b, with the DPSR disk of a.
    let (front, back) = (own.split("[dpsr]").next().unwrap(), text.split("[dpsr]").nth(1).unwrap());
    fs::write(world.path("etc/b.toml"), format!("{front}[dpsr]{back}")).unwrap();
    let decoys = [Decoy::of(&a), Decoy::of(&b)];
    world.sync("b").refused(3, &[a.to_str().unwrap(), "its store belongs to another pair"]);
    decoys.iter().for_each(Decoy::untouched);
}

#[test]
fn another_image_lies_under_the_path_of_the_primary() {
    let (world, primary, dpsr) = one();
    let size = size_of(&primary);
    fs::rename(&primary, world.path("original")).unwrap();
    world.full("primary", size, 99);
    let decoys = [Decoy::of(&primary), Decoy::of(&dpsr)];
    // It has no table and no serial number: only its inode tells it from the recorded one.
    let said = world.sync("a");
    said.refused(3, &[primary.to_str().unwrap(), "it is another file (inode", "nothing was written"]);
    decoys.iter().for_each(Decoy::untouched);
    // Somebody who means it says so in the record.
    let inode = std::os::unix::fs::MetadataExt::ino(&fs::metadata(&primary).unwrap());
    assert!(said.err.contains(&format!("inode = {inode}")), "{}", said.err);
    world.edit("a", |text| renumbered(&text, "[primary]", inode));
    world.sync("a").fine();
    world.exact("a", &primary);
}

#[test]
fn an_image_with_a_table_may_be_moved() {
    let world = World::new();
    let primary = world.blank("primary", unique(16));
    if !super::world::tool("sgdisk", &["-n", "1:2048:+4M", primary.to_str().unwrap()]) {
        return skipped("there is no sgdisk");
    }
    let dpsr = world.blank("dpsr", unique(DPSR));
    world.pair("a", &primary, &dpsr);
    fs::copy(&primary, world.path("copy")).unwrap();
    fs::rename(world.path("copy"), &primary).unwrap();
    poke(&primary, 2 << 20, b"changed");
    world.sync("a").fine();
    world.exact("a", &primary);
}

#[test]
fn the_right_target_is_written_exactly() {
    let (world, primary, dpsr) = one();
    let target = world.full("target", size_of(&primary), 7);
    let decoys = [Decoy::of(&primary), Decoy::of(&dpsr)];
    world.restore("a", &target).fine();
    assert_eq!(hash_of(&target), hash_of(&primary));
    decoys.iter().for_each(Decoy::untouched);
}

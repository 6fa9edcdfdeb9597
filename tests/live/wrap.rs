// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a wrapped primary looks like to everything else, and what stops a wrap without a trace.

use std::fs::{self, File};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::shell;
use crate::sync::quick;
use crate::world::{World, in_vm};

/// The rules that packages install; here they are put where they last until the next boot.
const RULES: &str = include_str!("../../udev/60-dpsr.rules");

/// Far more than udev is ever waited for, even in emulation on a busy machine, and far less than for ever.
const NO_HANG: Duration = Duration::from_secs(60);

/// ESP, ext4 and swap, paired: the swap is left out.
fn paired(world: &World) {
    world.primary.partition(&[
        "size=40M, type=U, name=live-esp",
        "size=128M, type=L, name=live-root",
        "size=32M, type=S, name=live-swap",
    ]);
    let [esp, root, swap] = [1, 2, 3].map(|number| world.primary.part(number));
    shell::ok(&format!("mkfs.fat -F 32 {esp}; mkfs.ext4 -q {root}; mkswap {swap}; udevadm settle"));
    world.init(&[]);
}

fn rules() {
    fs::create_dir_all("/run/udev/rules.d").unwrap();
    fs::write("/run/udev/rules.d/60-dpsr.rules", RULES).unwrap();
    shell::ok("udevadm control --reload");
}

/// Where the node of a partition, or of the whole disk, is.
fn node(world: &World, partition: Option<u32>) -> String {
    let id = shell::ok(&format!("lsblk --noheadings --nodeps --output PTUUID {}", world.primary.node));
    let part = partition.map_or(String::new(), |number| format!("-part{number}"));
    format!("/dev/mapper/dpsr-{}{part}", &id.trim()[..8])
}

fn leads_to(link: &str, node: &str) {
    assert_eq!(fs::canonicalize(link).unwrap(), fs::canonicalize(node).unwrap(), "{link} and {node}");
}

/// The kernel's partition nodes of the primary.
fn kernel_nodes(world: &World) -> Vec<String> {
    let listed = shell::ok(&format!("lsblk --noheadings --raw --output NAME,TYPE {}", world.primary.node));
    let parts = listed.lines().filter_map(|line| line.strip_suffix(" part"));
    let mut names: Vec<_> = parts.filter(|name| !name.starts_with("dpsr-")).map(str::to_owned).collect();
    names.sort();
    names
}

fn as_before(world: &World) {
    let names: Vec<_> =
        [1, 2, 3].map(|n| world.primary.part(n).trim_start_matches("/dev/").to_owned()).into();
    assert_eq!(kernel_nodes(world), names);
    assert_eq!(shell::ok("dmsetup ls").trim(), "No devices found");
    shell::ok("udevadm settle");
    for number in [1, 2, 3] {
        leads_to(&format!("{}-part{number}", world.primary.link()), &world.primary.part(number));
    }
    assert_eq!(shell::ok("find /dev/disk -xtype l"), "");
}

#[test]
fn every_name_of_a_partition_leads_to_its_node() {
    in_vm(|world| {
        rules();
        paired(world);
        let ids: Vec<_> = [1, 2, 3]
            .map(|number| {
                let told = shell::ok(&format!(
                    "lsblk --noheadings --raw --output UUID,PARTUUID,PARTLABEL {}",
                    world.primary.part(number)
                ));
                let words: Vec<_> = told.split_whitespace().map(str::to_owned).collect();
                words
            })
            .into();
        let report = world.json(&["wrap"]);
        assert_eq!((&report["wrapped"], &report["changed"]), (&true.into(), &true.into()), "{report}");
        assert_eq!(report["nodes"].as_array().unwrap().len(), 4, "{report}");
        assert_eq!(kernel_nodes(world), Vec::<String>::new());
        shell::ok("udevadm settle");
        for (number, ids) in (1..).zip(&ids) {
            let node = node(world, Some(number));
            for (kind, id) in ["uuid", "partuuid", "partlabel"].iter().zip(ids) {
                leads_to(&format!("/dev/disk/by-{kind}/{id}"), &node);
            }
            leads_to(&format!("{}-part{number}", world.primary.link()), &node);
            assert_eq!(
                shell::ok(&format!("lsblk --noheadings --nodeps --output TYPE {node}")).trim(),
                "part"
            );
        }
        leads_to(&world.primary.link(), &node(world, None));
        assert_eq!(shell::ok("find /dev/disk -xtype l"), "");

        let number = |path: &str| {
            shell::ok(&format!("lsblk --noheadings --nodeps --output MAJ:MIN {path}")).trim().to_owned()
        };
        let (raw, disk) = (number(&world.primary.node), number(&node(world, None)));
        let table = |part| shell::ok(&format!("dmsetup table {}", node(world, part))).trim().to_owned();
        assert_eq!(table(None), format!("0 524288 linear {raw} 0"));
        assert_eq!(table(Some(2)), format!("0 262144 linear {disk} 83968"));
        assert_eq!(table(Some(3)), format!("0 65536 linear {raw} 346112"));

        assert_eq!(world.json(&["wrap"])["changed"], false);
        world.ok(&["unwrap"]);
        as_before(world);
        assert_eq!(world.json(&["unwrap"])["changed"], false);
    });
}

#[test]
fn a_system_lives_on_it_and_keeps_it_from_being_unwrapped() {
    in_vm(|world| {
        paired(world);
        world.ok(&["wrap"]);
        let directory = world.mount(&node(world, Some(2)), "");
        let there = directory.display().to_string();
        fs::write(directory.join("text"), "here\n").unwrap();
        let grub = |what: &str| shell::ok(&format!("grub-probe --target={what} {there}")).trim().to_owned();
        let uuid = shell::ok(&format!("lsblk --noheadings --nodeps --output UUID {}", node(world, Some(2))));
        assert_eq!((grub("fs_uuid"), grub("partmap")), (uuid.trim().to_owned(), "gpt".to_owned()));
        assert_eq!(grub("disk"), world.primary.node);

        for (words, doing) in [(vec!["unwrap"], "unwrapping"), (vec!["sync", "--offline"], "opening")] {
            let (code, told) = world.refused(&words);
            assert_eq!(code, 3, "{told}");
            assert!(told.contains(doing) && told.contains(&format!("is mounted at {there}")), "{told}");
        }
        assert_eq!(world.json(&["wrap"])["changed"], false);
        world.unmount(&directory);
        let (code, told) = world.refused(&["sync", "--offline"]);
        assert!(code == 3 && told.contains("'dpsr unwrap'"), "{told}");
        world.ok(&["unwrap"]);
        as_before(world);
        let directory = world.mount(&world.primary.part(2), "ro");
        assert_eq!(fs::read_to_string(directory.join("text")).unwrap(), "here\n");
        world.unmount(&directory);
        assert_eq!(world.json(&["sync", "--offline"])["generation"], 1);
    });
}

#[test]
fn what_is_in_use_stops_it_and_everything_is_as_before() {
    in_vm(|world| {
        paired(world);
        let directory = world.mount(&world.primary.part(2), "");
        let (code, told) = world.refused(&["wrap"]);
        assert_eq!(code, 3, "{told}");
        assert!(told.contains(&format!("is mounted at {}", directory.display())), "{told}");
        world.unmount(&directory);
        shell::ok(&format!("swapon {}", world.primary.part(3)));
        let (code, told) = world.refused(&["wrap"]);
        assert!(code == 3 && told.contains("is in use as swap"), "{told}");
        shell::ok(&format!("swapoff {}", world.primary.part(3)));

        // Open, without a claim: only the kernel's refusal to take the node away tells.
        let part = world.primary.part(1);
        let held = File::open(&part).unwrap();
        let (code, told) = world.refused(&["wrap"]);
        assert_eq!(code, 4, "{told}");
        assert!(told.contains("has it open") && told.contains("the disk is as before"), "{told}");
        as_before(world);
        drop(held);

        world.ok(&["wrap"]);
        let mut sleeper = Command::new("sleep")
            .arg("600")
            .stdin(File::open(node(world, Some(1))).unwrap())
            .spawn()
            .unwrap();
        let (code, told) = world.refused(&["unwrap"]);
        sleeper.kill().unwrap();
        sleeper.wait().unwrap();
        assert_eq!(code, 4, "{told}");
        assert!(told.contains("(sleep 600) has dpsr-"), "{told}");
        world.ok(&["unwrap"]);
        as_before(world);
    });
}

#[test]
#[ignore = "slow: half a minute in emulation"]
fn a_copy_of_the_disk_is_not_wrapped_in_its_place() {
    in_vm(|world| {
        paired(world);
        let copy = world.config().join("copy.img");
        let image = copy.display();
        shell::ok(&format!("cp --sparse=always {} {image}", world.primary.node));
        let device = shell::ok(&format!("losetup --find --show {image}")).trim().to_owned();
        let (code, told) = world.refused(&["wrap"]);
        assert_eq!(code, 3, "{told}");
        assert!(told.contains("both carry its identity"), "{told}");
        // The copy came first, and has taken the names.
        let id = shell::ok(&format!("lsblk --noheadings --nodeps --output PTUUID {}", world.primary.node));
        let id = id.trim();
        shell::ok(&format!(
            "dmsetup create --uuid DPSR-DISK-{id} taken --table '0 524288 linear {device} 0'"
        ));
        shell::ok(&format!("losetup --detach {device}; dmsetup info taken"));
        let (code, told) = world.refused(&["wrap"]);
        assert_eq!(code, 3, "{told}");
        shell::ok("dmsetup remove taken");
        shell::ok("losetup --detach-all; udevadm settle");
        world.ok(&["wrap"]);
        world.ok(&["unwrap"]);
        as_before(world);
    });
}

#[test]
fn another_disk_under_the_names_is_refused() {
    in_vm(|world| {
        paired(world);
        let id = shell::ok(&format!("lsblk --noheadings --nodeps --output PTUUID {}", world.primary.node));
        let (id, dpsr) = (id.trim(), &world.dpsr.node);
        shell::ok(&format!("dmsetup create --uuid DPSR-DISK-{id} taken --table '0 524288 linear {dpsr} 0'"));
        let (code, told) = world.refused(&["wrap"]);
        assert_eq!(code, 3, "{told}");
        assert!(told.contains("lies over another disk"), "{told}");
        shell::ok("dmsetup remove taken; udevadm settle");
        as_before(world);
    });
}

#[test]
#[ignore = "slow: half a minute in emulation"]
fn partitions_that_changed_since_are_followed() {
    in_vm(|world| {
        paired(world);
        world.ok(&["wrap"]);
        let disk = node(world, None);
        shell::ok(&format!("sgdisk --delete=1 --new=4:0:+16M {disk} && udevadm settle"));
        let directory = world.mount(&node(world, Some(2)), "");
        let (code, told) = world.refused(&["unwrap"]);
        assert_eq!(code, 3, "{told}");
        assert_eq!(world.json(&["wrap"])["changed"], true);
        let listed = shell::ok("dmsetup ls");
        assert!(listed.contains("-part4") && !listed.contains("-part1"), "{listed}");
        // What is mounted does not move under its filesystem.
        shell::ok(&format!("sgdisk --delete=2 --new=2:83968:+64M {disk}"));
        let (code, told) = world.refused(&["wrap"]);
        assert_eq!(code, 3, "{told}");
        assert!(told.contains("-part2 is not where partition 2 lies now, and it is in use"), "{told}");
        world.unmount(&directory);
        assert_eq!(world.json(&["wrap"])["changed"], true);
        world.ok(&["unwrap"]);
        let left = [2, 3, 4].map(|n| world.primary.part(n).trim_start_matches("/dev/").to_owned());
        assert_eq!(kernel_nodes(world), left);
    });
}

#[test]
fn a_wrap_that_was_killed_is_finished_by_the_next() {
    in_vm(|world| {
        paired(world);
        for pause in [0, 50, 150, 400, 900] {
            let mut child = world.command(&["wrap"]).spawn().unwrap();
            std::thread::sleep(Duration::from_millis(pause));
            child.kill().unwrap();
            child.wait().unwrap();
            world.ok(&["wrap"]);
            assert_eq!(kernel_nodes(world), Vec::<String>::new(), "killed after {pause} ms");
            assert_eq!(world.json(&["wrap"])["changed"], false, "killed after {pause} ms");
            world.ok(&["unwrap"]);
            as_before(world);
        }
    });
}

#[test]
#[ignore = "slow: half a minute in emulation"]
fn other_tables_too() {
    in_vm(|world| {
        let raw = &world.primary.node;
        shell::ok(&format!(
            "printf 'label: dos\\n,40M,c\\n,100M,5\\n,64M,83\\n,30M,83\\n,30M,83\\n' | sfdisk -q --wipe always {raw}; udevadm settle"
        ));
        let logical = world.primary.part(5);
        shell::ok(&format!("mkfs.ext4 -q {logical}; udevadm settle"));
        world.init(&[]);
        let before = kernel_nodes(world);
        world.ok(&["wrap"]);
        let nodes: Vec<_> = shell::ok("dmsetup ls | cut -f1 | sort").lines().map(str::to_owned).collect();
        let ends: Vec<_> = nodes.iter().map(|name| name.rsplit('-').next().unwrap()).collect();
        assert_eq!(ends[1..], ["part1", "part3", "part4", "part5"]);
        let directory = world.mount(&format!("/dev/mapper/{}", nodes[4]), "");
        world.unmount(&directory);
        world.ok(&["unwrap"]);
        assert_eq!(kernel_nodes(world), before);
    });
}

#[test]
#[ignore = "slow: half a minute in emulation"]
fn a_filesystem_on_the_whole_disk_too() {
    in_vm(|world| {
        rules();
        shell::ok(&format!("mkfs.ext4 -q {}; udevadm settle", world.primary.node));
        world.init(&[]);
        let uuid = shell::ok(&format!("lsblk --noheadings --nodeps --output UUID {}", world.primary.node));
        let report = world.json(&["wrap"]);
        let disk = format!("/dev/mapper/{}", report["nodes"][0]["name"].as_str().unwrap());
        shell::ok("udevadm settle");
        leads_to(&format!("/dev/disk/by-uuid/{}", uuid.trim()), &disk);
        let directory = world.mount(&format!("/dev/disk/by-uuid/{}", uuid.trim()), "");
        let (code, _) = world.refused(&["unwrap"]);
        assert_eq!(code, 3);
        world.unmount(&directory);
        world.ok(&["unwrap"]);
        shell::ok("udevadm settle");
        leads_to(&format!("/dev/disk/by-uuid/{}", uuid.trim()), &world.primary.node);
    });
}

/// Rules of udev that are there, and do nothing, until dropped.
struct WithoutDmRules;

const DM_RULES: &str = "55-dm.rules 60-persistent-storage-dm.rules 95-dm-notify.rules";

impl WithoutDmRules {
    fn new() -> Self {
        shell::ok(&format!(
            "mkdir -p /run/udev/rules.d; for rule in {DM_RULES}; do ln -sf /dev/null /run/udev/rules.d/$rule; done; udevadm control --reload"
        ));
        Self
    }
}

impl Drop for WithoutDmRules {
    fn drop(&mut self) {
        shell::run(&format!("cd /run/udev/rules.d; rm -f {DM_RULES}; udevadm control --reload"));
    }
}

/// udevd and what would start it again, stopped until dropped.
struct WithoutUdevd;

const UDEVD: &str = "systemd-udevd-kernel.socket systemd-udevd-control.socket systemd-udevd.service";

impl WithoutUdevd {
    fn new() -> Self {
        shell::ok(&format!("systemctl stop {UDEVD}"));
        Self
    }
}

impl Drop for WithoutUdevd {
    fn drop(&mut self) {
        shell::run(&format!("systemctl start {UDEVD}; udevadm settle"));
    }
}

fn in_time(world: &World, words: &[&str]) {
    let start = Instant::now();
    let output = world.run(words);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && start.elapsed() < NO_HANG, "{words:?}: {:?} {told}", start.elapsed());
    if words == ["wrap"] {
        assert!(told.contains("links may be missing, ignoring"), "{told}");
    }
}

#[test]
fn a_udevd_without_the_rules_of_device_mapper_is_not_waited_for() {
    in_vm(|world| {
        paired(world);
        quick(world, "");
        let without = WithoutDmRules::new();
        for words in [&["wrap"][..], &["sync"], &["attach", "1"], &["detach", "1"], &["unwrap"]] {
            in_time(world, words);
        }
        drop(without);
        as_before(world);
    });
}

#[test]
fn without_udevd_nothing_hangs() {
    in_vm(|world| {
        paired(world);
        let without = WithoutUdevd::new();
        in_time(world, &["wrap"]);
        in_time(world, &["unwrap"]);
        drop(without);
        shell::ok("udevadm trigger --settle --subsystem-match=block");
        as_before(world);
    });
}

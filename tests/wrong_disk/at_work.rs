// SPDX-License-Identifier: MIT OR Apache-2.0
//! Two runs of dpsr on the same disks.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;

use super::world::{Decoy, Loop, Said, World, size_of, tool, unique};

fn one() -> (World, PathBuf, PathBuf) {
    let world = World::new();
    let primary = world.full("primary", unique(48), 1);
    let dpsr = world.blank("dpsr", unique(224));
    world.pair("a", &primary, &dpsr);
    (world, primary, dpsr)
}

#[test]
fn a_sync_is_at_work() {
    let (world, primary, dpsr) = one();
    let busy = world.stopped_sync("a");
    let holder = format!("process {} (", busy.pid());
    let words = [dpsr.to_str().unwrap(), &holder, "wait until it has ended"];
    let decoys = [Decoy::of(&dpsr), Decoy::of(&primary)];
    world.sync("a").refused(4, &words);
    world.dpsr(&["export", "1", "-"]).refused(4, &words);
    world.dpsr(&["export", "1", world.path("out").to_str().unwrap()]).refused(4, &words);
    assert!(!world.path("out").exists());
    let target = world.full("target", size_of(&primary), 3);
    let untouched = Decoy::of(&target);
    world.restore("a", &target).refused(4, &words);
    world.init("a", &primary, &dpsr, &["--wipe"]).refused(4, &words);
    // Looking is always possible.
    assert!(world.dpsr(&["status"]).fine().contains(&holder));
    let json: serde_json::Value = serde_json::from_str(&world.dpsr(&["status", "--json"]).fine()).unwrap();
    assert_eq!(json["generation"], 1);
    world.dpsr(&["generations"]).fine();
    decoys.iter().for_each(Decoy::untouched);
    untouched.untouched();
    busy.go_on().fine();
    assert_eq!(world.newest("a"), 2);
    world.exact("a", &primary);
}

#[test]
fn looking_never_disturbs_a_sync() {
    let (world, primary, _) = one();
    let watchers: Vec<_> = (0..2)
        .map(|_| {
            let mut script = std::process::Command::new("sh");
            let loop_for_ever = "while :; do \"$0\" status --config-dir \"$1\" >/dev/null 2>&1; done";
            script.args(["-c", loop_for_ever, env!("CARGO_BIN_EXE_dpsr")]).arg(world.path("etc"));
            script.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
        })
        .collect();
    let said: Vec<Said> = (0..40).map(|_| world.sync("a")).collect();
    for mut watcher in watchers {
        watcher.kill().unwrap();
        watcher.wait().unwrap();
    }
    let failed: Vec<_> = said.iter().filter(|said| said.code != 0).map(|said| said.err.as_str()).collect();
    assert!(failed.is_empty(), "{} of {}: {}", failed.len(), said.len(), failed[0]);
    world.exact("a", &primary);
}

#[test]
fn two_inits_race() {
    let world = World::new();
    let primary = world.full("primary", unique(4), 1);
    for round in 0..20 {
        let dpsr = world.blank(&format!("dpsr-{round}"), unique(64));
        let size = size_of(&dpsr).to_string();
        let start = |pair: &str| {
            let mut command = world.command(&["init", "--pair", pair, "--no-boot", "--confirm", &size]);
            command.arg("--primary").arg(&primary).arg("--dpsr").arg(&dpsr);
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        };
        let names = [format!("x{round}"), format!("y{round}")];
        let children = [start(&names[0]), start(&names[1])];
        let said = children.map(|child| Said::of(child.wait_with_output().unwrap()));
        let won: Vec<_> = said.iter().zip(&names).filter(|(said, _)| said.code == 0).collect();
        assert_eq!(won.len(), 1, "{} {}", said[0].err, said[1].err);
        assert!(said.iter().all(|said| [0, 3, 4].contains(&said.code)), "{} {}", said[0].err, said[1].err);
        world.sync(won[0].1).fine();
        fs::remove_file(&dpsr).unwrap();
    }
}

#[test]
fn the_dpsr_file_is_deleted_during_a_sync() {
    let (world, primary, dpsr) = one();
    let busy = world.stopped_sync("a");
    fs::remove_file(&dpsr).unwrap();
    let decoys = [Decoy::of(&primary), Decoy::of(world.blank("dpsr", 1 << 20))];
    busy.go_on().refused(7, &[dpsr.to_str().unwrap(), "it has been deleted"]);
    decoys.iter().for_each(Decoy::untouched);
}

#[test]
fn the_dpsr_file_is_overwritten_during_a_sync() {
    let (world, primary, dpsr) = one();
    let other = world.blank("other", size_of(&dpsr));
    world.init("b", &primary, &other, &[]).fine();
    let busy = world.stopped_sync("a");
    // The same inode, another pair's disk in it.
    let data = fs::read(&other).unwrap();
    super::world::poke(&dpsr, 0, &data);
    busy.go_on().refused(7, &[dpsr.to_str().unwrap(), "it carries another store now"]);
}

#[test]
fn root_the_loop_device_is_detached_during_a_sync() {
    let (world, primary, _) = {
        let world = World::new();
        let primary = world.full("primary", unique(48), 1);
        let dpsr = world.blank("dpsr", unique(224));
        (world, primary, dpsr)
    };
    let Some(device) = Loop::over(&world.path("dpsr")) else { return };
    world.pair("a", &primary, &device.0);
    let busy = world.stopped_sync("a");
    let (name, file) = (device.0.clone(), device.file());
    drop(device);
    // While the sync has it open, nothing else can get under its name.
    let decoy = world.full("decoy", size_of(&file), 8);
    let untouched = Decoy::of(&decoy);
    assert!(!tool("losetup", &[name.to_str().unwrap(), decoy.to_str().unwrap()]));
    busy.go_on().fine();
    let Some(other) = Loop::at(name, &decoy, &[]) else { return };
    let counters = Decoy::of(&other.0);
    world.sync("a").refused(3, &[other.text(), "nothing was written"]);
    counters.untouched();
    untouched.untouched();
    let Some(_device) = Loop::over(&file) else { return };
    assert_eq!(world.newest("a"), 2);
    world.exact("a", &primary);
}

#[test]
fn root_another_node_of_the_same_device() {
    let world = World::new();
    let primary = world.full("primary", unique(48), 1);
    let Some(device) = Loop::over(&world.blank("dpsr", unique(224))) else { return };
    world.pair("a", &primary, &device.0);
    let number = fs::read_to_string(format!("/sys/class/block/{}/dev", &device.text()[5..])).unwrap();
    let (major, minor) = number.trim().split_once(':').unwrap();
    let node = world.path("node");
    assert!(tool("mknod", &[node.to_str().unwrap(), "b", major, minor]));
    let text = fs::read_to_string(world.path("etc/a.toml")).unwrap();
    let text = text.replace("name = \"a\"", "name = \"b\"").replace(device.text(), node.to_str().unwrap());
    fs::write(world.path("etc/b.toml"), text).unwrap();
    let busy = world.stopped_sync("a");
    let holder = format!("process {} (", busy.pid());
    let counters = Decoy::of(&device.0);
    world.sync("b").refused(4, &["node", &holder]);
    world.dpsr(&["export", "1", "-", "--pair", "b"]).refused(4, &["node", &holder]);
    counters.untouched();
    busy.go_on().fine();
    assert_eq!(world.newest("b"), 2);
}

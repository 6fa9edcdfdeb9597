// SPDX-License-Identifier: MIT OR Apache-2.0
//! Disks that are swapped between one step and the next.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};

use dpsr::error::Kind;
use dpsr::progress::Silent;
use dpsr::{init, open, restore};

use super::world::{Decoy, Loop, Said, World, size_of, tool, unique};

const DPSR: u64 = 64;

fn options(primary: &Path, dpsr: &Path, wipe: bool) -> init::Options {
    init::Options {
        primary: primary.to_owned(),
        dpsr: dpsr.to_owned(),
        pair: "new".into(),
        leave_out: vec![],
        boot: false,
        history: None,
        reserve: None,
        wipe,
    }
}

/// What `init` says when `meanwhile` comes between its plan and its act.
fn init_around(world: &World, dpsr: &Path, wipe: bool, meanwhile: impl FnOnce()) -> dpsr::error::Error {
    let primary = world.full("planned-primary", 1 << 20, 4);
    let planned = init::plan(&world.path("etc"), options(&primary, dpsr, wipe)).unwrap();
    meanwhile();
    let error = planned.act(&world.path("etc")).expect_err("it is not what was planned");
    assert_eq!(error.kind(), Kind::Refused, "{error}");
    assert!(error.to_string().contains(dpsr.to_str().unwrap()), "{error}");
    assert!(error.to_string().contains("nothing was written"), "{error}");
    error
}

#[test]
fn a_file_is_replaced_between_plan_and_act() {
    for wipe in [false, true] {
        let world = World::new();
        let size = unique(DPSR);
        let (planned, other) = (world.blank("planned", size), world.full("other", size, 5));
        let decoy = std::cell::OnceCell::new();
        init_around(&world, &planned, wipe, || {
            fs::rename(&other, &planned).unwrap();
            assert!(decoy.set(Decoy::of(&planned)).is_ok());
        });
        decoy.get().unwrap().untouched();
    }
}

#[test]
fn a_link_leads_elsewhere_between_plan_and_act() {
    let world = World::new();
    let size = unique(DPSR);
    let (planned, other) = (world.blank("planned", size), world.full("other", size, 5));
    let link = world.path("link");
    symlink(&planned, &link).unwrap();
    let decoys = [Decoy::of(&planned), Decoy::of(&other)];
    init_around(&world, &link, true, || {
        fs::remove_file(&link).unwrap();
        symlink(&other, &link).unwrap();
    });
    decoys.iter().for_each(Decoy::untouched);
}

#[test]
fn the_content_changes_between_plan_and_act() {
    let world = World::new();
    let planned = world.full("planned", unique(DPSR), 6);
    let primary = world.full("primary", unique(4), 1);
    let decoy = std::cell::OnceCell::new();
    // The plan gave up some data; now it is the DPSR disk of another pair.
    init_around(&world, &planned, true, || {
        world.init("other", &primary, &planned, &["--wipe"]).fine();
        world.sync("other").fine();
        assert!(decoy.set(Decoy::of(&planned)).is_ok());
    });
    decoy.get().unwrap().untouched();
}

#[test]
fn root_a_loop_device_gets_another_file_between_plan_and_act() {
    for wipe in [false, true] {
        let world = World::new();
        let size = unique(DPSR);
        let Some(device) = Loop::over(&world.blank("planned", size)) else { return };
        let (name, other) = (device.0.clone(), world.full("other", size, 5));
        let mut device = Some(device);
        let decoy = std::cell::OnceCell::new();
        init_around(&world, &name, wipe, || {
            drop(device.take());
            device = Loop::at(name.clone(), &other, &[]);
            assert!(decoy.set(Decoy::of(&name)).is_ok());
        });
        decoy.get().unwrap().untouched();
    }
}

/// What `restore` says when `meanwhile` comes between its plan and its act.
fn restore_around(target: &Path, world: &World, meanwhile: impl FnOnce()) {
    let store = open::store(&world.path("etc"), Some("a")).unwrap();
    let generation = dpsr::units::Generation(1);
    let options = restore::Options { generation, volume: None, to: target.to_owned() };
    let planned = restore::plan(&store, options).unwrap();
    meanwhile();
    let error = planned.act(&store, &Silent).expect_err("it is not what was planned");
    assert_eq!(error.kind(), Kind::Refused, "{error}");
    assert!(error.to_string().contains(target.to_str().unwrap()), "{error}");
    assert!(error.to_string().contains("nothing was written"), "{error}");
}

fn pair() -> World {
    let world = World::new();
    let primary = world.full("primary", unique(4), 1);
    let dpsr = world.blank("dpsr", unique(DPSR));
    world.pair("a", &primary, &dpsr);
    world
}

#[test]
fn a_target_is_replaced_between_plan_and_act() {
    let world = pair();
    let size = unique(8);
    let (target, other) = (world.full("target", size, 5), world.full("other", size, 6));
    let decoy = std::cell::OnceCell::new();
    restore_around(&target, &world, || {
        fs::rename(&other, &target).unwrap();
        assert!(decoy.set(Decoy::of(&target)).is_ok());
    });
    decoy.get().unwrap().untouched();
}

#[test]
fn root_a_target_gets_another_file_between_plan_and_act() {
    let world = pair();
    let size = unique(8);
    let Some(device) = Loop::over(&world.full("target", size, 5)) else { return };
    let (name, other) = (device.0.clone(), world.full("other", size, 6));
    let mut device = Some(device);
    let decoy = std::cell::OnceCell::new();
    restore_around(&name, &world, || {
        drop(device.take());
        device = Loop::at(name.clone(), &other, &[]);
        assert!(decoy.set(Decoy::of(&name)).is_ok());
    });
    decoy.get().unwrap().untouched();
}

#[test]
fn root_a_target_is_mounted_between_plan_and_act() {
    let world = pair();
    let file = world.blank("target", unique(16));
    if !super::world::mkfs(&file) {
        return;
    }
    let Some(device) = Loop::over(&file) else { return };
    let mut mount = None;
    restore_around(&device.0, &world, || mount = super::world::Mount::of(&device.0, world.path("mnt")));
    drop(mount);
}

/// Answers the prompt of `init` on a terminal after `meanwhile`.
#[test]
fn a_disk_is_replaced_while_the_prompt_waits() {
    let world = World::new();
    let size = unique(DPSR);
    let (planned, other) = (world.blank("planned", size), world.full("other", size, 5));
    let primary = world.full("primary", 1 << 20, 4);
    let terminal = nix::pty::openpty(None, None).unwrap();
    let (primary, dpsr) = (primary.to_str().unwrap(), planned.to_str().unwrap());
    let mut command = world.command(&["init", "--primary", primary, "--dpsr", dpsr, "--no-boot", "--wipe"]);
    let side = || Stdio::from(terminal.slave.try_clone().unwrap());
    let child = command.stdin(side()).stdout(side()).stderr(Stdio::piped()).spawn().unwrap();
    drop(command);
    let mut master = fs::File::from(terminal.master);
    let (mut seen, mut buffer) = (String::new(), [0; 4096]);
    while !seen.contains("Type the size in bytes to go on: ") {
        let read = master.read(&mut buffer).unwrap();
        assert!(read > 0, "{seen}");
        seen.push_str(&String::from_utf8_lossy(&buffer[..read]));
    }
    fs::rename(&other, &planned).unwrap();
    let decoy = Decoy::of(&planned);
    writeln!(master, "{size}").unwrap();
    let said = Said::of(child.wait_with_output().unwrap());
    said.refused(3, &[dpsr, "it is not the disk any more that the plan was made for", "read its plan"]);
    decoy.untouched();
}

/// Runs `attempt` many times while another thread swaps disks under a name.
fn racing(swap: impl Fn() + Sync, attempts: usize, mut attempt: impl FnMut(usize)) {
    let end = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !end.load(Ordering::Relaxed) {
                swap();
            }
        });
        let outcome =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| (0..attempts).for_each(&mut attempt)));
        end.store(true, Ordering::Relaxed);
        outcome.unwrap();
    });
}

#[test]
fn a_link_races_with_syncs() {
    let world = World::new();
    let primary = world.full("primary", unique(4), 1);
    let real = world.blank("real", unique(DPSR));
    let link = world.path("dpsr");
    symlink(&real, &link).unwrap();
    world.pair("a", &primary, &link);
    let clone = world.path("clone");
    fs::copy(&real, &clone).unwrap();
    let decoy = Decoy::of(&clone);
    let point = |to: &PathBuf| {
        let next = world.path("next");
        let _absent = fs::remove_file(&next);
        symlink(to, &next).unwrap();
        fs::rename(&next, &link).unwrap();
    };
    let swap = || [&clone, &real].into_iter().for_each(&point);
    let mut outcomes = [0, 0];
    racing(swap, 150, |round| {
        super::world::poke(&primary, 70_000, &round.to_le_bytes());
        let said = world.sync("a");
        assert!([0, 3].contains(&said.code), "{}", said.err);
        outcomes[usize::from(said.code == 0)] += 1;
    });
    eprintln!("of 150 syncs {} were refused, {} reached the right disk", outcomes[0], outcomes[1]);
    decoy.untouched();
    point(&real);
    world.sync("a").fine();
    world.exact("a", &primary);
}

#[test]
fn root_a_loop_device_races_with_syncs() {
    let world = World::new();
    let primary = world.full("primary", unique(4), 1);
    let size = unique(DPSR);
    let (real, clone) = (world.blank("real", size), world.path("clone"));
    let Some(device) = Loop::over(&real) else { return };
    let name = device.0.clone();
    world.pair("a", &primary, &name);
    let other = world.full("other", size, 6);
    drop(device);
    fs::copy(&real, &clone).unwrap();
    let decoys = [Decoy::of(&clone), Decoy::of(&other)];
    let text = name.to_str().unwrap();
    let attach = |file: &Path| {
        while !tool("losetup", &["--detach", text]) {}
        while !Said::of(std::process::Command::new("losetup").arg(text).arg(file).output().unwrap())
            .attached()
        {}
    };
    assert!(tool("losetup", &[text, real.to_str().unwrap()]));
    for decoy in [&clone, &other] {
        attach(decoy);
        assert_ne!(world.sync("a").code, 0, "{}", decoy.display());
    }
    let swap = || [&clone, &other, &real].into_iter().for_each(|file| attach(file));
    let mut outcomes = [0, 0];
    racing(swap, 100, |round| {
        super::world::poke(&primary, 70_000, &round.to_le_bytes());
        let said = world.sync("a");
        assert!([0, 3, 4, 7].contains(&said.code), "{}", said.err);
        outcomes[usize::from(said.code == 0)] += 1;
    });
    eprintln!("of 100 syncs {} were refused, {} reached the right disk", outcomes[0], outcomes[1]);
    while !tool("losetup", &["--detach", text]) {}
    decoys.iter().for_each(Decoy::untouched);
    let Some(_device) = Loop::over(&real) else { return };
    world.sync("a").fine();
    world.exact("a", &primary);
    assert_eq!(size_of(&real), size);
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask test`: everything that must hold before a change lands, on this machine or in CI.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::Result;
use crate::args::Args;
use crate::cargo;
use crate::demo;
use crate::packages;
use crate::process::{find, is_root, mark, output, shown, watched};
use crate::scratch::Scratch;
use crate::vm::{self, Choice};

/// How long a device or process may take to go away after the last test.
const GRACE: Duration = Duration::from_secs(10);

/// One line of the closing table.
struct Step {
    name: String,
    seconds: f64,
    failure: Option<String>,
}

pub fn run(mut args: Args) -> Result<()> {
    let (yes, all) = (args.flag("--yes"), args.flag("--all"));
    args.finish()?;
    // Whoever has no virtual machines, and did not ask for them, is told by the step what is missing.
    let machines = if all || yes || in_ci() { packages::VM } else { &[] };
    packages::ensure(&[packages::BUILD, packages::TEST, machines].concat(), yes)?;

    let mut steps = Vec::new();
    let mut step = |name: &str, act: &mut dyn FnMut() -> Result<()>| steps.push(timed(name, act));
    step("format", &mut || watched(cargo::command().args(["fmt", "--all", "--check"])));
    step("clippy", &mut || {
        let words = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
        watched(cargo::command().args(words))
    });
    step("shellcheck", &mut shellcheck);
    let loops = loops_usable();
    step("loop devices", &mut || loops.clone());
    let scratch = Scratch::new(&env::temp_dir(), "test")?;
    let before = attached_loops();
    step("tests", &mut || cargo_test(all, loops.is_ok(), scratch.path()));
    step("demo", &mut || {
        let built = cargo::binaries(&["dpsr"], false)?;
        demo::on_files(built[0].clone(), scratch.path())
    });
    let machines = machines_usable();
    for debian in if all { &vm::ALL[..] } else { &vm::ALL[..1] } {
        let choice = Choice { all, names: Vec::new() };
        let mut run = || machines.clone().and_then(|()| vm::test(*debian, &choice));
        step(&format!("VM Debian {}", debian.number()), &mut run);
    }
    step("boots", &mut || machines.clone().and_then(|()| vm::test_boots(&Choice { all, names: Vec::new() })));
    step("nothing left", &mut || nothing_left(&before, scratch.path()));
    let loops = if loops.is_err() && !in_ci() { Some("loop devices") } else { None };
    let machines = if machines.is_err() && !in_ci() && !all { Some("VM") } else { None };
    summary(&steps, &[loops, machines].into_iter().flatten().collect::<Vec<_>>())
}

/// Runs one step, saying what and for how long; a failure is kept, later steps still run.
fn timed(name: &str, act: &mut dyn FnMut() -> Result<()>) -> Step {
    println!("\n==> {name}");
    let start = Instant::now();
    let failure = act().err();
    let seconds = start.elapsed().as_secs_f64();
    match &failure {
        None => println!("<== {name}: ok, {seconds:.1} s"),
        Some(why) => println!("<== {name}: FAILED, {seconds:.1} s: {why}"),
    }
    Step { name: name.to_owned(), seconds, failure }
}

fn cargo_test(all: bool, loops: bool, temporary: &Path) -> Result<()> {
    let mut command = cargo::command();
    // A failing test crate must not hide what the later ones would say.
    command.args(["test", "--workspace", "--no-fail-fast"]);
    if all {
        command.args(["--", "--include-ignored"]);
    }
    let (name, value) = mark();
    command.env(name, value).env("TMPDIR", temporary);
    if loops {
        command.env("DPSR_TEST_LOOP", "1");
    } else {
        command.env_remove("DPSR_TEST_LOOP");
    }
    println!("{}", shown(&command));
    watched(&mut command)
}

/// Every shell script git knows: by its name, or by its first line.
fn shellcheck() -> Result<()> {
    let mut list = Command::new("git");
    let listed = output(list.args(["ls-files", "-z"]).current_dir(cargo::workspace()))?;
    let scripts: Vec<&str> = listed.split('\0').filter(|name| is_script(name)).collect();
    println!("{} scripts: {}", scripts.len(), scripts.join(" "));
    if scripts.is_empty() {
        return Ok(());
    }
    watched(Command::new("shellcheck").args(scripts).current_dir(cargo::workspace()))
}

fn is_script(name: &str) -> bool {
    let path = cargo::workspace().join(name);
    if name.is_empty() || !path.is_file() {
        return false;
    }
    let start = fs::read(&path).unwrap_or_default();
    let first = start.split(|byte| *byte == b'\n').next().unwrap_or_default();
    name.ends_with(".sh") || names_shell(&String::from_utf8_lossy(first))
}

/// Whether the first line of a file starts a shell that shellcheck knows.
fn names_shell(first: &str) -> bool {
    let Some(rest) = first.strip_prefix("#!") else { return false };
    let program = rest.split_whitespace().map(|word| word.rsplit('/').next().unwrap_or(word));
    let mut program = program.filter(|word| *word != "env" && !word.starts_with('-'));
    matches!(program.next(), Some("sh" | "bash" | "dash" | "ksh"))
}

/// Whether tests can attach loop devices. Elsewhere than in CI the answer "no" is told loudly and passes.
fn loops_usable() -> Result<()> {
    let why = if !is_root() {
        "not root"
    } else if !Path::new("/dev/loop-control").exists() {
        "the kernel offers no /dev/loop-control"
    } else if find("losetup").is_none() {
        "losetup is missing"
    } else if output(Command::new("losetup").arg("--find")).is_err() {
        "losetup finds no free loop device"
    } else {
        return Ok(());
    };
    println!("*** LOOP DEVICE TESTS CANNOT RUN: {why}. ***");
    Err(format!("loop devices cannot be used: {why}"))
}

/// Whether virtual machines can run. Elsewhere than in CI or with `--all` the answer "no" is told loudly and
/// passes.
fn machines_usable() -> Result<()> {
    vm::usable().map_err(|why| {
        println!("*** NOTHING OF DEVICE-MAPPER CAN BE TESTED: {why}. ***");
        format!("virtual machines cannot be used: {why}")
    })
}

fn in_ci() -> bool {
    env::var("CI").is_ok_and(|value| value == "true" || value == "1")
}

/// What the tests attached or started must be gone.
fn nothing_left(before: &BTreeMap<String, String>, temporary: &Path) -> Result<()> {
    let deadline = Instant::now() + GRACE;
    loop {
        let loops = new_loops(before, &attached_loops());
        let processes = marked_processes(&mark().1);
        if loops.is_empty() && processes.is_empty() {
            return Ok(());
        }
        // The kernel detaches a loop device when its last user has gone, which no event announces here.
        if Instant::now() < deadline {
            thread::sleep(Duration::from_millis(200));
            continue;
        }
        let (ours, others): (Vec<_>, Vec<_>) =
            loops.into_iter().partition(|(_, file)| in_ci() || Path::new(file).starts_with(temporary));
        if !others.is_empty() {
            println!("loop devices attached meanwhile, not below this run's directory, ignoring: {others:?}");
        }
        return if ours.is_empty() && processes.is_empty() {
            Ok(())
        } else {
            Err(format!("left behind: loop devices {ours:?}, processes {processes:?}"))
        };
    }
}

/// Each attached loop device with its backing file; none where losetup cannot tell.
fn attached_loops() -> BTreeMap<String, String> {
    let mut list = Command::new("losetup");
    let listed = output(list.args(["--list", "--noheadings", "--raw", "--output", "NAME,BACK-FILE"]));
    listed.map(|text| parse_loops(&text)).unwrap_or_default()
}

fn parse_loops(listed: &str) -> BTreeMap<String, String> {
    let pairs = listed.lines().filter_map(|line| line.split_once(' '));
    pairs.map(|(node, file)| (node.to_owned(), file.trim().to_owned())).collect()
}

fn new_loops(before: &BTreeMap<String, String>, now: &BTreeMap<String, String>) -> Vec<(String, String)> {
    let new = now.iter().filter(|(node, file)| before.get(*node) != Some(file));
    new.map(|(node, file)| (node.clone(), file.clone())).collect()
}

/// Processes that carry this run's mark in their environment, by number and name.
fn marked_processes(value: &str) -> Vec<String> {
    let wanted = format!("{}={value}", mark().0);
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let folders = entries.map(|entry| entry.path());
    let carries = |folder: &Path| -> io::Result<bool> {
        let environment = fs::read(folder.join("environ"))?;
        Ok(environment.split(|byte| *byte == 0).any(|setting| setting == wanted.as_bytes()))
    };
    // A process that went away meanwhile, or belongs to somebody else, cannot be read and is not ours.
    let marked = folders.filter(|folder| carries(folder).unwrap_or(false));
    let named = marked.map(|folder| {
        let name = fs::read_to_string(folder.join("comm")).unwrap_or_default();
        let number = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        format!("{number} {}", name.trim())
    });
    named.collect()
}

/// The closing table. What the machine lacks and may lack, `absent` by the start of its name, passes.
fn summary(steps: &[Step], absent: &[&str]) -> Result<()> {
    println!("\n| step         | seconds | result |");
    println!("| ------------ | ------: | ------ |");
    let mut failed = Vec::new();
    for Step { name, seconds, failure } in steps {
        let result = match failure {
            None => "ok",
            Some(_) if absent.iter().any(|start| name.starts_with(start)) => "absent",
            Some(_) => {
                failed.push(name.as_str());
                "FAILED"
            }
        };
        println!("| {name:<12} | {seconds:>7.1} | {result:<6} |");
    }
    let total: f64 = steps.iter().map(|step| step.seconds).sum();
    println!("\n{total:.0} s in all");
    if failed.is_empty() { Ok(()) } else { Err(format!("failed: {}", failed.join(", "))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_are_known_by_their_first_line() {
        for first in ["#!/bin/sh", "#!/usr/bin/env bash", "#! /bin/bash -e", "#!/usr/bin/env -S dash -e"] {
            assert!(names_shell(first), "{first}");
        }
        for first in ["#!/usr/bin/python3", "# sh", "", "#!/usr/bin/env python3"] {
            assert!(!names_shell(first), "{first}");
        }
    }

    #[test]
    fn only_new_or_reused_loop_devices_count() {
        let before = parse_loops("/dev/loop0 /a file\n/dev/loop1 /b\n");
        let now = parse_loops("/dev/loop0 /a file\n/dev/loop1 /c (deleted)\n/dev/loop2 /d\n");
        let new = new_loops(&before, &now);
        let nodes: Vec<&str> = new.iter().map(|(node, _)| node.as_str()).collect();
        assert_eq!(nodes, ["/dev/loop1", "/dev/loop2"]);
        assert_eq!(before["/dev/loop0"], "/a file");
    }

    #[test]
    fn a_marked_process_is_found_until_it_ends() {
        let value = format!("unit-{}", std::process::id());
        let mut child = Command::new("sleep").arg("60").env(mark().0, &value).spawn().unwrap();
        // The kernel lets the parent go on before the new program's environment can be read.
        let wanted = [format!("{} sleep", child.id())];
        let deadline = Instant::now() + GRACE;
        let mut found = marked_processes(&value);
        while found != wanted && Instant::now() < deadline {
            thread::yield_now();
            found = marked_processes(&value);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(found, wanted);
        assert!(marked_processes(&value).is_empty());
    }
}

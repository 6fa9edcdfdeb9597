// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a program that writes notices of a sync: fio(1) alone and beside one, in one run.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::shell;
use crate::sync::Live;
use crate::world::in_vm;

/// What is promised: no write waits longer for dpsr.
const PROMISE: Duration = Duration::from_secs(1);

/// For how long it is measured without a sync.
const ALONE: Duration = Duration::from_secs(5);

/// How long fio may take to come up, in emulation, on a machine that is busy with other things too.
const PATIENCE: Duration = Duration::from_secs(60);

/// The times of writes of 4 KiB, each flushed before the next.
struct Latency {
    writes: u64,
    p50: Duration,
    p99: Duration,
    longest: Duration,
}

/// fio, writing until it is told to stop.
struct Fio {
    child: Child,
    starved: Starved,
}

impl Fio {
    fn start(directory: &Path) -> Self {
        let file = directory.join("foreground");
        let mut fio = Command::new("fio");
        fio.args(["--name=foreground", "--rw=randwrite", "--bs=4k", "--size=8M", "--direct=1", "--sync=1"]);
        fio.args(["--ioengine=psync", "--thread", "--time_based", "--runtime=600", "--overwrite=1"]);
        fio.args(["--output-format=json", &format!("--filename={}", file.display())]);
        let child = fio.stdout(Stdio::piped()).spawn().unwrap();
        // It lays its file out first, and only then writes to it in place.
        let laid_out = || std::fs::metadata(&file).is_ok_and(|file| file.len() == 8 << 20);
        shell::wait_for("fio's file", PATIENCE, laid_out);
        thread::sleep(Duration::from_secs(1));
        Self { child, starved: Starved::watch() }
    }

    /// Stops it; what it measured, and how long the machine itself stood still at most.
    fn stop(self) -> (Latency, Duration) {
        let starved = self.starved.stop();
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), Signal::SIGINT).unwrap();
        let output = self.child.wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        // It says before the document that it was interrupted.
        let document = text.find('{').map_or("", |start| &text[start..]);
        let told: Value = serde_json::from_str(document).unwrap_or_else(|error| panic!("{error}: {text}"));
        let write = &told["jobs"][0]["write"];
        let time = |value: &Value| {
            Duration::from_nanos(value.as_u64().unwrap_or_else(|| panic!("no such figure: {write}")))
        };
        let percentile = |which: &str| time(&write["clat_ns"]["percentile"][which]);
        let latency = Latency {
            writes: write["total_ios"].as_u64().unwrap_or_default(),
            p50: percentile("50.000000"),
            p99: percentile("99.000000"),
            longest: time(&write["clat_ns"]["max"]),
        };
        (latency, starved)
    }
}

/// Watches for how long nothing at all ran: emulation may have no processor for a while.
struct Starved {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Duration>,
}

impl Starved {
    fn watch() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let (mut longest, mut last) = (Duration::ZERO, Instant::now());
            while !stopped.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(5));
                longest = longest.max(last.elapsed());
                last = Instant::now();
            }
            longest
        });
        Self { stop, thread }
    }

    fn stop(self) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

fn row(what: &str, latency: &Latency) {
    let millis = |time: Duration| format!("{:.1}", time.as_secs_f64() * 1000.0);
    println!(
        "| {what:<13} | {:>6} | {:>8} | {:>8} | {:>8} |",
        latency.writes,
        millis(latency.p50),
        millis(latency.p99),
        millis(latency.longest)
    );
}

/// Shows both, and asserts of the pause alone that it is brief: on a busy machine single writes beside a sync
/// take seconds, and whether that is emulation, the disk below or dpsr cannot be told there.
#[test]
fn a_writer_alone_and_beside_a_sync() {
    measured(|_, _, _| ());
}

#[test]
#[ignore = "true only where nothing else runs on the machine"]
fn a_writer_is_never_held_up_for_long() {
    measured(|alone, beside, starved| {
        let limit = PROMISE + starved + alone.longest;
        assert!(beside.longest < limit, "a write took {:?}, more than {limit:?}", beside.longest);
    });
}

fn measured(judge: impl FnOnce(&Latency, &Latency, Duration)) {
    in_vm(|world| {
        let live = Live::new(world, &[(64, "ext4")]);
        live.sync(&[]);
        let fio = Fio::start(&live.mounts[0]);
        thread::sleep(ALONE);
        let (alone, _) = fio.stop();
        let fio = Fio::start(&live.mounts[0]);
        let report = live.sync(&[]);
        let (beside, starved) = fio.stop();
        // On a line of its own, as the harness looks for it.
        println!();
        println!("| 4 KiB, synced | writes |   p50 ms |   p99 ms |   max ms |");
        println!("| ------------- | -----: | -------: | -------: | -------: |");
        row("alone", &alone);
        row("during a sync", &beside);
        println!(
            "| the pause: {} ms; the machine itself stood still for {starved:?} at most |",
            report["pause_ms"]
        );
        assert!(alone.writes > 0 && beside.writes > 0);
        let pause = Duration::from_millis(report["pause_ms"].as_u64().unwrap());
        assert!(pause < PROMISE + starved, "a pause of {pause:?}");
        judge(&alone, &beside, starved);
    });
}

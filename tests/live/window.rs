// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whoever dies in the window, and whenever: nothing waits for more than two seconds, and nothing is left.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::holder::{Holder, memory};
use crate::shell;
use crate::world::{World, in_vm};
use crate::wrapped::{self, found, must_be_plain};
use crate::writer::Writer;

/// Longer than anything may wait.
const LIMIT: Duration = Duration::from_secs(2);

/// How long the window waits after each of its steps, of which there are eleven, so that it lasts for about
/// half a second.
const DELAY: Duration = Duration::from_millis(40);

/// Where the kernel says whether each device of the primary is suspended.
fn states() -> Vec<String> {
    let wrapped = found();
    let devices = wrapped.partitions.iter().chain([&wrapped.disk]);
    devices.map(|device| format!("/sys/dev/block/{}/dm/suspended", device.number)).collect()
}

/// Whether one of them is.
fn suspended(states: &[String]) -> bool {
    states.iter().any(|file| fs::read_to_string(file).is_ok_and(|it| it.trim() == "1"))
}

/// Watches for how long any of them is.
struct Watch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Waited>,
}

/// What was seen.
#[derive(Clone, Copy, Debug, Default)]
struct Waited {
    /// For how long something was suspended at most.
    suspended: Duration,
    /// How long the machine itself stood still at most: emulation may have no processor for a while, in which
    /// nothing in it can happen.
    starved: Duration,
}

impl Waited {
    fn must_be_brief(self, what: &str) {
        assert!(self.suspended < LIMIT + self.starved, "{what}: {self:?}");
    }
}

impl Watch {
    fn start() -> Self {
        let states = states();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let (mut waited, mut since, mut last) = (Waited::default(), None, Instant::now());
            while !stopped.load(Ordering::Relaxed) {
                since = suspended(&states).then(|| since.unwrap_or_else(Instant::now));
                let now = since.map_or(Duration::ZERO, |since: Instant| since.elapsed());
                waited.suspended = waited.suspended.max(now);
                waited.starved = waited.starved.max(last.elapsed());
                last = Instant::now();
                thread::sleep(Duration::from_millis(5));
            }
            waited
        });
        Self { stop, thread }
    }

    fn stop(self) -> Waited {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// The processes that dpsr started for this: `freeze` or `keep`.
fn processes(which: &str) -> Vec<u32> {
    let of = |pid: &u32| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<_> = words.split(|byte| *byte == 0).collect();
        words.get(1) == Some(&b"internal".as_slice()) && words.get(2) == Some(&which.as_bytes())
    };
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(of).collect()
}

/// Kills them all at once; those that have ended already are fine.
fn kill(pids: &[u32]) {
    let pids: Vec<_> = pids.iter().map(u32::to_string).collect();
    shell::run(&format!("kill -KILL {}", pids.join(" ")));
}

/// Who is killed.
#[derive(Clone, Copy, Debug)]
enum Victim {
    Parent,
    Freezer,
    Both,
    /// The parent and the keeper: what watches the window, and what would clean up after it.
    Keeper,
}

/// One window, in which `victim` is killed so long after something was suspended.
fn killed(victim: Victim, after: Duration) -> Waited {
    let brief = Duration::from_millis(50);
    let (states, watch) = (states(), Watch::start());
    let mut holder = Holder::start(&memory(16), brief, brief, DELAY);
    shell::wait_for("a freezer", Duration::from_secs(60), || !processes("freeze").is_empty());
    let freezer = processes("freeze");
    shell::wait_for("something suspended", Duration::from_secs(60), || suspended(&states));
    thread::sleep(after);
    let parent = vec![holder.child.id()];
    kill(&match victim {
        Victim::Parent => parent,
        Victim::Freezer => freezer,
        Victim::Both => [parent, freezer].concat(),
        // Either would take the snapshot down if it outlived the other for long.
        Victim::Keeper => [parent, processes("keep")].concat(),
    });
    if matches!(victim, Victim::Freezer) {
        // A kill after the last step changes nothing.
        match holder.held() {
            Ok(_) => holder.release(),
            Err(why) => assert!(why.contains("the primary goes on"), "{why}"),
        }
    } else {
        holder.child.wait().unwrap();
    }
    shell::wait_for("the keeper's end", Duration::from_secs(60), || processes("keep").is_empty());
    if matches!(victim, Victim::Keeper) {
        shell::wait_for("the freezer's end", Duration::from_secs(60), || processes("freeze").is_empty());
        assert!(is_held(), "nobody was left to take the snapshot down");
        Holder::holding(&memory(16)).0.release();
    }
    let waited = watch.stop();
    must_be_plain();
    waited
}

/// Whether the disk still keeps what is overwritten.
fn is_held() -> bool {
    shell::ok(&format!("dmsetup table {}", wrapped::id().disk().name)).contains(" snapshot-origin ")
}

fn kills(world: &World, moments: u32) {
    let mounts = wrapped::make(world);
    let files: Vec<_> = mounts.iter().map(|mount| mount.join("counter")).collect();
    let mut longest = (Duration::ZERO, Duration::ZERO);
    for moment in 0..moments {
        let victims = [Victim::Parent, Victim::Keeper, Victim::Freezer, Victim::Both];
        let victim = victims[moment as usize % victims.len()];
        let after = Duration::from_millis(600) * moment / moments;
        let writer = Writer::start(&files);
        let waited = killed(victim, after);
        let written = writer.stop();
        files.iter().for_each(|file| fs::remove_file(file).unwrap());
        println!("{victim:?} after {after:?}: {waited:?}, longest write {:?}", written.longest);
        waited.must_be_brief(&format!("{victim:?} after {after:?}"));
        longest = (longest.0.max(waited.suspended), longest.1.max(written.longest));
    }
    println!("{moments} kills: suspended at most {:?}, longest write {:?}", longest.0, longest.1);
}

#[test]
fn killed_at_four_moments() {
    in_vm(|world| kills(world, 4));
}

#[test]
#[ignore = "slow: minutes"]
fn killed_at_fifty_moments() {
    in_vm(|world| kills(world, 50));
}

#[test]
fn a_window_that_takes_too_long_is_given_up() {
    in_vm(|world| {
        wrapped::make(world);
        let brief = Duration::from_millis(50);
        let watch = Watch::start();
        let mut holder = Holder::start(&memory(16), brief, brief, 10 * DELAY);
        let why = holder.held().unwrap_err();
        assert!(why.contains("longer than the primary may wait"), "{why}");
        shell::wait_for("the keeper's end", Duration::from_secs(60), || processes("keep").is_empty());
        let waited = watch.stop();
        println!("{waited:?}");
        waited.must_be_brief("too long a window");
        must_be_plain();
    });
}

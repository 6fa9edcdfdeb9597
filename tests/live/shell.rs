// SPDX-License-Identifier: MIT OR Apache-2.0
//! Other programs, as lines of sh(1). Each has a deadline: what hangs is killed and fails the test.

use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

/// How long a line may take, in seconds. Emulation on a busy machine is slow.
const PATIENCE: &str = "120";

/// mkfs.xfs(8) of what it would rather not make: it wants 300 MiB at least, more than these disks have.
pub const SMALL_XFS: &str = "mkfs.xfs -q --unsupported";

/// A line that must succeed; what it printed to its standard output.
pub fn ok(line: &str) -> String {
    let done = run(line);
    let told = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "`{line}` ({}): {told}", done.status);
    String::from_utf8(done.stdout).unwrap()
}

/// A line that may fail.
pub fn run(line: &str) -> Output {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5", PATIENCE, "sh", "-euc", line]).output().unwrap()
}

/// Waits until `holds`, which is asked again and again; `what` says what did not come about in time.
pub fn wait_for(what: &str, patience: Duration, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + patience;
    while !holds() {
        assert!(Instant::now() < deadline, "not within {patience:?}: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

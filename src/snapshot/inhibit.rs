// SPDX-License-Identifier: MIT OR Apache-2.0
//! Keeps the machine from going to sleep while a disk is copied, and above all while a moment is held.

use std::process::{Child, Command, Stdio};

/// A held inhibitor; given up when dropped, and by itself when this process dies: what holds it waits for the
/// end of a pipe of ours.
pub struct Inhibitor(Option<Child>);

impl Inhibitor {
    /// Asks logind for it. Where there is none, nobody puts the machine to sleep behind our back either.
    pub fn hold() -> Self {
        let mut command = Command::new("systemd-inhibit");
        command.args(["--what=sleep", "--who=dpsr", "--why=The disk is being copied", "--mode=block"]);
        command.arg("cat").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().ok())
    }
}

impl Drop for Inhibitor {
    fn drop(&mut self) {
        let Some(mut child) = self.0.take() else { return };
        drop(child.stdin.take());
        if let Err(error) = child.kill().and_then(|()| child.wait()) {
            tracing::warn!("ending systemd-inhibit: {error}, ignoring: it ends by itself");
        }
    }
}

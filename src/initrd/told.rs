// SPDX-License-Identifier: MIT OR Apache-2.0
//! Telling people: on the console, in the journal, and at the next login.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

/// Where pam_motd(8) looks for what a login is told.
const MOTD: &str = "/run/motd.d";

/// How loud a line is: a level of syslog(3), as the kernel's log takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Somebody has to do something.
    Warning = 4,
    /// All is as it should be.
    Info = 6,
}

/// Writes a line into the kernel's log, which is on the console and ends up in the journal.
pub fn say(level: Level, text: &str) {
    if log().is_none_or(|mut log| !say_in(&mut log, level, text)) {
        let _nobody = std::io::stderr().write_all(line(level, text).as_bytes());
    }
}

/// The kernel's log, for who outlives the root in which it has a name.
pub fn log() -> Option<File> {
    File::options().write(true).open("/dev/kmsg").ok()
}

/// Writes a line into it. Whether that could be done.
pub fn say_in(log: &mut File, level: Level, text: &str) -> bool {
    log.write_all(line(level, text).as_bytes()).is_ok()
}

fn line(level: Level, text: &str) -> String {
    format!("<{}>dpsr: {}\n", level as u8, text.replace('\n', " "))
}

/// Tells it at each login until the next boot.
pub fn at_login(text: &str) {
    let told = fs::create_dir_all(MOTD).and_then(|()| fs::write(Path::new(MOTD).join("10-dpsr"), text));
    if let Err(error) = told {
        say(Level::Warning, &format!("logins are not told, ignoring: {error}"));
    }
}

/// Answers the rule that called: what is printed becomes properties of the device.
pub fn to_udev(properties: &str) {
    let _gone = writeln!(std::io::stdout(), "{properties}");
}

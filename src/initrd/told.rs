// SPDX-License-Identifier: MIT OR Apache-2.0
//! Telling people: on the console, in the journal, and at the next login.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
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
    if Log::open().is_none_or(|mut log| !log.say(level, text)) {
        let _nobody = std::io::stderr().write_all(line(level, text).as_bytes());
    }
}

/// The kernel's log, open, for who outlives the root in which it has a name; and the console, where the kernel keeps
/// warnings from it, as it does when it was told to be quiet.
pub struct Log {
    log: File,
    console: Option<File>,
}

impl Log {
    /// Opens both.
    pub fn open() -> Option<Self> {
        let log = File::options().write(true).open("/dev/kmsg").ok()?;
        let printk = fs::read_to_string("/proc/sys/kernel/printk").unwrap_or_default();
        // Nobody waits for a console that somebody has stopped, or that is not there.
        let flags = nix::libc::O_NONBLOCK | nix::libc::O_NOCTTY;
        let open = || File::options().write(true).custom_flags(flags).open("/dev/console").ok();
        Some(Self { log, console: is_quiet(&printk).then(open).flatten() })
    }

    /// Writes a line. Whether that could be done.
    pub fn say(&mut self, level: Level, text: &str) -> bool {
        let said = self.log.write_all(line(level, text).as_bytes()).is_ok();
        if let Some(console) = self.console.as_mut().filter(|_| level == Level::Warning) {
            let _not_taken = console.write(format!("\r\ndpsr: {}\r\n", text.replace('\n', " ")).as_bytes());
        }
        said
    }
}

/// Whether warnings are kept from the console: only what is more urgent than its level gets there. (proc(5))
fn is_quiet(printk: &str) -> bool {
    let level = printk.split_whitespace().next().and_then(|level| level.parse::<u8>().ok());
    level.is_some_and(|level| level <= Level::Warning as u8)
}

fn line(level: Level, text: &str) -> String {
    format!("<{}>dpsr: {}\n", level as u8, text.replace('\n', " "))
}

/// Tells it at each login until the next boot.
pub fn at_login(text: &str) {
    tell_logins("10-dpsr", text);
}

/// The same of something that goes with what else there is to tell.
pub fn besides_at_login(text: &str) {
    tell_logins("11-dpsr", text);
}

fn tell_logins(file: &str, text: &str) {
    let told = fs::create_dir_all(MOTD).and_then(|()| fs::write(Path::new(MOTD).join(file), text));
    if let Err(error) = told {
        say(Level::Warning, &format!("logins are not told, ignoring: {error}"));
    }
}

/// Tells no login any more what begins like this, if that is what logins are told.
pub fn no_longer_at_login(beginning: &str) {
    let file = Path::new(MOTD).join("10-dpsr");
    if fs::read_to_string(&file).is_ok_and(|text| text.starts_with(beginning))
        && let Err(error) = fs::remove_file(&file)
    {
        say(Level::Warning, &format!("logins are told what is no longer so, ignoring: {error}"));
    }
}

/// Answers the rule that called: what is printed becomes properties of the device.
pub fn to_udev(properties: &str) {
    let _gone = writeln!(std::io::stdout(), "{properties}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quiet_console_is_told_too() {
        // As the kernel is started by Debian's installer, without its word, and by somebody who wants to see all.
        assert!(is_quiet("4\t4\t1\t7\n"));
        assert!(!is_quiet("7\t4\t1\t7\n") && !is_quiet("8 4 1 7") && !is_quiet(""));
    }
}

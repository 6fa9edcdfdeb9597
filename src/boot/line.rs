// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command line with which the DPSR disk starts a kernel: that of the running system without what names
//! its loader or must not happen on a copy, and with what a boot without the primary needs.

/// Words with which every boot from the DPSR disk ends: nothing is resumed from a copy (that would corrupt
/// it), systemd does not look for partitions beside the root, and no device is waited for without end, but for
/// longer than a decision, a roll-back and the end of a way back may take: the time of a device begins with the start, that
/// of dracut's own queue once dpsr is done.
const ALWAYS: [&str; 4] = ["noresume", "systemd.gpt_auto=0", "rd.timeout=43200", "rd.retry=1800"];

/// Names of words that are left out, because the loader says them anew or because they are ours.
const DROPPED: [&str; 8] = [
    "BOOT_IMAGE",
    "initrd",
    "resume",
    "resume_offset",
    "noresume",
    "systemd.gpt_auto",
    "rd.timeout",
    "rd.retry",
];

/// Words of a boot that somebody watches, to repair something: a copy boots unattended.
/// (systemd(1), kernel-command-line(7), dracut.cmdline(7))
const RESCUE: [&str; 12] = [
    "rd.break",
    "rdbreak",
    "systemd.unit",
    "rd.systemd.unit",
    "emergency",
    "rd.emergency",
    "rescue",
    "rd.rescue",
    "single",
    "-b",
    "s",
    "S",
];

/// The words of a command line; blanks inside double quotes do not divide them. (kernel's `next_arg`)
pub fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted) = (Vec::new(), String::new(), false);
    for c in line.chars() {
        match c {
            '"' => quoted = !quoted,
            c if c.is_whitespace() && !quoted => words.push(std::mem::take(&mut word)),
            c => word.push(c),
        }
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    words
}

/// The words for a boot from the DPSR disk, without `dpsr.boot=`, which differs from entry to entry.
pub fn cleaned(running: &str) -> Vec<String> {
    let ours = |word: &String| {
        let name = word.split('=').next().unwrap_or_default();
        let dropped = DROPPED.contains(&name) || RESCUE.contains(&name) || starts_a_shell(word);
        dropped || word == "1" || name.starts_with("dpsr.") && name != "dpsr.wait"
    };
    let mut words = words(running);
    words.retain(|word| !ours(word));
    words.extend(ALWAYS.map(str::to_owned));
    words
}

/// `init=/bin/bash` and its like.
fn starts_a_shell(word: &str) -> bool {
    let program = word.strip_prefix("init=").or_else(|| word.strip_prefix("rdinit="));
    program.is_some_and(|program| program.ends_with("sh"))
}

/// The last value of `name` on a command line.
pub fn value(line: &str, name: &str) -> Option<String> {
    let words = words(line).into_iter().rev();
    words.filter_map(|word| Some(word.strip_prefix(name)?.strip_prefix('=')?.to_owned())).next()
}

/// The serial line on which the system has a console, as GRUB counts them, and its speed.
pub fn serial(line: &str) -> Option<(u32, u32)> {
    let consoles = words(line).into_iter().rev();
    let mut lines = consoles.filter_map(|word| {
        let (unit, speed) = match word.strip_prefix("console=ttyS")?.split_once(',') {
            Some((unit, speed)) => {
                (unit.to_owned(), speed.chars().take_while(char::is_ascii_digit).collect())
            }
            None => (word.strip_prefix("console=ttyS")?.to_owned(), String::new()),
        };
        Some((unit.parse().ok()?, speed.parse().unwrap_or(115_200)))
    });
    lines.next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_must_not_happen_on_a_copy_is_left_out() {
        let running = "BOOT_IMAGE=/boot/vmlinuz-6.1 root=UUID=1 ro quiet resume=UUID=2 dpsr.boot=off \
                       dyndbg=\"file drivers/usb/* +p\" console=tty0 console=ttyS1,9600n8 initrd=\\x rd.timeout=0\n";
        let cleaned = cleaned(running);
        let wanted = "root=UUID=1|ro|quiet|dyndbg=file drivers/usb/* +p|console=tty0|console=ttyS1,9600n8|\
                      noresume|systemd.gpt_auto=0|rd.timeout=43200|rd.retry=1800";
        assert_eq!(cleaned.join("|"), wanted);
        assert_eq!(serial(running), Some((1, 9600)));
        assert_eq!(serial("console=ttyS0 quiet"), Some((0, 115_200)));
        assert_eq!(serial("console=tty0"), None);
        assert_eq!(value(running, "root").as_deref(), Some("UUID=1"));
        assert_eq!(value(running, "init"), None);
    }

    #[test]
    fn nobody_is_waited_for() {
        let running = "root=UUID=1 single dpsr.wait=60 rd.break=pre-mount init=/bin/bash 1 systemd.unit=rescue.target \
                       dpsr.boot=off net.ifnames=0 emergency";
        let wanted = "root=UUID=1|dpsr.wait=60|net.ifnames=0|noresume|systemd.gpt_auto=0|rd.timeout=43200|rd.retry=1800";
        assert_eq!(cleaned(running).join("|"), wanted);
        assert_eq!(cleaned("init=/usr/lib/systemd/systemd")[0], "init=/usr/lib/systemd/systemd");
    }

    #[test]
    fn a_second_pass_changes_nothing() {
        let once = cleaned("root=UUID=1 ro");
        assert_eq!(super::cleaned(&once.join(" ")), once);
    }
}

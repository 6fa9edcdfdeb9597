// SPDX-License-Identifier: MIT OR Apache-2.0
//! What GRUB reads on the DPSR disk: two texts that ask no disk anything but which one has this ESP.

use super::fat::VolumeId;
use crate::time::utc;
use crate::units::Generation;

/// Where the menu is on the ESP.
pub const MENU: &str = "dpsr/grub.cfg";

/// More than fit on a screen help nobody; all others can be named: `dpsr.generation=N`.
pub const SHOWN: usize = 100;

/// What a menu offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Menu<'a> {
    /// The name of the pair.
    pub pair: &'a str,
    /// The directory on the ESP that holds kernel and initramfs.
    pub folder: &'a str,
    /// What the kernel is told, but for which pair it is, and `dpsr.boot=`.
    pub words: &'a [String],
    /// Whether there is a generation to start.
    pub complete: bool,
    /// Generations that can be started besides the newest, the youngest first.
    pub older: &'a [Older],
    /// The serial line the menu is shown on, too: its number and its speed.
    pub serial: Option<(u32, u32)>,
}

/// A generation that can be started besides the newest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Older {
    /// Its number.
    pub generation: Generation,
    /// When it was taken: seconds since 1970, UTC.
    pub time: u64,
    /// The directory on the ESP with the kernel of its time, where that is another one than the newest's.
    pub folder: Option<String>,
}

/// What the loader reads first, wherever it was started from: it leads to the menu. The name the menu has
/// while it is exchanged is tried second, for a power cut in that very moment.
pub fn early(esp: VolumeId) -> String {
    format!("search --no-floppy --fs-uuid --set=root {esp}\nconfigfile /{MENU}\nconfigfile /{MENU}.new\n")
}

/// The way out where what a system wrote that ran from the copy does not start, or is not wanted.
pub const ANEW: &str = "Give up what was written since the copy was started (dpsr)";
/// What its kernel is told.
pub const ANEW_WORDS: &str = "dpsr.boot=force dpsr.generation=ask dpsr.discard=all";

/// The menu.
pub fn menu(menu: &Menu<'_>) -> String {
    let mut text = "# Made by dpsr, and made anew by 'dpsr boot update'.\n".to_owned();
    if let Some((unit, speed)) = menu.serial {
        text.push_str(&format!(
            "if serial --unit={unit} --speed={speed}; then\n    terminal_input console serial\n    \
             terminal_output console serial\nfi\n"
        ));
    }
    // The primary's own menu says so before it leads here: its system is broken, though its disk is there.
    text.push_str("set default=0\n");
    // From a copy that is not complete nothing could be started.
    if menu.complete {
        text.push_str("if [ \"${dpsr_broken}\" = \"1\" ]; then set default=1; fi\n");
    }
    text.push_str("set timeout=3\n");
    let first = [
        menu.entry("Last generation (dpsr)", "dpsr.boot=auto"),
        menu.entry("Last generation, even if the primary is there (dpsr)", "dpsr.boot=force"),
    ]
    .concat();
    // What the primary's second entry leads to has the older ones alone, and waits for a choice.
    let older = "if [ \"${dpsr_older}\" = \"1\" ]; then";
    let anew = menu.entry(ANEW, ANEW_WORDS);
    if menu.older.is_empty() {
        text.push_str(&format!("{older} set timeout=-1; fi\n{first}{anew}"));
        return text;
    }
    text.push_str(&format!(
        "{older}\nset default=0\nset timeout=-1\nelse\n{first}fi\nfunction dpsr_generations {{\n"
    ));
    for Older { generation, time, folder } in menu.older.iter().take(SHOWN) {
        let title = format!("Generation {generation}, {}", utc(*time));
        let words = format!("dpsr.boot=force dpsr.generation={generation}");
        let folder = folder.as_deref().unwrap_or(menu.folder);
        text.push_str(&menu.entry_from(folder, &title, &words));
    }
    let given_up = "Give up what was written while an older generation ran (dpsr)";
    text.push_str(&format!(
        "}}\n{older}\ndpsr_generations\nelse\nsubmenu 'Older generations (dpsr)' {{\ndpsr_generations\n}}\n{}{anew}fi\n",
        menu.entry(given_up, "dpsr.boot=auto dpsr.discard=aside")
    ));
    text
}

impl Menu<'_> {
    /// One entry; `last` is what its kernel is told besides what all are told.
    fn entry(&self, title: &str, last: &str) -> String {
        self.entry_from(self.folder, title, last)
    }

    /// The same with kernel, initramfs and records from another directory: what reads the records knows those of its time.
    fn entry_from(&self, kernel: &str, title: &str, last: &str) -> String {
        let words = self.words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ");
        let pair = self.pair;
        format!(
            "menuentry '{title}' {{\n    echo 'DPSR disk: loading the kernel'\n    \
             linux /{kernel}/vmlinuz {words} {last} dpsr.pair={pair}\n    \
             echo 'DPSR disk: loading the initramfs'\n    \
             initrd /{kernel}/initrd.img /{kernel}/pairs.img\n}}\n"
        )
    }
}

/// A word of which GRUB expands nothing.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_.,:=/@%+-".contains(c);
    if word.chars().all(plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_asked_but_which_disk_it_is() {
        insta::assert_snapshot!(early(VolumeId(0x1d3f_6bb6)));
    }

    #[test]
    fn each_entry_starts_the_kernel_of_its_time() {
        let words = ["root=UUID=1", "ro", "x=a b$c'd", "noresume"].map(str::to_owned);
        let older = [
            Older { generation: Generation(7), time: 1_763_600_000, folder: None },
            Older { generation: Generation(3), time: 1_763_500_000, folder: Some("dpsr/4567".to_owned()) },
        ];
        let menu = Menu {
            pair: "main",
            folder: "dpsr/0123",
            words: &words,
            complete: true,
            older: &older,
            serial: Some((0, 115_200)),
        };
        let empty = super::menu(&Menu { complete: false, older: &[], ..menu.clone() });
        assert!(!empty.contains("dpsr_broken"), "{empty}");
        insta::assert_snapshot!(super::menu(&menu));
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! The words for dpsr on the kernel command line. Pure.
//!
//! | word              | meaning                                                                              |
//! | ----------------- | ------------------------------------------------------------------------------------ |
//! | `dpsr.boot=auto`  | started from the DPSR disk: boot the copy if the primary is missing                  |
//! | `dpsr.boot=force` | boot the copy, whatever else is there                                                |
//! | `dpsr.boot=off`   | the plain primary: nothing is wrapped, nothing is taken for missing                  |
//! | `dpsr.wait=S`     | how many seconds after the last new disk the primary counts as missing; else what the record says |
//! | `dpsr.pair=NAME`  | the pair it is about; said by the loader of each DPSR disk                           |
//! | `dpsr.generation=N` | the generation to boot, with `force`; the newest one if absent; `ask`: the console is asked which |
//! | `dpsr.live=V,…`   | with `force`: volumes that stay on the primary, by number, name or label; everything else comes from the copy |
//! | `dpsr.else=primary` | with `force`: the primary, where the copy cannot be started; nobody need have chosen this    |
//! | `dpsr.discard=aside` | give up what a system has written that ran from an older generation               |
//! | `dpsr.discard=all` | with `force`: give up what any system has written that ran from the copy, once the console has said which generation to start instead |

use crate::units::Generation;

/// Which system is to be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Boot {
    /// That of the primary, which was started by its own loader.
    Primary,
    /// That of the primary, without anything of dpsr under it.
    Plain,
    /// That of the copy, where the primary is missing.
    Auto,
    /// That of the copy.
    Force,
}

/// Which generation is to be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pick {
    /// This one.
    Exactly(Generation),
    /// The one that somebody names at the console.
    Asked,
}

/// What is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discard {
    /// What was written while an older generation ran.
    Aside,
    /// That, or what was written since the newest one ran.
    All,
}

/// What the command line says to dpsr.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CmdLine {
    /// Which system is to be started.
    pub boot: Boot,
    /// For how many seconds a missing primary is waited for, where that is said.
    pub wait: Option<u64>,
    /// The pair it is about.
    pub pair: Option<String>,
    /// The generation to start; the newest one, if not given.
    pub generation: Option<Pick>,
    /// Volumes that stay on the primary.
    pub live: Vec<String>,
    /// Whether the primary is started where the copy cannot be, though that was to be.
    pub otherwise: bool,
    /// What of that which a system wrote that ran from the copy is given up.
    pub discard: Option<Discard>,
}

impl CmdLine {
    /// Reads a command line. The last word of a kind counts; what is none of dpsr's business is passed over.
    pub fn parse(text: &str) -> Self {
        let mut found = Self {
            boot: Boot::Primary,
            wait: None,
            pair: None,
            generation: None,
            live: Vec::new(),
            otherwise: false,
            discard: None,
        };
        for (key, value) in text.split_whitespace().filter_map(|word| word.split_once('=')) {
            match (key, value) {
                ("dpsr.boot", "auto") => found.boot = Boot::Auto,
                ("dpsr.boot", "force") => found.boot = Boot::Force,
                ("dpsr.boot", "off") => found.boot = Boot::Plain,
                ("dpsr.wait", seconds) => found.wait = seconds.parse().ok(),
                ("dpsr.generation", "ask") => found.generation = Some(Pick::Asked),
                ("dpsr.generation", number) => {
                    found.generation = number.parse().ok().map(|number| Pick::Exactly(Generation(number)));
                }
                ("dpsr.live", names) => {
                    found.live =
                        names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
                }
                ("dpsr.else", "primary") => found.otherwise = true,
                ("dpsr.discard", "aside") => found.discard = Some(Discard::Aside),
                ("dpsr.discard", "all") => found.discard = Some(Discard::All),
                ("dpsr.pair", pair) => found.pair = Some(pair.to_owned()),
                _ => {}
            }
        }
        found
    }

    /// That of the running kernel.
    pub fn of_kernel() -> Self {
        Self::parse(&std::fs::read_to_string("/proc/cmdline").unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        let of = |text: &str| CmdLine::parse(text);
        let nothing = CmdLine {
            boot: Boot::Primary,
            wait: None,
            pair: None,
            generation: None,
            live: vec![],
            otherwise: false,
            discard: None,
        };
        assert_eq!(of("root=UUID=1 ro quiet\n"), nothing);
        assert_eq!(of("dpsr.boot=auto dpsr.wait=3").wait, Some(3));
        assert_eq!(of("dpsr.boot=auto dpsr.boot=off").boot, Boot::Plain);
        assert_eq!(of("dpsr.boot=maybe dpsr.wait=x"), nothing);
        assert_eq!(of("dpsr.boot=force dpsr.live=data,5,").live, ["data", "5"]);
        assert!(of("dpsr.boot=force dpsr.else=primary").otherwise);
        let generation = |text: &str| of(text).generation;
        assert_eq!(generation("dpsr.boot=force dpsr.generation=12"), Some(Pick::Exactly(Generation(12))));
        assert_eq!(generation("dpsr.boot=force dpsr.generation=ask"), Some(Pick::Asked));
        assert_eq!(generation("dpsr.boot=force dpsr.generation=x"), None);
        assert_eq!(of("dpsr.boot=auto dpsr.pair=main").pair.as_deref(), Some("main"));
        assert_eq!(of("dpsr.boot=auto dpsr.discard=aside").discard, Some(Discard::Aside));
        assert_eq!(of("dpsr.boot=force dpsr.discard=all").discard, Some(Discard::All));
        assert_eq!(of("dpsr.boot=force dpsr.discard=yes").discard, None);
    }
}

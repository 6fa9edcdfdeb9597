// SPDX-License-Identifier: MIT OR Apache-2.0
//! When a machine is started from its copy: the `[failover]` part of a pair's record.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How long a primary may take to appear once no other disk appears any more, in seconds.
const WAIT: u64 = 15;

/// The longest wait.
const LONGEST: u64 = 300;

/// What a missing primary leads to. A copy that a system has run from before is always started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// The copy is started.
    #[default]
    Auto,
    /// It is started once somebody says so at the console.
    Ask,
    /// It is started only by an entry of the DPSR disk's menu that is about the copy alone.
    Off,
}

/// What the administrator decided about failover.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FailoverConfig {
    /// What a missing primary leads to.
    pub policy: Policy,
    /// For how many seconds after the last new disk a primary is waited for; 15 if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wait: Option<u64>,
    /// A copy that is older than so many seconds is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age: Option<u64>,
    /// After so many starts of the primary in which its system did not come up, its own loader leads to the DPSR
    /// disk by itself: 2 to 9. Read by the hook of GRUB's menu, which has to be made anew, and by what lets systemd-boot
    /// count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tries: Option<Tries>,
}

/// A number of starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct Tries(u8);

impl TryFrom<u8> for Tries {
    type Error = String;

    fn try_from(number: u8) -> Result<Self, String> {
        if (2..=9).contains(&number) {
            Ok(Self(number))
        } else {
            Err(format!("tries must be 2 to 9, not {number}"))
        }
    }
}

impl From<Tries> for u8 {
    fn from(tries: Tries) -> Self {
        tries.0
    }
}

impl FailoverConfig {
    /// Whether nothing was decided, so that the record need not mention it.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// How long a missing primary is waited for, where the command line says `asked`, or nothing.
    pub fn wait(&self, asked: Option<u64>) -> Duration {
        Duration::from_secs(asked.or(self.wait).unwrap_or(WAIT).min(LONGEST))
    }

    /// What a missing primary leads to where the copy is `age` seconds old.
    pub fn policy(&self, age: u64) -> Policy {
        match self.policy {
            Policy::Auto if self.max_age.is_some_and(|most| age > most) => Policy::Ask,
            policy => policy,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_copy_is_asked_for() {
        let config = FailoverConfig { max_age: Some(3600), ..FailoverConfig::default() };
        assert_eq!([0, 3600, 3601].map(|age| config.policy(age)), [Policy::Auto, Policy::Auto, Policy::Ask]);
        let off = FailoverConfig { policy: Policy::Off, ..config };
        assert_eq!(off.policy(9999), Policy::Off);
        assert_eq!(FailoverConfig::default().policy(u64::MAX), Policy::Auto);
    }

    #[test]
    fn starts_are_counted_with_one_digit() {
        let read = |text: &str| toml::from_str::<FailoverConfig>(text);
        assert_eq!(read("tries = 3").unwrap().tries.map(u8::from), Some(3));
        for odd in ["tries = 1", "tries = 10", "tries = -1"] {
            assert!(read(odd).unwrap_err().to_string().contains("tries"), "{odd}");
        }
    }

    #[test]
    fn the_command_line_goes_first() {
        let config = FailoverConfig { wait: Some(60), ..FailoverConfig::default() };
        let waits = [config.wait(None), config.wait(Some(5)), config.wait(Some(9999))];
        assert_eq!(waits.map(|wait| wait.as_secs()), [60, 5, LONGEST]);
        assert_eq!(FailoverConfig::default().wait(None).as_secs(), WAIT);
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Asking before something is overwritten.

use std::io::{BufRead, IsTerminal, Write, stdin, stdout};

use crate::error::{Error, Kind, Result};

/// The ID with which the user confirms: what was given, or what is typed on a terminal. `None` where
/// neither can be had: the plan was shown, and that was all.
pub fn confirmation(given: Option<&str>, kind: &str) -> Result<Option<String>> {
    if let Some(given) = given {
        return Ok(Some(given.to_owned()));
    }
    if !stdin().is_terminal() || !stdout().is_terminal() {
        return Ok(None);
    }
    print!("Type the {kind} to go on: ");
    let mut typed = String::new();
    let read = stdout().flush().and_then(|()| stdin().lock().read_line(&mut typed));
    match read {
        Ok(_) if !typed.trim().is_empty() => Ok(Some(typed)),
        _ => Err(Error::new(Kind::Refused, "asking for confirmation", "none was given")
            .left("nothing was written")),
    }
}

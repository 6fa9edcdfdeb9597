// SPDX-License-Identifier: MIT OR Apache-2.0
//! Asking before something is overwritten.

use std::io::{BufRead, IsTerminal, Write, stdin, stdout};

use crate::error::{Error, Kind, Result};

/// The ID with which the user confirms: what was given, or what is typed on a terminal. Where neither can be
/// had, or `ask` is false, the plan was shown and that is all, which is no success: a script must not go on as if it were done.
pub fn confirmation(given: Option<&str>, kind: &str, ask: bool) -> Result<String> {
    if let Some(given) = given {
        return Ok(given.to_owned());
    }
    if !ask || !stdin().is_terminal() || !stdout().is_terminal() {
        return Err(Error::new(Kind::Refused, "doing what the plan says", "it was not confirmed")
            .left("nothing was written")
            .next(format!("confirm with --confirm and the {kind}, or only look with --dry-run")));
    }
    print!("Type the {kind} to go on: ");
    let mut typed = String::new();
    let read = stdout().flush().and_then(|()| stdin().lock().read_line(&mut typed));
    match read {
        Ok(_) if !typed.trim().is_empty() => Ok(typed),
        _ => Err(Error::new(Kind::Refused, "asking for confirmation", "none was given")
            .left("nothing was written")),
    }
}

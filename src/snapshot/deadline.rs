// SPDX-License-Identifier: MIT OR Apache-2.0
//! Calls that may hang in the kernel with a disk that does not answer.

use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use crate::error::{Error, Kind, Result};

/// What `call` returns, or an error once `limit` has passed; the call itself then goes on for as long as the
/// kernel keeps it.
pub fn within<T: Send + 'static>(
    limit: Duration,
    doing: &str,
    call: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    let (tell, told) = channel();
    thread::spawn(move || tell.send(call()).unwrap_or_default());
    told.recv_timeout(limit).map_err(|_| {
        let why = format!("it does not end within {} s", limit.as_secs());
        Error::new(Kind::Device, doing, why).left("nothing was frozen")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_hangs_is_left_behind() {
        assert_eq!(within(Duration::from_secs(5), "adding", || 1 + 1).unwrap(), 2);
        let slow = || thread::sleep(Duration::from_secs(5));
        let error = within(Duration::from_millis(20), "sleeping", slow).unwrap_err();
        assert_eq!(error.kind(), Kind::Device);
    }
}

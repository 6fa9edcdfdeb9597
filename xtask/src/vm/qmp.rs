// SPDX-License-Identifier: MIT OR Apache-2.0
//! QEMU's control socket: one JSON document a line each way (QEMU's `docs/interop/qmp-spec`).

use std::io::BufReader;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::guest::{Timed, line};
use crate::Result;
use crate::json::Json;

/// How long QEMU or, for an unplugged device, the guest may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// The control socket of one running QEMU.
pub struct Qmp {
    port: BufReader<Timed>,
    /// Why the machine ended, where it said so while something else was waited for.
    ended: Option<String>,
}

impl Qmp {
    /// Takes QEMU's greeting, and asks for no optional capability.
    pub fn meet(stream: UnixStream) -> Result<Self> {
        let mut qmp = Self { port: Timed::new(stream, PATIENCE), ended: None };
        qmp.next("QMP")?;
        qmp.execute("qmp_capabilities", "{}")?;
        Ok(qmp)
    }

    /// Gives an order; `arguments` is a JSON object.
    pub fn execute(&mut self, order: &str, arguments: &str) -> Result<()> {
        self.ask(order, arguments).map(drop)
    }

    /// Gives an order, and returns the document with its answer as the member `return`.
    pub fn ask(&mut self, order: &str, arguments: &str) -> Result<Json> {
        let text = format!("{{\"execute\":\"{order}\",\"arguments\":{arguments}}}\n");
        let failed = |error| format!("telling QEMU {order}: {error}");
        self.port.get_mut().renew(PATIENCE).map_err(failed)?;
        self.port.get_mut().write_all(text.as_bytes()).map_err(failed)?;
        self.next("return").map_err(|why| format!("QEMU {order} {arguments}: {why}"))
    }

    /// Plugs a device in, with the node that has the name of the disk.
    pub fn plug(&mut self, disk: &str, device: &str) -> Result<()> {
        let members = format!("\"id\":\"{device}\",\"drive\":\"{disk}\",\"serial\":\"{disk}\"");
        self.execute("device_add", &format!("{{\"driver\":\"virtio-blk-pci\",{members}}}"))
    }

    /// Unplugs a device and waits until the guest has let it go.
    pub fn unplug(&mut self, device: &str) -> Result<()> {
        self.execute("device_del", &format!("{{\"id\":\"{device}\"}}"))?;
        loop {
            let event = self.next("event")?;
            let gone = event.text("event") == Ok("DEVICE_DELETED");
            if gone && event.text("device") == Ok(device) {
                return Ok(());
            }
        }
    }

    /// Waits until the machine ends, and returns why, in QEMU's word for it.
    pub fn shutdown(&mut self, patience: Duration) -> Result<String> {
        self.port.get_mut().renew(patience).map_err(|error| format!("waiting for the end: {error}"))?;
        loop {
            if let Some(reason) = self.ended.take() {
                return Ok(reason);
            }
            self.next("event")?;
        }
    }

    /// The next document that has the member `key`; other ones than an error are passed over.
    fn next(&mut self, key: &str) -> Result<Json> {
        loop {
            let text = line(&mut self.port).map_err(|error| format!("waiting for `{key}`: {error}"))?;
            let document = Json::parse(&text)?;
            let Json::Object(members) = &document else { return Err(format!("not an object: {text}")) };
            if document.text("event") == Ok("SHUTDOWN") {
                self.ended = Some(document.text("reason")?.to_owned());
            }
            if members.iter().any(|(name, _)| name == key) {
                return Ok(document);
            }
            if members.iter().any(|(name, _)| name == "error") {
                return Err(text);
            }
        }
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Making, changing and removing devices.

use std::io;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use devicemapper::{DM, DevId, DmError, DmFlags, DmName, DmOptions, DmUuid, errors};
use nix::errno::Errno;

use super::table::Table;
use crate::error::{Error, Kind, Result};
use crate::pair::sysfs::DevNum;
use crate::sys::dm::{Control, Freeze, Number, Status, Udev};

/// How long a device may stay busy after its last user let it go: udev opens what has just appeared.
const BUSY: Duration = Duration::from_secs(5);

/// Pause between two tries to remove a busy device.
const RETRY: Duration = Duration::from_millis(20);

/// What a device is called. The UUID is what dpsr finds it by; the name is for people and `/dev/mapper`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// At most 127 bytes, unique.
    pub name: String,
    /// At most 128 bytes, unique.
    pub uuid: String,
    /// Whether anybody but dpsr may see what is on it.
    pub udev: Udev,
}

/// Whether a device can be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reads alone.
    ReadOnly,
    /// Both.
    ReadWrite,
}

/// A device-mapper device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// Its number.
    pub number: DevNum,
    /// What it is called.
    pub name: Name,
}

impl Mapped {
    /// Its node, made by the kernel itself: there without udev.
    pub fn node(&self) -> PathBuf {
        format!("/dev/dm-{}", self.number.minor).into()
    }

    /// Its number as ioctls take it.
    pub fn raw(&self) -> Number {
        raw(self.number)
    }
}

/// A device-mapper device somebody made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// Its UUID, where it has one.
    pub uuid: Option<String>,
    /// Its number.
    pub number: DevNum,
}

/// The way to the kernel's device-mapper.
pub struct Mapper {
    tables: DM,
    control: Control,
}

impl Mapper {
    /// Opens it; refused where the kernel has none or dpsr may not use it.
    pub fn open() -> Result<Self> {
        let refused = |why: String| {
            Error::new(Kind::Refused, "opening device-mapper", why)
                .next("load the module dm_mod, and run as root")
        };
        let control = Control::open().map_err(|error| refused(format!("/dev/mapper/control: {error}")))?;
        let tables = DM::new().map_err(|error| refused(error.to_string()))?;
        Ok(Self { tables, control })
    }

    /// Makes a device and lets it work at once. It is removed again with the returned guard.
    pub fn make(&self, name: Name, table: &Table, access: Access) -> Result<Layer<'_>> {
        let layer = self.prepare(name, table, access)?;
        self.resume(&layer.device)?;
        Ok(layer)
    }

    /// Makes a device whose table only a later resume makes active.
    pub fn prepare(&self, name: Name, table: &Table, access: Access) -> Result<Layer<'_>> {
        let invalid = |error: DmError| self.failed("naming", &name.name, &error);
        let dm_name = DmName::new(&name.name).map_err(invalid)?;
        let dm_uuid = DmUuid::new(&name.uuid).map_err(invalid)?;
        let options = options(access);
        let made = self.tables.device_create(dm_name, Some(dm_uuid), options);
        let info = made.map_err(|error| self.failed("creating", &name.name, &error))?;
        let number = number(info.device());
        let layer = Layer { mapper: self, device: Mapped { number, name } };
        self.load(&layer.device, table, access)?;
        Ok(layer)
    }

    /// Loads the table that the next resume makes active.
    pub fn load(&self, device: &Mapped, table: &Table, access: Access) -> Result<()> {
        let name = &device.name.name;
        let rows = table.to_kernel();
        let id = DmName::new(name).map_err(|error| self.failed("naming", name, &error))?;
        let loaded = self.tables.table_load(&DevId::Name(id), &rows, options(access));
        loaded.map(drop).map_err(|error| self.failed("loading the table of", name, &error))
    }

    /// Makes the loaded table active and lets I/O go on.
    pub fn resume(&self, device: &Mapped) -> Result<()> {
        let resumed = self.control.resume(device.raw(), device.name.udev);
        resumed.map_err(|error| Error::device("resuming", &device.name.name, &error))
    }

    /// Stops I/O; what was given before is finished when this returns.
    pub fn suspend(&self, device: &Mapped, freeze: Freeze) -> Result<()> {
        let suspended = self.control.suspend(device.raw(), freeze);
        suspended.map_err(|error| Error::device("suspending", &device.name.name, &error))
    }

    /// Makes the loaded table active in one call that a killed process cannot leave half done. A signal may
    /// stop it before anything was changed; kernels differ in whether the table then is still loaded.
    pub fn switch(&self, device: &Mapped) -> Result<()> {
        let switched = self.control.switch(device.raw(), device.name.udev);
        switched.map_err(|error| Error::device("changing the table of", &device.name.name, &error))
    }

    /// Forgets a loaded table.
    pub fn clear(&self, device: &Mapped) -> Result<()> {
        let cleared = self.control.clear(device.raw());
        cleared.map_err(|error| Error::device("clearing the loaded table of", &device.name.name, &error))
    }

    /// Removes a device, waiting for whoever still has it open, but not for long.
    pub fn remove(&self, device: &Mapped) -> Result<()> {
        let deadline = Instant::now() + BUSY;
        loop {
            match self.control.remove(device.raw(), device.name.udev) {
                Ok(()) => return Ok(()),
                Err(error) if error.raw_os_error() == Some(Errno::ENXIO as i32) => return Ok(()),
                Err(error) if busy(&error) && Instant::now() < deadline => sleep(RETRY),
                Err(error) => return Err(Error::device("removing", &device.name.name, &error)),
            }
        }
    }

    /// Whether a device is suspended, has a table waiting, is open.
    pub fn state(&self, device: &Mapped) -> Result<Status> {
        let state = self.control.status(device.raw());
        state.map_err(|error| Error::device("asking the state of", &device.name.name, &error))
    }

    /// Every device-mapper device of the machine.
    pub fn list(&self) -> Result<Vec<Listed>> {
        let listed = self.tables.list_devices();
        let listed =
            listed.map_err(|error| self.failed("listing the devices of", "device-mapper", &error))?;
        let mut found = Vec::new();
        for (name, device, _) in listed {
            // One that went away meanwhile is none.
            if let Ok(info) = self.tables.device_info(&DevId::Name(&name)) {
                let uuid = info.uuid().map(|uuid| uuid.to_string());
                found.push(Listed { name: name.to_string(), uuid, number: number(device) });
            }
        }
        Ok(found)
    }

    /// The device with this UUID.
    pub fn find(&self, uuid: &str) -> Result<Option<Listed>> {
        Ok(self.list()?.into_iter().find(|device| device.uuid.as_deref() == Some(uuid)))
    }

    /// The active table as the kernel words it: first sector, sectors, type, parameters.
    pub fn table(&self, name: &str) -> Result<Vec<(u64, u64, String, String)>> {
        self.rows(name, DmFlags::DM_STATUS_TABLE)
    }

    /// The state of each target as the kernel words it: first sector, sectors, type, state.
    pub fn status(&self, name: &str) -> Result<Vec<(u64, u64, String, String)>> {
        self.rows(name, DmFlags::DM_NOFLUSH)
    }

    fn rows(&self, name: &str, flags: DmFlags) -> Result<Vec<(u64, u64, String, String)>> {
        let failed = |error: DmError| self.failed("reading the table of", name, &error);
        let id = DmName::new(name).map_err(failed)?;
        let options = DmOptions::default().set_flags(flags);
        Ok(self.tables.table_status(&DevId::Name(id), options).map_err(failed)?.1)
    }

    fn failed(&self, doing: &str, device: &str, error: &DmError) -> Error {
        match error {
            DmError::Core(errors::Error::Ioctl(_, _, _, errno)) => {
                Error::device(doing, device, &io::Error::from(**errno))
            }
            other => Error::new(Kind::Internal, doing, other.to_string()).on(device),
        }
    }
}

/// Removes its device when dropped; layers are dropped in the reverse order of their making.
pub struct Layer<'a> {
    mapper: &'a Mapper,
    device: Mapped,
}

impl Layer<'_> {
    /// The device.
    pub fn device(&self) -> &Mapped {
        &self.device
    }

    /// Lets the device stay.
    pub fn keep(self) -> Mapped {
        let device = self.device.clone();
        std::mem::forget(self);
        device
    }
}

impl Drop for Layer<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.mapper.remove(&self.device) {
            tracing::warn!("{error}, ignoring: the next run that needs the name removes it");
        }
    }
}

fn options(access: Access) -> DmOptions {
    let flags = match access {
        Access::ReadOnly => DmFlags::DM_READONLY,
        Access::ReadWrite => DmFlags::empty(),
    };
    DmOptions::default().set_flags(flags)
}

fn number(device: devicemapper::Device) -> DevNum {
    DevNum { major: device.major.into(), minor: device.minor.into() }
}

/// A number as ioctls take it.
fn raw(number: DevNum) -> Number {
    // The kernel has 12 bits of major and 20 of minor.
    Number { major: number.major as u32, minor: number.minor as u32 }
}

fn busy(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::EBUSY as i32)
}

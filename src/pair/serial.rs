// SPDX-License-Identifier: MIT OR Apache-2.0
//! Serial number, WWN and model of a disk: what the kernel read from it first, the udev database last.
//!
//! The order is the same in every run, so a recorded value compares equal later even where udev is absent.

use std::ffi::OsStr;

use super::sysfs::{BlockNode, Roots};

/// What a disk says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Names {
    pub serial: Option<String>,
    pub wwn: Option<String>,
    pub model: Option<String>,
}

/// The names of the whole disk `node` belongs to.
pub(super) fn names(roots: &Roots, node: &BlockNode) -> Names {
    let disk = node.disk();
    let first = |attrs: &[&str]| attrs.iter().find_map(|attr| disk.attr(attr));
    let udev = |keys: &[&str]| if roots.is_live() { from_udev(&disk, keys) } else { None };
    Names {
        serial: first(&["serial", "device/serial"])
            .or_else(|| unit_serial(&disk.bytes("device/vpd_pg80")?))
            .or_else(|| udev(&["ID_SERIAL_SHORT", "ID_SCSI_SERIAL"])),
        wwn: first(&["wwid", "device/wwid", "dm/uuid"])
            .or_else(|| array(&disk))
            .or_else(|| array_uuid(&udev(&["MD_UUID"])?))
            .or_else(|| udev(&["ID_WWN_WITH_EXTENSION", "ID_WWN"])),
        model: first(&["device/model", "device/name"]),
    }
}

/// SCSI vital product data page 0x80: a four-byte header, the last of it the length, then ASCII.
/// (SPC-4, 7.8.15)
fn unit_serial(page: &[u8]) -> Option<String> {
    let length = usize::from(*page.get(3)?);
    let text = String::from_utf8_lossy(page.get(4..)?.get(..length)?).trim().to_owned();
    (!text.is_empty() && text.chars().all(|c| c.is_ascii_graphic() || c == ' ')).then_some(text)
}

/// The UUID of an MD array as mdadm(8) writes it, four times eight digits: the kernel, where it tells it at all, and
/// blkid(8) divide it otherwise.
pub fn array_uuid(text: &str) -> Option<String> {
    let digits: String = text.chars().filter(|c| !matches!(c, '-' | ':')).collect();
    let number = digits.len() == 32 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    // The kernel knows none of an array whose metadata is not its own.
    if !number || digits.bytes().all(|digit| digit == b'0') {
        return None;
    }
    let digits = digits.to_ascii_lowercase();
    let part = |at: usize| &digits[8 * at..8 * (at + 1)];
    Some([part(0), part(1), part(2), part(3)].join(":"))
}

/// What the kernel says. Of metadata 0.90 it keeps four numbers in its own order of bytes. (mdadm's `uuid_from_super0`)
fn array(disk: &BlockNode) -> Option<String> {
    let uuid = array_uuid(&disk.attr("md/uuid")?)?;
    match disk.attr("md/metadata_version").as_deref() {
        Some("0.90") => swapped(&uuid),
        _ => Some(uuid),
    }
}

fn swapped(uuid: &str) -> Option<String> {
    let number = |digits: &str| u32::from_str_radix(digits, 16).map(u32::swap_bytes);
    let numbers: Result<Vec<u32>, _> = uuid.split(':').map(number).collect();
    Some(numbers.ok()?.iter().map(|number| format!("{number:08x}")).collect::<Vec<_>>().join(":"))
}

/// The UUID of the array that `wwn` names; `None` where it is the name of something else.
pub fn named_array(wwn: Option<&str>) -> Option<String> {
    wwn.filter(|wwn| wwn.split(':').count() == 4).and_then(array_uuid)
}

/// In the event of the disk itself its database is not written yet: what the rules have found is in the environment.
fn from_event(disk: &BlockNode, keys: &[&str]) -> Option<String> {
    let number = |key: &str| std::env::var(key).ok().and_then(|value| value.parse().ok());
    if (number("MAJOR"), number("MINOR")) != (Some(disk.number.major), Some(disk.number.minor)) {
        return None;
    }
    keys.iter().find_map(|key| std::env::var(key).ok()).filter(|text| !text.is_empty())
}

fn from_udev(disk: &BlockNode, keys: &[&str]) -> Option<String> {
    if let Some(found) = from_event(disk, keys) {
        return Some(found);
    }
    let number = nix::sys::stat::makedev(disk.number.major, disk.number.minor);
    let device = udev::Device::from_devnum(udev::DeviceType::Block, number).ok()?;
    let value = |key: &&str| device.property_value(key).and_then(OsStr::to_str).map(str::to_owned);
    keys.iter().find_map(value).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_array_has_one_name() {
        let name = Some("5c3f6bb6:5d3c4a5e:9a0b0c5e:5d2f7a0f".to_owned());
        for text in ["5c3f6bb6-5d3c-4a5e-9a0b-0c5e5d2f7a0f", "5C3F6BB6:5D3C4A5E:9A0B0C5E:5D2F7A0F"] {
            assert_eq!(array_uuid(text), name);
        }
        assert_eq!(named_array(name.as_deref()), name);
        assert_eq!(array_uuid("5c3f6bb6"), None);
        assert_eq!(
            array_uuid("00000000-0000-0000-0000-000000000000"),
            None,
            "its metadata is not the kernel's own"
        );
        let other = swapped("b66b3f5c:5e4a3c5d:5e0c0b9a:0f7a2f5d");
        assert_eq!(other, name, "metadata 0.90");
        assert_eq!(named_array(Some("mpath-5c3f6bb65d3c4a5e9a0b0c5e5d2f7a0f")), None);
        assert_eq!(named_array(Some("5c3f6bb65d3c4a5e9a0b0c5e5d2f7a0f")), None);
    }

    #[test]
    fn vital_product_data() {
        assert_eq!(unit_serial(b"\0\x80\0\x08  S2X7A "), Some("S2X7A".into()));
        assert_eq!(unit_serial(b"\0\x80\0\x20short"), None);
        assert_eq!(unit_serial(b"\0"), None);
    }
}

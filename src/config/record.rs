// SPDX-License-Identifier: MIT OR Apache-2.0
//! The shape of a pair's record.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::failover::FailoverConfig;
use super::live::LiveConfig;
use crate::keep::Rules;
use crate::reserve::Reserve;
use crate::units::Bytes;

/// The name of a pair where the user gives none.
pub const DEFAULT_PAIR: &str = "system";

/// Everything recorded of a pair.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PairConfig {
    /// The pair's name; also the name of its file.
    pub name: String,
    /// The pair's identity, also in the store.
    pub id: Uuid,
    /// The volumes that are not copied, by id.
    #[serde(default)]
    pub leave_out: Vec<String>,
    /// Volumes that move together with the root, besides those dpsr knows of, by id.
    #[serde(default)]
    pub group: Vec<String>,
    /// How many bytes history may take; absent for all there is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history: Option<Bytes>,
    /// Which generations a sync keeps; all that there is room for, if no rule is given.
    #[serde(default, skip_serializing_if = "Rules::is_empty")]
    pub keep: Rules,
    /// Whether the DPSR disk boots by itself, and every sync keeps what it boots up to date.
    #[serde(default, skip_serializing_if = "is_false")]
    pub boot: bool,
    /// When the machine is started from the copy.
    #[serde(default, skip_serializing_if = "FailoverConfig::is_default")]
    pub failover: FailoverConfig,
    /// How a primary in use is read.
    #[serde(default, skip_serializing_if = "LiveConfig::is_default")]
    pub live: LiveConfig,
    /// The file on the primary that makes room on the DPSR disk, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reserve: Option<Reserve>,
    /// The disk that is copied.
    pub primary: PrimaryRecord,
    /// The disk that holds the copy.
    pub dpsr: DpsrRecord,
}

fn is_false(value: &bool) -> bool {
    !value
}

/// What identifies the primary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrimaryRecord {
    /// Where it was found; a hint only, names may move.
    pub path: PathBuf,
    /// How many bytes of it are copied, from its beginning: all there are, but on a larger disk that took the place of
    /// the first.
    pub size: Bytes,
    /// Its exact size in bytes, where that is more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_size: Option<Bytes>,
    /// Its logical block size in bytes.
    pub block: Bytes,
    /// Its serial number, if it reports one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Its world-wide name, if it reports one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wwn: Option<String>,
    /// The GPT disk GUID or MBR signature; absent where there is no table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    /// The inode of the image file, or of the file behind a loop device. It decides only where neither a
    /// table nor a serial number tells the primary from another disk of its size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inode: Option<u64>,
}

impl PrimaryRecord {
    /// The exact size of the disk.
    pub fn whole(&self) -> Bytes {
        self.disk_size.unwrap_or(self.size)
    }

    /// Whether the table tells it from other disks: an MBR signature of zero is none.
    pub fn has_telling_table(&self) -> bool {
        self.table.as_deref().is_some_and(|table| table.bytes().any(|digit| digit != b'0'))
    }
}

/// What identifies the DPSR disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DpsrRecord {
    /// Where it was found; a hint only, names may move.
    pub path: PathBuf,
    /// Its exact size in bytes.
    pub size: Bytes,
    /// Its serial number, if it reports one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Its world-wide name, if it reports one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wwn: Option<String>,
    /// Its GPT disk GUID.
    pub disk_guid: Uuid,
    /// The GPT unique GUID of the store partition.
    pub store: Uuid,
    /// The inode of the image file, or of the file behind a loop device. The number of its filesystem is not
    /// recorded, because it changes from boot to boot; two clones with one inode number are refused where
    /// both are attached, and cannot be told apart where only one is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inode: Option<u64>,
}

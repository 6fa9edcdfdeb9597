// SPDX-License-Identifier: MIT OR Apache-2.0
//! A record to test with.

use std::num::NonZeroU32;

use uuid::Uuid;

use super::{DpsrRecord, FailoverConfig, LiveConfig, PairConfig, PrimaryRecord};
use crate::keep::Rules;
use crate::units::Bytes;

/// A pair of two disks with names, of which the primary has an MBR.
pub(crate) fn sample(name: &str) -> PairConfig {
    PairConfig {
        name: name.into(),
        id: Uuid::from_u128(1),
        leave_out: vec!["1234abcd-05".into()],
        group: vec![],
        history: Some(Bytes(1 << 30)),
        keep: Rules { daily: NonZeroU32::new(7), ..Rules::default() },
        boot: false,
        failover: FailoverConfig::default(),
        live: LiveConfig::default(),
        reserve: None,
        primary: PrimaryRecord {
            path: "/dev/sda".into(),
            size: Bytes(1 << 40),
            disk_size: None,
            block: Bytes(512),
            serial: Some("S1".into()),
            wwn: None,
            table: Some("1234abcd".into()),
            inode: None,
        },
        dpsr: DpsrRecord {
            path: "/dev/sdb".into(),
            size: Bytes(1 << 41),
            serial: None,
            wwn: Some("eui.1".into()),
            disk_guid: Uuid::from_u128(2),
            store: Uuid::from_u128(3),
            inode: None,
        },
    }
}

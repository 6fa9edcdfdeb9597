// SPDX-License-Identifier: MIT OR Apache-2.0
//! The firmware's own list of what it boots: the DPSR disk directly after the primary, never before it. Each pair
//! has an entry of its own, and touches no other.
//!
//! It is only written where it differs, because its memory wears out, and efibootmgr(8) does it.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::mount::tool;

/// Our entries are called this and the name of their pair.
const LABEL: &str = "DPSR";
/// What it starts: the fallback path, so that firmware that lost its list finds the same.
const LOADER: &str = r"\EFI\BOOT\BOOTX64.EFI";

/// What the firmware says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct List {
    current: Option<String>,
    order: Vec<String>,
    /// Number and description of each entry, the path to what it starts included.
    entries: Vec<(String, String)>,
}

impl List {
    /// What `efibootmgr -v` printed.
    fn parse(text: &str) -> Self {
        let mut list = Self::default();
        for line in text.lines() {
            if let Some(current) = line.strip_prefix("BootCurrent:") {
                list.current = Some(current.trim().to_owned());
            } else if let Some(order) = line.strip_prefix("BootOrder:") {
                list.order = order.trim().split(',').map(str::to_owned).collect();
            } else if let Some((number, rest)) = entry(line) {
                list.entries.push((number, rest));
            }
        }
        list
    }

    /// The entries of the pair `name` for the partition `guid`, and its entries for others, which are leftovers.
    fn ours(&self, name: &str, guid: &str) -> (Vec<&str>, Vec<&str>) {
        let label = label(name);
        let ours = |rest: &str| rest.strip_prefix(&label).is_some_and(|after| after.starts_with('\t'));
        let wanted = guid.to_ascii_lowercase();
        let (mut right, mut wrong) = (Vec::new(), Vec::new());
        for (number, rest) in self.entries.iter().filter(|(_, rest)| ours(rest)) {
            let list = if rest.to_ascii_lowercase().contains(&wanted) { &mut right } else { &mut wrong };
            list.push(number.as_str());
        }
        (right, wrong)
    }

    /// The order with `ours` directly after what booted this system. Where that is not known, because the copy
    /// itself was booted or a disk that is in no order, it stays where it is, or comes last.
    fn with(&self, ours: &str) -> Vec<String> {
        let known = |number: &&String| self.entries.iter().any(|(entry, _)| entry == *number);
        let mut order: Vec<String> = self.order.iter().filter(known).cloned().collect();
        let others = |current: &&String| *current != ours && !self.is_a_copy(current);
        let current = self.current.as_ref().filter(others);
        let after = current.and_then(|current| order.iter().position(|number| number == current));
        let now = order.iter().position(|number| number == ours);
        match (after, now) {
            (Some(after), Some(now)) if now == after + 1 => {}
            (Some(_), _) => {
                order.retain(|number| number != ours);
                let after = order.iter().position(|number| Some(number) == current).expect("it is not ours");
                order.insert(after + 1, ours.to_owned());
            }
            (None, Some(_)) => {}
            (None, None) => order.push(ours.to_owned()),
        }
        order
    }

    fn own(&self, number: &str) -> Option<Own> {
        self.entries.iter().find(|(entry, _)| entry == number).and_then(|(_, rest)| Own::parse(rest))
    }

    /// Whether there is an entry for the same loader on the same partition. Firmware may have made others for that.
    fn has(&self, own: &Own) -> bool {
        let same = |it: Own| it.guid == own.guid && it.loader.eq_ignore_ascii_case(&own.loader);
        self.entries.iter().filter_map(|(_, rest)| Own::parse(rest)).any(same)
    }

    /// Whether an entry is that of any pair.
    fn is_a_copy(&self, number: &str) -> bool {
        let mut entries = self.entries.iter().filter(|(entry, _)| entry == number);
        entries.any(|(_, rest)| rest.starts_with(&format!("{LABEL} ")))
    }
}

/// The entry that starts the primary, as far as it can be made again of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Own {
    /// What the firmware calls it.
    label: String,
    /// The number of the partition with the loader.
    pub part: u32,
    /// The GUID of that partition.
    pub guid: String,
    /// The path of the loader there.
    loader: String,
}

impl Own {
    /// Of the description of an entry: label, a tab, `HD(1,GPT,guid,start,size)/` and the path, within `File()` as older
    /// versions of efibootmgr print it.
    fn parse(rest: &str) -> Option<Self> {
        let (label, path) = rest.split_once('\t')?;
        let (device, file) = path.strip_prefix("HD(")?.split_once(")/")?;
        let mut parts = device.split(',');
        let part = parts.next()?.parse().ok()?;
        let guid = parts.nth(1)?.to_ascii_lowercase();
        let loader = match file.strip_prefix("File(") {
            Some(file) => file.split_once(')')?.0,
            None => file.split('\t').next()?,
        };
        let (label, loader) = (label.to_owned(), loader.trim_end().to_owned());
        loader.starts_with('\\').then_some(Self { label, part, guid, loader })
    }
}

/// The entry that has started this system, where that is one for a partition, and no pair's.
pub fn own() -> Result<Option<Own>> {
    let list = list()?;
    Ok(list.current.as_ref().filter(|current| !list.is_a_copy(current)).and_then(|current| list.own(current)))
}

/// Makes an entry again that the firmware has lost, before all others; `disk` has its partition. Whether it was lost.
pub fn restore(own: &Own, disk: &str) -> Result<bool> {
    if list()?.has(own) {
        return Ok(false);
    }
    let part = own.part.to_string();
    efibootmgr(&["-q", "-c", "-d", disk, "-p", &part, "-L", &own.label, "-l", &own.loader]).map(|_| true)
}

fn label(name: &str) -> String {
    format!("{LABEL} {name}")
}

/// Number and rest of `Boot0001* name\tpath`; the star says that the entry is active.
fn entry(line: &str) -> Option<(String, String)> {
    let rest = line.strip_prefix("Boot")?;
    let (number, rest) = rest.split_at_checked(4)?;
    let hex = number.chars().all(|c| c.is_ascii_hexdigit());
    let rest = rest.strip_prefix('*').or_else(|| rest.strip_prefix(' '))?;
    hex.then(|| (number.to_owned(), rest.trim_start().to_owned()))
}

/// Whether this machine was booted by UEFI.
pub fn is_there(root: &Path) -> bool {
    root.join("sys/firmware/efi/efivars").is_dir()
}

fn list() -> Result<List> {
    efibootmgr(&["-v"]).map(|text| List::parse(&text))
}

fn efibootmgr(words: &[&str]) -> Result<String> {
    tool::run("efibootmgr", "efibootmgr", words)
}

/// Makes the list say what it should for the pair `name`; `guid` is that of partition `number` of `disk`. Whether
/// it was written.
pub fn settle(name: &str, disk: &str, number: u32, guid: &str) -> Result<bool> {
    let mut before = list()?;
    let (right, wrong) = before.ours(name, guid);
    let mut written = !wrong.is_empty();
    for leftover in wrong {
        efibootmgr(&["-q", "-B", "-b", leftover])?;
    }
    let ours = match right.first() {
        Some(ours) => (*ours).to_owned(),
        None => {
            let part = number.to_string();
            efibootmgr(&["-q", "-C", "-d", disk, "-p", &part, "-L", &label(name), "-l", LOADER])?;
            written = true;
            before = list()?;
            let Some(made) = before.ours(name, guid).0.first().map(|made| (*made).to_owned()) else {
                return Ok(true);
            };
            made
        }
    };
    let order = before.with(&ours);
    if order != before.order {
        efibootmgr(&["-q", "-o", &order.join(",")])?;
        written = true;
    }
    Ok(written)
}

/// Takes the entries of the pair `name` away.
pub fn clear(name: &str) -> Result<()> {
    let list = list()?;
    let (right, wrong) = list.ours(name, "");
    right.into_iter().chain(wrong).try_for_each(|ours| efibootmgr(&["-q", "-B", "-b", ours]).map(drop))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUID: &str = "8be4df61-93ca-11d2-aa0d-00e098032b8c";

    fn list() -> List {
        List::parse(
            "BootCurrent: 0003\nTimeout: 0 seconds\nBootOrder: 0000,0003,0001\n\
             Boot0000* UiApp\tFvVol(7cb8)/FvFile(462c)\nBoot0001  UEFI Misc Device\tPciRoot(0x0)/Pci(0x3,0x0)\n\
             Boot0003* debian\tHD(2,GPT,1111,0x1000,0x20000)/File(\\EFI\\debian\\shimx64.efi)\n",
        )
    }

    #[test]
    fn directly_after_what_booted_the_primary() {
        let mut list = list();
        assert_eq!(list.current.as_deref(), Some("0003"));
        assert_eq!(list.ours("main", GUID), (vec![], vec![]));
        assert_eq!(list.with("0004"), ["0000", "0003", "0004", "0001"]);
        list.order = list.with("0004");
        list.entries.push(("0004".into(), format!("DPSR main\tHD(2,GPT,{GUID})")));
        assert_eq!(list.with("0004"), list.order);
        list.order = ["0004", "0000", "0003", "0001"].map(str::to_owned).into();
        assert_eq!(list.with("0004"), ["0000", "0003", "0004", "0001"]);
    }

    #[test]
    fn never_before_the_primary_where_that_is_not_known() {
        for current in [None, Some("0099"), Some("0004"), Some("0005")] {
            let mut list = list();
            list.current = current.map(str::to_owned);
            assert_eq!(list.with("0004"), ["0000", "0003", "0001", "0004"], "{current:?}");
            // Another pair's, which is in the order before it.
            list.entries.push(("0005".into(), "DPSR other\tHD(1,GPT,2222)".into()));
            list.entries.push(("0004".into(), format!("DPSR main\tHD(2,GPT,{GUID})")));
            list.order = ["0005", "0003", "0004", "0001"].map(str::to_owned).into();
            assert_eq!(list.with("0004"), list.order, "{current:?}");
        }
    }

    #[test]
    fn what_started_the_primary_can_be_made_again() {
        let loader = "\\EFI\\debian\\shimx64.efi".to_owned();
        let own = Own { label: "debian".to_owned(), part: 2, guid: "ab-11".to_owned(), loader };
        for path in [
            "File(\\EFI\\debian\\shimx64.efi)",
            "\\EFI\\debian\\shimx64.efi",
            "\\EFI\\debian\\shimx64.efi\t4d00",
        ] {
            let rest = format!("debian\tHD(2,GPT,AB-11,0x1000,0x20000)/{path}");
            assert_eq!(Own::parse(&rest).as_ref(), Some(&own), "{rest}");
        }
        for other in
            ["UEFI Misc Device\tPciRoot(0x0)/Pci(0x3,0x0)", "UiApp\tFvVol(7cb8)/FvFile(462c)", "debian", ""]
        {
            assert_eq!(Own::parse(other), None, "{other}");
        }
        let list = list();
        assert_eq!(list.own("0003").map(|own| own.guid).as_deref(), Some("1111"));
        let there = list.own("0003").unwrap();
        assert!(list.has(&there) && !list.has(&own));
        let fallback = "\\EFI\\BOOT\\BOOTX64.EFI".to_owned();
        assert!(!list.has(&Own { loader: fallback, ..there }), "that is another loader");
    }

    #[test]
    fn numbers_without_an_entry_leave_the_order() {
        let mut list = list();
        list.order.insert(0, "00AA".into());
        assert_eq!(list.with("0004"), ["0000", "0003", "0004", "0001"]);
    }

    #[test]
    fn an_entry_is_known_by_its_pair_and_its_partition() {
        let mut list = list();
        let path =
            |guid: &str| format!("DPSR main\tHD(2,GPT,{guid},0x1000,0x20000)/File(\\EFI\\BOOT\\BOOTX64.EFI)");
        list.entries.push(("0007".into(), path(&GUID.to_uppercase())));
        list.entries.push(("0008".into(), path("2222")));
        list.entries.push(("0009".into(), path(GUID).replace("main", "main2")));
        assert_eq!(list.ours("main", GUID), (vec!["0007"], vec!["0008"]));
        assert_eq!(list.ours("main2", GUID), (vec!["0009"], vec![]));
    }
}

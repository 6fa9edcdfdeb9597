// SPDX-License-Identifier: MIT OR Apache-2.0
//! What others have built on a primary that is not to be started. LVM activates volumes as soon as it has seen
//! where they lie, which may be before it is known that the copy is newer; nobody uses them yet.

use super::hide;
use crate::config::PairConfig;
use crate::dm::{Mapped, Mapper, Name};
use crate::error::Result;
use crate::pair::sysfs::{BlockNode, Roots};
use crate::sys::dm::Udev;

/// Takes it down, from the top. What is in use stays, and with it the primary.
pub fn let_go(config: &PairConfig) -> Result<()> {
    let mapper = Mapper::open()?;
    for disk in hide::hidden(&Roots::default(), config) {
        let mut upon = Vec::new();
        for node in disk.partitions().iter().chain([&disk]) {
            others(node, &mut upon);
        }
        for node in upon {
            mapper.remove(&node)?;
        }
    }
    Ok(())
}

/// Devices of device-mapper above `node` that are not dpsr's, each after what stands on it.
fn others(node: &BlockNode, found: &mut Vec<Mapped>) {
    for holder in node.holders() {
        others(&holder, found);
        let named = holder.attr("dm/name").filter(|_| !holder.is_ours());
        let known = found.iter().any(|it| it.number == holder.number);
        if let Some(name) = named.filter(|_| !known) {
            let uuid = holder.attr("dm/uuid").unwrap_or_default();
            found.push(Mapped { number: holder.number, name: Name { name, uuid, udev: Udev::PUBLIC } });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::*;
    use crate::pair::sysfs::DevNum;

    /// `sda1` below a node of dpsr, below two volumes, below a snapshot of one of them.
    fn tree(dir: &Path) {
        let device = |name: &str, number: &str, dm: Option<(&str, &str)>| {
            let at = dir.join("sys/devices/virtual/block").join(name);
            for inside in ["holders", "slaves", "dm"] {
                fs::create_dir_all(at.join(inside)).unwrap();
            }
            fs::write(at.join("dev"), format!("{number}\n")).unwrap();
            if let Some((name, uuid)) = dm {
                fs::write(at.join("dm/name"), format!("{name}\n")).unwrap();
                fs::write(at.join("dm/uuid"), format!("{uuid}\n")).unwrap();
            }
            fs::create_dir_all(dir.join("sys/class/block")).unwrap();
            fs::create_dir_all(dir.join("sys/dev/block")).unwrap();
            let up = format!("../../devices/virtual/block/{name}");
            symlink(&up, dir.join("sys/class/block").join(name)).unwrap();
            symlink(&up, dir.join("sys/dev/block").join(number)).unwrap();
        };
        device("sda1", "8:1", None);
        device("dm-0", "253:0", Some(("dpsr-x-part1", "part1-DPSR-DISK-x")));
        device("dm-1", "253:1", Some(("vg-root", "LVM-a")));
        device("dm-2", "253:2", Some(("vg-home", "LVM-b")));
        device("dm-3", "253:3", Some(("vg-snap", "LVM-c")));
        for (below, above) in
            [("sda1", "dm-0"), ("dm-0", "dm-1"), ("dm-0", "dm-2"), ("dm-1", "dm-3"), ("dm-2", "dm-3")]
        {
            let holders = dir.join("sys/devices/virtual/block").join(below).join("holders");
            symlink(format!("../../{above}"), holders.join(above)).unwrap();
        }
    }

    #[test]
    fn from_the_top_and_nothing_of_ours() {
        let dir = tempfile::tempdir().unwrap();
        tree(dir.path());
        let roots = Roots { sys: dir.path().join("sys"), ..Roots::default() };
        let mut found = Vec::new();
        others(&roots.node(DevNum { major: 8, minor: 1 }).unwrap(), &mut found);
        let names: Vec<_> = found.iter().map(|it| it.name.name.as_str()).collect();
        assert_eq!(names, ["vg-snap", "vg-root", "vg-home"]);
    }
}

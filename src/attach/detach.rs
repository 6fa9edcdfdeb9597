// SPDX-License-Identifier: MIT OR Apache-2.0
//! Taking a generation away again. It needs no DPSR disk: that may have been unplugged.

use std::collections::{BTreeMap, BTreeSet};
use std::thread::sleep;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::{Until, name};
use crate::dm::{Listed, Mapped, Mapper, Name};
use crate::error::{Error, Kind, Result};
use crate::pair::attached::{Role, ViewId};
use crate::pair::holder::user;
use crate::pair::mounts::mounts;
use crate::pair::sysfs::{DevNum, Roots};
use crate::units::Generation;

/// udev looks into what has just appeared; nobody else is waited for.
const PATIENCE: Duration = Duration::from_secs(5);
const GLANCE: Duration = Duration::from_millis(20);

/// The devices of one generation.
pub type Devices = BTreeMap<Role, Listed>;

/// Every generation that is attached on this machine, or was left half attached.
pub fn found(mapper: &Mapper) -> Result<BTreeMap<ViewId, Devices>> {
    let mut found: BTreeMap<ViewId, Devices> = BTreeMap::new();
    for device in mapper.list()? {
        if let Some((id, role)) = device.uuid.as_deref().and_then(ViewId::parse) {
            found.entry(id).or_default().insert(role, device);
        }
    }
    Ok(found)
}

/// Ends the name of a device of a generation that only a mount has attached.
const MARK: &str = "-until-unmounted";

/// The name of a device of a generation that stays attached `until` then. Like everything else about it, the
/// kernel alone remembers that.
pub(super) fn marked(id: ViewId, role: Role, until: Until) -> Name {
    let mut name = name(id, role);
    if (role, until) == (Role::Cow, Until::Unmounted) {
        name.name.push_str(MARK);
    }
    name
}

/// Whether the generation goes with its last mount. The old primary, which has no pre-images, always does.
pub fn until_unmounted(devices: &Devices) -> bool {
    devices.get(&Role::Cow).is_none_or(|device| device.name.ends_with(MARK))
}

/// Which of the attached ones is meant: generation `generation`, or the only one there is; of `store`, if
/// that is known.
pub fn choose(
    attached: &BTreeMap<ViewId, Devices>,
    store: Option<Uuid>,
    generation: Option<Generation>,
) -> Result<ViewId> {
    let asked = |id: &&ViewId| {
        generation.is_none_or(|wanted| wanted == id.generation) && store.is_none_or(|store| store == id.store)
    };
    let matching: Vec<&ViewId> = attached.keys().filter(asked).collect();
    let what = generation.map_or("what is attached".to_owned(), |number| format!("generation {number}"));
    let doing = format!("detaching {what}");
    match matching[..] {
        [one] => Ok(*one),
        [] => Err(Error::new(Kind::NotFound, doing, "no such generation is attached")),
        _ if generation.is_none() => {
            let all: Vec<_> = matching.iter().map(|id| id.generation.to_string()).collect();
            let why = format!("generations {} are attached", all.join(", "));
            Err(Error::new(Kind::Usage, doing, why).next("name one, or --all"))
        }
        _ => Err(Error::new(Kind::Usage, doing, "several stores have it attached")
            .next("name the pair with --pair, or the DPSR disk with --dpsr")),
    }
}

/// Takes the devices of one generation away, unless somebody uses one: then all of them stay.
pub fn detach(roots: &Roots, mapper: &Mapper, id: ViewId, devices: &Devices) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while let Some(why) = used(roots, mapper, id, devices)? {
        // A mount does not go away by itself; a look at a new device does.
        if why.lasting || Instant::now() >= deadline {
            return Err(Error::new(Kind::Refused, format!("detaching {id}"), why.told)
                .left("it is still attached")
                .next(why.next));
        }
        sleep(GLANCE);
    }
    for (role, listed) in devices.iter().rev() {
        mapper.remove(&mapped(id, *role, listed))?;
    }
    Ok(())
}

fn mapped(id: ViewId, role: Role, listed: &Listed) -> Mapped {
    Mapped { number: listed.number, name: name(id, role) }
}

struct Used {
    told: String,
    next: String,
    lasting: bool,
}

/// Who uses one of the devices, beside those of them that are built on it.
fn used(roots: &Roots, mapper: &Mapper, id: ViewId, devices: &Devices) -> Result<Option<Used>> {
    let numbers: BTreeSet<DevNum> = devices.values().map(|device| device.number).collect();
    if let Some(mount) = mounts(roots).into_iter().find(|mount| numbers.contains(&mount.node.number)) {
        let told = format!("{} is mounted at {}", mount.node.label(), mount.at);
        return Ok(Some(Used { told, next: format!("'dpsr umount {}' first", mount.at), lasting: true }));
    }
    for (role, listed) in devices.iter().filter(|(role, _)| **role >= Role::Disk) {
        let Some(node) = roots.node(listed.number) else { continue };
        let (ours, others): (Vec<_>, Vec<_>) =
            node.holders().into_iter().partition(|holder| numbers.contains(&holder.number));
        if let Some(other) = others.first() {
            let told = format!("{} is held by {}", node.label(), other.label());
            return Ok(Some(Used { told, next: "stop that use first".to_owned(), lasting: true }));
        }
        let opened = mapper.state(&mapped(id, *role, listed))?.opened;
        if usize::try_from(opened).is_ok_and(|opened| opened > ours.len()) {
            let who = user(roots, &node).unwrap_or("somebody has it open".to_owned());
            let told = format!("{}: {who}", node.label());
            return Ok(Some(Used { told, next: "wait until that has ended".to_owned(), lasting: false }));
        }
    }
    Ok(None)
}

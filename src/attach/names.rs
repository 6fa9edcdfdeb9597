// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the devices of an attached generation are called in `/dev/mapper`.

use crate::dm::Name;
use crate::pair::attached::{Role, ViewId};
use crate::sys::dm::Udev;

/// The name of one device. All are private: a second filesystem with the UUID of a mounted one must meet no
/// prober.
pub fn name(id: ViewId, role: Role) -> Name {
    let suffix = match role {
        Role::Disk => String::new(),
        Role::Part(number) => format!("-part{number}"),
        Role::Origin => "-origin".to_owned(),
        Role::Cow => "-cow".to_owned(),
        Role::Overlay(number) => format!("-overlay{number}"),
    };
    let store = id.store.simple().to_string();
    let name = format!("dpsr-view-{}-g{}{suffix}", &store[..8], id.generation);
    Name { name, uuid: id.uuid(role), udev: Udev::PRIVATE }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Generation;
    use uuid::Uuid;

    #[test]
    fn short_for_people_and_private_for_all() {
        let id = ViewId { store: Uuid::from_u128(0xabcd_ef01 << 96), generation: Generation(7) };
        assert_eq!(name(id, Role::Disk).name, "dpsr-view-abcdef01-g7");
        assert_eq!(name(id, Role::Part(2)).name, "dpsr-view-abcdef01-g7-part2");
        for role in [Role::Origin, Role::Cow, Role::Disk, Role::Part(1), Role::Overlay(1)] {
            assert_eq!(name(id, role).udev, Udev::PRIVATE);
        }
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! What partition types mean to dpsr. GPT types: UEFI specification 5.3.3 and the Discoverable Partitions
//! Specification.

use super::table::Partition;

/// Partitions the machine boots from or runs on; they always move together.
const GROUP_TYPES: [&str; 16] = [
    "c12a7328-f81f-11d2-ba4b-00a0c93ec93b", // EFI system partition
    "21686148-6449-6e6f-744e-656564454649", // BIOS boot
    "9e1a2d38-c612-4316-aa26-8b49521e5a8b", // PReP boot
    "bc13c2ff-59e6-4262-a352-b275fd6f7172", // extended boot loader
    "44479540-f297-41b2-9af7-d131d5f0458a", // root, x86
    "4f68bce3-e8cd-4db1-96e7-fbcaf984b709", // root, x86-64
    "69dad710-2ce4-4e3c-b16c-21a1d49abed3", // root, ARM
    "b921b045-1df0-41c3-af44-4c6f280d3fae", // root, ARM 64
    "72ec70a6-cf74-40e6-bd49-4bda08e8f224", // root, RISC-V 64
    "c31c45e6-3f39-412e-80fb-4809c4980599", // root, PowerPC 64 LE
    "5eead9a9-fe09-4a1e-a1d7-520d00531306", // root, s390x
    "77055800-792c-4f94-b39a-98c91b762bb6", // root, LoongArch 64
    "75250d76-8cc6-458e-bd66-bd47cc81a812", // /usr, x86
    "8484680c-9521-48c6-9c11-b0720656f69e", // /usr, x86-64
    "b0e01050-ee5f-4390-949a-9101b17104e9", // /usr, ARM 64
    "0xef",                                 // EFI system partition in an MBR
];

const SWAP_TYPES: [&str; 2] = ["0657fd6d-a4ab-43c4-84e5-0933c84b4f4f", "0x82"];

/// Whether the partition's type alone puts it into the group that moves together.
pub(super) fn boots(partition: &Partition) -> bool {
    partition.active || GROUP_TYPES.contains(&partition.type_id.as_str())
}

/// Whether it is swap space: by content, or by type where the content says nothing (encrypted anew at
/// every boot).
pub(super) fn swaps(partition: &Partition) -> bool {
    match &partition.content {
        Some(content) => matches!(content.fstype.as_str(), "swap" | "swsuspend"),
        None => SWAP_TYPES.contains(&partition.type_id.as_str()),
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Device-mapper: names and tables -> devices that go away with their guards.
//!
//! * [`Table`]: what a device consists of. Pure.
//! * [`Mapper`]: the calls. Tables travel through the `devicemapper` crate; resume and remove are
//!   [`crate::sys::dm`]'s, because the crate's wait for udev without end where udevd runs without the rules of
//!   device-mapper.
//! * [`Mapped`]: a device as others build on it; [`Layer`]: the guard that removes it again.

mod mapper;
mod stack;
mod table;

pub use mapper::{Access, Layer, Listed, Mapped, Mapper, Name};
pub use stack::Stack;
pub use table::{Table, Target};

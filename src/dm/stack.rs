// SPDX-License-Identifier: MIT OR Apache-2.0
//! Nodes that are made one upon the other, and go again together unless they are kept.

use super::{Access, Layer, Mapped, Mapper, Name, Table};
use crate::error::Result;

/// What was made so far. Dropping it removes the last one first.
pub struct Stack<'a> {
    mapper: &'a Mapper,
    layers: Vec<Layer<'a>>,
}

impl<'a> Stack<'a> {
    /// Nothing yet.
    pub fn new(mapper: &'a Mapper) -> Self {
        Self { mapper, layers: Vec::new() }
    }

    /// Makes one more.
    pub fn make(&mut self, name: Name, table: &Table) -> Result<Mapped> {
        let layer = self.mapper.make(name, table, Access::ReadWrite)?;
        let device = layer.device().clone();
        self.layers.push(layer);
        Ok(device)
    }

    /// Makes one more, which nobody can write through.
    pub fn make_read_only(&mut self, name: Name, table: &Table) -> Result<Mapped> {
        let layer = self.mapper.make(name, table, Access::ReadOnly)?;
        let device = layer.device().clone();
        self.layers.push(layer);
        Ok(device)
    }

    /// Lets all of them stay.
    pub fn keep(mut self) -> Vec<Mapped> {
        self.layers.drain(..).map(Layer::keep).collect()
    }
}

impl Drop for Stack<'_> {
    fn drop(&mut self) {
        while let Some(layer) = self.layers.pop() {
            drop(layer);
        }
    }
}

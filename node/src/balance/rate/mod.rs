//! How many requests are let in: on this node by a bucket per key, across the mesh by this node's share of a limit.
//!
//! A bucket is one atomic word: the time at which it will be full again (GCRA, the generic cell rate algorithm). No
//! thread refills it and none waits for another.

mod bucket;
mod demand;
mod escrow;
mod gate;
mod share;
mod table;
#[cfg(test)]
mod tests;

pub use bucket::Buckets;
pub use demand::{HALF_LIFE_MS, WORTH_SAYING};
pub use gate::{Gate, Limit, Refused};
pub use share::{EQUAL_PART, MeshLimit, Mode, Said, WINDOW_MS};
pub use table::{Counts, Limits, RuleId};

use super::{Key, Millis};

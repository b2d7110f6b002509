//! How many requests are let in: on this node by a bucket per key, across the mesh by this node's share of a limit.
//!
//! A bucket is one atomic word: the time at which it will be full again (GCRA, the generic cell rate algorithm). No
//! thread refills it and none waits for another.

mod bucket;
mod demand;
mod escrow;
mod gate;
mod keys;
mod share;
mod shares;
mod table;
#[cfg(test)]
mod tests;

pub use bucket::Buckets;
pub use demand::{HALF_LIFE_MS, WHOLE, WORTH_SAYING};
pub use gate::{Gate, Limit, Refused, Room};
pub use keys::{MESH_KEYS, MeshRule};
pub use share::{EQUAL_PART, MeshLimit, Mode, Said, WINDOW_MS};
pub use shares::{HARD_VOICES, LimitId, Shares, Statement, VOICES, VOICES_EACH};
pub use table::{Counts, Limits, RuleId};

use super::{Key, Millis};

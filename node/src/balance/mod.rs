//! The choice of an endpoint, and what limits and protects it. Pure: no sockets, no clock; time and randomness come in.

pub mod outlier;
mod pick;

use std::sync::Arc;

pub use pick::{Candidate, Tried, pick};

/// Milliseconds of a clock that never goes back: [`crate::clock::uptime`].
pub type Millis = u64;

/// The name of an endpoint, a cluster or a node, as its owner displays it.
pub type Key = Arc<str>;

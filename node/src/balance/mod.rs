//! The choice of an endpoint, and what limits and protects it. Pure: no sockets, no clock; time and randomness come in.

mod balancer;
mod dice;
mod group;
mod host;
mod level;
mod load;
mod locality;
pub mod outlier;
mod policies;
mod pool;
pub mod rate;
mod ring;
#[cfg(test)]
mod tests;
mod tried;
mod weights;

use std::sync::Arc;

pub use balancer::{Ask, BalancePolicy, LoadBalancer};
pub use dice::Dice;
pub use group::Algorithm;
pub use host::Host;
pub use load::{Active, FAILURE_MICROS, LATENCY_DECAY_MS, LONGEST_SLOWED_MS, Load, SLOWED_MS, SLOWED_SHARE, Warmup};
pub use locality::{Client, Distribute, Failover, Locality, LocalityPolicy};
pub use pool::{Held, Overflow, Pool, PoolLimits, Resource, RetryLimit};
pub use ring::{DEFAULT_MAGLEV, DEFAULT_RING, LARGEST_MAGLEV, LARGEST_RING, hash};
pub use tried::Tried;

/// Milliseconds of a clock that never goes back: [`crate::clock::uptime`].
pub type Millis = u64;

/// The name of an endpoint, a cluster or a node, as its owner displays it.
pub type Key = Arc<str>;

//! The choice of an endpoint. Pure: no sockets, no clock, randomness comes in.

mod candidates;
mod pick;

pub use candidates::{Candidates, NoCluster, Out};
pub use pick::{Candidate, Tried, pick};

//! The choice of an endpoint. Pure: no sockets, no clock, randomness comes in.

mod pick;

pub use pick::{Candidate, Tried, pick};

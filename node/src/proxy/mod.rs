//! Reads the snapshot: requests in and out.
//!
//! [`DataPlane`] is the owner's handle; each of its workers runs [`run_worker`]. A request of an application comes in at
//! [`outbound`], one of another node at [`inbound`]; a request to an endpoint on this node goes from one to the other in
//! process. Connections of bytes take the same doors.

mod capture;
mod cluster;
mod connection;
mod context;
mod deadline;
mod detect;
mod direct;
mod errand;
mod exchange;
pub mod failure;
mod flight;
mod gateway;
mod http;
mod inbound;
mod listen;
mod local;
mod loopback;
mod outbound;
mod outcome;
mod outliers;
mod plaintext;
mod plane;
mod reading;
mod reply;
mod streams;
mod tcp;
mod upgrade;
mod worker;

pub use capture::open_capture;
pub use direct::keep_tls;
pub use gateway::{GATEWAY_DRAIN, keep_doors};
pub use loopback::keep_names;
pub use outliers::sweep_outliers;
pub use plane::{ApplyError, Bound, DataPlane, Seat};
pub use worker::run_worker;

#[cfg(test)]
mod tests;

//! What the socket, loopback and operators are offered.

pub mod api;
pub mod error;

//! HTTP/1.1 on one connection (RFC 9112), for the data path: no task, no queue and no copy of a body beside what the request
//! itself needs. What can be read in two ways is an error.
//!
//! [`client::Connection`] sends requests one after the other; whoever polls a response's body drives its connection.
//! [`server::serve`] answers them; whoever polls a request's body reads from its connection.

pub mod client;
mod decoder;
mod encoder;
mod head;
mod names;
mod reply;
mod request;
pub mod server;
mod upgraded;
mod wire;

pub use head::{copy as copy_head, takes_trailers};
pub use request::{HeadLimits, host_of};
pub use upgraded::Upgraded;

/// Why a body failed at its source.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Bytes that are asked for at once.
const READ: usize = 8 * 1024;
/// Bytes that are asked for at once where a long body is known to come.
const READ_LONG: usize = 64 * 1024;

#[cfg(test)]
mod tests;

//! A cluster of real nodes on loopback addresses of their own, recording backends, and a client that trusts nobody.
//! What the scenarios, the hostile cases and the figures have in common.

pub mod application;
pub mod backend;
pub mod bytes;
pub mod clients;
pub mod cluster;
pub mod collector;
mod configuration;
pub mod contract;
pub mod corpus;
pub mod dns;
pub mod frames;
pub mod grpc;
mod held;
pub mod http;
pub mod load;
mod net;
pub mod obedient;
pub mod process;
pub mod rbac;
pub mod relay;
pub mod simulation;
pub mod telling;
pub mod tls_backend;
pub mod tokens;

use std::time::{Duration, Instant};

/// The longest that anything here waits before it says that it did not happen.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The wall of the tests: the rooms take time as an argument, the harness measures real processes.
#[expect(clippy::disallowed_methods, reason = "the harness measures real processes by a real clock")]
pub fn now() -> Instant {
    Instant::now()
}

/// Asks `probe` again and again until it gives a value, for at most `patience`; its last word is the panic's message.
///
/// # Panics
/// When the time is over.
pub fn eventually_within<T>(what: &str, patience: Duration, mut probe: impl FnMut() -> Result<T, String>) -> T {
    let started = now();
    loop {
        match probe() {
            Ok(value) => return value,
            Err(last) if started.elapsed() > patience => panic!("not within {patience:?}: {what}: {last}"),
            Err(_) => std::thread::sleep(Duration::from_millis(15)),
        }
    }
}

/// [`eventually_within`] [`PATIENCE`].
pub fn eventually<T>(what: &str, probe: impl FnMut() -> Result<T, String>) -> T {
    eventually_within(what, PATIENCE, probe)
}

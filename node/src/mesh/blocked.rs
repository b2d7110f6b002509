//! Addresses where one carrier did not answer and the other did: the other goes first there for a while.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::Mutex,
    time::{Duration, Instant},
};

use crate::{clock, lock::lock};

/// For how long that is remembered.
const MEMORY: Duration = Duration::from_secs(60);
/// Addresses that are remembered.
const MAX_ADDRESSES: usize = 4_096;

/// Where one carrier is blocked.
#[derive(Debug, Default)]
pub(super) struct Blocked(Mutex<HashMap<SocketAddr, Instant>>);

impl Blocked {
    pub(super) fn contains(&self, address: SocketAddr) -> bool {
        lock(&self.0).get(&address).is_some_and(|until| *until > clock::monotonic())
    }

    /// It did not answer there.
    pub(super) fn add(&self, address: SocketAddr) {
        let (mut blocked, now) = (lock(&self.0), clock::monotonic());
        if blocked.len() >= MAX_ADDRESSES {
            blocked.retain(|_, until| *until > now);
        }
        if blocked.len() < MAX_ADDRESSES {
            blocked.insert(address, now + MEMORY);
        }
    }

    /// It does answer there.
    pub(super) fn remove(&self, address: SocketAddr) {
        lock(&self.0).remove(&address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_addresses_are_remembered() {
        let blocked = Blocked::default();
        let address = |port: usize| SocketAddr::from(([127, 0, 0, 1], u16::try_from(port).unwrap()));
        (1..=MAX_ADDRESSES + 1).for_each(|port| blocked.add(address(port)));
        assert!(blocked.contains(address(1)) && !blocked.contains(address(MAX_ADDRESSES + 1)));
        blocked.remove(address(1));
        assert!(!blocked.contains(address(1)));
    }
}

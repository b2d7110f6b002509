//! The connections that a cluster may have, and how many of them go to each of its endpoints.

use super::Circuit;
use crate::{
    balance::{Held, Key, Overflow, PoolLimits},
    lock::lock,
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

/// How many connections go to each endpoint, where policy limits them; none is not listed.
#[derive(Debug, Default)]
pub(super) struct Reached(Mutex<HashMap<Key, u32>>);

/// One of the connections that a cluster may have; given back when dropped.
#[derive(Debug)]
pub struct Connection {
    held: Option<Held>,
    reaches: Option<Reaches>,
}

#[derive(Debug)]
struct Reaches {
    circuit: Arc<Circuit>,
    endpoint: Key,
    own: u32,
}

impl Circuit {
    /// Room for one more connection. An endpoint that is named has so many of its own, whatever the limit says: else those beyond it could
    /// never be reached.
    ///
    /// # Errors
    /// The limit is met. Those who wait for one are told by [`Circuit::freed`].
    pub fn connection(
        self: &Arc<Self>,
        limits: &PoolLimits,
        endpoint: Option<(&Key, u32)>,
    ) -> Result<Connection, Overflow> {
        // Where nothing is limited nobody waits.
        let Some((endpoint, own)) = endpoint.filter(|_| limits.connections < u32::MAX) else {
            return Ok(Connection { held: Some(self.pool.connection(limits, false)?), reaches: None });
        };
        let mut reached = lock(&self.reached.0);
        let count = reached.get(endpoint).copied().unwrap_or_default();
        let held = self.pool.connection(limits, count < own)?;
        reached.insert(Key::clone(endpoint), count.saturating_add(1));
        let reaches = Reaches { circuit: Arc::clone(self), endpoint: Key::clone(endpoint), own };
        Ok(Connection { held: Some(held), reaches: Some(reaches) })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        drop(self.held.take());
        let Some(Reaches { circuit, endpoint, own }) = self.reaches.take() else { return };
        let mut reached = lock(&circuit.reached.0);
        let left = reached.get(&endpoint).map_or(0, |count| count.saturating_sub(1));
        if left == 0 {
            reached.remove(&endpoint);
        } else {
            reached.insert(endpoint, left);
        }
        drop(reached);
        // Those who wait for this endpoint need no room among the others any more, wherever they stand among those who wait.
        if left == 0 || left.saturating_add(1) == own {
            circuit.freed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Circuits, *};
    use crate::balance::Resource;
    use certs::id::ServiceName;

    #[test]
    fn each_endpoint_has_its_own_past_the_limit_and_who_waits_is_none() {
        let called = ServiceName::new("shop", "reviews").unwrap();
        let circuit = Circuits::default().of("shop/web", &called, "outbound|9080||reviews".to_owned());
        let limits = PoolLimits { connections: 2, ..PoolLimits::default() };
        let (one, two): (Key, Key) = ("one".into(), "two".into());
        let ask = |endpoint: &Key, own| circuit.connection(&limits, Some((endpoint, own)));
        let first = [ask(&one, 1).unwrap(), ask(&one, 1).unwrap()];
        assert!(ask(&one, 1).is_err(), "the limit is met");
        let past = ask(&two, 1).expect("nothing goes there");
        assert!(ask(&two, 1).is_err() && circuit.connection(&limits, None).is_err());
        drop(past);
        let past = [ask(&two, 2).expect("what found no room does not count"), ask(&two, 2).expect("a second stream")];
        assert!(ask(&two, 2).is_err());
        drop((first, past));
        assert_eq!(circuit.pool.count(Resource::Connections), 0);
        assert!(lock(&circuit.reached.0).is_empty());
    }
}

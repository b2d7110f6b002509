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

use tokio::sync::Notify;

/// How many connections go to each endpoint, where policy limits them; none is not listed, unless somebody waits for one.
#[derive(Debug, Default)]
pub(super) struct Reached(Mutex<HashMap<Key, Line>>);

#[derive(Debug, Default)]
struct Line {
    count: u32,
    /// Those who wait for one of this endpoint's own, the longest waiting first.
    waiting: Arc<Notify>,
}

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
        let count = reached.get(endpoint).map_or(0, |line| line.count);
        let held = self.pool.connection(limits, count < own)?;
        reached.entry(Key::clone(endpoint)).or_default().count = count.saturating_add(1);
        let reaches = Reaches { circuit: Arc::clone(self), endpoint: Key::clone(endpoint), own };
        Ok(Connection { held: Some(held), reaches: Some(reaches) })
    }

    /// Where those wait whom this endpoint serves past the limit, beside [`Circuit::freed`].
    pub fn line(&self, endpoint: &Key) -> Arc<Notify> {
        Arc::clone(&lock(&self.reached.0).entry(Key::clone(endpoint)).or_default().waiting)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        drop(self.held.take());
        let Some(Reaches { circuit, endpoint, own }) = self.reaches.take() else { return };
        let mut reached = lock(&circuit.reached.0);
        let Some(line) = reached.get_mut(&endpoint) else { return };
        line.count = line.count.saturating_sub(1);
        // One of those who wait for this endpoint needs no room among the others any more.
        if line.count < own {
            line.waiting.notify_one();
        }
        if line.count == 0 && Arc::strong_count(&line.waiting) == 1 {
            reached.remove(&endpoint);
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

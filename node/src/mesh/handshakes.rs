//! What a node gives to handshakes of others that have not ended: how long one may take, and how many may be under way.
//! Policy says both; a change counts for handshakes that begin after it.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use super::crowd::{Crowd, Place};

/// Time for a handshake, until policy says otherwise, milliseconds.
const TIME: u64 = 10_000;
/// Handshakes of one carrier under way, until policy says otherwise.
const PENDING: usize = 512;

/// One node's, all workers and runtimes together.
#[derive(Debug)]
pub(super) struct Handshakes {
    time: AtomicU64,
    pending: AtomicUsize,
    over_tcp: Arc<Crowd>,
    over_quic: Arc<AtomicUsize>,
    /// Those over QUIC whose sender has proved its address.
    proved: Arc<Crowd>,
}

/// A QUIC handshake under way, until dropped.
#[derive(Debug)]
pub(super) struct UnderWay {
    all: Arc<AtomicUsize>,
    _place: Option<Place>,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.all.fetch_sub(1, Relaxed);
    }
}

impl Default for Handshakes {
    fn default() -> Handshakes {
        Handshakes {
            time: AtomicU64::new(TIME),
            pending: AtomicUsize::new(PENDING),
            over_tcp: Crowd::new(PENDING, PENDING / 2),
            over_quic: Arc::default(),
            proved: Crowd::new(PENDING, PENDING / 2),
        }
    }
}

impl Handshakes {
    /// What holds from now on.
    pub(super) fn set(&self, time: Duration, pending: usize) {
        self.time.store(u64::try_from(time.as_millis()).unwrap_or(u64::MAX), Relaxed);
        self.pending.store(pending, Relaxed);
    }

    /// Time for one.
    pub(super) fn time(&self) -> Duration {
        Duration::from_millis(self.time.load(Relaxed))
    }

    /// How many of one carrier may be under way.
    pub(super) fn pending(&self) -> usize {
        self.pending.load(Relaxed)
    }

    /// A place for one over TCP; one address gets at most half of all.
    pub(super) fn enter_tcp(&self, from: IpAddr) -> Option<Place> {
        let all = self.pending();
        self.over_tcp.enter_within(from, all, all.div_ceil(2))
    }

    /// Those over QUIC that are under way.
    pub(super) fn over_quic(&self) -> usize {
        self.over_quic.load(Relaxed)
    }

    /// One more over QUIC. An address that was proved gets at most half of all; one that was not could be anybody's, and is counted
    /// against nobody: those together get a quarter of all before they must prove themselves.
    pub(super) fn enter_quic(&self, proved: Option<IpAddr>) -> Option<UnderWay> {
        let all = self.pending();
        let place = match proved {
            Some(from) => Some(self.proved.enter_within(from, all, all.div_ceil(2))?),
            None => None,
        };
        self.over_quic.fetch_add(1, Relaxed);
        Some(UnderWay { all: self.over_quic.clone(), _place: place })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policy_changes_what_begins_from_now_on() {
        let handshakes = Handshakes::default();
        assert_eq!((handshakes.time(), handshakes.pending()), (Duration::from_secs(10), 512));
        handshakes.set(Duration::from_millis(30), 3);
        assert_eq!((handshakes.time(), handshakes.pending()), (Duration::from_millis(30), 3));
        let host = |last: u8| IpAddr::from([192, 0, 2, last]);
        let held = [handshakes.enter_tcp(host(1)), handshakes.enter_tcp(host(1))];
        assert!(held.iter().all(Option::is_some));
        assert!(handshakes.enter_tcp(host(1)).is_none(), "one address gets half, rounded up");
        let third = handshakes.enter_tcp(host(2));
        assert!(third.is_some() && handshakes.enter_tcp(host(3)).is_none());
        handshakes.set(Duration::from_millis(30), 4);
        assert!(handshakes.enter_tcp(host(3)).is_some());
    }

    #[test]
    fn one_address_gets_half_of_the_handshakes_over_quic_and_a_forged_one_costs_nobody_his() {
        let handshakes = Handshakes::default();
        handshakes.set(Duration::from_secs(1), 4);
        let host = |last: u8| Some(IpAddr::from([192, 0, 2, last]));
        let forged = handshakes.enter_quic(None);
        let held = [handshakes.enter_quic(host(1)), handshakes.enter_quic(host(1))];
        assert!(forged.is_some() && held.iter().all(Option::is_some));
        assert!(handshakes.enter_quic(host(1)).is_none());
        let other = handshakes.enter_quic(host(2));
        assert!(other.is_some());
        assert_eq!(handshakes.over_quic(), 4, "who is turned away counts for nothing");
        drop((forged, held, other));
        assert_eq!(handshakes.over_quic(), 0);
        assert!(handshakes.enter_quic(host(1)).is_some());
    }
}

//! chitchat itself in virtual time: everybody's runs on one runtime whose clock is the simulation's. What chitchat leaves to chance is
//! its own, so no two runs are alike.

use std::{sync::Arc, time::Duration};

use certs::{
    codec::Millis,
    id::{NodeId, TrustDomain},
};
use rand::Rng;
use tokio::{runtime::Runtime, sync::mpsc, task::AbortHandle};

use super::{
    network::{Network, ROUND_MS},
    twin::Twin,
};
use crate::gossip::{Carrier as _, Feed, Gossip, GossipConfig, Outgoing};

/// How often what chitchats say is fetched, in milliseconds.
pub(super) const GRAIN_MS: u64 = 10;
/// How often everybody may go on with what others just said to it, before the clock does.
const TURNS: usize = 32;

/// What brings the records that faster paths lost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Repair {
    /// Nothing.
    Off,
    /// The twin of chitchat, in which chance is the seed's.
    #[default]
    Twin,
    /// chitchat itself.
    Chitchat,
}

/// The clock, and whose tasks it drives.
pub(super) struct VirtualTime {
    runtime: Runtime,
    now: Millis,
}

impl VirtualTime {
    /// One whose clock stands at this time.
    pub(super) fn new(now: Millis) -> VirtualTime {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_time().start_paused(true).build();
        VirtualTime { runtime: runtime.expect("a runtime without sockets needs nothing of the system"), now }
    }

    /// When [`VirtualTime::advance`] is due, at the latest.
    pub(super) fn due(&self) -> Millis {
        self.now + GRAIN_MS
    }

    /// Lets everybody do what is to be done up to this time.
    pub(super) fn advance(&mut self, now: Millis) {
        let passed = Duration::from_millis(now.saturating_sub(self.now));
        self.now = now;
        self.runtime.block_on(async {
            // A paused clock goes from timer to timer while nobody has anything else to do.
            tokio::time::sleep(passed).await;
            for _ in 0..TURNS {
                tokio::task::yield_now().await;
            }
        });
    }

    /// Starts a node's.
    pub(super) fn start(&self, config: GossipConfig) -> Chitchat {
        let (gossip, said, run) = Gossip::start(config);
        let task = self.runtime.spawn(run).abort_handle();
        Chitchat { gossip, said, task }
    }
}

impl Network {
    /// What repairs at a node that starts.
    pub(super) fn repairer(&mut self, trust_domain: TrustDomain) -> Repairer {
        let seed = self.random.random();
        match self.repair {
            Repair::Off => Repairer::Off,
            Repair::Twin => Repairer::Twin(Box::new(Twin::new(trust_domain, self.notary.clone(), seed))),
            Repair::Chitchat => {
                let config = GossipConfig { trust_domain, interval: Duration::from_millis(ROUND_MS), seed };
                let now = self.now;
                Repairer::Chitchat(self.virtual_time.get_or_insert_with(|| VirtualTime::new(now)).start(config))
            }
        }
    }
}

/// One node's chitchat. Dropped, it ends.
pub(super) struct Chitchat {
    gossip: Gossip,
    said: mpsc::Receiver<Outgoing>,
    task: AbortHandle,
}

impl Drop for Chitchat {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What repairs a node's records.
pub(super) enum Repairer {
    /// Chitchat's twin, whose rounds are the simulation's.
    Twin(Box<Twin>),
    /// Chitchat, which has rounds of its own.
    Chitchat(Chitchat),
    /// Nothing.
    Off,
}

impl Repairer {
    pub(super) fn feed(&mut self, feed: Arc<Feed>) {
        match self {
            Repairer::Twin(twin) => twin.feed(feed),
            Repairer::Chitchat(chitchat) => chitchat.gossip.feed(feed),
            Repairer::Off => {}
        }
    }

    /// A round of the simulation, with so many peers.
    pub(super) fn round(&mut self, peers: usize) {
        match self {
            Repairer::Twin(twin) => twin.round_with(peers),
            Repairer::Chitchat(_) | Repairer::Off => {}
        }
    }

    /// True if it brought the twin news beyond signs of life: chitchat sees to its own.
    pub(super) fn deliver(&mut self, from: &NodeId, bytes: &[u8]) -> bool {
        match self {
            Repairer::Twin(twin) => twin.deliver(from, bytes),
            Repairer::Chitchat(chitchat) => {
                chitchat.gossip.deliver(from, bytes);
                false
            }
            Repairer::Off => false,
        }
    }

    /// What it wants said and done.
    pub(super) fn drain(&mut self) -> Vec<Outgoing> {
        match self {
            Repairer::Twin(twin) => twin.drain(),
            Repairer::Chitchat(chitchat) => std::iter::from_fn(|| chitchat.said.try_recv().ok()).collect(),
            Repairer::Off => Vec::new(),
        }
    }
}

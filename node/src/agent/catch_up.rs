//! The way back for a node that its mesh has left behind: it asks whoever listens where members were last seen that are not linked for
//! the policy that they show to joiners. RoleSets prove themselves, so a node that was away while roots or enrollers changed learns of
//! it although it can verify nobody yet, or nobody believes it.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Duration};

use certs::{id::NodeId, join::Chain, verify::Authority};
use rand::seq::SliceRandom as _;
use tokio::time::{Interval, MissedTickBehavior};

use super::{addresses::Addresses, event, join::shown_policy, sync::Sync};
use crate::clock::Uptime;

/// How often a node looks whom it lacks.
const INTERVAL: Duration = Duration::from_secs(2);
/// Time between two notes of where members are.
const SPACING: Duration = Duration::from_millis(250);
/// Every so many looks without some link it asks: links that were just lost come back by themselves.
const PATIENCE: u32 = 4;
/// The same where a member refuses this node.
const REFUSED_PATIENCE: u32 = 2;
/// Addresses that are asked at a time.
const AT_ONCE: usize = 3;
/// Times that what is shown is gone through.
const ROUNDS: usize = 16;

/// Runs until the process ends.
pub async fn run(sync: Arc<Sync>, addresses: Arc<Addresses>) {
    let mut lacking = 0u32;
    let (mut looks, mut changes) = (looks(), sync.world.changes());
    loop {
        let looks = tokio::select! {
            _ = looks.tick() => true,
            changed = changes.changed() => {
                tokio::time::sleep(SPACING).await;
                if changed.is_err() { return } else { false }
            }
            () = sync.tasks.stopping() => return note(&sync, &addresses).await,
        };
        note(&sync, &addresses).await;
        if !looks {
            continue;
        }
        let state = sync.world.current().load().state.clone();
        let others = state.grants().values().any(|grant| !grant.retired && grant.node != *sync.node());
        let linked: BTreeSet<NodeId> = sync.links.all().iter().map(|link| link.peer().node.clone()).collect();
        let refused = sync.links.refusers(Uptime::now()).iter().any(|node| !linked.contains(node));
        let lost = addresses.seen_but(&linked);
        if !others || (lost.is_empty() && !linked.is_empty()) {
            lacking = 0;
            continue;
        }
        lacking = lacking.wrapping_add(1);
        if !lacking.is_multiple_of(if refused { REFUSED_PATIENCE } else { PATIENCE }) {
            continue;
        }
        let mut asked = if linked.is_empty() { addresses.all(|_| false).await } else { lost };
        asked.shuffle(&mut rand::rng());
        for address in asked.into_iter().take(AT_ONCE) {
            sync.ask_policy(address, linked.is_empty()).await;
        }
    }
}

/// Those that were missed while the machine stood still are not made up for.
fn looks() -> Interval {
    let mut looks = tokio::time::interval(INTERVAL);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    looks
}

/// Needs the disk, and a thread that may wait for it, only where a member moved, came or went.
async fn note(sync: &Arc<Sync>, addresses: &Arc<Addresses>) {
    let state = sync.world.current().load().state.clone();
    let Some(table) = addresses.note(sync.world.view().members(), &state, sync.node()) else { return };
    let addresses = addresses.clone();
    let kept = tokio::task::spawn_blocking(move || addresses.keep(&table));
    // It ends with the process at the latest.
    let _ = kept.await;
}

impl Sync {
    /// `alone` says that nobody is linked: then this machine's clock may be the reason.
    async fn ask_policy(self: &Arc<Self>, address: SocketAddr, alone: bool) {
        match shown_policy(self.identity.trust_domain(), address).await {
            Ok((stream, chain)) => {
                self.learn_shown(chain, &address.to_string()).await;
                if alone {
                    self.judge_clock(stream.certificates());
                }
            }
            Err(error) => tracing::debug!(%address, "nobody shows policy there: {error}"),
        }
    }

    /// Takes in what somebody unverified shows of policy: each changeset is judged like a peer's. Gives whom to believe now.
    pub async fn learn_shown(self: &Arc<Self>, chain: Chain, from: &str) -> Arc<Authority> {
        let offered: Vec<Vec<u8>> = chain.role_sets.into_iter().chain(chain.grants).collect();
        let mut fresh = 0;
        // What another one refers to may come after it.
        for _ in 0..ROUNDS {
            match self.book.learn(offered.clone(), from, self.clock.now()).await {
                Ok(learned) => {
                    fresh += learned.fresh.len();
                    if learned.fresh.is_empty() || learned.missing.is_empty() {
                        break;
                    }
                }
                Err(error) => {
                    tracing::warn!(code = %error.code, "policy that {from} shows is not kept: {error}");
                    break;
                }
            }
        }
        if fresh > 0 {
            let what = format!("{fresh} changesets were learned from whoever listens at {from}");
            self.events.note(self.clock.now(), event::Kind::CaughtUp, from, what);
            self.apply().await;
            self.renew.notify_one();
        }
        self.world.authority().load_full()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_machine_that_stood_still_makes_up_for_no_looks() {
        let mut looks = looks();
        looks.tick().await;
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert!(looks.tick().now_or_never().is_some(), "one is due");
        assert!(looks.tick().now_or_never().is_none(), "and no other");
    }
}

//! The way back for a node that its mesh has left behind: while no member is linked, it asks whoever listens where members were last
//! seen for the policy that they show to joiners. RoleSets prove themselves, so a node that was away while roots or enrollers changed
//! learns of it although it can verify nobody yet.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use certs::{join::Chain, verify::Authority};
use rand::seq::SliceRandom as _;

use super::{addresses::Addresses, join::shown_policy, sync::Sync};

/// How often a node looks whether it is alone.
const INTERVAL: Duration = Duration::from_secs(5);
/// Looks without a link after which it asks: links that were just lost come back by themselves.
const PATIENCE: u32 = 2;
/// Addresses that are asked at each look.
const AT_ONCE: usize = 3;
/// Times that what is shown is gone through.
const ROUNDS: usize = 16;

/// Runs until the process ends.
pub async fn run(sync: Arc<Sync>, addresses: Arc<Addresses>) {
    let mut alone = 0;
    loop {
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = sync.tasks.stopping() => return,
        }
        note(&sync, &addresses).await;
        let state = sync.world.current().load().state.clone();
        let others = state.grants().values().any(|grant| !grant.retired && grant.node != *sync.node());
        alone = if others && sync.links.all().is_empty() { alone + 1 } else { 0 };
        if alone < PATIENCE {
            continue;
        }
        let mut asked = addresses.all(|_| false).await;
        asked.shuffle(&mut rand::rng());
        for address in asked.into_iter().take(AT_ONCE) {
            sync.ask_policy(address).await;
        }
    }
}

async fn note(sync: &Arc<Sync>, addresses: &Arc<Addresses>) {
    let (sync, addresses) = (sync.clone(), addresses.clone());
    let noted = tokio::task::spawn_blocking(move || {
        let state = sync.world.current().load().state.clone();
        addresses.note(&sync.world.view(), &state, sync.node());
    });
    // It ends with the process at the latest.
    let _ = noted.await;
}

impl Sync {
    async fn ask_policy(&self, address: SocketAddr) {
        match shown_policy(self.identity.trust_domain(), address).await {
            Ok((stream, chain)) => {
                self.learn_shown(chain, &address.to_string()).await;
                self.judge_clock(stream.certificates());
            }
            Err(error) => tracing::debug!(%address, "nobody shows policy there: {error}"),
        }
    }

    /// Takes in what somebody unverified shows of policy: each changeset is judged like a peer's. Gives whom to believe now.
    pub async fn learn_shown(&self, chain: Chain, from: &str) -> Arc<Authority> {
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
            self.events.note(self.clock.now(), "caught_up", from, what);
            self.apply().await;
            self.renew.notify_one();
        }
        self.world.authority().load_full()
    }
}

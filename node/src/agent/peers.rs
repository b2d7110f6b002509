//! The nodes that the configuration names: resolved again and again, since names and addresses change.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use membership::engine::Event;

use super::{Agent, members::Members};

/// Time to the next look when every name was known.
const SETTLED: Duration = Duration::from_secs(30);
/// Time to the next look when some name was not: a machine that is about to start.
const UNSETTLED: Duration = Duration::from_secs(1);

/// Tells the engine whom to try first, whenever that changed; `enroller` is where this node once joined.
pub async fn follow(agent: Agent, members: Members, enroller: Option<SocketAddr>) {
    let mut told = BTreeSet::new();
    let mut reloaded = agent.reloads();
    loop {
        let (addresses, settled) = resolve(&agent.config().mesh.peers).await;
        let addresses: BTreeSet<SocketAddr> = addresses.into_iter().chain(enroller).collect();
        if addresses != told {
            members.tell(Event::Peers(addresses.iter().copied().collect())).await;
            told = addresses;
        }
        tokio::select! {
            () = tokio::time::sleep(if settled { SETTLED } else { UNSETTLED }) => {}
            changed = reloaded.changed() => if changed.is_err() { return },
        }
    }
}

/// Addresses of `HOST:PORT`s, and whether all names were known.
async fn resolve(peers: &[String]) -> (Vec<SocketAddr>, bool) {
    let (mut addresses, mut settled) = (Vec::new(), true);
    for peer in peers {
        match tokio::net::lookup_host(peer.as_str()).await {
            Ok(found) => addresses.extend(found),
            Err(error) => {
                tracing::debug!(peer, "not resolved: {error}");
                settled = false;
            }
        }
    }
    (addresses, settled)
}

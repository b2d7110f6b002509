//! The nodes that the configuration names: resolved again and again, since names and addresses change.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Duration};

use membership::engine::Event;

use super::{Agent, addresses::Addresses, members::Members, resolver::NODES};

/// Time to the next look when every name was known.
const SETTLED: Duration = Duration::from_secs(30);
/// Time to the next look when some name was not: a machine that is about to start.
const UNSETTLED: Duration = Duration::from_secs(1);

/// Time to the next look while no member is linked.
const ALONE: Duration = Duration::from_secs(5);

/// Tells the engine whom to try first, whenever that changed; `enroller` is where this node once joined. While no member is linked,
/// these are also all places where members were ever seen.
pub async fn follow(agent: Agent, members: Members, enroller: Option<SocketAddr>, seen: Arc<Addresses>) {
    let mut told = BTreeSet::new();
    let mut reloaded = agent.reloads();
    loop {
        let (addresses, settled) = resolve(&agent.config().mesh.peers).await;
        let mut addresses: BTreeSet<SocketAddr> = addresses.into_iter().chain(enroller).collect();
        let alone = agent.is_alone();
        if alone {
            addresses.extend(seen.seen_at());
        }
        if addresses != told {
            members.tell(Event::Peers(addresses.iter().copied().collect())).await;
            told = addresses;
        }
        tokio::select! {
            () = tokio::time::sleep(pause(settled, alone)) => {}
            changed = reloaded.changed() => if changed.is_err() { return },
        }
    }
}

fn pause(settled: bool, alone: bool) -> Duration {
    match (settled, alone) {
        (false, _) => UNSETTLED,
        (true, true) => ALONE,
        (true, false) => SETTLED,
    }
}

/// Addresses of `HOST:PORT`s, and whether all names were known.
async fn resolve(peers: &[String]) -> (Vec<SocketAddr>, bool) {
    let (mut addresses, mut settled) = (Vec::new(), true);
    for peer in peers {
        match NODES.host_and_port(peer).await {
            Ok(found) => addresses.extend(found),
            Err(error) => {
                tracing::debug!(peer, "not resolved: {error}");
                settled = false;
            }
        }
    }
    (addresses, settled)
}

//! Names that requests bring and a ServiceEntry lets them bring (`resolution: DYNAMIC_DNS`, and wildcards with NONE): looked up when the data
//! plane asks, apart from those that documents write, so that neither waits for the other.

use std::{io, net::IpAddr, sync::Arc};

use futures_util::{StreamExt as _, stream::FuturesUnordered};

use super::{answered, forbidden};
use crate::{
    agent::world::World,
    clock,
    snapshot::{Lookups, Wanted},
};

/// Names that are looked up at once: each keeps a thread busy.
const AT_ONCE: usize = 8;

/// Runs for ever.
pub(super) async fn answer<F>(world: Arc<World>, look_up: impl Fn(Arc<str>) -> F)
where
    F: Future<Output = io::Result<Vec<IpAddr>>>,
{
    let lookups = Arc::clone(world.current().lookups());
    let forbidden = |wanted: &Wanted, address: IpAddr| forbidden(&world, wanted, address);
    serve(&lookups, look_up, forbidden).await;
}

async fn serve<F>(
    lookups: &Lookups,
    look_up: impl Fn(Arc<str>) -> F,
    forbidden: impl Fn(&Wanted, IpAddr) -> Option<&'static str>,
) where
    F: Future<Output = io::Result<Vec<IpAddr>>>,
{
    let mut looks = FuturesUnordered::new();
    loop {
        for wanted in lookups.take(AT_ONCE - looks.len()) {
            let look = look_up(Arc::clone(&wanted.0));
            looks.push(async move { (answered(look.await), wanted) });
        }
        tokio::select! {
            Some((found, wanted)) = looks.next() => {
                let address = match found {
                    Ok(addresses) => usable(&wanted, addresses, &forbidden),
                    Err(why) => {
                        tracing::debug!(name = %wanted.0, "a name of a request does not resolve: {why}");
                        None
                    }
                };
                lookups.answer(&wanted, address, clock::uptime());
            }
            () = lookups.woken() => {}
        }
    }
}

/// The first address that the name may mean: the resolver puts first what this machine reaches best (RFC 6724).
fn usable(
    wanted: &Wanted,
    addresses: Vec<IpAddr>,
    forbidden: impl Fn(&Wanted, IpAddr) -> Option<&'static str>,
) -> Option<IpAddr> {
    addresses.into_iter().find(|address| {
        let refused = forbidden(wanted, *address);
        if let Some(what) = refused {
            tracing::warn!(name = %wanted.0, %address, "the name of a request resolves to {what}: it is not used");
        }
        refused.is_none()
    })
}

fn forbidden(world: &World, (name, port): &Wanted, address: IpAddr) -> Option<&'static str> {
    let own = || world.own_ports().contains((address, *port).into()).then_some("a port of this node itself");
    forbidden::refused(name, address).or_else(own)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::snapshot::Asked;

    #[tokio::test]
    async fn a107_a_name_that_a_request_brings_means_no_machine_of_the_callers_own() {
        let lookups = Arc::new(Lookups::default());
        let look_up = |name: Arc<str>| async move {
            let text: &[&str] = match &*name {
                "good.example" => &["10.0.0.1", "10.0.0.2"],
                "mixed.example" => &["169.254.169.254", "::ffff:127.0.0.1", "10.0.0.3"],
                "evil.example" => &["127.0.0.1", "fd00:ec2::254"],
                "own.example" => &["10.0.0.9"],
                // Whoever is slow keeps nobody else waiting.
                "slow.example" => std::future::pending().await,
                _ => return Err(io::ErrorKind::NotFound.into()),
            };
            Ok(text.iter().map(|text| text.parse().unwrap()).collect())
        };
        let own: IpAddr = "10.0.0.9".parse().unwrap();
        let refuses = move |(name, port): &Wanted, address: IpAddr| {
            forbidden::refused(name, address).or((address == own && *port == 15000).then_some("own"))
        };
        let asker = async {
            assert!(matches!(lookups.ask("slow.example", 80, "shop", 0), Asked::Wait(_)));
            for (name, port, wanted) in [
                ("good.example", 80, Some("10.0.0.1")),
                ("mixed.example", 80, Some("10.0.0.3")),
                ("evil.example", 80, None),
                ("own.example", 15000, None),
                ("own.example", 80, Some("10.0.0.9")),
                ("missing.example", 80, None),
            ] {
                let found = loop {
                    match lookups.ask(name, port, "shop", clock::uptime()) {
                        Asked::Known(address) => break Some(address),
                        Asked::Nothing => break None,
                        Asked::Wait(mut ended) => ended.changed().await.unwrap(),
                        Asked::Full => panic!("there is room"),
                    }
                };
                assert_eq!(found, wanted.map(|text| text.parse().unwrap()), "{name}:{port}");
            }
        };
        tokio::select! {
            () = serve(&lookups, look_up, refuses) => panic!("it goes on for ever"),
            () = asker => {}
            () = tokio::time::sleep(Duration::from_secs(30)) => panic!("somebody waits for ever"),
        }
    }
}

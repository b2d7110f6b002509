//! Names that requests bring and a ServiceEntry lets them bring (`resolution: DYNAMIC_DNS`, and wildcards with NONE): looked up when the data
//! plane asks, apart from those that documents write, so that neither waits for the other.

use std::{
    io::{self, Read as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};

use super::{answered, forbidden};
use crate::{
    agent::{resolver::Resolver, world::World},
    clock,
    snapshot::{ADDRESSES, Lookups, Wanted},
};

/// Names that are looked up at once.
const AT_ONCE: usize = 8;
static RESOLVER: Resolver = Resolver::new("names of requests", AT_ONCE);
/// Names that the machine itself knows.
const HOSTS: &str = "/etc/hosts";
/// Bytes of that file that are read at most.
const LONGEST_HOSTS: u64 = 1024 * 1024;

/// Runs for ever.
pub(super) async fn answer<F>(world: Arc<World>, look_up: impl Fn(Arc<str>) -> F)
where
    F: Future<Output = io::Result<Vec<IpAddr>>>,
{
    let lookups = Arc::clone(world.current().lookups());
    let forbidden = |wanted: &Wanted, address: IpAddr| forbidden(&world, wanted, address);
    serve(&lookups, look_up, forbidden).await;
}

/// The addresses of a name as the request has it: where the machine's resolver would try other names, too (`search` of
/// `resolv.conf`), it is asked with the final dot, with which the machine's own table does not know it.
pub(super) async fn look_up(name: Arc<str>) -> io::Result<Vec<IpAddr>> {
    RESOLVER.run(move || meant(&name)).await
}

/// The same, blocking.
fn meant(name: &str) -> io::Result<Vec<IpAddr>> {
    let mut table = String::new();
    if let Ok(file) = std::fs::File::open(HOSTS) {
        // What is no text says nothing.
        drop(file.take(LONGEST_HOSTS).read_to_string(&mut table));
    }
    let own = in_table(&table, name);
    if !own.is_empty() {
        return Ok(own);
    }
    if forbidden::is_localhost(name) {
        return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
    }
    super::resolved(&format!("{name}."))
}

/// What `hosts(5)` says of a name.
fn in_table(table: &str, name: &str) -> Vec<IpAddr> {
    let lines = table.lines().map(|line| line.split('#').next().unwrap_or_default());
    let of_line = |line: &str| {
        let mut words = line.split_whitespace();
        let address = words.next()?.parse().ok()?;
        words.any(|word| word.eq_ignore_ascii_case(name)).then_some(address)
    };
    lines.filter_map(of_line).collect()
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
        for wanted in lookups.take(AT_ONCE - looks.len(), clock::uptime()) {
            let look = look_up(Arc::clone(&wanted.name));
            looks.push(async move { (answered(look.await), wanted) });
        }
        tokio::select! {
            Some((found, wanted)) = looks.next() => {
                let addresses = found.unwrap_or_else(|why| {
                    tracing::debug!(name = %wanted.name, "a name of a request does not resolve: {why}");
                    Vec::new()
                });
                lookups.answer(&wanted, || usable(&wanted, addresses, &forbidden), clock::uptime());
            }
            () = lookups.woken() => {}
        }
    }
}

/// The first addresses that the name may mean: the resolver puts first what this machine reaches best (RFC 6724).
fn usable(
    wanted: &Wanted,
    addresses: Vec<IpAddr>,
    forbidden: impl Fn(&Wanted, IpAddr) -> Option<&'static str>,
) -> Vec<IpAddr> {
    let allowed = addresses.into_iter().filter(|address| {
        let refused = forbidden(wanted, *address);
        if let Some(what) = refused {
            tracing::warn!(name = %wanted.name, %address, "the name of a request resolves to {what}: it is not used");
        }
        refused.is_none()
    });
    allowed.take(ADDRESSES).collect()
}

fn forbidden(world: &World, wanted: &Wanted, address: IpAddr) -> Option<&'static str> {
    let own = || world.own_ports().contains((address, wanted.port).into()).then_some("a port of this node itself");
    judged(wanted, address).or_else(own)
}

/// A request may name this machine only where a document does.
fn judged(wanted: &Wanted, address: IpAddr) -> Option<&'static str> {
    forbidden::refused_of(address, wanted.may_be_here && forbidden::is_localhost(&wanted.name))
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
                "app.localhost" => &["127.0.0.1"],
                // Whoever is slow keeps nobody else waiting.
                "slow.example" => std::future::pending().await,
                _ => return Err(io::ErrorKind::NotFound.into()),
            };
            Ok(text.iter().map(|text| text.parse().unwrap()).collect())
        };
        let own: IpAddr = "10.0.0.9".parse().unwrap();
        let refuses = move |wanted: &Wanted, address: IpAddr| {
            judged(wanted, address).or((address == own && wanted.port == 15000).then_some("own"))
        };
        let ask = |name: &str, port, may_be_here| {
            lookups.ask(&Wanted { name: name.into(), port, may_be_here }, "shop", clock::uptime())
        };
        let asker = async {
            assert!(matches!(ask("slow.example", 80, false), Asked::Wait(_)));
            for (name, port, may_be_here, wanted) in [
                ("good.example", 80, false, Some("10.0.0.1")),
                ("mixed.example", 80, false, Some("10.0.0.3")),
                ("evil.example", 80, false, None),
                ("own.example", 15000, false, None),
                ("own.example", 80, false, Some("10.0.0.9")),
                ("missing.example", 80, false, None),
                // Whoever lets any name be brought has not written this machine's.
                ("app.localhost", 80, false, None),
                ("app.localhost", 80, true, Some("127.0.0.1")),
                ("evil.example", 80, true, None),
            ] {
                let found = loop {
                    match ask(name, port, may_be_here) {
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

    #[test]
    fn the_machines_own_table_is_read() {
        let table = "127.0.0.1 localhost\n# 10.0.0.1 a.example\n10.0.0.2\tA.example b.example # c.example\n::1 a.example\nx a.example\n";
        let found = |name| in_table(table, name).iter().map(IpAddr::to_string).collect::<Vec<_>>();
        assert_eq!(found("a.example"), ["10.0.0.2", "::1"]);
        assert_eq!(found("b.example"), ["10.0.0.2"]);
        assert!(found("c.example").is_empty() && found("10.0.0.2").is_empty());
    }

    #[tokio::test]
    async fn localhost_is_this_machine_whatever_resolvers_say() {
        let found = look_up("app.localhost".into()).await.unwrap();
        assert!(!found.is_empty() && found.iter().all(IpAddr::is_loopback), "{found:?}");
    }
}

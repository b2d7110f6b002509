//! `[dns]` and `[capture]`: where names are answered, which addresses they have, where captured connections are taken.

use std::{
    net::{Ipv4Addr, SocketAddr},
    ops::Range,
};

use super::{
    Capture, Cidr, Dns, Service,
    check::{address, number, speaker},
    error::{ConfigError, Source},
    raw,
};

/// Where names are answered unless the file says otherwise.
const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 15053);
/// The addresses of services unless the file says otherwise.
const ADDRESSES: &str = "127.240.0.0/16";
/// Where captured connections are taken unless the file says otherwise.
const CAPTURE: u16 = 15002;
/// The narrowest range: 14 services.
const NARROWEST: u128 = 16;
/// Resolvers that may be named.
const UPSTREAMS: usize = 3;

/// The table, once all services are known: one of them is who calls at the addresses.
pub(super) fn dns(
    source: Source<'_>,
    raw: &raw::Dns,
    place: Range<usize>,
    services: &[Service],
) -> Result<Dns, ConfigError> {
    let listen = raw.listen.as_ref().map_or(Ok(LISTEN), |text| address(source, text))?;
    if let Some(text) = raw.listen.as_ref().filter(|_| !listen.ip().is_loopback()) {
        let message = format!("{listen} is not on loopback");
        let hint =
            "answers are for this machine's applications only: 127.0.0.1:15053, or another address of 127.0.0.0/8";
        return Err(source.at(text.span(), message, hint));
    }
    let upstreams = raw.upstreams.as_ref().map(|list| {
        if list.get_ref().is_empty() || list.get_ref().len() > UPSTREAMS {
            let message = format!("{} resolvers", list.get_ref().len());
            return Err(source.at(
                list.span(),
                message,
                "name 1 to 3, or leave it out: then /etc/resolv.conf says whom",
            ));
        }
        list.get_ref().iter().map(|text| upstream(source, text)).collect()
    });
    let excluded = raw.exclude_ports.iter().map(|port| number(source, port, 1..=65535));
    Ok(Dns {
        listen,
        exclude_ports: excluded.collect::<Result<_, _>>()?,
        any_host: raw.any_host,
        addresses: range(source, raw.addresses.as_ref())?,
        upstreams: upstreams.transpose()?,
        speaker: speaker(source, raw.speaker.as_ref(), place, services)?,
    })
}

/// The table, once all services are known.
pub(super) fn capture(
    source: Source<'_>,
    raw: &raw::Capture,
    place: Range<usize>,
    services: &[Service],
) -> Result<Capture, ConfigError> {
    Ok(Capture {
        port: raw.port.as_ref().map_or(Ok(CAPTURE), |port| number(source, port, 0..=65535))?,
        inbound_port: raw.inbound_port.as_ref().map(|port| number(source, port, 0..=65535)).transpose()?,
        speaker: speaker(source, raw.speaker.as_ref(), place, services)?,
    })
}

/// `ADDRESS` or `ADDRESS:PORT`.
fn upstream(source: Source<'_>, text: &toml::Spanned<String>) -> Result<SocketAddr, ConfigError> {
    match text.get_ref().parse() {
        Ok(ip) => Ok(SocketAddr::new(ip, 53)),
        Err(_) => address(source, text),
    }
}

fn range(source: Source<'_>, text: Option<&toml::Spanned<String>>) -> Result<Cidr, ConfigError> {
    let given = text.map_or(ADDRESSES, |text| text.get_ref());
    let refused = |message: String| {
        let hint = format!("a part of 127.0.0.0/8 without 127.0.0.1 that nothing else uses, such as {ADDRESSES}");
        source.at(text.map_or(0..0, toml::Spanned::span), message, hint)
    };
    let range = Cidr::parse(given).map_err(refused)?;
    let is_loopback = [range.nth(0), range.nth(u32::try_from(range.size() - 1).unwrap_or(u32::MAX))]
        .iter()
        .all(|end| end.is_some_and(|end| end.is_loopback()));
    if !is_loopback || range.contains(Ipv4Addr::LOCALHOST.into()) || range.size() < NARROWEST {
        return Err(refused(format!("`{given}` cannot hold addresses of services")));
    }
    Ok(range)
}

#[cfg(test)]
mod tests {
    use super::super::{ConfigError, read_text};
    use super::*;
    use std::path::Path;

    fn read(dns: &str) -> Result<Dns, ConfigError> {
        let text = format!("[node]\nname = \"a\"\ntrust_domain = \"t\"\n[[service]]\nname = \"a\"\n{dns}");
        read_text(Path::new("skein.toml"), &text, &[]).map(|config| config.dns.unwrap())
    }

    #[test]
    fn everything_has_a_default_but_that_it_is_there() {
        let dns = read("[dns]\n").unwrap();
        assert_eq!((dns.listen, dns.addresses.to_string()), (LISTEN, ADDRESSES.to_owned()));
        assert_eq!((dns.upstreams, dns.speaker.to_string()), (None, "default/a".to_owned()));
        assert!(dns.exclude_ports.is_empty() && !dns.any_host);
        assert!(read("[dns]\nany_host = true\n").unwrap().any_host);
        let dns = read(
            "[dns]\nlisten = \"127.0.0.2:53\"\naddresses = \"127.9.0.0/20\"\nupstreams = [\"10.0.0.2\", \"[::1]:5353\"]\nexclude_ports = [25, 22]\nas = \"default/a\"\n",
        )
        .unwrap();
        assert_eq!(dns.exclude_ports, [22, 25].into());
        assert_eq!(dns.upstreams, Some(vec!["10.0.0.2:53".parse().unwrap(), "[::1]:5353".parse().unwrap()]));
        assert_eq!(dns.addresses.nth(1), Some(Ipv4Addr::new(127, 9, 0, 1)));
    }

    #[test]
    fn captured_connections_have_a_port_and_a_caller() {
        let read = |capture: &str| {
            let text = format!("[node]\nname = \"a\"\ntrust_domain = \"t\"\n[[service]]\nname = \"a\"\n{capture}");
            read_text(Path::new("skein.toml"), &text, &[])
        };
        let capture = read("[capture]\n").unwrap().capture.unwrap();
        assert_eq!((capture.port, capture.speaker.to_string()), (CAPTURE, "default/a".to_owned()));
        assert_eq!(read("[capture]\nport = 0\nas = \"default/a\"\n").unwrap().capture.unwrap().port, 0);
        assert_eq!(capture.inbound_port, None, "nobody of another machine comes in unless the file says so");
        let inbound = read("[capture]\ninbound_port = 15006\n").unwrap().capture.unwrap();
        assert_eq!((inbound.port, inbound.inbound_port), (CAPTURE, Some(15006)));
        assert_eq!(read("").unwrap().capture, None);
        let both = "[capture]\nport = 15006\ninbound_port = 15006\n";
        let taken = "[[outbound]]\nhttp = \"127.0.0.1:15002\"\n[capture]\n";
        for (bad, why) in [
            ("[capture]\nport = 70000\n", "not within"),
            ("[capture]\ninbound_port = 70000\n", "not within"),
            (both, "is taken by"),
            ("[capture]\nas = \"default/b\"\n", "no service of this node"),
            ("[capture]\nuids = [1]\n", "unknown field"),
            (taken, "is taken by"),
        ] {
            let error = read(bad).unwrap_err();
            assert!(error.message.contains(why) && !error.hint.is_empty(), "{bad}: {error}");
        }
    }

    #[test]
    fn what_would_reach_beyond_this_machine_is_refused() {
        for (bad, why) in [
            ("listen = \"0.0.0.0:15053\"", "not on loopback"),
            ("listen = \"10.0.0.1:53\"", "not on loopback"),
            ("listen = \"53\"", "no ADDRESS:PORT"),
            ("addresses = \"10.0.0.0/16\"", "cannot hold"),
            ("addresses = \"127.0.0.0/8\"", "cannot hold"),
            ("addresses = \"126.0.0.0/7\"", "cannot hold"),
            ("addresses = \"127.9.0.0/30\"", "cannot hold"),
            ("addresses = \"::1/128\"", "cannot hold"),
            ("upstreams = []", "0 resolvers"),
            ("upstreams = [\"ns.example\"]", "no ADDRESS:PORT"),
            ("as = \"default/b\"", "no service of this node"),
            ("exclude_ports = [0]", "not within"),
            ("exclude_ports = [70000]", "not within"),
            ("port = 53", "unknown field"),
        ] {
            let error = read(&format!("[dns]\n{bad}\n")).unwrap_err();
            assert!(error.message.contains(why) && !error.hint.is_empty(), "{bad}: {error}");
        }
    }
}

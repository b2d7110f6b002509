//! The table's text. Pure.

use crate::config::Cidr;
use std::{
    collections::BTreeSet,
    fmt::Display,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

/// The table.
pub(super) const TABLE: &str = "inet skein";
/// The chain for connections of other machines.
pub(super) const INCOMING: &str = "incoming";
/// Ports of applications at each address of the machine.
pub(super) const ANYWHERE: &str = "ports";
/// Those at each address of IPv6.
pub(super) const ANYWHERE_V6: &str = "ports6";
/// Those at one address.
pub(super) const AT_V4: &str = "ports_v4";
/// Those at one address of IPv6.
pub(super) const AT_V6: &str = "ports_v6";
/// Sets of the ports of applications, and what they hold.
const TARGETS: [(&str, &str); 4] = [
    (ANYWHERE, "inet_service"),
    (ANYWHERE_V6, "inet_service"),
    (AT_V4, "ipv4_addr . inet_service"),
    (AT_V6, "ipv6_addr . inet_service"),
];
/// Machine services of clouds that are not at link-local addresses: Amazon's by IPv6, Alibaba's, Azure's and Oracle's. They know who asks by who
/// asks, and no name may mean them.
pub const MACHINE_SERVICES: [IpAddr; 4] = [
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
];
/// Ports that are never redirected: SSH, wherever to.
const SSH: u16 = 22;
/// Nobody listens there.
const NO_IPV6: &str = "meta nfproto ipv6 return";
/// Nothing is redirected any more.
const DISARMED: &str = "meta l4proto != @armed return";
/// What is in the middle of a connection stays where it is.
const UNDER_WAY: &str = "tcp flags & (fin | syn | rst | ack) != syn return";

/// What is redirected to where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// Connections of this machine; none are, where there is nothing here.
    pub outgoing: Option<Outgoing>,
    /// Connections of other machines; the same.
    pub incoming: Option<Incoming>,
    /// Ports that are left alone, wherever to: the mesh's own, and what the operator says.
    pub spared: BTreeSet<u16>,
    /// Networks that are left alone.
    pub networks: Vec<Cidr>,
}

/// Which connections of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// The node's port on loopback.
    pub port: u16,
    /// True if it listens there on IPv6, too: else IPv6 is left alone.
    pub ipv6: bool,
    /// Whose connections are the node's own.
    pub node: u32,
    /// Loopback addresses that mean services; every other local address is left alone.
    pub services: Option<Cidr>,
    /// Users whose connections are meant; with no user and no group, everybody's are.
    pub uids: BTreeSet<u32>,
    /// Groups whose connections are meant.
    pub gids: BTreeSet<u32>,
}

/// Which connections of other machines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incoming {
    /// The node's port on all addresses.
    pub port: u16,
    /// True if it listens there on IPv6, too: else IPv6 is left alone.
    pub ipv6: bool,
    /// The ports of applications; without an address (`0.0.0.0`, `[::]`) at each address of that family.
    pub targets: Vec<SocketAddr>,
}

impl Rules {
    /// One transaction that puts these in place of whatever was there, in force for so long unless [`renewal`] says otherwise.
    ///
    /// The chains themselves stay if they are there: with the last chain of its kind the kernel forgets where captured connections led.
    pub fn script(&self, token: u32, life: Duration) -> String {
        let mut lines = vec![
            format!("add table {TABLE}"),
            format!("add set {TABLE} armed {{ type inet_proto; flags timeout; }}"),
            format!("add set {TABLE} owner {{ type mark; }}"),
            format!("add set {TABLE} confirmed {{ type inet_proto; }}"),
        ];
        lines.extend(TARGETS.map(|(set, of)| format!("add set {TABLE} {set} {{ type {of}; }}")));
        lines.push(format!("add chain {TABLE} captured"));
        let hooked = [("output", "output"), (INCOMING, "prerouting")];
        lines.extend(hooked.map(|(chain, hook)| {
            format!("add chain {TABLE} {chain} {{ type nat hook {hook} priority -100; policy accept; }}")
        }));
        lines.extend(["captured", "output", INCOMING].map(|chain| format!("flush chain {TABLE} {chain}")));
        lines.extend(["armed", "owner", "confirmed"].map(|set| format!("flush set {TABLE} {set}")));
        if let Some(outgoing) = &self.outgoing {
            self.outgoing(outgoing, &mut lines);
        }
        if let Some(incoming) = &self.incoming {
            self.incoming(incoming, &mut lines);
        }
        let targets = self.incoming.as_ref().map_or(&[][..], |incoming| &incoming.targets);
        lines.extend(aim(targets));
        lines.push(format!("add element {TABLE} armed {{ tcp timeout {}s }}", life.as_secs().max(1)));
        lines.push(format!("add element {TABLE} owner {{ {token} }}"));
        text(&lines)
    }

    fn outgoing(&self, outgoing: &Outgoing, lines: &mut Vec<String>) {
        let mut rule = |chain: &str, text: String| lines.push(format!("add rule {TABLE} {chain} {text}"));
        rule("output", DISARMED.to_owned());
        rule("output", UNDER_WAY.to_owned());
        rule("output", format!("meta skuid {} return", outgoing.node));
        let (uids, gids) = (&outgoing.uids, &outgoing.gids);
        if uids.is_empty() && gids.is_empty() {
            rule("output", "jump captured".to_owned());
        }
        if !uids.is_empty() {
            rule("output", format!("meta skuid {{ {} }} jump captured", list(uids)));
        }
        if !gids.is_empty() {
            rule("output", format!("meta skgid {{ {} }} jump captured", list(gids)));
        }
        let redirect = format!("meta l4proto tcp counter redirect to :{}", outgoing.port);
        if let Some(services) = &outgoing.services {
            rule("captured", format!("ip daddr {services} {redirect}"));
        }
        rule("captured", "fib daddr type { local, broadcast, multicast } return".to_owned());
        // Link-local: most of the metadata of clouds.
        rule("captured", "ip daddr 169.254.0.0/16 return".to_owned());
        rule("captured", "ip6 daddr fe80::/10 return".to_owned());
        let (v4, v6): (BTreeSet<IpAddr>, BTreeSet<IpAddr>) = MACHINE_SERVICES.into_iter().partition(IpAddr::is_ipv4);
        rule("captured", format!("ip daddr {{ {} }} return", list(&v4)));
        rule("captured", format!("ip6 daddr {{ {} }} return", list(&v6)));
        self.spare("daddr", &mut |text| rule("captured", text));
        rule("captured", format!("tcp sport {SSH} return"));
        if !outgoing.ipv6 {
            rule("captured", NO_IPV6.to_owned());
        }
        rule("captured", redirect);
    }

    fn incoming(&self, incoming: &Incoming, lines: &mut Vec<String>) {
        let mut rule = |text: String| lines.push(format!("add rule {TABLE} {INCOMING} {text}"));
        rule(DISARMED.to_owned());
        // This machine's own, the node's to its applications among them, come by loopback.
        rule("iifname \"lo\" return".to_owned());
        rule(UNDER_WAY.to_owned());
        // What only passes through, to containers and machines behind, is theirs.
        rule("fib daddr type != local return".to_owned());
        self.spare("saddr", &mut rule);
        if !incoming.ipv6 {
            rule(NO_IPV6.to_owned());
        }
        let redirect = format!("counter redirect to :{}", incoming.port);
        let met = [
            (ANYWHERE, "meta nfproto ipv4 tcp dport"),
            (ANYWHERE_V6, "meta nfproto ipv6 tcp dport"),
            (AT_V4, "ip daddr . tcp dport"),
            (AT_V6, "ip6 daddr . tcp dport"),
        ];
        for (set, met) in met {
            rule(format!("{met} @{set} {redirect}"));
        }
    }

    /// What is left alone both ways. Not by the port from which somebody calls, who is free to choose it.
    fn spare(&self, other: &str, rule: &mut impl FnMut(String)) {
        for network in &self.networks {
            let family = if network.is_ipv4() { "ip" } else { "ip6" };
            rule(format!("{family} {other} {network} return"));
        }
        let ports: BTreeSet<u16> = self.spared.iter().copied().chain([SSH]).collect();
        rule(format!("tcp dport {{ {} }} return", list(&ports)));
    }
}

/// Says which ports of applications are meant, in place of those that were.
fn aim(targets: &[SocketAddr]) -> Vec<String> {
    let mut lines = Vec::from(TARGETS.map(|(set, _)| format!("flush set {TABLE} {set}")));
    let element = |target: &SocketAddr| {
        let (ip, port) = (target.ip().to_canonical(), target.port());
        match ip {
            IpAddr::V4(ip) if ip.is_unspecified() => format!("{ANYWHERE} {{ {port} }}"),
            IpAddr::V6(ip) if ip.is_unspecified() => format!("{ANYWHERE_V6} {{ {port} }}"),
            IpAddr::V4(ip) => format!("{AT_V4} {{ {ip} . {port} }}"),
            IpAddr::V6(ip) => format!("{AT_V6} {{ {ip} . {port} }}"),
        }
    };
    lines.extend(targets.iter().map(|target| format!("add element {TABLE} {}", element(target))));
    lines
}

/// Keeps a table in force for so long from now, if it still is and belongs to this guard; else it changes nothing and fails. From
/// now on these ports of applications are meant, if any are given.
pub(super) fn renewal(token: u32, life: Duration, targets: Option<&[SocketAddr]>) -> String {
    let mut lines = vec![
        format!("delete element {TABLE} owner {{ {token} }}"),
        format!("add element {TABLE} owner {{ {token} }}"),
        format!("delete element {TABLE} armed {{ tcp }}"),
        format!("add element {TABLE} armed {{ tcp timeout {}s }}", life.as_secs().max(1)),
    ];
    lines.extend(targets.map(aim).unwrap_or_default());
    text(&lines)
}

/// Redirects nothing from now on; what is redirected goes on.
pub(super) fn disarming() -> String {
    text(&[format!("flush set {TABLE} armed")])
}

/// As [`disarming`], if the table belongs to this guard.
pub(super) fn own_disarming(token: u32) -> String {
    text(&[
        format!("delete element {TABLE} owner {{ {token} }}"),
        format!("add element {TABLE} owner {{ {token} }}"),
        format!("flush set {TABLE} armed"),
    ])
}

/// Notes that somebody still reaches the machine.
pub(super) fn confirmation() -> String {
    text(&[format!("add element {TABLE} confirmed {{ tcp }}")])
}

/// Removes everything.
pub(super) fn removal() -> String {
    text(&[format!("delete table {TABLE}")])
}

/// As [`removal`], if the table belongs to this guard.
pub(super) fn own_removal(token: u32) -> String {
    text(&[format!("delete element {TABLE} owner {{ {token} }}"), format!("delete table {TABLE}")])
}

fn text(lines: &[String]) -> String {
    lines.join("\n") + "\n"
}

fn list<T: Display>(values: &BTreeSet<T>) -> String {
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> Rules {
        Rules {
            outgoing: Some(Outgoing {
                port: 15002,
                ipv6: true,
                node: 990,
                services: Some(Cidr::parse("127.240.0.0/16").unwrap()),
                uids: BTreeSet::new(),
                gids: BTreeSet::new(),
            }),
            incoming: None,
            spared: [15008, 15000].into(),
            networks: vec![Cidr::parse("10.1.0.0/16").unwrap(), Cidr::parse("fd00::/8").unwrap()],
        }
    }

    fn incoming() -> Incoming {
        let targets =
            ["0.0.0.0:9080", "[::]:9081", "10.0.0.5:5432", "[fd00::5]:5432"].map(|target| target.parse().unwrap());
        Incoming { port: 15006, ipv6: true, targets: targets.into() }
    }

    /// The rules of a chain, in order.
    fn chain(script: &str, chain: &str) -> Vec<String> {
        let of = format!("add rule inet skein {chain} ");
        script.lines().filter_map(|line| line.strip_prefix(&of)).map(str::to_owned).collect()
    }

    #[test]
    fn everything_that_is_spared_is_spared_before_anything_is_redirected() {
        let script = rules().script(7, Duration::from_secs(60));
        assert_eq!(
            chain(&script, "output"),
            [
                "meta l4proto != @armed return",
                "tcp flags & (fin | syn | rst | ack) != syn return",
                "meta skuid 990 return",
                "jump captured"
            ]
        );
        assert_eq!(
            chain(&script, "captured"),
            [
                "ip daddr 127.240.0.0/16 meta l4proto tcp counter redirect to :15002",
                "fib daddr type { local, broadcast, multicast } return",
                "ip daddr 169.254.0.0/16 return",
                "ip6 daddr fe80::/10 return",
                "ip daddr { 100.100.100.200, 168.63.129.16, 192.0.0.192 } return",
                "ip6 daddr { fd00:ec2::254 } return",
                "ip daddr 10.1.0.0/16 return",
                "ip6 daddr fd00::/8 return",
                "tcp dport { 22, 15000, 15008 } return",
                "tcp sport 22 return",
                "meta l4proto tcp counter redirect to :15002"
            ]
        );
        assert!(chain(&script, "incoming").is_empty() && !script.contains("add element inet skein ports"), "{script}");
        assert!(script.ends_with("armed { tcp timeout 60s }\nadd element inet skein owner { 7 }\n"), "{script}");
    }

    #[test]
    fn a_scope_names_users_and_groups_and_never_the_node() {
        let (uids, gids) = ([1000, 1001].into(), [33].into());
        let outgoing = Outgoing { uids, gids, services: None, ipv6: false, ..rules().outgoing.unwrap() };
        let script = Rules { outgoing: Some(outgoing), ..rules() }.script(7, Duration::from_secs(60));
        assert_eq!(
            chain(&script, "output")[2..],
            ["meta skuid 990 return", "meta skuid { 1000, 1001 } jump captured", "meta skgid { 33 } jump captured"]
        );
        let captured = chain(&script, "captured");
        assert_eq!(captured[0], "fib daddr type { local, broadcast, multicast } return");
        assert_eq!(captured[captured.len() - 2], "meta nfproto ipv6 return");
    }

    #[test]
    fn of_what_comes_from_other_machines_only_applications_ports_are_redirected() {
        let rules = Rules { outgoing: None, incoming: Some(incoming()), ..rules() };
        let script = rules.script(7, Duration::from_secs(60));
        assert!(chain(&script, "output").is_empty() && chain(&script, "captured").is_empty(), "{script}");
        assert_eq!(
            chain(&script, "incoming"),
            [
                "meta l4proto != @armed return",
                "iifname \"lo\" return",
                "tcp flags & (fin | syn | rst | ack) != syn return",
                "fib daddr type != local return",
                "ip saddr 10.1.0.0/16 return",
                "ip6 saddr fd00::/8 return",
                "tcp dport { 22, 15000, 15008 } return",
                "meta nfproto ipv4 tcp dport @ports counter redirect to :15006",
                "meta nfproto ipv6 tcp dport @ports6 counter redirect to :15006",
                "ip daddr . tcp dport @ports_v4 counter redirect to :15006",
                "ip6 daddr . tcp dport @ports_v6 counter redirect to :15006"
            ]
        );
        let elements: Vec<&str> =
            script.lines().filter_map(|line| line.strip_prefix("add element inet skein ")).collect();
        let aimed =
            ["ports { 9080 }", "ports6 { 9081 }", "ports_v4 { 10.0.0.5 . 5432 }", "ports_v6 { fd00::5 . 5432 }"];
        assert_eq!(elements[..4], aimed);
        // Where they change, a guard says so, in the same transaction.
        let later = renewal(7, Duration::from_secs(15), Some(&incoming().targets[1..]));
        let [before, after] =
            ["flush set inet skein ports\n", "add element inet skein ports_v4"].map(|text| later.find(text));
        assert!(before.is_some() && before < after && !later.contains("9080"), "{later}");
        let without = Rules { incoming: Some(Incoming { ipv6: false, ..incoming() }), ..rules };
        assert!(chain(&without.script(7, Duration::ZERO), "incoming").contains(&"meta nfproto ipv6 return".to_owned()));
    }

    #[test]
    fn a_guard_changes_only_what_is_its_own() {
        for script in [renewal(7, Duration::from_secs(15), None), own_disarming(7), own_removal(7)] {
            assert!(script.starts_with("delete element inet skein owner { 7 }\n"), "{script}");
        }
        assert!(!rules().script(7, Duration::ZERO).contains("delete"), "nothing of what is captured is forgotten");
    }
}

//! The table's text. Pure.

use crate::config::Cidr;
use std::{collections::BTreeSet, fmt::Display, time::Duration};

/// The table.
pub(super) const TABLE: &str = "inet skein";
/// Ports that are never redirected: SSH, wherever to.
const SSH: u16 = 22;

/// What is redirected to where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
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
    /// Ports that are left alone, wherever to: the mesh's own, and what the operator says.
    pub spared: BTreeSet<u16>,
    /// Networks that are left alone.
    pub networks: Vec<Cidr>,
}

impl Rules {
    /// One transaction that puts these in place of whatever was there, in force for so long unless [`renewal`] says otherwise.
    ///
    /// The chain itself stays if it is there: with the last chain of its kind the kernel forgets where captured connections led.
    pub fn script(&self, token: u32, life: Duration) -> String {
        let mut lines = vec![
            format!("add table {TABLE}"),
            format!("add set {TABLE} armed {{ type inet_proto; flags timeout; }}"),
            format!("add set {TABLE} owner {{ type mark; }}"),
            format!("add set {TABLE} confirmed {{ type inet_proto; }}"),
            format!("add chain {TABLE} captured"),
            format!("add chain {TABLE} output {{ type nat hook output priority -100; policy accept; }}"),
        ];
        lines.extend(["captured", "output"].map(|chain| format!("flush chain {TABLE} {chain}")));
        lines.extend(["armed", "owner", "confirmed"].map(|set| format!("flush set {TABLE} {set}")));
        let mut rule = |chain: &str, text: String| lines.push(format!("add rule {TABLE} {chain} {text}"));
        rule("output", "meta l4proto != @armed return".to_owned());
        // What is in the middle of a connection stays where it is.
        rule("output", "tcp flags & (fin | syn | rst | ack) != syn return".to_owned());
        rule("output", format!("meta skuid {} return", self.node));
        if self.uids.is_empty() && self.gids.is_empty() {
            rule("output", "jump captured".to_owned());
        }
        if !self.uids.is_empty() {
            rule("output", format!("meta skuid {{ {} }} jump captured", list(&self.uids)));
        }
        if !self.gids.is_empty() {
            rule("output", format!("meta skgid {{ {} }} jump captured", list(&self.gids)));
        }
        let redirect = format!("meta l4proto tcp counter redirect to :{}", self.port);
        if let Some(services) = &self.services {
            rule("captured", format!("ip daddr {services} {redirect}"));
        }
        rule("captured", "fib daddr type { local, broadcast, multicast } return".to_owned());
        // Link-local: the metadata of clouds, which know who asks by who asks.
        rule("captured", "ip daddr 169.254.0.0/16 return".to_owned());
        rule("captured", "ip6 daddr fe80::/10 return".to_owned());
        for network in &self.networks {
            let family = if network.is_ipv4() { "ip" } else { "ip6" };
            rule("captured", format!("{family} daddr {network} return"));
        }
        let ports: BTreeSet<u16> = self.spared.iter().copied().chain([SSH]).collect();
        rule("captured", format!("tcp dport {{ {} }} return", list(&ports)));
        rule("captured", format!("tcp sport {SSH} return"));
        if !self.ipv6 {
            rule("captured", "meta nfproto ipv6 return".to_owned());
        }
        rule("captured", redirect);
        lines.push(format!("add element {TABLE} armed {{ tcp timeout {}s }}", life.as_secs().max(1)));
        lines.push(format!("add element {TABLE} owner {{ {token} }}"));
        text(&lines)
    }
}

/// Keeps a table in force for so long from now, if it still is and belongs to this guard; else it changes nothing and fails.
pub(super) fn renewal(token: u32, life: Duration) -> String {
    text(&[
        format!("delete element {TABLE} owner {{ {token} }}"),
        format!("add element {TABLE} owner {{ {token} }}"),
        format!("delete element {TABLE} armed {{ tcp }}"),
        format!("add element {TABLE} armed {{ tcp timeout {}s }}", life.as_secs().max(1)),
    ])
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
            port: 15002,
            ipv6: true,
            node: 990,
            services: Some(Cidr::parse("127.240.0.0/16").unwrap()),
            uids: BTreeSet::new(),
            gids: BTreeSet::new(),
            spared: [15008, 15000].into(),
            networks: vec![Cidr::parse("10.1.0.0/16").unwrap(), Cidr::parse("fd00::/8").unwrap()],
        }
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
                "ip daddr 10.1.0.0/16 return",
                "ip6 daddr fd00::/8 return",
                "tcp dport { 22, 15000, 15008 } return",
                "tcp sport 22 return",
                "meta l4proto tcp counter redirect to :15002"
            ]
        );
        assert!(script.ends_with("armed { tcp timeout 60s }\nadd element inet skein owner { 7 }\n"), "{script}");
    }

    #[test]
    fn a_scope_names_users_and_groups_and_never_the_node() {
        let rules = Rules { uids: [1000, 1001].into(), gids: [33].into(), services: None, ipv6: false, ..rules() };
        let script = rules.script(7, Duration::from_secs(60));
        assert_eq!(
            chain(&script, "output")[2..],
            ["meta skuid 990 return", "meta skuid { 1000, 1001 } jump captured", "meta skgid { 33 } jump captured"]
        );
        let captured = chain(&script, "captured");
        assert_eq!(captured[0], "fib daddr type { local, broadcast, multicast } return");
        assert_eq!(captured[captured.len() - 2], "meta nfproto ipv6 return");
    }

    #[test]
    fn a_guard_changes_only_what_is_its_own() {
        for script in [renewal(7, Duration::from_secs(15)), own_disarming(7), own_removal(7)] {
            assert!(script.starts_with("delete element inet skein owner { 7 }\n"), "{script}");
        }
        assert!(!rules().script(7, Duration::ZERO).contains("delete"), "nothing of what is captured is forgotten");
    }
}

//! What `top` shows and what keys do to it. Pure.

use std::{cmp::Ordering, collections::BTreeMap};

use ratatui::crossterm::event::{KeyCode, KeyModifiers};

use crate::{
    agent::admin::api::{Endpoint, Member, Service, Status, Traffic},
    cli::{look::ago, output::plain},
    telemetry::quantile,
};

/// Everything that was asked.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) status: Status,
    pub(super) services: Vec<Service>,
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) members: Vec<Member>,
    pub(super) traffic: Traffic,
}

/// What the rows are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum View {
    Services,
    Endpoints,
    Nodes,
}

/// One row.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Row {
    /// The columns.
    pub(super) cells: Vec<String>,
    /// What the columns are sorted by; text where it is none.
    numbers: Vec<Option<f64>>,
    /// What tells it from the others.
    id: String,
    /// How bad it is: 0 well, 1 doubtful, 2 bad.
    pub(super) tone: u8,
}

/// Whether to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Stay,
    End,
}

/// The state of the screen.
#[derive(Debug, Clone)]
pub(super) struct Screen {
    seen: Seen,
    pub(super) view: View,
    /// The service whose endpoints are shown; all if none.
    pub(super) of: Option<String>,
    /// What is shown, sorted and filtered.
    rows: Vec<Row>,
    /// The row under the cursor, and what it is once the cursor was moved: that is what it stays on.
    pub(super) selected: usize,
    chosen: Option<String>,
    /// The column that is sorted by, and whether the greatest comes first.
    pub(super) sort: (usize, bool),
    pub(super) filter: String,
    /// Whether keys go into the filter.
    pub(super) editing: bool,
    /// Why the last question had no answer.
    pub(super) failure: Option<String>,
    /// It is not as it was drawn last.
    stale: bool,
}

impl View {
    /// The heads of the columns.
    pub(super) const fn heads(self) -> &'static [&'static str] {
        match self {
            Self::Services => &["SERVICE", "ENDPOINTS", "RATE", "FAILED", "P50 MS", "P99 MS", "HOW"],
            Self::Endpoints => &["ENDPOINT", "HEALTH", "OUTLIER", "ADDRESS", "PORT", "LABELS", "REASON"],
            Self::Nodes => &["NODE", "STATE", "SINCE", "RTT MS", "ADDRESS", "VERSION", "POLICY"],
        }
    }
}

impl Screen {
    /// Services, the busiest first.
    pub(super) fn new(seen: Seen) -> Self {
        let (of, rows, selected, chosen, filter, editing, failure) = Default::default();
        let (view, sort, stale) = (View::Services, (2, true), true);
        let mut screen = Self { seen, view, of, rows, selected, chosen, sort, filter, editing, failure, stale };
        screen.update();
        screen
    }

    /// Newer answers.
    pub(super) fn refresh(&mut self, seen: Seen) {
        (self.seen, self.failure) = (seen, None);
        self.update();
    }

    /// There was no answer.
    pub(super) fn failed(&mut self, why: &str) {
        (self.failure, self.stale) = (Some(plain(why)), true);
    }

    /// The terminal is not as it was.
    pub(super) fn resized(&mut self) {
        self.stale = true;
    }

    /// Whether it is to be drawn; asked before each drawing.
    pub(super) fn take_stale(&mut self) -> bool {
        std::mem::take(&mut self.stale)
    }

    /// One line about the mesh.
    pub(super) fn summary(&self) -> String {
        let (status, traffic) = (&self.seen.status, &self.seen.traffic);
        // The sum of nothing is -0.0.
        let rate = traffic.edges.iter().map(|edge| edge.rate).sum::<f64>() + 0.0;
        let problems = match status.problems.as_slice() {
            [] => "nothing needs attention".to_owned(),
            [only] => plain(&only.message),
            [first, rest @ ..] => format!("{} (and {} more)", plain(&first.message), rest.len()),
        };
        format!(
            "{} sees {} of {} nodes, {rate:.1} requests/s seen by {} of {}: {problems}",
            status.node,
            status.members.seen,
            status.members.expected,
            traffic.heard.len(),
            traffic.heard.len() + traffic.silent.len() + traffic.other_version.len() + traffic.unasked
        )
    }

    /// What is shown, sorted and filtered.
    pub(super) fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Makes the rows anew. The cursor stays on what it was put on; where that is gone, at its place.
    fn update(&mut self) {
        let mut rows = match self.view {
            View::Services => services(&self.seen),
            View::Endpoints => endpoints(&self.seen, self.of.as_deref()),
            View::Nodes => self.seen.members.iter().map(node).collect(),
        };
        rows.retain(|row| row.cells.iter().any(|cell| cell.contains(&self.filter)));
        let (column, greatest) = self.sort;
        rows.sort_by(|a, b| {
            let order = compare(a, b, column);
            if greatest { order.reverse() } else { order }
        });
        let found = rows.iter().position(|row| self.chosen.as_ref() == Some(&row.id));
        (self.rows, self.stale) = (rows, true);
        self.selected = found.unwrap_or(self.selected).min(self.rows.len().saturating_sub(1));
    }

    /// Puts the cursor on a row.
    fn put(&mut self, row: usize) {
        self.selected = row.min(self.rows.len().saturating_sub(1));
        self.chosen = self.rows.get(self.selected).map(|row| row.id.clone());
        self.stale = true;
    }

    /// What a key does.
    #[expect(clippy::wildcard_enum_match_arm, reason = "all other keys do nothing")]
    pub(super) fn key(&mut self, code: KeyCode, modifiers: KeyModifiers) -> Next {
        if modifiers.contains(KeyModifiers::CONTROL) {
            return if code == KeyCode::Char('c') { Next::End } else { Next::Stay };
        }
        if self.editing {
            self.edit(code);
            return Next::Stay;
        }
        if let KeyCode::Char('q') = code {
            return Next::End;
        }
        match code {
            KeyCode::Up | KeyCode::Char('k') => self.put(self.selected.saturating_sub(1)),
            KeyCode::Down | KeyCode::Char('j') => self.put(self.selected + 1),
            KeyCode::Home | KeyCode::Char('g') => self.put(0),
            KeyCode::End | KeyCode::Char('G') => self.put(usize::MAX),
            KeyCode::Tab => self.show(match self.view {
                View::Services => View::Endpoints,
                View::Endpoints => View::Nodes,
                View::Nodes => View::Services,
            }),
            KeyCode::Enter if self.view == View::Services => {
                let of = self.rows.get(self.selected).map(|row| row.id.clone());
                self.show(View::Endpoints);
                self.of = of;
            }
            KeyCode::Esc | KeyCode::Backspace if !self.filter.is_empty() => self.filter.clear(),
            KeyCode::Esc | KeyCode::Backspace => self.show(View::Services),
            KeyCode::Char('s') => self.sort.0 = (self.sort.0 + 1) % self.view.heads().len(),
            KeyCode::Char('r') => self.sort.1 = !self.sort.1,
            KeyCode::Char('/') => self.editing = true,
            _ => return Next::Stay,
        }
        self.update();
        Next::Stay
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "all other keys do nothing")]
    fn edit(&mut self, code: KeyCode) {
        match code {
            KeyCode::Enter => self.editing = false,
            KeyCode::Esc => (self.editing, self.filter) = (false, String::new()),
            KeyCode::Backspace => {
                self.filter.pop();
            }
            KeyCode::Char(letter) => self.filter.push(letter),
            _ => return,
        }
        (self.selected, self.chosen) = (0, None);
        self.update();
    }

    fn show(&mut self, view: View) {
        (self.view, self.of, self.selected, self.chosen) = (view, None, 0, None);
        self.sort = if view == View::Services { (2, true) } else { (0, false) };
    }
}

fn compare(a: &Row, b: &Row, column: usize) -> Ordering {
    let number = |row: &Row| row.numbers.get(column).copied().flatten();
    match (number(a), number(b)) {
        (Some(a), Some(b)) => a.total_cmp(&b),
        (a, b) if a.is_some() || b.is_some() => a.is_some().cmp(&b.is_some()),
        _ => a.cells.get(column).cmp(&b.cells.get(column)),
    }
}

#[derive(Debug, Default)]
struct Sum {
    requests: u64,
    failed: u64,
    rate: f64,
    buckets: Vec<u64>,
    failures: BTreeMap<String, u64>,
    /// Connections of bytes that go on, that came, that led nowhere; bytes a second.
    connections: (u64, u64, u64, f64),
}

/// One row for each service that there is or that was asked for.
fn services(seen: &Seen) -> Vec<Row> {
    let mut sums: BTreeMap<String, Sum> = BTreeMap::new();
    for edge in &seen.traffic.edges {
        let sum = sums.entry(edge.service.clone()).or_default();
        sum.requests = sum.requests.saturating_add(edge.requests);
        sum.failed = sum.failed.saturating_add(edge.failed);
        sum.rate += edge.rate;
        sum.buckets.resize(sum.buckets.len().max(edge.buckets.len()), 0);
        sum.buckets.iter_mut().zip(&edge.buckets).for_each(|(all, more)| *all = all.saturating_add(*more));
        for (how, count) in &edge.failures {
            let known = sum.failures.entry(how.clone()).or_default();
            *known = known.saturating_add(*count);
        }
    }
    for some in &seen.traffic.connections {
        let (open, opened, failed, bytes) = &mut sums.entry(some.service.clone()).or_default().connections;
        *open = open.saturating_add(some.open);
        *opened = opened.saturating_add(some.opened);
        *failed = failed.saturating_add(some.failed);
        *bytes += some.sent_rate + some.received_rate;
    }
    let named = seen.services.iter().map(|service| (format!("{}/{}", service.namespace, service.name), service));
    let known: BTreeMap<String, &Service> = named.collect();
    for name in known.keys() {
        sums.entry(name.clone()).or_default();
    }
    sums.into_iter().map(|(name, sum)| service(&name, known.get(&name).copied(), &sum)).collect()
}

fn service(name: &str, known: Option<&Service>, sum: &Sum) -> Row {
    let (open, opened, nowhere, bytes) = sum.connections;
    let (all, failed) = (sum.requests.saturating_add(opened), sum.failed.saturating_add(nowhere));
    let share = if all > 0 { failed as f64 * 100.0 / all as f64 } else { 0.0 };
    let connections = (open > 0 || opened > 0).then(|| format!("{open} open, {:.1} KiB/s", bytes / 1024.0));
    let (p50, p99) = (quantile(&sum.buckets, 0.5), quantile(&sum.buckets, 0.99));
    let shown = |millis: Option<f64>| millis.map(|millis| format!("{millis:.1}")).unwrap_or_default();
    let how = sum.failures.iter().max_by_key(|(_, count)| **count);
    let lacks = known.is_some_and(|known| known.healthy < known.endpoints);
    let none = known.is_some_and(|known| known.endpoints > 0 && known.healthy == 0);
    Row {
        cells: vec![
            plain(name),
            known.map(|known| format!("{}/{}", known.healthy, known.endpoints)).unwrap_or_default(),
            format!("{:.1}", sum.rate),
            format!("{share:.1}%"),
            shown(p50),
            shown(p99),
            how.map(|(how, count)| format!("{} x{count}", plain(how))).or(connections).unwrap_or_default(),
        ],
        numbers: vec![None, known.map(|known| known.healthy as f64), Some(sum.rate), Some(share), p50, p99, None],
        id: name.to_owned(),
        tone: if none || share >= 10.0 { 2 } else { u8::from(lacks || share >= 1.0) },
    }
}

fn endpoints(seen: &Seen, of: Option<&str>) -> Vec<Row> {
    let wanted = |endpoint: &&Endpoint| {
        of.is_none_or(|of| of.split_once('/') == Some((endpoint.namespace.as_str(), endpoint.service.as_str())))
    };
    let row = |endpoint: &Endpoint| {
        let labels: Vec<String> = endpoint.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let well = endpoint.health == "healthy" && endpoint.outlier == "none";
        Row {
            cells: [
                endpoint.id.as_str(),
                &endpoint.health,
                &endpoint.outlier,
                &endpoint.address,
                &endpoint.port.to_string(),
                &labels.join(","),
                &endpoint.reason,
            ]
            .map(plain)
            .to_vec(),
            numbers: vec![None, None, None, None, Some(f64::from(endpoint.port)), None, None],
            id: format!("{} {}", endpoint.id, endpoint.port),
            tone: if well { 0 } else { 2 },
        }
    };
    seen.endpoints.iter().filter(wanted).map(row).collect()
}

fn node(member: &Member) -> Row {
    let rtt = member.rtt_ms.map(|rtt| format!("{rtt:.1}")).unwrap_or_default();
    let policy = member.policy.as_deref().map(crate::cli::look::short).unwrap_or_default();
    Row {
        cells: [
            member.name.as_str(),
            &member.state,
            &ago(&member.since),
            &rtt,
            &member.address,
            &member.version,
            policy,
        ]
        .map(plain)
        .to_vec(),
        numbers: vec![None, None, None, member.rtt_ms, None, None, None],
        id: member.name.to_string(),
        tone: match member.state.as_str() {
            "alive" => 0,
            "dead" | "evicted" | "quarantined" => 2,
            _ => 1,
        },
    }
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;

    pub(in crate::cli::top) fn seen() -> Seen {
        let party = |service: &str| json!({"namespace": "shop", "service": service, "version": "v1"});
        let edge = |to: &str, requests: u64, failed: u64, rate: f64| {
            json!({
                "from": party("web"), "to": party(to), "service": format!("shop/{to}"), "protocol": "http",
                "security": "mutual_tls", "requests": requests, "failed": failed, "rate": rate, "failing": 0.0,
                "p50_ms": null, "p90_ms": null, "p99_ms": null, "slots": [], "buckets": [0, 0, requests],
                "failures": if failed > 0 { json!({"503 UH": failed}) } else { json!({}) }
            })
        };
        let service = |name: &str, healthy: usize| json!({"namespace": "shop", "name": name, "ports": [], "endpoints": 2, "healthy": healthy, "panic": false});
        let endpoint = |node: &str, name: &str| {
            json!({"service": name, "namespace": "shop", "node": node, "address": "10.0.0.1:15008", "port": 80,
                   "labels": {"version": "v1"}, "account": format!("shop/{name}"), "weight": 1, "health": "healthy",
                   "reason": "", "outlier": "none", "id": format!("{node}/shop/{name}")})
        };
        let member = |name: &str, rtt: f64| {
            json!({"name": name, "state": "alive", "address": "", "locality": "", "version": "1", "since": "",
                   "self": false, "rtt_ms": rtt, "policy": null})
        };
        let status = json!({
            "node": "a", "trust_domain": "t.example", "state": "ok", "problems": [],
            "members": {"seen": 2, "expected": 2}, "policy": {"digest": "00", "stale": []},
            "certificates": {"node_ca_expires": "", "leaf_expires": "", "enrollers": 1},
            "memory_bytes": 1, "gossip_bytes_per_s": 1, "gossip_lanes": {}
        });
        let traffic = json!({
            "node": "a", "window_s": 60, "slot_s": 30, "heard": ["a", "b"], "silent": [], "left_out": 0,
            "edges": [edge("cart", 100, 20, 9.0), edge("db", 50, 0, 30.0)]
        });
        fn read<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> T {
            serde_json::from_value(value).unwrap()
        }
        Seen {
            status: read(status),
            services: read(json!([service("cart", 1), service("db", 2), service("idle", 2)])),
            endpoints: read(json!([endpoint("a", "cart"), endpoint("b", "cart"), endpoint("b", "db")])),
            members: read(json!([member("a", 0.3), member("b", 20.0)])),
            traffic: read(traffic),
        }
    }

    fn names(screen: &Screen) -> Vec<String> {
        screen.rows().iter().map(|row| row.cells[0].clone()).collect()
    }

    fn press(screen: &mut Screen, keys: &[KeyCode]) {
        for key in keys {
            assert_eq!(screen.key(*key, KeyModifiers::NONE), Next::Stay);
        }
    }

    #[test]
    fn the_busiest_service_comes_first_and_what_fails_stands_out() {
        let screen = Screen::new(seen());
        assert_eq!(names(&screen), ["shop/db", "shop/cart", "shop/idle"]);
        let cart = &screen.rows()[1];
        assert_eq!(cart.cells, ["shop/cart", "1/2", "9.0", "20.0%", "3.0", "5.0", "503 UH x20"]);
        assert_eq!((cart.tone, screen.rows()[0].tone), (2, 0));
        assert!(
            screen.summary().contains("39.0 requests/s seen by 2 of 2: nothing needs attention"),
            "{}",
            screen.summary()
        );
    }

    #[test]
    fn keys_sort_filter_and_open() {
        let mut screen = Screen::new(seen());
        press(&mut screen, &[KeyCode::Char('s')]);
        assert_eq!(names(&screen)[0], "shop/cart", "sorted by failures now");
        press(&mut screen, &[KeyCode::Char('r')]);
        assert_eq!(names(&screen)[2], "shop/cart");
        press(
            &mut screen,
            &[
                KeyCode::Char('/'),
                KeyCode::Char('d'),
                KeyCode::Char('b'),
                KeyCode::Char('q'),
                KeyCode::Backspace,
                KeyCode::Enter,
            ],
        );
        assert_eq!(names(&screen), ["shop/db"]);
        press(&mut screen, &[KeyCode::Esc, KeyCode::Down, KeyCode::Down, KeyCode::Down, KeyCode::Enter]);
        assert_eq!(
            (screen.of.as_deref(), names(&screen)),
            (Some("shop/cart"), vec!["a/shop/cart".into(), "b/shop/cart".into()])
        );
        press(&mut screen, &[KeyCode::Esc, KeyCode::Tab, KeyCode::Tab]);
        assert_eq!((screen.view, names(&screen)), (View::Nodes, vec!["a".into(), "b".into()]));
        assert_eq!(screen.key(KeyCode::Char('q'), KeyModifiers::NONE), Next::End);
        assert_eq!(screen.key(KeyCode::Char('c'), KeyModifiers::CONTROL), Next::End);
    }

    #[test]
    fn the_cursor_stays_on_what_it_was_put_on() {
        let mut screen = Screen::new(seen());
        press(&mut screen, &[KeyCode::Down]);
        assert_eq!((screen.selected, names(&screen)[1].as_str()), (1, "shop/cart"));
        let mut busier = seen();
        busier.traffic.edges[0].rate = 99.0;
        screen.refresh(busier);
        assert_eq!((screen.selected, names(&screen)[0].as_str()), (0, "shop/cart"), "it is the busiest now");
        press(&mut screen, &[KeyCode::Enter]);
        assert_eq!(screen.of.as_deref(), Some("shop/cart"));
    }

    #[test]
    fn it_is_drawn_only_when_something_changed() {
        let mut screen = Screen::new(seen());
        assert!(screen.take_stale() && !screen.take_stale());
        press(&mut screen, &[KeyCode::Char('x')]);
        assert!(!screen.take_stale(), "a key that does nothing");
        press(&mut screen, &[KeyCode::Down]);
        assert!(screen.take_stale() && !screen.take_stale());
        screen.failed("gone");
        assert!(screen.take_stale());
        screen.refresh(seen());
        assert!(screen.take_stale());
    }

    #[test]
    fn the_cursor_stays_within_what_is_left() {
        let mut screen = Screen::new(seen());
        press(&mut screen, &[KeyCode::End]);
        assert_eq!(screen.selected, 2);
        let mut fewer = seen();
        fewer.services.truncate(1);
        fewer.traffic.edges.clear();
        screen.refresh(fewer);
        assert_eq!((screen.selected, names(&screen).len()), (0, 1));
    }
}

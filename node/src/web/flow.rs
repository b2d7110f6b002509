//! Sums over connections of bytes: how many go on, how many came, what they carry.

use maud::{Markup, html};

use super::words;
use crate::agent::admin::api::Connections;

/// Connections of some pairs together.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Flow {
    pub(super) open: u64,
    pub(super) opened: u64,
    pub(super) failed: u64,
    rate: f64,
    /// To callers, a second.
    sent_rate: f64,
    /// From callers, a second.
    received_rate: f64,
}

impl Flow {
    pub(super) fn of<'c>(connections: impl IntoIterator<Item = &'c Connections>) -> Self {
        let mut sum = Self::default();
        connections.into_iter().for_each(|more| sum.add(more));
        sum
    }

    pub(super) fn add(&mut self, more: &Connections) {
        self.open = self.open.saturating_add(more.open);
        self.opened = self.opened.saturating_add(more.opened);
        self.failed = self.failed.saturating_add(more.failed);
        self.rate += more.rate;
        self.sent_rate += more.sent_rate;
        self.received_rate += more.received_rate;
    }

    /// Whether there was no connection in the time that is shown.
    pub(super) fn is_idle(&self) -> bool {
        self.open == 0 && self.opened == 0
    }

    /// How bad it is: `good`, `doubt` from one in a hundred that led nowhere on, `bad` from one in ten on; `idle` without any.
    pub(super) fn class(&self) -> &'static str {
        match (self.opened, self.failed) {
            (0, _) if self.open == 0 => "idle",
            (all, failed) if failed > 0 && failed.saturating_mul(10) >= all => "bad",
            (all, failed) if failed > 0 && failed.saturating_mul(100) >= all => "doubt",
            _ => "good",
        }
    }

    /// Bytes a second in both directions, for the width of a line.
    pub(super) fn bytes_rate(&self) -> f64 {
        self.sent_rate + self.received_rate
    }

    /// In a few words: `3 open, 1.2 KiB/s`.
    pub(super) fn words(&self) -> String {
        format!("{} open, {}", self.open, words::bytes_rate(self.bytes_rate()))
    }

    /// Counts and rates as cells of a row.
    pub(super) fn cells(&self) -> Markup {
        html! {
            td.number data-label="Open" { (self.open) }
            td.number data-label="New" { (words::rate(self.rate)) }
            td class={ "number " (self.class()) } data-label="Led nowhere" { (words::share(self.failed, self.opened)) }
            td.number data-label="To caller" { (words::bytes_rate(self.sent_rate)) }
            td.number data-label="From caller" { (words::bytes_rate(self.received_rate)) }
        }
    }

    /// The heads of these cells.
    pub(super) fn heads() -> Markup {
        html! {
            th.number scope="col" { "Open" }
            th.number scope="col" { "New" }
            th.number scope="col" { "Led nowhere" }
            th.number scope="col" { "To caller" }
            th.number scope="col" { "From caller" }
        }
    }
}

/// Connections between two services for tests of the pages.
#[cfg(test)]
pub(super) fn connections(from: &str, to: &str, opened: u64, failed: u64) -> Connections {
    use crate::agent::admin::api::Party;
    let party = |name: &str| {
        let (namespace, service) = name.split_once('/').unwrap_or(("unknown", name));
        Party { namespace: namespace.into(), service: service.into(), version: "v1".into() }
    };
    Connections {
        from: party(from),
        to: party(to),
        service: to.to_owned(),
        security: "mutual_tls".into(),
        open: opened / 2,
        opened,
        failed,
        sent: 1_000,
        received: 500,
        rate: opened as f64 / 10.0,
        sent_rate: 2048.0,
        received_rate: 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_add_up() {
        let sum = Flow::of(&[connections("s/a", "s/db", 90, 1), connections("s/b", "s/db", 10, 0)]);
        assert_eq!((sum.open, sum.opened, sum.failed, sum.class()), (50, 100, 1, "doubt"));
        assert_eq!(sum.words(), "50 open, 4.0 KiB/s");
        let text = sum.cells().into_string();
        assert!(text.contains("10.0/s") && text.contains("1.0 %") && text.contains("0 B/s"), "{text}");
        assert_eq!((Flow::default().class(), Flow::default().is_idle()), ("idle", true));
        let lasting = Flow { open: 1, ..Flow::default() };
        assert_eq!((lasting.class(), lasting.is_idle()), ("good", false), "one that came before the window");
    }
}

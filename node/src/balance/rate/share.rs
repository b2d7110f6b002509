//! This node's share of a limit that holds for the whole mesh, without anybody who counts for all.
//!
//! The nodes that serve the limited service say what is asked of them. A part of the limit is split equally, the rest by
//! demand, and every node works that out alike. For its own share a node takes the least that it has said itself and the
//! most that it has heard of each other in the last two windows, so a share is lowered at once and raised late.
//!
//! While news takes no longer than a window, all nodes' memories hold what was said one window ago. A share grows with
//! the node's own demand and shrinks with the others', so each is at most what that one state of the world gives, and
//! these sum up to the limit: the shares together never exceed it. A change costs two windows of under-use at most.
//! A node that is not heard of keeps its share until it has left.
//!
//! What is said is each node's word, so one that lies takes what a node takes of which the whole limit is asked: if the
//! others are asked for `d` limits in all, `1 / (1 + d)` of what goes by demand, and never of what goes equally.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    Key, Millis,
    demand::{Demand, WHOLE},
    escrow::Escrow,
    gate::{Gate, Limit},
};

/// How old what is known of others may be for the bound to hold; also how often a window is closed.
pub const WINDOW_MS: Millis = 100;
/// The part of the limit that is split equally, so that a first request never waits for news of it.
pub const EQUAL_PART: f64 = 0.1;
/// Less than this part of what an equal split of [`EQUAL_PART`] gives is not spoken of: it fits anyway.
const QUIET_PART: f64 = 0.25;
/// Windows after which a share has followed the last change.
const SETTLED: u8 = 2;

/// What holds when news takes longer than a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Shares follow demand: they may exceed the limit together for as long as news is late.
    #[default]
    Split,
    /// Whoever has too much gives, by name, and lowers its share first: among the same nodes the shares stay within the
    /// limit however late the news is.
    Hard,
}

/// What a node says of itself about one limit and key. Whoever serves nothing has no say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Said {
    /// Millionths of the limit that are asked of it; more than the whole counts as the whole.
    pub demand: u64,
    /// What it has given to others since it began, in [`Mode::Hard`]: millionths of an equal share.
    pub given: BTreeMap<Key, u64>,
}

impl Said {
    /// As good as not said.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.demand == 0 && self.given.is_empty()
    }
}

/// One limit and key on one of the nodes that enforce it.
#[derive(Debug)]
pub struct MeshLimit {
    own: Key,
    limit: Limit,
    mode: Mode,
    nodes: Arc<BTreeSet<Key>>,
    /// Those who have, or lately had, something to say.
    heard: BTreeMap<Key, Span>,
    demand: Demand,
    /// What this node has said itself.
    said: Span,
    escrow: Escrow,
    share: f64,
    /// Windows to go until the share has followed the last change.
    unsettled: u8,
    gate: Arc<Gate>,
}

/// A demand as it was said in the window before and in this one, and as it is now.
#[derive(Debug, Clone, Copy, Default)]
struct Span {
    least: [u64; 2],
    most: [u64; 2],
    now: u64,
}

impl Span {
    fn said(&mut self, demand: u64) {
        let demand = demand.min(WHOLE);
        self.now = demand;
        self.least[1] = self.least[1].min(demand);
        self.most[1] = self.most[1].max(demand);
    }

    const fn close_window(&mut self) {
        self.least = [self.least[1], self.now];
        self.most = [self.most[1], self.now];
    }

    fn least(&self) -> u64 {
        self.least[0].min(self.least[1])
    }

    fn most(&self) -> u64 {
        self.most[0].max(self.most[1])
    }
}

impl MeshLimit {
    /// Begins with an equal share. `nodes`: all that serve the limited service, reachable or not; this one among them.
    #[must_use]
    pub fn new(own: Key, limit: Limit, mode: Mode, nodes: Arc<BTreeSet<Key>>, now: Millis) -> MeshLimit {
        let gate = Arc::new(Gate::new(limit.pace(equal(nodes.len()))));
        MeshLimit::over(gate, own, limit, mode, nodes, now)
    }

    /// Takes over a gate that lets requests in already: its share is the first.
    #[must_use]
    pub fn over(
        gate: Arc<Gate>,
        own: Key,
        limit: Limit,
        mode: Mode,
        nodes: Arc<BTreeSet<Key>>,
        now: Millis,
    ) -> MeshLimit {
        let (heard, said, escrow) = Default::default();
        let demand = Demand::new(0, now.saturating_sub(WINDOW_MS));
        let (share, unsettled) = (0.0, SETTLED);
        let mut begun = MeshLimit { own, limit, mode, nodes, heard, demand, said, escrow, share, unsettled, gate };
        begun.apply(now);
        begun
    }

    /// Where requests ask.
    #[must_use]
    pub const fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }

    /// This node's part of the limit, 1 being the whole.
    #[must_use]
    pub const fn share(&self) -> f64 {
        self.share
    }

    /// Sets who serves. Only who left or was evicted is missing: an unreachable node keeps its share.
    pub fn set_nodes(&mut self, nodes: Arc<BTreeSet<Key>>, now: Millis) {
        self.nodes = nodes;
        self.heard.retain(|node, _| self.nodes.contains(node));
        self.escrow.retain(&self.nodes);
        self.unsettled = SETTLED;
        self.apply(now);
    }

    /// Another node has spoken. What it says before it is known to serve counts for nothing.
    pub fn heard(&mut self, node: &Key, said: Said, now: Millis) {
        if *node == self.own || !self.nodes.contains(node) {
            return;
        }
        self.heard.entry(Arc::clone(node)).or_default().said(said.demand);
        self.escrow.heard(node, said.given);
        self.unsettled = SETTLED;
        self.apply(now);
    }

    /// A window has ended; call it every [`WINDOW_MS`]. `may_speak`: false if the others cannot be told now; then
    /// nothing changes of which they had to know. Returns what to tell them, if there is news.
    pub fn close_window(&mut self, now: Millis, may_speak: bool) -> Option<Said> {
        let asked = self.gate.asked();
        let is_calm = self.unsettled == 0 && self.demand.is_calm(asked);
        self.demand.close(asked, now);
        if is_calm {
            return None;
        }
        // Alone there is nobody to tell.
        let is_news = may_speak && self.nodes.len() > 1 && self.speak();
        self.said.close_window();
        self.said.said(self.demand.said());
        self.heard.values_mut().for_each(Span::close_window);
        self.heard.retain(|_, span| span.most() > 0);
        self.unsettled = if is_news { SETTLED } else { self.unsettled.saturating_sub(1) };
        self.apply(now);
        is_news.then(|| self.said())
    }

    fn speak(&mut self) -> bool {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a part of a million")]
        let quiet = (WHOLE as f64 * EQUAL_PART * QUIET_PART * equal(self.nodes.len())) as u64;
        let mut is_news = self.demand.say(self.limit.rate(), quiet);
        self.said.now = self.demand.said();
        if self.mode == Mode::Hard {
            let sum = self.demand_of_all();
            let targets = self.nodes.iter().map(|node| (Arc::clone(node), self.by_demand(node, sum))).collect();
            is_news |= self.escrow.give(&self.own, &targets);
        }
        is_news
    }

    /// What this node says of itself now, for those that ask.
    #[must_use]
    pub fn said(&self) -> Said {
        Said { demand: self.demand.said(), given: self.escrow.given().clone() }
    }

    /// Whether it has anything to say.
    #[must_use]
    pub fn speaks(&self) -> bool {
        self.demand.said() > 0 || !self.escrow.given().is_empty()
    }

    /// Whether it may be forgotten: nothing is asked, all others know so, and a new one would have the same room.
    #[must_use]
    pub fn is_idle(&self, now: Millis) -> bool {
        self.unsettled == 0
            && !self.speaks()
            && self.demand.is_calm(self.gate.asked())
            && self.gate.used(now.saturating_mul(1_000_000)) == 0
    }

    /// A node's part by what everybody says now: the same wherever the same is known.
    fn by_demand(&self, node: &Key, sum: u64) -> f64 {
        let demand = if *node == self.own { self.said.now } else { self.heard.get(node).map_or(0, |span| span.now) };
        part(self.nodes.len(), demand, sum)
    }

    fn demand_of_all(&self) -> u64 {
        self.said.now + self.heard.values().map(|span| span.now).sum::<u64>()
    }

    fn apply(&mut self, now: Millis) {
        self.share = match self.mode {
            Mode::Split => {
                let (own, others) = (self.said.least(), self.heard.values().map(Span::most).sum::<u64>());
                part(self.nodes.len(), own, own + others)
            }
            Mode::Hard => self.escrow.share(&self.own, &self.nodes),
        };
        // Whatever others say, one node never lets in more than the whole.
        self.share = self.share.min(1.0);
        self.gate.set(self.limit.pace(self.share), now.saturating_mul(1_000_000));
    }
}

/// What a demand of such a sum has of the limit.
fn part(nodes: usize, demand: u64, sum: u64) -> f64 {
    let equal = equal(nodes);
    let by_demand = if sum > 0 { demand as f64 / sum as f64 } else { equal };
    EQUAL_PART * equal + (1.0 - EQUAL_PART) * by_demand
}

/// The part of each of so many nodes.
pub(super) fn equal(nodes: usize) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "meshes are smaller than 2^53")]
    let equal = 1.0 / nodes.max(1) as f64;
    equal
}

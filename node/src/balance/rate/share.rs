//! This node's share of a limit that holds for the whole mesh, without anybody who counts for all.
//!
//! The nodes that serve the limited service say what is asked of them. Each works out everybody's target alike: a part
//! of the limit equally, the rest by demand. A share is the least target of the last two windows, so it is lowered at
//! once and raised late: while news takes no longer than a window, the shares together stay within the limit, and a
//! change costs two windows of under-use at most. A node that is not heard of keeps its share until it has left.
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
    /// Those who have something to say.
    heard: BTreeMap<Key, Said>,
    demand: Demand,
    escrow: Escrow,
    /// The least target of the window before and of this one.
    least: [f64; 2],
    /// Windows to go until the share has followed the last change.
    unsettled: u8,
    gate: Arc<Gate>,
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
        let first = gate.part(&limit);
        let (heard, escrow) = Default::default();
        let demand = Demand::new(0, now.saturating_sub(WINDOW_MS));
        let least = [first; 2];
        let mut begun =
            MeshLimit { own, limit, mode, nodes, heard, demand, escrow, least, unsettled: SETTLED, gate };
        begun.lower(begun.target(), now);
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
        self.least[0].min(self.least[1])
    }

    /// Sets who serves. Only who left or was evicted is missing: an unreachable node keeps its share.
    pub fn set_nodes(&mut self, nodes: Arc<BTreeSet<Key>>, now: Millis) {
        self.nodes = nodes;
        self.heard.retain(|node, _| self.nodes.contains(node));
        self.escrow.retain(&self.nodes);
        self.lower(self.target(), now);
    }

    /// Another node has spoken. What it says before it is known to serve counts for nothing.
    pub fn heard(&mut self, node: &Key, said: Said, now: Millis) {
        if *node == self.own || !self.nodes.contains(node) {
            return;
        }
        self.escrow.heard(node, said.given.clone());
        if said.is_nothing() {
            self.heard.remove(node);
        } else {
            self.heard.insert(Arc::clone(node), said);
        }
        self.lower(self.target(), now);
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
        if is_news {
            self.unsettled = SETTLED;
        }
        let target = self.target();
        self.least = [self.least[1].min(target), target];
        self.unsettled = self.unsettled.saturating_sub(1);
        self.apply(now);
        is_news.then(|| self.said())
    }

    fn speak(&mut self) -> bool {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a part of a million")]
        let quiet = (WHOLE as f64 * EQUAL_PART * QUIET_PART * equal(self.nodes.len())) as u64;
        let mut is_news = self.demand.say(self.limit.rate(), quiet);
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
            && self.gate.full_at() <= now.saturating_mul(1_000_000)
    }

    fn target(&self) -> f64 {
        match self.mode {
            Mode::Split => self.by_demand(&self.own, self.demand_of_all()),
            Mode::Hard => self.escrow.share(&self.own, &self.nodes),
        }
    }

    /// A node's target: the same wherever the same is known.
    fn by_demand(&self, node: &Key, sum: u64) -> f64 {
        let equal = equal(self.nodes.len());
        let by_demand = if sum > 0 { self.demand_of(node) as f64 / sum as f64 } else { equal };
        EQUAL_PART * equal + (1.0 - EQUAL_PART) * by_demand
    }

    fn demand_of_all(&self) -> u64 {
        self.demand.said() + self.heard.values().map(|said| said.demand.min(WHOLE)).sum::<u64>()
    }

    /// No demand counts for more than the limit: a node that lies of its own takes no more than that.
    fn demand_of(&self, node: &Key) -> u64 {
        let heard = || self.heard.get(node).map_or(0, |said| said.demand.min(WHOLE));
        if *node == self.own { self.demand.said() } else { heard() }
    }

    fn lower(&mut self, target: f64, now: Millis) {
        self.least[1] = self.least[1].min(target);
        self.unsettled = SETTLED;
        self.apply(now);
    }

    fn apply(&self, now: Millis) {
        self.gate.set(self.limit.pace(self.share()), now.saturating_mul(1_000_000));
    }
}

/// The part of each of so many nodes.
pub(super) fn equal(nodes: usize) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "meshes are smaller than 2^53")]
    let equal = 1.0 / nodes.max(1) as f64;
    equal
}

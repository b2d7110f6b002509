//! This node's share of a limit that holds for the whole mesh, without anybody who counts for all.
//!
//! The nodes that serve the limited service say what is asked of them. Each works out everybody's target alike: a part
//! of the limit equally, the rest by demand. A share is the least target of the last two windows, so it is lowered at
//! once and raised late: while news takes no longer than a window, the shares together stay within the limit, and a
//! change costs two windows of under-use at most. A node that is not heard of keeps its share until it has left.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    Key, Millis,
    demand::Demand,
    escrow::Escrow,
    gate::{Gate, Limit},
};

/// How old what is known of others may be for the bound to hold; also how often a window is closed.
pub const WINDOW_MS: Millis = 100;
/// The part of the limit that is split equally, so that a first request never waits for news of it.
pub const EQUAL_PART: f64 = 0.1;

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
    /// Thousandths of a request per second that are asked of it.
    pub demand: u64,
    /// What it has given to others since it began, in [`Mode::Hard`]: millionths of an equal share.
    pub given: BTreeMap<Key, u64>,
}

/// One limit and key on one of the nodes that enforce it.
#[derive(Debug)]
pub struct MeshLimit {
    own: Key,
    limit: Limit,
    mode: Mode,
    nodes: BTreeSet<Key>,
    heard: BTreeMap<Key, Said>,
    demand: Demand,
    escrow: Escrow,
    /// The least target of the window before and of this one.
    least: [f64; 2],
    gate: Arc<Gate>,
}

impl MeshLimit {
    /// Begins with an equal share. `nodes`: all that serve the limited service, this one among them, reachable or not.
    #[must_use]
    pub fn new(own: Key, limit: Limit, mode: Mode, nodes: BTreeSet<Key>, now: Millis) -> MeshLimit {
        let gate = Arc::new(Gate::new(limit.pace(0.0)));
        let mut begun = MeshLimit {
            own,
            limit,
            mode,
            nodes,
            heard: BTreeMap::new(),
            demand: Demand::new(0, now),
            escrow: Escrow::default(),
            least: [1.0; 2],
            gate,
        };
        begun.nodes.insert(Arc::clone(&begun.own));
        begun.lower(begun.target());
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
    pub fn set_nodes(&mut self, nodes: BTreeSet<Key>) {
        self.nodes = nodes;
        self.nodes.insert(Arc::clone(&self.own));
        self.heard.retain(|node, _| self.nodes.contains(node));
        self.escrow.retain(&self.nodes);
        self.lower(self.target());
    }

    /// Another node has spoken. What it says before it is known to serve counts for nothing.
    pub fn heard(&mut self, node: &Key, said: Said) {
        if *node == self.own || !self.nodes.contains(node) {
            return;
        }
        self.escrow.heard(node, said.given.clone());
        self.heard.insert(Arc::clone(node), said);
        self.lower(self.target());
    }

    /// A window has ended; call it every [`WINDOW_MS`]. Returns what to tell the others, if there is news.
    pub fn close_window(&mut self, now: Millis) -> Option<Said> {
        let mut is_news = self.demand.close(self.gate.asked(), now);
        if self.mode == Mode::Hard {
            let sum = self.demand_of_all();
            let targets = self.nodes.iter().map(|node| (Arc::clone(node), self.by_demand(node, sum))).collect();
            is_news |= self.escrow.give(&self.own, &targets);
        }
        let target = self.target();
        self.least = [self.least[1].min(target), target];
        self.apply();
        is_news.then(|| self.said())
    }

    /// What this node says of itself now, for those that ask.
    #[must_use]
    pub fn said(&self) -> Said {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates")]
        let demand = (self.demand.said() * 1_000.0) as u64;
        Said { demand, given: self.escrow.given().clone() }
    }

    fn target(&self) -> f64 {
        match self.mode {
            Mode::Split => self.by_demand(&self.own, self.demand_of_all()),
            Mode::Hard => self.escrow.share(&self.own, &self.nodes),
        }
    }

    /// A node's target: the same wherever the same is known.
    fn by_demand(&self, node: &Key, sum: f64) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "meshes are smaller than 2^53")]
        let equal = 1.0 / self.nodes.len() as f64;
        let by_demand = if sum > 0.0 { self.demand_of(node) / sum } else { equal };
        EQUAL_PART * equal + (1.0 - EQUAL_PART) * by_demand
    }

    fn demand_of_all(&self) -> f64 {
        self.nodes.iter().map(|node| self.demand_of(node)).sum()
    }

    /// No demand counts for more than the limit: a node that lies of its own takes no more than that.
    fn demand_of(&self, node: &Key) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a demand needs no more than 53 bits")]
        let said = |said: &Said| said.demand as f64 / 1_000.0;
        let demand = if *node == self.own { self.demand.said() } else { self.heard.get(node).map_or(0.0, said) };
        demand.min(self.limit.rate())
    }

    fn lower(&mut self, target: f64) {
        self.least[1] = self.least[1].min(target);
        self.apply();
    }

    fn apply(&self) {
        self.gate.set(self.limit.pace(self.share()));
    }
}

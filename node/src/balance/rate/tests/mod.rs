//! A mesh of nodes under one limit, with news that takes its time.

mod escrow;
mod mesh;
mod shares;

use super::*;
use crate::balance::Dice;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

const REPAIR_MS: Millis = 1_000;

/// Nodes, what is asked of each, and the news that is under way.
pub(super) struct Mesh {
    pub(super) nodes: Vec<MeshLimit>,
    names: Vec<Key>,
    /// By the time of arrival and a number: to whom, from whom, what.
    news: BTreeMap<(Millis, usize), (usize, usize, Said)>,
    /// When the last news of one node reaches another: news arrives in order.
    last: Vec<Vec<Millis>>,
    pub(super) dice: Dice,
    pub(super) now: Millis,
    pub(super) messages: usize,
    sent: usize,
    /// Longest time that news takes.
    pub(super) latency: Millis,
}

impl Mesh {
    pub(super) fn new(count: usize, limit: Limit, mode: Mode) -> Mesh {
        let names: Vec<Key> = (0..count).map(|number| format!("n{number:02}").into()).collect();
        let all: Arc<BTreeSet<Key>> = Arc::new(names.iter().cloned().collect());
        let begin = |name: &Key| MeshLimit::new(Arc::clone(name), limit, mode, Arc::clone(&all), 0);
        let nodes = names.iter().map(begin).collect();
        Mesh {
            nodes,
            names,
            news: BTreeMap::new(),
            last: vec![vec![0; count]; count],
            dice: Dice::new(11),
            now: 0,
            messages: 0,
            sent: 0,
            latency: WINDOW_MS,
        }
    }

    /// One millisecond: requests by chance at these rates a second, news, windows. How many were let in.
    pub(super) fn step(&mut self, rates: &[f64], reaches: impl Fn(usize, usize) -> bool) -> u64 {
        self.now += 1;
        let mut admitted = 0;
        for (node, rate) in self.nodes.iter().zip(rates) {
            for request in 0..arrivals(&mut self.dice, rate / 1_000.0) {
                let micros = self.now * 1_000 + request;
                admitted += u64::from(node.gate().admit(micros).is_ok());
            }
        }
        while let Some(arrival) = self.news.first_entry().filter(|arrival| arrival.key().0 <= self.now) {
            let (to, from, said) = arrival.remove();
            self.nodes[to].heard(&self.names[from], said, self.now);
        }
        for from in 0..self.nodes.len() {
            // Windows of different nodes do not begin together.
            let ends = (self.now + 37 * from as u64).is_multiple_of(WINDOW_MS);
            if let Some(said) = ends.then(|| self.nodes[from].close_window(self.now, true)).flatten() {
                self.messages += 1;
                self.tell(from, &said, &reaches);
            }
            // What was lost is repaired by and by, as gossip does.
            if (self.now + 71 * from as u64).is_multiple_of(REPAIR_MS) {
                let said = self.nodes[from].said();
                self.tell(from, &said, &reaches);
            }
        }
        admitted
    }

    fn tell(&mut self, from: usize, said: &Said, reaches: impl Fn(usize, usize) -> bool) {
        for to in (0..self.nodes.len()).filter(|to| *to != from && reaches(from, *to)) {
            let at = (self.now + 1 + self.dice.below(self.latency)).max(self.last[to][from]);
            self.last[to][from] = at;
            self.sent += 1;
            self.news.insert((at, self.sent), (to, from, said.clone()));
        }
    }

    pub(super) fn sum_of_shares(&self) -> f64 {
        self.nodes.iter().map(MeshLimit::share).sum()
    }
}

/// A number of arrivals by chance (Poisson).
fn arrivals(dice: &mut Dice, mean: f64) -> u64 {
    let (least, mut product, mut count) = ((-mean).exp(), dice.unit(), 0);
    while product > least {
        product *= dice.unit();
        count += 1;
    }
    count
}

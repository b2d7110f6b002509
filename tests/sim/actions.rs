//! What operators do, each at a node of their choice, on the grounds of what that node shows.

use policy::{
    changeset::{Approval, ChangesetId, confirmation, encode},
    history::Proposal,
};

use crate::{
    operators::{GOVERNORS, route, trust_domain},
    world::World,
};

const SHOP: [&str; 4] = ["ann", "bob", "carl", "mallory"];
const BANK: [&str; 3] = ["ann", "bob", "mallory"];

impl World {
    /// One thing that somebody does.
    pub(crate) fn act(&mut self) {
        let honest = self.honest();
        let node = honest.start + self.random.below(honest.len());
        if !self.nodes[node].up {
            return;
        }
        match self.random.below(20) {
            0..=6 => self.push_shop(node, None),
            7 => self.push_shop(node, Some(self.now + 20_000)),
            8 => self.confirm(node),
            9..=11 => self.propose(node),
            12..=14 => self.approve(node),
            15 => self.change_role_set(node),
            16 => self.revert(node),
            _ => self.forge(node),
        }
    }

    fn number(&self, node: usize) -> u64 {
        self.nodes[node].history.state(self.now).role_set.number
    }

    fn push_shop(&mut self, node: usize, confirm_by: Option<u64>) {
        let (name, host) = (format!("d{}", self.random.below(6)), format!("h{}", self.random.below(1000)));
        let host = (!self.random.percent(20)).then_some(host);
        let mut changes = vec![route(&self.nodes[node].history, self.now, "shop", &name, host.as_deref())];
        if self.random.percent(20) {
            changes.push(route(&self.nodes[node].history, self.now, "shop", "shared", Some("both")));
        }
        let author = SHOP[self.random.below(SHOP.len())];
        let bytes = self.operators.sign(self.number(node), self.now, confirm_by, changes, &[author]);
        self.push(node, &bytes);
    }

    fn confirm(&mut self, node: usize) {
        let history = &self.nodes[node].history;
        let trials: Vec<ChangesetId> = history
            .log()
            .into_iter()
            .map(|entry| entry.changeset)
            .filter(|id| history.get(id).is_some_and(|e| e.changeset.confirm_by.is_some_and(|until| until > self.now)))
            .collect();
        let Some(trial) = self.random.pick(&trials).copied() else { return };
        let bytes = self.operators.sign(self.number(node), self.now, None, vec![confirmation(&trial)], &["ann"]);
        if self.push(node, &bytes) {
            self.count("confirmed");
        }
    }

    fn propose(&mut self, node: usize) {
        let author = BANK[self.random.below(BANK.len())];
        let name = format!("d{}", self.random.below(3));
        let change = route(&self.nodes[node].history, self.now, "bank", &name, Some(author));
        let bytes = self.operators.sign(self.number(node), self.now, None, vec![change], &[author]);
        if self.push(node, &bytes) {
            self.count("proposed");
        }
    }

    fn approve(&mut self, node: usize) {
        let open: Vec<Proposal> = self.nodes[node].history.proposals(self.now);
        let Some(proposal) = self.random.pick(&open).cloned() else { return };
        let who = SHOP[self.random.below(SHOP.len())];
        let bytes = encode(&Approval::sign(&trust_domain(), proposal.changeset, self.operators.key(who)));
        if self.push(node, &bytes) {
            self.count("approved");
        }
    }

    /// By two at once, or proposed by one. On both sides of a partition that makes rivals, which the next one settles.
    fn change_role_set(&mut self, node: usize) {
        let (without, tag) = (self.random.percent(25), self.random.next());
        let change = self.operators.next_role_set(&self.nodes[node].history, self.now, without, tag);
        let signers = &GOVERNORS[..1 + self.random.below(2)];
        let bytes = self.operators.sign(self.number(node), self.now, None, vec![change], signers);
        if self.push(node, &bytes) {
            self.count("role sets");
        }
    }

    fn revert(&mut self, node: usize) {
        let log = self.nodes[node].history.log();
        let Some(entry) = self.random.pick(&log).cloned() else { return };
        let Ok(changes) = self.nodes[node].history.revert(&entry.changeset, self.now) else { return };
        let bytes = self.operators.sign(self.number(node), self.now, None, changes, &["ann", "bob"]);
        if self.push(node, &bytes) {
            self.count("reverted");
        }
    }

    fn forge(&mut self, node: usize) {
        let World { forgeries, random, operators, nodes, now, .. } = self;
        forgeries.make(random, operators, &nodes[node].history, *now);
        self.count("forged");
    }
}

//! What nodes say and what is judged of them, folded into the View; and what changed by it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use certs::{codec::Millis, id::NodeId};

use super::{Change, Effect, Engine, Loss};
use crate::{
    body::Status,
    detector::{Order, Verdict},
    gossip::Feed,
    ledger::Quarantine,
    record::Section,
    said::Said,
    view::{Member, MemberState, Quarantined, View},
};

impl Engine {
    /// Brings a node's member up to date with the ledger and the detector.
    pub(super) fn refresh(&mut self, node: &NodeId) {
        let Some(said) = self.ledger.said(node).cloned() else {
            return self.vanish(node);
        };
        let before = self.view.member(node).cloned();
        let left = said.status == Status::Left;
        if *node != self.own {
            self.follow(node, &said, before.as_deref());
        }
        let state = match self.detector.verdict(node) {
            _ if left => MemberState::Left,
            _ if *node == self.own => MemberState::Alive,
            None | Some(Verdict::Suspect) => MemberState::Suspect,
            Some(Verdict::Alive) => MemberState::Alive,
            Some(Verdict::Dead) => MemberState::Dead,
        };
        let since = before.as_ref().filter(|before| before.state == state).map_or(self.wall, |before| before.since);
        let intends = |before: &&Arc<Member>| (before.generation, before.status) == (said.generation, said.status);
        let status_since = before.as_ref().filter(intends).map_or(self.wall, |before| before.status_since);
        let path = before.as_ref().map_or((None, None), |before| (before.rtt, before.loss));
        let after = member(node, &said, (state, since), status_since, path);
        if before.as_deref() == Some(&after) {
            return;
        }
        if before.as_ref().is_none_or(|before| before.state != state) {
            self.accusations.judged(node, self.steady);
        }
        self.report(before.as_deref(), &after);
        let after = Arc::new(after);
        Arc::make_mut(&mut self.view).members.insert(node.clone(), after.clone());
        self.follow_moment(before.as_deref(), &after);
    }

    /// Tells what a member says of the moment, all of it under this heading, as long as it is not gone.
    pub(super) fn tell_statement(&mut self, node: &NodeId, base: Section) {
        self.heard.remove(&(node.clone(), base));
        let usable = self.view.member(node).is_some_and(|member| member.usable());
        if let Some(statement) = self.ledger.statement(node, base).filter(|_| usable && *node != self.own) {
            self.out.push(Effect::Heard { node: node.clone(), statement });
        }
    }

    /// Statements of the moment end with their author's run or life, and count again if it was only out of reach. That it is out of
    /// reach ends nothing for good: of one that was dead it is told, too, that it runs anew or left.
    fn follow_moment(&mut self, before: Option<&Member>, after: &Member) {
        if after.id == self.own {
            return;
        }
        let used = before.is_some_and(Member::usable);
        let anew = before.is_some_and(|before| before.generation != after.generation);
        let why = match after.state {
            MemberState::Left => before.is_some_and(stays).then_some(Loss::Left),
            MemberState::Evicted => before.is_some_and(stays).then_some(Loss::Evicted),
            MemberState::Alive | MemberState::Suspect | MemberState::Dead if anew => Some(Loss::Restarted),
            MemberState::Dead => used.then_some(Loss::Dead),
            MemberState::Alive | MemberState::Suspect => None,
        };
        self.out.extend(why.map(|why| Effect::Lost { node: after.id.clone(), why }));
        if after.usable() && (anew || !used) {
            for base in [Section::OUTLIERS, Section::DEMAND, Section::SUSPICIONS] {
                self.tell_statement(&after.id, base);
            }
        }
    }

    /// Tells detector and dialler who runs anew, moved or left.
    fn follow(&mut self, node: &NodeId, said: &Said, before: Option<&Member>) {
        let gone = |state: MemberState| matches!(state, MemberState::Left | MemberState::Evicted);
        if said.status == Status::Left {
            if before.is_none_or(|before| !gone(before.state)) {
                let orders = self.detector.left(node);
                self.obey(orders);
                self.dialer.forget(node);
                self.feed_soon();
            }
            return;
        }
        let anew = before.is_none_or(|before| before.generation < said.generation || gone(before.state));
        if anew {
            self.accusations.appeared(self.steady);
            let order = self.detector.learned(node, self.steady);
            self.obey(order);
            self.dialer.judged(node, false, self.steady);
            if self.links.linked().contains(node) {
                let orders = self.detector.linked(node, self.links.is_dialled(node), self.steady);
                // Its judgement the caller is about to fold in.
                self.obey(orders.into_iter().filter(|order| !matches!(order, Order::Judge(..))));
            }
        }
        let addresses = said.address.as_ref().map_or(&[][..], |address| &address.addresses);
        if anew || before.is_none_or(|before| before.addresses != addresses) {
            self.dialer.learned(node, addresses, self.steady);
            self.dial_now = true;
        }
    }

    /// A node no longer counts: evicted ones are shown as such, others are forgotten.
    fn vanish(&mut self, node: &NodeId) {
        let Some(before) = self.view.member(node).cloned() else { return };
        if before.state == MemberState::Evicted {
            return;
        }
        self.persist_soon();
        self.feed_soon();
        let lost = |why| Effect::Lost { node: node.clone(), why };
        let evicted = self.ledger.authority().revocations.nodes.get(node).is_some_and(|epoch| before.epoch <= *epoch);
        let members = &mut Arc::make_mut(&mut self.view).members;
        if evicted {
            let (services, health) = (Arc::default(), Arc::default());
            let state = MemberState::Evicted;
            let shown =
                Member { state, since: self.wall, services, health, rtt: None, loss: None, ..(*before).clone() };
            members.insert(node.clone(), Arc::new(shown));
            self.out.push(Effect::Changed(Change::Evicted(node.clone())));
            self.out.extend(stays(&before).then(|| lost(Loss::Evicted)));
        } else {
            members.remove(node);
            self.out.push(Effect::Changed(Change::Gone(node.clone())));
            self.out.extend(stays(&before).then(|| lost(Loss::Gone)));
        }
        if *node != self.own {
            self.expel(node);
        }
    }

    /// Shows who contradicted itself, and shows no more who was invited anew or evicted; gives those that are new there.
    pub(super) fn follow_quarantine(&mut self) -> Vec<NodeId> {
        let (before, wall) = (&self.view.quarantined, self.wall);
        let of = |found: &Quarantine| {
            let node = found.identity.node();
            let (generation, sequence) = found.proof.0.rank();
            let since = before.get(node).map_or(wall, |before| before.since);
            (node.clone(), Quarantined { since, epoch: found.epoch, generation, sequence })
        };
        let after: BTreeMap<NodeId, Quarantined> = self.ledger.standing_proofs().map(of).collect();
        let fresh = after.keys().filter(|node| !before.contains_key(*node)).cloned().collect();
        if after != *before {
            Arc::make_mut(&mut self.view).quarantined = after;
        }
        fresh
    }

    /// Ends everything with a node that has no rights here.
    pub(super) fn expel(&mut self, node: &NodeId) {
        self.detector.unlinked(node, true, self.steady);
        let orders = self.detector.forget(node);
        self.obey(orders);
        self.dialer.forget(node);
        self.fetch.have(node, None);
        self.fetch.unlinked(node);
        self.origins.remove(node);
        self.senders.remove(node);
        self.spoken.remove(node);
        self.carried.remove(node);
        self.accusations.forget(node);
        if self.links.drop_node(node) {
            self.feed_soon();
        }
        self.out.push(Effect::Close { node: node.clone() });
    }

    fn report(&mut self, before: Option<&Member>, after: &Member) {
        let node = || after.id.clone();
        let mut changes = Vec::new();
        if before.map(|before| before.state) != Some(after.state) {
            changes.push(match after.state {
                MemberState::Alive => Change::Alive(node()),
                MemberState::Suspect => Change::Suspect(node()),
                MemberState::Dead => Change::Dead(node()),
                MemberState::Left => Change::Left(node()),
                MemberState::Evicted => Change::Evicted(node()),
            });
            self.feed_soon();
        }
        let changed = |same: fn(&Member, &Member) -> bool| before.is_none_or(|before| !same(before, after));
        if changed(|a, b| a.status == b.status) {
            changes.push(Change::Status(node()));
        }
        if changed(|a, b| a.services == b.services) {
            changes.push(Change::Services(node()));
        }
        if changed(|a, b| a.health == b.health) {
            changes.push(Change::Health(node()));
        }
        if changed(|a, b| a.policy == b.policy) {
            changes.push(Change::Policy(node()));
        }
        if changed(|a, b| {
            let facts = |m: &Member| (m.generation, m.epoch, m.wire, m.started, m.record_key, m.ca_key, m.root);
            facts(a) == facts(b) && (&a.addresses, &a.locality, &a.version) == (&b.addresses, &b.locality, &b.version)
        }) {
            changes.push(Change::Member(node()));
        }
        self.out.extend(changes.into_iter().map(Effect::Changed));
    }

    /// Round trips are for people and change all the time: they are copied now and then, and no change is reported.
    pub(super) fn copy_rtts(&mut self) {
        let moved = |member: &Member, (rtt, loss): (Option<Duration>, Option<f64>)| {
            let other_rtt = match (member.rtt, rtt) {
                (Some(old), Some(new)) => old.abs_diff(new) > old / 4,
                (old, new) => old != new,
            };
            let other_loss = match (member.loss, loss) {
                (Some(old), Some(new)) => (old - new).abs() > 0.01,
                (old, new) => old.is_some() != new.is_some(),
            };
            other_rtt || other_loss
        };
        let view: &View = &self.view;
        let paths: Vec<_> = self
            .measured
            .union(self.links.linked())
            .filter_map(|node| {
                let path = self.detector.path(node);
                let path = (path.map(|(rtt, _)| Duration::from_micros(rtt)), path.map(|(_, loss)| loss));
                Some((view.member(node)?, path))
            })
            .filter(|(member, path)| moved(member, *path))
            .map(|(member, path)| (member.id.clone(), path))
            .collect();
        self.measured.clone_from(self.links.linked());
        if paths.is_empty() {
            return;
        }
        let members = &mut Arc::make_mut(&mut self.view).members;
        for (node, path) in paths {
            if let Some(member) = members.get_mut(&node).map(Arc::make_mut) {
                (member.rtt, member.loss) = path;
            }
        }
    }

    /// All that the gossip carrier must know.
    #[must_use]
    pub fn feed(&self) -> Feed {
        let members = self.ledger.known(|node| self.view.member(node).is_some_and(|member| member.usable()));
        Feed { node: self.own.clone(), members, linked: self.links.linked().iter().cloned().collect() }
    }
}

/// True unless it has said or been told that it is no member: the dead may live elsewhere.
fn stays(member: &Member) -> bool {
    !matches!(member.state, MemberState::Left | MemberState::Evicted)
}

fn member(
    node: &NodeId,
    said: &Said,
    (state, since): (MemberState, Millis),
    status_since: Millis,
    (rtt, loss): (Option<Duration>, Option<f64>),
) -> Member {
    let address = said.address.as_ref();
    let addresses = address.map(|address| address.addresses.clone()).unwrap_or_default();
    Member {
        id: node.clone(),
        generation: said.generation,
        epoch: said.epoch,
        record_key: said.record_key,
        ca_key: said.ca_key,
        root: said.root,
        state,
        since,
        status: said.status,
        status_since,
        address: addresses.first().copied(),
        addresses,
        locality: address.map(|address| address.locality.clone()).unwrap_or_default(),
        version: address.map(|address| address.version.clone()).unwrap_or_default(),
        wire: address.map_or((0, 0), |address| address.wire),
        started: address.map_or(0, |address| address.started),
        policy: said.policy.clone(),
        services: said.services.clone(),
        health: said.health.clone(),
        rtt,
        loss,
    }
}

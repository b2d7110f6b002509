//! Asks all nodes the same: what requests they saw, what they noted.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use certs::{
    codec::{self, Millis},
    id::NodeId,
};
use futures_util::{StreamExt as _, stream};
use membership::view::{Member, MemberState};
use serde::de::DeserializeOwned;

use super::Sync;
use crate::{
    agent::{
        admin::api,
        event::Noted,
        timeline::{self, Merged},
        traffic::{Picture, Said},
        wire::{self, Recall},
    },
    telemetry::Exchanged,
};

/// Nodes that are asked; those beyond count as silent.
const ASKED: usize = 200;
/// Of these, at a time.
const AT_ONCE: usize = 32;
/// Bytes of what one reply tells of nodes that are gone.
const RECALLED: usize = 2 << 20;
/// How long a link may take to come up, where there is none.
const LINK: Duration = Duration::from_millis(500);
/// How long a node may take to answer.
const ANSWER: Duration = Duration::from_secs(1);

/// What the others say, and those alive that said nothing.
struct Asked<T> {
    answers: Vec<(Arc<Member>, T)>,
    silent: Vec<NodeId>,
}

impl Sync {
    /// What was asked of whom in the last quarter of an hour, as the nodes that answer saw it; `own` is what this one saw.
    pub async fn traffic(&self, own: Exchanged) -> api::Traffic {
        let Asked { answers, silent } = self.ask_all::<Said>(wire::TRAFFIC, Bytes::new()).await;
        let mut picture = Picture::default();
        for (member, said) in answers {
            picture.add(member.id.clone(), &member.services, said);
        }
        if let Some(member) = self.world.view().member(self.node()) {
            picture.add(member.id.clone(), &member.services, Said::of(own));
        }
        picture.traffic(self.node().clone(), silent)
    }

    /// What happened since, as the nodes that answer noted it or keep it of nodes that do not, oldest first.
    pub async fn timeline(&self, since: Millis) -> Vec<Merged> {
        let recall = Recall { since, others: true };
        let asked = self.ask_all::<Vec<(NodeId, Vec<Noted>)>>(wire::EVENTS, codec::encode(&recall).into()).await;
        let said = asked.answers.into_iter().map(|(member, said)| (member.id.clone(), said));
        timeline::merge(said.chain([(self.node().clone(), self.recalled(&recall))]), self.node())
    }

    /// What this node noted, and what it keeps of those that are gone.
    pub(super) fn recalled(&self, recall: &Recall) -> Vec<(NodeId, Vec<Noted>)> {
        let mut own = self.events.recent();
        own.retain(|noted| noted.at >= recall.since);
        let mut all = vec![(self.node().clone(), own)];
        if recall.others {
            let alive = self.alive();
            let others = self.events.others();
            let gone = others.all().filter(|(node, _)| alive.binary_search(node).is_err());
            all.extend(timeline::newest(gone, recall.since, RECALLED));
        }
        all
    }

    /// Members that are alive, this one among them, by name.
    pub fn alive(&self) -> Vec<NodeId> {
        let view = self.world.view();
        let alive = view.members().values().filter(|member| member.state == MemberState::Alive);
        let mut names: Vec<NodeId> = alive.map(|member| member.id.clone()).collect();
        names.sort();
        names
    }

    /// Where scrapers find this node, as others reach it.
    pub(super) fn scraped(&self) -> Option<SocketAddr> {
        let bound = *self.state.own_scraped.get()?;
        if !bound.ip().is_unspecified() {
            return Some(bound);
        }
        let view = self.world.view();
        let advertised = view.member(self.node()).and_then(|own| own.address)?;
        Some(SocketAddr::new(advertised.ip(), bound.port()))
    }

    /// Notes where scrapers find this node.
    pub fn set_scraped(&self, address: SocketAddr) {
        // There is one such port; a second call changes nothing.
        let _ = self.state.own_scraped.set(address);
    }

    /// Where scrapers find each node: those that answer as they say, the others as they last said while they are members.
    pub async fn scraped_addresses(&self) -> BTreeMap<NodeId, SocketAddr> {
        let asked = self.ask_all::<Option<SocketAddr>>(wire::SCRAPED, Bytes::new()).await;
        let view = self.world.view();
        let mut known = self.state.scraped.lock().unwrap_or_else(PoisonError::into_inner);
        let own = Some((self.node().clone(), self.scraped()));
        for (node, address) in asked.answers.into_iter().map(|(member, said)| (member.id.clone(), said)).chain(own) {
            if let Some(address) = address {
                known.insert(node, address);
            } else {
                known.remove(&node);
            }
        }
        known.retain(|node, _| view.member(node).is_some_and(|member| !is_gone(member.state)));
        known.clone()
    }

    async fn ask_all<T: DeserializeOwned>(&self, what: u16, body: Bytes) -> Asked<T> {
        let view = self.world.view();
        let alive = view.members().values().filter(|member| member.state == MemberState::Alive);
        let others: Vec<_> = alive.filter(|member| member.id != *self.node()).cloned().collect();
        let asked = stream::iter(others.iter().take(ASKED).cloned()).map(async |member| {
            let link = self.links.reach(&self.members, &member.id, LINK).await?;
            let reply = link.request(what, body.clone(), ANSWER).await.ok()?;
            Some((member, wire::reply::<T>(&reply).ok()?))
        });
        let answers: Vec<(Arc<Member>, T)> =
            asked.buffer_unordered(AT_ONCE).filter_map(std::future::ready).collect().await;
        let mut silent: Vec<NodeId> = others.iter().map(|member| member.id.clone()).collect();
        silent.retain(|node| !answers.iter().any(|(member, _)| member.id == *node));
        Asked { answers, silent }
    }
}

/// Whether nobody expects an answer of a member any more.
const fn is_gone(state: MemberState) -> bool {
    match state {
        MemberState::Left | MemberState::Evicted => true,
        MemberState::Alive | MemberState::Suspect | MemberState::Dead => false,
    }
}

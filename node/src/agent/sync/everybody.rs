//! Asks all nodes the same: what requests they saw, what they noted.

use crate::lock::lock;
use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

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
        concerns::Concerns,
        event::Noted,
        timeline::{self, Merged},
        traffic::{Picture, Said},
        wire::{self, Paths, Recall},
    },
    mesh::peer::LinkError,
    telemetry::Exchanged,
};

/// Nodes that are asked what takes long to tell; of a larger mesh a sample.
const ASKED: usize = 200;
/// Of these, at a time.
const AT_ONCE: usize = 32;
/// Bytes of what one reply tells of nodes that are gone.
const RECALLED: usize = 2 << 20;
/// How long a link may take to come up, where there is none.
const LINK: Duration = Duration::from_millis(500);
/// How long a node may take to answer.
const ANSWER: Duration = Duration::from_secs(1);

/// What the others say.
struct Asked<T> {
    answers: Vec<(Arc<Member>, T)>,
    unheard: Unheard,
}

/// Who lives and is not among the answers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unheard {
    /// Those who were asked and said nothing, by name.
    pub silent: Vec<NodeId>,
    /// Those who were asked and run another version, which does not know the question or answers it otherwise, by name.
    pub other_version: Vec<NodeId>,
    /// How many were not asked: pages of a large mesh show a sample.
    pub unasked: usize,
}

/// What came of one question.
enum Reply<T> {
    Said(T),
    /// A refusal, or what cannot be read here.
    Unread,
    Silence,
}

impl Unheard {
    /// Takes in one that did not tell. Who refuses or cannot be read has heard the question: where it runs another version, that is why; else it
    /// may be busy.
    fn add(&mut self, node: &NodeId, version: &str, replied: bool) {
        let is_other = replied && version != env!("CARGO_PKG_VERSION");
        let among = if is_other { &mut self.other_version } else { &mut self.silent };
        among.push(node.clone());
    }

    fn sort(&mut self) {
        self.silent.sort();
        self.other_version.sort();
    }
}

impl Sync {
    /// What was asked of whom in the last quarter of an hour, as the nodes that answer saw it; `own` is what this one saw.
    pub async fn traffic(&self, own: Exchanged) -> api::Traffic {
        let Asked { answers, unheard } = self.ask_all::<Said>(wire::TRAFFIC, Bytes::new()).await;
        let mut picture = Picture::default();
        for (member, said) in answers {
            picture.add(member.id.clone(), &member.services, said);
        }
        if let Some(member) = self.world.view().member(self.node()) {
            picture.add(member.id.clone(), &member.services, Said::of(own));
        }
        picture.traffic(self.node().clone(), unheard)
    }

    /// Whom this node and those that answer have links with; and those alive that said nothing. Asking makes links with those that have none:
    /// this node's are those of before, and others may tell of one that stands for the question alone.
    pub async fn reaches(&self) -> (BTreeMap<NodeId, Paths>, Unheard) {
        let own = self.paths();
        let Asked { answers, unheard } = self.ask_all::<Paths>(wire::PATHS, Bytes::new()).await;
        let rows = answers.into_iter().map(|(member, said)| (member.id.clone(), said));
        (rows.chain([(self.node().clone(), own)]).collect(), unheard)
    }

    /// What happened since, as the nodes that answer noted it or keep it of nodes that do not, oldest first; and those that live and
    /// said nothing.
    pub async fn timeline(&self, since: Millis) -> (Vec<Merged>, Unheard) {
        let recall = Recall { since, others: true };
        let Asked { answers, unheard } =
            self.ask_all::<Vec<(NodeId, Vec<Noted>)>>(wire::EVENTS, codec::encode(&recall).into()).await;
        let said = answers.into_iter().map(|(member, said)| (member.id.clone(), said));
        let said = said.chain([(self.node().clone(), self.recalled(&recall))]);
        (timeline::merge(said, self.node(), self.clock.now()), unheard)
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
        let view = self.world.view();
        reached_at(bound, view.member(self.node()).and_then(|own| own.address))
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
        let mut known = lock(&self.state.scraped);
        // Who asks at a port that only this machine reaches is on this machine.
        let own = self.scraped().or(self.state.own_scraped.get().copied());
        let own = Some((self.node().clone(), own));
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

    /// What needs attention at the nodes that answer, but for this one; and those alive that said nothing.
    pub async fn concerns(&self) -> (Vec<(NodeId, Concerns)>, Unheard) {
        let Asked { answers, unheard } = self.ask_all::<Concerns>(wire::CONCERNS, Bytes::new()).await;
        (answers.into_iter().map(|(member, said)| (member.id.clone(), said.bounded())).collect(), unheard)
    }

    /// What of this node needs attention; nothing before anybody is there to say it.
    pub(super) fn own_concerns(&self) -> Option<Concerns> {
        self.state.concerns.get().map(|concerns| concerns())
    }

    /// Who says it from now on.
    pub fn set_concerns(&self, concerns: impl Fn() -> Concerns + Send + std::marker::Sync + 'static) {
        // There is one that does; a second call changes nothing.
        let _ = self.state.concerns.set(Box::new(concerns));
    }

    async fn ask_all<T: DeserializeOwned>(&self, what: u16, body: Bytes) -> Asked<T> {
        let view = self.world.view();
        let alive = view.members().values().filter(|member| member.state == MemberState::Alive);
        let mut others: Vec<NodeId> = alive.map(|member| member.id.clone()).filter(|id| id != self.node()).collect();
        let unasked = others.len().saturating_sub(most(what));
        sample(self.node(), &mut others, most(what));
        let members: Vec<Arc<Member>> = others.iter().filter_map(|node| view.members().get(node).cloned()).collect();
        let asked = stream::iter(members).map(async |member| {
            let reply = self.put_to(&member.id, what, body.clone()).await;
            (member, reply)
        });
        let mut replies = asked.buffer_unordered(AT_ONCE);
        let (mut answers, mut unheard) = (Vec::new(), Unheard { unasked, ..Unheard::default() });
        while let Some((member, reply)) = replies.next().await {
            match reply {
                Reply::Said(said) => answers.push((member, said)),
                Reply::Unread => unheard.add(&member.id, &member.version, true),
                Reply::Silence => unheard.add(&member.id, &member.version, false),
            }
        }
        unheard.sort();
        Asked { answers, unheard }
    }

    async fn put_to<T: DeserializeOwned>(&self, node: &NodeId, what: u16, body: Bytes) -> Reply<T> {
        let Some(link) = self.links.reach(&self.members, node, LINK).await else { return Reply::Silence };
        match link.request(what, body, ANSWER).await {
            Ok(reply) => wire::reply::<T>(&reply).map_or(Reply::Unread, Reply::Said),
            Err(LinkError::Refused) => Reply::Unread,
            Err(LinkError::Closed(_) | LinkError::Full | LinkError::TooLong(_) | LinkError::Timeout(_)) => {
                Reply::Silence
            }
        }
    }
}

/// How many nodes are asked this: all, where the answer is an address.
const fn most(what: u16) -> usize {
    if what == wire::SCRAPED { usize::MAX } else { ASKED }
}

/// Leaves so many of them, drawn by lot: at each node others, so that all are seen somewhere, and at one node the same each time, so that
/// what its pages count does not jump.
fn sample(own: &NodeId, others: &mut Vec<NodeId>, most: usize) {
    if others.len() <= most {
        return;
    }
    others.sort_by_cached_key(|other| twox_hash::XxHash64::oneshot(0, format!("{own} {other}").as_bytes()));
    others.truncate(most);
}

/// Where others reach a port that is bound so on a node that they reach at the advertised address. What is bound to loopback is nothing
/// to other machines: there the same address is another node's port.
fn reached_at(bound: SocketAddr, advertised: Option<SocketAddr>) -> Option<SocketAddr> {
    if bound.ip().is_unspecified() {
        return Some(SocketAddr::new(advertised?.ip(), bound.port()));
    }
    let apart = bound.ip().is_loopback() && advertised.is_some_and(|advertised| !advertised.ip().is_loopback());
    (!apart).then_some(bound)
}

/// Whether nobody expects an answer of a member any more.
const fn is_gone(state: MemberState) -> bool {
    match state {
        MemberState::Left | MemberState::Evicted => true,
        MemberState::Alive | MemberState::Suspect | MemberState::Dead => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_node_of_a_large_mesh_is_asked_where_it_is_scraped() {
        assert!(most(wire::SCRAPED) >= 1_000);
        assert_eq!([wire::TRAFFIC, wire::EVENTS].map(most), [ASKED; 2]);
    }

    #[test]
    fn of_a_large_mesh_each_node_asks_others_and_all_are_asked_by_somebody() {
        let node = |name: &str| NodeId::new(name).unwrap();
        let all: Vec<NodeId> = (0..1_000).map(|number| node(&format!("n{number:04}"))).collect();
        let drawn = |own: &str, most: usize| {
            let mut others = all.clone();
            sample(&node(own), &mut others, most);
            others
        };
        assert_eq!(drawn("a", 2_000), all, "all, in their order, where they are few");
        assert_eq!((drawn("a", ASKED).len(), drawn("a", ASKED)), (ASKED, drawn("a", ASKED)));
        assert_ne!(drawn("a", ASKED), drawn("b", ASKED));
        let seen: std::collections::BTreeSet<NodeId> =
            (0..40).flat_map(|number| drawn(&format!("own{number}"), ASKED)).collect();
        assert!(seen.len() > 990, "{} of 1,000 are seen by some of 40 nodes", seen.len());
    }

    #[test]
    fn who_runs_another_version_and_cannot_answer_is_not_called_silent() {
        let node = |name: &str| NodeId::new(name).unwrap();
        let own = env!("CARGO_PKG_VERSION");
        let mut unheard = Unheard::default();
        for (name, version, replied) in
            [("old", "0.0.1", true), ("busy", own, true), ("away", "0.0.1", false), ("older", "", true)]
        {
            unheard.add(&node(name), version, replied);
        }
        unheard.sort();
        assert_eq!(unheard.other_version, [node("old"), node("older")]);
        assert_eq!(unheard.silent, [node("away"), node("busy")]);
    }

    #[test]
    fn other_machines_are_not_told_of_a_port_on_loopback() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        for (bound, advertised, told) in [
            ("127.0.0.1:15020", "10.0.0.5:15008", None),
            ("[::1]:15020", "10.0.0.5:15008", None),
            ("127.0.0.1:15020", "127.0.0.1:15008", Some("127.0.0.1:15020")),
            ("10.0.0.6:15020", "10.0.0.5:15008", Some("10.0.0.6:15020")),
            ("0.0.0.0:15020", "10.0.0.5:15008", Some("10.0.0.5:15020")),
        ] {
            assert_eq!(reached_at(at(bound), Some(at(advertised))), told.map(at), "{bound}");
        }
        assert_eq!(reached_at(at("0.0.0.0:1"), None), None);
    }
}

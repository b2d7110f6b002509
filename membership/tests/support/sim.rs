//! A network of engines with real certificates, and what tests ask of it.

use std::{
    net::SocketAddr,
    ops::{Deref, DerefMut},
};

use certs::{
    id::{NodeId, ServiceAccount, ServiceName},
    verify::Authority,
};
use membership::{
    body::{Body, PortRecord, ServiceRecord, Services},
    engine::{Change, Event},
    sim::{network::Network, population},
    view::MemberState,
};

use super::world::Citizen;

pub(crate) struct Sim(Network);

impl Deref for Sim {
    type Target = Network;

    fn deref(&self) -> &Network {
        &self.0
    }
}

impl DerefMut for Sim {
    fn deref_mut(&mut self) -> &mut Network {
        &mut self.0
    }
}

impl Sim {
    pub(crate) fn new(authority: Authority, seed: u64) -> Sim {
        Sim(Network::new(authority, seed))
    }

    /// Starts a node that serves what its name says.
    pub(crate) fn start(&mut self, citizen: &Citizen, peers: &[SocketAddr], last_known: Vec<u8>) {
        let Citizen { node, record_key, chain } = citizen.clone();
        self.0.start(&population::Citizen { node, record_key, chain }, peers, last_known);
        self.serve(&citizen.node, &[citizen.node.as_str()]);
    }

    /// Publishes services of the default namespace.
    pub(crate) fn serve(&mut self, node: &NodeId, names: &[&str]) {
        let services = names.iter().map(|name| service(name)).collect();
        self.event(node, Event::Publish(vec![Body::Services(Services { services })]));
    }

    /// Runs until `done`; gives the milliseconds it took, or `None` after the limit.
    pub(crate) fn run_until(&mut self, milliseconds: u64, done: impl Fn(&Sim) -> bool) -> Option<u64> {
        let begin = self.now;
        while self.now <= begin + milliseconds {
            if done(self) {
                return Some(self.now - begin);
            }
            self.step();
        }
        None
    }

    /// Whether all running nodes but one see that one so.
    pub(crate) fn all_see(&self, of: &NodeId, state: MemberState) -> bool {
        let others = self.nodes.iter().filter(|(name, node)| node.up && *name != of);
        others.map(|(name, _)| self.state(name, of)).all(|seen| seen == Some(state))
    }

    pub(crate) fn whole(&self) -> bool {
        let up = || self.nodes.iter().filter(|(_, node)| node.up).map(|(name, _)| name);
        up().all(|at| up().all(|of| self.state(at, of) == Some(MemberState::Alive) && self.served(at, of) > 0))
    }

    /// How many services a node sees at another.
    pub(crate) fn served(&self, at: &NodeId, of: &NodeId) -> usize {
        self.nodes[at].engine.view().member(of).map_or(0, |member| member.services.len())
    }

    /// All changes of one sort, anywhere.
    pub(crate) fn changes(&self, change: fn(NodeId) -> Change, of: &NodeId) -> usize {
        let sought = change(of.clone());
        self.trace.iter().filter(|(_, _, change)| *change == sought).count()
    }
}

pub(crate) fn service(name: &str) -> ServiceRecord {
    let service: ServiceName = format!("default/{name}").parse().expect("valid");
    ServiceRecord {
        instance: None,
        account: ServiceAccount::default_of(&service),
        service,
        labels: [("app".to_owned(), name.to_owned())].into(),
        ports: vec![PortRecord { name: "http".to_owned(), number: 80, protocol: "http".to_owned() }],
        weight: 1,
    }
}

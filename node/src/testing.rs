//! A mesh for tests: its history and who signs it, what documents make of it, and endpoints in it.

use std::sync::Arc;

use certs::{
    codec::Millis,
    grant::NodeGrant,
    id::{NodeId, ServiceAccount, ServiceName, TrustDomain},
    root::Root,
    sign::{Digest, SigningKey},
};
use membership::{
    body::Status,
    view::{Member, MemberState},
};
use policy::{
    DocumentId,
    changeset::{Change, Changeset, ChangesetId},
    compile::Compiled,
    history::{History, State, genesis, signed},
    parse,
};

use crate::{
    balance::rate::Limits,
    snapshot::{Endpoint, EndpointId, Services, Snapshot, StatsTable},
};

/// When all of it happens.
pub(crate) const NOW: Millis = 1_800_000_000_000;

/// The mesh `t.example`: its history and its only operator.
pub(crate) struct Mesh {
    pub(crate) genesis: Vec<u8>,
    pub(crate) history: History,
    pub(crate) operator: SigningKey,
}

impl Mesh {
    pub(crate) fn new() -> Self {
        Self::at(NOW)
    }

    /// One that began at `now`, for what reads the clock.
    pub(crate) fn at(now: Millis) -> Self {
        let operator = SigningKey::generate();
        let root = Root::generate(&trust_domain(), now).certificate();
        let first = genesis(&trust_domain(), &[root], &[("ann".into(), operator.public(), false)], now);
        let (genesis, mut history) = (signed(&first, &[&operator]), History::new(trust_domain()));
        history.insert(&genesis, now).unwrap();
        Self { genesis, history, operator }
    }

    pub(crate) fn state(&self) -> Arc<State> {
        self.history.state(NOW)
    }

    /// Says what a document is from now on; `None` deletes it.
    pub(crate) fn push(&mut self, document: DocumentId, content: Option<String>) -> Arc<State> {
        let replaces = self.state().heads(&document);
        self.history.insert(&signed(&changeset(document, content, replaces), &[&self.operator]), NOW).unwrap();
        self.state()
    }
}

pub(crate) fn trust_domain() -> TrustDomain {
    TrustDomain::new("t.example").unwrap()
}

/// What says that a document is this, before it is signed.
pub(crate) fn changeset(document: DocumentId, content: Option<String>, replaces: Vec<ChangesetId>) -> Changeset {
    Changeset {
        trust_domain: trust_domain(),
        role_set: 1,
        issued_at: NOW,
        message: String::new(),
        confirm_by: None,
        nonce: [1; 16],
        changes: vec![Change { document, content, replaces }],
    }
}

/// A mesh with these valid documents; those that do not say so are of `shop`.
pub(crate) fn state(yaml: &str) -> Arc<State> {
    let parsed = parse::yaml("documents.yaml", yaml, "shop");
    assert!(parsed.is_valid(), "{:#?}", parsed.problems);
    let mut mesh = Mesh::new();
    for located in parsed.documents {
        mesh.push(located.document.id, Some(located.json));
    }
    mesh.state()
}

/// What the node `n0` of such a mesh sees.
pub(crate) fn snapshot(yaml: &str, services: Services) -> Snapshot {
    let state = state(yaml);
    Snapshot {
        trust_domain: trust_domain(),
        node: NodeId::new("n0").unwrap(),
        authority: Arc::new(state.authority(&trust_domain())),
        compiled: Arc::new(Compiled::build(&state, None)),
        services: Arc::new(services),
        foreign: Arc::default(),
        state,
        limits: Arc::new(Limits::new(7)),
        token_keys: Arc::default(),
    }
}

/// A healthy endpoint on another node, under the account of the service's name, without ports and labels.
pub(crate) fn endpoint(node: &str, service: &ServiceName, stats: &StatsTable) -> Endpoint {
    let id = EndpointId { node: NodeId::new(node).unwrap(), service: service.clone(), instance: None };
    Endpoint {
        address: "127.0.0.1:15008".parse().unwrap(),
        account: ServiceAccount::new(service.namespace(), service.name()).unwrap(),
        labels: Arc::default(),
        locality: "".into(),
        weight: 1,
        ports: Arc::new([]),
        healthy: true,
        reason: "".into(),
        local: false,
        stats: stats.of(&id, 1),
        id,
    }
}

/// A member that lives, and says nothing else.
pub(crate) fn member(name: &str) -> Member {
    let nothing = Digest([0; 32]);
    Member {
        id: NodeId::new(name).unwrap(),
        generation: 1,
        epoch: 1,
        record_key: SigningKey::generate().public(),
        ca_key: nothing,
        root: nothing,
        state: MemberState::Alive,
        since: NOW,
        status: Status::Up,
        status_since: NOW,
        address: None,
        addresses: Vec::new(),
        locality: String::new(),
        version: String::new(),
        wire: (1, 1),
        started: NOW,
        policy: None,
        services: Arc::new([]),
        health: Arc::default(),
        rtt: None,
        loss: None,
    }
}

/// A grant of nothing, to a node called `a`.
pub(crate) fn grant() -> NodeGrant {
    NodeGrant {
        node: NodeId::new("a").unwrap(),
        epoch: 1,
        services: Vec::new(),
        token_hash: None,
        redeemer: None,
        token_expires: None,
        enroller: false,
        retired: false,
    }
}

//! Whether the endpoints let a caller in, decided by the code by which they decide. Every node holds all documents and every
//! endpoint's labels, so any node can say it of any endpoint.

use std::sync::Arc;

use certs::id::SpiffeId;
use policy::{
    authorize::{Ask, Decision, Head, Peer},
    compile::Workload,
    kinds::PathNormalization,
    normalize,
    route::{Request, Routed, Source},
};

use crate::{
    agent::admin::api,
    config::Config,
    snapshot::{Endpoint, Snapshot},
};

/// Who asks, and what this node knows of the endpoints.
#[derive(Clone, Copy)]
pub(super) struct Judge<'a> {
    pub(super) snapshot: &'a Snapshot,
    /// Knows which port of this machine an endpoint on this node has.
    pub(super) config: &'a Config,
    pub(super) source: &'a Source,
}

/// A request as the endpoints get it.
pub(super) struct Asked<'a> {
    pub(super) judge: Judge<'a>,
    pub(super) request: &'a Request<'a>,
    pub(super) routed: &'a Routed,
}

impl Asked<'_> {
    /// Whether this endpoint lets the request in, at this port of its service.
    pub(super) fn at(&self, endpoint: &Endpoint, port: u16) -> api::Authorization {
        let workload = self.judge.workload(endpoint);
        if workload.authorizer.is_open() {
            return allowed();
        }
        let looks = workload.authorizer.looks_at_paths();
        let level = if looks { workload.config.path_normalization } else { PathNormalization::None };
        let forwarded = self.routed.path(self.request.uri);
        let (raw, query) = forwarded.split_once('?').map_or((&*forwarded, None), |(path, query)| (path, Some(query)));
        let authority = self.routed.authority().unwrap_or(self.request.authority);
        let (path, host) = match (normalize::path(raw, level), normalize::host(authority, HTTP_PORT)) {
            (Ok(path), Ok(host)) => (path, host),
            (Err(refused), _) | (_, Err(refused)) => return bad_request(&refused),
        };
        let head = Head {
            method: self.request.method.as_str(),
            scheme: "http",
            host: &host,
            called: Some((&endpoint.id.service, port)),
            path: &path,
            query,
            headers: self.request.headers,
            token: None,
        };
        self.judge.verdict(endpoint, port, |peer| {
            let asks = asks(&workload, peer, &head, endpoint, port)?;
            Ok((workload.authorizer.decide(peer, &head), asks))
        })
    }
}

impl Judge<'_> {
    /// Whether this endpoint lets a connection of bytes in, at this port of its service.
    pub(super) fn connection(&self, endpoint: &Endpoint, port: u16) -> api::Authorization {
        let workload = self.workload(endpoint);
        if workload.authorizer.is_open() {
            return allowed();
        }
        self.verdict(endpoint, port, |peer| Ok((workload.authorizer.decide_connection(peer), Vec::new())))
    }

    fn verdict(
        &self,
        endpoint: &Endpoint,
        port: u16,
        decide: impl FnOnce(&Peer<'_>) -> Result<(Decision, Vec<api::Ask>), Ask>,
    ) -> api::Authorization {
        let snapshot = self.snapshot;
        let own_port = self.application_port(endpoint, port);
        let identity = SpiffeId::service(snapshot.trust_domain.clone(), self.source.account.clone());
        let shown = SpiffeId::service(snapshot.trust_domain.clone(), endpoint.account.clone());
        let peer = Peer {
            identity: Some(&identity),
            address: None,
            original_address: None,
            server_name: Some(&shown.dns_name()),
            destination: Some(endpoint.address.ip()),
            port: own_port.unwrap_or(port),
        };
        let (decision, asks) = match decide(&peer) {
            Ok(decided) => decided,
            Err(ask) => return no_provider(&ask),
        };
        let verdict = decision.verdict;
        let unreadable = verdict.cause.as_ref().is_some_and(|cause| cause.unreadable);
        let authorizer = &self.workload(endpoint).authorizer;
        let allowing: Vec<String> = authorizer.allowing().map(ToString::to_string).collect();
        let none = (!verdict.allowed && verdict.cause.is_none())
            .then(|| format!("no rule lets it in of {}", allowing.join(", ")));
        let unknown = if own_port.is_some() { UNKNOWN_ADDRESS } else { UNKNOWN_PORT };
        let unknown = authorizer.looks_at_addresses().then(|| unknown.to_owned());
        let notes: Vec<String> =
            if unreadable { vec![UNREADABLE.to_owned()] } else { none.into_iter().chain(unknown).collect() };
        api::Authorization {
            verdict: if verdict.allowed { "allow" } else { "deny" }.to_owned(),
            document: verdict.cause.as_ref().map(|cause| cause.document.to_string()),
            rule: verdict
                .cause
                .as_ref()
                .filter(|cause| !cause.unreadable)
                .map(|cause| format!("rules[{}]", cause.rule)),
            note: (!notes.is_empty()).then(|| notes.join("; ")),
            asks,
        }
    }

    /// What PeerAuthentication comes to at this port of its service.
    pub(super) fn mutual_tls(&self, endpoint: &Endpoint, port: u16) -> &'static str {
        let port = self.application_port(endpoint, port).unwrap_or(port);
        self.workload(endpoint).mutual_tls.on(port).as_str()
    }

    fn workload(&self, endpoint: &Endpoint) -> Arc<Workload> {
        let namespace = endpoint.id.service.namespace();
        self.snapshot.compiled.workload(&self.snapshot.trust_domain, namespace, &endpoint.labels)
    }

    /// Where the application listens, if it is beside this node: what policies call a port.
    fn application_port(&self, endpoint: &Endpoint, port: u16) -> Option<u16> {
        let is_it = |service: &&crate::config::Service| {
            service.name == endpoint.id.service && service.instance.as_deref() == endpoint.id.instance.as_deref()
        };
        let service = self.config.services.iter().filter(|_| endpoint.local).find(is_it)?;
        service.ports.iter().find(|known| known.number == port).map(|known| known.target.port())
    }
}

/// What all endpoints say together.
pub(super) fn together(endpoints: &[api::Candidate]) -> api::Authorization {
    let candidates = endpoints.iter().filter(|endpoint| endpoint.candidate);
    let mut verdicts = candidates.map(|endpoint| &endpoint.authorization);
    let Some(first) = verdicts.next() else { return allowed() };
    if verdicts.all(|verdict| verdict == first) {
        return first.clone();
    }
    let note = "the endpoints differ: each says its own".to_owned();
    api::Authorization { verdict: "mixed".to_owned(), document: None, rule: None, note: Some(note), asks: Vec::new() }
}

/// No document speaks of it: every caller with an identity of the mesh is let in.
pub(super) fn allowed() -> api::Authorization {
    api::Authorization { verdict: "allow".to_owned(), document: None, rule: None, note: None, asks: Vec::new() }
}

fn bad_request(refused: &normalize::Refused) -> api::Authorization {
    let note = Some(format!("answered 400: {refused}"));
    api::Authorization { verdict: "deny".to_owned(), document: None, rule: None, note, asks: Vec::new() }
}

/// Everyone who is asked; who is not there lets nobody in.
fn asks(
    workload: &Workload,
    peer: &Peer<'_>,
    head: &Head<'_>,
    endpoint: &Endpoint,
    port: u16,
) -> Result<Vec<api::Ask>, Ask> {
    let (mut asked, mut asks) = (Vec::new(), Vec::new());
    while let Some(ask) = workload.authorizer.ask(peer, head, &asked) {
        let Some(provider) = workload.config.provider(&ask.provider) else { return Err(ask) };
        asked.push(ask.provider.clone());
        // An authoriser is not asked about what it is asked.
        if provider.service != endpoint.id.service || provider.port != port {
            asks.push(api::Ask {
                provider: ask.provider.to_string(),
                document: ask.cause.document.to_string(),
                rule: format!("rules[{}]", ask.cause.rule),
            });
        }
    }
    Ok(asks)
}

fn no_provider(ask: &Ask) -> api::Authorization {
    api::Authorization {
        verdict: "deny".to_owned(),
        document: Some(ask.cause.document.to_string()),
        rule: Some(format!("rules[{}]", ask.cause.rule)),
        note: Some(format!("no extension provider of the MeshConfig is called `{}`", ask.provider)),
        asks: Vec::new(),
    }
}

const HTTP_PORT: u16 = 80;
const UNREADABLE: &str = "this build cannot read the document, so everything that it may be for is refused";
const UNKNOWN_ADDRESS: &str = "the caller's address is not known here: rules about source.ip are taken not to match";
const UNKNOWN_PORT: &str = "the caller's address and the application's port are known to the endpoint's node only: rules about source.ip are taken not to match, and the port to be the service's";

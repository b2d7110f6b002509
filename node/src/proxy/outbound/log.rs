//! What the access log tells of a request that an application sends. Nothing is gathered while the log is off.

use super::{Requests, Speaker, tcp};
use crate::{
    clock,
    proxy::{self, context::Context, exchange::Logged, gateway::Entrance},
    snapshot::Snapshot,
    telemetry::{Entry, LogSide},
};
use arc_swap::ArcSwapOption;
use http::{HeaderMap, header::HOST, request::Parts};
use policy::compile::{Compiled, LogRule};
use std::sync::{Arc, Weak};

/// What the documents last said of a speaker's access log.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Seen(ArcSwapOption<Rule>);

#[derive(Debug)]
struct Rule {
    /// Of which documents: the same ones say the same.
    compiled: Weak<Compiled>,
    rule: Option<Arc<LogRule>>,
}

impl Speaker {
    fn log_rule(&self, snapshot: &Snapshot) -> Option<Arc<LogRule>> {
        let seen = self.log.0.load();
        if let Some(known) = &*seen
            && std::ptr::eq(known.compiled.as_ptr(), Arc::as_ptr(&snapshot.compiled))
        {
            return known.rule.clone();
        }
        let (namespace, labels) = (self.service.namespace(), &self.source.labels);
        let workload = snapshot.compiled.workload(&snapshot.trust_domain, namespace, labels);
        let rule = workload.logs.client.clone();
        self.log.0.store(Some(Arc::new(Rule { compiled: Arc::downgrade(&snapshot.compiled), rule: rule.clone() })));
        rule
    }
}

/// Begins the line of a connection of bytes, if there is to be one.
pub(super) fn begin_connection(
    context: &Context,
    speaker: &Speaker,
    snapshot: &Snapshot,
    ends: tcp::Ends,
    server_name: Option<&str>,
) -> Option<proxy::tcp::Logged> {
    if !snapshot.compiled.logs_any() {
        return None;
    }
    let rule = speaker.log_rule(snapshot)?;
    let entry = Entry {
        local: ends.local.into(),
        remote: ends.remote.into(),
        server_name: server_name.filter(|name| !name.is_empty()).map(str::to_owned),
        ..Entry::of_connection(LogSide::Client, clock::wall())
    };
    let config = Arc::clone(snapshot.compiled.config());
    Some(proxy::tcp::Logged { log: context.access_log.clone(), rule, config, entry })
}

/// Begins the line of what could not be read as a request, if there is to be one.
pub(super) fn begin_refused(context: &Context, speaker: &Speaker, ends: tcp::Ends) -> Option<Logged> {
    let snapshot = context.current.read();
    if !snapshot.compiled.logs_any() {
        return None;
    }
    let rule = speaker.log_rule(&snapshot)?;
    let (local, remote) = (ends.local.into(), ends.remote.into());
    let entry = Entry { local, remote, ..Entry::of_connection(LogSide::Client, clock::wall()) };
    let config = Arc::clone(snapshot.compiled.config());
    Some(Logged { log: context.access_log.clone(), rule, config, entry })
}

/// Begins a line, if there is to be one. Hop-by-hop headers are stripped already.
pub(super) fn begin(requests: &Requests<'_>, snapshot: &Snapshot, parts: &Parts) -> Option<Logged> {
    if !snapshot.compiled.logs_any() {
        return None;
    }
    let rule = requests.speaker.log_rule(snapshot)?;
    let mut headers = parts.headers.clone();
    let host = headers.remove(HOST).and_then(|host| host.to_str().ok().map(str::to_owned));
    let authority = parts.uri.authority().map(ToString::to_string).or(host).unwrap_or_default();
    let entry = Entry {
        side: LogSide::Client,
        began: clock::wall(),
        method: Some(parts.method.clone()),
        path: parts.uri.path_and_query().map_or("", |path| path.as_str()).to_owned(),
        version: parts.version,
        authority,
        request: headers,
        response: HeaderMap::new(),
        cluster: None,
        route: String::new(),
        upstream: None,
        local: requests.local.into(),
        remote: requests.remote.into(),
        // An application is known by the port at which it speaks, not by a certificate.
        peer: None,
        server_name: requests.entrance.and_then(Entrance::server_name).map(str::to_owned),
        details: None,
        received: 0,
        sent: 0,
        answered_after: None,
    };
    let config = Arc::clone(snapshot.compiled.config());
    Some(Logged { log: requests.context.access_log.clone(), rule, config, entry })
}

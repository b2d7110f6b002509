//! What this node would do with a request, found by the same code as the proxy: routing and the choice among endpoints.

mod authorization;
mod connection;
mod effective;
mod gateway;
mod question;

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use certs::id::ServiceAccount;
use policy::{
    kinds::{Abort, OutboundPolicy},
    normalize,
    route::{self, Action, Addressed, Destination, NoRoute, Request, Source},
};

use authorization::{Asked, Judge};
use question::{Asks, Question};

use super::{Admin, api, error::Error};
use crate::{
    config::Config,
    snapshot::{Candidates, Carries, Endpoint, Instance, NoCluster, Snapshot},
};

impl Admin {
    /// `GET /v1/explain?url=URL[&method=METHOD][&from=NS/SA][&header=NAME:VALUE]...`, where a URL of `tcp` or `tls` asks about a
    /// connection; with `&gateway=NS/NAME` about a request of a client outside the mesh that comes in there.
    pub(crate) fn explain(&self, query: &str) -> Result<api::Explanation, Error> {
        let question = Question::read(query)?;
        let snapshot = self.agent.snapshot();
        let (source, known) = match (&question.gateway, &question.from) {
            (Some(gateway), _) => (gateway::source(&snapshot, &self.agent.config(), gateway)?, true),
            (None, Some(account)) => source(&snapshot, account),
            (None, None) => (self.own_source()?, true),
        };
        let mut explained = explanation(&snapshot, &self.agent.config(), &question, &source);
        explained.from.known = known;
        self.leave_out(&mut explained);
        Ok(explained)
    }

    /// Whoever speaks at this node's first outbound port, else its first service.
    fn own_source(&self) -> Result<Source, Error> {
        let config = self.agent.config();
        let speaker = config.outbounds.first().map(|outbound| &outbound.speaker);
        let speaks = |service: &&crate::config::Service| {
            speaker.is_none_or(|speaker| speaker.service == service.name && speaker.instance == service.instance)
        };
        let Some(service) = config.services.iter().find(speaks) else {
            return Err(Error::new("usage", format!("{} has no service that could call", self.agent.node()))
                .hint("say who calls with --from NAMESPACE/ACCOUNT"));
        };
        Ok(Source {
            namespace: service.name.namespace().to_owned(),
            labels: service.labels.clone(),
            account: service.account.clone(),
        })
    }
}

/// The workload that has this identity, one on this node first; without labels where none is known, and whether one is.
fn source(snapshot: &Snapshot, account: &ServiceAccount) -> (Source, bool) {
    let endpoints = snapshot.services.iter().flat_map(|service| service.endpoints.iter());
    let of_account = endpoints.filter(|endpoint| endpoint.account == *account);
    let found = of_account.min_by_key(|endpoint| (!endpoint.local, &endpoint.id));
    let source = Source {
        namespace: account.namespace().to_owned(),
        labels: found.map(|endpoint| (*endpoint.labels).clone()).unwrap_or_default(),
        account: account.clone(),
    };
    (source, found.is_some())
}

fn explanation(snapshot: &Snapshot, config: &Config, question: &Question, source: &Source) -> api::Explanation {
    let mut explained = api::Explanation {
        service: None,
        document: None,
        rule: None,
        line: None,
        destination: None,
        cluster: None,
        virtual_host: None,
        retries: None,
        timeout_ms: None,
        fault: None,
        authorization: authorization::allowed(),
        endpoints: Vec::new(),
        destinations: Vec::new(),
        answer: None,
        gateway: None,
        path: None,
        from: api::Caller { account: source.account.to_string(), labels: source.labels.clone(), known: false },
        node: snapshot.node.clone(),
    };
    let judge = Judge { snapshot, config, source };
    match &question.asks {
        Asks::Request => explain_request(judge, question, &mut explained),
        Asks::Bytes => connection::explain(judge, &question.authority, None, &mut explained),
        Asks::Tls(server_name) => connection::explain(judge, &question.authority, Some(server_name), &mut explained),
    }
    explained
}

fn explain_request(judge: Judge<'_>, question: &Question, explained: &mut api::Explanation) {
    let (snapshot, source) = (judge.snapshot, judge.source);
    let normal = match normalize::target(&question.uri, snapshot.compiled.config().path_normalization) {
        Ok(normal) => normal,
        Err(refused) => {
            explained.answer = Some(answer(400, "DPE", refused.to_string()));
            return;
        }
    };
    let is_tls = question.uri.scheme_str() == Some("https");
    let request = Request {
        method: &question.method,
        uri: normal.as_ref().unwrap_or(&question.uri),
        authority: &question.authority,
        scheme: if is_tls { "https" } else { "http" },
        headers: &question.headers,
        source,
        fixed: None,
        token: None,
        own_port: None,
    };
    if let Some(name) = &question.gateway {
        let port = question.uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        return gateway::explain(judge, name, &request, port, explained);
    }
    match route::route(&snapshot.compiled, &*snapshot.services, &request) {
        Ok(routed) => explain_route(&Asked { judge, request: &request, routed: &routed }, explained),
        Err(no_route) => {
            let outside = matches!(no_route, NoRoute::UnknownHost { .. } | NoRoute::NotImported { .. });
            let outbound = snapshot.compiled.scope(source).outbound(snapshot.compiled.config().outbound);
            let (status, flag) = match outbound {
                Some(OutboundPolicy::RegistryOnly) if outside => (502, ""),
                Some(OutboundPolicy::RegistryOnly | OutboundPolicy::AllowAny) | None => (404, "NR"),
            };
            explained.answer = Some(answer(status, flag, no_route.to_string()));
            match no_route {
                NoRoute::UnknownHost { .. } => {}
                NoRoute::NotImported { sidecar, .. } => explained.document = Some(sidecar.to_string()),
                NoRoute::UnknownPort { host, .. } => explained.service = called(&host),
                NoRoute::NoMatch { document, host, .. } => {
                    explained.service = called(&host);
                    explained.document = Some(document.to_string());
                }
            }
        }
    }
}

fn explain_route(asked: &Asked<'_>, explained: &mut api::Explanation) {
    let (request, routed) = (asked.request, asked.routed);
    let route = &routed.route;
    explained.service = called(&routed.host);
    explained.document = route.document.as_ref().map(ToString::to_string);
    explained.rule = Some(if route.document.is_some() && route.name.is_empty() {
        format!("http[{}]", route.rule)
    } else {
        route.name.clone()
    });
    explained.line = route.line;
    explained.virtual_host = Some(routed.virtual_host());
    explained.path = Some(routed.path(request.uri).into_owned());
    match &route.action {
        Action::Forward(destinations) => {
            explained.timeout_ms = route.timeout.map(millis);
            explained.retries = Some(api::Retries {
                attempts: route.retries.attempts,
                on: route.retries.on.to_string(),
                per_try_timeout_ms: route.retries.per_try_timeout.map(millis),
            });
            explained.fault = route.fault.as_ref().map(fault);
            let judge = |endpoint: &Endpoint, port: u16| asked.at(endpoint, port);
            let (port, carries) = (routed.port, Carries::Http1);
            Forwarding { judge: asked.judge, port, carries, refused: 503, admits: &judge }
                .explain(destinations, explained);
            explained.authorization = authorization::together(&explained.endpoints);
            if explained.authorization.verdict == "deny" && explained.answer.is_none() {
                let reason = "RBAC: access denied, by every endpoint that may be chosen";
                explained.answer = Some(answer(403, "", reason.to_owned()));
            }
            if let Some(abort) =
                route.fault.as_ref().and_then(|fault| fault.abort).filter(|abort| abort.per_million > 0)
                && abort.per_million >= 1_000_000
            {
                let status = match abort.abort {
                    Abort::Http(status) => status,
                    // As a gRPC caller sees it.
                    Abort::Grpc(_) => 200,
                };
                explained.answer = Some(answer(status, "FI", "the route aborts every request".to_owned()));
            }
        }
        Action::Redirect(redirect) => {
            let location = routed.location(redirect, request);
            explained.answer = Some(answer(redirect.code, "", format!("redirected to {location}")));
        }
        Action::Direct(direct) => {
            explained.answer = Some(answer(direct.status, "", "the route answers itself".to_owned()));
        }
    }
}

/// Where a route forwards to, and who may answer there.
struct Forwarding<'a> {
    judge: Judge<'a>,
    /// The port that was addressed.
    port: u16,
    carries: Carries,
    /// The status of an answer that this node gives; 0 where there is none.
    refused: u16,
    /// Whether an endpoint lets it in at a port.
    admits: &'a dyn Fn(&Endpoint, u16) -> api::Authorization,
}

impl Forwarding<'_> {
    fn explain(&self, destinations: &[Destination], explained: &mut api::Explanation) {
        let (snapshot, labels) = (self.judge.snapshot, &self.judge.source.labels);
        let total: u64 = destinations.iter().map(|one| u64::from(one.weight)).sum();
        let percent = |index: usize, one: &Destination| match (total, index) {
            (0, 0) => 100,
            (0, _) => 0,
            _ => u64::from(one.weight) * 100 / total,
        };
        for (index, one) in destinations.iter().enumerate() {
            let namespace = self.judge.source.namespace.as_str();
            let port = one.port(&*snapshot.services, snapshot.compiled.entries(), namespace, self.port);
            let seen = one.seen_by(labels);
            let target = api::Target {
                destination_rule: Some(effective::effective(seen, port)),
                host: one.host.clone(),
                port,
                subset: Some(one.subset_name.clone()).filter(|name| !name.is_empty()),
                percent: if destinations.len() == 1 { 100 } else { percent(index, one) },
                cluster: one.cluster(port),
            };
            let found = Candidates::of(snapshot, namespace, (one, &seen.subset), port, self.carries, seen.policy(port));
            let out = found.as_ref().err().map(NoCluster::to_string);
            let by_name = found.as_ref().ok().and_then(Candidates::entry).is_some_and(|made| made.service.is_by_name());
            let endpoints = found.map(|candidates| self.endpoints(&candidates, &target)).unwrap_or_default();
            let nobody =
                (!endpoints.iter().any(|endpoint| endpoint.candidate)).then(|| "no endpoint is healthy".to_owned());
            let greatest = explained.destination.as_ref().is_none_or(|known| target.percent > known.percent);
            if greatest {
                explained.answer = match (out, nobody) {
                    (Some(why), _) => Some(answer(self.refused, "NC", why)),
                    // Its endpoint is what the name means when a request brings it.
                    (None, Some(why)) if !by_name => Some(answer(self.refused, "UH", why)),
                    (None, Some(_) | None) => None,
                };
                explained.cluster = Some(target.cluster.clone());
                explained.destination = Some(target.clone());
            }
            explained.destinations.push(target);
            explained.endpoints.extend(endpoints);
        }
    }

    fn endpoints(&self, candidates: &Candidates<'_>, target: &api::Target) -> Vec<api::Candidate> {
        let row = |instance: &Instance| {
            let (out, own) = (candidates.why_out(instance), candidates.port_of(instance).unwrap_or(target.port));
            let said = match instance {
                Instance::Mesh(endpoint) if !endpoint.healthy => &*endpoint.reason,
                Instance::Mesh(_) | Instance::Outside(_) => "",
            };
            let reason = match out {
                Some(out) if said.is_empty() => out.to_string(),
                Some(out) => format!("{out}: {said}"),
                None => String::new(),
            };
            // Whether one outside lets somebody in, nobody here can say.
            let (node, address, authorization, mutual_tls) = match instance {
                Instance::Mesh(endpoint) => (
                    Some(endpoint.id.node.clone()),
                    endpoint.address,
                    (self.admits)(endpoint, own),
                    self.judge.mutual_tls(endpoint, own).to_owned(),
                ),
                Instance::Outside(outside) => {
                    let address = SocketAddr::new(outside.address, own);
                    (None, address, authorization::allowed(), String::new())
                }
            };
            api::Candidate {
                id: instance.stats().key().to_string(),
                node,
                address: address.to_string(),
                port: target.port,
                labels: BTreeMap::clone(instance.labels()),
                weight: instance.weight(),
                cluster: target.cluster.clone(),
                candidate: out.is_none(),
                reason,
                authorization,
                mutual_tls,
            }
        };
        candidates.instances().iter().map(row).collect()
    }
}

/// What is called, unless it is but a name.
fn called(host: &Addressed) -> Option<String> {
    match host {
        Addressed::Service(_) | Addressed::Entry { .. } => Some(host.to_string()),
        Addressed::Name(_) => None,
    }
}

fn fault(fault: &policy::kinds::Fault) -> api::Fault {
    let percent = |per_million: u32| f64::from(per_million) / 10_000.0;
    api::Fault {
        delay_ms: fault.delay.map(|delay| millis(delay.delay)),
        delay_percent: fault.delay.map_or(0.0, |delay| percent(delay.per_million)),
        abort: fault.abort.map(|abort| match abort.abort {
            Abort::Http(status) => format!("HTTP {status}"),
            Abort::Grpc(status) => format!("gRPC {status}"),
        }),
        abort_percent: fault.abort.map_or(0.0, |abort| percent(abort.per_million)),
    }
}

fn answer(status: u16, flag: &str, reason: String) -> api::Answer {
    api::Answer { status, flag: flag.to_owned(), reason }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

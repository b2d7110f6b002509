//! A request of a client outside the mesh, at a gateway of this node: by the rules of the port where it comes in.

use policy::{
    DocumentId,
    compile::{Behind, Hosts, Listener, Serves},
    hosts,
    kinds::GatewayName,
    route::{self, Entered, Request, Source},
};

use super::{
    Asked, Error, Judge, answer,
    api::{AtGateway, Explanation},
    explain_route,
};
use crate::{config::Config, snapshot::Snapshot};

/// The service beside this node that opens the Gateway's ports: in its name requests go on.
///
/// # Errors
/// There is none here.
pub(super) fn source(snapshot: &Snapshot, config: &Config, gateway: &GatewayName) -> Result<Source, Error> {
    let opens = |service: &&crate::config::Service| {
        let mut selecting = snapshot.compiled.gateways_of(service.name.namespace(), &service.labels);
        selecting.any(|name| name == *gateway)
    };
    let service = config.services.iter().find(opens).ok_or_else(|| {
        let message = format!("no service of {} opens the ports of Gateway {gateway}", snapshot.node);
        Error::new("not_found", message)
            .hint("ask a node that does, with --node NODE; `skein status` lists what is open there")
    })?;
    Ok(Source {
        namespace: service.name.namespace().to_owned(),
        labels: service.labels.clone(),
        account: service.account.clone(),
    })
}

/// What the gateway does with a request that comes in at this port, as documents name it.
pub(super) fn explain(
    judge: Judge<'_>,
    gateway: &GatewayName,
    request: &Request<'_>,
    port: u16,
    explained: &mut Explanation,
) {
    explained.gateway = Some(AtGateway { name: gateway.to_string(), port });
    let (scheme, source) = (request.scheme, judge.source);
    let (host, _) = hosts::split_authority(request.authority);
    let doors = judge.snapshot.compiled.doors(&source.namespace, &source.labels);
    let mut listeners = doors
        .listeners
        .iter()
        .filter(|listener| listener.port == port && listener.documents.iter().any(|id| is_of(id, gateway)));
    let Some(hosts) = listeners.find_map(|listener| requests(listener, scheme == "https", host)) else {
        let reason = format!("no server at port {port} takes {scheme} for `{host}`");
        return explained.answer = Some(answer(0, "", reason));
    };
    match route::enter(hosts, request, port) {
        Entered::Route(routed) => explain_route(&Asked { judge, request, routed: &routed }, explained),
        Entered::ToHttps => {
            explained.answer = Some(answer(301, "", "the server sends clients to https (httpsRedirect)".to_owned()));
        }
        Entered::Nothing => {
            let reason = format!("no rule of a VirtualService that names a Gateway of this port takes it for `{host}`");
            explained.answer = Some(answer(404, "NR", reason));
        }
    }
}

/// Whether a document is this Gateway: several may open ports of one service.
fn is_of(document: &DocumentId, gateway: &GatewayName) -> bool {
    matches!(gateway, GatewayName::Gateway { namespace, name } if document.namespace == *namespace && document.name == *name)
}

/// The hosts of a listener to whom it comes, if it takes such requests.
fn requests<'l>(listener: &'l Listener, is_tls: bool, host: &str) -> Option<&'l Hosts> {
    match &listener.serves {
        Serves::Plain(hosts) if !is_tls => Some(hosts),
        Serves::Tls(_) if is_tls => match &listener.tls_server(Some(host))?.behind {
            Behind::Requests(hosts) => Some(hosts),
            Behind::Bytes(_) | Behind::Unopened(_) => None,
        },
        Serves::Plain(_) | Serves::Tls(_) | Serves::Bytes(_) => None,
    }
}

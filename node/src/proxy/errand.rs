//! Errands: requests that the node itself sends through the mesh, in the name of a service beside it.

use super::{
    context::Context,
    local::Local,
    outbound::{self, Speaker},
};
use crate::{
    config,
    telemetry::{Answer, Errand, collect},
};
use certs::id::ServiceName;
use http::HeaderValue;
use policy::{
    compile::Compiled,
    hosts,
    route::{self, Route, Routed},
};
use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::sync::mpsc;

/// The ways of errands, made once for each.
#[derive(Default)]
struct Ways {
    compiled: Weak<Compiled>,
    local: Weak<Local>,
    known: HashMap<Key, Arc<Way>>,
}

type Key = (config::Speaker, ServiceName, u16, Duration);

struct Way {
    speaker: Arc<Speaker>,
    routed: Routed,
}

/// Runs errands, each in a task of its own, for as long as somebody may send some.
pub(super) async fn run(context: Arc<Context>, mut errands: mpsc::Receiver<Errand>) {
    let mut ways = Ways::default();
    while let Some(errand) = errands.recv().await {
        let way = ways.find(&context, &errand);
        let runner = Arc::clone(&context);
        context.tasks.detach("errand", async move {
            let Errand { service, port, timeout, request, answer, .. } = errand;
            let answered = async {
                let way = way.ok_or_else(|| "the service is no longer beside this node".to_owned())?;
                let host = HeaderValue::from_str(&format!("{}:{port}", hosts::full_name(&service)));
                let host = host.map_err(|_| "the service has no name".to_owned())?;
                let remote = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
                let request = request.map(Some);
                let response = outbound::call(&runner, &way.speaker, &way.routed, remote, host, request).await;
                let (head, body) = response.map_err(|cause| cause.details().to_owned())?.into_parts();
                collect(head, body).await
            };
            let answered: Result<Answer, String> = tokio::time::timeout(timeout, answered)
                .await
                .unwrap_or_else(|_| Err(format!("no answer within {timeout:?}")));
            // Who does not wait any more has given up.
            drop(answer.send(answered));
        });
    }
}

impl Ways {
    /// `None` if the service that sends it is no longer beside this node.
    fn find(&mut self, context: &Context, errand: &Errand) -> Option<Arc<Way>> {
        let (snapshot, local) = (context.current.read(), context.local.load());
        let is_current = std::ptr::eq(self.compiled.as_ptr(), Arc::as_ptr(&snapshot.compiled))
            && std::ptr::eq(self.local.as_ptr(), Arc::as_ptr(&local));
        if !is_current {
            let (compiled, local) = (Arc::downgrade(&snapshot.compiled), Arc::downgrade(&local));
            *self = Self { compiled, local, known: HashMap::new() };
        }
        let key = (errand.speaker.clone(), errand.service.clone(), errand.port, errand.timeout);
        if let Some(way) = self.known.get(&key) {
            return Some(Arc::clone(way));
        }
        let speaker = Speaker::new(&local, &snapshot, &context.locality, &errand.speaker, None, 0)?;
        let namespace = errand.speaker.service.namespace();
        let plain = route::to_service(&snapshot.compiled, &errand.service, errand.port, namespace);
        let timed = Route { timeout: Some(errand.timeout), ..Route::clone(&plain.route) };
        let routed = Routed { route: Arc::new(timed), ..plain };
        let way = Arc::new(Way { speaker: Arc::new(speaker), routed });
        self.known.insert(key, Arc::clone(&way));
        Some(way)
    }
}

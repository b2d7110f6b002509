//! Errands: requests that the node itself sends through the mesh, in the name of a service beside it.

use super::{
    context::{Basis, Context},
    outbound::OwnWay,
};
use crate::{
    config,
    telemetry::{Answer, Errand, collect},
};
use certs::id::ServiceName;
use http::HeaderValue;
use policy::hosts;
use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use tokio::sync::mpsc;

/// The ways of errands, made once for each.
#[derive(Default)]
struct Ways {
    basis: Basis,
    known: HashMap<Key, Arc<OwnWay>>,
}

type Key = (config::SpeakerName, ServiceName, u16, Duration);

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
                let response = way.call(&runner, remote, host, request).await;
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
    fn find(&mut self, context: &Context, errand: &Errand) -> Option<Arc<OwnWay>> {
        let basis = context.basis();
        if self.basis != basis {
            *self = Self { basis, known: HashMap::new() };
        }
        let key = (errand.speaker.clone(), errand.service.clone(), errand.port, errand.timeout);
        if let Some(way) = self.known.get(&key) {
            return Some(Arc::clone(way));
        }
        let way = Arc::new(OwnWay::new(context, &errand.speaker, (&errand.service, errand.port), errand.timeout)?);
        self.known.insert(key, Arc::clone(&way));
        Some(way)
    }
}

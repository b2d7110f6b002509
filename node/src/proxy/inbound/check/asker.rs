//! Who asks an authoriser, and the way there: made once for each service beside this node.

use super::super::{
    super::{
        context::Context,
        failure::Cause,
        http::ResponseBody,
        local::Local,
        outbound::{self, Speaker},
    },
    caller::Who,
};
use crate::config;
use bytes::Bytes;
use certs::id::ServiceName;
use http::{HeaderValue, Request, Response};
use policy::{
    compile::Compiled,
    kinds::ExtensionProvider,
    route::{self, Route, Routed},
};
use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError, Weak},
};

/// Those of one worker. Only its requests take the lock, so it is always free.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Askers(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    compiled: Weak<Compiled>,
    local: Weak<Local>,
    askers: HashMap<Key, Arc<Asker>>,
}

/// The service that asks, and the provider's name.
type Key = (ServiceName, Option<String>, Arc<str>);

/// A service beside this node that asks a provider.
#[derive(Debug)]
pub(super) struct Asker {
    pub(super) provider: Arc<ExtensionProvider>,
    speaker: Arc<Speaker>,
    routed: Routed,
}

impl Context {
    /// Who asks this provider about requests to the called service; `None` if that is no longer beside this node.
    pub(super) fn asker(&self, who: &Who, provider: &Arc<ExtensionProvider>) -> Option<Arc<Asker>> {
        let (snapshot, local) = (self.current.read(), self.local.load());
        let mut known = self.askers.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_current = std::ptr::eq(known.compiled.as_ptr(), Arc::as_ptr(&snapshot.compiled))
            && std::ptr::eq(known.local.as_ptr(), Arc::as_ptr(&local));
        if !is_current {
            let (compiled, local) = (Arc::downgrade(&snapshot.compiled), Arc::downgrade(&local));
            *known = Known { compiled, local, askers: HashMap::new() };
        }
        let key = (who.service.clone(), who.instance.clone(), Arc::clone(&provider.name));
        if let Some(asker) = known.askers.get(&key).filter(|asker| asker.provider == *provider) {
            return Some(Arc::clone(asker));
        }
        let name = config::Speaker { service: who.service.clone(), instance: who.instance.clone() };
        let speaker = Speaker::new(&local, &snapshot, &self.locality, &name, None, 0)?;
        let namespace = who.service.namespace();
        let plain = route::to_service(&snapshot.compiled, &provider.service, provider.port, namespace);
        let timed = Route { timeout: Some(provider.timeout), ..Route::clone(&plain.route) };
        let routed = Routed { route: Arc::new(timed), ..plain };
        let asker = Arc::new(Asker { provider: Arc::clone(provider), speaker: Arc::new(speaker), routed });
        known.askers.insert(key, Arc::clone(&asker));
        Some(asker)
    }
}

impl Asker {
    pub(super) async fn call(
        &self,
        context: &Arc<Context>,
        caller: IpAddr,
        host: HeaderValue,
        request: Request<Option<Bytes>>,
    ) -> Result<Response<ResponseBody>, Cause> {
        let remote = SocketAddr::new(caller, 0);
        outbound::call(context, &self.speaker, &self.routed, remote, host, request).await
    }
}

//! Who asks an authoriser, and the way there: made once for each service beside this node.

use super::super::{
    super::{
        context::{Basis, Context},
        failure::Cause,
        http::ResponseBody,
        outbound::OwnWay,
    },
    caller::Who,
};
use crate::config;
use crate::lock::lock;
use bytes::Bytes;
use certs::id::ServiceName;
use http::{HeaderValue, Request, Response};
use policy::kinds::ExtensionProvider;
use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
};

/// Those of one worker. Only its requests take the lock, so it is always free.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Askers(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    basis: Basis,
    askers: HashMap<Key, Arc<Asker>>,
}

/// The service that asks, and the provider's name.
type Key = (ServiceName, Option<String>, Arc<str>);

/// A service beside this node that asks a provider.
#[derive(Debug)]
pub(super) struct Asker {
    pub(super) provider: Arc<ExtensionProvider>,
    way: OwnWay,
}

impl Context {
    /// Who asks this provider about requests to the called service; `None` if that is no longer beside this node.
    pub(super) fn asker(&self, who: &Who, provider: &Arc<ExtensionProvider>) -> Option<Arc<Asker>> {
        let basis = self.basis();
        let mut known = lock(&self.askers.0);
        if known.basis != basis {
            *known = Known { basis, askers: HashMap::new() };
        }
        let key = (who.service.clone(), who.instance.clone(), Arc::clone(&provider.name));
        if let Some(asker) = known.askers.get(&key).filter(|asker| asker.provider == *provider) {
            return Some(Arc::clone(asker));
        }
        let name = config::SpeakerName { service: who.service.clone(), instance: who.instance.clone() };
        let way = OwnWay::new(self, &name, (&provider.service, provider.port), provider.timeout)?;
        let asker = Arc::new(Asker { provider: Arc::clone(provider), way });
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
        self.way.call(context, SocketAddr::new(caller, 0), host, request).await
    }
}

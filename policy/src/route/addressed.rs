//! What requests and connections call by name: registered services, and hosts that only documents know.

use std::{borrow::Cow, fmt, sync::Arc};

use certs::id::ServiceName;

use super::Source;
use crate::{
    compile::{Compiled, EntryService},
    hosts::{self, Registry},
};

/// What is called by name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Called {
    /// A service.
    Service(ServiceName),
    /// A host that a ServiceEntry makes: lower case, no wildcard.
    Host(Arc<str>),
}

/// What a host means to a caller: a registered service, else a host that a ServiceEntry makes. `None` if it sees no such thing. The port
/// tells which of several ServiceEntries with the same address is meant.
pub fn called(
    compiled: &Compiled,
    registry: &dyn Registry,
    source: &Source,
    (host, port): (&str, Option<u16>),
) -> Option<Called> {
    let scope = compiled.scope(source);
    let found = hosts::named(host, scope.namespace).and_then(|service| Some((registry.ports(&service)?, service)));
    if let Some((ports, service)) = found
        && ports.iter().map(|port| port.number).any(scope.imported_at(&service))
    {
        return Some(Called::Service(service));
    }
    let has = |made: &EntryService| port.is_none_or(|port| made.ports.iter().any(|own| own.number == port));
    let made = compiled.entries().named_with(host, scope, has)?;
    let asked = || host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase().into();
    Some(Called::Host(if made.host.starts_with('*') { asked() } else { Arc::clone(&made.host) }))
}

impl fmt::Display for Called {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(service) => service.fmt(f),
            Self::Host(host) => f.write_str(host),
        }
    }
}

/// What a request addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Addressed {
    /// A registered service.
    Service(ServiceName),
    /// A host that a ServiceEntry makes, as written there: lower case, a wildcard perhaps.
    Entry {
        /// The host.
        host: Arc<str>,
        /// The document's namespace.
        namespace: Arc<str>,
    },
    /// No service, but a host of a VirtualService for callers or of a gateway, as written there: lower case, a wildcard perhaps.
    Name(Arc<str>),
}

impl From<&ServiceName> for Addressed {
    fn from(service: &ServiceName) -> Self {
        Self::Service(service.clone())
    }
}

impl From<&EntryService> for Addressed {
    fn from(made: &EntryService) -> Self {
        Self::Entry { host: made.host.clone(), namespace: made.namespace.clone() }
    }
}

impl Addressed {
    /// The service, if it is one.
    pub fn service(&self) -> Option<&ServiceName> {
        if let Self::Service(service) = self { Some(service) } else { None }
    }

    /// The full name.
    pub fn full_name(&self) -> Cow<'_, str> {
        match self {
            Self::Service(service) => Cow::Owned(hosts::full_name(service)),
            Self::Entry { host, .. } => Cow::Borrowed(host),
            Self::Name(name) => Cow::Borrowed(name),
        }
    }
}

impl fmt::Display for Addressed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(service) => service.fmt(f),
            Self::Entry { host: name, .. } | Self::Name(name) => f.write_str(name),
        }
    }
}

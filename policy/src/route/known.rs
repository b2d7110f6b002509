//! Which hosts mean something to a caller, whether or not a request for them finds a route.

use super::Source;
use crate::{
    compile::{Compiled, entries::as_written},
    hosts::{self, Registry},
};

/// True if the mesh knows a host, without port, as the caller sees it at this port: a service, a host that a ServiceEntry makes, one
/// that a VirtualService for callers' proxies names.
pub fn knows(compiled: &Compiled, registry: &dyn Registry, (source, port): (&Source, u16), host: &str) -> bool {
    let scope = compiled.scope(source).at(port);
    hosts::resolve(host, &source.namespace, registry).is_some()
        || compiled.entries().named(host, scope).is_some()
        || compiled.virtual_service_of_name(&as_written(host), scope, registry).is_some()
}

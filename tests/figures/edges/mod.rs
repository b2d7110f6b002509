//! The figures of the edges: bytes, gateways, and what a node knows of services that it does not call.

mod gateway;
mod scan;
mod scoping;
mod tunnel;

use harness::process::Skein;

use crate::{Figure, rooms};

pub(crate) fn figures(skein: &Skein) -> Vec<Figure> {
    rooms(&[
        ("tunnel", &tunnel::figures),
        ("gateway", &gateway::figures),
        ("slow", &gateway::slow),
        ("scan", &gateway::scan),
        ("scoping", &|| scoping::figures(skein)),
    ])
}

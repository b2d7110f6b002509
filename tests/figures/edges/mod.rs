//! The figures of the edges: bytes, gateways, and what a node knows of services that it does not call.

mod gateway;
mod scoping;
mod tunnel;

use harness::process::Skein;

use crate::Figure;

pub(crate) fn figures(skein: &Skein) -> Vec<Figure> {
    let mut all = tunnel::figures();
    all.extend(gateway::figures());
    all.extend(scoping::figures(skein));
    all
}

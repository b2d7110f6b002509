//! What this node has to do with the world beyond its mesh: gateways' ports, token issuers, services that ServiceEntries name.

use std::{net::SocketAddr, sync::Arc};

use crate::{
    agent::{jwks, outside, world::World},
    proxy::{DataPlane, GATEWAY_DRAIN, keep_doors, keep_tls},
    secrets::Secrets,
    tasks::Tasks,
};

/// Starts the tasks that keep it.
pub(super) fn start(
    listeners: Vec<SocketAddr>,
    world: &Arc<World>,
    plane: &Arc<DataPlane>,
    secrets: &Secrets,
    tasks: &Tasks,
) {
    world.set_listeners(listeners);
    tasks.critical("gateways", keep_doors(plane.clone(), secrets.clone(), GATEWAY_DRAIN));
    tasks.critical("token-keys", jwks::run(world.clone(), plane.services(), plane.errands(), tasks.clone()));
    tasks.critical("names-outside", outside::run(world.clone()));
    tasks.critical("tls-outside", keep_tls(plane.clone(), secrets.clone()));
}

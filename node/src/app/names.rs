//! How applications reach the mesh without being told: the DNS server, the ports at the addresses that it tells of, the port for
//! captured connections.

use std::sync::Arc;

use super::listen;
use crate::{
    agent::error::{Error, internal},
    config::Config,
    dns::{Server, Sockets},
    proxy::{DataPlane, keep_names, open_capture},
    snapshot::{Captures, Current},
    tasks::Tasks,
    telemetry::Telemetry,
};

/// The sockets, where `[dns]` is on.
///
/// # Errors
/// `address_in_use`, or what else keeps them.
pub(super) async fn bind(config: &Config) -> Result<Option<Sockets>, Error> {
    let Some(dns) = &config.dns else { return Ok(None) };
    let sockets = Sockets::bind(dns.listen).await;
    sockets.map(Some).map_err(|error| listen::refused(&error, config, dns.listen, "[dns] listen"))
}

/// Listens for captured connections, where `[capture]` is on.
///
/// # Errors
/// `address_in_use`, or what else keeps it.
pub(super) async fn capture(config: &Config, plane: &DataPlane) -> Result<Captures, Error> {
    let Some(capture) = &config.capture else { return Ok(Captures::default()) };
    open_capture(plane, capture, config.dns.as_ref().is_some_and(|dns| dns.any_host))
        .await
        .map_err(|error| listen::unopened(error, config, "[capture] port or inbound_port"))
}

/// Answers, and listens where the answers lead.
///
/// # Errors
/// The sockets cannot say where they are.
pub(super) fn start(
    config: &Config,
    sockets: Option<Sockets>,
    plane: &Arc<DataPlane>,
    current: &Current,
    telemetry: &Telemetry,
    tasks: &Tasks,
) -> Result<(), Error> {
    let (Some(settings), Some(sockets)) = (&config.dns, sockets) else { return Ok(()) };
    let server = Server::new(settings, &sockets, current.clone(), telemetry, tasks.clone()).map_err(internal)?;
    tasks.critical("names", keep_names(plane.clone(), settings.clone()));
    tasks.critical("dns", server.serve(sockets));
    Ok(())
}

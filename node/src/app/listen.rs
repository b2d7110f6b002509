//! Where a node listens: what others are told of it, and listeners that cannot be opened, in words.

use std::{io, net::SocketAddr};

use tokio::net::TcpListener;

use crate::{
    agent::{
        error::{Error, fail, internal},
        join::towards,
        state_dir::Owner,
    },
    config::Config,
    proxy::ApplyError,
};

/// Listens on TCP; `key` is the configuration's name of the address.
///
/// # Errors
/// `address_in_use`, or what else keeps it.
pub(super) async fn tcp(address: SocketAddr, key: &str) -> Result<TcpListener, Error> {
    TcpListener::bind(address).await.map_err(|e| refused(&e, address, key))
}

/// What keeps a listener from being opened.
pub(super) fn refused(error: &io::Error, address: SocketAddr, key: &str) -> Error {
    if error.kind() == io::ErrorKind::AddrInUse {
        return fail(
            "address_in_use",
            format!("{key}: {address} is in use by another process"),
            "stop that process, or choose another address in the configuration",
        );
    }
    if error.kind() == io::ErrorKind::AddrNotAvailable {
        let message = format!("{key}: {address} is no address of this machine");
        return fail("failed", message, "choose one that is");
    }
    fail("failed", format!("{key}: cannot listen on {address}: {error}"), "check the address and permissions")
}

/// What keeps the data plane from what `keys` of the configuration want of it.
pub(super) fn unopened(error: ApplyError, keys: &str) -> Error {
    match error {
        ApplyError::Listen { address, source } => refused(&source, address, keys),
        ApplyError::UnknownSpeaker { .. } => fail("bad_config", error.to_string(), "`as` names a [[service]]"),
        ApplyError::Stopped => internal(error),
    }
}

/// What others are told: as configured; else as it was found towards the enroller; else as a packet would leave.
pub(super) fn advertised(config: &Config, owner: &Owner, bound: SocketAddr) -> SocketAddr {
    if let Some(address) = config.mesh.advertise {
        return address;
    }
    if !bound.ip().is_unspecified() {
        return bound;
    }
    // An address of documentation (RFC 5737): nothing is sent, it only picks the route.
    let anywhere = SocketAddr::from(([192, 0, 2, 1], 9));
    let found = owner.address.map_or_else(|| towards(anywhere, bound).ip(), |address| address.ip());
    SocketAddr::new(found, bound.port())
}

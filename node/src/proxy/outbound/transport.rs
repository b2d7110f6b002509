//! What is told of the way to an endpoint where it failed: Envoy's `UPSTREAM_TRANSPORT_FAILURE_REASON`.

use crate::{mesh, proxy::failure::TransportReason};

/// What stands for the transport's word where it said nothing.
pub(super) const GONE: &str = "the endpoint went out of service";
pub(super) const LATE: &str = "no connection within the connect timeout";

/// What the way to another node said, where that is what failed.
pub(super) fn transport(error: &mesh::Error) -> Option<TransportReason> {
    match error {
        mesh::Error::Connect { reason, .. }
        | mesh::Error::NeverSent(reason)
        | mesh::Error::ResetBefore(reason)
        | mesh::Error::ResetAfter(reason) => Some((**reason).into()),
        mesh::Error::NoIdentity(_) | mesh::Error::WrongPeer { .. } | mesh::Error::Unwelcome { .. } => {
            Some(error.to_string().into())
        }
        mesh::Error::Stopping
        | mesh::Error::Overflow(_)
        | mesh::Error::Refused
        | mesh::Error::Protocol(_)
        | mesh::Error::RequestBody(_) => None,
    }
}

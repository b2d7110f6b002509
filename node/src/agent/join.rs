//! The joiner's side of an enrolment: one token in, a state directory with an identity out.

use std::net::SocketAddr;

use certs::{
    id::{NodeId, TrustDomain},
    join::Token,
};

use super::{error::Error, state_dir::StateDir};

/// What a joining node brings.
#[derive(Debug, Clone)]
pub struct Join<'a> {
    /// What `skein invite` printed.
    pub token: &'a Token,
    /// `[mesh] listen` of the node: its port is what others will dial.
    pub listen: SocketAddr,
    /// `[mesh] advertise`, if the configuration names it.
    pub advertise: Option<SocketAddr>,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    /// The node.
    pub node: NodeId,
    /// Its mesh.
    pub trust_domain: TrustDomain,
    /// Where others will find it.
    pub address: SocketAddr,
}

/// Redeems a token. Keys are made and kept first, so that a lost reply can be asked for again with the same ones; the
/// directory has an owner only once certificates and policy are durable. No token is kept.
///
/// # Errors
/// `already_exists`, `unreachable`, `unverified_node`, `token_spent`, `token_expired`, `token_invalid`, storage.
pub async fn join(dir: &StateDir, join: &Join<'_>) -> Result<Joined, Error> {
    let _ = (dir, join);
    todo!()
}

//! The way to a node over the mesh port: `skein-admin/1`, the node known by its certificate, the operator by its key.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use certs::{
    id::{NodeId, SpiffeId},
    tls::{self, EXPORTER_ADMIN},
};

use policy::{DocumentId, history::History};
use tokio::time::timeout;

use super::{Stream, limit};
use crate::{
    agent::{
        admin::greeting::{self, Taken},
        join::shown_policy,
    },
    cli::{
        context::Context,
        directory::Directory,
        error::{Error, Result},
        signing::Operator,
    },
    clock::{self, Clock},
    connect, mesh,
};

/// Time of an address at least, wherever its name has more: for a handshake over a long way.
const LEAST: Duration = Duration::from_secs(1);

/// Opens `skein-admin/1` to an address; with `name` only that node will do.
pub(super) async fn open(name: Option<&NodeId>, address: &str, ctx: &Context) -> Result<Box<dyn Stream>> {
    let operator = Operator::load(ctx)?;
    let mut authority = operator.authority()?;
    let trust_domain = &operator.known.trust_domain;
    let expected = name.map(|name| SpiffeId::node(trust_domain.clone(), name.clone()));
    let mut failure = unreachable(format!("{address} is no address"));
    let until = clock::monotonic() + limit(ctx);
    let found = connect::in_turn(&resolve(address).await?);
    for (at, further) in found.iter().copied().zip((1..=found.len()).rev()) {
        // One that does not answer leaves some of the time to the next.
        let time = connect::part(until, further).max(LEAST);
        // Once more where the mesh has got other roots since the operator last looked.
        for _ in 0..2 {
            let config = tls::operator(authority.clone(), name, Arc::new(Clock));
            let server = tls::server_name(expected.as_ref(), trust_domain);
            match timeout(time, mesh::connect(at, config, server)).await {
                Ok(Ok(stream)) => return greet(stream, &operator, address).await,
                Ok(Err(error)) => failure = failed(&error, address),
                Err(_) => failure = unreachable(format!("{at} does not answer in time")),
            }
            if failure.code != "unverified_node" || !learn_roots(&operator, at).await {
                break;
            }
            authority = operator.authority()?;
        }
    }
    Err(failure)
}

/// Takes in the RoleSets that whoever listens there shows, which prove themselves; true if they give other roots than those known.
async fn learn_roots(operator: &Operator, at: SocketAddr) -> bool {
    let before = operator.roots().ok();
    let Ok((_, shown)) = shown_policy(&operator.known.trust_domain, at).await else { return false };
    let mut history = History::new(operator.known.trust_domain.clone());
    let now = clock::wall();
    if history.insert_all(shown.role_sets.iter().map(Vec::as_slice), now).is_err()
        || history.state(now).genesis != operator.known.genesis
    {
        return false;
    }
    keep_roots(&operator.directory, &history);
    operator.roots().ok() != before
}

/// Keeps the roots of a history that begins with the mesh's own first RoleSet.
pub(super) fn keep_roots(directory: &Directory, history: &History) {
    let state = history.state(clock::wall());
    // Which roots follow is not known then.
    if state.unread(&DocumentId::role_set()).is_some() {
        return;
    }
    // A read-only copy of the directory is a way to use it.
    let _ = directory.keep_roots(&state.trust().roots, state.role_set.number);
}

async fn resolve(address: &str) -> Result<Vec<SocketAddr>> {
    let found = tokio::net::lookup_host(address).await;
    found.map(Iterator::collect).map_err(|error| unreachable(format!("{address} cannot be resolved: {error}")))
}

async fn greet(mut stream: mesh::Conversed, operator: &Operator, address: &str) -> Result<Box<dyn Stream>> {
    let broken = |error: std::io::Error| unreachable(error.to_string());
    let exporter = stream.exporter(EXPORTER_ADMIN).map_err(broken)?;
    match greeting::prove(&mut stream, &exporter, &operator.key).await.map_err(broken)? {
        Taken::Welcome => Ok(Box::new(stream)),
        Taken::Refused => {
            let message = format!("{address} does not let the key {} in", operator.key.public());
            let dir = operator.directory.path().display();
            Err(Error::new("role_missing", message)
                .hint(format!("the key in {dir} must have a role: `skein operator list`")))
        }
        Taken::Other { version, build } => {
            let own = env!("CARGO_PKG_VERSION");
            let message = format!(
                "{address} runs skein {build}, which operators greet in version {version}; this is skein {own}, which greets in version {}",
                greeting::VERSION
            );
            Err(Error::new("not_supported", message)
                .hint(format!("call it by skein {build}, or ask another node: --node NODE")))
        }
    }
}

/// What a handshake that failed says: a node of another mesh is no reason to try the next address.
fn failed(error: &std::io::Error, address: &str) -> Error {
    let tls = error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>());
    if tls {
        return Error::new("unverified_node", format!("{address} does not prove to be a node of this mesh: {error}"))
            .hint("is it the right address, and the right operator directory (--operator)?");
    }
    unreachable(error.to_string())
}

fn unreachable(message: String) -> Error {
    Error::new("unreachable", message)
}

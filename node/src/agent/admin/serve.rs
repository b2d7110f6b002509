//! The doors: sockets, and who comes through them.

use std::{
    io,
    net::SocketAddr,
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
    path::Path,
    sync::Arc,
    time::Duration,
};

use axum::Router;
use certs::{sign::PublicKey, tls::EXPORTER_ADMIN};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use policy::kinds::Verb;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::{Semaphore, watch},
};

use super::{Admin, Door, error::Error, greeting, guard};
use crate::{
    config::Cidr,
    mesh::{admin::Conversed, crowd::Crowd, peer::PeerNetwork},
};

/// Connections of one door at the same time; further ones wait.
const CONNECTIONS: usize = 256;
/// How long a request's head may take.
const HEAD_LIMIT: Duration = Duration::from_secs(10);
/// Strangers that may be proving a key at a time: all, and of one address.
const GREETINGS: (usize, usize) = (256, 16);
/// How long an operator may take to prove its key.
const GREETING_LIMIT: Duration = Duration::from_secs(5);
/// Pause after an accept that failed, e.g. for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The group whose members may use the socket.
const GROUP: &str = "skein";

/// Opens the local socket: mode 0660, group `skein` if there is one. A socket that nobody serves any more is replaced.
///
/// # Errors
/// `address_in_use` if another node serves it, else what the file system says.
pub fn bind_socket(path: &Path) -> Result<UnixListener, Error> {
    let failed = |what: &str, error: &io::Error| {
        Error::new("failed", format!("cannot {what} the socket {}: {error}", path.display()))
            .hint("check the folder's permissions, or set [admin] socket")
    };
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(|error| failed("make the folder of", &error))?;
    }
    match std::fs::symlink_metadata(path) {
        Ok(there) if !there.file_type().is_socket() => {
            return Err(Error::new("address_in_use", format!("{} is there and is no socket", path.display()))
                .hint("remove it, or set [admin] socket"));
        }
        Ok(_) if std::os::unix::net::UnixStream::connect(path).is_ok() => {
            return Err(Error::new("address_in_use", format!("another node serves {}", path.display()))
                .hint("stop it first, or set [admin] socket"));
        }
        Ok(_) | Err(_) => {}
    }
    // Made under another name, so that nobody meets it with wrong permissions.
    let mut draft = path.as_os_str().to_owned();
    draft.push(".new");
    let draft = Path::new(&draft);
    // What a crash left behind; bind says so if it cannot be removed.
    let _ = std::fs::remove_file(draft);
    let listener = UnixListener::bind(draft).map_err(|error| failed("open", &error))?;
    let finish = || -> io::Result<()> {
        std::fs::set_permissions(draft, std::fs::Permissions::from_mode(0o660))?;
        if let Some(group) = crate::accounts::group(GROUP) {
            // Only root and the group's own members may give it away; others keep it for themselves.
            let _ = nix::unistd::chown(draft, None, Some(group));
        }
        std::fs::rename(draft, path)
    };
    finish().map_err(|error| failed("set up", &error))?;
    Ok(listener)
}

impl Admin {
    /// Serves the local socket until the node stops.
    pub async fn serve_socket(self, listener: UnixListener) {
        let slots = Arc::new(Semaphore::new(CONNECTIONS));
        let router = self.router(&Door::Socket);
        loop {
            tokio::select! {
                () = self.tasks.stopping() => return,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => self.connection(stream, &router, &slots).await,
                    Err(error) => pause(&error).await,
                },
            }
        }
    }

    /// Serves the loopback port until the node stops.
    pub async fn serve_loopback(self, listener: TcpListener, allowed: Arc<[Cidr]>) {
        self.serve_tcp(listener, Door::Loopback(allowed)).await;
    }

    /// Serves the scrapers' port until the node stops.
    pub async fn serve_metrics(self, listener: TcpListener) {
        self.serve_tcp(listener, Door::Metrics).await;
    }

    async fn serve_tcp(self, listener: TcpListener, door: Door) {
        let slots = Arc::new(Semaphore::new(CONNECTIONS));
        let router = self.router(&door);
        loop {
            tokio::select! {
                () = self.tasks.stopping() => return,
                accepted = listener.accept() => match accepted {
                    Ok((stream, remote)) if lets_in(&door, remote) => {
                        self.connection(stream, &router, &slots).await;
                    }
                    Ok((_, remote)) => tracing::debug!(%remote, "a stranger at the admin port"),
                    Err(error) => pause(&error).await,
                },
            }
        }
    }

    /// Serves operators over `skein-admin/1` until the node stops.
    pub async fn serve_operators(self, network: PeerNetwork) {
        let (slots, greetings) = (Arc::new(Semaphore::new(CONNECTIONS)), Crowd::new(GREETINGS.0, GREETINGS.1));
        loop {
            let accepted = tokio::select! {
                () = self.tasks.stopping() => return,
                accepted = network.accept_admin() => accepted,
            };
            let Some(stream) = accepted else { return };
            // Whoever has not proved a key must not keep those out who can.
            let Some(place) = greetings.enter(stream.remote().ip()) else { continue };
            let (admin, slots) = (self.clone(), slots.clone());
            self.tasks.detach("admin-operator", async move {
                let remote = stream.remote();
                let greeted = tokio::time::timeout(GREETING_LIMIT, admin.greet(stream)).await;
                drop(place);
                match greeted {
                    Ok(Ok(Some((stream, key)))) => {
                        let Ok(slot) = slots.acquire_owned().await else { return };
                        tracing::info!(%remote, %key, "an operator came in");
                        let router = admin.router(&Door::Operator(key));
                        let may = || admin.agent.state().has_verb(&key, Verb::View);
                        // Who has lost the role has lost the watches under way too.
                        tokio::select! {
                            () = admin.converse(stream, router) => {}
                            () = dismissed(admin.agent.changes(), may) => {}
                        }
                        drop(slot);
                    }
                    Ok(Ok(None)) => tracing::warn!(%remote, "someone without a role asked to administer this node"),
                    Ok(Err(error)) => tracing::debug!(%remote, "an operator's connection broke: {error}"),
                    Err(_) => tracing::debug!(%remote, "an operator did not prove its key in time"),
                }
            });
        }
    }

    /// Lets an operator in whose key has a role that may look.
    async fn greet(&self, mut stream: Conversed) -> io::Result<Option<(Conversed, PublicKey)>> {
        let exporter = stream.exporter(EXPORTER_ADMIN)?;
        let Some(key) = greeting::read(&mut stream, &exporter).await? else { return Ok(None) };
        if !self.agent.state().has_verb(&key, Verb::View) {
            return Ok(None);
        }
        greeting::welcome(&mut stream).await?;
        Ok(Some((stream, key)))
    }

    /// Serves one connection in a task of its own, once there is a slot for it.
    async fn connection<S>(&self, stream: S, router: &Router, slots: &Arc<Semaphore>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        let (admin, router) = (self.clone(), router.clone());
        self.tasks.detach("admin", async move {
            admin.converse(stream, router).await;
            drop(slot);
        });
    }

    async fn converse<S>(&self, stream: S, router: Router)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let service = TowerToHyperService::new(router);
        let served = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_LIMIT)
            .serve_connection(TokioIo::new(stream), service);
        tokio::select! {
            () = self.tasks.stopping() => {}
            served = served => if let Err(error) = served {
                tracing::debug!("an admin connection broke: {error}");
            },
        }
    }
}

/// Resolves once an operator may not look any more.
async fn dismissed(mut changes: watch::Receiver<u64>, may: impl Fn() -> bool) {
    while may() {
        if changes.changed().await.is_err() {
            return;
        }
    }
}

fn lets_in(door: &Door, remote: SocketAddr) -> bool {
    match door {
        Door::Loopback(allowed) => guard::address(remote, allowed),
        Door::Metrics | Door::Socket | Door::Operator(_) => true,
    }
}

async fn pause(error: &io::Error) {
    tracing::warn!("an admin connection cannot be accepted: {error}");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_socket_is_for_user_and_group_and_replaces_a_dead_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/agent.sock");
        let first = bind_socket(&path).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o660);
        assert_eq!(bind_socket(&path).unwrap_err().code, "address_in_use");
        drop(first);
        bind_socket(&path).unwrap();
    }

    #[tokio::test]
    async fn a_role_that_is_taken_away_ends_what_is_under_way() {
        use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
        let (changes, may) = (watch::Sender::new(0), AtomicBool::new(true));
        let mut ends = std::pin::pin!(dismissed(changes.subscribe(), || may.load(Relaxed)));
        let moment = Duration::from_millis(20);
        changes.send_modify(|count| *count += 1);
        assert!(tokio::time::timeout(moment, &mut ends).await.is_err());
        may.store(false, Relaxed);
        changes.send_modify(|count| *count += 1);
        tokio::time::timeout(Duration::from_secs(10), ends).await.unwrap();
    }

    #[tokio::test]
    async fn a_file_in_its_place_is_not_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.sock");
        std::fs::write(&path, "precious").unwrap();
        assert_eq!(bind_socket(&path).unwrap_err().code, "address_in_use");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }
}

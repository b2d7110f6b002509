//! The doors: sockets, and who comes through them.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

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

use super::{Admin, Door, greeting, guard, patience::Patient};
use crate::{
    config::Cidr,
    mesh::{Conversed, crowd::Crowd, peer::PeerNetwork},
};

/// Mode of the local socket: its user and the group `skein`.
pub const SOCKET_MODE: u32 = 0o660;
/// Connections of one door at the same time; further ones wait, those of operators are refused.
const CONNECTIONS: usize = 256;
/// Connections of one operator's key at the same time.
pub(super) const EACH: usize = 16;
/// How long a request's head may take.
const HEAD_LIMIT: Duration = Duration::from_secs(10);
/// How long who asked at a port may take nothing of the answer.
const WRITE_LIMIT: Duration = Duration::from_secs(30);
/// Strangers that may be proving a key at a time: all, and of one address.
const GREETINGS: (usize, usize) = (256, 16);
/// How long an operator may take to prove its key.
const GREETING_LIMIT: Duration = Duration::from_secs(5);
/// How long one may take to sign who is no operator yet.
const CANDIDATE_LIMIT: Duration = Duration::from_secs(60);
/// Pause after an accept that failed, e.g. for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

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

    /// Serves the loopback port until the node stops; `pages` are for browsers.
    pub async fn serve_loopback(self, listener: TcpListener, allowed: Arc<[Cidr]>, pages: Router<Self>) {
        let door = Door::Loopback(allowed);
        let router = self.router(&door).merge(self.pages(pages));
        self.serve_tcp(listener, door, router).await;
    }

    /// Serves the scrapers' port until the node stops.
    pub async fn serve_metrics(self, listener: TcpListener) {
        let router = self.router(&Door::Metrics);
        if let Ok(address) = listener.local_addr() {
            self.agent.set_scraped(address);
        }
        self.serve_tcp(listener, Door::Metrics, router).await;
    }

    async fn serve_tcp(self, listener: TcpListener, door: Door, router: Router) {
        let slots = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            tokio::select! {
                () = self.tasks.stopping() => return,
                accepted = listener.accept() => match accepted {
                    Ok((stream, remote)) if lets_in(&door, remote) => {
                        self.connection(Patient::new(stream, WRITE_LIMIT), &router, &slots).await;
                    }
                    Ok((_, remote)) => tracing::debug!(%remote, "a stranger at the admin port"),
                    Err(error) => pause(&error).await,
                },
            }
        }
    }

    /// Serves operators over `skein-admin/1` until the node stops.
    pub async fn serve_operators(self, network: PeerNetwork) {
        let (inside, greetings) = (Crowd::new(CONNECTIONS, EACH), Crowd::new(GREETINGS.0, GREETINGS.1));
        loop {
            let accepted = tokio::select! {
                () = self.tasks.stopping() => return,
                accepted = network.accept_admin() => accepted,
            };
            let Some(stream) = accepted else { return };
            // Whoever has not proved a key must not keep those out who can.
            let Some(place) = greetings.enter(stream.remote().ip()) else { continue };
            let (admin, inside) = (self.clone(), inside.clone());
            self.tasks.detach("admin-operator", async move {
                let remote = stream.remote();
                let greeted = tokio::time::timeout(GREETING_LIMIT, admin.greet(stream)).await;
                match greeted {
                    Ok(Ok(Some((stream, key, door)))) => match inside.enter_as(key) {
                        Some(_inside) => {
                            drop(place);
                            tracing::info!(%remote, ?door, "an operator came in");
                            admin.receive(stream, &door).await;
                        }
                        None => {
                            tracing::warn!(%remote, ?door, "an operator has too many connections open");
                            let told = admin.converse(stream, admin.crowded());
                            let _ = tokio::time::timeout(GREETING_LIMIT, told).await;
                        }
                    },
                    Ok(Ok(None)) => tracing::warn!(%remote, "someone without a role, or of another version, asked to administer this node"),
                    Ok(Err(error)) => tracing::debug!(%remote, "an operator's connection broke: {error}"),
                    Err(_) => tracing::debug!(%remote, "an operator did not prove its key in time"),
                }
            });
        }
    }

    /// Lets an operator in whose key has a role that may look, or whose signature a RoleSet waits for.
    async fn greet(&self, mut stream: Conversed) -> io::Result<Option<(Conversed, PublicKey, Door)>> {
        let exporter = stream.exporter(EXPORTER_ADMIN)?;
        let Some(key) = greeting::read(&mut stream, &exporter).await? else { return Ok(None) };
        let door = if self.agent.state().has_verb(&key, Verb::View) {
            Door::Operator(key)
        } else {
            let now = self.agent.now();
            if !self.agent.history(move |history| history.awaits(&key, now)).await {
                return Ok(None);
            }
            Door::Candidate(key)
        };
        greeting::welcome(&mut stream).await?;
        Ok(Some((stream, key, door)))
    }

    /// Serves an operator for as long as its key lets it.
    async fn receive(&self, stream: Conversed, door: &Door) {
        let conversation = self.converse(Patient::new(stream, WRITE_LIMIT), self.router(door));
        let Door::Operator(key) = door else {
            // Its signature may be what ends the wait for it: only time ends the conversation.
            let _ = tokio::time::timeout(CANDIDATE_LIMIT, conversation).await;
            return;
        };
        let may = || self.agent.state().has_verb(key, Verb::View);
        // Who has lost the role has lost the watches under way too.
        tokio::select! {
            () = conversation => {}
            () = dismissed(self.agent.changes(), may) => {}
        }
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
        Door::Metrics | Door::Socket | Door::Operator(_) | Door::Candidate(_) => true,
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
}

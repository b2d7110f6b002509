//! A TLS/TCP connection to a verified peer, and the stream on it.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use certs::verify::Peer;
use futures_util::FutureExt as _;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

use super::{
    Mesh,
    ahead::Tls,
    chunks::Chunks,
    error::Code,
    live::{
        Guard, Handle, Kill, Kind, OUTBOUND, Retirement,
        proven::{Session, Shown},
    },
    stream::{Facts, reset},
};
use crate::clock;

/// A TLS connection to a verified peer, in the table of live ones.
#[derive(Debug)]
pub(super) struct Secure {
    pub(super) tls: Box<Tls>,
    pub(super) kill: Arc<Kill>,
    pub(super) retirement: Retirement,
    pub(super) guard: Guard,
}

impl Secure {
    pub(super) fn new(
        mesh: &Mesh,
        tls: Box<Tls>,
        kind: Kind,
        peer: Arc<Peer>,
        chain: Vec<CertificateDer<'static>>,
        retirement: Retirement,
    ) -> Secure {
        let kill = Arc::<Kill>::default();
        let guard = mesh.shared.live.add(kind, peer, chain, Handle::Tcp(kill.clone()), retirement.clone());
        guard.tells(Session::of_tls(&tls));
        Secure { tls, kill, retirement, guard }
    }

    /// A data connection that this node has dialled.
    pub(super) fn dialled(
        mesh: &Mesh,
        tls: Box<Tls>,
        peer: Arc<Peer>,
        chain: Vec<CertificateDer<'static>>,
        shown: Shown,
    ) -> Secure {
        let retirement = shown.retirement(&peer);
        let secure = Secure::new(mesh, tls, OUTBOUND, peer, chain, retirement);
        secure.guard.lasts(shown.into_reach());
        secure
    }

    /// True if it was neither closed nor spoken on while nobody used it, and its certificates hold for a while.
    pub(super) fn is_quiet(&mut self) -> bool {
        !self.retirement.has_come(clock::wall())
            && self.kill.killed().is_none()
            && self.tls.read_u8().now_or_never().is_none()
    }
}

/// Takes a connection back whose tunnel is over.
pub(super) type Home = Box<dyn FnOnce(Secure) + Send + Sync>;

/// What a stream on a TLS connection is like.
pub(super) enum Manner {
    /// All that follows is the stream's: messages of a peer link, HTTP.
    Whole,
    /// A tunnel in chunks, which gives the connection back.
    Tunnel(Home),
}

/// A stream on a TLS connection.
pub(super) struct OverTcp {
    secure: Secure,
    /// True until the accepting side's status byte was read.
    awaits_status: bool,
    tunnel: Option<(Chunks, Home)>,
}

impl std::fmt::Debug for OverTcp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OverTcp").field("secure", &self.secure).field("is_tunnel", &self.tunnel.is_some()).finish()
    }
}

impl OverTcp {
    pub(super) fn new(secure: Secure, manner: Manner, awaits_status: bool) -> OverTcp {
        let tunnel = match manner {
            Manner::Whole => None,
            Manner::Tunnel(home) => Some((Chunks::default(), home)),
        };
        OverTcp { secure, awaits_status, tunnel }
    }

    /// The stream's user has let it go. A TLS connection that is dropped without close_notify is a truncated one for the
    /// peer, which is what a stream given up must be.
    pub(super) fn leave(self) {
        match self.tunnel {
            Some((chunks, home)) if chunks.is_over() && self.secure.kill.killed().is_none() => home(self.secure),
            Some(_) | None => {}
        }
    }

    /// Resolves when the connection is ended from outside.
    pub(super) fn lost(&self) -> impl Future<Output = ()> + Send + use<> {
        let kill = self.secure.kill.clone();
        async move { kill.over().await }
    }

    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
        facts: &Facts,
    ) -> Poll<io::Result<()>> {
        let Secure { tls, kill, .. } = &mut self.secure;
        kill.check_reader(cx)?;
        if self.awaits_status {
            ready!(poll_status(tls, facts, cx))?;
            self.awaits_status = false;
        }
        let result = match &mut self.tunnel {
            Some((chunks, _)) => chunks.poll_read(tls, cx, buf),
            None => Pin::new(tls).poll_read(cx, buf),
        };
        if let Poll::Ready(Err(_)) = &result {
            facts.ended(Code::Aborted);
        }
        result
    }

    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let Secure { tls, kill, .. } = &mut self.secure;
        kill.check_writer(cx)?;
        match &mut self.tunnel {
            Some((chunks, _)) => chunks.poll_write(tls, cx, buf),
            None => Pin::new(tls).poll_write(cx, buf),
        }
    }

    pub(super) fn poll_write_vectored(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Secure { tls, kill, .. } = &mut self.secure;
        kill.check_writer(cx)?;
        match &mut self.tunnel {
            Some((chunks, _)) => {
                let first = bufs.iter().find(|buf| !buf.is_empty()).map_or(&[][..], |buf| buf);
                chunks.poll_write(tls, cx, first)
            }
            None => Pin::new(tls).poll_write_vectored(cx, bufs),
        }
    }

    pub(super) fn is_write_vectored(&self) -> bool {
        self.tunnel.is_none()
    }

    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Secure { tls, kill, .. } = &mut self.secure;
        kill.check_writer(cx)?;
        match &mut self.tunnel {
            Some((chunks, _)) => chunks.poll_flush(tls, cx),
            None => Pin::new(tls).poll_flush(cx),
        }
    }

    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Secure { tls, kill, .. } = &mut self.secure;
        kill.check_writer(cx)?;
        match &mut self.tunnel {
            Some((chunks, _)) => chunks.poll_end(tls, cx),
            None => Pin::new(tls).poll_shutdown(cx),
        }
    }
}

/// True if the peer said by TLS that it wants no more.
fn is_alert(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(inner, Some(rustls::Error::AlertReceived(_)))
}

/// Reads the accepting side's status byte: 0, or the code with which it refuses.
fn poll_status(tls: &mut Tls, facts: &Facts, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
    let mut byte = [0];
    let mut status = ReadBuf::new(&mut byte);
    if let Err(error) = ready!(Pin::new(tls).poll_read(cx, &mut status)) {
        // An alert instead of the status: our certificate was refused, and nothing of ours was read. Only an alert is the peer's own
        // word; bytes that do not decrypt may be anybody's.
        facts.ended(if is_alert(&error) { Code::Refused } else { Code::Aborted });
        return Poll::Ready(Err(error));
    }
    Poll::Ready(match status.filled() {
        [] => Err(io::ErrorKind::UnexpectedEof.into()),
        [0] => Ok(()),
        [code, ..] => Err(reset(facts, u64::from(*code))),
    })
}

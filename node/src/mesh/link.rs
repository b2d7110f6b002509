//! One peer link: what its two ends say to each other, whatever carries it.

mod request;

use crate::lock::lock;
use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::{Buf as _, Bytes};
use certs::{
    codec::{self, Envelope},
    verify::Peer,
};
use membership::engine::Lane;
use tokio::{
    io::{AsyncWriteExt as _, BufReader, BufWriter, ReadHalf, WriteHalf},
    sync::{Notify, oneshot},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    Mesh,
    error::{Code, LinkError},
    frames::{self, Assembly, Kind, Outbox, Thing},
    inbox::Inbox,
    live::Handle,
    peer::MAX_MESSAGE,
    preface::WIRE_VERSION,
    quic::{PEER_IDLE, PEER_KEEP_ALIVE},
    stream::VirtualStream,
};
use crate::clock;

/// Bytes that are gathered before they are read or written: a hundred links hold it twice, and what is larger passes it by.
const BUFFER: usize = 4 << 10;
/// Messages, and bytes in them, that wait for [`PeerLink::recv`]; while there is no room nothing more is read of the link, which in the
/// end stops the sender.
const INBOX: (usize, usize) = (1_024, 2 * MAX_MESSAGE);
/// Requests of the peer, and bytes in them, that wait for [`PeerLink::asked`]; what comes beyond is refused.
const ASKED: (usize, usize) = (256, 2 << 20);
/// Longest reason for a link's end, bytes.
const MAX_REASON: usize = 256;
/// Time for the last words on a link.
const FAREWELL: Duration = Duration::from_millis(500);
/// Why a link ended whose peer fell silent.
const TIMED_OUT: &str = "timed out";
/// Kind of the envelope that opens a link.
const HELLO: u16 = 2;

/// A link to one node. Cheap to clone; it closes when the last clone is dropped or [`PeerLink::close`] is called.
#[derive(Debug, Clone)]
pub struct PeerLink {
    owner: Arc<Owner>,
}

/// Closes the link when nobody holds it any more; the link's tasks hold only [`Shared`].
#[derive(Debug)]
struct Owner {
    shared: Arc<Shared>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.shared.close("no longer wanted");
    }
}

/// What a new link is made of.
pub(super) struct Introduction {
    pub(super) peer: Arc<Peer>,
    pub(super) remote: SocketAddr,
    pub(super) dialled: bool,
    pub(super) stream: VirtualStream,
    pub(super) handle: Handle,
}

#[derive(Debug)]
struct Shared {
    peer: Arc<Peer>,
    remote: SocketAddr,
    dialled: bool,
    handle: Handle,
    outbox: Mutex<Outbox>,
    to_write: Notify,
    inbox: Inbox<Bytes>,
    asked: Inbox<(u32, Bytes)>,
    pending: Mutex<HashMap<u32, oneshot::Sender<Option<Bytes>>>>,
    next_request: AtomicU32,
    /// Uptime when the peer was last heard.
    heard: AtomicU64,
    /// Uptime when a piece of a reply last came.
    replied: AtomicU64,
    /// Nothing is read because the inbox is full: the silence is this node's.
    stopped: AtomicBool,
    greeted: AtomicBool,
    welcome: Notify,
    closed: CancellationToken,
    reason: OnceLock<String>,
}

/// A request that the peer made on a link. Dropped unanswered, it is refused.
#[derive(Debug)]
pub struct Asked {
    /// What it asks for.
    pub kind: u16,
    /// The encoded question.
    pub body: Bytes,
    id: u32,
    link: Arc<Shared>,
    is_answered: bool,
}

impl PeerLink {
    pub(super) fn start(mesh: &Mesh, with: Introduction) -> PeerLink {
        let shared = Arc::new(Shared {
            peer: with.peer,
            remote: with.remote,
            dialled: with.dialled,
            handle: with.handle,
            outbox: Mutex::default(),
            to_write: Notify::new(),
            inbox: Inbox::new(INBOX),
            asked: Inbox::new(ASKED),
            pending: Mutex::default(),
            next_request: AtomicU32::new(0),
            heard: AtomicU64::new(clock::uptime()),
            replied: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
            greeted: AtomicBool::new(false),
            welcome: Notify::new(),
            closed: CancellationToken::new(),
            reason: OnceLock::new(),
        });
        let hello = codec::encode(&Envelope { version: WIRE_VERSION, kind: HELLO, body: Vec::new() });
        shared.say(Kind::Hello, hello.into());
        let (reader, writer) = tokio::io::split(with.stream);
        let tasks = &mesh.shared.tasks;
        tasks.detach("link reader", shared.clone().read_all(reader));
        tasks.detach("link writer", shared.clone().write_all(writer));
        // QUIC sees by itself that the other end is gone.
        if matches!(shared.handle, Handle::Tcp(_)) {
            tasks.detach("link pulse", shared.clone().pulse());
        }
        PeerLink { owner: Arc::new(Owner { shared }) }
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.owner.shared
    }

    /// Who is at the other end.
    #[must_use]
    pub fn peer(&self) -> &Arc<Peer> {
        &self.shared().peer
    }

    /// The other end's address.
    #[must_use]
    pub fn remote(&self) -> SocketAddr {
        self.shared().remote
    }

    /// True if this node dialled.
    #[must_use]
    pub fn dialled(&self) -> bool {
        self.shared().dialled
    }

    /// `quic` or `tcp`.
    #[must_use]
    pub fn carrier(&self) -> &'static str {
        match self.shared().handle {
            Handle::Quic(_) => "quic",
            Handle::Tcp(_) => "tcp",
        }
    }

    /// Queues a message; never waits.
    ///
    /// # Errors
    /// The link is closed, its queue is full, or the message is too long.
    pub fn send(&self, lane: Lane, message: Bytes) -> Result<(), LinkError> {
        self.shared().queue(|outbox| outbox.send(lane, message))
    }

    /// The next message; `None` once the link is closed. Cancel-safe.
    pub async fn recv(&self) -> Option<Bytes> {
        self.shared().inbox.next(&self.shared().closed).await
    }

    /// The next request of the peer; `None` once the link is closed. Cancel-safe.
    pub async fn asked(&self) -> Option<Asked> {
        let shared = self.shared();
        let (id, mut body) = shared.asked.next(&shared.closed).await.filter(|_| !shared.closed.is_cancelled())?;
        let kind = body.get_u16();
        Some(Asked { kind, body, id, link: self.shared().clone(), is_answered: false })
    }

    /// Waits for the peer's first word; without it, says how the link ended. TLS 1.3 lets a dialler believe in a connection
    /// before the other end has judged its certificate. For one waiter.
    pub(super) async fn welcomed(&self) -> Result<(), String> {
        tokio::select! {
            biased;
            () = self.shared().welcome.notified() => Ok(()),
            reason = self.closed() => Err(reason),
        }
    }

    /// Of several links with one node the one to use: it is open, and was heard last.
    #[must_use]
    pub fn liveliest<'a>(links: impl IntoIterator<Item = &'a PeerLink>) -> Option<&'a PeerLink> {
        links.into_iter().filter(|link| !link.is_closed()).min_by_key(|link| link.silence())
    }

    /// How long ago the peer was last heard, milliseconds.
    #[must_use]
    pub fn silence(&self) -> u64 {
        clock::uptime().saturating_sub(self.shared().heard.load(Relaxed))
    }

    /// Whether it has ended.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.shared().closed.is_cancelled()
    }

    /// Whether it ended because one end heard nothing of the other any more: what else goes between the two may lead nowhere as well.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.shared().reason.get().is_some_and(|reason| reason == TIMED_OUT)
    }

    /// Waits for the link's end and says why it ended.
    pub async fn closed(&self) -> String {
        self.shared().closed.cancelled().await;
        self.shared().reason.get().cloned().unwrap_or_default()
    }

    /// Closes the link; the peer is told the reason (at most 256 bytes of it).
    pub fn close(&self, reason: &str) {
        self.shared().close(reason);
    }
}

impl Asked {
    /// Answers it. An answer beyond [`super::peer::MAX_REPLY`] becomes a refusal.
    pub fn reply(mut self, body: Bytes) {
        self.is_answered = self.link.push(Thing { kind: Kind::Reply, id: self.id, bytes: body }).is_ok();
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        if !self.is_answered {
            // A closed link needs no answer.
            let _ = self.link.push(Thing { kind: Kind::Refusal, id: self.id, bytes: Bytes::new() });
        }
    }
}

impl Shared {
    fn push(&self, thing: Thing) -> Result<(), LinkError> {
        self.queue(|outbox| outbox.push(thing))
    }

    fn queue(&self, add: impl FnOnce(&mut Outbox) -> Result<(), LinkError>) -> Result<(), LinkError> {
        if self.closed.is_cancelled() {
            return Err(self.end());
        }
        add(&mut lock(&self.outbox))?;
        self.to_write.notify_one();
        Ok(())
    }

    /// Says something that the link itself has to say; a full queue says it later or not at all.
    fn say(&self, kind: Kind, bytes: Bytes) {
        let _ = self.push(Thing { kind, id: 0, bytes });
    }

    fn end(&self) -> LinkError {
        LinkError::Closed(self.reason.get().cloned().unwrap_or_default())
    }

    fn close(&self, reason: &str) {
        let mut end = reason.len().min(MAX_REASON);
        while !reason.is_char_boundary(end) {
            end -= 1;
        }
        // The first reason counts.
        let _ = self.reason.set(reason[..end].to_owned());
        self.closed.cancel();
        if let Handle::Quic(quic) = &self.handle {
            quic.close(Code::Done.varint(), &reason.as_bytes()[..end]);
        }
    }

    async fn read_all(self: Arc<Self>, reader: ReadHalf<VirtualStream>) {
        let mut reader = BufReader::with_capacity(BUFFER, reader);
        let mut assembly = Assembly::default();
        let reason = loop {
            let thing = tokio::select! {
                thing = assembly.read(&mut reader, |kind| self.came(kind)) => thing,
                () = self.closed.cancelled() => return,
            };
            if let Ok(Thing { kind: Kind::Urgent | Kind::Message, bytes, .. }) = &thing {
                self.stopped.store(true, Relaxed);
                tokio::select! {
                    () = self.inbox.room(bytes.len()) => {}
                    () = self.closed.cancelled() => return,
                }
                self.stopped.store(false, Relaxed);
            }
            match thing.and_then(|thing| self.hear(thing)) {
                Ok(None) => {}
                Ok(Some(goodbye)) => break goodbye,
                Err(error) => break self.why(&error),
            }
        };
        self.close(&reason);
    }

    /// The reason that came with QUIC's end, else the error.
    fn why(&self, error: &io::Error) -> String {
        let end = match &self.handle {
            Handle::Quic(quic) => quic.close_reason(),
            Handle::Tcp(_) => None,
        };
        match end {
            Some(quinn::ConnectionError::ApplicationClosed(close)) if !close.reason.is_empty() => {
                String::from_utf8_lossy(&close.reason).into_owned()
            }
            Some(quinn::ConnectionError::TimedOut) => TIMED_OUT.to_owned(),
            Some(end) => end.to_string(),
            None => error.to_string(),
        }
    }

    /// Takes what the peer said; a goodbye gives its reason.
    fn hear(self: &Arc<Self>, Thing { kind, id, bytes }: Thing) -> io::Result<Option<String>> {
        let bad = |what: &'static str| Err(io::Error::new(io::ErrorKind::InvalidData, what));
        if kind != Kind::Hello && !self.greeted.load(Relaxed) {
            return bad("no hello");
        }
        match kind {
            Kind::Hello => {
                let hello: Envelope = codec::decode::<_, 1024>(&bytes).map_err(io::Error::other)?;
                if hello.version.abs_diff(WIRE_VERSION) > 1 || hello.kind != HELLO {
                    return bad("a version of the wire that this build does not speak");
                }
                self.greeted.store(true, Relaxed);
                self.welcome.notify_one();
            }
            Kind::Ping => self.say(Kind::Pong, bytes),
            // A sign of life, as anything is.
            Kind::Pong => {}
            Kind::Goodbye => return Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
            Kind::Urgent | Kind::Message => {
                let length = bytes.len();
                // There is room: the reader waited for it.
                self.inbox.add(bytes, length);
            }
            Kind::Request if bytes.len() < 2 => return bad("a request without a kind"),
            Kind::Request => {
                let length = bytes.len();
                if !self.asked.add((id, bytes), length) {
                    let _ = self.push(Thing { kind: Kind::Refusal, id, bytes: Bytes::new() });
                }
            }
            Kind::Reply => self.answer(id, Some(bytes)),
            Kind::Refusal => self.answer(id, None),
        }
        Ok(None)
    }

    /// A piece of something came: also of what is long, and whole only much later, it is a sign of life.
    fn came(&self, kind: Kind) {
        let now = clock::uptime();
        self.heard.store(now, Relaxed);
        if kind == Kind::Reply {
            self.replied.store(now, Relaxed);
        }
    }

    fn answer(&self, id: u32, reply: Option<Bytes>) {
        if let Some(told) = lock(&self.pending).remove(&id) {
            // Who asked may have given up.
            let _ = told.send(reply);
        }
    }

    async fn write_all(self: Arc<Self>, writer: WriteHalf<VirtualStream>) {
        let mut writer = BufWriter::with_capacity(BUFFER, writer);
        let result = tokio::select! {
            result = self.write_queued(&mut writer) => result,
            () = self.closed.cancelled() => Ok(()),
        };
        if let Err(error) = result {
            // The reader may know better why.
            tokio::task::yield_now().await;
            self.close(&self.why(&error));
        }
        if let Handle::Tcp(_) = self.handle {
            let reason = Bytes::from(self.reason.get().cloned().unwrap_or_default());
            let farewell = self.farewell(&mut writer, reason);
            // Who does not listen hears the end of the connection.
            let _ = timeout(FAREWELL, farewell).await;
        }
    }

    async fn write_queued(&self, writer: &mut BufWriter<WriteHalf<VirtualStream>>) -> io::Result<()> {
        loop {
            let piece = lock(&self.outbox).next();
            match piece {
                Some(piece) => frames::write(writer, &piece).await?,
                None => {
                    writer.flush().await?;
                    self.to_write.notified().await;
                }
            }
        }
    }

    async fn farewell(&self, writer: &mut BufWriter<WriteHalf<VirtualStream>>, reason: Bytes) -> io::Result<()> {
        let mut last = Outbox::default();
        // An empty queue takes a short thing.
        let _ = last.push(Thing { kind: Kind::Goodbye, id: 0, bytes: reason });
        if let Some(piece) = last.next() {
            frames::write(writer, &piece).await?;
        }
        writer.flush().await?;
        writer.shutdown().await
    }

    /// Ends a link over TCP whose peer has fallen silent.
    async fn pulse(self: Arc<Self>) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(PEER_KEEP_ALIVE) => {}
                () = self.closed.cancelled() => return,
            }
            self.say(Kind::Ping, Bytes::new());
            if self.stopped.load(Relaxed) {
                self.heard.store(clock::uptime(), Relaxed);
            }
            let silence = clock::uptime().saturating_sub(self.heard.load(Relaxed));
            if u128::from(silence) > PEER_IDLE.as_millis() {
                self.close(TIMED_OUT);
            }
        }
    }
}

//! Two connections joined into one: bytes go both ways until both ends are done, each direction ends by itself, and what breaks off on
//! one side breaks off on the other.
//!
//! A connection that has nothing to say holds no buffer: what arrives is read into one that all connections of a thread share, and
//! only what the other side does not take at once gets one of its own, which goes when it is empty and nothing more has come. These count
//! among the bytes that a node holds; while there is no room for one, less is read at once.

use super::Account;
use crate::{
    clock, http1::Upgraded, mesh, mesh::stream::VirtualStream, proxy::http::ReplayBudget, spare, telemetry::Flags,
};
use futures_util::future::BoxFuture;
use std::{
    cell::RefCell,
    io,
    pin::Pin,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::server::TlsStream;

/// Bytes that are read at once, and as many written: one chunk of a tunnel, without a small one behind it.
const BUFFER: usize = mesh::FULL_CHUNK;
/// The same while the node holds as much as it may.
const LEAST: usize = 4 << 10;
/// Reads of one direction after which other connections get their turn.
const TURNS: usize = 16;

thread_local! {
    /// Borrowed within one poll only.
    static SHARED: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER].into_boxed_slice());
}

/// One of the two connections.
pub(in crate::proxy) trait Side: AsyncRead + AsyncWrite + Unpin {
    /// Gives it up in the middle: the peer sees a reset, not an end.
    fn reset(self);

    /// Resolves when it is closed from outside, whether anybody reads or writes or not.
    fn lost(&self) -> BoxFuture<'static, ()> {
        Box::pin(std::future::pending())
    }
}

impl Side for TcpStream {
    fn reset(self) {
        // Where it cannot be had, the peer sees an end.
        drop(socket2::SockRef::from(&self).set_linger(Some(Duration::ZERO)));
    }
}

impl Side for Upgraded {
    fn reset(self) {
        // Another carrier ends in order; what it carries may tell by itself.
        if let Some(stream) = self.into_carrier::<TcpStream>() {
            stream.reset();
        }
    }
}

impl Side for TlsStream<TcpStream> {
    fn reset(self) {
        self.into_inner().0.reset();
    }
}

impl Side for VirtualStream {
    fn reset(self) {
        VirtualStream::reset(self);
    }

    fn lost(&self) -> BoxFuture<'static, ()> {
        VirtualStream::lost(self)
    }
}

/// For how long a connection may go on; `None`: for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::proxy) struct Spans {
    /// Without a byte in either direction.
    pub(in crate::proxy) idle: Option<Duration>,
    /// Altogether.
    pub(in crate::proxy) whole: Option<Duration>,
}

/// How a connection ended.
#[derive(Debug)]
pub(in crate::proxy) enum End {
    /// Both directions did, in order.
    Done,
    /// The caller's side broke off.
    Caller(io::Error),
    /// The server's side broke off.
    Server(io::Error),
    /// Nothing went for too long.
    Idle,
    /// It lasted for as long as it may.
    Duration,
    /// Policy denies it now.
    Denied,
    /// This node stops.
    Stopped,
}

impl End {
    /// Envoy's flags.
    pub(super) const fn flags(&self) -> Flags {
        match self {
            Self::Done | Self::Denied | Self::Stopped => Flags::NONE,
            Self::Caller(_) => Flags::DC,
            Self::Server(_) => Flags::UC,
            Self::Idle => Flags::SI,
            Self::Duration => Flags::DT,
        }
    }

    /// Envoy's details of the end, where there is something to say.
    pub(super) const fn details(&self) -> Option<&'static str> {
        match self {
            Self::Done | Self::Caller(_) | Self::Server(_) => None,
            Self::Idle => Some("tcp_session_idle_timeout"),
            Self::Duration => Some("max_connection_duration_reached"),
            Self::Denied => Some("rbac_access_denied"),
            Self::Stopped => Some("drained"),
        }
    }
}

/// Joins them until the end, which both accounts are told. `until` ends it from outside.
pub(in crate::proxy) async fn relay(
    budget: &ReplayBudget,
    (mut caller, mut server): (impl Side, impl Side),
    accounts: &mut [Account],
    spans: Spans,
    until: impl Future<Output = End>,
) {
    let active = AtomicU64::new(clock::uptime());
    let lost = || io::Error::new(io::ErrorKind::ConnectionReset, "the connection between the nodes was closed");
    let (caller_lost, server_lost) = (caller.lost(), server.lost());
    let (mut up, mut down) = (Direction::new(budget), Direction::new(budget));
    let both = std::future::poll_fn(|cx| {
        let ended = up.poll(cx, &mut caller, &mut server, |bytes| {
            active.store(clock::uptime(), Relaxed);
            accounts.iter_mut().for_each(|account| account.received(bytes));
        });
        if let Poll::Ready(Err(broken)) = ended {
            return Poll::Ready(broken.end(End::Caller, End::Server));
        }
        let ended = down.poll(cx, &mut server, &mut caller, |bytes| {
            active.store(clock::uptime(), Relaxed);
            accounts.iter_mut().for_each(|account| account.sent(bytes));
        });
        match ended {
            Poll::Ready(Err(broken)) => Poll::Ready(broken.end(End::Server, End::Caller)),
            Poll::Ready(Ok(())) if up.is_over() => Poll::Ready(End::Done),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
        }
    });
    let end = tokio::select! {
        biased;
        end = both => end,
        end = until => end,
        () = caller_lost => End::Caller(lost()),
        () = server_lost => End::Server(lost()),
        () = silence(&active, spans.idle) => End::Idle,
        () = span(spans.whole) => End::Duration,
    };
    accounts.iter_mut().for_each(|account| account.ended(&end));
    if matches!(end, End::Done) {
        return;
    }
    match &end {
        End::Caller(error) => tracing::debug!(%error, "the caller of a connection broke off"),
        End::Server(error) => tracing::debug!(%error, "the server of a connection broke off"),
        End::Done | End::Idle | End::Duration | End::Denied | End::Stopped => {}
    }
    caller.reset();
    server.reset();
}

/// Joins two connections that changed their protocol, until both directions have ended in order. What went is counted as received from the
/// caller and sent to it.
///
/// # Errors
/// One of them broke off.
pub(in crate::proxy) async fn join(
    budget: &ReplayBudget,
    caller: &mut (impl AsyncRead + AsyncWrite + Unpin),
    server: &mut (impl AsyncRead + AsyncWrite + Unpin),
    active: &AtomicU64,
    (received, sent): (&mut u64, &mut u64),
) -> io::Result<()> {
    let (mut up, mut down) = (Direction::new(budget), Direction::new(budget));
    std::future::poll_fn(|cx| {
        let ended = up.poll(cx, caller, server, |bytes| {
            active.store(clock::uptime(), Relaxed);
            *received += bytes;
        });
        if let Poll::Ready(Err(broken)) = ended {
            return Poll::Ready(Err(broken.error()));
        }
        let ended = down.poll(cx, server, caller, |bytes| {
            active.store(clock::uptime(), Relaxed);
            *sent += bytes;
        });
        match ended {
            Poll::Ready(Err(broken)) => Poll::Ready(Err(broken.error())),
            Poll::Ready(Ok(())) if up.is_over() => Poll::Ready(Ok(())),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Waits until nothing has gone for so long; `active` is the uptime when something last did, in milliseconds.
pub(in crate::proxy) async fn silence(active: &AtomicU64, idle: Option<Duration>) {
    let Some(idle) = idle else { return std::future::pending().await };
    loop {
        let silent = Duration::from_millis(clock::uptime().saturating_sub(active.load(Relaxed)));
        let Some(left) = idle.checked_sub(silent).filter(|left| !left.is_zero()) else { return };
        tokio::time::sleep(left).await;
    }
}

async fn span(whole: Option<Duration>) {
    match whole {
        Some(whole) => tokio::time::sleep(whole).await,
        None => std::future::pending().await,
    }
}

/// Which end of a direction broke off.
enum Broken {
    Source(io::Error),
    Sink(io::Error),
}

impl Broken {
    fn error(self) -> io::Error {
        match self {
            Self::Source(error) | Self::Sink(error) => error,
        }
    }

    fn end(self, source: fn(io::Error) -> End, sink: fn(io::Error) -> End) -> End {
        match self {
            Self::Source(error) => source(error),
            Self::Sink(error) => sink(error),
        }
    }
}

/// One of the two ways.
struct Direction<'b> {
    budget: &'b ReplayBudget,
    /// Of the budget, for the buffer.
    held: usize,
    /// What was read and not taken yet: `start` to `end` of it. Empty while there is nothing.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Something was written and perhaps not sent off.
    unflushed: bool,
    state: State,
}

#[derive(Default, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    /// The source has ended; the sink is to hear of it.
    Ending,
    Over,
}

impl Drop for Direction<'_> {
    fn drop(&mut self) {
        self.let_go();
    }
}

impl<'b> Direction<'b> {
    fn new(budget: &'b ReplayBudget) -> Self {
        let (held, buffer, start, end, unflushed, state) = Default::default();
        Self { budget, held, buffer, start, end, unflushed, state }
    }

    /// Nothing is left that it would be for.
    fn let_go(&mut self) {
        spare::give(std::mem::take(&mut self.buffer));
        self.budget.give(std::mem::take(&mut self.held));
    }

    fn is_over(&self) -> bool {
        self.state == State::Over
    }

    /// Moves what can be moved; ready once the direction has ended in order. `moved` hears of what the sink took.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut (impl AsyncRead + Unpin),
        sink: &mut (impl AsyncWrite + Unpin),
        mut moved: impl FnMut(u64),
    ) -> Poll<Result<(), Broken>> {
        for _ in 0..TURNS {
            ready!(self.drain(cx, sink, &mut moved))?;
            match self.state {
                State::Over => return Poll::Ready(Ok(())),
                State::Ending => {
                    ready!(Pin::new(&mut *sink).poll_shutdown(cx)).map_err(Broken::Sink)?;
                    self.state = State::Over;
                }
                State::Open => match self.fill(cx, source, sink, &mut moved)? {
                    Poll::Ready(()) => {}
                    Poll::Pending => {
                        self.let_go();
                        if self.unflushed {
                            ready!(Pin::new(&mut *sink).poll_flush(cx)).map_err(Broken::Sink)?;
                            self.unflushed = false;
                        }
                        return Poll::Pending;
                    }
                },
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Gives the sink what is left of what was read.
    fn drain(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut (impl AsyncWrite + Unpin),
        moved: &mut impl FnMut(u64),
    ) -> Poll<Result<(), Broken>> {
        while self.start < self.end {
            self.start += ready!(write(cx, sink, &self.buffer[self.start..self.end], moved)?);
            self.unflushed = true;
        }
        (self.start, self.end) = (0, 0);
        Poll::Ready(Ok(()))
    }

    /// Reads once: into the direction's own buffer if it has one, for it is busy, else into the shared one, of which the sink gets at
    /// once what it takes.
    fn fill(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut (impl AsyncRead + Unpin),
        sink: &mut (impl AsyncWrite + Unpin),
        moved: &mut impl FnMut(u64),
    ) -> Result<Poll<()>, Broken> {
        if !self.buffer.is_empty() {
            let read = read(cx, source, &mut self.buffer)?;
            return Ok(read.map(|length| self.filled(length)));
        }
        let room = if self.budget.left() < BUFFER { LEAST } else { BUFFER };
        SHARED.with_borrow_mut(|shared| {
            let Poll::Ready(length) = read(cx, source, &mut shared[..room])? else { return Ok(Poll::Pending) };
            let mut taken = 0;
            while taken < length {
                let Poll::Ready(more) = write(cx, sink, &shared[taken..length], moved)? else { break };
                taken += more;
                self.unflushed = true;
            }
            if taken < length {
                // The little that finds no room is held all the same.
                self.held = if self.budget.take(room) { room } else { 0 };
                self.buffer = spare::take(room);
                self.buffer[taken..length].copy_from_slice(&shared[taken..length]);
                self.start = taken;
            }
            self.filled(length);
            if taken == length {
                (self.start, self.end) = (0, 0);
            }
            Ok(Poll::Ready(()))
        })
    }

    /// So much came; nothing is the end.
    fn filled(&mut self, length: usize) {
        self.end = length;
        if length == 0 {
            self.let_go();
            self.state = State::Ending;
        }
    }
}

fn read(cx: &mut Context<'_>, source: &mut (impl AsyncRead + Unpin), into: &mut [u8]) -> Result<Poll<usize>, Broken> {
    let mut buffer = ReadBuf::new(into);
    match Pin::new(source).poll_read(cx, &mut buffer) {
        Poll::Ready(Ok(())) => Ok(Poll::Ready(buffer.filled().len())),
        Poll::Ready(Err(error)) => Err(Broken::Source(error)),
        Poll::Pending => Ok(Poll::Pending),
    }
}

fn write(
    cx: &mut Context<'_>,
    sink: &mut (impl AsyncWrite + Unpin),
    bytes: &[u8],
    moved: &mut impl FnMut(u64),
) -> Result<Poll<usize>, Broken> {
    match Pin::new(sink).poll_write(cx, bytes) {
        Poll::Ready(Ok(0)) => Err(Broken::Sink(io::ErrorKind::WriteZero.into())),
        Poll::Ready(Ok(taken)) => {
            moved(taken as u64);
            Ok(Poll::Ready(taken))
        }
        Poll::Ready(Err(error)) => Err(Broken::Sink(error)),
        Poll::Pending => Ok(Poll::Pending),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    #[tokio::test]
    async fn an_upgraded_connection_holds_memory_only_while_one_side_is_behind() {
        let budget = ReplayBudget::default();
        let (mut client, mut caller) = duplex(16);
        let (mut application, mut server) = duplex(16);
        let (active, mut received, mut sent) = (AtomicU64::new(0), 0, 0);
        let ends = async {
            client.write_all(b"ask").await.unwrap();
            let mut heard = [0; 3];
            application.read_exact(&mut heard).await.unwrap();
            assert_eq!((&heard, budget.taken()), (b"ask", 0), "what is silent holds nothing");
            // Neither the application nor the pipe to it takes so much.
            let sending = client.write_all(&[7; 200]);
            let reading = async {
                while budget.taken() == 0 {
                    tokio::task::yield_now().await;
                }
                application.read_exact(&mut [0; 200]).await.unwrap();
            };
            let (written, ()) = tokio::join!(sending, reading);
            written.unwrap();
            application.write_all(b"answer").await.unwrap();
            let mut heard = [0; 6];
            client.read_exact(&mut heard).await.unwrap();
            assert_eq!((&heard, budget.taken()), (b"answer", 0));
            client.shutdown().await.unwrap();
            assert_eq!(application.read(&mut [0; 1]).await.unwrap(), 0, "each direction ends by itself");
            application.write_all(b"last").await.unwrap();
            application.shutdown().await.unwrap();
            let mut rest = String::new();
            client.read_to_string(&mut rest).await.unwrap();
            assert_eq!(rest, "last");
        };
        let joined = join(&budget, &mut caller, &mut server, &active, (&mut received, &mut sent));
        let (joined, ()) = tokio::join!(joined, ends);
        joined.unwrap();
        assert_eq!((received, sent, budget.taken()), (203, 10, 0));
    }

    /// Lets a sender send more than its receiver takes: what is held meanwhile, and how long the buffer is. Then the rest is taken.
    async fn behind(budget: &ReplayBudget) -> (usize, usize) {
        const SENT: usize = 3 * BUFFER;
        let before = budget.taken();
        let (mut sender, mut source) = duplex(SENT);
        let (mut sink, mut receiver) = duplex(10);
        sender.write_all(&vec![7; SENT]).await.unwrap();
        drop(sender);
        let mut direction = Direction::new(budget);
        let first = std::future::poll_fn(|cx| Poll::Ready(direction.poll(cx, &mut source, &mut sink, |_| {}))).await;
        assert!(first.is_pending());
        let held = (budget.taken() - before, direction.buffer.len());
        let all = async {
            let mut all = Vec::new();
            receiver.read_to_end(&mut all).await.map(|_| all)
        };
        let moving = std::future::poll_fn(|cx| direction.poll(cx, &mut source, &mut sink, |_| {}));
        let (moved, all) = tokio::join!(moving, all);
        assert!(moved.is_ok() && all.unwrap() == vec![7; SENT]);
        assert_eq!(budget.taken(), before, "all of it is given back, while the other direction goes on");
        held
    }

    #[tokio::test]
    async fn what_a_slow_receiver_leaves_counts_among_what_the_node_holds() {
        let budget = ReplayBudget::default();
        assert_eq!(behind(&budget).await, (BUFFER, BUFFER));
        assert!(budget.take(budget.left() - 1));
        assert_eq!(behind(&budget).await, (0, LEAST), "where there is no room it goes on in small steps");
    }
}

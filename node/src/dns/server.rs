//! The sockets: queries in, answers out. Everything has a bound, so that a flood costs its sender's process time and nobody's memory.

use super::{
    answer::{self, Carrier, Outcome, Verdict, Zone},
    upstream::Upstreams,
};
use crate::{
    config,
    snapshot::Current,
    tasks::Tasks,
    telemetry::{Kind, Sample, Telemetry},
};
use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

/// Bytes of the longest query by UDP; what is longer is cut, and then refused.
const QUERY: usize = 4096;
/// Queries that wait for resolvers.
const WAITING: usize = 256;
/// Connections at once.
const CONNECTIONS: usize = 64;
/// How long a connection may take to ask its next question.
const IDLE: Duration = Duration::from_secs(10);
/// How long a client may take to take an answer.
const WRITE: Duration = Duration::from_secs(5);
/// How long accepting rests when it fails.
const REST: Duration = Duration::from_millis(100);
/// Tries to find a port that is free for UDP and TCP.
const TRIES: usize = 16;

/// Both sockets, on one port.
#[derive(Debug)]
pub struct Sockets {
    udp: UdpSocket,
    tcp: TcpListener,
}

impl Sockets {
    /// Opens them; port 0 becomes one that is free for both.
    ///
    /// # Errors
    /// The address is in use or not this machine's.
    pub async fn bind(listen: SocketAddr) -> io::Result<Self> {
        let mut tries = if listen.port() == 0 { TRIES } else { 1 };
        loop {
            let tcp = TcpListener::bind(listen).await?;
            match UdpSocket::bind(tcp.local_addr()?).await {
                Ok(udp) => return Ok(Self { udp, tcp }),
                Err(_) if tries > 1 => tries -= 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// Where they listen.
    ///
    /// # Errors
    /// What the system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.udp.local_addr()
    }
}

/// The DNS server of a node. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Server {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    current: Current,
    /// Where names without a namespace are looked for until it is known who speaks.
    namespace: String,
    upstreams: Upstreams,
    waiting: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    counts: Counts,
    tasks: Tasks,
}

/// Queries by what became of them.
#[derive(Debug, Default)]
struct Counts {
    answered: AtomicU64,
    negative: AtomicU64,
    refused: AtomicU64,
    forwarded: AtomicU64,
    failed: AtomicU64,
}

impl Server {
    /// Answers from the snapshots and asks the machine's resolvers for all else.
    ///
    /// # Errors
    /// The sockets' address is not known.
    pub fn new(
        settings: &config::Dns,
        sockets: &Sockets,
        current: Current,
        telemetry: &Telemetry,
        tasks: Tasks,
    ) -> io::Result<Self> {
        let own = sockets.local_addr()?;
        let shared = Arc::new(Shared {
            current,
            namespace: settings.speaker.service.namespace().to_owned(),
            upstreams: Upstreams::new(own, settings.upstreams.clone()),
            waiting: Arc::new(Semaphore::new(WAITING)),
            connections: Arc::new(Semaphore::new(CONNECTIONS)),
            counts: Counts::default(),
            tasks,
        });
        let counted = Arc::clone(&shared);
        telemetry.collect("skein_dns_queries_total", "Queries by what became of them", Kind::Counter, move || {
            counted.counts.samples()
        });
        Ok(Self { shared })
    }

    /// Serves until the node ends.
    pub async fn serve(self, sockets: Sockets) {
        let Sockets { udp, tcp } = sockets;
        let resolvers = self.shared.upstreams.watch(&self.shared.current, &self.shared.tasks);
        tokio::join!(self.datagrams(Arc::new(udp)), self.streams(tcp), resolvers);
    }

    async fn datagrams(&self, socket: Arc<UdpSocket>) {
        let mut buffer = vec![0; QUERY];
        loop {
            let (length, remote) = match socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                // Such as that an earlier answer reached nobody.
                Err(error) => {
                    tracing::debug!(%error, "a query was not received");
                    if error.kind() != io::ErrorKind::ConnectionRefused {
                        tokio::time::sleep(REST).await;
                    }
                    continue;
                }
            };
            // The address is on loopback, so that nobody else gets here; who else did would be a victim, not a client.
            if !remote.ip().is_loopback() {
                continue;
            }
            let query = &buffer[..length];
            match self.shared.judge(query, Carrier::Udp) {
                Verdict::Drop => {}
                Verdict::Answer(answer, outcome) => {
                    self.shared.counts.count(outcome);
                    send(&socket, &answer, remote).await;
                }
                Verdict::Forward { question_ends } => match Arc::clone(&self.shared.waiting).try_acquire_owned() {
                    Ok(permit) => self.forward(Arc::clone(&socket), query.to_vec(), question_ends, remote, permit),
                    Err(_) => {
                        self.shared.overflowed();
                        send(&socket, &answer::failure(query), remote).await;
                    }
                },
            }
        }
    }

    fn forward(
        &self,
        socket: Arc<UdpSocket>,
        query: Vec<u8>,
        question_ends: usize,
        remote: SocketAddr,
        permit: OwnedSemaphorePermit,
    ) {
        let shared = Arc::clone(&self.shared);
        self.shared.tasks.detach("dns query", async move {
            let answer = shared.ask(&query, question_ends, Carrier::Udp).await;
            send(&socket, &answer, remote).await;
            drop(permit);
        });
    }

    async fn streams(&self, listener: TcpListener) {
        loop {
            // Further ones wait in the backlog.
            let Ok(permit) = Arc::clone(&self.shared.connections).acquire_owned().await else { return };
            let stream = match listener.accept().await {
                Ok((stream, remote)) if remote.ip().is_loopback() => stream,
                Ok(_) => continue,
                Err(error) => {
                    tracing::debug!(%error, "a connection for queries was not accepted");
                    tokio::time::sleep(REST).await;
                    continue;
                }
            };
            let shared = Arc::clone(&self.shared);
            self.shared.tasks.detach("dns connection", async move {
                if let Err(error) = shared.converse(stream).await {
                    tracing::debug!(%error, "a connection for queries ended");
                }
                drop(permit);
            });
        }
    }
}

/// Nobody waits for who does not take its answer.
async fn send(socket: &UdpSocket, answer: &[u8], remote: SocketAddr) {
    if let Err(error) = socket.send_to(answer, remote).await {
        tracing::debug!(%error, "an answer was not sent");
    }
}

impl Shared {
    /// What is to be done with a query, by what holds now.
    fn judge(&self, query: &[u8], carrier: Carrier) -> Verdict {
        // A resolver that is asked for such a name and asks this node goes round in a circle.
        if self.upstreams.is_own_probe(query) {
            return Verdict::Drop;
        }
        let (snapshot, names) = (self.current.read(), self.current.names());
        let speaker = names.speaker.as_ref();
        let zone = Zone {
            node: &snapshot.node,
            scope: speaker.map_or_else(|| self.namespace.as_str().into(), |source| snapshot.compiled.scope(source)),
            names: &names,
            services: &snapshot.services,
            entries: snapshot.compiled.entries(),
        };
        answer::answer(&zone, query, carrier)
    }

    /// An answer of the machine's resolvers, or that there is none.
    async fn ask(&self, query: &[u8], question_ends: usize, carrier: Carrier) -> Vec<u8> {
        match self.upstreams.ask(query, question_ends, carrier).await {
            Some(answer) => {
                self.counts.forwarded.fetch_add(1, Relaxed);
                answer
            }
            None => {
                self.counts.failed.fetch_add(1, Relaxed);
                answer::failure(query)
            }
        }
    }

    /// More wait than may: perhaps they wait for each other.
    fn overflowed(&self) {
        self.counts.failed.fetch_add(1, Relaxed);
        self.upstreams.look_again();
    }

    /// One question after the other, until the client has none for a while.
    async fn converse(&self, mut stream: TcpStream) -> io::Result<()> {
        loop {
            let length = match timeout(IDLE, stream.read_u16()).await? {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                length => usize::from(length?),
            };
            let mut query = vec![0; length];
            timeout(IDLE, stream.read_exact(&mut query)).await??;
            let answer = match self.judge(&query, Carrier::Tcp) {
                Verdict::Drop => return Ok(()),
                Verdict::Answer(answer, outcome) => {
                    self.counts.count(outcome);
                    answer
                }
                Verdict::Forward { question_ends } => match self.waiting.try_acquire() {
                    Ok(_permit) => self.ask(&query, question_ends, Carrier::Tcp).await,
                    Err(_) => {
                        self.overflowed();
                        answer::failure(&query)
                    }
                },
            };
            let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
            let framed = [&length.to_be_bytes()[..], &answer].concat();
            timeout(WRITE, stream.write_all(&framed)).await??;
        }
    }
}

impl Counts {
    fn count(&self, outcome: Outcome) {
        let counter = match outcome {
            Outcome::Answered => &self.answered,
            Outcome::Negative => &self.negative,
            Outcome::Refused => &self.refused,
        };
        counter.fetch_add(1, Relaxed);
    }

    #[expect(clippy::cast_precision_loss, reason = "metrics are floating point numbers in Prometheus")]
    fn samples(&self) -> Vec<Sample> {
        let all = [
            ("answered", &self.answered),
            ("negative", &self.negative),
            ("refused", &self.refused),
            ("forwarded", &self.forwarded),
            ("failed", &self.failed),
        ];
        let sample = |(outcome, counter): (&'static str, &AtomicU64)| Sample {
            labels: vec![("outcome", outcome.to_owned())],
            value: counter.load(Relaxed) as f64,
        };
        all.map(sample).into()
    }
}

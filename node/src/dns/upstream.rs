//! The machine's own resolvers: who they are, asking them, and noticing one that asks back.
//!
//! A query goes on as it came but for its id, and so does the answer: what clients and resolvers tell each other in it (EDNS, DNSSEC)
//! is none of a forwarder's business. Nothing is kept: the machine's resolver has a cache, and applications have theirs.

use super::answer::Carrier;
use crate::{
    clock,
    snapshot::{Current, Trouble},
    tasks::Tasks,
};
use arc_swap::ArcSwap;
use certs::codec::Millis;
use hickory_proto::{
    op::{Message, MessageType, OpCode, Query},
    rr::{Name, RecordType},
};
use std::{
    io::{self, Read as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    sync::Notify,
    time::timeout,
};

/// Where the machine says whom it asks.
const FILE: &str = "/etc/resolv.conf";
/// Resolvers that are asked (glibc's MAXNS).
const RESOLVERS: usize = 3;
/// How long one may take, before the next is asked.
const PATIENCE: Duration = Duration::from_secs(2);
/// For how long others are asked before one that did not answer, milliseconds; then it is tried again.
const SILENT: Millis = 10_000;
/// How often it is looked whether there are others.
const LOOK: Duration = Duration::from_secs(5);
/// Looks after which resolvers are tried for circles again.
const PROBED: u32 = 12;
/// Bytes of the longest answer by UDP that is passed on.
const ANSWER: usize = 64 << 10;
/// Bytes of the file that are read.
const FILE_BYTES: u64 = 64 << 10;
/// Letters of a probe's label that no other probe has.
const NONCE: usize = 16;
/// The zone of names that only circles bring back (RFC 6761: nobody has it).
const PROBES: &str = "skein-loop.test.";

/// The resolvers behind this node.
#[derive(Debug)]
pub(super) struct Upstreams {
    /// Where this node itself listens.
    own: SocketAddr,
    /// As configured; none means as the machine says.
    fixed: Option<Vec<SocketAddr>>,
    resolvers: ArcSwap<Vec<Arc<Resolver>>>,
    again: Notify,
}

#[derive(Debug)]
struct Resolver {
    address: SocketAddr,
    /// How the label begins by which a probe is known.
    token: String,
    /// Probes that came back.
    returned: AtomicU64,
    /// It asks this node what this node asks it.
    circles: AtomicBool,
    /// Uptime until which others are asked first: it did not answer.
    silent_until: AtomicU64,
}

impl Upstreams {
    pub(super) fn new(own: SocketAddr, fixed: Option<Vec<SocketAddr>>) -> Self {
        let addresses = fixed.clone().unwrap_or_else(|| named(Path::new(FILE)));
        let upstreams = Self { own, fixed, resolvers: ArcSwap::default(), again: Notify::new() };
        upstreams.take(addresses);
        upstreams
    }

    /// Asks one after the other, those that were silent lately last; `None` if none answers. As in glibc, the next one is asked where one
    /// says that it cannot tell; that is passed on if no other can.
    pub(super) async fn ask(&self, query: &[u8], question_ends: usize, carrier: Carrier) -> Option<Vec<u8>> {
        let (resolvers, now) = (self.resolvers.load_full(), clock::uptime());
        let mut asked: Vec<_> = resolvers.iter().filter(|resolver| !resolver.circles.load(Relaxed)).collect();
        // Stable: else the order of the machine's file is kept.
        asked.sort_by_key(|resolver| resolver.silent_until.load(Relaxed) > now);
        let mut helpless = None;
        for resolver in asked {
            let asked = async {
                match carrier {
                    Carrier::Udp => by_udp(resolver.address, query, question_ends).await,
                    Carrier::Tcp => by_tcp(resolver.address, query, question_ends).await,
                }
            };
            match timeout(PATIENCE, asked).await {
                Ok(Ok(answer)) => {
                    resolver.silent_until.store(0, Relaxed);
                    if !is_helpless(&answer) {
                        return Some(answer);
                    }
                    tracing::debug!(resolver = %resolver.address, "a resolver cannot tell");
                    helpless.get_or_insert(answer);
                    continue;
                }
                Ok(Err(error)) => tracing::debug!(resolver = %resolver.address, %error, "a resolver failed"),
                Err(_) => tracing::debug!(resolver = %resolver.address, "a resolver does not answer"),
            }
            resolver.silent_until.store(clock::uptime() + SILENT, Relaxed);
        }
        helpless
    }

    /// True if the packet is a probe of this node, which has come back.
    pub(super) fn is_own_probe(&self, packet: &[u8]) -> bool {
        let resolvers = self.resolvers.load();
        let probed = resolvers.iter().find(|resolver| {
            let token = resolver.token.as_bytes();
            let at = packet.get(13..13 + token.len());
            packet.get(12).is_some_and(|length| usize::from(*length) == token.len() + NONCE)
                && at.is_some_and(|label| label.eq_ignore_ascii_case(token))
        });
        if let Some(resolver) = probed {
            resolver.returned.fetch_add(1, Relaxed);
            if !resolver.circles.swap(true, Relaxed) {
                tracing::warn!(resolver = %resolver.address, "this resolver asks this node back: it is left out");
            }
        }
        probed.is_some()
    }

    /// Looks for circles soon.
    pub(super) fn look_again(&self) {
        self.again.notify_one();
    }

    /// Follows the machine's file, tries resolvers for circles, and tells what is amiss. Never ends.
    pub(super) async fn watch(&self, current: &Current, tasks: &Tasks) {
        let mut seen = changed(tasks).await;
        for round in 0_u32.. {
            let now = changed(tasks).await;
            let is_new = self.fixed.is_none() && now != seen;
            seen = now;
            if is_new && let Ok(addresses) = tasks.blocking(|| named(Path::new(FILE))).await {
                self.take(addresses);
            }
            let asked = tokio::select! {
                () = tokio::time::sleep(if round == 0 { Duration::ZERO } else { LOOK }) => false,
                () = self.again.notified() => true,
            };
            if is_new || asked || round.is_multiple_of(PROBED) {
                for resolver in self.resolvers.load().iter() {
                    let resolver = Arc::clone(resolver);
                    tasks.detach("dns probe", async move { resolver.look_for_circle().await });
                }
            }
            current.tell_resolvers(self.troubles());
        }
    }

    fn take(&self, addresses: Vec<SocketAddr>) {
        let own = |address: &SocketAddr| *address == self.own;
        let resolver = |address| {
            Arc::new(Resolver {
                address,
                token: format!("{:016x}", rand::random::<u64>()),
                returned: AtomicU64::new(0),
                circles: AtomicBool::new(false),
                silent_until: AtomicU64::new(0),
            })
        };
        let resolvers: Vec<_> = addresses.into_iter().filter(|one| !own(one)).take(RESOLVERS).map(resolver).collect();
        self.resolvers.store(Arc::new(resolvers));
    }

    fn troubles(&self) -> Vec<Trouble> {
        let resolvers = self.resolvers.load();
        let circles = |resolver: &&Arc<Resolver>| resolver.circles.load(Relaxed);
        let mut troubles: Vec<Trouble> = resolvers.iter().filter(circles).map(|resolver| Trouble {
            code: "dns_loop",
            message: format!("the resolver {} asks this node what this node asks it: it is left out", resolver.address),
            hint: "name the machine's own servers in [dns] upstreams, or let that resolver send only the mesh's names here (`skein dns setup --print`)",
        })
        .collect();
        if resolvers.is_empty() {
            troubles.push(Trouble {
                code: "dns_no_resolver",
                message: "there is no resolver for names outside the mesh: they are answered SERVFAIL".to_owned(),
                hint: "name one in [dns] upstreams: /etc/resolv.conf has none but this node",
            });
        }
        troubles
    }
}

impl Resolver {
    /// Asks it what it would ask back. What it says of the name is nothing; that it says so by itself ends a circle.
    async fn look_for_circle(&self) {
        let Some(probe) = self.probe() else { return };
        let before = self.returned.load(Relaxed);
        let answered = timeout(PATIENCE, by_udp(self.address, &probe, probe.len())).await;
        let by_itself = matches!(answered, Ok(Ok(_))) && self.returned.load(Relaxed) == before;
        if by_itself && self.circles.swap(false, Relaxed) {
            tracing::info!(resolver = %self.address, "this resolver asks this node back no more: it is asked again");
        }
    }

    /// A question for a name that nobody else asks for, and that was not asked for before: what it was told then, it may still know.
    fn probe(&self) -> Option<Vec<u8>> {
        let name = Name::from_ascii(format!("{}{:016x}.{PROBES}", self.token, rand::random::<u64>())).ok()?;
        let mut message = Message::new(rand::random(), MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(name, RecordType::TXT));
        message.to_vec().ok()
    }
}

/// When the machine's file changed last.
async fn changed(tasks: &Tasks) -> Option<SystemTime> {
    tasks.blocking(|| std::fs::metadata(FILE).and_then(|about| about.modified()).ok()).await.ok().flatten()
}

/// Whom a file names; one that cannot be read names nobody.
fn named(file: &Path) -> Vec<SocketAddr> {
    let mut text = Vec::new();
    let _ = std::fs::File::open(file).and_then(|file| file.take(FILE_BYTES).read_to_end(&mut text));
    parse(&String::from_utf8_lossy(&text))
}

/// The `nameserver` lines of resolv.conf(5). What is no address of this machine's interfaces is left out, and told.
fn parse(text: &str) -> Vec<SocketAddr> {
    let lines = text.lines().filter_map(|line| line.strip_prefix("nameserver")?.split_whitespace().next());
    let known = |address: &str| {
        let known = at(address);
        if known.is_none() {
            tracing::warn!("{FILE} names a resolver {address}, which is no address here: it is left out");
        }
        known
    };
    lines.filter_map(known).collect()
}

/// Port 53 of an address. A zone (`fe80::1%eth0`) names an interface, or says its number as a socket address does.
fn at(address: &str) -> Option<SocketAddr> {
    let Some((address, zone)) = address.split_once('%') else {
        return Some(SocketAddr::new(address.parse().ok()?, 53));
    };
    let number = zone.parse().ok().or_else(|| nix::net::if_::if_nametoindex(zone).ok())?;
    Some(SocketAddrV6::new(address.parse().ok()?, 53, 0, number).into())
}

async fn by_udp(resolver: SocketAddr, query: &[u8], question_ends: usize) -> io::Result<Vec<u8>> {
    let any: IpAddr = if resolver.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    // A port of its own and a fresh id, and only packets of that resolver: nobody else can guess an answer.
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
    socket.connect(resolver).await?;
    let (sent, id) = with_fresh_id(query);
    socket.send(&sent).await?;
    let mut answer = vec![0; ANSWER];
    loop {
        let length = socket.recv(&mut answer).await?;
        if is_answer(&answer[..length], &sent, question_ends) {
            answer.truncate(length);
            answer[..2].copy_from_slice(&id);
            return Ok(answer);
        }
    }
}

async fn by_tcp(resolver: SocketAddr, query: &[u8], question_ends: usize) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(resolver).await?;
    let (sent, id) = with_fresh_id(query);
    let length = u16::try_from(sent.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes()[..], &sent].concat()).await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    if !is_answer(&answer, &sent, question_ends) {
        return Err(io::Error::other("an answer to another question"));
    }
    answer[..2].copy_from_slice(&id);
    Ok(answer)
}

/// The query under another id, and the id that it had.
fn with_fresh_id(query: &[u8]) -> (Vec<u8>, [u8; 2]) {
    let mut sent = query.to_vec();
    let mut id = [0; 2];
    id.copy_from_slice(&sent[..2]);
    sent[..2].copy_from_slice(&rand::random::<[u8; 2]>());
    (sent, id)
}

/// True if it bears the same id and question; who refuses may leave the question out.
fn is_answer(answer: &[u8], sent: &[u8], question_ends: usize) -> bool {
    let (Some(header), Some(asked)) = (answer.get(..12), sent.get(12..question_ends)) else { return false };
    let (is_response, is_refusal) = (header[2] & 0x80 != 0, header[3] & 0xf != 0);
    let same = answer.get(12..question_ends).is_some_and(|question| question.eq_ignore_ascii_case(asked));
    header[..2] == sent[..2] && is_response && (same || is_refusal && header[4..6] == [0, 0])
}

/// True of SERVFAIL, NOTIMP and REFUSED, which say nothing of the name.
fn is_helpless(answer: &[u8]) -> bool {
    answer.get(3).is_some_and(|flags| matches!(flags & 0xf, 2 | 4 | 5))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A resolver that answers with this code.
    fn answering(code: u8) -> SocketAddr {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        std::thread::spawn(move || {
            let mut packet = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut packet) {
                (packet[2], packet[3]) = (packet[2] | 0x80, packet[3] & 0xf0 | code);
                socket.send_to(&packet[..length], from).unwrap();
            }
        });
        address
    }

    #[tokio::test]
    async fn who_cannot_tell_is_not_the_last_that_is_asked() {
        let own = "127.0.0.1:1".parse().unwrap();
        let told = async |codes: &[u8]| {
            let upstreams = Upstreams::new(own, Some(codes.iter().map(|code| answering(*code)).collect()));
            let query = upstreams.resolvers.load()[0].probe().unwrap();
            upstreams.ask(&query, query.len(), Carrier::Udp).await.unwrap()[3] & 0xf
        };
        for code in [2, 4, 5] {
            assert_eq!(told(&[code, 0]).await, 0, "{code}");
            assert_eq!(told(&[code, 3, 0]).await, 3, "that there is no such name is an answer");
            assert_eq!(told(&[code, 2]).await, code, "the first, if no other can tell");
        }
    }

    #[test]
    fn resolv_conf_is_read_as_others_read_it() {
        let text = "# nameserver 9.9.9.9\nsearch shop\nnameserver 10.0.0.2\nnameserver\t::1 # here\nnameserver fe80::1%lo\nnameserver fe80::2%7\nnameserver fe80::3%nosuch0\noptions ndots:5\n";
        // Of `lo` the number is known: the first interface of every machine.
        let wanted = ["10.0.0.2:53", "[::1]:53", "[fe80::1%1]:53", "[fe80::2%7]:53"];
        assert_eq!(parse(text), wanted.map(|address| address.parse().unwrap()));
        assert_eq!(parse(""), []);
    }

    #[test]
    fn no_more_than_the_beginning_of_the_file_is_read_whatever_letters_are_in_it() {
        let beginning = "#  \u{e9}\nnameserver 10.0.0.2\n";
        let letters = usize::try_from(FILE_BYTES).unwrap() / 2 - beginning.len() / 2;
        let mut text = format!("{beginning}#{}\nnameserver 10.0.0.3\n", "\u{e9}".repeat(letters)).into_bytes();
        assert_eq!(text[usize::try_from(FILE_BYTES).unwrap()] & 0xc0, 0x80, "it ends within a letter");
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &text).unwrap();
        assert_eq!(named(file.path()), ["10.0.0.2:53".parse().unwrap()]);
        text[3] = 0xff;
        std::fs::write(file.path(), &text).unwrap();
        assert_eq!(named(file.path()), ["10.0.0.2:53".parse().unwrap()], "not UTF-8");
        assert_eq!(named(Path::new("/nowhere/resolv.conf")), []);
    }

    #[test]
    fn this_node_is_none_of_its_resolvers() {
        let own: SocketAddr = "127.0.0.1:15053".parse().unwrap();
        let other: SocketAddr = "127.0.0.53:53".parse().unwrap();
        let upstreams = Upstreams::new(own, Some(vec![own, other]));
        assert_eq!(upstreams.resolvers.load().iter().map(|one| one.address).collect::<Vec<_>>(), [other]);
        assert_eq!(upstreams.troubles(), []);
        assert_eq!(Upstreams::new(own, Some(vec![own])).troubles()[0].code, "dns_no_resolver");
    }

    #[test]
    fn a_probe_that_comes_back_tells_of_a_circle() {
        let upstreams = Upstreams::new("127.0.0.1:1".parse().unwrap(), Some(vec!["127.0.0.1:2".parse().unwrap()]));
        let probe = upstreams.resolvers.load()[0].probe().unwrap();
        let mut other = probe.clone();
        other[13] = b'x';
        assert!(!upstreams.is_own_probe(&other) && !upstreams.is_own_probe(&probe[..14]));
        assert_eq!(upstreams.troubles(), []);
        assert!(upstreams.is_own_probe(&probe));
        assert_eq!(upstreams.troubles()[0].code, "dns_loop");
    }

    #[tokio::test]
    async fn a_circle_ends_when_a_probe_is_answered_that_did_not_come_back() {
        let resolver = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let addresses = vec![resolver.local_addr().unwrap()];
        let upstreams = Upstreams::new("127.0.0.1:1".parse().unwrap(), Some(addresses));
        std::thread::spawn(move || {
            let mut packet = [0; 512];
            while let Ok((length, from)) = resolver.recv_from(&mut packet) {
                packet[2] |= 0x80;
                resolver.send_to(&packet[..length], from).unwrap();
            }
        });
        let resolver = Arc::clone(&upstreams.resolvers.load()[0]);
        let probe = resolver.probe().unwrap();
        assert_ne!(probe, resolver.probe().unwrap(), "what it was told it may keep");
        assert!(upstreams.is_own_probe(&probe));
        assert_eq!(upstreams.troubles()[0].code, "dns_loop");
        resolver.look_for_circle().await;
        assert_eq!(upstreams.troubles(), []);
    }

    #[tokio::test]
    async fn a_resolver_that_does_not_answer_is_not_waited_for_by_every_query() {
        let [silent, answering] = [(); 2].map(|()| std::net::UdpSocket::bind("127.0.0.1:0").unwrap());
        let addresses = [&silent, &answering].map(|socket| socket.local_addr().unwrap()).to_vec();
        let upstreams = Upstreams::new("127.0.0.1:1".parse().unwrap(), Some(addresses));
        std::thread::spawn(move || {
            let mut packet = [0; 512];
            while let Ok((length, from)) = answering.recv_from(&mut packet) {
                packet[2] |= 0x80;
                answering.send_to(&packet[..length], from).unwrap();
            }
        });
        let query = upstreams.resolvers.load()[0].probe().unwrap();
        let ask = async || {
            let began = clock::uptime();
            assert!(upstreams.ask(&query, query.len(), Carrier::Udp).await.is_some());
            clock::uptime() - began
        };
        let patience = u64::try_from(PATIENCE.as_millis()).unwrap();
        assert!(ask().await >= patience, "the first finds it out");
        assert!(ask().await < patience, "the next asks the other one");
        upstreams.resolvers.load()[0].silent_until.store(0, Relaxed);
        assert!(ask().await >= patience, "after a while it is tried again");
    }

    #[test]
    fn only_the_answer_to_the_question_is_one() {
        let upstreams = Upstreams::new("127.0.0.1:1".parse().unwrap(), Some(vec!["127.0.0.1:2".parse().unwrap()]));
        let sent = upstreams.resolvers.load()[0].probe().unwrap();
        let mut answer = sent.clone();
        assert!(!is_answer(&answer, &sent, sent.len()), "a query is no answer");
        answer[2] |= 0x80;
        assert!(is_answer(&answer, &sent, sent.len()));
        let mut other = answer.clone();
        other[14] ^= 1;
        assert!(!is_answer(&other, &sent, sent.len()), "another question");
        answer[0] ^= 1;
        assert!(!is_answer(&answer, &sent, sent.len()), "another id");
        let refusal = [sent[0], sent[1], 0x80, 5, 0, 0, 0, 0, 0, 0, 0, 0];
        assert!(is_answer(&refusal, &sent, sent.len()));
        assert!(!is_answer(&refusal[..11], &sent, sent.len()));
    }
}

//! Taps: requests as they end, for an operator who looks. Nothing is gathered while nobody looks; a tap tells so many a second at most,
//! no bodies, and nothing of what headers or queries hold as secrets.

mod wanted;

use super::{Entry, Pair, Redaction, Summary, redact};
use crate::clock;
use crate::lock::lock;
use arc_swap::ArcSwap;
use certs::id::SpiffeId;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::sync::mpsc;

/// Taps of a node at most.
const TAPS: usize = 8;
/// Requests that wait for one who looks; further ones are left out.
const WAITING: usize = 256;
/// Requests a second that one tap tells at most.
pub const MAX_RATE: u32 = 1_000;
/// Headers that are told of one request, and bytes of one value.
const HEADERS: usize = 64;
const VALUE: usize = 512;

/// The taps of a node. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Taps(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Who wants requests gathered: the taps, and whoever else is counted in.
    busy: Arc<AtomicUsize>,
    taps: ArcSwap<Vec<Arc<Tap>>>,
    /// What they do not tell.
    redaction: ArcSwap<Redaction>,
    /// Taken while taps come and go.
    changing: Mutex<()>,
}

/// Which requests one wants to see.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
pub struct Wanted {
    /// `NAMESPACE/NAME` of a service that sends or gets it.
    pub service: Option<String>,
    /// `503`, or `5xx`.
    pub status: Option<String>,
    /// Milliseconds that it took at least.
    pub slower_ms: Option<u64>,
    /// How its path begins.
    pub path: Option<String>,
    /// Requests a second at most.
    pub rate: Option<u32>,
    /// Also how many were left out, where no request follows that tells it.
    #[serde(default)]
    pub losses: bool,
}

/// Namespaces whose requests one may see; `None` is all.
pub type Namespaces = Option<BTreeSet<String>>;

#[derive(Debug)]
struct Tap {
    wanted: Wanted,
    namespaces: ArcSwap<Namespaces>,
    rate: u32,
    sender: mpsc::Sender<Tapped>,
    /// The second of uptime that is counted, and how many were told in it.
    second: AtomicU64,
    told: AtomicU64,
    left_out: AtomicU64,
}

/// A request that is over, as one side saw it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tapped {
    /// When it was over, RFC 3339 with milliseconds.
    pub observed_at: String,
    /// Whose proxy speaks.
    pub node: String,
    /// `client` or `server`.
    pub side: String,
    /// The caller's workload.
    pub source: String,
    /// The service account by which it calls, `NAMESPACE/NAME`; absent of clients outside the mesh.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub account: Option<String>,
    /// The called one's; the service where none is known.
    pub destination: String,
    /// What was asked.
    pub method: String,
    /// The authority, as sent.
    pub authority: String,
    /// The path; values of a query that may be secrets are redacted.
    pub path: String,
    /// The status; 0 where the caller went away before one.
    pub status: u16,
    /// `grpc-status`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub grpc_status: Option<u8>,
    /// Envoy's response flags.
    pub flags: String,
    /// From its head to the end of its response.
    pub duration_ms: f64,
    /// Bytes of the request's body.
    pub received: u64,
    /// Bytes of the response's body.
    pub sent: u64,
    /// Envoy's name of where it went.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cluster: Option<String>,
    /// The endpoint or application.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub upstream: Option<String>,
    /// Headers of the request; secrets are redacted.
    pub headers: BTreeMap<String, String>,
    /// The command that says why it went there.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub explain: Option<String>,
    /// Requests that this tap left out before this one, for want of room or by its rate.
    pub left_out: u64,
}

/// How many requests a tap left out, where no request follows that tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Losses {
    /// When that was so, RFC 3339 with milliseconds.
    pub observed_at: String,
    /// Whose tap.
    pub node: String,
    /// Since it was opened.
    pub left_out: u64,
    /// Namespaces that send or get what the tap tells; absent where it tells of all.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub namespaces: Namespaces,
}

/// An open tap; it ends when dropped.
#[derive(Debug)]
pub struct Tapping {
    taps: Taps,
    tap: Arc<Tap>,
    requests: mpsc::Receiver<Tapped>,
}

impl Wanted {
    /// Says what of it cannot be.
    ///
    /// # Errors
    /// For people.
    pub fn check(&self) -> Result<(), String> {
        if let Some(status) = &self.status
            && statuses(status).is_none()
        {
            return Err(format!("`{status}` is no status: write it like 503 or 5xx"));
        }
        match self.rate {
            Some(rate) if rate == 0 || rate > MAX_RATE => Err(format!("a tap tells 1 to {MAX_RATE} requests a second")),
            Some(_) | None => Ok(()),
        }
    }
}

/// The statuses that are meant by one, or by a class.
pub(crate) fn statuses(text: &str) -> Option<(u16, u16)> {
    if let Some(class) = text.strip_suffix("xx") {
        let class = class.parse::<u16>().ok().filter(|class| (1..=5).contains(class))?;
        return Some((class * 100, class * 100 + 99));
    }
    text.parse::<u16>().ok().filter(|code| *code < 600).map(|code| (code, code))
}

impl Taps {
    /// None; `busy` is raised for each that opens.
    pub(super) fn new(busy: Arc<AtomicUsize>) -> Self {
        Self(Arc::new(Shared {
            busy,
            taps: ArcSwap::default(),
            redaction: ArcSwap::default(),
            changing: Mutex::default(),
        }))
    }

    /// Opens one, which tells of these namespaces.
    ///
    /// # Errors
    /// What it wants cannot be, or too many are open; for people.
    pub fn open(&self, wanted: Wanted, namespaces: Namespaces) -> Result<Tapping, String> {
        wanted.check()?;
        let (sender, requests) = mpsc::channel(WAITING);
        let rate = wanted.rate.unwrap_or(100);
        let counters = [(); 3].map(|()| AtomicU64::new(0));
        let [second, told, left_out] = counters;
        let namespaces = ArcSwap::from_pointee(namespaces);
        let tap = Arc::new(Tap { wanted, namespaces, rate, sender, second, told, left_out });
        let _changing = lock(&self.0.changing);
        let mut taps = Vec::clone(&self.0.taps.load());
        if taps.len() >= TAPS {
            return Err(format!("{TAPS} taps are open at this node: end one of them"));
        }
        taps.push(Arc::clone(&tap));
        self.0.taps.store(Arc::new(taps));
        self.0.busy.fetch_add(1, Relaxed);
        Ok(Tapping { taps: self.clone(), tap, requests })
    }

    /// Says which names hold secrets from now on.
    pub fn redact(&self, redaction: Redaction) {
        self.0.redaction.store(Arc::new(redaction));
    }

    /// True if somebody looks.
    #[must_use]
    pub fn is_open(&self) -> bool {
        !self.0.taps.load().is_empty()
    }

    /// Tells of a request that is over. Never waits.
    pub(super) fn show(&self, node: &str, entry: &Entry, summary: &Summary, duration: Duration, pair: Option<&Pair>) {
        for tap in self.0.taps.load().iter() {
            let redaction = self.0.redaction.load();
            if !tap.may_tell(pair) || !tap.wanted.takes(&redaction, entry, summary, duration, pair) {
                continue;
            }
            if !tap.has_room() {
                tap.left_out.fetch_add(1, Relaxed);
                continue;
            }
            let mut tapped = Tapped::of((node, &redaction), entry, summary, duration, pair);
            tapped.left_out = tap.left_out.load(Relaxed);
            if tap.sender.try_send(tapped).is_err() {
                tap.left_out.fetch_add(1, Relaxed);
            }
        }
    }
}

impl Tap {
    /// Whether one of both ends is in its namespaces.
    fn may_tell(&self, pair: Option<&Pair>) -> bool {
        let namespaces = self.namespaces.load();
        let Some(namespaces) = &**namespaces else { return true };
        let of = |pair: &Pair| {
            [&pair.source.namespace, &pair.destination.namespace, &pair.service_namespace].map(Arc::clone)
        };
        pair.is_some_and(|pair| of(pair).iter().any(|namespace| namespaces.contains(&**namespace)))
    }

    /// Takes a place within this second; workers that meet at its beginning may tell a few more.
    fn has_room(&self) -> bool {
        let now = clock::uptime() / 1_000;
        if self.second.swap(now, Relaxed) != now {
            self.told.store(0, Relaxed);
        }
        self.told.fetch_add(1, Relaxed) < u64::from(self.rate)
    }
}

impl Tapping {
    /// The next request.
    pub async fn next(&mut self) -> Option<Tapped> {
        self.requests.recv().await
    }

    /// Of which namespaces it tells.
    #[must_use]
    pub fn namespaces(&self) -> Namespaces {
        Namespaces::clone(&self.tap.namespaces.load())
    }

    /// It tells of these from now on.
    pub fn limit(&self, namespaces: Namespaces) {
        self.tap.namespaces.store(Arc::new(namespaces));
    }

    /// How many were left out so far; none waits to be taken after which they were.
    #[must_use]
    pub fn left_out(&self) -> Option<u64> {
        self.requests.is_empty().then(|| self.tap.left_out.load(Relaxed))
    }

    /// Whether losses are wanted by themselves.
    #[must_use]
    pub fn tells_losses(&self) -> bool {
        self.tap.wanted.losses
    }
}

impl Drop for Tapping {
    fn drop(&mut self) {
        let shared = &self.taps.0;
        let _changing = lock(&shared.changing);
        let taps: Vec<Arc<Tap>> =
            shared.taps.load().iter().filter(|tap| !Arc::ptr_eq(tap, &self.tap)).cloned().collect();
        shared.taps.store(Arc::new(taps));
        shared.busy.fetch_sub(1, Relaxed);
    }
}

impl Tapped {
    fn of(
        (node, redaction): (&str, &Redaction),
        entry: &Entry,
        summary: &Summary,
        duration: Duration,
        pair: Option<&Pair>,
    ) -> Self {
        let method = entry.method.as_ref().map(ToString::to_string).unwrap_or_default();
        let is_client = entry.side == super::LogSide::Client;
        let path = redaction.text(&entry.path);
        let name = |workload: &super::Workload| format!("{}/{}", workload.namespace, workload.workload);
        let destination = pair.map_or_else(String::new, |pair| match &*pair.destination.workload {
            "unknown" => pair.service.to_string(),
            _ => name(&pair.destination),
        });
        let headers = entry.request.iter().take(HEADERS).map(|(name, value)| {
            let shown = redaction.header(name.as_str(), &String::from_utf8_lossy(value.as_bytes()));
            (name.as_str().to_owned(), cut(&shown))
        });
        // What a command line would read in another way is not offered as one.
        let is_plain =
            |text: &str| text.chars().all(|letter| letter.is_ascii_alphanumeric() || "-._~:/".contains(letter));
        let plain_path = path.split('?').next().unwrap_or_default();
        let account = pair.and_then(|pair| pair.source.principal.parse::<SpiffeId>().ok()?.account().cloned());
        let account = account.map(|account| account.to_string());
        let from = account.as_ref().map(|account| format!("--from {account} ")).unwrap_or_default();
        let explain = (is_client && is_plain(&entry.authority) && is_plain(plain_path) && is_plain(&method))
            .then(|| format!("skein explain {from}-X {method} http://{}{plain_path} --node {node}", entry.authority));
        Self {
            observed_at: jiff::Timestamp::from_microsecond(i64::try_from(clock::wall_micros()).unwrap_or(0))
                .map_or_else(|_| String::new(), |time| format!("{time:.3}")),
            node: node.to_owned(),
            side: if is_client { "client" } else { "server" }.to_owned(),
            source: pair.map(|pair| name(&pair.source)).unwrap_or_default(),
            account,
            destination,
            method,
            authority: cut(&redact::authority(&entry.authority)),
            path: cut(&path),
            status: summary.code,
            grpc_status: summary.grpc_status,
            flags: summary.flags.to_string(),
            duration_ms: (duration.as_secs_f64() * 1_000_000.0).round() / 1_000.0,
            received: entry.received,
            sent: entry.sent,
            cluster: entry.cluster.clone(),
            upstream: entry.upstream.map(|upstream| upstream.to_string()),
            headers: headers.collect(),
            explain,
            left_out: 0,
        }
    }
}

fn cut(text: &str) -> String {
    text[..text.floor_char_boundary(VALUE)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::otlp::testing::finished;
    use http::HeaderName;

    fn shown(wanted: Wanted) -> Option<Tapped> {
        let told = finished();
        let taps = Taps::new(Arc::default());
        let mut tapping = taps.open(wanted, None).unwrap();
        taps.show("web-1", &told.observed.entry, &told.summary, told.duration, told.pair.as_deref());
        tapping.requests.try_recv().ok()
    }

    #[test]
    fn a_request_is_shown_to_whom_it_fits() {
        let wanted = Wanted::default;
        let tapped = shown(wanted()).unwrap();
        assert_eq!((tapped.status, tapped.method.as_str(), tapped.side.as_str()), (200, "GET", "server"));
        assert_eq!((tapped.destination.as_str(), tapped.duration_ms), ("default/reviews", 7.0));
        for (fits, asked) in [
            (true, Wanted { service: Some("default/reviews".into()), ..wanted() }),
            (false, Wanted { service: Some("other/reviews".into()), ..wanted() }),
            (true, Wanted { status: Some("2xx".into()), ..wanted() }),
            (false, Wanted { status: Some("503".into()), ..wanted() }),
            (true, Wanted { slower_ms: Some(7), ..wanted() }),
            (false, Wanted { slower_ms: Some(8), ..wanted() }),
            (true, Wanted { path: Some("/a".into()), ..wanted() }),
            (false, Wanted { path: Some("/b".into()), ..wanted() }),
        ] {
            assert_eq!(shown(asked.clone()).is_some(), fits, "{asked:?}");
        }
        let taps = Taps::new(Arc::default());
        assert!(taps.open(Wanted { status: Some("6xx".into()), ..wanted() }, None).is_err());
        assert!(taps.open(Wanted { rate: Some(0), ..wanted() }, None).is_err());
    }

    #[test]
    fn who_may_see_some_namespaces_sees_what_they_send_or_get() {
        let told = finished();
        let sees = |namespaces: &[&str], pair: Option<&Pair>| {
            let taps = Taps::new(Arc::default());
            let tapping = taps.open(Wanted::default(), None).unwrap();
            tapping.limit(Some(namespaces.iter().map(|name| (*name).to_owned()).collect()));
            taps.show("web-1", &told.observed.entry, &told.summary, told.duration, pair);
            !tapping.requests.is_empty()
        };
        let pair = told.pair.as_deref().unwrap();
        let source = &*pair.source.namespace;
        assert_ne!(source, "default");
        for (namespaces, is_seen) in [
            (&["default"][..], true),
            (&[source], true),
            (&["bank"], false),
            (&["bank", "default"], true),
            (&[], false),
        ] {
            assert_eq!(sees(namespaces, Some(pair)), is_seen, "{namespaces:?}");
        }
        assert!(!sees(&["default"], None), "nobody knows whose it is");
    }

    #[test]
    fn secrets_stay_here() {
        let mut told = finished();
        let known = Redaction::of(["x-badge".to_owned()]);
        let of = |entry: &Entry| Tapped::of(("web-1", &known), entry, &told.summary, told.duration, None);
        let entry = &mut told.observed.entry;
        entry.path = "/a?b=c&access_token=t0p&code=t0p&flag".into();
        for name in ["authorization", "cookie", "x-api-key", "x-session-id", "x-forwarded-client-cert", "x-badge"] {
            entry.request.insert(HeaderName::from_static(name), "t0p".parse().unwrap());
        }
        for (name, value) in [("x-envoy-original-path", "/a?token=t0p"), ("referer", "http://a/?access_token=t0p")] {
            entry.request.insert(HeaderName::from_static(name), value.parse().unwrap());
        }
        let tapped = of(entry);
        let text = serde_json::to_string(&tapped).unwrap();
        assert!(!text.contains("t0p") && text.contains("b=c") && text.contains("flag"), "{text}");
        assert_eq!(tapped.headers["user-agent"], "curl");
        entry.side = crate::telemetry::LogSide::Client;
        entry.authority = "reviews;rm".into();
        assert_eq!(of(entry).explain, None);
        entry.authority = "reviews:9080".into();
        let explain = of(entry).explain;
        assert_eq!(explain.as_deref(), Some("skein explain -X GET http://reviews:9080/a --node web-1"));
    }

    #[test]
    fn nobody_finds_out_by_asking_what_is_kept_back() {
        let taps = Taps::new(Arc::default());
        let mut told = finished();
        told.observed.entry.path = "/pay?api_key=s3cret&page=2".into();
        let sees = |path: &str| {
            let wanted = Wanted { path: Some(path.to_owned()), ..Wanted::default() };
            let mut tapping = taps.open(wanted, None).unwrap();
            taps.show("web-1", &told.observed.entry, &told.summary, told.duration, None);
            tapping.requests.try_recv().is_ok()
        };
        assert!(sees("/pay") && sees("/pay?api_key="));
        assert!(!sees("/pay?api_key=s") && !sees("/pay?api_key=s3cret"));
    }

    #[test]
    fn what_a_tap_tells_has_limits() {
        let busy = Arc::<AtomicUsize>::default();
        let taps = Taps::new(Arc::clone(&busy));
        assert!(!taps.is_open());
        let open: Vec<Tapping> = (0..TAPS).map(|_| taps.open(Wanted::default(), None).unwrap()).collect();
        assert!(taps.open(Wanted::default(), None).is_err());
        assert_eq!((taps.is_open(), busy.load(Relaxed)), (true, TAPS));
        drop(open);
        assert_eq!((taps.is_open(), busy.load(Relaxed)), (false, 0));
        let mut tapping = taps.open(Wanted { rate: Some(MAX_RATE), ..Wanted::default() }, None).unwrap();
        let told = finished();
        for _ in 0..WAITING + 3 {
            taps.show("web-1", &told.observed.entry, &told.summary, told.duration, None);
        }
        assert!(tapping.tap.left_out.load(Relaxed) >= 3);
        let mut seen = 0;
        while tapping.requests.try_recv().is_ok() {
            seen += 1;
        }
        assert!(seen <= WAITING && seen > 0);
    }
}

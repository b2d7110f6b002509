//! Clients on connections of their own: at a steady rate, with latencies from when a request was due, or each as fast as
//! it is answered. [`crate::load`] is the small one, for scenarios.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use crate::{application::NUMBER, http::Connection, now};

/// What they send, and how.
#[derive(Debug, Clone)]
pub struct Ask {
    /// The proxy port.
    pub via: SocketAddr,
    /// GET or POST; a POST has a small body.
    pub method: &'static str,
    /// The service.
    pub host: String,
    /// How many clients.
    pub clients: u64,
    /// Requests a second of all together; none is as fast as they are answered.
    pub rate: Option<u64>,
    /// When so many have been sent the clients end.
    pub most: u64,
    /// Each request bears its number, from 0, for a ledger that counts what arrives.
    pub numbered: bool,
    /// The longest that they run.
    pub longest: Duration,
}

/// What came of it.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// Requests sent, or tried to be.
    pub requests: u64,
    /// Answers other than 200, or none.
    pub failed: u64,
    /// Of a node that is away ([`Clients::away`]): no answer at all. Not among the failed.
    pub away: u64,
    /// How long each answer took, in microseconds, from when it was due; sorted. Of a rate only.
    pub micros: Vec<u32>,
    /// When requests began that took longer than [`SLOW`] or failed, and when they were over, since the start.
    pub slow: Vec<(Duration, Duration)>,
    /// The first few failures in words, with when.
    pub failures: Vec<String>,
    /// From the start to the last answer.
    pub took: Duration,
}

/// Longer than any answer of an application without service time should take.
pub const SLOW: Duration = Duration::from_millis(250);

const BODY: &[u8] = b"one small order";
/// A client that is refused asks again after this long, as a person would rather than a loop.
const REFUSED: Duration = Duration::from_millis(5);
const STACK: usize = 128 * 1024;
const WORDS: usize = 10;

/// Running clients.
#[derive(Debug)]
pub struct Clients {
    started: Instant,
    stop: Arc<AtomicBool>,
    away: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Outcome>>,
}

impl Clients {
    /// Starts them.
    ///
    /// # Panics
    /// When there are no threads left.
    pub fn start(ask: &Ask) -> Self {
        let (stop, away, sent) =
            (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let started = now();
        let threads = (0..ask.clients)
            .map(|_| {
                let one = One {
                    ask: ask.clone(),
                    started,
                    stop: Arc::clone(&stop),
                    away: Arc::clone(&away),
                    sent: Arc::clone(&sent),
                };
                std::thread::Builder::new().stack_size(STACK).spawn(move || one.run()).expect("a thread")
            })
            .collect();
        Self { started, stop, away, sent, threads }
    }

    /// While true, their own node is being restarted: that it does not answer is counted apart.
    pub fn away(&self, away: bool) {
        self.away.store(away, Relaxed);
    }

    /// Since when they run.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Requests sent so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Relaxed)
    }

    /// True if each has ended by itself.
    pub fn finished(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    /// Ends them and counts.
    ///
    /// # Panics
    /// When a client panicked.
    pub fn stop(mut self) -> Outcome {
        self.stop.store(true, Relaxed);
        let mut all = Outcome::default();
        for thread in self.threads.drain(..) {
            let one = thread.join().expect("a client does not panic");
            all.requests += one.requests;
            all.failed += one.failed;
            all.away += one.away;
            all.micros.extend(one.micros);
            all.slow.extend(one.slow);
            all.failures.extend(one.failures);
            all.took = all.took.max(one.took);
        }
        all.micros.sort_unstable();
        all.slow.sort_unstable();
        all.failures.truncate(WORDS);
        all
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
    }
}

impl Outcome {
    /// The time within which this share of the answers came, in milliseconds.
    pub fn percentile(&self, share: f64) -> f64 {
        let last = self.micros.len().saturating_sub(1);
        let at = ((self.micros.len() as f64 * share) as usize).min(last);
        self.micros.get(at).map_or(f64::NAN, |micros| f64::from(*micros) / 1000.0)
    }
}

struct One {
    ask: Ask,
    started: Instant,
    stop: Arc<AtomicBool>,
    away: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
}

impl One {
    fn run(self) -> Outcome {
        let mut outcome = Outcome::default();
        let mut connection = None;
        while !self.stop.load(Relaxed) && self.started.elapsed() < self.ask.longest {
            let number = self.sent.fetch_add(1, Relaxed);
            if number >= self.ask.most {
                self.sent.fetch_sub(1, Relaxed);
                break;
            }
            let due = self.ask.rate.map(|rate| Duration::from_nanos(1_000_000_000 * number / rate));
            if let Some(early) = due.and_then(|due| due.checked_sub(self.started.elapsed())) {
                std::thread::sleep(early);
            }
            let began = due.unwrap_or_else(|| self.started.elapsed());
            let answered = self.once(&mut connection, number);
            outcome.took = self.started.elapsed();
            self.count(&mut outcome, began, answered);
        }
        outcome
    }

    fn once(&self, connection: &mut Option<Connection>, number: u64) -> Result<(), Unanswered> {
        let Ask { method, host, via, numbered, .. } = &self.ask;
        let lost = |error: String| Unanswered::Lost(error);
        let mut open = match connection.take() {
            Some(open) => open,
            None => Connection::open(*via).map_err(|error| lost(format!("connect: {error}")))?,
        };
        let (number, body) = (number.to_string(), if *method == "POST" { BODY } else { b"" });
        let headers = [(NUMBER, number.as_str())];
        let headers = if *numbered { &headers[..] } else { &[] };
        let answer = open.request(method, host, "/", headers, body).map_err(lost)?;
        if answer.header("connection") != Some("close") {
            *connection = Some(open);
        }
        if answer.status == 200 {
            Ok(())
        } else {
            Err(Unanswered::Refused(format!("{} {}", answer.status, answer.text())))
        }
    }

    fn count(&self, outcome: &mut Outcome, began: Duration, answered: Result<(), Unanswered>) {
        let took = outcome.took.saturating_sub(began);
        outcome.requests += 1;
        let failed = match answered {
            Ok(()) => None,
            Err(Unanswered::Lost(_)) if self.away.load(Relaxed) => {
                outcome.away += 1;
                std::thread::sleep(REFUSED);
                return;
            }
            Err(Unanswered::Lost(words) | Unanswered::Refused(words)) => Some(words),
        };
        if self.ask.rate.is_some() && failed.is_none() {
            outcome.micros.push(u32::try_from(took.as_micros()).unwrap_or(u32::MAX));
        }
        if failed.is_some() || took > SLOW {
            outcome.slow.push((began, outcome.took));
        }
        if let Some(words) = failed {
            outcome.failed += 1;
            if outcome.failures.len() < WORDS {
                outcome.failures.push(format!("{} ms: {words}", outcome.took.as_millis()));
            }
        }
    }
}

enum Unanswered {
    /// No whole answer came.
    Lost(String),
    /// An answer that is none.
    Refused(String),
}

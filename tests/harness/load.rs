//! A bounded load at a steady rate, counted by the client.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use crate::{http::Connection, now};

/// What came of it.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Requests sent.
    pub requests: u64,
    /// Answers other than 200, or none.
    pub failed: u64,
    /// Answers by body.
    pub by_body: BTreeMap<String, u64>,
    /// The first few failures in words.
    pub failures: Vec<String>,
}

/// A load that runs until it is stopped, or for a minute at most where nothing else is said.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    tally: Arc<Mutex<Tally>>,
    threads: Vec<JoinHandle<()>>,
}

const THREADS: u64 = 8;
const LONGEST: Duration = Duration::from_secs(60);

impl Load {
    /// GET `path` of `host` through `via`, `rate` times a second.
    pub fn start(via: SocketAddr, host: &str, path: &str, rate: u64) -> Self {
        Self::start_for(via, host, path, rate, LONGEST)
    }

    /// The same, for as long as this at most.
    pub fn start_for(via: SocketAddr, host: &str, path: &str, rate: u64, longest: Duration) -> Self {
        let (stop, tally, next) =
            (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Tally::default())), Arc::new(AtomicU64::new(0)));
        let started = now();
        let threads = (0..THREADS)
            .map(|_| {
                let (stop, tally, next) = (stop.clone(), tally.clone(), next.clone());
                let (host, path) = (host.to_owned(), path.to_owned());
                std::thread::spawn(move || {
                    let mut connection = None;
                    while !stop.load(Ordering::Relaxed) && started.elapsed() < longest {
                        let due = Duration::from_micros(1_000_000 * next.fetch_add(1, Ordering::Relaxed) / rate);
                        if let Some(early) = due.checked_sub(started.elapsed()) {
                            std::thread::sleep(early);
                        }
                        count(&tally, once(&mut connection, via, &host, &path));
                    }
                })
            })
            .collect();
        Self { stop, tally, threads }
    }

    /// So far.
    ///
    /// # Panics
    /// When a thread of the load panicked.
    pub fn tally(&self) -> Tally {
        self.tally.lock().expect("no panic holds it").clone()
    }

    /// Ends it and counts.
    ///
    /// # Panics
    /// When a thread of the load panicked.
    pub fn stop(mut self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("the load does not panic");
        }
        self.tally()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn once(connection: &mut Option<Connection>, via: SocketAddr, host: &str, path: &str) -> Result<String, String> {
    let mut open = match connection.take() {
        Some(open) => open,
        None => Connection::open(via).map_err(|error| error.to_string())?,
    };
    let answer = open.request("GET", host, path, &[], b"")?;
    if answer.header("connection") != Some("close") {
        *connection = Some(open);
    }
    if answer.status == 200 { Ok(answer.text()) } else { Err(format!("{} {}", answer.status, answer.text())) }
}

fn count(tally: &Mutex<Tally>, outcome: Result<String, String>) {
    let mut tally = tally.lock().expect("no panic holds it");
    tally.requests += 1;
    match outcome {
        Ok(body) => *tally.by_body.entry(body).or_default() += 1,
        Err(failure) => {
            tally.failed += 1;
            if tally.failures.len() < 10 {
                tally.failures.push(failure);
            }
        }
    }
}

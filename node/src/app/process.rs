//! The process itself: file descriptors, core dumps, signals.

use crate::telemetry::Environment;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Allows as many file descriptors as the system lets, and no core dump: it would hold keys.
pub(super) fn prepare() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        tracing::warn!(soft, hard, "file descriptors stay limited: {error}");
    }
    let dumps = setrlimit(Resource::RLIMIT_CORE, 0, 0).and_then(|()| nix::sys::prctl::set_dumpable(false));
    if let Err(error) = dumps {
        tracing::warn!("core dumps cannot be switched off: {error}");
    }
}

/// What OpenTelemetry's variables say. A node that cannot send spans serves all the same.
pub(super) fn environment() -> Environment {
    let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    for note in Environment::unheeded(std::env::vars_os().filter_map(text)) {
        tracing::warn!("{note}");
    }
    let read = Environment::read(|name| std::env::var(name).ok());
    read.unwrap_or_else(|error| {
        tracing::error!("no spans go to the node's own collector: {error}");
        Environment::default()
    })
}

/// The signals that the process answers.
pub(super) struct Signals {
    term: Signal,
    interrupt: Signal,
    hangup: Signal,
}

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    /// TERM or INT: end.
    Stop,
    /// HUP: read the configuration again.
    Reload,
}

impl Signals {
    /// Takes the signals over.
    pub(super) fn new() -> std::io::Result<Self> {
        let kind = SignalKind::terminate();
        Ok(Self {
            term: signal(kind)?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// The next wish.
    pub(super) async fn next(&mut self) -> Wish {
        tokio::select! {
            _ = self.term.recv() => Wish::Stop,
            _ = self.interrupt.recv() => Wish::Stop,
            _ = self.hangup.recv() => Wish::Reload,
        }
    }
}

//! Logs on standard error, as text or JSON; the panic hook that writes to them.

use std::{ffi::OsString, sync::OnceLock};

use tracing_subscriber::{EnvFilter, Registry, layer::SubscriberExt, reload, util::SubscriberInitExt};

use crate::config::{Log, LogFormat};

static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// Reads a `tracing` filter such as `info` or `info,node::mesh=debug`.
///
/// # Errors
/// Says which directive cannot be read.
pub fn filter(text: &str) -> Result<EnvFilter, String> {
    EnvFilter::builder().parse(text).map_err(|e| e.to_string())
}

/// Starts logging for this process; `RUST_LOG` wins over the configuration. A second call only changes the level.
pub fn start(log: &Log) {
    let (layer, handle) = reload::Layer::new(wanted(log));
    if FILTER.set(handle).is_err() {
        change(log);
        return;
    }
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(true);
    // A subscriber that someone else set (a test) stays; that is no reason not to run.
    let _ = match log.format {
        LogFormat::Text => tracing_subscriber::registry().with(layer).with(lines.with_ansi(false)).try_init(),
        LogFormat::Json => tracing_subscriber::registry().with(layer).with(lines.json().flatten_event(true)).try_init(),
    };
    catch_panics();
    if let Some(Err(error)) = chosen() {
        tracing::warn!("RUST_LOG is no log filter, so `{}` counts: {error}", log.filter);
    }
}

/// Applies a changed level; the form of lines stays until the next start.
pub fn change(log: &Log) {
    if let Some(handle) = FILTER.get() {
        let _ = handle.reload(wanted(log));
    }
}

fn wanted(log: &Log) -> EnvFilter {
    chosen().and_then(Result::ok).or_else(|| filter(&log.filter).ok()).unwrap_or_default()
}

/// What the environment asks for.
fn chosen() -> Option<Result<EnvFilter, String>> {
    read(std::env::var_os("RUST_LOG")?)
}

fn read(text: OsString) -> Option<Result<EnvFilter, String>> {
    match text.into_string() {
        Ok(text) if text.is_empty() => None,
        Ok(text) => Some(filter(&text)),
        Err(_) => Some(Err("it is not UTF-8".to_owned())),
    }
}

/// A panic is one log line with its place; whoever supervises the task decides what ends.
fn catch_panics() {
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        let payload = info.payload();
        let text = payload.downcast_ref::<&str>().copied();
        let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
        let thread = std::thread::current();
        tracing::error!(place, thread = thread.name().unwrap_or("unnamed"), "panic: {text}");
    }));
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt as _;

    use super::*;

    #[test]
    fn what_the_environment_says_is_read_or_complained_of() {
        assert!(read("".into()).is_none());
        assert!(read("info,node::mesh=debug".into()).is_some_and(|filter| filter.is_ok()));
        assert!(read("node=loud".into()).is_some_and(|filter| filter.is_err()));
        assert!(read(OsString::from_vec(vec![0xff])).is_some_and(|filter| filter.is_err()));
    }
}

//! Logs on standard error, as text or JSON; the panic hook that writes to them.

use std::{ffi::OsString, fmt, sync::OnceLock};

use tracing::Subscriber;
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    field::RecordFields,
    fmt::{
        FormatFields, MakeWriter,
        format::{DefaultFields, Writer},
    },
    layer::SubscriberExt,
    registry::LookupSpan,
    reload,
    util::SubscriberInitExt,
};

use crate::config::{Log, LogFormat};

static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// Fields of an event or span as text on one line: what somebody else said in them begins no line of its own, and moves no cursor.
#[derive(Default)]
struct OneLine(DefaultFields);

impl<'w> FormatFields<'w> for OneLine {
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut text = String::new();
        self.0.format_fields(Writer::new(&mut text), fields)?;
        text.chars().try_for_each(|letter| match letter.is_control() {
            true => write!(writer, "{}", letter.escape_default()),
            false => writer.write_char(letter),
        })
    }
}

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
    let json = || tracing_subscriber::fmt::layer().with_writer(std::io::stderr).json().flatten_event(true);
    // A subscriber that someone else set (a test) stays; that is no reason not to run.
    let _ = match log.format {
        LogFormat::Text => tracing_subscriber::registry().with(layer).with(text(std::io::stderr)).try_init(),
        LogFormat::Json => tracing_subscriber::registry().with(layer).with(json()).try_init(),
    };
    catch_panics();
    if let Some(Err(error)) = chosen() {
        tracing::warn!("RUST_LOG is no log filter, so `{}` counts: {error}", log.filter);
    }
}

fn text<S, W>(writer: W) -> impl Layer<S>
where
    S: Subscriber + for<'s> LookupSpan<'s>,
    W: for<'w> MakeWriter<'w> + 'static,
{
    tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(false).fmt_fields(OneLine::default())
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
    use std::{
        io,
        os::unix::ffi::OsStringExt as _,
        sync::{Arc, Mutex},
    };

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_event_is_one_line_whatever_is_in_it() {
        let kept = Kept::default();
        let writer = kept.clone();
        let subscriber = tracing_subscriber::registry().with(text(move || writer.clone()));
        tracing::subscriber::with_default(subscriber, || {
            let _span = tracing::error_span!("fetch", from = %"a\nb").entered();
            tracing::error!(source = %"c\r\nd", "cannot be fetched: {}", "http://x/\n2026-01-01 ERROR node: FORGED \x1b[2J");
        });
        let said = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.ends_with('\n') && said.matches(char::is_control).count() == 1, "{said:?}");
        for part in ["a\\nb", "c\\r\\nd", "x/\\n2026", "FORGED"] {
            assert!(said.contains(part), "{part}: {said}");
        }
    }

    #[test]
    fn what_the_environment_says_is_read_or_complained_of() {
        assert!(read("".into()).is_none());
        assert!(read("info,node::mesh=debug".into()).is_some_and(|filter| filter.is_ok()));
        assert!(read("node=loud".into()).is_some_and(|filter| filter.is_err()));
        assert!(read(OsString::from_vec(vec![0xff])).is_some_and(|filter| filter.is_err()));
    }
}

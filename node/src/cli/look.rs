//! What the commands that only look have in common: ask, print, and with `--watch` print again at every change.

use certs::codec::Millis;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    agent::admin::api::Port,
    cli::{
        client::{self, Client},
        context::Context,
        error::{Error, Result},
        output::{Format, Table, Tone},
    },
    clock,
};

/// Asks `path` for a value and prints it: as it came for programs, by `text` for people.
pub(super) async fn show<T>(ctx: &Context, path: &str, text: impl Fn(&T) -> String) -> Result<()>
where
    T: DeserializeOwned + Serialize,
{
    print(client::connect(ctx).await?, ctx, path, text).await
}

/// The same for a list of rows.
pub(super) async fn list<T>(ctx: &Context, path: &str, table: impl Fn(&[T]) -> Table) -> Result<()>
where
    T: DeserializeOwned + Serialize,
{
    show(ctx, path, |rows: &Vec<T>| ctx.output.render(&table(rows))).await
}

/// A list that only makes sense of one node: the one of this machine, if the flags name no other.
pub(super) async fn list_here<T>(ctx: &Context, path: &str, table: impl Fn(&[T]) -> Table) -> Result<()>
where
    T: DeserializeOwned + Serialize,
{
    let client = client::connect_here(ctx).await?;
    print(client, ctx, path, |rows: &Vec<T>| ctx.output.render(&table(rows))).await
}

async fn print<T>(mut client: Client, ctx: &Context, path: &str, text: impl Fn(&T) -> String) -> Result<()>
where
    T: DeserializeOwned + Serialize,
{
    if !ctx.globals.watch {
        let value: Value = client.get(path).await?;
        return whole(ctx, &value, text);
    }
    let separator = if path.contains('?') { '&' } else { '?' };
    let watched = format!("{path}{separator}watch=true");
    client.watch(&watched, |line| picture(ctx, line, &text)).await
}

/// Prints an answer: as it came for programs, by `text` for people.
pub(super) fn whole<T>(ctx: &Context, value: &Value, text: impl Fn(&T) -> String) -> Result<()>
where
    T: DeserializeOwned + Serialize,
{
    ctx.output.show(value, || read(value).map_or_else(|error| error.to_string(), |value| text(&value)))
}

/// Prints one line of a watch. A list comes as an object with `observed_at` and the list under its own name.
fn picture<T: DeserializeOwned>(ctx: &Context, line: &[u8], text: &impl Fn(&T) -> String) -> Result<()> {
    let observed: Value = serde_json::from_slice(line).map_err(|error| strange(&error))?;
    match ctx.output.format {
        Format::Json => ctx.output.json_line(&observed),
        Format::Yaml => ctx.output.text(&format!("---\n{}", crate::cli::output::yaml(&observed)?)),
        Format::Table => {
            let fields = observed.as_object().filter(|fields| fields.len() == 2);
            let list = fields.and_then(|fields| fields.values().find(|value| value.is_array()));
            let value = read(list.unwrap_or(&observed))?;
            ctx.output.next_picture()?;
            ctx.output.lines(&text(&value))
        }
    }
}

fn read<T: DeserializeOwned>(value: &Value) -> Result<T> {
    T::deserialize(value).map_err(|error| strange(&error))
}

fn strange(error: &serde_json::Error) -> Error {
    Error::new("failed", format!("the node answers what this version does not understand: {error}"))
        .hint("use the version of skein that the node runs, or -o json")
}

/// A time of the past as people say it: `5s`, `3m`, `2h`, `9d`; as it came if it is no time.
pub(crate) fn ago(time: &str) -> String {
    let Ok(then) = time.parse::<jiff::Timestamp>() else { return time.to_owned() };
    let now = i64::try_from(clock::wall()).unwrap_or(i64::MAX);
    span(u64::try_from(now - then.as_millisecond()).unwrap_or(0))
}

/// A time as tables show it: to the second, `2026-01-02 03:04:05Z`; as it came if it is no time.
pub(crate) fn when(time: &str) -> String {
    let Ok(at) = time.parse::<jiff::Timestamp>() else { return time.to_owned() };
    at.strftime("%Y-%m-%d %H:%M:%SZ").to_string()
}

/// A length of time in its greatest unit.
pub(crate) fn span(length: Millis) -> String {
    match length / 1000 {
        seconds @ 0..120 => format!("{seconds}s"),
        seconds @ 120..7_200 => format!("{}m", seconds / 60),
        seconds @ 7_200..172_800 => format!("{}h", seconds / 3_600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

/// How a state looks.
pub(super) fn tone(state: &str) -> Tone {
    match state {
        "alive" | "healthy" | "ok" => Tone::Good,
        "suspect" | "left" | "degraded" | "spared" => Tone::Doubt,
        "dead" | "evicted" | "quarantined" | "unhealthy" | "ejected" | "critical" => Tone::Bad,
        _ => Tone::Plain,
    }
}

/// Ports and what they speak, where that is declared: `80/http,9000`.
pub(super) fn ports(ports: &[Port]) -> String {
    let one = |port: &Port| match port.protocol.as_str() {
        "" => port.port.to_string(),
        protocol => format!("{}/{protocol}", port.port),
    };
    ports.iter().map(one).collect::<Vec<_>>().join(",")
}

/// A cell without a tone.
pub(super) fn cell(text: impl Into<String>) -> (String, Tone) {
    (text.into(), Tone::Plain)
}

/// A word of state, in its colour.
pub(super) fn state(word: &str) -> (String, Tone) {
    (word.to_owned(), tone(word))
}

/// The first characters of an id, enough to tell ids apart.
pub(crate) fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_one_unit() {
        assert_eq!(span(999), "0s");
        assert_eq!(span(119_000), "119s");
        assert_eq!(span(120_000), "2m");
        assert_eq!(span(7_200_000), "2h");
        assert_eq!(span(172_800_000), "2d");
    }

    #[test]
    fn what_is_no_time_stays() {
        assert_eq!((ago("never"), when("never")), ("never".to_owned(), "never".to_owned()));
        assert_eq!(when("2026-01-02T03:04:05.678Z"), "2026-01-02 03:04:05Z");
    }
}

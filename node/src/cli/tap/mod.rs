//! `skein tap`.

mod page;

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    fmt::Write as _,
    pin::Pin,
    time::{Duration, Instant},
};

use certs::id::ServiceName;
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::sync::Semaphore;

use crate::{
    agent::admin::api,
    cli::{
        client::{self, Client, segment},
        context::Context,
        error::{Error, Result, usage},
        output::{Format, plain, remark},
        signing::Operator,
        value,
    },
    clock,
    telemetry::{Losses, MAX_RATE, Tapped, statuses},
};
use page::Page;
use serde::{Deserialize, de::IgnoredAny};

/// Nodes that one call looks at.
const NODES: usize = 64;
/// Of those that are connected to at a time.
const CONNECTING: usize = 16;
/// How often it is said that a node leaves requests out, while it does.
const REMINDER: Duration = Duration::from_secs(10);

/// Shows requests as they end, at all nodes that the operator reaches: both sides of a call tell of it. No bodies; headers that hold
/// secrets are redacted. Without an operator's key only the node of this machine tells, over its own socket.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  skein tap --status 5xx
  skein tap --service shop/cart --slower-than 250ms
  skein tap --path /orders --limit 20 -o json
  skein tap --page")]
pub struct Args {
    /// Only requests that this service sends or gets
    #[arg(long, value_name = "NS/NAME")]
    service: Option<ServiceName>,
    /// Only of this status: 503, or a class: 5xx
    #[arg(long, value_name = "STATUS")]
    status: Option<String>,
    /// Only what took at least so long
    #[arg(long, value_name = "DURATION", value_parser = value::duration)]
    slower_than: Option<Duration>,
    /// Only paths that begin so
    #[arg(long, value_name = "PREFIX")]
    path: Option<String>,
    /// Requests a second of each node at most
    #[arg(long, value_name = "COUNT", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_RATE)))]
    rate: u32,
    /// End after so many requests
    #[arg(long, value_name = "COUNT", conflicts_with = "page", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Show them in a browser, at this port of loopback [default: a free one], each with what explains it
    #[arg(long, value_name = "PORT", num_args = 0..=1, default_missing_value = "0")]
    page: Option<u16>,
    /// Only the asked node
    #[arg(long)]
    here: bool,
}

/// Runs the command.
pub(super) async fn run(args: Args, ctx: &Context) -> Result<()> {
    if let Some(status) = args.status.as_deref().filter(|status| statuses(status).is_none()) {
        return Err(usage(format!("`{status}` is no status"), "write it like 503, or 5xx for a class"));
    }
    let path = query(&args);
    let mut first = client::connect_here(ctx).await?;
    let status: api::Status = first.get("/v1/status").await?;
    let mut others = if args.here { Others::default() } else { Others::of(&mut first, &status, ctx).await? };
    // Once for all of them, before anything is shown: a passphrase may have to be typed.
    if !others.nodes.is_empty()
        && let Err(error) = Operator::load(ctx)
    {
        others.silent.push(format!("other nodes are not asked: {}", error.message));
        others.nodes.clear();
    }
    let page = match args.page {
        Some(port) => {
            let asked = others.nodes.iter().map(|node| (node.name.to_string(), Some(node.clone())));
            let nodes = asked.chain([(status.node.to_string(), None)]).collect();
            Some(Page::open(port, status.trust_domain.to_string(), nodes).await?)
        }
        None => None,
    };
    if let Some(page) = &page {
        match ctx.output.format {
            Format::Json => ctx.output.json_line(&serde_json::json!({ "url": page.url() }))?,
            Format::Table | Format::Yaml => ctx.output.text(&page.url())?,
        }
    }
    let seen = Seen::new(args.limit, page.as_ref());
    others.silent.iter().for_each(|why| seen.say(why));
    let served = async {
        match &page {
            Some(page) => page.serve(ctx).await,
            None => std::future::pending().await,
        }
    };
    let ended = tokio::select! {
        ended = all(first, &others.nodes, &path, ctx, &seen) => ended,
        never = served => match never {},
        // How one who looks ends it; what was lost is said nonetheless.
        _ = tokio::signal::ctrl_c() => Ok(()),
    };
    if let Some(losses) = seen.losses() {
        remark(&losses);
    }
    ended
}

/// Watches the node that was asked first, and the others as they are reached; ends when enough was seen, or nobody tells any more.
async fn all(mut first: Client, others: &[api::KnownNode], path: &str, ctx: &Context, seen: &Seen<'_>) -> Result<()> {
    let places = Semaphore::new(CONNECTING);
    let other = async |node: &api::KnownNode| {
        let connected = {
            let _place = places.acquire().await;
            client::connect_to(std::slice::from_ref(node), ctx).await
        };
        match connected {
            Ok(mut client) => watch(&mut client, path, ctx, seen).await,
            Err(error) => {
                seen.say(&format!("{} does not tell: {}", node.name, error.message));
                Ok(())
            }
        }
    };
    let mut watches: FuturesUnordered<Pin<Box<dyn Future<Output = Result<()>> + '_>>> = FuturesUnordered::new();
    watches.push(Box::pin(watch(&mut first, path, ctx, seen)));
    for node in others {
        watches.push(Box::pin(other(node)));
    }
    let mut last = Ok(());
    while let Some(ended) = watches.next().await {
        if seen.left.get() == 0 {
            return Ok(());
        }
        if let Err(error) = ended {
            seen.say(&error.message);
            last = Err(error);
        }
    }
    last
}

/// A line that a node tells.
#[derive(Debug)]
enum Said {
    Request(Box<Tapped>),
    Losses(Losses),
}

impl Said {
    /// A request has a method; what it lacks else is named, and no sign that it is something else.
    fn read(line: &[u8]) -> serde_json::Result<Self> {
        #[derive(Deserialize)]
        struct Glance {
            method: Option<IgnoredAny>,
        }
        let Glance { method } = serde_json::from_slice(line)?;
        if method.is_some() {
            serde_json::from_slice(line).map(Box::new).map(Self::Request)
        } else {
            serde_json::from_slice(line).map(Self::Losses)
        }
    }
}

/// What all watches of one call have in common.
struct Seen<'p> {
    /// Requests that are still wanted.
    left: Cell<u64>,
    /// How many requests each node left out so far, and when that was said last; of those alone that left some out.
    lost: RefCell<BTreeMap<String, (u64, Instant)>>,
    /// It was said of which namespaces requests are shown.
    limited: Cell<bool>,
    /// Where they are shown, if not on the terminal.
    page: Option<&'p Page>,
}

impl<'p> Seen<'p> {
    fn new(limit: Option<u64>, page: Option<&'p Page>) -> Self {
        let left = Cell::new(limit.unwrap_or(u64::MAX));
        Self { left, lost: RefCell::default(), limited: Cell::default(), page }
    }

    /// Tells why something is not seen.
    fn say(&self, why: &str) {
        match self.page {
            Some(page) => page.silent(why.to_owned()),
            None => remark(&format!("note: {why}")),
        }
    }

    /// Notes how many requests a node has left out; true if it is time to say so.
    fn lose(&self, node: &str, count: u64, now: Instant) -> bool {
        if count == 0 {
            return false;
        }
        let mut lost = self.lost.borrow_mut();
        let (known, said) = lost.entry(node.to_owned()).or_insert((0, now));
        let due = *known == 0 || count > *known && now.duration_since(*said) >= REMINDER;
        *known = count.max(*known);
        if due {
            *said = now;
        }
        due
    }

    /// What was lost, in one line.
    fn losses(&self) -> Option<String> {
        let lost = self.lost.borrow();
        let of: Vec<String> = lost.iter().map(|(node, (count, _))| format!("{count} at {node}")).collect();
        (!of.is_empty()).then(|| format!("note: requests were left out: {}", of.join(", ")))
    }
}

fn query(args: &Args) -> String {
    let mut path = format!("/v1/tap?losses=true&rate={}", args.rate);
    let service = args.service.as_ref().map(ToString::to_string);
    let more = [("service", &service), ("status", &args.status), ("path", &args.path)];
    for (name, value) in more.into_iter().filter_map(|(name, value)| Some((name, value.as_ref()?))) {
        // Writing to a string does not fail.
        let _ = write!(path, "&{name}={}", segment(value));
    }
    if let Some(time) = args.slower_than {
        let _ = write!(path, "&slower_ms={}", time.as_millis());
    }
    path
}

/// Who is asked beside the first node.
#[derive(Default)]
struct Others {
    nodes: Vec<api::KnownNode>,
    /// Why some tell nothing.
    silent: Vec<String>,
}

impl Others {
    /// Every other node that lives, with the operator's key: nodes tell one another nothing of requests.
    async fn of(first: &mut Client, status: &api::Status, ctx: &Context) -> Result<Self> {
        let mesh: api::Mesh = first.get("/v1/mesh").await?;
        let mut nodes: Vec<_> = mesh.nodes.into_iter().filter(|node| node.alive && node.name != status.node).collect();
        let mut silent = Vec::new();
        if nodes.is_empty() {
            return Ok(Self { nodes, silent });
        }
        if ctx.operator().and_then(|directory| directory.known()).is_err() {
            nodes.clear();
            silent.push(
                "only this node tells of its requests; with an operator's key (--operator DIR) all do".to_owned(),
            );
        }
        if nodes.len() > NODES {
            silent.push(format!("{NODES} of {} other nodes tell of their requests", nodes.len()));
            nodes.truncate(NODES);
        }
        Ok(Self { nodes, silent })
    }
}

async fn watch(client: &mut Client, path: &str, ctx: &Context, seen: &Seen<'_>) -> Result<()> {
    let (node, left) = (client.reached().to_owned(), &seen.left);
    let watched = client.watch(path, |line| {
        if left.get() == 0 {
            return Err(Error::new("failed", "enough"));
        }
        let said = Said::read(line).map_err(|error| {
            Error::new("failed", format!("the node answers what this version does not understand: {error}"))
        })?;
        let left_out = match &said {
            Said::Request(tapped) => tapped.left_out,
            Said::Losses(losses) => {
                if let Some(namespaces) = losses.namespaces.as_ref().filter(|_| !seen.limited.replace(true)) {
                    let names: Vec<&str> = namespaces.iter().map(String::as_str).collect();
                    seen.say(&format!(
                        "only what these namespaces send or get is shown, as your roles say: {}",
                        names.join(", ")
                    ));
                }
                losses.left_out
            }
        };
        if seen.page.is_none() && seen.lose(&node, left_out, clock::monotonic()) {
            remark(&format!("note: {node} has left out {left_out} requests: narrow them, or raise --rate"));
        }
        let tapped = match (said, seen.page) {
            (Said::Request(tapped), None) => tapped,
            (Said::Losses(_), None) => return Ok(()),
            (said, Some(page)) => {
                page.note(said);
                return Ok(());
            }
        };
        left.set(left.get() - 1);
        print(ctx, &tapped)?;
        if left.get() == 0 { Err(Error::new("failed", "enough")) } else { Ok(()) }
    });
    match watched.await {
        Err(_) if left.get() == 0 => Ok(()),
        result => result,
    }
}

fn print(ctx: &Context, tapped: &Tapped) -> Result<()> {
    match ctx.output.format {
        Format::Table => ctx.output.text(&text(tapped)),
        Format::Json => ctx.output.json_line(tapped),
        Format::Yaml => ctx.output.text(&format!("---\n{}", crate::cli::output::yaml(tapped)?)),
    }
}

/// A line for people; what requests say of themselves is nothing that a terminal may obey.
fn text(tapped: &Tapped) -> String {
    let time = tapped.observed_at.split('T').nth(1).unwrap_or_default().trim_end_matches('Z');
    let status = match tapped.grpc_status {
        Some(grpc) => format!("{} grpc {grpc}", tapped.status),
        None => tapped.status.to_string(),
    };
    let flags = if tapped.flags == "-" { String::new() } else { format!(" {}", tapped.flags) };
    let line = format!(
        "{time} {:<6} {} -> {}  {} {}{}  {status}{flags}  {:.1}ms",
        tapped.side,
        tapped.source,
        tapped.destination,
        tapped.method,
        tapped.authority,
        tapped.path,
        tapped.duration_ms
    );
    plain(&line).replace('\n', " ") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_said_at_once_then_now_and_then_and_all_together_at_the_end() {
        let seen = Seen::new(Some(1), None);
        let start = clock::monotonic();
        assert!(!seen.lose("a", 0, start) && seen.losses().is_none());
        let said = [("a", 1, 0), ("a", 2, 1), ("b", 5, 1), ("a", 9, 10), ("a", 9, 30), ("a", 10, 30), ("a", 12, 31)];
        assert_eq!(
            said.map(|(node, count, seconds)| seen.lose(node, count, start + Duration::from_secs(seconds))),
            [true, false, true, true, false, true, false]
        );
        assert_eq!(seen.losses().as_deref(), Some("note: requests were left out: 12 at a, 5 at b"));
    }

    #[test]
    fn a_line_is_a_request_or_what_was_left_out() {
        let request = serde_json::to_string(&crate::web::tap::testing::seen("/a", 200)).unwrap();
        let read = |line: &str| Said::read(line.as_bytes());
        assert!(matches!(read(&request).unwrap(), Said::Request(tapped) if tapped.path == "/a"));
        let losses = r#"{"observed_at":"2026-01-01T10:00:00.123Z","node":"web-1","left_out":7}"#;
        assert!(matches!(read(losses).unwrap(), Said::Losses(losses) if losses.left_out == 7));
        let error = read(&request.replace("\"status\":200", "\"status\":\"200\"")).unwrap_err().to_string();
        assert!(error.contains("expected u16"), "a request that cannot be read is no word of losses: {error}");
        let error = read(&request.replace("\"side\"", "\"seite\"")).unwrap_err().to_string();
        assert!(error.contains("missing field `side`"), "{error}");
    }

    #[test]
    fn what_is_wanted_is_asked_for() {
        let args = Args {
            service: Some(ServiceName::new("shop", "cart").unwrap()),
            status: Some("5xx".into()),
            slower_than: Some(Duration::from_millis(250)),
            path: Some("/a b".into()),
            rate: 10,
            limit: None,
            page: None,
            here: false,
        };
        assert_eq!(
            query(&args),
            "/v1/tap?losses=true&rate=10&service=shop%2Fcart&status=5xx&path=%2Fa%20b&slower_ms=250"
        );
    }
}

//! `skein tap --page`: the requests in a browser. This process serves the page at a port of loopback, under a path that only its own
//! words name: whoever else is on the machine does not know it.

use std::{
    cell::RefCell,
    collections::{BTreeMap, VecDeque},
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use percent_encoding::percent_decode_str;
use tokio::net::{TcpListener, TcpStream};

use super::Said;
use crate::{
    agent::admin::{
        api::{self, Explanation},
        guard, rfc3339,
    },
    cli::{
        client::{self, segment},
        context::Context,
        error::{Error, Result},
    },
    clock,
    telemetry::{Tapped, statuses},
    web::{
        guarded,
        tap::{self as draw, List, Place, Search},
    },
};

/// Requests that are kept; the oldest go.
const KEPT: usize = 2_000;
/// Requests that the list shows.
const SHOWN: usize = 200;
/// Connections of browsers at once; further ones wait.
const CONNECTIONS: usize = 32;
/// How long a request's head may take.
const HEAD_LIMIT: Duration = Duration::from_secs(10);
/// The side that says why a request went where it went.
const CLIENT: &str = "client";
/// What stands in for a value that is a secret.
const REDACTED: &str = "[redacted]";

/// The page and what it shows.
pub(super) struct Page {
    listener: TcpListener,
    address: SocketAddr,
    /// What all paths begin with.
    base: String,
    mesh: String,
    /// Nodes that tell, by name, and how they are asked; `None`: the one of this machine.
    nodes: BTreeMap<String, Option<api::KnownNode>>,
    seen: RefCell<Seen>,
}

#[derive(Default)]
struct Seen {
    /// Oldest first, each with its number.
    requests: VecDeque<(u64, Tapped)>,
    count: u64,
    left_out: BTreeMap<String, u64>,
    silent: Vec<String>,
}

impl Seen {
    fn lose(&mut self, node: &str, left_out: u64) {
        if left_out > 0 {
            self.left_out.insert(node.to_owned(), left_out);
        }
    }

    fn note(&mut self, tapped: Tapped) {
        self.lose(&tapped.node, tapped.left_out);
        if self.requests.len() >= KEPT {
            self.requests.pop_front();
        }
        self.count += 1;
        self.requests.push_back((self.count, tapped));
    }

    fn find(&self, number: u64) -> Option<&Tapped> {
        let at = self.requests.binary_search_by_key(&number, |(number, _)| *number).ok()?;
        self.requests.get(at).map(|(_, tapped)| tapped)
    }

    /// The same request as the other side saw it.
    fn other_side(&self, of: &Tapped) -> Option<(u64, &Tapped)> {
        let id = of.headers.get("x-request-id")?;
        let is_other = |tapped: &Tapped| tapped.side != of.side && tapped.headers.get("x-request-id") == Some(id);
        self.requests.iter().rev().find(|(_, tapped)| is_other(tapped)).map(|(number, tapped)| (*number, tapped))
    }
}

impl Page {
    /// Opens the port, a free one if it is 0.
    pub(super) async fn open(port: u16, mesh: String, nodes: BTreeMap<String, Option<api::KnownNode>>) -> Result<Self> {
        let wanted = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let failed = |error: std::io::Error| {
            Error::new("failed", format!("cannot serve the page at {wanted}: {error}"))
                .hint("name another port, or none: `skein tap --page`")
        };
        let listener = TcpListener::bind(wanted).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let mut secret = [0; 16];
        aws_lc_rs::rand::fill(&mut secret).map_err(|_| Error::new("failed", "this machine gives no random numbers"))?;
        let base = format!("/{:032x}", u128::from_ne_bytes(secret));
        Ok(Self { listener, address, base, mesh, nodes, seen: RefCell::default() })
    }

    /// Where a browser finds it.
    pub(super) fn url(&self) -> String {
        format!("http://{}{}/", self.address, self.base)
    }

    /// A request was seen, or left out.
    pub(super) fn note(&self, said: Said) {
        let mut seen = self.seen.borrow_mut();
        match said {
            Said::Request(tapped) => seen.note(*tapped),
            Said::Losses(losses) => seen.lose(&losses.node, losses.left_out),
        }
    }

    /// A node tells nothing, or no more.
    pub(super) fn silent(&self, why: String) {
        self.seen.borrow_mut().silent.push(why);
    }

    /// Serves browsers until it is dropped.
    pub(super) async fn serve(&self, ctx: &Context) -> Infallible {
        let mut connections = FuturesUnordered::new();
        loop {
            tokio::select! {
                accepted = self.listener.accept(), if connections.len() < CONNECTIONS => match accepted {
                    Ok((stream, _)) => connections.push(self.connection(stream, ctx)),
                    // For want of descriptors: later there may be some.
                    Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
                },
                Some(()) = connections.next(), if !connections.is_empty() => {}
            }
        }
    }

    async fn connection(&self, stream: TcpStream, ctx: &Context) {
        let answer = service_fn(|request: Request<Incoming>| async move {
            Ok::<_, Infallible>(guarded(self.answer(&request, ctx).await))
        });
        let mut server = http1::Builder::new();
        let connection = server
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_LIMIT)
            .serve_connection(TokioIo::new(stream), answer);
        // How a browser's connection ends tells nothing.
        drop(connection.await);
    }

    async fn answer(&self, request: &Request<Incoming>, ctx: &Context) -> Response<Full<Bytes>> {
        let allowed = guard::method(request.method()).and_then(|()| guard::headers(request.headers()));
        if let Err(refused) = allowed {
            return text(StatusCode::FORBIDDEN, "text/plain; charset=utf-8", refused.message);
        }
        let Some(path) = within(&self.base, request.uri().path()) else {
            // Who does not know the way is told nothing of it.
            return text(StatusCode::NOT_FOUND, "text/plain; charset=utf-8", "nothing is here");
        };
        const HTML: &str = "text/html; charset=utf-8";
        match path {
            "/" => text(StatusCode::OK, HTML, self.list(&search(request.uri().query().unwrap_or_default()))),
            "/assets/skein.css" => text(StatusCode::OK, "text/css; charset=utf-8", crate::web::CSS),
            "/assets/skein.js" => text(StatusCode::OK, "text/javascript; charset=utf-8", crate::web::SCRIPT),
            "/assets/icon.svg" => text(StatusCode::OK, "image/svg+xml", crate::web::ICON),
            _ => match path.strip_prefix("/requests/").and_then(|number| self.one(number.parse().ok()?)) {
                Some(tapped) => {
                    let explained = self.explain(&tapped, ctx).await;
                    let seen = self.seen.borrow();
                    let other = seen.other_side(&tapped);
                    text(StatusCode::OK, HTML, draw::one(&self.place(&now()), &tapped, other, explained.as_ref()))
                }
                None => {
                    let why =
                        format!("This is no page, or a request that is not kept any more: the latest {KEPT} are.");
                    text(StatusCode::NOT_FOUND, HTML, draw::missing(&self.place(&now()), &why))
                }
            },
        }
    }

    fn place<'t>(&'t self, now: &'t str) -> Place<'t> {
        Place { base: &self.base, mesh: &self.mesh, now }
    }

    fn one(&self, number: u64) -> Option<Tapped> {
        self.seen.borrow().find(number).cloned()
    }

    fn list(&self, search: &Search) -> String {
        let seen = self.seen.borrow();
        let fitting: Vec<_> = seen
            .requests
            .iter()
            .rev()
            .filter(|(_, tapped)| fits(search, tapped))
            .map(|(number, tapped)| (*number, tapped))
            .collect();
        let counts = (fitting.len(), seen.requests.len());
        let list = List {
            search,
            rows: fitting.into_iter().take(SHOWN).collect(),
            counts,
            left_out: seen.left_out.iter().map(|(node, count)| (node.clone(), *count)).collect(),
            silent: seen.silent.clone(),
        };
        draw::list(&self.place(&now()), &list)
    }

    /// What the calling node would do with the same request now; `None` if only the other side was seen.
    async fn explain(&self, tapped: &Tapped, ctx: &Context) -> Option<Result<Explanation>> {
        let (query, node) = {
            let seen = self.seen.borrow();
            let caller = if tapped.side == CLIENT { tapped } else { seen.other_side(tapped)?.1 };
            (question(caller), self.nodes.get(&caller.node)?)
        };
        let asked = async {
            let mut client = match node {
                None => client::connect_here(ctx).await?,
                Some(node) => client::connect_to(std::slice::from_ref(node), ctx).await?,
            };
            client.get(&query).await
        };
        Some(asked.await)
    }
}

/// The rest of a path that begins with the page's own; how much of it is right is not told by how long the answer takes.
fn within<'p>(base: &str, path: &'p str) -> Option<&'p str> {
    let (begin, rest) = path.split_at_checked(base.len())?;
    let same = aws_lc_rs::constant_time::verify_slices_are_equal(begin.as_bytes(), base.as_bytes()).is_ok();
    (same && rest.starts_with('/')).then_some(rest)
}

/// The request as `explain` asks about it.
fn question(tapped: &Tapped) -> String {
    let url = format!("http://{}{}", tapped.authority, tapped.path);
    let mut query = format!("/v1/explain?url={}&method={}", segment(&url), segment(&tapped.method));
    if let Some(account) = &tapped.account {
        query.push_str(&format!("&from={}", segment(account)));
    }
    for (name, value) in tapped.headers.iter().filter(|(_, value)| !value.contains(REDACTED)) {
        query.push_str(&format!("&header={}", segment(&format!("{name}:{value}"))));
    }
    query
}

fn search(query: &str) -> Search {
    let mut search = Search::default();
    for pair in query.split('&') {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = percent_decode_str(&value.replace('+', " ")).decode_utf8_lossy().trim().to_owned();
        match name {
            "q" => search.text = value,
            "status" => search.status = value,
            _ => {}
        }
    }
    search
}

/// A status that is none fits nothing, which the reader sees beside what was written.
fn fits(search: &Search, tapped: &Tapped) -> bool {
    let status = search.status.is_empty()
        || statuses(&search.status).is_some_and(|(least, most)| (least..=most).contains(&tapped.status));
    let target = format!("{}{}", tapped.authority, tapped.path);
    let named = [&tapped.source, &tapped.destination, &tapped.node, &target];
    status && (search.text.is_empty() || named.iter().any(|name| name.contains(&search.text)))
}

fn now() -> String {
    rfc3339(clock::wall())
}

fn text(status: StatusCode, kind: &'static str, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::web::tap::testing::seen;

    #[test]
    fn what_is_looked_for_is_found_and_the_oldest_go() {
        let mut all = Seen::default();
        for number in 0..=u16::try_from(KEPT).unwrap() {
            all.note(seen(&format!("/{number}"), 200 + number % 2 * 303));
        }
        assert_eq!((all.requests.len(), all.find(1).is_none()), (KEPT, true));
        assert_eq!(all.find(2).map(|tapped| tapped.path.as_str()), Some("/1"));
        let of = |query: &str| {
            let search = search(query);
            all.requests.iter().filter(|(_, tapped)| fits(&search, tapped)).count()
        };
        assert_eq!((of(""), of("status=5xx"), of("status=503&q=cart%2F1999")), (KEPT, KEPT / 2, 1));
        assert_eq!((of("q=shop%2Fweb"), of("status=abc"), of("q=nobody")), (KEPT, 0, 0));
    }

    #[test]
    fn the_other_side_is_known_by_the_id_of_the_request() {
        let mut all = Seen::default();
        let client = seen("/a", 200);
        all.note(client.clone());
        assert!(all.other_side(&client).is_none());
        let server = Tapped { side: "server".into(), node: "cart-1".into(), ..client.clone() };
        all.note(server.clone());
        assert_eq!(all.other_side(&client).map(|(number, _)| number), Some(2));
        assert_eq!(all.other_side(&server).map(|(number, _)| number), Some(1));
    }

    #[test]
    fn the_question_holds_what_routes_look_at_but_no_placeholder() {
        let mut tapped = seen("/a?b=c", 200);
        tapped.account = Some("shop/web".into());
        tapped.headers.insert("authorization".into(), REDACTED.into());
        let query = question(&tapped);
        assert!(
            query.starts_with("/v1/explain?url=http%3A%2F%2Fcart%2Fa%3Fb%3Dc&method=GET&from=shop%2Fweb&"),
            "{query}"
        );
        assert!(query.contains("&header=end%2Duser%3Ajason") && !query.contains("authorization"), "{query}");
    }

    #[test]
    fn only_the_own_path_leads_in() {
        assert_eq!(within("/abc", "/abc/"), Some("/"));
        assert_eq!(within("/abc", "/abc/requests/1"), Some("/requests/1"));
        for other in ["/", "/abc", "/abd/", "/abcd/", "/ab", "", "/\u{e4}bc/"] {
            assert_eq!(within("/abc", other), None, "{other}");
        }
    }
}

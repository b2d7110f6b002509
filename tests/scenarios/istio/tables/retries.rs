//! What is retried: how often an application is asked that ends every request in the same way.

use std::net::{Ipv4Addr, SocketAddr};

use harness::{backend::Backend, http};
use serde_json::Value;
use socket2::{Domain, Socket, Type};

use super::{Mesh, Seen, Tables, text};

/// A host outside with two endpoints, of which one takes no connection.
pub(super) struct HalfClosed {
    open: Backend,
    closed: SocketAddr,
    /// Bound, so that nobody else listens there.
    _held: Socket,
}

impl HalfClosed {
    pub(super) fn start() -> Self {
        let held = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        held.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("a free port");
        let closed = held.local_addr().ok().and_then(|address| address.as_socket()).expect("an address");
        let open = Backend::start(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), "open").expect("a free port");
        Self { open, closed, _held: held }
    }
}

/// Retries, so that an application that fails every time is asked once more than this.
const RETRIES: usize = 2;

/// By chance each of so many requests meets the endpoint that is open at once: no more often than in a million runs.
const ENOUGH: usize = 20;

/// The row of the route without retries.
const NEVER: &str = "never";

/// How requests of a row end.
#[derive(Debug, PartialEq)]
enum Ending {
    /// As this path says to the application behind `default/b`.
    Path(String),
    /// After its head has come to the client.
    Begun,
    /// Before `perTryTimeout`, or before the route's timeout, there is no answer.
    PerTry,
    Route,
    /// HTTP/2's INTERNAL_ERROR.
    Internal,
    /// At an endpoint that takes no connection.
    Unconnected,
}

fn ending(row: &Value) -> Ending {
    let path = |path: &str| Ending::Path(path.to_owned());
    match text(row, "outcome") {
        "grpc-status 13 in response headers" => path("grpc/13"),
        "connect failure" => Ending::Unconnected,
        "per-try timeout" => Ending::PerTry,
        "route timeout" => Ending::Route,
        "response headers already forwarded to the client" => Ending::Begun,
        "HTTP/2 INTERNAL_ERROR reset" => Ending::Internal,
        reset if reset.contains("reset") => path("reset"),
        status => match status.strip_prefix("status ").and_then(|rest| rest.split(' ').next()) {
            Some(status) => Ending::Path(format!("status/{status}")),
            None => panic!("a new outcome: {row}"),
        },
    }
}

/// The routes of all rows, told apart by a header.
pub(super) fn documents(tables: &Tables, unreachable: &HalfClosed) -> String {
    let route = |name: &str, ending: &Ending, on: &str| {
        let host = match ending {
            Ending::Internal => "h2",
            Ending::Unconnected => "half-closed.example",
            Ending::Path(_) | Ending::Begun | Ending::PerTry | Ending::Route => "b",
        };
        let time = if *ending == Ending::Route { "timeout: 300ms, " } else { "" };
        let try_time = if *ending == Ending::PerTry { ", perTryTimeout: 300ms" } else { "" };
        let retries = match on {
            "" => "attempts: 0".to_owned(),
            on => format!("attempts: {RETRIES}, retryOn: '{on}'{try_time}"),
        };
        format!(
            "  - {{match: [{{headers: {{x-row: {{exact: '{name}'}}}}}}], {time}retries: {{{retries}}}, route: [{{destination: {{host: {host}}}}}]}}\n"
        )
    };
    let rows = tables.rows("retry-on").iter().enumerate().map(|(number, row)| {
        // Whatever it says: all that could be said of an answer that broke off.
        let on = match text(row, "retry_on") {
            "any" => "5xx,gateway-error,reset,connect-failure,refused-stream",
            on => on,
        };
        route(&number.to_string(), &ending(row), on)
    });
    let routes: String = rows.chain([route(NEVER, &Ending::Unconnected, "")]).collect();
    let (open, closed) = (unreachable.open.address.port(), unreachable.closed.port());
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: half-closed, namespace: default}}\nspec: {{hosts: [half-closed.example], location: MESH_EXTERNAL, resolution: STATIC, ports: [{{number: 80, name: http, protocol: HTTP}}], endpoints: [{{address: 127.0.0.1, ports: {{http: {open}}}}}, {{address: 127.0.0.1, ports: {{http: {closed}}}}}]}}\n---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: retries, namespace: default}}\nspec:\n  hosts: [b]\n  http:\n{routes}---\n"
    )
}

/// Asks once for each row, or often where an endpoint is chosen.
pub(super) fn check(mesh: &Mesh, tables: &Tables, seen: &mut Seen) {
    let unconnected = |name: &str| {
        let asked = (0..ENOUGH).map(|_| ask(mesh, name, "/").expect("an answer").status);
        asked.filter(|status| *status != 200).count()
    };
    assert!(unconnected(NEVER) > 0, "without retries an endpoint that takes no connection is met");
    for (number, row) in tables.rows("retry-on").iter().enumerate() {
        let (name, due) = (number.to_string(), if row["retry"] == true { RETRIES + 1 } else { 1 });
        let (found, is_right) = match ending(row) {
            Ending::Unconnected => {
                let failed = unconnected(&name);
                (format!("{failed} of {ENOUGH} failed"), (failed == 0) == (row["retry"] == true))
            }
            Ending::Internal => {
                let before = mesh.resetting.streams();
                drop(ask(mesh, &name, "/"));
                let streams = mesh.resetting.streams() - before;
                (format!("{streams} streams, {due} due"), streams == due)
            }
            ending @ (Ending::Path(_) | Ending::Begun | Ending::PerTry | Ending::Route) => {
                let is_begun = matches!(ending, Ending::Begun);
                let late = if is_begun { "broken" } else { "late" };
                let word = if let Ending::Path(path) = &ending { path } else { late };
                let path = format!("/{word}/{number}");
                let answer = if is_begun {
                    break_off(mesh, &name, &path)
                } else {
                    ask(mesh, &name, &path).map(|answer| answer.status.to_string())
                };
                let arrived = mesh.obedient.arrived(&path);
                (format!("{path} arrived {arrived} times, {due} due: {answer:?}"), arrived == due)
            }
        };
        seen.row("retry-on", row, is_right, &found);
    }
}

/// Has the head of an answer before its body breaks off, and gives what comes after.
fn break_off(mesh: &Mesh, name: &str, path: &str) -> Result<String, String> {
    let mut connection = http::Connection::open(mesh.outbound()).map_err(|error| error.to_string())?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: b.default\r\nx-row: {name}\r\n\r\n");
    connection.send(request.as_bytes()).map_err(|error| error.to_string())?;
    let begun = connection.take("HTTP/1.1 200".len())?;
    mesh.obedient.break_off();
    let whole = [begun, connection.rest()].concat();
    Ok(String::from_utf8_lossy(&whole).into_owned())
}

fn ask(mesh: &Mesh, name: &str, path: &str) -> Result<http::Answer, String> {
    let mut headers = vec![("x-row", name)];
    if path.starts_with("/grpc/") {
        headers.extend([("content-type", "application/grpc"), ("te", "trailers")]);
    }
    http::get_with(mesh.outbound(), "b.default", path, &headers)
}

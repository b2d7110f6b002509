//! What the command line gives scripts and people: stable JSON of every listing, an example in every `--help`, the right command for a
//! wrong one.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
};

use harness::{
    PATIENCE,
    bytes::{Echo, say},
    cluster::{Cluster, Plan, Service},
    contract::{Contract, LISTINGS, ROWS_ELSEWHERE},
    eventually, http,
    process::Skein,
};
use serde_json::Value;

use crate::Figure;

const POLICY: &str = "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews, namespace: shop}
spec: {hosts: [reviews], http: [{route: [{destination: {host: reviews}}]}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews, namespace: shop}
spec:
  host: reviews
  trafficPolicy:
    loadBalancer: {simple: ROUND_ROBIN}
    outlierDetection: {consecutive5xxErrors: 1, baseEjectionTime: 600s, maxEjectionPercent: 100}
---
apiVersion: skein.dev/v1
kind: RateLimit
metadata: {name: calm, namespace: shop}
spec: {selector: {matchLabels: {app: reviews}}, rules: [{limit: {requests: 100000, interval: 1s}}]}
";

pub(super) fn figures(skein: &Skein) -> Vec<Figure> {
    let commands = Commands::of(skein);
    let (examples, helps) = commands.with_examples();
    let (guessed, wrong) = commands.guessed();
    let Listings { asked, complaints, empty } = listings(skein);
    let of = |id: &'static str, (missed, all): (Vec<String>, usize), how: &str| {
        told(id, &missed);
        Figure::at_most(id, missed.len() as f64, "commands", 0.0, format!("of {all} {how}"))
    };
    let not_compared: Vec<String> =
        empty.into_iter().filter(|list| !ROWS_ELSEWHERE.iter().any(|(known, _)| known == list)).collect();
    told("lists_not_compared", &not_compared);
    vec![
        of(
            "listings_not_as_written",
            (complaints, asked),
            "listings of a live mesh of three: JSON with a field that node/docs/json.md does not say, or without one that it says",
        ),
        Figure::at_most(
            "lists_not_compared",
            not_compared.len() as f64,
            "lists",
            0.0,
            format!(
                "lists of objects in these listings that had no row; {} of them have a scenario of their own",
                ROWS_ELSEWHERE.len()
            ),
        ),
        of("help_without_example", (examples, helps), "commands whose --help shows no example"),
        of(
            "wrong_without_the_right",
            (guessed, wrong),
            "commands with their last letter twice, whose error does not name the right one",
        ),
    ]
}

#[expect(clippy::print_stderr, reason = "what failed is worth reading")]
fn told(id: &str, missed: &[String]) {
    if !missed.is_empty() {
        eprintln!("{id}: {missed:#?}");
    }
}

/// What came of asking for all of them.
struct Listings {
    asked: usize,
    complaints: Vec<String>,
    /// Lists of objects that had no row in any of them.
    empty: Vec<String>,
}

/// A caller `web` of HTTP and of bytes, and two versions of `shop/reviews`, of which one fails and is ejected.
fn mesh(skein: &Skein, echo: &Echo) -> Cluster {
    let bytes = Service {
        ports: vec![9000],
        protocol: "tcp".to_owned(),
        target: Some(echo.address),
        ..Service::version("shop/echo", "v1")
    };
    let upstream = "[[upstream]]\nlisten = \"127.0.0.1:0\"\nservice = \"shop/echo\"\nport = 9000\nas = \"shop/web\"\n";
    let plans = [
        ("web", Plan { extra: upstream.to_owned(), ..Plan::with([Service::client("shop/web")]) }),
        ("v1", Plan::with([Service::version("shop/reviews", "v1"), bytes])),
        ("v2", Plan::with([Service::version("shop/reviews", "v2")])),
    ];
    let cluster = Cluster::start(skein.clone(), &plans);
    cluster.wait_members(PATIENCE);
    cluster.wait_endpoints("shop/reviews", 2);
    cluster.wait_endpoints("shop/echo", 1);
    cluster.push("web", POLICY, &["--wait", "all"]).expect_code(0);
    cluster.node("v2").backends[0].answer_with(500);
    eventually("one is ejected, and all is told of", || {
        http::get(cluster.node("web").outbound(), "reviews.shop:9080", "/")?;
        say(cluster.node("web").upstream("shop/echo", 9000), "hello")?;
        let (top, out) = (cluster.json("web", &["top"]), cluster.json("web", &["outliers"]));
        let has = |list: &Value| list.as_array().is_some_and(|rows| !rows.is_empty());
        if has(&top["edges"]) && has(&top["connections"]) && has(&out) { Ok(()) } else { Err(format!("{top} {out}")) }
    });
    cluster
}

fn listings(skein: &Skein) -> Listings {
    let echo = Echo::start(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), "echo").expect("a free port");
    let cluster = mesh(skein, &echo);
    let contract = Contract::read();
    let (mut complaints, mut lists, mut asked) = (Vec::new(), BTreeMap::<String, bool>::new(), 0);
    // The node of a service that is called has limits and services of its own.
    let at = |node: &'static str, lines: &'static [&'static str]| lines.iter().map(move |line| (node, *line));
    for (node, line) in at("web", LISTINGS).chain(at("v1", &["limits", "service list"])) {
        let value = cluster.json(node, &line.split(' ').collect::<Vec<_>>());
        let missed = contract.complaints(line, &value);
        if !missed.is_empty() {
            complaints.push(missed.join("; "));
        }
        for (list, has_row) in contract.lists(line, &value) {
            *lists.entry(list).or_default() |= has_row;
        }
        asked += 1;
    }
    let empty = lists.into_iter().filter(|(_, has_row)| !has_row).map(|(list, _)| list).collect();
    Listings { asked, complaints, empty }
}

/// All commands, as the program itself lists them.
struct Commands<'s> {
    skein: &'s Skein,
    /// Those that do something, with the words before them.
    all: Vec<String>,
}

impl<'s> Commands<'s> {
    fn of(skein: &'s Skein) -> Self {
        let reference = output(skein, "man --markdown");
        let named: Vec<&str> = reference.lines().filter_map(|line| line.strip_prefix("### skein ")).collect();
        let groups = |name: &&str| named.iter().any(|other| other.starts_with(&format!("{name} ")));
        let all: Vec<String> = named.iter().filter(|name| !groups(name)).map(|name| (*name).to_owned()).collect();
        assert!(all.len() > 50, "the reference names {} commands", all.len());
        Self { skein, all }
    }

    fn with_examples(&self) -> (Vec<String>, usize) {
        let lacks = |name: &&String| !output(self.skein, &format!("{name} --help")).contains("Example");
        (self.all.iter().filter(lacks).cloned().collect(), self.all.len())
    }

    /// Each with its last letter typed twice.
    fn guessed(&self) -> (Vec<String>, usize) {
        let lacks = |name: &&String| {
            let (before, word) = name.rsplit_once(' ').unwrap_or(("", name));
            let wrong = format!("{word}{}", &word[word.len() - 1..]);
            !output(self.skein, format!("{before} {wrong}").trim()).contains(&format!("'{word}'"))
        };
        (self.all.iter().filter(lacks).cloned().collect(), self.all.len())
    }
}

/// What a command says, on both streams.
fn output(skein: &Skein, line: &str) -> String {
    let output = skein.command().args(line.split(' ')).output().expect("skein can be started");
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

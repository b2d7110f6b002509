//! What the command line gives scripts and people: stable JSON of every listing, an example in every `--help`, the right command for a
//! wrong one.

use harness::{
    PATIENCE,
    cluster::{Cluster, Plan, Service},
    contract::{Contract, LISTINGS},
    http,
    process::Skein,
};

use crate::Figure;

const ROUTES: &str = "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews, namespace: shop}
spec: {hosts: [reviews], http: [{route: [{destination: {host: reviews}}]}]}
";

pub(super) fn figures(skein: &Skein) -> Vec<Figure> {
    let commands = Commands::of(skein);
    let (examples, helps) = commands.with_examples();
    let (guessed, wrong) = commands.guessed();
    let (stable, listings) = listings(skein);
    let of = |id: &'static str, (missed, all): (Vec<String>, usize), how: &str| {
        told(id, &missed);
        Figure::at_most(id, missed.len() as f64, "commands", 0.0, format!("of {all} {how}"))
    };
    vec![
        of(
            "listings_not_as_written",
            (stable, listings),
            "listings of a live mesh of three: JSON with a field that node/docs/json.md does not say, or without one that it says",
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

/// Listings whose answers are not as they are written, and how many were asked for.
fn listings(skein: &Skein) -> (Vec<String>, usize) {
    let plans = [
        ("web", Plan::with([Service::client("shop/web")])),
        ("v1", Plan::with([Service::version("shop/reviews", "v1")])),
        ("v2", Plan::with([Service::version("shop/reviews", "v2")])),
    ];
    let cluster = Cluster::start(skein.clone(), &plans);
    cluster.wait_members(PATIENCE);
    cluster.wait_endpoints("shop/reviews", 2);
    cluster.push("web", ROUTES, &["--wait", "all"]).expect_code(0);
    for _ in 0..10 {
        http::get(cluster.node("web").outbound(), "reviews.shop:9080", "/").expect("an answer");
    }
    let contract = Contract::read();
    let missed = LISTINGS.iter().filter_map(|line| {
        let words: Vec<&str> = line.split(' ').collect();
        let complaints = contract.complaints(line, &cluster.json("web", &words));
        (!complaints.is_empty()).then(|| complaints.join("; "))
    });
    (missed.collect(), LISTINGS.len())
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
